/* How exact results are: what tells one arithmetic from another. docs/judge.md, section 1. */
#ifndef FB_ORACLE_EXACTNESS_H
#define FB_ORACLE_EXACTNESS_H

#include "oracle/filter.h"

/* The typical error of LSEs, or of outputs, over its noise; 0 if there are none. */
double fb_typical_ratio(const fb_filter *f, bool lse);

/* The weight of all keys but the largest one in a part. */
double fb_spread_of(const fb_trial_part *part, size_t row);

/* The typical error over its noise of outputs in which rounded weights show; infinite if there are
 * none. */
double fb_weighed_ratio(const fb_filter *f);

bool fb_has_outputs(const fb_trial *trial);

/* Whether the LSEs are as exact as float32 in those rows in which they would not be if queries and
 * keys were rounded to tf32: a score changes by some 2^-12 of its size then, at random from key to
 * key. Row by row, since rows of few keys and rows of many differ: in some it would show, in others
 * not. A tf32 kernel's rows come near the truth by chance, each with a known probability. */
bool fb_exact_as_float32(const fb_filter *f);

#endif
