/* Truths that are kept in files, so that the next candidate of the same case does not compute them
 * again: the moments (moments.h) of large parts, one file each, named by a hash of all inputs.
 *
 * Nothing here can fail. A file that is missing, cannot be read, is broken or is not one of these
 * is as good as none, and is replaced. A folder that takes no files keeps nothing. A file appears
 * whole or not at all, and processes that keep the same truth at once write the same bytes. */
#ifndef FB_ORACLE_TRUTH_CACHE_H
#define FB_ORACLE_TRUTH_CACHE_H

#include "oracle/moments.h"

typedef struct fb_truth_cache fb_truth_cache;

/* `folder` is made when the first truth is kept; its parent has to be there. FB_ERROR_MEMORY. */
fb_status fb_truth_cache_open(const char *folder, fb_truth_cache **cache);
void fb_truth_cache_close(fb_truth_cache *cache); /* NULL is allowed */

/* Says that keys or values stay as they are until fb_truth_cache_release: they are read for the
 * hash only once. */
void fb_truth_cache_hold(fb_truth_cache *cache, const float *values, size_t count);
void fb_truth_cache_release(fb_truth_cache *cache);

/* Whether moments of this problem are worth a file; the name of the file. */
bool fb_truth_cache_takes(const fb_attention_problem *problem);
typedef struct fb_truth_key {
    unsigned char bytes[16];
} fb_truth_key;
fb_truth_key fb_truth_cache_key(fb_truth_cache *cache, const fb_attention_problem *problem,
                                fb_weight_format weights);

/* Fills in the moments of fb_moments_create if they are kept. Otherwise they are 0. */
bool fb_truth_cache_load(const fb_truth_cache *cache, const fb_truth_key *key,
                         const fb_attention_problem *problem, fb_moments *moments);
void fb_truth_cache_save(const fb_truth_cache *cache, const fb_truth_key *key,
                         const fb_attention_problem *problem, const fb_moments *moments);

#endif
