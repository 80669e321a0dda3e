/* The self-attention of a causal video transformer (CausalWanSelfAttention): projections with bias,
 * RMS norm of queries and keys over the whole width, rotary positions in time, height and width,
 * keys and values into the causal cache, head-wise reuse, output projection. */
#ifndef FB_MODEL_VIDEO_ATTENTION_H
#define FB_MODEL_VIDEO_ATTENTION_H

#include "model/linear.h"
#include "model/rope3d.h"

#include <flashblock/experimental/head_reuse.h>
#include <flashblock/experimental/video_cache.h>

/* The layer's weights; dim = num_heads * head_dim. Borrowed. */
typedef struct fb_video_attention {
    size_t num_heads, head_dim;
    double eps;
    fb_matrix q, k, v, o;         /* [dim, dim] */
    const float *norm_q, *norm_k; /* [dim]; NULL: no norm */
} fb_video_attention;

/* One pass over a block, which fb_video_cache_begin has placed. */
typedef struct fb_video_attention_pass {
    fb_video_cache *cache;
    size_t layer;
    fb_video_grid grid;
    size_t first_frame;
    fb_part_cache *parts;    /* NULL: dense, nothing is kept */
    const bool *refresh;     /* [num_heads]; NULL: all refresh */
    const fb_part *internal; /* where internal parts go, too; or NULL */
    /* The type that intermediate results are rounded to: FB_F32 leaves them; the paper's code runs
     * in FB_BF16. Under FB_COMPAT_RELEASED the LSEs that a refresh of all heads keeps are rounded
     * to it as well, as its wrapper does; or, where this is FB_F32, to the type of the cache's
     * keys. */
    fb_dtype activations;
    double *seconds; /* spent on attention: added to; or NULL */
} fb_video_attention_pass;

/* x, out  [tokens of the grid, dim]; out may be x. */
fb_status fb_video_attention_run(const fb_video_attention *attention,
                                 const fb_video_attention_pass *pass, fb_linear_scratch *linear,
                                 const float *x, float *out);

/* Rounds values to a storage type and back. */
void fb_round_values(fb_dtype dtype, float *values, size_t count);

#endif
