#include "decode/remask.h"

#include "decode/torch_topk.h"

#include <math.h>

static bool above_threshold(const fb_remask_step *step, size_t position) {
    float confidence = step->confidence[position];
    if (step->rule == FB_BUDGET_FLOOR)
        return (double)confidence > step->confidence_threshold;
    return confidence > (float)step->confidence_threshold;
}

static size_t masked_positions(const fb_remask_step *step, size_t *positions) {
    size_t count = 0;
    for (size_t i = 0; i < step->block_size; i++)
        if (step->masked[i])
            positions[count++] = i;
    return count;
}

/* Stable, so that equal keys keep the lower position first. Blocks are short. */
static void sort_by_key(size_t *positions, size_t count, const float *key, bool descending) {
    for (size_t i = 1; i < count; i++) {
        size_t moving = positions[i], j = i;
        for (; j > 0; j--) {
            float before = key[positions[j - 1]];
            if (descending ? !(key[moving] > before) : !(key[moving] < before))
                break;
            positions[j] = positions[j - 1];
        }
        positions[j] = moving;
    }
}

/* The `count` highest confidences, by the rule's idea of "highest". */
static size_t accept_highest(const fb_remask_step *step, size_t count, size_t *accepted) {
    if (step->rule != FB_BUDGET_FLOOR) {
        fb_torch_topk(step->confidence, step->masked, step->block_size, count, accepted);
        return count;
    }
    size_t masked = masked_positions(step, accepted);
    sort_by_key(accepted, masked, step->confidence, true);
    return count < masked ? count : masked;
}

static size_t accept_dynamic(const fb_remask_step *step, size_t *accepted) {
    size_t above = 0;
    for (size_t i = 0; i < step->block_size; i++)
        if (step->masked[i] && above_threshold(step, i))
            accepted[above++] = i;
    if (step->rule != FB_BUDGET_CAP)
        return above < step->budget ? accept_highest(step, step->budget, accepted) : above;
    if (step->budget == 0)
        return 0;
    if (above == 0)
        return accept_highest(step, 1, accepted);
    return above > step->budget ? accept_highest(step, step->budget, accepted) : above;
}

static size_t accept_range(const fb_remask_step *step, size_t *accepted) {
    size_t first = 0, count = 0;
    while (first < step->block_size && !step->masked[first])
        first++;
    while (first + count < step->block_size && count < step->budget) {
        accepted[count] = first + count;
        count++;
    }
    return count;
}

/* As many of the lowest entropies as stay below the bound together; at least one. */
static size_t accept_entropy(const fb_remask_step *step, size_t *accepted) {
    size_t masked = masked_positions(step, accepted);
    sort_by_key(accepted, masked, step->entropy, false);
    double sum = 0.0;
    size_t count = 0;
    while (count < masked) {
        sum += (double)step->entropy[accepted[count]];
        if (!(sum < step->entropy_bound))
            break;
        count++;
    }
    size_t floor = step->rule == FB_BUDGET_FLOOR && step->budget > 1 ? step->budget : 1;
    if (count < floor)
        count = floor;
    return count < masked ? count : masked;
}

size_t fb_remask(const fb_remask_step *step, size_t *accepted) {
    switch (step->strategy) {
    case FB_LOW_CONFIDENCE_DYNAMIC:
        return accept_dynamic(step, accepted);
    case FB_LOW_CONFIDENCE_STATIC:
        return accept_highest(step, step->budget, accepted);
    case FB_SEQUENTIAL:
        return accept_range(step, accepted);
    case FB_ENTROPY_BOUNDED:
        return accept_entropy(step, accepted);
    }
    return 0;
}

size_t fb_remask_budget(size_t block_size, size_t steps, size_t step) {
    if (step >= steps)
        return 1;
    return block_size / steps + (step < block_size % steps ? 1 : 0);
}
