/* The tokenizer gives the ids and texts of the reference, for the demo tokenizer and for variants
 * like those of other model families. data/tokenizer/expected.json has the expected results
 * (tokenizer_reference/make_fixture.mjs). */
#include "tests/json_edit.h"
#include "tests/temporary.h"

#include <flashblock/tokenizer.h>

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const fb_json *load(const char *name) {
    const char *root = getenv("FLASHBLOCK_SOURCE_ROOT");
    char path[1024];
    snprintf(path, sizeof path, "%s/tests/data/tokenizer/%s", root ? root : ".", name);
    const fb_json *object = NULL;
    cr_assert_eq(fb_json_load(path, SIZE_MAX, &object), FB_OK, "%s", fb_error_message());
    return object;
}

/* Finishes the text of a tokenizer.json, and loads and frees it. */
static fb_tokenizer *load_text(fb_json_writer *w) {
    fb_tokenizer *tokenizer = NULL;
    cr_assert_eq(fb_json_finish(w), FB_OK, "%s", fb_error_message());
    const char *path = temporary_write("tokenizer.json", (const char *)w->out->data, w->out->size);
    cr_assert_eq(fb_tokenizer_load(path, &tokenizer), FB_OK, "%s", fb_error_message());
    fb_buffer_free(w->out);
    return tokenizer;
}

/* The object with the fields of `changes` in place of its own. The fields of "model" are replaced
 * one by one. */
static void put_changed(fb_json_writer *w, const char *key, const fb_json *object,
                        const fb_json *changes) {
    fb_json_open_object(w, key);
    for (size_t i = 0; i < fb_json_object_size(object); i++) {
        const char *name = fb_json_object_key(object, i);
        const fb_json *own = fb_json_object_at(object, i);
        const fb_json *change = fb_json_object_get(changes, name);
        if (change && strcmp(name, "model") == 0)
            put_changed(w, name, own, change);
        else
            fb_json_put_value(w, name, change ? change : own);
    }
    for (size_t i = 0; i < fb_json_object_size(changes); i++)
        if (!fb_json_object_get(object, fb_json_object_key(changes, i)))
            fb_json_put_value(w, fb_json_object_key(changes, i), fb_json_object_at(changes, i));
    fb_json_close_object(w);
}

static fb_tokenizer *load_variant(const fb_json *original, const fb_json *changes) {
    fb_buffer text = {0};
    fb_json_writer w = fb_json_writer_to(&text, FB_JSON_COMPACT);
    put_changed(&w, NULL, original, changes);
    return load_text(&w);
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

static void expect_ids(const char *variant, const char *hex, const fb_json *wanted,
                       const int32_t *ids, size_t count) {
    cr_expect_eq(count, fb_json_array_size(wanted), "%s, %s: %zu ids, not %zu", variant, hex, count,
                 fb_json_array_size(wanted));
    for (size_t i = 0; i < count && i < fb_json_array_size(wanted); i++) {
        int64_t id = -1;
        cr_assert(fb_json_is_int64(fb_json_array_get(wanted, i), &id));
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
static void check_row(const char *variant, const fb_tokenizer *tokenizer, const fb_json *row) {
    const char *hex = fb_json_string(fb_json_array_get(row, 0));
    size_t length = 0, wanted_length = 0, count = 0, decoded_length = 0;
    char *text = from_hex(hex, &length), *decoded = NULL;
    char *wanted = from_hex(fb_json_string(fb_json_array_get(row, 2)), &wanted_length);
    int32_t *ids = NULL;
    cr_assert_eq(fb_tokenizer_encode(tokenizer, text, length, FB_ADDED_PARSED, &ids, &count),
                 FB_OK);
    expect_ids(variant, hex, fb_json_array_get(row, 1), ids, count);
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
    const fb_json *original = load("tokenizer.json"), *expected = load("expected.json");
    const fb_json *variants = fb_json_object_get(expected, "variants");
    size_t strings = 0;
    for (size_t i = 0; i < fb_json_array_size(variants); i++) {
        const fb_json *variant = fb_json_array_get(variants, i);
        const char *name = fb_json_string(fb_json_object_get(variant, "name"));
        fb_tokenizer *tokenizer = load_variant(original, fb_json_object_get(variant, "changes"));
        const fb_json *rows = fb_json_object_get(variant, "strings");
        for (size_t k = 0; k < fb_json_array_size(rows); k++)
            check_row(name, tokenizer, fb_json_array_get(rows, k));
        strings += fb_json_array_size(rows);
        fb_tokenizer_destroy(tokenizer);
    }
    cr_log_info("%zu strings, %zu tokenizers", strings, fb_json_array_size(variants));
    cr_expect(strings > 800 && fb_json_array_size(variants) == 7);
    fb_json_free(original);
    fb_json_free(expected);
    temporary_remove();
}

static void put_merges(fb_json_writer *w, const fb_json *merges) {
    fb_json_open_array(w, "merges");
    for (size_t i = 0; i < fb_json_array_size(merges); i++) {
        const fb_json *pair = fb_json_array_get(merges, i);
        char both[256];
        int length =
            snprintf(both, sizeof both, "%s %s", fb_json_string(fb_json_array_get(pair, 0)),
                     fb_json_string(fb_json_array_get(pair, 1)));
        cr_assert_lt((size_t)length, sizeof both);
        fb_json_put_string(w, NULL, both);
    }
    fb_json_close_array(w);
}

/* "a b" for ["a", "b"]: the same tokenizer. */
Test(tokenizer_reference, merges_may_be_strings) {
    temporary_make();
    const fb_json *original = load("tokenizer.json"), *expected = load("expected.json");
    const fb_json *model = fb_json_object_get(original, "model");
    fb_buffer text = {0};
    fb_json_writer w = fb_json_writer_to(&text, FB_JSON_COMPACT);
    fb_json_open_object(&w, NULL);
    put_other_members(&w, original, "model");
    fb_json_open_object(&w, "model");
    put_other_members(&w, model, "merges");
    put_merges(&w, fb_json_object_get(model, "merges"));
    fb_json_close_object(&w);
    fb_json_close_object(&w);
    fb_tokenizer *tokenizer = load_text(&w);
    const fb_json *rows = fb_json_object_get(
        fb_json_array_get(fb_json_object_get(expected, "variants"), 0), "strings");
    for (size_t k = 0; k < fb_json_array_size(rows); k++)
        check_row("merges as strings", tokenizer, fb_json_array_get(rows, k));
    fb_tokenizer_destroy(tokenizer);
    fb_json_free(original);
    fb_json_free(expected);
    temporary_remove();
}
