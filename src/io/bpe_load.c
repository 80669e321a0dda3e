#include "base/error.h"
#include "base/memory.h"
#include "io/bpe.h"
#include "io/json.h"

#include <stdlib.h>
#include <string.h>

/* A merge and its left token, before the merge is put into the list of that token. */
typedef struct pair {
    int32_t left;
    fb_bpe_merge merge;
} pair;

static int compare_pairs(const void *left, const void *right) {
    const pair *a = left, *b = right;
    if (a->left != b->left)
        return a->left < b->left ? -1 : 1;
    if (a->merge.right != b->merge.right)
        return a->merge.right < b->merge.right ? -1 : 1;
    return a->merge.rank < b->merge.rank ? -1 : a->merge.rank > b->merge.rank;
}

/* An id of a vocabulary that was loaded before, and is therefore in range; -1: there is none. */
static int32_t id_of(const fb_json *value) {
    int64_t id = -1;
    return fb_json_is_int64(value, &id) ? (int32_t)id : -1;
}

static fb_status find_token(const fb_json *vocab, const char *spelling, size_t rank,
                            const char *where, int32_t *id) {
    const fb_json *value = fb_json_object_get(vocab, spelling);
    if (!value)
        return fb_fail(FB_ERROR_FORMAT, "%s: merge %zu refers to '%.200s', which is not a token",
                       where, rank, spelling);
    *id = id_of(value);
    return FB_OK;
}

/* The two halves of a merge and their concatenation, each NUL-terminated. */
typedef struct halves {
    const char *left, *right, *joined;
} halves;

static fb_status store_halves(fb_buffer *text, const char *left, size_t left_length,
                              const char *right, halves *made) {
    size_t right_length = strlen(right);
    text->size = 0;
    FB_TRY(fb_buffer_append(text, left, left_length));
    FB_TRY(fb_buffer_append(text, "", 1));
    FB_TRY(fb_buffer_append(text, right, right_length + 1));
    FB_TRY(fb_buffer_append(text, left, left_length));
    FB_TRY(fb_buffer_append(text, right, right_length + 1));
    made->left = (const char *)text->data;
    made->right = made->left + left_length + 1;
    made->joined = made->right + right_length + 1;
    return FB_OK;
}

static fb_status read_halves(const fb_json *item, size_t rank, const char *where, fb_buffer *text,
                             halves *made) {
    if (fb_json_is_string(item)) {
        const char *both = fb_json_string(item);
        const char *space = strchr(both, ' ');
        if (space && space > both && space[1] != '\0' && !strchr(space + 1, ' '))
            return store_halves(text, both, (size_t)(space - both), space + 1, made);
    } else if (fb_json_array_size(item) == 2) {
        const char *left = fb_json_string(fb_json_array_get(item, 0));
        const char *right = fb_json_string(fb_json_array_get(item, 1));
        if (left && right)
            return store_halves(text, left, strlen(left), right, made);
    }
    return fb_fail(FB_ERROR_FORMAT, "%s: merge %zu is neither \"a b\" nor [\"a\", \"b\"]", where,
                   rank);
}

static fb_status read_pair(const fb_json *vocab, const fb_json *item, size_t rank,
                           const char *where, fb_buffer *text, pair *made) {
    halves parts = {0};
    FB_TRY(read_halves(item, rank, where, text, &parts));
    made->merge.rank = (uint32_t)rank;
    FB_TRY(find_token(vocab, parts.left, rank, where, &made->left));
    FB_TRY(find_token(vocab, parts.right, rank, where, &made->merge.right));
    return find_token(vocab, parts.joined, rank, where, &made->merge.result);
}

static bool is_version_line(const fb_json *item) {
    const char *text = fb_json_string(item);
    return text && strncmp(text, "#version", 8) == 0;
}

static fb_status read_pairs(const fb_json *vocab, const fb_json *merges, const char *where,
                            pair *pairs, size_t *count) {
    fb_buffer text = {0};
    fb_status status = FB_OK;
    for (size_t i = 0; status == FB_OK && i < fb_json_array_size(merges); i++) {
        const fb_json *item = fb_json_array_get(merges, i);
        if (is_version_line(item))
            continue;
        status = read_pair(vocab, item, i, where, &text, &pairs[*count]);
        *count += 1;
    }
    fb_buffer_free(&text);
    return status;
}

/* Sorts the pairs into one list for each left token. If a pair is listed twice, the last one
 * counts. */
