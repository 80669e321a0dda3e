/* Remasking: which of a block's masked positions keep the token that a denoising step proposed.
 * Pure functions of the step's numbers; no state, no model.
 *
 * Sources: Scheduler.postprocess of the paper's engine, sample_and_select_transfer_tokens of its
 * training code. */
#ifndef FB_DECODE_REMASK_H
#define FB_DECODE_REMASK_H

#include <flashblock/generate.h>

#include <stdbool.h>
#include <stddef.h>

/* Three rules of the paper's code for the budget, under the same strategy names.
 *   FB_BUDGET_FLOOR         low_confidence_dynamic accepts every confidence above the threshold,
 *                           the `budget` highest if those are fewer; entropy_bounded accepts at
 *                           least `budget` (the engine would leave masks in the block when its
 *                           steps run out). Masked positions only. The default.
 *   FB_BUDGET_FLOOR_TENSOR  the engine's other code path (on the GPU, or where sequences sample
 *                           differently): the highest are taken by torch.topk over a row in which
 *                           decided positions hold -inf, so a budget above the number of masks
 *                           overwrites decided tokens; entropy_bounded ignores the budget
 *   FB_BUDGET_CAP           the training code: low_confidence_dynamic never accepts more than
 *                           `budget` (0: nothing), and the highest one if none is above the
 *                           threshold; torch.topk as before
 * The engine's list path compares a confidence with the threshold in double precision, the two
 * others in float32. */
typedef enum fb_budget_rule {
    FB_BUDGET_FLOOR = 0,
    FB_BUDGET_FLOOR_TENSOR,
    FB_BUDGET_CAP,
} fb_budget_rule;

typedef struct fb_remask_step {
    fb_remasking strategy;
    fb_budget_rule rule;
    size_t block_size, budget; /* budget <= block_size */
    const bool *masked;        /* [block_size] */
    const float *confidence;   /* [block_size]: probability of the proposed token; not NaN */
    const float *entropy;      /* [block_size], natural log; entropy_bounded only */
    double confidence_threshold, entropy_bound;
} fb_remask_step;

/* Writes the accepted positions to accepted[block_size], each once, and returns their number.
 * Order: of the positions for a threshold or a range; descending confidence, then ascending
 * position, for the `budget` highest; ascending entropy; unspecified where torch.topk chooses.
 * `sequential` takes the `budget` positions from the first masked one on, decided ones included;
 * it ends with the block. */
size_t fb_remask(const fb_remask_step *step, size_t *accepted);

/* The budget of a step: block_size / steps, one more in the first block_size % steps steps; 1 for
 * a step past the last (the engine's default there). steps >= 1. */
size_t fb_remask_budget(size_t block_size, size_t steps, size_t step);

#endif
