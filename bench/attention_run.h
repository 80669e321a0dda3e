/* Attention of one shape, ready to be timed: keys and values in a KV cache, queries, the steps of
 * a block dense and with FlashBlock. */
#ifndef FB_BENCH_ATTENTION_RUN_H
#define FB_BENCH_ATTENTION_RUN_H

#include "bench/shapes.h"

#include <flashblock/attention.h>
#include <flashblock/experimental/sparse.h>
#include <flashblock/kv_cache.h>
#include <flashblock/reuse.h>

#include <stdbool.h>

/* Starts as {0}. */
typedef struct fb_attention_run {
    fb_bench_shape shape;
    size_t steps;       /* denoising steps of a block */
    fb_kv_cache *cache; /* one layer: the context, committed, and the block after it */
    fb_kv kv;           /* that layer */
    fb_part_cache *parts, *corrected;
    bool *refresh_rows; /* [num_queries] scratch */
    float *q;           /* [num_queries, num_heads, head_dim] */
    float *out, *lse;   /* the result of the last run */
    float *rows;        /* random keys and values, see fb_attention_run_kv */
} fb_attention_run;

fb_status fb_attention_run_prepare(fb_attention_run *data, const fb_bench_shape *shape,
                                   size_t steps);
void fb_attention_run_free(fb_attention_run *data);

/* The keys and values of tokens first .. first + count - 1, count at most FB_CHUNK_KEYS, before
 * they are rounded to the shape's dtype: k, v [count, num_kv_heads, head_dim], borrowed. */
void fb_attention_run_kv(const fb_attention_run *data, size_t first, const float **k,
                         const float **v);

/* The runs that are timed. Each takes an fb_attention_run. */
fb_status fb_attention_run_external(void *data);   /* the context's keys only, as peers do */
fb_status fb_attention_run_internal(void *data);   /* the block's keys only */
fb_status fb_attention_run_dense_step(void *data); /* both, nothing kept */
fb_status fb_attention_run_refresh(void *data);    /* both, the context's part kept */
fb_status fb_attention_run_reuse(void *data);      /* the block's keys, merged with the kept part */

fb_status fb_attention_run_refresh_corrected(void *data); /* a refresh that keeps mean keys, too */
fb_status fb_attention_run_reuse_corrected(void *data);   /* a reuse with corrected LSEs */
fb_status
fb_attention_run_refresh_row(void *data); /* one row's external part, the others' reused */

/* A whole block with the reuse rule at `tau`, see block_script.h. */
typedef struct fb_attention_block {
    const fb_attention_run *data;
    size_t tau;
    bool rows, corrected;
} fb_attention_block;

fb_status fb_attention_run_block(void *block_run);

/* Attention to a share of the context: key blocks of 64 tokens, drawn separately for each KV head.
 * Starts as {0}. */
typedef struct fb_attention_selected {
    const fb_attention_run *data;
    fb_selection selection;
} fb_attention_selected;

fb_status fb_attention_selected_prepare(fb_attention_selected *run, const fb_attention_run *data,
                                        size_t percent);
void fb_attention_selected_free(fb_attention_selected *run);

fb_status fb_attention_run_selected(void *selected_run);

#endif
