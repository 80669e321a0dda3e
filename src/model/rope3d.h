/* Rotary positions of video tokens: frame, row and column each turn pairs of their own.
 *
 * A head has head_dim / 2 = c pairs of neighbouring values (2i, 2i+1). The first c - 2 (c / 3)
 * turn with the frame, c / 3 with the row, the last c / 3 with the column, pair j of an axis of n
 * pairs by position * 10000^(-j / n). Angles, sines and products are in double precision, the
 * results are rounded once. (rope_apply and causal_rope_apply of the paper's Wan model.) */
#ifndef FB_MODEL_ROPE3D_H
#define FB_MODEL_ROPE3D_H

#include <flashblock/status.h>

#include <stddef.h>

/* Tokens of a block: frame-major, then row, then column. */
typedef struct fb_video_grid {
    size_t frames, rows, columns;
} fb_video_grid;

/* Cosine and sine of `position` for pair `pair` of a head: 0 .. head_dim/2 - 1. The position is
 * that of the pair's axis. */
void fb_rope3d_turn(size_t head_dim, size_t pair, size_t position, double *cosine, double *sine);

/* Turns x [tokens, num_heads, head_dim] in place; the first frame's position is first_frame.
 * head_dim is even. */
fb_status fb_rope3d_rotate(const fb_video_grid *grid, size_t first_frame, size_t num_heads,
                           size_t head_dim, float *x);

#endif
