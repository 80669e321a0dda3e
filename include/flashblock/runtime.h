/* The instruction set and the threads that the library uses.
 *
 * Neither the instruction set nor the number of threads changes a bit of any result; they change
 * the time it takes.
 */
#ifndef FLASHBLOCK_RUNTIME_H
#define FLASHBLOCK_RUNTIME_H

#include <flashblock/status.h>

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum fb_isa {
    FB_ISA_SCALAR = 0,  /* plain C; the twin that the others equal bit for bit */
    FB_ISA_AVX2,        /* x86-64 with AVX2, FMA and F16C */
    FB_ISA_AVX512,      /* x86-64 with AVX-512 F, BW, VL and DQ */
    FB_ISA_NEON,        /* aarch64; AdvSIMD is its baseline */
    FB_ISA_AVXVNNI,     /* AVX2, and AVX-VNNI: products of integers */
    FB_ISA_AVX512VNNI,  /* AVX512, and VNNI */
    FB_ISA_NEONDOTPROD, /* NEON, and DotProd: products of integers */
    FB_ISA_COUNT        /* sets that this header knows; a later version may know more */
} fb_isa;

/* "scalar", "avx2", "avx512", "neon", "avxvnni", "avx512vnni", "neondotprod"; "unknown" otherwise.
 * Never NULL. */
FB_API const char *fb_isa_name(fb_isa isa);

/* The inverse of fb_isa_name; FB_ERROR_ARGUMENT for any other name. */
FB_API fb_status fb_isa_parse(const char *name, fb_isa *isa);

/* Whether this build holds the kernels of `isa`, and whether this CPU (and its operating system,
 * which must save the wide registers) can run them. */
FB_API bool fb_isa_built(fb_isa isa);
FB_API bool fb_isa_supported(fb_isa isa);

/* The instruction set that later calls use: the one that fb_isa_select or the environment variable
 * FLASHBLOCK_ISA names, for all kernels. If neither names one it is the widest that is built and
 * supported; where a kernel of a narrower set is faster on this CPU, calls then take that kernel
 * from there. FLASHBLOCK_ISA is read by the first use of the library, and if it cannot be had, it
 * fails the first call that needs kernels. */
FB_API fb_status fb_isa_current(fb_isa *isa);

/* Chooses all kernels of a set, for the whole process. FB_ERROR_UNSUPPORTED when `isa` is not built
 * or not supported.
 * Thread-safe; calls that are already running finish with the set that they began with. */
FB_API fb_status fb_isa_select(fb_isa isa);

/* How many threads later calls may use, the calling one among them: 1 to 1024. Default: the first
 * number of the environment variable OMP_NUM_THREADS, which is read once; without a valid one, the
 * CPUs that the process may run on.
 *
 * The library has threads of its own. They are created when a call first has work for them, and
 * sleep when there is none for a millisecond (OMP_WAIT_POLICY=passive: at once).
 *
 *   few        a thread that cannot be created (limits on processes or memory) is done without.
 *              The result is the same, and nothing is reported.
 *   callers    any number of the program's threads may call at the same time, and share the
 *              library's threads. What they must not share is said with each type: one call at a
 *              time on an fb_model, an fb_video_model, an fb_part_cache, an fb_token_stream; writes
 *              to an fb_kv_cache need it to themselves. A second call at the same time on a model,
 *              and a second write to a cache, are FB_ERROR_ARGUMENT.
 *   fork       a child may call everything; it has threads of its own. Not: fork while another
 *              thread is inside of a call on an object, and go on with that object in the child.
 *   signals    the library's threads take none. No function is safe to call in a signal handler.
 *   OpenMP     is not used. A call from inside a parallel region runs on its own thread only.
 *   dlclose    leaves the library in memory.
 */
FB_API fb_status fb_set_num_threads(int num_threads);
FB_API int fb_num_threads(void);

#ifdef __cplusplus
}
#endif

#endif
