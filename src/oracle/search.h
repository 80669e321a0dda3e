/* The search for the known mistake that explains a wrong result. docs/judge.md, section 3. */
#ifndef FB_ORACLE_SEARCH_H
#define FB_ORACLE_SEARCH_H

#include "oracle/filter.h"

/* The noise of a wrong result is not that of the right one, so it may be three times as large. */
#define FB_MOST_NOISE 3.0

/* Mistakes that need a few keys or sums only. */
fb_status fb_try_cheap(fb_filter *filter, fb_wrong *wrong);

/* The best mistake explains enough to be named: most of each tensor's error. */
bool fb_best_is_named(const fb_filter *f);

/* Whether what the best mistake leaves is about as small as honest noise. What is left of a large
 * mistake may be the noise of its own arithmetic, or another one. */
bool fb_best_leaves_noise(fb_filter *f);

/* Those that take long, until the errors are explained. */
fb_status fb_try_dear(fb_filter *filter, fb_wrong *wrong);

/* Both, of one stage (fb_search). */
fb_status fb_search_stage(fb_filter *filter, fb_wrong *wrong, bool *named, bool *complete);

#endif
