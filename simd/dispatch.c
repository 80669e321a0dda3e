/* Instruction sets: their names, the sets that this build holds, the sets that this CPU runs, the
 * set that later calls use; and the table of kernels of each. Nothing here starts threads: a
 * program that only calls kernels needs no OpenMP. */
#include <flashblock/runtime.h>

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
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
    [FB_ISA_SCALAR] = "scalar",           [FB_ISA_AVX2] = "avx2",
    [FB_ISA_AVX512] = "avx512",           [FB_ISA_NEON] = "neon",
    [FB_ISA_AVXVNNI] = "avxvnni",         [FB_ISA_AVX512VNNI] = "avx512vnni",
    [FB_ISA_NEONDOTPROD] = "neondotprod",
};

#ifdef FB_HAVE_AVX2
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

#ifdef FB_HAVE_AVXVNNI
/* Which clang 14's __builtin_cpu_supports does not know either. */
static bool has_avxvnni(void) {
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    return has_avx2() && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && (eax & (1u << 4));
}
#endif

#ifdef FB_HAVE_AVX512
static bool has_avx512(void) {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

static bool has_avx512vnni(void) {
    return has_avx512() && __builtin_cpu_supports("avx512vnni");
}
#endif
#endif

#ifdef FB_HAVE_NEONDOTPROD
static bool has_neondotprod(void) {
    return getauxval(AT_HWCAP) & HWCAP_ASIMDDP;
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
#ifdef FB_HAVE_AVXVNNI
    {FB_ISA_AVXVNNI, has_avxvnni, FB_ISA_AVX2, fb_kernels_init_avxvnni},
#endif
#ifdef FB_HAVE_AVX512
    {FB_ISA_AVX512, has_avx512, FB_ISA_AVX2, fb_kernels_init_avx512},
#endif
#ifdef FB_HAVE_AVX512VNNI
    {FB_ISA_AVX512VNNI, has_avx512vnni, FB_ISA_AVX512, fb_kernels_init_avx512vnni},
#endif
#ifdef FB_HAVE_NEON
    {FB_ISA_NEON, NULL, FB_ISA_SCALAR, fb_kernels_init_neon},
#endif
#ifdef FB_HAVE_NEONDOTPROD
    {FB_ISA_NEONDOTPROD, has_neondotprod, FB_ISA_NEON, fb_kernels_init_neondotprod},
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

/* Where an fb_kernel is in a table. */
typedef struct kernel_place {
    const char *name;
    size_t offset, bytes;
} kernel_place;

#define PLACE(NAME, MEMBER)                                                                        \
    { NAME, offsetof(fb_kernels, MEMBER), sizeof((fb_kernels *)NULL)->MEMBER }
#define PLACES(NAME, MEMBER)                                                                       \
    PLACE(NAME " f32", MEMBER[FB_F32]), PLACE(NAME " bf16", MEMBER[FB_BF16]),                      \
        PLACE(NAME " f16", MEMBER[FB_F16])

static const kernel_place places[FB_NUM_KERNELS] = {
    PLACES("scores", scores),
    PLACES("values", values),
    PLACES("transpose", transpose),
    PLACE("dots", dots), /* dot_outputs goes with them, see take */
    PLACES("few_dots", few_dots),
    PLACE("int_dots", int_dots), /* so do quantize and int_outputs */
    PLACE("int_scores", int_scores),
    PLACE("int_values", int_values),
    PLACE("softmax", softmax),
    PLACE("merge_row", merge_row),
    PLACE("divide_row", divide_row),
    PLACE("widen bf16", widen_bf16),
    PLACE("widen f16", widen_f16),
    PLACE("exp", exp),
};

const char *fb_kernel_name(fb_kernel kernel) {
    return places[kernel].name;
}

bool fb_kernel_is_same(fb_kernel kernel, const fb_kernels *a, const fb_kernels *b) {
    size_t offset = places[kernel].offset;
    return !memcmp((const char *)a + offset, (const char *)b + offset, places[kernel].bytes);
}

/* An entry that a set does not override is the entry of the set below. */
static void build_sets(void) {
    for (size_t i = 0; i < NUM_SETS; i++) {
        const instruction_set *set = &sets[i];
        fb_kernels *table = &tables[set->isa];
        usable[set->isa] = fb_isa_supported(set->isa);
        if (!usable[set->isa])
            continue;
        *table = set->init ? tables[set->below] : fb_kernels_scalar;
        if (set->init)
            set->init(table);
        memcpy(table->few_dots, table->dots, sizeof table->dots);
    }
}

/* ---- the fastest kernels of each kind of CPU ---- */

/* CPUs on which a wider set is not always faster. */
typedef enum cpu_kind {
    CPU_OTHER, /* the widest set throughout */
    CPU_ZEN4,
    CPU_EMERALD_RAPIDS,
    CPU_AMX,          /* other Xeons with AMX: measured on Sapphire Rapids */
    CPU_OTHER_AVX512, /* not measured */
    NUM_CPU_KINDS
} cpu_kind;

static const char *const cpu_names[NUM_CPU_KINDS] = {
    [CPU_OTHER] = "any other",
    [CPU_ZEN4] = "AMD Zen 4",
    [CPU_EMERALD_RAPIDS] = "Intel Emerald Rapids",
    [CPU_AMX] = "Intel with AMX (Sapphire Rapids and later)",
    [CPU_OTHER_AVX512] = "another one with AVX-512",
};

#ifdef FB_HAVE_AVX512
/* Copies a kernel from one table to another. */
static void take(fb_kernel kernel, const fb_kernels *from, fb_kernels *to) {
    size_t offset = places[kernel].offset;
    memcpy((char *)to + offset, (const char *)from + offset, places[kernel].bytes);
    if (kernel == FB_KERNEL_DOTS)
        to->dot_outputs = from->dot_outputs;
    if (kernel == FB_KERNEL_INT_DOTS) {
        to->quantize = from->quantize;
        to->int_outputs = from->int_outputs;
    }
}

/* A hypervisor may show a model of its own: one Sapphire Rapids said 0xa7, a Rocket Lake's.
 * Features are what the CPU has, so they decide where they can. */
static cpu_kind this_cpu(void) {
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    if (!fb_isa_supported(FB_ISA_AVX512) || !__get_cpuid(1, &eax, &ebx, &ecx, &edx))
        return CPU_OTHER;
    unsigned family = (eax >> 8 & 0xf) + (eax >> 20 & 0xff);
    unsigned model = (eax >> 4 & 0xf) | (eax >> 12 & 0xf0);
    __get_cpuid(0, &eax, &ebx, &ecx, &edx);
    bool is_amd = ebx == signature_AMD_ebx, is_intel = ebx == signature_INTEL_ebx;
    bool has_amx = __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && (edx & 1u << 24); /* tiles */
    if (is_amd && family == 0x19) /* Zen 3 is the same family, without AVX-512 */
        return CPU_ZEN4;
    if (is_intel && has_amx)
        return family == 6 && model == 0xcf ? CPU_EMERALD_RAPIDS : CPU_AMX;
    return CPU_OTHER_AVX512;
}

/* The set of each kernel, by `flashblock bench isa` and `bench attention` on such CPUs
 * (docs/results/speed.md). No bit depends on it. On a Zen 4 both sets have the same peak. On the
 * Xeons AVX-512 has twice that of AVX2, and so it has on most other CPUs that have it: where nobody
 * has measured, to take it wins up to a factor of two, and loses some hundredths. */
#define W FB_ISA_AVX512
#define N FB_ISA_AVX2
static const struct {
    fb_kernel kernel;
    fb_isa isa[NUM_CPU_KINDS - 1];
} choices[] = {
    /*                      Zen 4, Emerald, AMX, others */
    {FB_KERNEL_SCORES + FB_F32, {N, W, W, W}},
    {FB_KERNEL_SCORES + FB_BF16, {N, W, W, W}},
    {FB_KERNEL_SCORES + FB_F16, {N, W, W, W}},
    {FB_KERNEL_VALUES + FB_F32, {N, W, W, W}},
    {FB_KERNEL_VALUES + FB_BF16, {N, W, W, W}},
    {FB_KERNEL_VALUES + FB_F16, {N, W, W, W}},
    {FB_KERNEL_DOTS, {W, W, W, W}},
    {FB_KERNEL_FEW_DOTS + FB_F32, {W, W, W, W}},
    {FB_KERNEL_FEW_DOTS + FB_BF16, {W, N, W, W}},
    {FB_KERNEL_FEW_DOTS + FB_F16, {W, N, W, W}},
    {FB_KERNEL_MERGE_ROW, {N, N, N, N}},
    {FB_KERNEL_WIDEN_F16, {N, N, N, N}},
};
#undef W
#undef N
#endif

static cpu_kind cpu;
static fb_kernels fastest;

static void build_fastest(void) {
    for (size_t i = 0; i < NUM_SETS; i++)
        if (usable[sets[i].isa])
            fastest = tables[sets[i].isa];
#ifdef FB_HAVE_AVX512
    cpu = this_cpu();
    for (size_t i = 0; cpu != CPU_OTHER && i < sizeof choices / sizeof choices[0]; i++)
        take(choices[i].kernel, &tables[choices[i].isa[cpu - 1]], &fastest);
#endif
}

static void build_tables(void) {
    build_sets();
    build_fastest();
}

const fb_kernels *fb_kernels_fastest(void) {
    pthread_once(&tables_built, build_tables);
    return &fastest;
}

fb_isa fb_kernel_choice(fb_kernel kernel) {
    const fb_kernels *chosen = fb_kernels_fastest();
    for (size_t i = 0; i < NUM_SETS; i++) /* the first one, if some share it */
        if (usable[sets[i].isa] && fb_kernel_is_same(kernel, chosen, &tables[sets[i].isa]))
            return sets[i].isa;
    return FB_ISA_SCALAR;
}

const char *fb_kernels_cpu(void) {
    pthread_once(&tables_built, build_tables);
    return cpu_names[cpu];
}

const fb_kernels *fb_kernels_of(fb_isa isa) {
    pthread_once(&tables_built, build_tables);
    return (int)isa >= 0 && isa < FB_ISA_COUNT && usable[isa] ? &tables[isa] : NULL;
}

/* ---- the choice ---- */

/* ISA_FASTEST: nobody has asked for a set. */
enum { ISA_UNSET = -1, ISA_FASTEST = -2 };

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

/* The widest set that this CPU runs. */
static fb_isa widest_isa(void) {
    fb_isa isa = FB_ISA_SCALAR;
    for (size_t i = 0; i < NUM_SETS; i++)
        if (fb_isa_supported(sets[i].isa))
            isa = sets[i].isa;
    return isa;
}

/* *choice: a set, or ISA_FASTEST. */
static fb_status default_choice(int *choice) {
    const char *name = getenv("FLASHBLOCK_ISA");
    *choice = ISA_FASTEST;
    if (!name || !*name)
        return FB_OK;
    fb_isa isa = FB_ISA_SCALAR;
    fb_status status = fb_isa_parse(name, &isa);
    if (status != FB_OK)
        return fb_fail_in(status, "FLASHBLOCK_ISA");
    *choice = (int)isa;
    return check_usable(isa, "FLASHBLOCK_ISA");
}

static fb_status current_choice(int *choice) {
    int current = atomic_load_explicit(&chosen_isa, memory_order_acquire);
    if (current == ISA_UNSET) {
        int chosen = ISA_FASTEST;
        FB_TRY(default_choice(&chosen));
        /* Two threads may come here at once: the first one's choice stands. */
        int expected = ISA_UNSET;
        current = chosen;
        if (!atomic_compare_exchange_strong(&chosen_isa, &expected, current))
            current = expected;
    }
    *choice = current;
    return FB_OK;
}

fb_status fb_isa_current(fb_isa *isa) {
    int choice = ISA_FASTEST;
    FB_TRY(current_choice(&choice));
    *isa = choice == ISA_FASTEST ? widest_isa() : (fb_isa)choice;
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
    int choice = ISA_FASTEST;
    FB_TRY(current_choice(&choice));
    *kernels = choice == ISA_FASTEST ? fb_kernels_fastest() : fb_kernels_of((fb_isa)choice);
    return FB_OK;
}
