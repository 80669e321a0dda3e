#include "tests/fuzz/round_trip.h"

#include <stdlib.h>
#include <string.h>

static void check(bool holds) {
    if (!holds)
        __builtin_trap();
}

static void check_ids(const fb_tokenizer *tokenizer, const int32_t *ids, size_t count) {
    size_t vocab = fb_tokenizer_vocab_size(tokenizer);
    for (size_t i = 0; i < count; i++)
        check(ids[i] >= 0 && (size_t)ids[i] < vocab);
}

/* The stream gives the same bytes as decoding at once. */
static void check_stream(const fb_tokenizer *tokenizer, const int32_t *ids, size_t count,
                         const char *whole, size_t length) {
    fb_token_stream *stream = NULL;
    const char *text = NULL;
    size_t used = 0, more = 0;
    if (fb_token_stream_create(tokenizer, false, &stream) != FB_OK)
        return;
    for (size_t i = 0; i <= count; i++) {
        fb_status status = i < count ? fb_token_stream_put(stream, ids + i, 1, &text, &more)
                                     : fb_token_stream_finish(stream, &text, &more);
        check(status == FB_OK && more <= length - used);
        check(memcmp(whole + used, text, more) == 0);
        used += more;
    }
    check(used == length);
    fb_token_stream_destroy(stream);
}

static bool is_ascii(fuzz_part text) {
    for (size_t i = 0; i < text.size; i++)
        if (text.data[i] >= 0x80)
            return false;
    return true;
}

static void check_ids_and_text(const fb_tokenizer *tokenizer, const int32_t *ids, size_t count,
                               const fuzz_part *expected) {
    char *whole = NULL;
    size_t length = 0;
    check_ids(tokenizer, ids, count);
    if (fb_tokenizer_decode(tokenizer, ids, count, false, &whole, &length) == FB_OK) {
        check_stream(tokenizer, ids, count, whole, length);
        if (expected)
            check(length == expected->size && memcmp(whole, expected->data, length) == 0);
    }
    fb_text_free(whole);
}

void fuzz_round_trip(const fb_tokenizer *tokenizer, fuzz_part text, bool exact) {
    static const fb_added_tokens ways[] = {FB_ADDED_PARSED, FB_ADDED_SPECIAL_AS_TEXT,
                                           FB_ADDED_AS_TEXT};
    char *copy = malloc(text.size + !text.size); /* ends where the memory ends */
    if (!copy)
        return;
    memcpy(copy, text.data, text.size);
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        int32_t *ids = NULL;
        size_t count = 0;
        if (fb_tokenizer_encode(tokenizer, copy, text.size, ways[i], &ids, &count) == FB_OK)
            check_ids_and_text(tokenizer, ids, count, exact && is_ascii(text) ? &text : NULL);
        fb_token_ids_free(ids);
    }
    free(copy);
}
