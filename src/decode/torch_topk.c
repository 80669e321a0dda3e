#include "decode/torch_topk.h"

#include <math.h>

typedef struct ranking {
    const float *value;
    const bool *eligible;
    size_t *order;
} ranking;

static bool precedes(const ranking *r, size_t a, size_t b) {
    float value_a = r->eligible[a] ? r->value[a] : -INFINITY;
    float value_b = r->eligible[b] ? r->value[b] : -INFINITY;
    return value_a > value_b;
}

static void swap(size_t *a, size_t *b) {
    size_t kept = *a;
    *a = *b;
    *b = kept;
}

/* The one of a, b, c (indices into order) whose element is in the middle. */
static size_t median(const ranking *r, size_t a, size_t b, size_t c) {
    const size_t *order = r->order;
    if (precedes(r, order[a], order[b])) {
        if (precedes(r, order[b], order[c]))
            return b;
        return precedes(r, order[a], order[c]) ? c : a;
    }
    if (precedes(r, order[a], order[c]))
        return a;
    return precedes(r, order[b], order[c]) ? c : b;
}

/* Partitions order[first + 1, last) around the median of three, which goes to order[first];
 * returns where the second part begins. */
static size_t partition(const ranking *r, size_t first, size_t last) {
    size_t *order = r->order;
    swap(&order[first], &order[median(r, first + 1, first + (last - first) / 2, last - 1)]);
    size_t left = first + 1, right = last;
    for (;;) {
        while (precedes(r, order[left], order[first]))
            left++;
        right--;
        while (precedes(r, order[first], order[right]))
            right--;
        if (left >= right)
            return left;
        swap(&order[left], &order[right]);
        left++;
    }
}

static void insertion_sort(const ranking *r, size_t first, size_t last) {
    for (size_t i = first + 1; i < last; i++)
        for (size_t j = i; j > first && precedes(r, r->order[j], r->order[j - 1]); j--)
            swap(&r->order[j], &r->order[j - 1]);
}

void fb_torch_topk(const float *value, const bool *eligible, size_t size, size_t count,
                   size_t *order) {
    ranking r = {value, eligible, order};
    for (size_t i = 0; i < size; i++)
        order[i] = i;
    if (count == 0 || count > size)
        return;
    size_t first = 0, last = size;
    while (last - first > 3) {
        size_t cut = partition(&r, first, last);
        if (cut <= count - 1)
            first = cut;
        else
            last = cut;
    }
    insertion_sort(&r, first, last);
}
