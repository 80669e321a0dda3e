/* Which tables this build holds. The choice between them is simd/isa.c's. */
#include "simd/kernels.h"

const fb_kernels *fb_kernels_of(fb_isa isa) {
    switch (isa) {
    case FB_ISA_SCALAR:
        return &fb_kernels_scalar;
#ifdef FB_HAVE_AVX2
    case FB_ISA_AVX2:
        return &fb_kernels_avx2;
#endif
#ifdef FB_HAVE_AVX512
    case FB_ISA_AVX512:
        return &fb_kernels_avx512;
#endif
#ifdef FB_HAVE_NEON
    case FB_ISA_NEON:
        return &fb_kernels_neon;
#endif
    default:
        return NULL;
    }
}

fb_status fb_kernels_current(const fb_kernels **kernels) {
    fb_isa isa = FB_ISA_SCALAR;
    fb_status status = fb_isa_current(&isa);
    if (status == FB_OK)
        *kernels = fb_kernels_of(isa);
    return status;
}
