/* The end of each instruction set's file: its table of kernels.
 *
 * The file has defined `scores`, `values` and `dots`, which take the storage type as their first
 * argument and ignore what they have no use for, and the other kernels under their names in
 * fb_kernels. */
#ifndef FB_SIMD_TABLE_H
#define FB_SIMD_TABLE_H

#include "simd/kernels.h"

/* One function for each type of keys, values and weights: in it the type is a constant. */
#define FB_PRODUCTS(NAME, DTYPE)                                                                   \
    static void scores_of_##NAME(const float *q, size_t rows, size_t head_dim, size_t streams,     \
                                 const void *const *groups, size_t num_groups, float scale,        \
                                 const void *next, float *s) {                                     \
        scores(DTYPE, q, rows, head_dim, streams, groups, num_groups, scale, next, s);             \
    }                                                                                              \
    static void values_of_##NAME(const float *p, size_t rows, size_t num_keys, size_t streams,     \
                                 const void *const *groups, size_t head_dim, const float *alpha,   \
                                 const void *next, float *o) {                                     \
        values(DTYPE, p, rows, num_keys, streams, groups, head_dim, alpha, next, o);               \
    }                                                                                              \
    static void dots_of_##NAME(const float *x, size_t rows, const void *const *weights,            \
                               size_t outputs, size_t columns, float *wide,                        \
                               const void *const *next, float *sums) {                             \
        dots(DTYPE, x, rows, weights, outputs, columns, wide, next, sums);                         \
    }

#define FB_KERNEL_TABLE(TABLE, ISA)                                                                \
    FB_PRODUCTS(f32, FB_F32)                                                                       \
    FB_PRODUCTS(bf16, FB_BF16)                                                                     \
    FB_PRODUCTS(f16, FB_F16)                                                                       \
    const fb_kernels TABLE = {                                                                     \
        .isa = ISA,                                                                                \
        .scores = {scores_of_f32, scores_of_bf16, scores_of_f16},                                  \
        .values = {values_of_f32, values_of_bf16, values_of_f16},                                  \
        .dots = {dots_of_f32, dots_of_bf16, dots_of_f16},                                          \
        .dot_outputs = DOT_TILE_OUTPUTS,                                                           \
        .softmax = softmax,                                                                        \
        .merge_row = merge_row,                                                                    \
        .divide_row = divide_row,                                                                  \
        .widen_bf16 = widen_bf16,                                                                  \
        .widen_f16 = widen_f16,                                                                    \
        .exp = exp_values,                                                                         \
    };

#endif
