/* A plain implementation in a given precision: softmax(q k^T) v in one pass, without the library's
 * order of operations. Its error is the yardstick for candidates. */
#ifndef FB_ORACLE_PLAIN_H
#define FB_ORACLE_PLAIN_H

#include <flashblock/attention.h>

#include <stdbool.h>

/* Half the spacing of `precision` at 1: its relative rounding error. */
double fb_plain_roundoff(fb_dtype precision);

/* Rounds the values in place to numbers that `precision` holds. */
void fb_plain_round(fb_dtype precision, float *values, size_t count);

/* Whether the query row `query` sees the view's key `key`. `mask` may be NULL. */
bool fb_plain_sees(const fb_mask *mask, size_t query, size_t key);

/* Inputs, scores, weights and outputs are rounded to `precision`; sums are float32, as GPU matrix
 * units have them. `mask` may be NULL. Results are dense: out [num_queries, num_heads, head_dim],
 * lse [num_queries, num_heads] (float32, not rounded). */
fb_status fb_plain_attention(const fb_queries *queries, const fb_view *view, const fb_mask *mask,
                             float scale, fb_dtype precision, float *out, float *lse);

#endif
