/* The microkernels: one table per instruction set, all with the same bits.
 *
 * The scalar table (scalar.c) is complete, readable, and the definition; every other table is
 * tested against it bit for bit. Kernels hold no allocation, no threads and no I/O, and trust
 * their arguments: src/attention checks them.
 *
 * Notation: `rows` query rows; a *group* is 16 keys whose coordinates lie side by side,
 * keys [head_dim][16]; a tile is up to 64 keys.
 */
#ifndef FB_SIMD_KERNELS_H
#define FB_SIMD_KERNELS_H

#include <flashblock/runtime.h>

#include <stddef.h>
#include <stdint.h>

enum {
    FB_GROUP_KEYS = 16,
    /* Both products are cut into chains of 16: see the canonical order in attention.h. */
    FB_SEGMENT = 16,
    /* A tile that does not start at a group's start touches five groups. */
    FB_SCORE_STRIDE = 5 * FB_GROUP_KEYS,
    FB_SIMD_MAX_HEAD_DIM = 512,
};

/* Scores of `rows` query rows against one group of keys:
 *   q     [rows][head_dim]
 *   keys  [head_dim][16]
 *   s     [rows] at stride FB_SCORE_STRIDE; 16 scores each are written
 *   s = scale * ((c_0 + c_1) + ...), c_i the fma chain from +0 over d = 16 i .. 16 i + 15 */
typedef void fb_scores_fn(const float *q, size_t rows, size_t head_dim, const float *keys,
                          float scale, float *s);

/* One tile of the online softmax, for `rows` rows:
 *   s      [rows] at stride FB_SCORE_STRIDE, 64 readable; the first counts[row] (<= 64) are keys
 *   max    [rows]      running maximum, -inf at first
 *   sums   [rows][16]  running row sums, +0 at first
 *   p      [rows][64]  out: exp(s - max), +0 from counts[row] on
 *   alpha  [rows]      out: exp(old max - new max), 1 where the maximum stays */
typedef void fb_softmax_fn(const float *s, size_t rows, const size_t *counts, float *max,
                           float *sums, float *p, float *alpha);

/* Adds the keys of one tile to the outputs:
 *   p      [rows] at stride 64
 *   v      [num_keys] at stride v_stride (in elements, of either sign), head_dim values each
 *   alpha  [rows]
 *   o      [rows][head_dim]
 * num_keys is 1 to 64. With c_i the fma chain from +0 over p_j v_j, j = 16 i .. 16 i + 15:
 * o = fma(o, alpha, ((c_0 + c_1) + c_2) + c_3). */
typedef void fb_values_fn(const float *p, size_t rows, size_t num_keys, const float *v,
                          ptrdiff_t v_stride, size_t head_dim, const float *alpha, float *o);

/* Merges one row: o = fma(weight, small, big) / (1 + weight). o may be small or big. */
typedef void fb_merge_row_fn(const float *big, const float *small, float weight, size_t head_dim,
                             float *o);

/* Widens `count` elements, exactly. */
typedef void fb_widen_fn(const uint16_t *from, float *to, size_t count);

/* out = exp(x) for x <= 0 and NaN: what the softmax kernel computes, alone, for tests. */
typedef void fb_exp_fn(const float *x, float *out, size_t count);

typedef struct fb_kernels {
    fb_isa isa;
    fb_scores_fn *scores;
    fb_softmax_fn *softmax;
    fb_values_fn *values;
    fb_merge_row_fn *merge_row;
    fb_widen_fn *widen_bf16;
    fb_widen_fn *widen_f16;
    fb_exp_fn *exp;
} fb_kernels;

/* The table of an instruction set; NULL when this build does not hold it. */
const fb_kernels *fb_kernels_of(fb_isa isa);

extern const fb_kernels fb_kernels_scalar;
extern const fb_kernels fb_kernels_avx2;
extern const fb_kernels fb_kernels_avx512;
extern const fb_kernels fb_kernels_neon;

/* The table that fb_isa_current names. */
FB_API fb_status fb_kernels_current(const fb_kernels **kernels);

/* The table for rows of this head_dim: the SIMD kernels take multiples of 8 up to 512. */
static inline const fb_kernels *fb_kernels_for(const fb_kernels *current, size_t head_dim) {
    return head_dim % 8 == 0 && head_dim <= FB_SIMD_MAX_HEAD_DIM ? current : &fb_kernels_scalar;
}

#endif
