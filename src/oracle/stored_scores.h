/* Scores that are stored in the type of the inputs ("eager" kernels): what they look like.
 * docs/judge.md, section 2. */
#ifndef FB_ORACLE_STORED_SCORES_H
#define FB_ORACLE_STORED_SCORES_H

#include "oracle/filter.h"

/* Sets whether scores may be stored so, and sigma with it. */
void fb_allow_eager(fb_trial *trial, bool allowed);

/* Whether the LSEs may be those of stored scores: far more exact ones are of a kernel that does not
 * store them. */
bool fb_shows_eager(const fb_filter *f);

/* Whether stored scores may be what the best mistake was found for. They look like a small factor
 * or offset, if the rest is as large as their noise; and like a mistake in a few rows, if their
 * noise would hide it there. */
bool fb_may_be_eager(fb_filter *f);

#endif
