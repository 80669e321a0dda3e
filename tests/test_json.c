/* Reading and writing JSON: exact integers, places of errors, escapes, formats, and memory that
 * cannot be allocated. test_json_config.c has the typed fields. */
#include "io/json.h"
#include "io/json_write.h"

#include <criterion/criterion.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Every allocation of the library is an aligned_alloc. This one takes the place of libc's. */
static long allocations_left = -1; /* until one fails; -1: none does */
static bool all_fail_then;

void *aligned_alloc(size_t alignment, size_t size) {
    void *memory = NULL;
    if (allocations_left == 0) {
        allocations_left = all_fail_then ? 0 : -1;
        return NULL;
    }
    if (allocations_left > 0)
        allocations_left--;
    return posix_memalign(&memory, alignment, size) == 0 ? memory : NULL;
}

static const fb_json *parse(const char *text) {
    const fb_json *root = NULL;
    cr_assert_eq(fb_json_parse_value(text, strlen(text), "x.json", &root), FB_OK, "%s",
                 fb_error_message());
    return root;
}

/* --- reading ---------------------------------------------------------------------------------- */

Test(json_read, integers_are_exact) {
    const fb_json *o = parse("[0, -0, 18446744073709551615, 9223372036854775807, "
                             "9223372036854775808, -9223372036854775808, -9223372036854775809, "
                             "18446744073709551616, 1.5, 9007199254740993.0, 1021.0, 1e3, -4.0]");
    size_t n = 1;
    int64_t i = 1;
    double x = 0.0;
    cr_expect_eq(fb_json_size(fb_json_array_get(o, 0), "c", "k", 0, 9, &n), FB_OK);
    cr_expect_eq(n, 0u);
    cr_expect_eq(fb_json_size(fb_json_array_get(o, 1), "c", "k", 0, 9, &n), FB_OK);
    cr_expect_eq(fb_json_size(fb_json_array_get(o, 2), "c", "k", 0, SIZE_MAX, &n), FB_OK);
    cr_expect_eq(n, UINT64_MAX);
    cr_expect(fb_json_is_int64(fb_json_array_get(o, 3), &i) && i == INT64_MAX);
    cr_expect_not(fb_json_is_int64(fb_json_array_get(o, 4), &i));
    cr_expect(fb_json_is_int64(fb_json_array_get(o, 5), &i) && i == INT64_MIN);
    cr_expect_eq(fb_json_int64(fb_json_array_get(o, 4), "c", "k", INT64_MIN, INT64_MAX, &i),
                 FB_ERROR_FORMAT);
    cr_expect(strstr(fb_error_message(), "c: k is 9223372036854775808, not in ["), "%s",
              fb_error_message());
    for (size_t k = 6; k < 10; k++) {
        cr_expect_not(fb_json_is_int64(fb_json_array_get(o, k), &i));
        cr_expect_eq(fb_json_double(fb_json_array_get(o, k), "c", "k", &x), FB_OK);
    }
    cr_expect_eq(fb_json_size(fb_json_array_get(o, 10), "c", "k", 0, 9999, &n), FB_OK);
    cr_expect_eq(n, 1021u);
    cr_expect(fb_json_is_int64(fb_json_array_get(o, 11), &i) && i == 1000);
    cr_expect_eq(fb_json_int64(fb_json_array_get(o, 12), "c", "k", -9, 9, &i), FB_OK);
    cr_expect_eq(i, -4);
    cr_expect_eq(fb_json_size(fb_json_array_get(o, 13), "c", "k", 0, 9, &n), FB_ERROR_FORMAT);
    cr_expect_str_eq(fb_error_message(), "c: k is missing");
    fb_json_free(o);
}

