/* A second implementation of the selectors, for the tests. Each is written as plainly as the
 * formula of its paper, in double precision with libm, from dense tensors, without state. It shares
 * no code with src/. */
#ifndef FB_TESTS_SELECTOR_REFERENCE_H
#define FB_TESTS_SELECTOR_REFERENCE_H

#include <flashblock/experimental/selector.h>

/* q [num_queries, num_heads, head_dim];  k, v [num_keys, num_kv_heads, head_dim] */
typedef struct selector_case {
    size_t num_queries, num_heads, num_kv_heads, head_dim, num_keys, prompt_length;
    const float *q, *k, *v;
    double scale, density;
} selector_case;

size_t reference_num_blocks(const selector_case *c, const fb_selector_options *options);

/* chosen [lists, num_blocks], 1 where a block is selected (at a step that is not dense).
 * Returns the number of lists. */
size_t reference_select(const char *name, const selector_case *c,
                        const fb_selector_options *options, unsigned char *chosen);

/* Multipole's part of the unselected keys, with one list of `chosen` for each KV head.
 *   out [num_queries, num_heads, head_dim], lse [num_queries, num_heads] */
void reference_far_part(const selector_case *c, const fb_selector_options *options,
                        const unsigned char *chosen, double *out, double *lse);

#endif
