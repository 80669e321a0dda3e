/* Calibration: which heads of a video model may reuse their block-external part at which step.
 *
 * The blocks of some sample clips are denoised densely. At a block's first pass (step 0) each
 * layer's block-external part is remembered; at each later step s the fresh part is compared with
 * the remembered one, head by head:
 *
 *     similarity[s, head] = mean over samples and tokens of cos(O, O')
 *     lse_change[s, head] = mean over samples and tokens of |L - L'|
 *
 * A head whose similarity is below the step's threshold, or whose LSE change is above its
 * threshold, refreshes: the fresh part then takes the remembered one's place, so that later steps
 * compare with what reuse would really hold. At the end both numbers are averaged over all blocks
 * (each counts once), and the same rule on the averages gives the heads that refresh. (The paper's
 * calibration text in video/inference.py; both inequalities are strict.)
 *
 * The block-internal parts are compared with step 0's as well; they decide nothing.
 *
 * FB_COMPAT_RELEASED: LSEs are rounded to bf16 before they are compared and remembered, as by the
 * paper's wrapper when it runs in bf16.
 *
 * A calibration file is JSON:
 *     format "flashblock-calibration", version 1, num_layers, num_heads, num_steps, compat,
 *     similarity_threshold, similarity_threshold_by_step [num_steps - 1] (null: the general one),
 *     lse_threshold, blocks: how many were averaged,
 *     similarity, lse_change, internal_similarity, refresh  [num_steps - 1][num_layers][num_heads]
 * for steps 1 .. num_steps - 1. `refresh` must follow from the numbers and the thresholds.
 */
#ifndef FLASHBLOCK_EXPERIMENTAL_CALIBRATION_H
#define FLASHBLOCK_EXPERIMENTAL_CALIBRATION_H

#include <flashblock/attention.h>
#include <flashblock/reuse.h>
#include <flashblock/status.h>

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Passes over a block, at most. */
enum { FB_CALIBRATION_MAX_STEPS = 64 };

/* Begin with fb_calibration_config_init. */
typedef struct fb_calibration_config {
    size_t struct_size;
    size_t num_layers, num_heads;
    size_t num_steps;            /* passes over a block, the one over its clean frames included */
    double similarity_threshold; /* in [-1, 1] */
    double step_thresholds[FB_CALIBRATION_MAX_STEPS]; /* of step s; NaN: similarity_threshold */
    double lse_threshold;                             /* at least 0 */
    fb_compat compat;
} fb_calibration_config;

/* The paper's thresholds, 0.85 and 0.05, for all steps; FB_COMPAT_PAPER. The caller sets
 * num_layers, num_heads and num_steps. */
FB_API void fb_calibration_config_init_sized(fb_calibration_config *config, size_t size);
static inline void fb_calibration_config_init(fb_calibration_config *config) {
    fb_calibration_config_init_sized(config, sizeof *config);
}

typedef struct fb_calibration fb_calibration;

/* Nothing observed yet. The caller owns *calibration. */
FB_API fb_status fb_calibration_create(const fb_calibration_config *config,
                                       fb_calibration **calibration);
FB_API void fb_calibration_destroy(fb_calibration *calibration); /* NULL is allowed */
FB_API const fb_calibration_config *fb_calibration_config_of(const fb_calibration *calibration);

/* The numbers of one observation, [num_heads] each; any pointer may be NULL. Untouched at step 0.
 */
typedef struct fb_head_changes {
    double *similarity, *lse_change, *internal_similarity;
    bool *refresh;
} fb_head_changes;

/* One layer of one pass over a block that has a history, in all samples at once:
 *   step      below num_steps; 0 remembers, the others compare
 *   external  [num_samples] fresh external parts, rows x num_heads of head_dim values
 *   internal  [num_samples] internal parts, or NULL
 *   changes   NULL, or where the numbers are to be written
 * Samples, rows and head_dim are those of the block's step 0. A calibration that was read from a
 * file observes nothing more: FB_ERROR_ARGUMENT. */
FB_API fb_status fb_calibration_observe(fb_calibration *calibration, size_t layer, size_t step,
                                        const fb_part *external, const fb_part *internal,
                                        size_t num_samples, size_t rows, size_t head_dim,
                                        const fb_head_changes *changes);

/* The averages of layer, step (1 .. num_steps - 1) and head; NaN before anything was observed. */
FB_API double fb_calibration_similarity(const fb_calibration *calibration, size_t layer,
                                        size_t step, size_t head);
FB_API double fb_calibration_lse_change(const fb_calibration *calibration, size_t layer,
                                        size_t step, size_t head);
FB_API double fb_calibration_internal_similarity(const fb_calibration *calibration, size_t layer,
                                                 size_t step, size_t head);

/* Blocks that the averages are of. */
FB_API size_t fb_calibration_blocks(const fb_calibration *calibration);

/* The heads that refresh: [num_heads], owned by the calibration, up to date until the
 * next observation. At step 0 all heads refresh; so do heads that were
 * never observed. NULL for a layer or
 * step out of range. */
FB_API const bool *fb_calibration_refresh(fb_calibration *calibration, size_t layer, size_t step);

/* The share of (step, layer, head) that reuses, over steps 1 .. num_steps - 1. */
FB_API double fb_calibration_reused_share(fb_calibration *calibration);

/* Files (library flashblock-lm). Saving needs at least one observed block. A file appears whole
 * or not at all, and a loaded calibration equals the saved one, to the bit. */
FB_API fb_status fb_calibration_save(fb_calibration *calibration, const char *path);
FB_API fb_status fb_calibration_load(const char *path, fb_calibration **calibration);

#ifdef __cplusplus
}
#endif

#endif