Test(json_read, errors_name_line_and_column) {
    static const struct {
        const char *text, *place;
    } cases[] = {
        {"{\n  \"a\": 1,\n  \"a\": 2}", "x.json: not JSON: line 3, column "},
        {"[1,\n2,\n\fx]", "x.json: not JSON: line 3, column 1: "},
        {"[1, NaN, NAN]", "x.json: not JSON: line 1, column 10: "},
        {"[1,\n\"\\ud800\"]", "x.json: not JSON: line 2, column "},
        {"[\"\\ud800\\u0041\"]", "half of a surrogate pair"},
        {"[\"a\\udc00\"]", "half of a surrogate pair"},
        {"{\"\\u0000\": 1}", "NUL"},
        {"[\"\xed\xa0\x80\"]", "UTF-8"},
        {"[\"\xc0\xaf\"]", "UTF-8"},
        {"[1", "x.json: not JSON: line 1, column 3: "},
        {"{\"a\": 1} \"", "x.json: not JSON: line 1, column 10: a string does not end"},
        {"{}\n\"abc\\\"", "x.json: not JSON: line 2, column 1: a string does not end"},
        {"[1] \v", "x.json: not JSON: line 1, column 5: "},
        {"[1]\n]", "x.json: not JSON: line 2, column "},
        {"[\"a\tb\"]", "x.json: not JSON: line 1, column "},
        {"[-Infinit]", "x.json: not JSON: line 1, column "},
        {"[1NaN]", "x.json: not JSON: line 1, column "},
        {"[tNaN]", "x.json: not JSON: line 1, column "},
        {"[nulNaN]", "x.json: not JSON: line 1, column "},
        {"[/**/1]", "x.json: not JSON: line 1, column "},
        {"[1,]", "x.json: not JSON: line 1, column "},
        {"[.5]", "x.json: not JSON: line 1, column "},
        {"[\"\\x\"]", "x.json: not JSON: line 1, column "},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const fb_json *root = NULL;
        cr_expect_eq(fb_json_parse_value(cases[i].text, strlen(cases[i].text), "x.json", &root),
                     FB_ERROR_FORMAT, "%s was accepted", cases[i].text);
        cr_expect(strstr(fb_error_message(), cases[i].place), "%s: %s", cases[i].text,
                  fb_error_message());
        cr_expect_null(root);
    }
}

Test(json_read, strings_are_decoded) {
    const fb_json *o = parse("[\"\", \"\\\"\\\\\\/\\b\\f\\n\\r\\t\", \"\\u00e9\\ud83d\\ude00\\uD83D"
                             "\\uDE00\", \"\\\\ud800\", \"\xf0\x9f\x98\x80\"]");
    cr_expect_str_eq(fb_json_string(fb_json_array_get(o, 0)), "");
    cr_expect_str_eq(fb_json_string(fb_json_array_get(o, 1)), "\"\\/\b\f\n\r\t");
    cr_expect_str_eq(fb_json_string(fb_json_array_get(o, 2)),
                     "\xc3\xa9\xf0\x9f\x98\x80\xf0\x9f\x98\x80");
    cr_expect_str_eq(fb_json_string(fb_json_array_get(o, 3)), "\\ud800");
    cr_expect_str_eq(fb_json_string(fb_json_array_get(o, 4)), "\xf0\x9f\x98\x80");
    fb_json_free(o);
}

Test(json_read, large_objects_find_their_keys) {
    enum { COUNT = 5000 };
    fb_buffer text = {0};
    fb_json_writer w = fb_json_writer_to(&text, FB_JSON_COMPACT);
    char key[16];
    fb_json_open_object(&w, NULL);
    for (size_t i = 0; i < COUNT; i++) {
        snprintf(key, sizeof key, "k%zu", i * 7919 % COUNT);
        fb_json_put_size(&w, key, i);
    }
    fb_json_close_object(&w);
    cr_assert_eq(fb_json_finish(&w), FB_OK);
    cr_assert_eq(fb_buffer_terminate(&text), FB_OK);
    const fb_json *o = parse((const char *)text.data);
    cr_assert_eq(fb_json_object_size(o), (size_t)COUNT);
    for (size_t i = 0; i < COUNT; i++) {
        size_t n = 0;
        snprintf(key, sizeof key, "k%zu", i * 7919 % COUNT);
        cr_assert_str_eq(fb_json_object_key(o, i), key, "the order is the text's");
        cr_assert_eq(fb_json_get_size(o, "c", key, 0, COUNT, &n), FB_OK);
        cr_assert_eq(n, i);
    }
    cr_expect_null(fb_json_object_get(o, "k"));
    cr_expect_null(fb_json_object_get(o, ""));
    fb_json_free(o);
    text.size--;
    cr_assert_eq(fb_buffer_append_text(&text, ",\"k17\":0}"), FB_OK);
    o = NULL;
    cr_expect_eq(fb_json_parse((const char *)text.data, text.size, "x", &o), FB_ERROR_FORMAT);
    cr_expect(strstr(fb_error_message(), "duplicate key, 'k17'"), "%s", fb_error_message());
    fb_buffer_free(&text);
}

