/* Selections: lists of key blocks, and how scores become one. */
#include "base/error.h"
#include "base/memory.h"
#include "cache/selector_family.h"

#include <flashblock/experimental/selector.h>

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

static const size_t *list_of(const fb_selection *selection, size_t list) {
    return selection->blocks + list * selection->num_blocks;
}

/* --- shape and lists -------------------------------------------------------------------------- */

fb_status fb_selection_begin(fb_selection *selection, size_t block_keys, size_t num_keys,
                             size_t num_lists) {
    if (!selection)
        return fb_fail(FB_ERROR_ARGUMENT, "selection is NULL");
    if (block_keys == 0 || block_keys % 16 != 0)
        return fb_fail(FB_ERROR_ARGUMENT,
                       "block_keys is %zu, expected a multiple of 16, at least 16", block_keys);
    if (num_lists == 0)
        return fb_fail(FB_ERROR_ARGUMENT, "num_lists is 0, expected at least 1");
    size_t num_blocks = num_keys / block_keys + (num_keys % block_keys != 0), elements = 0;
    if (!fb_size_add(num_blocks, 1, &elements) || !fb_size_mul(elements, num_lists, &elements))
        return fb_fail(FB_ERROR_MEMORY, "selection: %zu lists of %zu blocks overflow", num_lists,
                       num_blocks);
    if (elements > selection->capacity) {
        size_t *memory = NULL;
        FB_TRY(fb_alloc(elements, sizeof *memory, "selection", &memory));
        fb_free(selection->counts);
        selection->counts = memory;
        selection->capacity = elements;
    }
    selection->block_keys = block_keys;
    selection->num_keys = num_keys;
    selection->num_blocks = num_blocks;
    selection->num_lists = num_lists;
    selection->blocks = selection->counts + num_lists;
    memset(selection->counts, 0, num_lists * sizeof *selection->counts);
    return FB_OK;
}

static fb_status check_list(const fb_selection *selection, size_t list) {
    if (!selection)
        return fb_fail(FB_ERROR_ARGUMENT, "selection is NULL");
    if (list >= selection->num_lists)
        return fb_fail(FB_ERROR_ARGUMENT, "list is %zu, expected below the selection's %zu", list,
                       selection->num_lists);
    return FB_OK;
}

fb_status fb_selection_set(fb_selection *selection, size_t list, const size_t *blocks,
                           size_t count) {
    FB_TRY(check_list(selection, list));
    if (count > selection->num_blocks)
        return fb_fail(FB_ERROR_ARGUMENT, "count is %zu, expected at most the %zu blocks", count,
                       selection->num_blocks);
    if (count > 0 && !blocks)
        return fb_fail(FB_ERROR_ARGUMENT, "blocks is NULL with %zu of them", count);
    for (size_t i = 0; i < count; i++) {
        if (blocks[i] >= selection->num_blocks)
            return fb_fail(FB_ERROR_ARGUMENT, "blocks[%zu] is %zu, expected below %zu", i,
                           blocks[i], selection->num_blocks);
        if (i > 0 && blocks[i] <= blocks[i - 1])
            return fb_fail(FB_ERROR_ARGUMENT, "blocks[%zu] is %zu after %zu, expected ascending", i,
                           blocks[i], blocks[i - 1]);
    }
    if (count > 0)
        memmove(selection->blocks + list * selection->num_blocks, blocks, count * sizeof *blocks);
    selection->counts[list] = count;
    return FB_OK;
}

fb_status fb_selection_set_all(fb_selection *selection, size_t list) {
    FB_TRY(check_list(selection, list));
    size_t *to = selection->blocks + list * selection->num_blocks;
    for (size_t block = 0; block < selection->num_blocks; block++)
        to[block] = block;
    selection->counts[list] = selection->num_blocks;
    return FB_OK;
}

/* --- the largest scores ----------------------------------------------------------------------- */

/* Whether block a ranks before block b: larger score, then lower index; NaN is -inf. */
static bool before(const double *scores, size_t a, size_t b) {
    double score_a = isnan(scores[a]) ? (double)-INFINITY : scores[a];
    double score_b = isnan(scores[b]) ? (double)-INFINITY : scores[b];
    return score_a != score_b ? score_a > score_b : a < b;
}

/* A heap whose root is the block of the last rank: a parent ranks after its children. */
static void sift_down(const double *scores, size_t *heap, size_t count, size_t parent) {
    for (;;) {
        size_t child = 2 * parent + 1;
        if (child >= count)
            return;
        if (child + 1 < count && before(scores, heap[child], heap[child + 1]))
            child++;
        if (before(scores, heap[child], heap[parent]))
            return;
        size_t block = heap[parent];
        heap[parent] = heap[child];
        heap[child] = block;
        parent = child;
    }
}

/* A heap of the best so far, O(num_blocks log count); then its root, the last of them, goes to the
 * end, and so on. */
void fb_order_blocks(const double *scores, size_t num_blocks, size_t *order, size_t count) {
    if (count == 0)
        return;
    for (size_t block = 0; block < count; block++)
        order[block] = block;
    for (size_t parent = count / 2; parent-- > 0;)
        sift_down(scores, order, count, parent);
    for (size_t block = count; block < num_blocks; block++)
        if (before(scores, block, order[0])) {
            order[0] = block;
            sift_down(scores, order, count, 0);
        }
    for (size_t end = count; end-- > 1;) {
        size_t last = order[0];
        order[0] = order[end];
        order[end] = last;
        sift_down(scores, order, end, 0);
    }
}

