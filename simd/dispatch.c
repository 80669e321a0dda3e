/* Which tables this build holds. The choice between them is src/base/runtime.c's. */
#include "kernels.h"

const fb_kernels *fb_kernels_of(fb_isa isa) {
    switch (isa) {
    case FB_ISA_SCALAR:
        return &fb_kernels_scalar;
    case FB_ISA_AVX2:
#ifdef FB_HAVE_AVX2
        return &fb_kernels_avx2;
#else
        return NULL;
#endif
    case FB_ISA_COUNT:
        break;
    }
    return NULL;
}

fb_status fb_kernels_current(const fb_kernels **kernels) {
    fb_isa isa = FB_ISA_SCALAR;
    fb_status status = fb_isa_current(&isa);
    if (status == FB_OK)
        *kernels = fb_kernels_of(isa);
    return status;
}