/* --- writing ---------------------------------------------------------------------------------- */

static void put_everything(fb_json_writer *w) {
    fb_json_open_object(w, NULL);
    fb_json_put_null(w, "null");
    fb_json_put_bool(w, "b", true);
    fb_json_put_uint64(w, "u", UINT64_MAX);
    fb_json_put_int64(w, "i", INT64_MIN);
    fb_json_put_string(w, "\"\n", "a\\\x01\x7f\xc3\xa9/");
    fb_json_put_text(w, "t", "a\xff");
    fb_json_open_array(w, "x");
    static const double numbers[] = {0, -0.0, 1, 0.1, 1e22, 1e-7, 1e300, NAN, INFINITY, 123456.5};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        fb_json_put_double(w, NULL, numbers[i]);
    fb_json_close_array(w);
    fb_json_open_array(w, "none");
    fb_json_close_array(w);
    fb_json_open_object(w, "no member");
    fb_json_close_object(w);
    fb_json_close_object(w);
}

static void expect_text(fb_json_writer *w, const char *wanted) {
    cr_assert_eq(fb_json_finish(w), FB_OK, "%s", fb_error_message());
    cr_assert_eq(fb_buffer_terminate(w->out), FB_OK);
    cr_expect_str_eq((const char *)w->out->data, wanted);
    fb_buffer_free(w->out);
}

static const char compact[] =
    "{\"null\":null,\"b\":true,\"u\":18446744073709551615,\"i\":-9223372036854775808,"
    "\"\\\"\\n\":\"a\\\\\\u0001\x7f\xc3\xa9/\",\"t\":\"a\xef\xbf\xbd\",\"x\":[0.0,-0.0,1.0,"
    "0.10000000000000001,1e22,9.9999999999999995e-8,1.0000000000000001e300,null,null,123456.5],"
    "\"none\":[],\"no member\":{}}";

Test(json_write, writes_every_type) {
    fb_buffer text = {0};
    fb_json_writer w = fb_json_writer_to(&text, FB_JSON_COMPACT);
    put_everything(&w);
    expect_text(&w, compact);
    const fb_json *root = parse(compact);
    w = fb_json_writer_to(&text, FB_JSON_COMPACT);
    fb_json_put_value(&w, NULL, root);
    expect_text(&w, compact);
    fb_json_free(root);
}

Test(json_write, indents_and_puts_fragments) {
    fb_buffer text = {0}, items = {0}, empty = {0};
    fb_json_writer w = fb_json_writer_to(&text, FB_JSON_INDENTED);
    w.digits = 9;
    fb_json_writer fragment = fb_json_fragment_to(&items, &w, 1);
    fb_json_writer nothing = fb_json_fragment_to(&empty, &w, 1);
    for (size_t i = 0; i < 2; i++) {
        fb_json_open_object(&fragment, NULL);
        fb_json_put_double(&fragment, "x", 0.1);
        fb_json_close_object(&fragment);
    }
    fb_json_open_object(&w, NULL);
    fb_json_put_array_of(&w, "cases", &fragment);
    fb_json_put_array_of(&w, "none", &nothing);
    fb_json_close_object(&w);
    expect_text(&w, "{\n  \"cases\": [\n    {\n      \"x\": 0.1\n    },\n    {\n      \"x\": 0.1\n"
                    "    }\n  ],\n  \"none\": []\n}");
    fb_buffer_free(&items);
}

Test(json_write, the_first_failure_stays) {
    fb_buffer text = {0};
    fb_json_writer w = fb_json_writer_to(&text, FB_JSON_COMPACT);
    fb_json_open_object(&w, NULL);
    fb_json_put_string(&w, "a", "\xff");
    cr_expect_str_eq(fb_error_message(), "a is not UTF-8 text");
    fb_json_fail(&w, FB_ERROR_IO);
    fb_json_close_object(&w);
    cr_expect_eq(fb_json_finish(&w), FB_ERROR_ARGUMENT);
    fb_buffer_free(&text);
}

