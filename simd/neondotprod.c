/* The kernels for aarch64 with DotProd, whose instruction multiplies 16 bytes with 16 bytes and
 * adds the products by fours. */
#if !defined(__aarch64__) || !defined(__ARM_FEATURE_DOTPROD)
#error "compile simd/neondotprod.c with -march=armv8.2-a+dotprod"
#endif

#include "simd/tiles.h"

#include <arm_neon.h>

INLINE int32x4_t add_products(int32x4_t sums, int8x16_t w, int8x16_t x) {
    return vdotq_s32(sums, w, x);
}

#include "simd/int_dots_neon.h"

void fb_kernels_init_neondotprod(fb_kernels *kernels) {
    kernels->quantize = quantize;
    kernels->int_dots = int_dots;
    kernels->int_outputs = INT_OUTPUTS;
}
