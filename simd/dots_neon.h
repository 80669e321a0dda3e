/* Dot products on NEON: two registers are 8 columns of one output. See dots.h; neon.c includes
 * this. 24 accumulators, 6 registers of weights, 2 of x. */
#ifndef FB_SIMD_DOTS_NEON_H
#define FB_SIMD_DOTS_NEON_H

#define DOT_TILE_ROWS  4
#define DOT_PER_VECTOR 1

/* clang 14 would load the next rows of x early, and run out of registers. gcc does well by itself.
 */
#ifdef __clang__
#define dot_in_register(value) __asm__("" : "+w"((value).val[0]), "+w"((value).val[1]))
#define dot_in_turn(sum)       __asm__ volatile("" : "+w"((sum).val[0]), "+w"((sum).val[1]))
#else
#define dot_in_register(value) ((void)0)
#define dot_in_turn(sum)       ((void)0)
#endif

typedef float32x4x2_t dot_vector;

INLINE dot_vector dot_zero(void) {
    return (dot_vector){{vdupq_n_f32(0.0f), vdupq_n_f32(0.0f)}};
}

INLINE dot_vector dot_x(const float *x) {
    return (dot_vector){{vld1q_f32(x), vld1q_f32(x + 4)}};
}

INLINE dot_vector dot_weights(const fb_dtype DTYPE, const void *const *weights, size_t index) {
    if (DTYPE == FB_F32)
        return dot_x((const float *)weights[0] + index);
    float wide[8];
    widen_x8(DTYPE, (const uint16_t *)weights[0] + index, wide);
    return dot_x(wide);
}

INLINE void dot_store(dot_vector w, float *to) {
    vst1q_f32(to, w.val[0]);
    vst1q_f32(to + 4, w.val[1]);
}

INLINE dot_vector dot_load(const float *from) {
    return dot_x(from);
}

INLINE dot_vector dot_fma(dot_vector x, dot_vector w, dot_vector sum) {
    return (dot_vector){
        {vfmaq_f32(sum.val[0], x.val[0], w.val[0]), vfmaq_f32(sum.val[1], x.val[1], w.val[1])}};
}

/* c_0 + c_4 + c_2 + c_6, c_1 + c_5 + c_3 + c_7 of two rows. */
INLINE float32x4_t dot_halves(dot_vector a, dot_vector b) {
    float32x4_t a_x4 = vaddq_f32(a.val[0], a.val[1]), b_x4 = vaddq_f32(b.val[0], b.val[1]);
    return vaddq_f32(vcombine_f32(vget_low_f32(a_x4), vget_low_f32(b_x4)),
                     vcombine_f32(vget_high_f32(a_x4), vget_high_f32(b_x4)));
}

INLINE void dot_fold_rows(const int ROWS, const dot_vector *chains, float *sums) {
    float32x4_t ab = dot_halves(chains[0], ROWS > 1 ? chains[1] : dot_zero());
    float32x4_t cd =
        dot_halves(ROWS > 2 ? chains[2] : dot_zero(), ROWS > 3 ? chains[3] : dot_zero());
    float32x4_t abcd = vpaddq_f32(ab, cd);
    if (ROWS == 4) {
        vst1q_f32(sums, vaddq_f32(vld1q_f32(sums), abcd));
        return;
    }
    float folded[4];
    vst1q_f32(folded, abcd);
    for (int row = 0; row < ROWS; row++)
        sums[row] += folded[row];
}

INLINE void dot_fold(const int ROWS, const int FIRST, dot_vector chains[3][DOT_TILE_ROWS],
                     float *sums, size_t stride) {
    dot_fold_rows(ROWS, chains[0] + FIRST, sums);
    dot_fold_rows(ROWS, chains[1] + FIRST, sums + stride);
    dot_fold_rows(ROWS, chains[2] + FIRST, sums + 2 * stride);
}

#include "simd/dots.h"

#endif