/* A program may have a locale whose decimal point is a comma. */
Test(json_write, no_locale_changes_a_number) {
    static const char *const names[] = {"de_DE.UTF-8", "fr_FR.UTF-8", "de_DE", "de_DE.utf8"};
    bool found = false;
    for (size_t i = 0; i < sizeof names / sizeof *names && !found; i++)
        found = setlocale(LC_ALL, names[i]) != NULL;
    if (!found)
        cr_skip_test("no locale with a comma is installed");
    fb_buffer text = {0};
    fb_json_writer w = fb_json_writer_to(&text, FB_JSON_COMPACT);
    const fb_json *root = parse("[1.5, 2.5e1, 1e999]");
    fb_json_put_value(&w, NULL, root);
    expect_text(&w, "[1.5,25.0,1e999]");
    fb_json_free(root);
}

/* --- memory that runs out --------------------------------------------------------------------- */

static void fail_after(long allocations, bool all) {
    allocations_left = allocations;
    all_fail_then = all;
}

/* Long strings with escapes, deep nesting and a large object make yajl allocate, too. */
static char *demanding_text(void) {
    enum { SIZE = 400000 };
    char *text = malloc(SIZE);
    cr_assert(text);
    size_t used = (size_t)snprintf(text, SIZE, "{\"escaped\":\"");
    for (size_t i = 0; i < 20000; i++)
        used += (size_t)snprintf(text + used, SIZE - used, "\\n%zu", i % 10);
    used += (size_t)snprintf(text + used, SIZE - used, "\",\"deep\":");
    memset(text + used, '[', 1000);
    memset(text + used + 1000, ']', 1000);
    used += 2000;
    for (size_t i = 0; i < 10000; i++)
        used += (size_t)snprintf(text + used, SIZE - used, ",\"%zu\":[%zu,1.5,NaN]", i, i);
    snprintf(text + used, SIZE - used, ",\"long\":%0400d.5}", 1);
    char *zero = strstr(text, "\"long\":0");
    cr_assert(zero);
    zero[7] = '1'; /* a number does not begin with 0 */
    return text;
}

static void read_with_failures(const char *text, bool all) {
    fb_status status = FB_ERROR_MEMORY;
    long failures = 0;
    for (; status != FB_OK; failures++) {
        const fb_json *root = NULL;
        fail_after(failures, all);
        status = fb_json_parse(text, strlen(text), "x.json", &root);
        fail_after(-1, false);
        cr_assert(status == FB_OK || (status == FB_ERROR_MEMORY && !root), "failure %ld: %s",
                  failures, fb_error_message());
        cr_assert(status == FB_OK || strstr(fb_error_message(), "cannot allocate"), "%s",
                  fb_error_message());
        if (root)
            cr_assert_eq(fb_json_object_size(root), 10003u);
        fb_json_free(root);
    }
    cr_expect_gt(failures, 40, "%ld failures", failures);
}

Test(json_memory, reading_survives_every_failure) {
    char *text = demanding_text();
    read_with_failures(text, false);
    read_with_failures(text, true);
    free(text);
}

Test(json_memory, writing_survives_every_failure) {
    fb_status status = FB_ERROR_MEMORY;
    long failures = 0;
    for (; status != FB_OK; failures++) {
        fb_buffer text = {0};
        fb_json_writer w = fb_json_writer_to(&text, FB_JSON_COMPACT);
        fail_after(failures, false);
        put_everything(&w);
        status = fb_json_finish(&w);
        if (status == FB_OK)
            status = fb_buffer_terminate(&text);
        fail_after(-1, false);
        cr_assert(status == FB_OK || status == FB_ERROR_MEMORY, "failure %ld", failures);
        if (status == FB_OK)
            cr_assert_str_eq((const char *)text.data, compact);
        fb_buffer_free(&text);
    }
    cr_expect_gt(failures, 3, "%ld failures", failures);
}

/* A message about a value is one about a format even when the value cannot be shown. */
Test(json_memory, messages_need_no_memory) {
    const fb_json *root = parse("{\"a\": [1, 2]}");
    size_t size = 0;
    fail_after(0, true);
    fb_status status = fb_json_get_size(root, "c", "a", 0, 9, &size);
    fail_after(-1, false);
    cr_expect_eq(status, FB_ERROR_FORMAT);
    cr_expect_str_eq(fb_error_message(), "c: a is an array, not a whole number");
    fb_json_free(root);
}
