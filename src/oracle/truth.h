/* Attention in double precision, made of nothing but exactly rounded operations (+ - * / sqrt, and
 * exp and log that are made of them). Its results have the same bits on every machine; with libm
 * they would not, because exp differs from one C library to the next. Generated cases state these
 * results as their truth.
 *
 * The readable truth is fb_attend_reference. A test checks that the two agree to some 1e-15. This
 * one uses threads. */
#ifndef FB_ORACLE_TRUTH_H
#define FB_ORACLE_TRUTH_H

#include <flashblock/status.h>

#include <stddef.h>

/* ln x, a few 1e-16 relative from the exact value: x > 0 and normal, +inf, NaN. */
double fb_truth_log(double x);

typedef struct fb_truth_problem {
    const float *q;     /* [queries, heads, head_dim] */
    const float *k, *v; /* [keys, kv_heads, head_dim]; may be NULL when keys is 0 */
    size_t queries, keys, heads, kv_heads, head_dim;
    double scale;
} fb_truth_problem;

/* out [queries, heads, head_dim], lse [queries, heads]; O = 0, L = -inf without keys. Uses the
 * threads that are set; they change no bit. */
fb_status fb_truth_attend(const fb_truth_problem *problem, double *out, double *lse);

/* The merge of docs/contract.md C4, in double precision and row by row. `out`, `lse` may be those
 * of a or b. */
void fb_truth_merge(const double *out_a, const double *lse_a, const double *out_b,
                    const double *lse_b, size_t num_rows, size_t head_dim, double *out,
                    double *lse);

#endif
