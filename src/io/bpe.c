#include "io/bpe.h"

#include "base/error.h"
#include "base/memory.h"

#include <string.h>

#define NONE UINT32_MAX

/* A token of the piece, in a doubly linked list. Its index is the byte at which it begins. */
typedef struct symbol {
    int32_t id;
    uint32_t previous, next;
    uint32_t rank; /* of the merge with the next symbol; NONE without one */
} symbol;

/* A pair that could be merged. It is out of date when the rank of its left symbol has changed: a
 * rank belongs to one pair of tokens, so it cannot stay the same when one of them changes. */
typedef struct candidate {
    uint32_t rank, left;
} candidate;

/* A binary heap, least candidate first. */
typedef struct heap {
    candidate *items;
    size_t count;
} heap;

void fb_bpe_free(fb_bpe *bpe) {
    fb_free(bpe->starts);
    fb_free(bpe->merges);
    *bpe = (fb_bpe){0};
}

void fb_bpe_scratch_free(fb_bpe_scratch *scratch) {
    fb_free(scratch->symbols);
    fb_free(scratch->heap);
    *scratch = (fb_bpe_scratch){0};
}

static bool before(candidate a, candidate b) {
    return a.rank != b.rank ? a.rank < b.rank : a.left < b.left;
}

static void push(heap *queue, candidate item) {
    size_t at = queue->count++;
    while (at > 0 && before(item, queue->items[(at - 1) / 2])) {
        queue->items[at] = queue->items[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    queue->items[at] = item;
}

static candidate pop(heap *queue) {
    candidate least = queue->items[0];
    candidate item = queue->items[--queue->count];
    size_t at = 0;
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= queue->count)
            break;
        if (child + 1 < queue->count && before(queue->items[child + 1], queue->items[child]))
            child++;
        if (!before(queue->items[child], item))
            break;
        queue->items[at] = queue->items[child];
        at = child;
    }
    queue->items[at] = item;
    return least;
}

static const fb_bpe_merge *find_merge(const fb_bpe *bpe, int32_t left, int32_t right) {
    if (left < 0 || right < 0)
        return NULL;
    size_t low = bpe->starts[left], high = bpe->starts[left + 1];
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (bpe->merges[middle].right == right)
            return &bpe->merges[middle];
        if (bpe->merges[middle].right < right)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

/* Looks up the merge of symbol `left` with the next one, and queues it. */
static void consider(const fb_bpe *bpe, symbol *symbols, heap *queue, uint32_t left) {
    uint32_t right = symbols[left].next;
    const fb_bpe_merge *merge =
        right == NONE ? NULL : find_merge(bpe, symbols[left].id, symbols[right].id);
    symbols[left].rank = merge ? merge->rank : NONE;
    if (merge)
        push(queue, (candidate){merge->rank, left});
}

static void merge_pair(const fb_bpe *bpe, symbol *symbols, heap *queue, uint32_t left) {
    symbol *first = &symbols[left];
    symbol *second = &symbols[first->next];
    first->id = find_merge(bpe, first->id, second->id)->result;
    first->next = second->next;
    second->rank = NONE; /* candidates that begin at it are out of date */
    if (first->next != NONE)
        symbols[first->next].previous = left;
    consider(bpe, symbols, queue, left);
    if (first->previous != NONE)
        consider(bpe, symbols, queue, first->previous);
}

/* One candidate for each symbol at first, and at most two more for each merge. */
enum { CANDIDATES_PER_SYMBOL = 3 };

static fb_status reserve(fb_bpe_scratch *scratch, size_t length) {
    if (length <= scratch->capacity)
        return FB_OK;
    size_t capacity = length + length / 2 + 64;
    fb_bpe_scratch_free(scratch);
    FB_TRY(fb_alloc(capacity, sizeof(symbol), "symbols of a piece", &scratch->symbols));
    FB_TRY(fb_alloc(capacity, CANDIDATES_PER_SYMBOL * sizeof(candidate), "merges of a piece",
                    &scratch->heap));
    scratch->capacity = capacity;
    return FB_OK;
}

static fb_status append_id(fb_buffer *ids, int32_t id) {
    return fb_buffer_append(ids, &id, sizeof id);
}

static fb_status append_symbols(const fb_bpe *bpe, const symbol *symbols, fb_buffer *ids) {
    bool after_unknown = false;
    for (uint32_t at = 0; at != NONE; at = symbols[at].next) {
        bool unknown = symbols[at].id < 0;
        if (!unknown)
            FB_TRY(append_id(ids, symbols[at].id));
        else if (bpe->unknown_id >= 0 && !(after_unknown && bpe->fuse_unknown))
            FB_TRY(append_id(ids, bpe->unknown_id));
        after_unknown = unknown;
    }
    return FB_OK;
}

/* *id is the model's token that equals the whole piece, or -1. Text is never an added token here.
 */
static fb_status find_whole(const fb_vocabulary *vocabulary, const unsigned char *piece,
                            size_t length, int32_t *id) {
    fb_buffer spelling = {0};
    fb_status status = fb_byte_level_append_spelling(&spelling, piece, length);
    if (status == FB_OK)
        *id = fb_vocabulary_find(vocabulary, (const char *)spelling.data, spelling.size);
    const fb_token *token = fb_vocabulary_token(vocabulary, *id);
    if (token && !(token->flags & FB_TOKEN_OF_MODEL))
        *id = -1;
    fb_buffer_free(&spelling);
    return status;
}

fb_status fb_bpe_encode(const fb_bpe *bpe, const fb_vocabulary *vocabulary, fb_bpe_scratch *scratch,
                        const unsigned char *piece, size_t length, fb_buffer *ids) {
    if (bpe->ignore_merges) {
        int32_t id = -1;
        FB_TRY(find_whole(vocabulary, piece, length, &id));
        if (id >= 0)
            return append_id(ids, id);
    }
    FB_TRY(reserve(scratch, length));
    symbol *symbols = scratch->symbols;
    heap queue = {scratch->heap, 0};
    uint32_t count = (uint32_t)length;
    for (uint32_t i = 0; i < count; i++)
        symbols[i] = (symbol){bpe->byte_ids[piece[i]], i == 0 ? NONE : i - 1,
                              i + 1 == count ? NONE : i + 1, NONE};
    for (uint32_t i = 0; i < count; i++)
        consider(bpe, symbols, &queue, i);
    while (queue.count > 0) {
        candidate next = pop(&queue);
        if (symbols[next.left].rank == next.rank)
            merge_pair(bpe, symbols, &queue, next.left);
    }
    return append_symbols(bpe, symbols, ids);
}
