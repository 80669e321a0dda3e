/* Attention in double precision, with what the noise of honest kernels is made of: sums over the
 * keys of a row with weights p = softmax(s). It is as exact as truth.h, but not the same to the bit
 * from machine to machine, and several times faster. */
#ifndef FB_ORACLE_MOMENTS_H
#define FB_ORACLE_MOMENTS_H

#include "oracle/arithmetic.h"
#include "oracle/attention_problem.h"

/* Attention that differs from the problem's. NULL and 0 change nothing. */
typedef struct fb_variant {
    double scale_factor;       /* of the scale; 0: 1 */
    const size_t *kv_heads;    /* [heads]: the KV head that a query head reads */
    const size_t *value_heads; /* [heads]: the KV head of its values, if it is another */
    /* [key_count]: the token that is read as key, as value number j; SIZE_MAX: zeros. Without a
     * mask only, or with by_token. */
    const size_t *key_index, *value_index;
    size_t key_count;
    /* With key_index, also where queries see different numbers of keys: a query sees what is read
     * before the first token that it does not see. Tokens that no query sees are zeros. */
    bool by_token;
    bool strict;           /* with a mask, keys before the query's block only */
    ptrdiff_t more;        /* with a mask, so many keys are seen too many (or, below 0, too few) */
    const size_t *batches; /* [batch]: the entry whose keys and values are read */
    double *max;           /* [rows] is filled in with the largest scores */
} fb_variant;

/* rows: [batch, queries, heads]; values: [rows, head_dim] */
typedef struct fb_moments {
    double *out, *lse;   /* sum p v [values], log sum exp(s) [rows] */
    double *max;         /* [rows] the largest score */
    double *p2, *p4;     /* [rows] sum p^2, p^4 */
    double *ps;          /* [rows] sum p s */
    double *lost;        /* [rows] sum p - rounded p, of weights exp(s - max) that are rounded */
    float *p2v, *p2vv;   /* [values] sum p^2 v, p^2 v^2 */
    float *psv;          /* [values] sum p s v */
    double *score_size;  /* [rows] scale |q| |k|, |k| the root mean square of the keys' norms */
    double *mean_square; /* [batch, kv_heads, head_dim] of v over the keys */
    double *memory;
} fb_moments;

/* Raise it with every change of moments.c that changes a result: truths are kept (truth_cache.h).
 */
enum { FB_MOMENTS_VERSION = 2 };

/* The doubles of `memory`, which holds all members. */
size_t fb_moments_count(const fb_attention_problem *problem);

/* Memory for all; everything is 0. fb_moments_free. */
fb_status fb_moments_create(const fb_attention_problem *problem, fb_moments *moments);
void fb_moments_free(fb_moments *moments);

/* Fills in all members, `lost` for these weights. */
fb_status fb_moments_compute(const fb_attention_problem *problem, fb_weight_format weights,
                             fb_moments *moments);

/* Only out and lse, of other attention: [values], [rows]. */
fb_status fb_variant_attend(const fb_attention_problem *problem, const fb_variant *variant,
                            double *out, double *lse);

#endif
