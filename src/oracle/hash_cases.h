/* The table of the cases that have a golden hash. */
#ifndef FB_ORACLE_HASH_CASES_H
#define FB_ORACLE_HASH_CASES_H

#include <flashblock/attention.h>

#include <stdbool.h>
#include <stddef.h>

typedef enum fb_hash_kind {
    FB_HASH_ATTEND = 0, /* fb_attend */
    FB_HASH_MERGE,      /* fb_merge of two made-up parts */
    FB_HASH_ROWS,       /* refresh by rows, steps times (hash_rows.h) */
    FB_HASH_PRODUCT,    /* a linear layer over float or quantised weights (hash_product.h) */
    FB_HASH_SEQUENCE,   /* every pass of a denoising sequence (script.h) and its stored parts */
} fb_hash_kind;

/* What is unusual about a case's inputs. Normal means about N(0, 1), from inputs.h. */
typedef enum fb_hash_content {
    FB_HASH_NORMAL = 0,
    FB_HASH_LARGE,        /* scores of some 1e4: queries and keys times 100 */
    FB_HASH_PEAKED,       /* scores of some 30 */
    FB_HASH_SUBNORMAL,    /* queries, keys and values below 2^-126 */
    FB_HASH_ZERO,         /* queries of 0: every key weighs the same */
    FB_HASH_HUGE_VALUES,  /* values of some 1e37 */
    FB_HASH_NAN_QUERY,    /* a NaN in one query: its row is NaN, no other */
    FB_HASH_NAN_KEY,      /* a NaN in a key late in the view: rows that see it are NaN */
    FB_HASH_NAN_VALUE,    /* a NaN in one value */
    FB_HASH_INF_KEY,      /* a key that gives scores of +inf to some rows, of -inf to others */
    FB_HASH_ALL_MINUS,    /* every score is -inf: empty rows */
    FB_HASH_FIRST_MINUS,  /* the scores of the first 100 keys are -inf */
    FB_HASH_A_EMPTY,      /* merges: a has -inf throughout, and NaN outputs */
    FB_HASH_B_EMPTY,      /* b has */
    FB_HASH_BOTH_EMPTY,   /* both have */
    FB_HASH_SOME_EMPTY,   /* every third row of a, every fifth of b */
    FB_HASH_FAR,          /* LSEs that differ by up to 400 */
    FB_HASH_LSE_EXTREMES, /* +inf, NaN and -inf among the LSEs */
    FB_HASH_ROW_SIZES,    /* products: rows of x of 0, below 2^-100, and of some 1e30 */
    FB_HASH_TIES,         /* products: halves between integers when x is quantised */
} fb_hash_content;

enum { FB_HASH_MAX_RANGES = 4 };

typedef struct fb_hash_case {
    const char *name;
    fb_hash_kind kind;
    size_t queries, heads, kv_heads, head_dim;
    size_t keys; /* tokens of the KV; of a sequence: context_length */
    fb_dtype dtype;
    fb_hash_content content;
    bool paged;       /* keys and values in a KV cache, not in rows */
    bool heads_first; /* lse [heads, queries] */
    float scale;      /* 0: 1/sqrt(head_dim) */
    fb_mask mask;
    size_t num_ranges; /* 0: all keys, unless there are none */
    fb_range ranges[FB_HASH_MAX_RANGES];
    size_t tau, steps; /* of a sequence; queries is its block_size */
    bool mean_key;     /* mean keys too, after the outputs */
    bool corrected;    /* of refresh by rows: with the first-order correction */
    /* Of a product of `queries` rows of x with weights [features, columns]. */
    size_t features, columns;
    int bits;               /* of the weights: 8 or 4; 0: they are of `dtype` */
    size_t group_size;      /* columns that share a scale */
    bool zero_points;       /* of groups, with 4 bits */
    bool ordered;           /* the weights' columns are in an order of their own */
    bool float_activations; /* x stays float32 */
} fb_hash_case;

extern const fb_hash_case fb_hash_cases[];
extern const size_t fb_num_hash_cases;

#endif
