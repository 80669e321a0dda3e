/* The parts of checkasm: every kernel of an instruction set against its scalar twin, bit for bit.
 *
 * A kernel has one function (checkasm_kernels.c) that is run for many cases. It chooses sizes, asks
 * for buffers, calls both twins and compares:
 *
 *     size_t rows = choose(c, "rows", 1, 50, 1);
 *     const float *x = input_floats(c, "x", rows, ANY);
 *     result y = result_floats(c, "y", rows);
 *     ready(c);
 *     tested->kernel(x, rows, y.tested);
 *     twin->kernel(x, rows, y.twin);
 *     expect_same(c, y, NANS_ALIKE);
 *     BENCH(c, rows, "element", tested->kernel(x, rows, y.tested));
 *
 * Every case checks, without being told, that nothing is written outside the buffers or into an
 * input, and, on a machine with guard pages, that nothing is read outside them.
 *
 * The program needs only libc, one thread and no files: it also runs on an emulator without an
 * operating system.
 */
#ifndef FB_TESTS_CHECKASM_H
#define FB_TESTS_CHECKASM_H

#include "simd/kernels.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Where the buffers of a case lie. */
typedef enum placement {
    AMONG_CANARIES, /* at every offset from a 64-byte boundary, canaries on both sides */
    BEFORE_GUARD,   /* the last byte is the last one before a page that cannot be touched */
    AFTER_GUARD,    /* the first byte is the first one after such a page */
    PLACEMENTS
} placement;

/* The contents of a buffer of floats. In a run for time they are ORDINARY, whatever is asked. */
typedef enum contents {
    ORDINARY, /* about normal, mean 0, variance 1 */
    ANY,      /* by buffer: ordinary; with zeros, subnormals, extremes; with NaN and infinities */
} contents;

/* Which different bits are the same result. */
typedef enum same_rule {
    SAME_BITS = 0,
    NANS_ALIKE = 1,  /* sign and payload of a NaN are the instruction set's */
    ZEROS_ALIKE = 2, /* so is the sign of zero, where no result depends on it */
} same_rule;

enum { MAX_BUFFERS = 28, MAX_SIZES = 8, BENCH_SAMPLES = 11 };

typedef struct buffer {
    const char *name;
    unsigned char *data;
    size_t count, element_size;
    unsigned char *canaries[2]; /* before and after; NULL at the guard page */
    bool is_input, is_twin;
    uint64_t frozen; /* hash of an input's bytes */
} buffer;

/* One case of one kernel. */
typedef struct check {
    const char *isa, *kernel;
    uint64_t seed, random;
    size_t number; /* the case's */
    placement placement;
    fb_dtype dtype; /* the kernel's, if it has one */

    struct {
        const char *name;
        size_t value;
    } sizes[MAX_SIZES];
    size_t num_sizes, num_swept;
    buffer buffers[MAX_BUFFERS];
    size_t num_buffers, num_compared;
    bool is_ready, failed;
    bool silent; /* enough failures of this kernel have been described */

    const size_t *bench_sizes; /* the swept sizes of a run for time; NULL otherwise */
    struct {
        size_t left, batch, taken;
        bool started;
        uint64_t start;
        double samples[BENCH_SAMPLES];
        double elements;
        const char *unit;
    } bench;
} check;

typedef void check_fn(check *c, const fb_kernels *tested, const fb_kernels *twin);

enum { MAX_SHAPES = 4, MAX_SWEPT = 4 };

typedef struct kernel_check {
    const char *name;
    check_fn *run;
    fb_dtype dtype; /* of the keys, values or halves */
    /* For --bench: the values of choose, in the order of its calls; ends with a 0. */
    size_t shapes[MAX_SHAPES][MAX_SWEPT];
} kernel_check;

extern const kernel_check kernel_checks[];
extern const size_t num_kernel_checks;

/* ---- sizes and scalars: all of them are in the description of a failure ---- */

/* low, low + step, ..., high. In one case of MAX_SWEPT + 1 all sizes are arbitrary; in the others
 * one size takes its next value, each size in turn, and the rest are small. */
size_t choose(check *c, const char *name, size_t low, size_t high, size_t step);

/* Any size from low to high; low in a run for time. */
size_t choose_any(check *c, const char *name, size_t low, size_t high);

/* ---- random values ---- */

size_t random_between(check *c, size_t low, size_t high); /* both included */
float random_ordinary(check *c);
float random_awkward(check *c); /* finite; often zero, subnormal or huge */

/* ---- buffers ---- */

float *input_floats(check *c, const char *name, size_t count, contents what);
uint16_t *input_halves(check *c, const char *name, size_t count);             /* arbitrary bits */
size_t *input_sizes(check *c, const char *name, size_t count);                /* zeros */
uint8_t *input_bytes(check *c, const char *name, size_t count, uint8_t most); /* 0 to most */
const void **input_pointers(check *c, const char *name, size_t count);

/* ANY floats, stored as the case's type. */
const void *input_elements(check *c, const char *name, size_t count);

/* A buffer that a kernel may overwrite. */
float *scratch_floats(check *c, const char *name, size_t count);

/* An output: two buffers, `tested` filled with ANY floats, `twin` by ready(). */
typedef struct result {
    float *tested, *twin;
    size_t first_buffer;
} result;

result result_floats(check *c, const char *name, size_t count);

/* Inputs and the tested outputs hold what they should: from here on the inputs must not change,
 * and the twin's outputs begin with the same content. */
void ready(check *c);

/* Fails the case at the first element that differs. */
void expect_same(check *c, result got, same_rule rule);

/* ---- time ---- */

void bench_begin(check *c, size_t elements, const char *unit);
bool bench_sample(check *c);

static inline bool bench_next(check *c) {
    if (c->bench.left) {
        c->bench.left--;
        return true;
    }
    return bench_sample(c);
}

/* In a run for time: repeats `call`, which treats so many elements. Nothing otherwise. */
#define BENCH(c, elements, unit, call)                                                             \
    do {                                                                                           \
        for (bench_begin(c, elements, unit); bench_next(c);)                                       \
            call;                                                                                  \
    } while (0)

/* ---- for checkasm.c ---- */

/* Before all cases. NULL, or why there are no guard pages: a probe must really fault. */
const char *prepare_memory(void);

/* Runs one case; false when it failed, which has then been described. */
bool run_case(check *c, check_fn *run, const fb_kernels *tested, const fb_kernels *twin);

/* Prints one line; in the TAP format as a comment. */
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
