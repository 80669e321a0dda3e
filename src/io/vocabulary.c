#include "io/vocabulary.h"

#include "base/error.h"
#include "base/memory.h"
#include "io/byte_level.h"
#include "io/json.h"

#include <stdlib.h>
#include <string.h>

static fb_status largest_id(const fb_json *vocab, const fb_added_token *added, size_t num_added,
                            const char *where, size_t *largest) {
    size_t most = 0;
    for (size_t i = 0; i < fb_json_object_size(vocab); i++) {
        size_t id = 0;
        FB_TRY(fb_json_size(fb_json_object_at(vocab, i), where, fb_json_object_key(vocab, i), 0,
                            FB_MAX_TOKEN_ID, &id));
        most = id > most ? id : most;
    }
    for (size_t i = 0; i < num_added; i++)
        most = (size_t)added[i].id > most ? (size_t)added[i].id : most;
    *largest = most;
    return FB_OK;
}

static fb_status store(fb_vocabulary *vocabulary, size_t id, const char *spelling, unsigned flags) {
    size_t length = strlen(spelling);
    if (length > UINT32_MAX)
        return fb_fail(FB_ERROR_FORMAT, "token %zu has %zu bytes", id, length);
    fb_token *token = &vocabulary->tokens[id];
    token->spelling = vocabulary->text.size;
    token->spelling_length = (uint32_t)length;
    FB_TRY(fb_buffer_append(&vocabulary->text, spelling, length));
    token->bytes = vocabulary->text.size;
    FB_TRY(fb_byte_level_append_bytes(&vocabulary->text, spelling, length));
    token->bytes_length = (uint32_t)(vocabulary->text.size - token->bytes);
    token->flags = flags;
    return FB_OK;
}

static fb_status store_model(fb_vocabulary *vocabulary, const fb_json *vocab, const char *where) {
    for (size_t i = 0; i < fb_json_object_size(vocab); i++) {
        const char *spelling = fb_json_object_key(vocab, i);
        size_t id = 0;
        FB_TRY(fb_json_size(fb_json_object_at(vocab, i), where, spelling, 0, FB_MAX_TOKEN_ID, &id));
        if (vocabulary->tokens[id].flags)
            return fb_fail(FB_ERROR_FORMAT, "%s: id %zu is used twice, the second time by %s",
                           where, id, spelling);
        FB_TRY(store(vocabulary, id, spelling, FB_TOKEN_OF_MODEL));
    }
    return FB_OK;
}

static fb_status store_added(fb_vocabulary *vocabulary, const fb_json *vocab,
                             const fb_added_token *added, const char *where) {
    const fb_json *in_model = fb_json_object_get(vocab, added->content);
    int64_t in_model_id = -1;
    bool repeats = fb_json_is_int64(in_model, &in_model_id) && in_model_id == added->id;
    size_t id = (size_t)added->id;
    unsigned before = vocabulary->tokens[id].flags;
    if ((in_model && !repeats) || (before && !repeats) || (before & FB_TOKEN_ADDED))
        return fb_fail(FB_ERROR_FORMAT, "%s: added token %s: its id %zu or its text is used twice",
                       where, added->content, id);
    return store(vocabulary, id, added->content,
                 before | FB_TOKEN_ADDED | (added->special ? (unsigned)FB_TOKEN_SPECIAL : 0u));
}

static int compare_text(const unsigned char *a, size_t a_length, const unsigned char *b,
                        size_t b_length) {
    size_t shorter = a_length < b_length ? a_length : b_length;
    int order = shorter > 0 ? memcmp(a, b, shorter) : 0;
    return order != 0 ? order : (a_length > b_length) - (a_length < b_length);
}

static int compare_tokens(const fb_vocabulary *vocabulary, int32_t left, int32_t right) {
    const fb_token *a = &vocabulary->tokens[left], *b = &vocabulary->tokens[right];
    return compare_text(vocabulary->text.data + a->spelling, a->spelling_length,
                        vocabulary->text.data + b->spelling, b->spelling_length);
}

/* Merge sort, because qsort has no context argument. `from` and `to` [count] hold the same ids at
 * first; the result is in `to`. */
static void sort_ids(const fb_vocabulary *vocabulary, int32_t *from, int32_t *to, size_t count) {
    if (count < 2)
        return;
    size_t half = count / 2, left = 0, right = half, used = 0;
    sort_ids(vocabulary, to, from, half);
    sort_ids(vocabulary, to + half, from + half, count - half);
    while (used < count) {
        bool take_left = right == count ||
                         (left < half && compare_tokens(vocabulary, from[left], from[right]) <= 0);
        to[used++] = from[take_left ? left++ : right++];
    }
}

static fb_status sort_vocabulary(fb_vocabulary *vocabulary, const char *where) {
    int32_t *other = NULL;
    FB_TRY(fb_alloc(vocabulary->size, sizeof *other, "token list", &vocabulary->sorted));
    FB_TRY(fb_alloc(vocabulary->size, sizeof *other, "token list", &other));
    for (size_t id = 0; id < vocabulary->size; id++)
        if (vocabulary->tokens[id].flags) {
            other[vocabulary->count] = (int32_t)id;
            vocabulary->sorted[vocabulary->count++] = (int32_t)id;
        }
    sort_ids(vocabulary, other, vocabulary->sorted, vocabulary->count);
    fb_free(other);
    for (size_t i = 1; i < vocabulary->count; i++)
        if (compare_tokens(vocabulary, vocabulary->sorted[i - 1], vocabulary->sorted[i]) == 0)
            return fb_fail(FB_ERROR_FORMAT, "%s: ids %d and %d have one text", where,
                           (int)vocabulary->sorted[i - 1], (int)vocabulary->sorted[i]);
    return FB_OK;
}

fb_status fb_vocabulary_load(const fb_json *vocab, const fb_added_token *added, size_t num_added,
                             const char *where, fb_vocabulary *vocabulary) {
    size_t largest = 0;
    if (fb_json_object_size(vocab) + num_added == 0)
        return fb_fail(FB_ERROR_FORMAT, "%s: vocab is empty", where);
    FB_TRY(largest_id(vocab, added, num_added, where, &largest));
    FB_TRY(fb_alloc_zeroed(largest + 1, sizeof(fb_token), "vocabulary", &vocabulary->tokens));
    vocabulary->size = largest + 1;
    FB_TRY(store_model(vocabulary, vocab, where));
    for (size_t i = 0; i < num_added; i++)
        FB_TRY(store_added(vocabulary, vocab, &added[i], where));
    return sort_vocabulary(vocabulary, where);
}

void fb_vocabulary_free(fb_vocabulary *vocabulary) {
    fb_free(vocabulary->tokens);
    fb_free(vocabulary->sorted);
    fb_buffer_free(&vocabulary->text);
    *vocabulary = (fb_vocabulary){0};
}

const fb_token *fb_vocabulary_token(const fb_vocabulary *vocabulary, int32_t id) {
    if (id < 0 || (size_t)id >= vocabulary->size || !vocabulary->tokens[id].flags)
        return NULL;
    return &vocabulary->tokens[id];
}

int32_t fb_vocabulary_find(const fb_vocabulary *vocabulary, const char *spelling, size_t length) {
    size_t low = 0, high = vocabulary->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const fb_token *token = &vocabulary->tokens[vocabulary->sorted[middle]];
        int order = compare_text((const unsigned char *)spelling, length,
                                 vocabulary->text.data + token->spelling, token->spelling_length);
        if (order == 0)
            return vocabulary->sorted[middle];
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return -1;
}
