/* An emulated attention kernel with a mistake planted in it: float32 sums, tiles with a running
 * maximum, splits, weights rounded before the second product, results stored in their type. */
#ifndef FB_TESTS_PLANTED_KERNEL_H
#define FB_TESTS_PLANTED_KERNEL_H

#include "oracle/arithmetic.h"

#include <flashblock/experimental/oracle.h>

#include <stdbool.h>
#include <stddef.h>

enum { ZERO_TOKEN = -1, MAX_PLANTED_DIM = 128, MAX_PLANTED_SPLITS = 16 };

typedef struct planted planted;

/* What is computed: one attention, or a denoising sequence. */
typedef struct scene {
    size_t batch, tokens, heads, kv_heads, dim, keys; /* keys: of the context, of an attention */
    size_t mask_block, mask_from;                     /* block-causal mask of an attention, or 0 */
    fb_dtype dtype, stored_as;                        /* of inputs; of outputs */
    fb_arithmetic arithmetic;
    fb_rounding rounding; /* of inputs and of weights */
    bool base2;
    size_t tile, splits;
    const planted *mistake;
    const fb_scripted *sequence;        /* NULL: one attention */
    size_t pass, stored, stored_before; /* stored: the passes of the last two refreshes */
} scene;

/* One row of a part, and the tokens that it reads as keys and as values, or ZERO_TOKEN. */
typedef struct row_plan {
    const scene *s;
    bool external; /* or the block's attention to itself; an attention is external */
    size_t b, token, head;
    size_t count, keys; /* tokens in the lists; tokens there are */
    ptrdiff_t *key, *value;
    size_t k_head, v_head, kv_batch, q_row;
    double scale;
} row_plan;

/* Changes of the lists. */
void remove_keys(row_plan *p, size_t first, size_t count);
void add_key(row_plan *p, ptrdiff_t token); /* at the end */

/* Results: out [batch, tokens, heads, dim], lse [batch, tokens, heads]. */
typedef struct part {
    float *out, *lse;
} part;

/* One row of a merge, or some lanes of it. */
typedef struct merging {
    const scene *s;
    size_t row, lane;
    float a, b;               /* LSEs */
    float weight_a, weight_b; /* not divided yet */
    float sum, lse;           /* lse: the result */
} merging;

/* The external part of a pass. */
typedef enum source { KEPT, OF_BEFORE, OF_OWN_QUERIES, OF_FIRST } source;

/* Mistakes inside of a part. */
enum {
    ACC_BF16 = 1,
    RESCALE_OUT = 2,  /* the output is not rescaled at one tile */
    RESCALE_BOTH = 4, /* nor is the row sum */
    LSE_OF_LAST = 8,  /* split's */
    SPLITS_AVERAGED = 16,
    SPLIT_UNWEIGHED = 32, /* the second split is added as if its maximum were the largest */
    SPLIT_BASE_2 = 64,    /* the second split's LSE is in base 2 */
    SUM_LACKS_TILE = 128, /* the row sum lacks the last tile */
    P_FP8 = 256,
    NO_LOG2_E = 512,
    SCORES_BF16 = 1024,
    OUTPUT_BF16 = 2048, /* of a part, rounded before the merge */
    EXTERNAL_ONLY = 4096,
    INTERNAL_ONLY = 8192,
    V_AS_K = 1 << 14, /* scores are of the values; K_AS_V: the keys are added up */
    K_AS_V = 1 << 15,
    SOFTMAX_TWICE = 1 << 16,
    NO_SOFTMAX = 1 << 17,     /* scores are the weights */
    LSE_MAX_BASE_2 = 1 << 18, /* the LSE is max log2 e + ln sum */
    LSE_SUM_BASE_2 = 1 << 19, /* max + log2 sum */
    LSE_MAX_RAW = 1 << 20,    /* the maximum of scores that are not scaled + ln sum */
    LSE_RAW = 1 << 21,        /* log sum exp of scores that are not scaled */
    ACC_F16 = 1 << 22,
    SOFT_CAP = 1 << 23,        /* scores are 30 tanh(s / 30) */
    ONE_MORE = 1 << 24,        /* the row sum has 1 too much */
    ONLY_SUM_ROUNDED = 1 << 25 /* the row sum is kept in bf16 */
};

/* What of a part a `pick` takes from elsewhere. */
enum { PICK_BOTH = 0, PICK_OUT = 1, PICK_LSE = 2 };

/* Inputs that are rounded to a lower type. */
enum { ROUND_Q = 1, ROUND_K = 2, ROUND_V = 4 };

/* The results of passes. */
enum {
    RESULT_OVERWRITES_OUT = 1, /* the merge is done in the memory of the stored part */
    RESULT_OVERWRITES_LSE = 2,
    RESULT_OF_BEFORE = 4, /* given out */
    RESULT_ADDED = 8,     /* to that of the pass before */
};

struct planted {
    const char *name;
    const char *word;   /* of the verdict that names it */
    const char *second; /* of the second mistake; NULL: there is one only */
    const char *place;  /* of the verdict that says where; NULL: everywhere */
    unsigned where;     /* below */
    unsigned inside;    /* of a part */
    void (*plan)(row_plan *plan);
    void (*part)(const scene *s, bool external, part *p);
    void (*merge)(merging *m);
    source (*pick)(const scene *s, size_t row);
    unsigned pick_only;
    void (*give)(const scene *s, bool external, part *p);
    unsigned results, inputs;
    fb_rounding input_rounding;
    size_t q_lag, kv_lag; /* passes: the queries, the block's keys and values are those of before */
};

/* Where a mistake can be made, and seen. */
enum {
    ATTENTION = 1,
    SEQUENCE = 2,
    BOTH = 3,
    GROUPED = 4, /* with fewer KV heads than heads */
    LONG = 8,    /* with many keys */
    MASKED = 16, /* an attention with a mask */
    BATCHED = 32,
    COARSE = 64,    /* in f32 only: coarser arithmetic does it rightly, or hides it */
    HONEST = 128,   /* changes nothing, or too little: it must pass */
    F32_ONLY = 256, /* honest in coarser arithmetic */
    MIXED = 512,    /* with float32 results of bf16 inputs, too */
    SHORT = 1024,   /* with few keys only: changes nothing where the external part weighs most */
};

part make_part(const scene *s);
void release_part(part *p);
size_t rows_of(const scene *s);

/* Attention of `tokens` queries: q [batch, tokens, heads, dim], k and v [batch, keys, kv_heads,
 * dim]. */
void attend_planted(const scene *s, bool external, const float *q, const float *k, const float *v,
                    size_t keys, part *to);

/* Plays all passes and gives their results to the candidate. */
void play_planted(scene *s, fb_candidate *candidate);

/* Rounds outputs to the type that they are stored in; returns them in it. */
void *store_planted(const scene *s, float *values, size_t count);

float *widened(fb_dtype dtype, const void *stored, size_t count);

#endif
