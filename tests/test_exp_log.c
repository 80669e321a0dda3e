/* The exponential and the logarithm of every float32, against libm in double precision. The bounds
 * are those of docs/contract.md C5.3. */
#include "base/half.h"
#include "base/parallel.h"
#include "simd/kernels.h"
#include "tests/numbers.h"

#include <flashblock/attention.h>

#include <criterion/criterion.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK = 1 << 14, SAMPLED = 101 }; /* a sample takes one block of so many */

/* Distance from the truth in units of float32's spacing at the truth. */
static double ulps(float value, double truth) {
    uint64_t bits;
    memcpy(&bits, &truth, sizeof bits);
    bits &= 0x7ff0000000000000u; /* the power of two at or below |truth| */
    double spacing, smallest = 0x1p-149;
    memcpy(&spacing, &bits, sizeof bits);
    spacing *= 0x1p-23;
    return fabs((double)value - truth) / (spacing > smallest ? spacing : smallest);
}

typedef struct search {
    void (*evaluate)(const float *, float *, size_t);
    double (*truth)(double);
    uint32_t first, last;
    size_t step;
    pthread_mutex_t lock; /* of what follows */
    double worst;
    float worst_at;
} search;

static void search_block(search *s, size_t block) {
    float x[BLOCK], y[BLOCK];
    uint32_t begin = s->first + (uint32_t)block * BLOCK;
    uint32_t count = s->last - begin < BLOCK ? s->last - begin + 1 : BLOCK;
    for (uint32_t i = 0; i < count; i++)
        x[i] = fb_bits_to_f32(begin + i);
    s->evaluate(x, y, count);
    double worst = 0.0;
    float at = 0.0f;
    for (uint32_t i = 0; i < count; i++) {
        double error = ulps(y[i], s->truth((double)x[i]));
        if (!(error <= worst)) {
            worst = error;
            at = x[i];
        }
    }
    pthread_mutex_lock(&s->lock);
    if (!(worst <= s->worst)) {
        s->worst = worst;
        s->worst_at = at;
    }
    pthread_mutex_unlock(&s->lock);
}

static void search_blocks(void *context, size_t first, size_t end, size_t worker) {
    search *s = context;
    (void)worker;
    for (size_t i = first; i < end; i++)
        search_block(s, i * s->step);
}

/* The largest error of `evaluate` over the float32 with bits first .. last. */
static double worst_error(void (*evaluate)(const float *, float *, size_t), double (*truth)(double),
                          uint32_t first, uint32_t last, float *worst_at) {
    search s = {.evaluate = evaluate, .truth = truth, .first = first, .last = last};
    s.step = test_is_sample() ? SAMPLED : 1;
    pthread_mutex_init(&s.lock, NULL);
    size_t blocks = ((size_t)last - first) / BLOCK + 1;
    fb_parallel_for((blocks + s.step - 1) / s.step, 16, fb_parallel_threads(), search_blocks, &s);
    pthread_mutex_destroy(&s.lock);
    *worst_at = s.worst_at;
    return s.worst;
}

static void exp_kernel(const float *x, float *y, size_t count) {
    const fb_kernels *kernels = NULL;
    cr_assert_eq(fb_kernels_current(&kernels), FB_OK, "%s", fb_error_message());
    kernels->exp(x, y, count);
}

static void log_kernel(const float *x, float *y, size_t count) {
    for (size_t i = 0; i < count; i++)
        y[i] = fb_log(x[i]);
}

/* exp in double precision, without a call of it where most float32 are: near 0 the next term of its
 * series, x * x / 2, is below 2^-55, and below -104 everything is less than half of the smallest
 * float32 (0 then is the only right answer). */
static double exp_of(double x) {
    if (x > -0x1p-27)
        return 1.0 + x;
    return x < -104.0 ? 0.0 : exp(x);
}

/* SLEEF promises 1.0 ulp in a function's name; docs/contract.md C5.3 states what is measured here.
 */
Test(exp_log, exp_of_every_float, .timeout = 900) {
    float at = 0.0f;
    double worst = worst_error(exp_kernel, exp_of, 0x80000000u, 0xff800000u, &at); /* -0 .. -inf */
    cr_log_info("exp: at most %.4f ulp, at %a", worst, (double)at);
    cr_assert(worst <= 0.892, "exp is off by %.4f ulp at %a", worst, (double)at);
    cr_assert(worst > 0.5, "no exponential is this good: the test measures nothing");
}

Test(exp_log, log_of_every_float_from_1, .timeout = 900) {
    float at = 0.0f;
    double worst = worst_error(log_kernel, log, 0x3f800000u, 0x7f7fffffu, &at); /* 1 .. max */
    cr_log_info("log: at most %.4f ulp, at %a", worst, (double)at);
    cr_assert(worst <= 0.501, "log is off by %.4f ulp at %a", worst, (double)at);
}

Test(exp_log, special_values) {
    cr_assert_eq(fb_exp(0.0f), 1.0f);
    cr_assert_eq(fb_exp(-0.0f), 1.0f);
    cr_assert_eq(fb_exp(-INFINITY), 0.0f);
    cr_assert_eq(fb_exp(-104.0f), 0.0f);
    cr_assert_gt(fb_exp(-103.0f), 0.0f);
    cr_assert(isnan(fb_exp(NAN)));
    cr_assert_eq(fb_log(1.0f), 0.0f);
    cr_assert_eq(fb_log(INFINITY), INFINITY);
    cr_assert(isnan(fb_log(NAN)));
}

/* Every float32, rounded to a storage type and back, is the nearest value of that type. */
Test(exp_log, half_conversions) {
    for (uint32_t bits = 0; bits < 0x10000u; bits++) {
        float bf16 = fb_bf16_to_f32((uint16_t)bits), f16 = fb_f16_to_f32((uint16_t)bits);
        if (isnan(bf16))
            cr_assert(isnan(fb_bf16_to_f32(fb_f32_to_bf16(bf16))));
        else
            cr_assert_eq(fb_f32_to_bf16(bf16), bits);
        if (isnan(f16))
            cr_assert(isnan(fb_f16_to_f32(fb_f32_to_f16(f16))));
        else
            cr_assert_eq(fb_f32_to_f16(f16), bits);
    }
    /* every binary32 that is a sixteenth of the way between two neighbours of binary16 */
    for (uint32_t half = 0; half < 0x7c00u; half++) {
        double low = (double)fb_f16_to_f32((uint16_t)half);
        double high = half == 0x7bffu ? 65536.0 : (double)fb_f16_to_f32((uint16_t)(half + 1));
        for (int part = 0; part <= 16; part++) {
            uint32_t nearest = part < 8 || (part == 8 && half % 2 == 0) ? half : half + 1;
            float between = (float)(low + (high - low) * part / 16.0);
            cr_assert_eq(fb_f32_to_f16(between), nearest, "%a gives %04x, expected %04x",
                         (double)between, fb_f32_to_f16(between), nearest);
            cr_assert_eq(fb_f32_to_f16(-between), nearest | 0x8000u);
        }
    }
}
