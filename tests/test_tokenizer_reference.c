/* The tokenizer gives the ids and texts of the reference, for the demo tokenizer and for variants
 * like those of other model families. data/tokenizer/expected.json has the expected results
 * (tokenizer_reference/make_fixture.mjs). */
#include "tests/temporary.h"

#include <flashblock/tokenizer.h>

#include <criterion/criterion.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static json_t *load(const char *name) {
    const char *root = getenv("FLASHBLOCK_SOURCE_ROOT");
    char path[1024];
    snprintf(path, sizeof path, "%s/tests/data/tokenizer/%s", root ? root : ".", name);
    json_error_t error;
    json_t *object = json_load_file(path, 0, &error);
    cr_assert(object, "%s: %s", path, error.text);
    return object;
}

/* The tokenizer with the fields of `changes` replaced. The fields of "model" are replaced one by
 * one. */
static fb_tokenizer *load_variant(json_t *original, json_t *changes) {
    json_t *changed = json_deep_copy(original), *value = NULL;
    const char *key = NULL;
    json_object_foreach(changes, key, value) {
        if (strcmp(key, "model") == 0)
            json_object_update(json_object_get(changed, key), value);
        else
            json_object_set(changed, key, value);
    }
    char *text = json_dumps(changed, 0);
    fb_tokenizer *tokenizer = NULL;
    fb_status status = fb_tokenizer_load(temporary_write_text("tokenizer.json", text), &tokenizer);
    cr_assert_eq(status, FB_OK, "%s", fb_error_message());
    free(text);
    json_decref(changed);
    return tokenizer;
}

/* Hexadecimal digits to bytes. The caller frees them. */
static char *from_hex(const char *hex, size_t *size) {
    *size = strlen(hex) / 2;
    char *bytes = malloc(*size + 1);
    cr_assert(bytes);
    for (size_t i = 0; i < *size; i++) {
        unsigned value = 0;
        cr_assert_eq(sscanf(hex + 2 * i, "%2x", &value), 1);
        bytes[i] = (char)value;
    }
    return bytes;
}

static void expect_ids(const char *variant, const char *hex, const json_t *wanted,
                       const int32_t *ids, size_t count) {
    cr_expect_eq(count, json_array_size(wanted), "%s, %s: %zu ids, not %zu", variant, hex, count,
                 json_array_size(wanted));
    for (size_t i = 0; i < count && i < json_array_size(wanted); i++) {
        json_int_t id = json_integer_value(json_array_get(wanted, i));
        cr_expect_eq(ids[i], id, "%s, %s: id %zu is %d, not %d", variant, hex, i, (int)ids[i],
                     (int)id);
        if (ids[i] != id)
            return;
    }
}

/* Ids given one at a time come out as the same text, valid UTF-8 at each step. */
static void expect_streamed(const fb_tokenizer *tokenizer, const char *hex, const int32_t *ids,
                            size_t count, const char *wanted, size_t wanted_length) {
    fb_token_stream *stream = NULL;
    cr_assert_eq(fb_token_stream_create(tokenizer, false, &stream), FB_OK);
    size_t used = 0;
    for (size_t i = 0; i <= count; i++) {
        const char *text = NULL;
        size_t length = 0;
        if (i < count)
            cr_assert_eq(fb_token_stream_put(stream, &ids[i], 1, &text, &length), FB_OK);
        else
            cr_assert_eq(fb_token_stream_finish(stream, &text, &length), FB_OK);
        cr_assert(used + length <= wanted_length && memcmp(wanted + used, text, length) == 0,
                  "%s: differs at id %zu", hex, i);
        cr_expect(length == 0 || ((unsigned char)text[0] & 0xc0) != 0x80, "%s: cut at id %zu", hex,
                  i);
        used += length;
    }
    cr_expect_eq(used, wanted_length, "%s", hex);
    fb_token_stream_destroy(stream);
}

/* row: the string, its ids, the text they decode to; strings in hexadecimal. */
static void check_row(const char *variant, const fb_tokenizer *tokenizer, const json_t *row) {
    const char *hex = json_string_value(json_array_get(row, 0));
    size_t length = 0, wanted_length = 0, count = 0, decoded_length = 0;
    char *text = from_hex(hex, &length), *decoded = NULL;
    char *wanted = from_hex(json_string_value(json_array_get(row, 2)), &wanted_length);
    int32_t *ids = NULL;
    cr_assert_eq(fb_tokenizer_encode(tokenizer, text, length, FB_ADDED_PARSED, &ids, &count),
                 FB_OK);
    expect_ids(variant, hex, json_array_get(row, 1), ids, count);
    cr_assert_eq(fb_tokenizer_decode(tokenizer, ids, count, false, &decoded, &decoded_length),
                 FB_OK);
    cr_expect(decoded_length == wanted_length && memcmp(decoded, wanted, wanted_length) == 0,
              "%s, %s: decoded to '%s', not '%.*s'", variant, hex, decoded, (int)wanted_length,
              wanted);
    expect_streamed(tokenizer, hex, ids, count, decoded, decoded_length);
    fb_text_free(decoded);
    fb_token_ids_free(ids);
    free(wanted);
    free(text);
}

Test(tokenizer_reference, ids_and_texts_are_those_of_the_reference) {
    temporary_make();
    json_t *original = load("tokenizer.json"), *expected = load("expected.json");
    json_t *variants = json_object_get(expected, "variants");
    size_t strings = 0;
    for (size_t i = 0; i < json_array_size(variants); i++) {
        json_t *variant = json_array_get(variants, i);
        const char *name = json_string_value(json_object_get(variant, "name"));
        fb_tokenizer *tokenizer = load_variant(original, json_object_get(variant, "changes"));
        json_t *rows = json_object_get(variant, "strings");
        for (size_t k = 0; k < json_array_size(rows); k++)
            check_row(name, tokenizer, json_array_get(rows, k));
        strings += json_array_size(rows);
        fb_tokenizer_destroy(tokenizer);
    }
    cr_log_info("%zu strings, %zu tokenizers", strings, json_array_size(variants));
    cr_expect(strings > 800 && json_array_size(variants) == 6);
    json_decref(original);
    json_decref(expected);
    temporary_remove();
}

/* "a b" for ["a", "b"]: the same tokenizer. */
Test(tokenizer_reference, merges_may_be_strings) {
    temporary_make();
    json_t *original = load("tokenizer.json"), *changed = json_deep_copy(original);
    json_t *merges = json_object_get(json_object_get(changed, "model"), "merges");
    for (size_t i = 0; i < json_array_size(merges); i++) {
        json_t *pair = json_array_get(merges, i);
        json_array_set_new(merges, i,
                           json_sprintf("%s %s", json_string_value(json_array_get(pair, 0)),
                                        json_string_value(json_array_get(pair, 1))));
    }
    fb_tokenizer *tokenizer = load_variant(changed, NULL);
    json_t *expected = load("expected.json");
    json_t *rows =
        json_object_get(json_array_get(json_object_get(expected, "variants"), 0), "strings");
    for (size_t k = 0; k < json_array_size(rows); k++)
        check_row("merges as strings", tokenizer, json_array_get(rows, k));
    fb_tokenizer_destroy(tokenizer);
    json_decref(original);
    json_decref(changed);
    json_decref(expected);
    temporary_remove();
}
