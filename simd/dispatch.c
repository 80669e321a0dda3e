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
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the sets ---- */

static const char *const names[FB_ISA_COUNT] = {
    [FB_ISA_SCALAR] = "scalar",
    [FB_ISA_AVX2] = "avx2",
    [FB_ISA_AVX512] = "avx512",
    [FB_ISA_NEON] = "neon",
};

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
#endif

/* A set that this build holds. */
typedef struct instruction_set {
    fb_isa isa;
    bool (*is_here)(void); /* whether this CPU and its operating system run it; NULL: always */
    fb_isa below;          /* its table begins with the entries of this set */
    void (*init)(fb_kernels *kernels);
} instruction_set;

/* Each after the set below it. The default is the last one that this CPU runs. */
static const instruction_set sets[] = {
    {FB_ISA_SCALAR, NULL, FB_ISA_SCALAR, NULL},
#ifdef FB_HAVE_AVX2
    {FB_ISA_AVX2, has_avx2, FB_ISA_SCALAR, fb_kernels_init_avx2},
#endif
#ifdef FB_HAVE_AVX512
    {FB_ISA_AVX512, has_avx512, FB_ISA_AVX2, fb_kernels_init_avx512},
#endif
#ifdef FB_HAVE_NEON
    {FB_ISA_NEON, NULL, FB_ISA_SCALAR, fb_kernels_init_neon},
#endif
};
enum { NUM_SETS = sizeof sets / sizeof *sets };

/* NULL: this build does not hold it. */
static const instruction_set *set_of(fb_isa isa) {
    for (size_t i = 0; i < NUM_SETS; i++)
        if (sets[i].isa == isa)
            return &sets[i];
    return NULL;
}

const char *fb_isa_name(fb_isa isa) {
    return (int)isa >= 0 && isa < FB_ISA_COUNT ? names[isa] : "unknown";
}

fb_status fb_isa_parse(const char *name, fb_isa *isa) {
    char known[80] = "";
    for (fb_isa candidate = FB_ISA_SCALAR; candidate < FB_ISA_COUNT; candidate++) {
        if (name && strcmp(name, names[candidate]) == 0) {
            *isa = candidate;
            return FB_OK;
        }
        size_t length = strlen(known);
        snprintf(known + length, sizeof known - length, "%s%s",
                 candidate == 0                  ? ""
                 : candidate == FB_ISA_COUNT - 1 ? " or "
                                                 : ", ",
                 names[candidate]);
    }
    return fb_fail(FB_ERROR_ARGUMENT, "instruction set is '%s', expected %s",
                   name ? name : "(null)", known);
}

bool fb_isa_built(fb_isa isa) {
    return set_of(isa) != NULL;
}

bool fb_isa_supported(fb_isa isa) {
    const instruction_set *set = set_of(isa);
    return set && (!set->is_here || set->is_here());
}

/* ---- tables ---- */

static pthread_once_t tables_built = PTHREAD_ONCE_INIT;
static fb_kernels tables[FB_ISA_COUNT];
static bool usable[FB_ISA_COUNT]; /* sets that this CPU runs; to ask it each time would be slow */

/* An entry that a set does not override is the entry of the set below. If another set's entry is
 * faster on some CPU, choose it here. */
static void build_tables(void) {
    tables[FB_ISA_SCALAR] = fb_kernels_scalar;
    for (size_t i = 0; i < NUM_SETS; i++) {
        const instruction_set *set = &sets[i];
        usable[set->isa] = fb_isa_supported(set->isa);
        if (!usable[set->isa] || !set->init)
            continue;
        tables[set->isa] = tables[set->below];
        set->init(&tables[set->isa]);
    }
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
    for (size_t i = 0; i < NUM_SETS; i++)
        if (fb_isa_supported(sets[i].isa))
            *isa = sets[i].isa;
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
