/* The known mistakes, by subject. Each function tries all of its subject's. */
#ifndef FB_ORACLE_KNOWN_H
#define FB_ORACLE_KNOWN_H

#include "oracle/filter.h"

typedef fb_status fb_try_known_fn(fb_filter *filter, fb_wrong *wrong);

/* From what is known: a few keys, and sums over all. */
fb_try_known_fn fb_try_results; /* known_results.c: layouts, bases, what is given out */
fb_try_known_fn fb_try_lanes;   /* known_lanes.c: outputs that are not written */
fb_try_known_fn fb_try_lses;    /* known_lses.c: maxima, bases */
fb_try_known_fn fb_try_merges;  /* known_merges.c: weights, LSEs in the merge, kept types */
fb_try_known_fn fb_try_reuse;   /* known_reuse.c: stale and refreshed parts, rows, passes */
fb_try_known_fn fb_try_ends;    /* known_ends.c: keys at either end, zeros read too many */
fb_try_known_fn fb_try_sizes;   /* known_sizes.c: scale, offsets and factors, as large as found */
fb_try_known_fn fb_try_block;   /* known_masks.c: masks; the block's own keys and values */

/* These compute attention anew, or take long otherwise. */
fb_try_known_fn fb_try_lane_order; /* known_lanes.c: lanes in another order */
fb_try_known_fn fb_try_scales;     /* known_heads.c: scales, exp2 */
fb_try_known_fn fb_try_heads;      /* known_heads.c: which KV head a head reads, shifted values */
fb_try_known_fn fb_try_half_heads; /* known_heads.c: keys and values of different KV heads */
fb_try_known_fn fb_try_keys;       /* known_keys.c: keys and values lost, repeated, exchanged */
fb_try_known_fn fb_try_inputs;  /* known_attention.c: other queries, keys, values; rounded ones */
fb_try_known_fn fb_try_noise;   /* known_noise.c: accumulators of a lower type */
fb_try_known_fn fb_try_softmax; /* known_attention.c: no softmax, two of them, capped scores */
fb_try_known_fn fb_try_pages;   /* known_pages.c: tiles and splits that are wrongly added up */

/* Factors of the scale that have a reason, and what is said of them. Returns how many there are. */
enum { FB_MAX_SCALE_NAMES = 10 };
typedef struct fb_scale_name {
    double factor;
    const char *words;
} fb_scale_name;
size_t fb_scale_names(const fb_trial *trial, fb_scale_name *names); /* known_sizes.c */

/* Whether a run of keys that is lost, or read twice, would explain most of the errors. */
fb_status fb_keys_explain(const fb_trial *trial, bool *explain); /* known_keys.c */

/* Tries the mistakes of a list. */
fb_status fb_try_list(fb_filter *filter, fb_wrong *wrong, const fb_known *list, size_t count);

#endif
