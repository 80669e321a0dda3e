/* Instruction sets: their names, the sets that this build holds, the sets that this CPU runs, the
 * set that later calls use; and the table of kernels of each. Nothing here starts threads: a
 * program that only calls kernels needs no OpenMP. */
#include <flashblock/runtime.h>

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#include "base/error.h"
#include "simd/kernels.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* ---- names, and what there is ---- */

const char *fb_isa_name(fb_isa isa) {
    switch (isa) {
    case FB_ISA_SCALAR:
        return "scalar";
    case FB_ISA_AVX2:
        return "avx2";
    case FB_ISA_AVX512:
        return "avx512";
    case FB_ISA_NEON:
        return "neon";
    case FB_ISA_COUNT:
        break;
    }
    return "unknown";
}

fb_status fb_isa_parse(const char *name, fb_isa *isa) {
    for (fb_isa candidate = FB_ISA_SCALAR; candidate < FB_ISA_COUNT; candidate++)
        if (name && strcmp(name, fb_isa_name(candidate)) == 0) {
            *isa = candidate;
            return FB_OK;
        }
    return fb_fail(FB_ERROR_ARGUMENT,
                   "instruction set is '%s', expected scalar, avx2, avx512 or neon",
                   name ? name : "(null)");
}

bool fb_isa_built(fb_isa isa) {
    switch (isa) {
    case FB_ISA_SCALAR:
#ifdef FB_HAVE_AVX2
    case FB_ISA_AVX2:
#endif
#ifdef FB_HAVE_AVX512
    case FB_ISA_AVX512:
#endif
#ifdef FB_HAVE_NEON
    case FB_ISA_NEON:
#endif
        return true;
    default:
        return false;
    }
}

#if defined(__x86_64__)
/* clang 14's __builtin_cpu_supports does not know F16C. */
static bool has_f16c(void) {
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    return __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & (1u << 29));
}

/* __builtin_cpu_supports reads cpuid, and xgetbv for what the operating system saves: without the
 * upper halves of the registers and the mask registers in it, neither set is "supported". */
static bool has_avx2(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
}

static bool has_avx512(void) {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}
#else
static bool has_avx2(void) {
    return false;
}

static bool has_avx512(void) {
    return false;
}
#endif

bool fb_isa_supported(fb_isa isa) {
    switch (isa) {
    case FB_ISA_SCALAR:
        return true;
    case FB_ISA_AVX2:
        return has_avx2();
    case FB_ISA_AVX512:
        return has_avx512();
    case FB_ISA_NEON:
#if defined(__aarch64__)
        return true;
#else
        return false;
#endif
    case FB_ISA_COUNT:
        break;
    }
    return false;
}

/* ---- tables ---- */

static pthread_once_t tables_built = PTHREAD_ONCE_INIT;
static fb_kernels tables[FB_ISA_COUNT];
static bool usable[FB_ISA_COUNT]; /* the tables that this CPU can run; asking it again is slow */

/* A set begins with the table of the set that it includes: an entry that it does not override is
 * the entry of the set below. If another set's entry is faster on some CPU, choose it here. */
static void build_tables(void) {
    for (fb_isa isa = FB_ISA_SCALAR; isa < FB_ISA_COUNT; isa++)
        usable[isa] = fb_isa_built(isa) && fb_isa_supported(isa);
    tables[FB_ISA_SCALAR] = fb_kernels_scalar;
#ifdef FB_HAVE_AVX2
    if (usable[FB_ISA_AVX2]) {
        tables[FB_ISA_AVX2] = tables[FB_ISA_SCALAR];
        fb_kernels_init_avx2(&tables[FB_ISA_AVX2]);
    }
#endif
#ifdef FB_HAVE_AVX512
    if (usable[FB_ISA_AVX512]) {
        tables[FB_ISA_AVX512] = tables[FB_ISA_AVX2];
        fb_kernels_init_avx512(&tables[FB_ISA_AVX512]);
    }
#endif
#ifdef FB_HAVE_NEON
    tables[FB_ISA_NEON] = tables[FB_ISA_SCALAR];
    fb_kernels_init_neon(&tables[FB_ISA_NEON]);
#endif
}

const fb_kernels *fb_kernels_of(fb_isa isa) {
    pthread_once(&tables_built, build_tables);
    return (int)isa >= 0 && isa < FB_ISA_COUNT && usable[isa] ? &tables[isa] : NULL;
}

/* ---- the choice ---- */

enum { ISA_UNSET = -1 };

static atomic_int chosen_isa = ISA_UNSET;

static fb_status check_usable(fb_isa isa, const char *source) {
    if (!fb_isa_built(isa))
        return fb_fail(FB_ERROR_UNSUPPORTED, "%s asks for %s, which this build does not hold",
                       source, fb_isa_name(isa));
    if (!fb_isa_supported(isa))
        return fb_fail(FB_ERROR_UNSUPPORTED, "%s asks for %s, which this CPU cannot run", source,
                       fb_isa_name(isa));
    return FB_OK;
}

static fb_status default_isa(fb_isa *isa) {
    const char *name = getenv("FLASHBLOCK_ISA");
    if (name && *name) {
        fb_status status = fb_isa_parse(name, isa);
        if (status != FB_OK)
            return fb_fail_in(status, "FLASHBLOCK_ISA");
        return check_usable(*isa, "FLASHBLOCK_ISA");
    }
    for (int candidate = FB_ISA_COUNT - 1; candidate >= 0; candidate--)
        if (fb_isa_built((fb_isa)candidate) && fb_isa_supported((fb_isa)candidate)) {
            *isa = (fb_isa)candidate;
            break;
        }
    return FB_OK;
}

fb_status fb_isa_current(fb_isa *isa) {
    int current = atomic_load_explicit(&chosen_isa, memory_order_acquire);
    if (current == ISA_UNSET) {
        fb_isa chosen = FB_ISA_SCALAR;
        FB_TRY(default_isa(&chosen));
        /* Two threads may come here at once: the first one's choice stands. */
        int expected = ISA_UNSET;
        current = (int)chosen;
        if (!atomic_compare_exchange_strong(&chosen_isa, &expected, current))
            current = expected;
    }
    *isa = (fb_isa)current;
    return FB_OK;
}

fb_status fb_isa_select(fb_isa isa) {
    if ((int)isa < 0 || isa >= FB_ISA_COUNT)
        return fb_fail(FB_ERROR_ARGUMENT, "isa is %d, expected 0 to %d", (int)isa,
                       FB_ISA_COUNT - 1);
    FB_TRY(check_usable(isa, "isa"));
    atomic_store_explicit(&chosen_isa, (int)isa, memory_order_release);
    return FB_OK;
}

fb_status fb_kernels_current(const fb_kernels **kernels) {
    fb_isa isa = FB_ISA_SCALAR;
    FB_TRY(fb_isa_current(&isa));
    *kernels = fb_kernels_of(isa);
    return FB_OK;
}
