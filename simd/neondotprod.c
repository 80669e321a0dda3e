/* The kernels for aarch64 with DotProd, whose instruction multiplies 16 bytes with 16 bytes and
 * adds the products by fours. */
#if !defined(__aarch64__) || !defined(__ARM_FEATURE_DOTPROD)
#error "compile simd/neondotprod.c with -march=armv8.2-a+dotprod"
#endif

#include "simd/tiles.h"

#include <arm_neon.h>
#include <string.h>

INLINE int32x4_t add_products(int32x4_t sums, int8x16_t w, int8x16_t x) {
    return vdotq_s32(sums, w, x);
}

#include "simd/int_dots_neon.h"

#define SCORE_ROWS     6
#define VALUE_ROWS     6
#define UNSIGNED_LANES 1

/* Four bytes in the first lane: DotProd multiplies by any lane of a register. */
INLINE int8x8_t load_four(const void *four) {
    int32_t x;
    memcpy(&x, four, sizeof x);
    return vreinterpret_s8_s32((int32x2_t){x, 0});
}

INLINE int32x4_t add_four(int32x4_t sums, int8x16_t keys, const int8_t *four) {
    return vdotq_lane_s32(sums, keys, load_four(four), 0);
}

typedef uint32x4x2_t unsigned_sums;

INLINE unsigned_sums add_unsigned_four(unsigned_sums sums, uint8x16x2_t values,
                                       const uint8_t *four) {
    const uint8x8_t x = vreinterpret_u8_s8(load_four(four));
    return (unsigned_sums){{vdotq_lane_u32(sums.val[0], values.val[0], x, 0),
                            vdotq_lane_u32(sums.val[1], values.val[1], x, 0)}};
}

INLINE uint32x4x2_t whole_sums(unsigned_sums sums) {
    return sums;
}

#include "simd/int_attention_neon.h"

void fb_kernels_init_neondotprod(fb_kernels *kernels) {
    kernels->quantize = quantize;
    kernels->int_dots = int_dots;
    kernels->int_outputs = INT_OUTPUTS;
    kernels->int_scores = int_scores;
    kernels->int_values = int_values;
}