static void fill_lists(fb_bpe *bpe, pair *pairs, size_t count) {
    if (count > 0)
        qsort(pairs, count, sizeof *pairs, compare_pairs);
    size_t used = 0;
    for (size_t i = 0; i < count; i++) {
        bool repeated = i + 1 < count && pairs[i].left == pairs[i + 1].left &&
                        pairs[i].merge.right == pairs[i + 1].merge.right;
        if (repeated)
            continue;
        bpe->merges[used++] = pairs[i].merge;
        bpe->starts[pairs[i].left + 1] = used;
    }
    for (size_t id = 0; id < bpe->num_tokens; id++)
        if (bpe->starts[id + 1] < bpe->starts[id])
            bpe->starts[id + 1] = bpe->starts[id];
}

static fb_status load_merges(const fb_json *model, const char *where, fb_bpe *bpe) {
    const fb_json *merges = NULL;
    FB_TRY(fb_json_get_array(model, where, "merges", &merges));
    size_t listed = fb_json_array_size(merges), count = 0;
    if (listed >= UINT32_MAX)
        return fb_fail(FB_ERROR_FORMAT, "%s: %zu merges", where, listed);
    FB_TRY(fb_alloc(listed, sizeof *bpe->merges, "merges", &bpe->merges));
    FB_TRY(fb_alloc_zeroed(bpe->num_tokens + 1, sizeof *bpe->starts, "merges", &bpe->starts));
    pair *pairs = NULL;
    FB_TRY(fb_alloc(listed, sizeof *pairs, "merges", &pairs));
    fb_status status = read_pairs(fb_json_object_get(model, "vocab"), merges, where, pairs, &count);
    if (status == FB_OK)
        fill_lists(bpe, pairs, count);
    fb_free(pairs);
    return status;
}

static fb_status load_bytes(const fb_json *vocab, fb_bpe *bpe, bool *complete) {
    fb_buffer spelling = {0};
    fb_status status = FB_OK;
    *complete = true;
    for (int byte = 0; status == FB_OK && byte < FB_BYTE_LEVEL_SIZE; byte++) {
        unsigned char value = (unsigned char)byte;
        spelling.size = 0;
        status = fb_byte_level_append_spelling(&spelling, &value, 1);
        if (status == FB_OK)
            status = fb_buffer_terminate(&spelling);
        if (status != FB_OK)
            break;
        const fb_json *id = fb_json_object_get(vocab, (const char *)spelling.data);
        bpe->byte_ids[byte] = id_of(id);
        *complete = *complete && id;
    }
    fb_buffer_free(&spelling);
    return status;
}

/* Where every byte has a token, nothing is unknown, and the token need not exist. */
static fb_status load_unknown(const fb_json *model, const char *where, bool has_every_byte,
                              fb_bpe *bpe) {
    const char *text = NULL;
    FB_TRY(fb_json_get_string_or(model, where, "unk_token", NULL, &text));
    FB_TRY(fb_json_get_bool_or(model, where, "fuse_unk", false, &bpe->fuse_unknown));
    bpe->unknown_id = -1;
    if (!text)
        return FB_OK;
    const fb_json *id = fb_json_object_get(fb_json_object_get(model, "vocab"), text);
    if (!id && has_every_byte)
        return FB_OK;
    if (!id)
        return fb_fail(FB_ERROR_FORMAT, "%s: unk_token '%s' is not a token", where, text);
    bpe->unknown_id = id_of(id);
    return FB_OK;
}

/* Of the features that byte-level tokenizers do not use, those that a table of fields cannot check
 * (see tokenizer_fields.c). */
static fb_status check_features(const fb_json *model, const char *where, bool has_every_byte) {
    const char *type = NULL;
    bool byte_fallback = false;
    FB_TRY(fb_json_get_string_or(model, where, "type", "BPE", &type));
    FB_TRY(fb_json_get_bool_or(model, where, "byte_fallback", false, &byte_fallback));
    if (strcmp(type, "BPE") != 0)
        return fb_fail(FB_ERROR_UNSUPPORTED, "%s: type is '%s', not 'BPE'", where, type);
    if (byte_fallback && !has_every_byte) /* with every byte in the vocabulary it has no effect */
        return fb_fail(FB_ERROR_UNSUPPORTED, "%s: byte_fallback is true", where);
    return FB_OK;
}

fb_status fb_bpe_load(const fb_json *model, const fb_vocabulary *vocabulary, const char *where,
                      fb_bpe *bpe) {
    bool has_every_byte = false;
    bpe->num_tokens = vocabulary->size;
    FB_TRY(load_bytes(fb_json_object_get(model, "vocab"), bpe, &has_every_byte));
    FB_TRY(check_features(model, where, has_every_byte));
    FB_TRY(load_unknown(model, where, has_every_byte, bpe));
    FB_TRY(fb_json_get_bool_or(model, where, "ignore_merges", false, &bpe->ignore_merges));
    return load_merges(model, where, bpe);
}