static int compare_indices(const void *a, const void *b) {
    size_t left = *(const size_t *)a, right = *(const size_t *)b;
    return (left > right) - (left < right);
}

void fb_sort_blocks(size_t *blocks, size_t count) {
    if (count > 1)
        qsort(blocks, count, sizeof *blocks, compare_indices);
}

fb_status fb_selection_set_top(fb_selection *selection, size_t list, const double *scores,
                               size_t count) {
    FB_TRY(check_list(selection, list));
    if (count >= selection->num_blocks)
        return fb_selection_set_all(selection, list);
    if (count > 0 && !scores)
        return fb_fail(FB_ERROR_ARGUMENT, "scores is NULL");
    size_t *blocks = selection->blocks + list * selection->num_blocks;
    fb_order_blocks(scores, selection->num_blocks, blocks, count);
    fb_sort_blocks(blocks, count);
    selection->counts[list] = count;
    return FB_OK;
}

size_t fb_selection_budget(size_t num_blocks, double density) {
    double count = floor(density * (double)num_blocks + 0.5);
    if (!(count > 0.0))
        return 0;
    return count < (double)num_blocks ? (size_t)count : num_blocks;
}

/* --- copies, complements, ranges -------------------------------------------------------------- */

void fb_selection_release(fb_selection *selection) {
    if (!selection)
        return;
    fb_free(selection->counts);
    *selection = (fb_selection){0};
}

fb_status fb_selection_copy(const fb_selection *from, fb_selection *to) {
    if (!from || !to)
        return fb_fail(FB_ERROR_ARGUMENT, "%s is NULL", from ? "to" : "from");
    if (from->num_lists == 0) {
        fb_selection_release(to);
        return FB_OK;
    }
    if (from == to)
        return FB_OK;
    FB_TRY(fb_selection_begin(to, from->block_keys, from->num_keys, from->num_lists));
    for (size_t list = 0; list < from->num_lists; list++)
        FB_TRY(fb_selection_set(to, list, list_of(from, list), from->counts[list]));
    return FB_OK;
}

fb_status fb_selection_complement(const fb_selection *selection, fb_selection *complement) {
    if (!selection || !complement)
        return fb_fail(FB_ERROR_ARGUMENT, "%s is NULL", selection ? "complement" : "selection");
    if (selection == complement)
        return fb_fail(FB_ERROR_ARGUMENT, "complement is the selection itself");
    FB_TRY(fb_selection_begin(complement, selection->block_keys, selection->num_keys,
                              selection->num_lists));
    for (size_t list = 0; list < selection->num_lists; list++) {
        const size_t *chosen = list_of(selection, list);
        size_t *rest = complement->blocks + list * complement->num_blocks;
        size_t next = 0, count = 0;
        for (size_t block = 0; block < selection->num_blocks; block++)
            if (next < selection->counts[list] && chosen[next] == block)
                next++;
            else
                rest[count++] = block;
        complement->counts[list] = count;
    }
    return FB_OK;
}

static size_t block_end(const fb_selection *selection, size_t block) {
    return block + 1 == selection->num_blocks ? selection->num_keys
                                              : (block + 1) * selection->block_keys;
}

size_t fb_selection_ranges(const fb_selection *selection, size_t list, fb_range *ranges) {
    const size_t *blocks = list_of(selection, list);
    size_t count = 0;
    for (size_t i = 0; i < selection->counts[list]; i++) {
        size_t begin = blocks[i] * selection->block_keys, end = block_end(selection, blocks[i]);
        if (count > 0 && ranges[count - 1].end == begin)
            ranges[count - 1].end = end;
        else
            ranges[count++] = (fb_range){begin, end};
    }
    return count;
}

size_t fb_selection_tokens(const fb_selection *selection, size_t list) {
    size_t count = selection->counts[list];
    if (count == 0)
        return 0;
    size_t last = list_of(selection, list)[count - 1];
    return (count - 1) * selection->block_keys + block_end(selection, last) -
           last * selection->block_keys;
}

/* --- identity --------------------------------------------------------------------------------- */

bool fb_selection_equal(const fb_selection *a, const fb_selection *b) {
    if (a->block_keys != b->block_keys || a->num_keys != b->num_keys ||
        a->num_lists != b->num_lists)
        return false;
    for (size_t list = 0; list < a->num_lists; list++)
        if (a->counts[list] != b->counts[list] ||
            memcmp(list_of(a, list), list_of(b, list), a->counts[list] * sizeof *a->blocks) != 0)
            return false;
    return true;
}

/* Numbers are hashed as eight little-endian bytes, so that an id is the same everywhere. */
static void hash_number(XXH3_state_t *state, uint64_t number) {
    unsigned char bytes[8];
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (unsigned char)(number >> 8 * i);
    (void)XXH3_64bits_update(state, bytes, sizeof bytes);
}

uint64_t fb_selection_id(const fb_selection *selection) {
    XXH3_state_t state;
    XXH3_INITSTATE(&state);
    (void)XXH3_64bits_reset(&state);
    hash_number(&state, selection->block_keys);
    hash_number(&state, selection->num_keys);
    hash_number(&state, selection->num_lists);
    for (size_t list = 0; list < selection->num_lists; list++) {
        hash_number(&state, selection->counts[list]);
        for (size_t i = 0; i < selection->counts[list]; i++)
            hash_number(&state, list_of(selection, list)[i]);
    }
    uint64_t id = XXH3_64bits_digest(&state);
    return id ? id : 1;
}
