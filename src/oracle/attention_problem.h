/* One attention problem of a case, batched, and everything that is asked of it: this build's
 * answer, the truth, the results of a plain implementation.
 *
 *   q        [batch, queries, heads, head_dim]       lse  [batch, heads, queries]
 *   k, v     [batch, keys, kv_heads, head_dim]       out  [batch, queries, heads, head_dim]
 */
#ifndef FB_ORACLE_ATTENTION_PROBLEM_H
#define FB_ORACLE_ATTENTION_PROBLEM_H

#include "oracle/case.h"

#include <flashblock/attention.h>

/* The largest sizes that are accepted. */
enum { FB_ATTENTION_MAX_SIZE = 1 << 24, FB_ATTENTION_MAX_HEAD_DIM = 65536 };

typedef struct fb_attention_problem {
    size_t batch, queries, keys, heads, kv_heads, head_dim;
    double scale;              /* never 0 */
    fb_mask mask;              /* {0}: every query sees every key */
    const size_t *key_lengths; /* [batch] the keys that an entry has; NULL: all of them */
    const float *q, *k, *v;
    bool lse_by_token; /* lse is [batch, queries, heads] */
} fb_attention_problem;

/* Reads "B", "H", "Hk", "D" of the params; q, k and v are the caller's. */
fb_status fb_attention_problem_sizes(fb_case *c, fb_attention_problem *problem);

/* Reads "softmax_scale", 1/sqrt(head_dim) where it is missing; head_dim is known. */
fb_status fb_attention_problem_scale(fb_case *c, fb_attention_problem *problem);

size_t fb_attention_problem_rows(const fb_attention_problem *problem); /* batch x queries x heads */
size_t fb_attention_problem_values(const fb_attention_problem *problem); /* rows x head_dim */

/* The keys of a batch entry, and the keys that a query of it sees: the first ones. */
size_t fb_attention_problem_keys(const fb_attention_problem *problem, size_t b);
size_t fb_attention_problem_seen(const fb_attention_problem *problem, size_t b, size_t query);

/* Whether every query sees all keys of the tensors. */
bool fb_attention_problem_whole(const fb_attention_problem *problem);

/* The problem of `tokens` queries of one batch entry, from query `first` on. */
fb_attention_problem fb_attention_problem_cut(const fb_attention_problem *problem, size_t b,
                                              size_t first, size_t tokens);

/* The index of a row's LSE. */
size_t fb_attention_problem_lse(const fb_attention_problem *problem, size_t b, size_t query,
                                size_t head);

/* This build's answer; the truth in double precision. */
fb_status fb_attention_problem_attend(const fb_attention_problem *problem, float *out, float *lse);
fb_status fb_attention_problem_truth(const fb_attention_problem *problem, double *out, double *lse);

/* A plain implementation in `precision`; the largest error of its outputs in float32. */
fb_status fb_attention_problem_plain(const fb_attention_problem *problem, fb_dtype precision,
                                     float *out, float *lse);
fb_status fb_attention_problem_plain_error(const fb_attention_problem *problem, const double *truth,
                                           double *error);

#endif
