/* Attention composed of a peer's matrix products, as a user without this library would write it:
 *
 *     scores = Q K^T     the query heads of a KV head folded into the rows of Q
 *     softmax            softmax.h
 *     O = P V            divided by the row sums afterwards
 *
 * Keys and values lie in dense matrices, one a KV head, keys as rows or as columns, whichever suits
 * the peer; a thread takes a KV head, or a block of its rows where the scores of all would not fit
 * the caches. Nothing is allocated, transposed or converted while the time is taken, except P where
 * the product wants bf16 or f16. */
#ifndef FB_BENCH_COMPOSED_H
#define FB_BENCH_COMPOSED_H

#include "bench/attention_run.h"
#include "bench/peer.h"

#include <flashblock/status.h>

/* The matrices of a shape, for all peers: folded queries, keys and values. Starts as {0}. */
typedef struct fb_composed_matrices {
    const fb_attention_run *data;
    size_t rows;        /* of a KV head: num_queries * num_heads / num_kv_heads */
    void *q;            /* [num_kv_heads, rows, head_dim] in the shape's dtype */
    void *k, *v;        /* [num_kv_heads, context, head_dim], likewise */
    void *k_transposed; /* [num_kv_heads, head_dim, context]: some products are faster with it */
} fb_composed_matrices;

/* `data` must outlive it. */
fb_status fb_composed_matrices_prepare(fb_composed_matrices *matrices,
                                       const fb_attention_run *data);
void fb_composed_matrices_free(fb_composed_matrices *matrices);

/* Buffers and plans of one thread. */
typedef struct fb_composed_thread {
    void *scores_plans[2], *output_plans[2]; /* for whole blocks of rows, and for the last one */
    float *scores;                           /* [block_rows, context] */
    void *p;                                 /* likewise in the shape's dtype, unless that is f32 */
    float *sums;                             /* [block_rows] */
    double softmax_seconds;                  /* so far */
} fb_composed_thread;

/* One peer on a number of threads. Starts as {0}. */
typedef struct fb_composed {
    const fb_peer *peer;
    const fb_composed_matrices *matrices;
    size_t block_rows, num_threads;
    bool keys_as_rows;           /* the product reads k, else k_transposed: whichever was faster */
    fb_composed_thread *threads; /* [num_threads] */
    float *out;                  /* [num_kv_heads, rows, head_dim] */
    double seconds;              /* in fb_composed_run so far, summed over the threads */
} fb_composed;

/* FB_ERROR_UNSUPPORTED when the peer cannot do it in the shape's dtype. */
fb_status fb_composed_prepare(fb_composed *composed, const fb_peer *peer,
                              const fb_composed_matrices *matrices, size_t num_threads);
void fb_composed_free(fb_composed *composed);

/* The run that is timed: takes an fb_composed. */
fb_status fb_composed_run(void *composed);

/* The part of the time that the softmax took, over all runs so far. */
double fb_composed_softmax_share(const fb_composed *composed);

/* Compares the first and the last queries of the last run with the library's results:
 * FB_ERROR_FORMAT when they differ by more than the roundings of such products can explain. */
fb_status fb_composed_check(const fb_composed *composed);

#endif
