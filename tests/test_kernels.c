/* Every SIMD kernel against its scalar twin: the same bits for every size, alignment and value,
 * and nothing written outside its buffers. */
#include "half.h"
#include "kernels.h"
#include "numbers.h"

#include <flashblock/attention.h>

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROUNDS = 300 };

/* Calls `check` with the table of each instruction set that this machine runs. */
static void for_each_simd(void (*check)(const fb_kernels *)) {
    int checked = 0;
    for (fb_isa isa = FB_ISA_SCALAR + 1; isa < FB_ISA_COUNT; isa++) {
        if (!fb_isa_built(isa) || !fb_isa_supported(isa)) {
            cr_log_info("%s: not run on this machine", fb_isa_name(isa));
            continue;
        }
        check(fb_kernels_of(isa));
        checked++;
    }
    if (!checked)
        cr_skip_test("no SIMD instruction set on this machine");
}

static guarded awkward_buffer(random_stream *random, size_t count) {
    guarded buffer = guarded_new(count, random_between(random, 0, 15));
    bool ordinary = random_uniform(random) < 0.5;
    for (size_t i = 0; i < count; i++)
        buffer.data[i] = ordinary ? random_normal(random) : random_awkward(random);
    return buffer;
}

/* A second buffer of the same content, at another alignment. */
static guarded copy_buffer(random_stream *random, const guarded *from) {
    guarded buffer = guarded_new(from->count, random_between(random, 0, 15));
    memcpy(buffer.data, from->data, from->count * sizeof(float));
    return buffer;
}

/* NaNs may differ in sign and payload between instruction sets; the driver makes them one. */
static void expect_same(const char *what, const fb_kernels *k, guarded *ours, guarded *scalar) {
    char name[80];
    snprintf(name, sizeof name, "%s of %s", what, fb_isa_name(k->isa));
    guarded_check(name, ours);
    guarded_check(name, scalar);
    for (size_t i = 0; i < ours->count; i++) {
        if (isnan(ours->data[i]))
            ours->data[i] = NAN;
        if (isnan(scalar->data[i]))
            scalar->data[i] = NAN;
    }
    expect_same_bits(name, ours->data, scalar->data, ours->count);
    guarded_free(ours);
    guarded_free(scalar);
}

static void check_scores(const fb_kernels *k) {
    random_stream random = random_named(1);
    for (int round = 0; round < ROUNDS; round++) {
        size_t rows = random_between(&random, 1, 50), dim = 8 * random_between(&random, 1, 64);
        guarded q = awkward_buffer(&random, rows * dim);
        guarded keys = awkward_buffer(&random, dim * FB_GROUP_KEYS);
        size_t floats = (rows - 1) * FB_SCORE_STRIDE + FB_GROUP_KEYS;
        guarded ours = awkward_buffer(&random, floats);
        guarded scalar = copy_buffer(&random, &ours);
        float scale = random_normal(&random);
        k->scores(q.data, rows, dim, keys.data, scale, ours.data);
        fb_kernels_scalar.scores(q.data, rows, dim, keys.data, scale, scalar.data);
        expect_same("scores", k, &ours, &scalar);
        guarded_free(&q);
        guarded_free(&keys);
    }
}

/* Scores as they come: ordinary, far apart, all -inf, with NaN or +inf among them. */
static void fill_scores(random_stream *random, float *s, size_t count) {
    size_t style = random_between(random, 0, 5);
    for (size_t i = 0; i < count; i++) {
        s[i] = random_normal(random) * (style == 1 ? 1e4f : style == 2 ? 60.0f : 3.0f);
        if (style == 3)
            s[i] = -INFINITY;
        if (style == 4 && random_between(random, 0, 40) == 0)
            s[i] = random_uniform(random) < 0.5 ? NAN : INFINITY;
        if (style == 5)
            s[i] = random_awkward(random);
    }
}

static void check_softmax(const fb_kernels *k) {
    random_stream random = random_named(2);
    for (int round = 0; round < ROUNDS; round++) {
        size_t rows = random_between(&random, 1, 20), counts[20];
        guarded s = guarded_new((rows - 1) * FB_SCORE_STRIDE + FB_TILE_KEYS,
                                random_between(&random, 0, 15));
        fill_scores(&random, s.data, s.count);
        guarded max = guarded_new(rows, random_between(&random, 0, 15));
        guarded sums = awkward_buffer(&random, rows * FB_GROUP_KEYS);
        guarded p = guarded_new(rows * FB_TILE_KEYS, random_between(&random, 0, 15));
        guarded alpha = guarded_new(rows, random_between(&random, 0, 15));
        for (size_t row = 0; row < rows; row++) {
            counts[row] = round % 2 ? FB_TILE_KEYS : random_between(&random, 0, FB_TILE_KEYS);
            max.data[row] = random_uniform(&random) < 0.3 ? -INFINITY : random_normal(&random);
            for (size_t i = 0; i < FB_GROUP_KEYS; i++)
                sums.data[row * FB_GROUP_KEYS + i] =
                    max.data[row] == -INFINITY ? 0.0f : fabsf(random_normal(&random));
        }
        guarded max2 = copy_buffer(&random, &max), sums2 = copy_buffer(&random, &sums);
        guarded p2 = guarded_new(p.count, 3), alpha2 = guarded_new(rows, 5);
        k->softmax(s.data, rows, counts, max.data, sums.data, p.data, alpha.data);
        fb_kernels_scalar.softmax(s.data, rows, counts, max2.data, sums2.data, p2.data,
                                  alpha2.data);
        for (size_t row = 0; row < rows; row++) { /* -0 and +0 are the same maximum */
            max.data[row] += 0.0f;
            max2.data[row] += 0.0f;
        }
        expect_same("softmax maximum", k, &max, &max2);
        expect_same("softmax sums", k, &sums, &sums2);
        expect_same("softmax p", k, &p, &p2);
        expect_same("softmax alpha", k, &alpha, &alpha2);
        guarded_free(&s);
    }
}

static void check_values(const fb_kernels *k) {
    random_stream random = random_named(3);
    for (int round = 0; round < ROUNDS; round++) {
        size_t rows = random_between(&random, 1, 50), dim = 8 * random_between(&random, 1, 64);
        size_t num_keys = random_between(&random, 1, FB_TILE_KEYS);
        size_t stride = dim + random_between(&random, 0, 3);
        bool reversed = random_uniform(&random) < 0.2;
        guarded p = awkward_buffer(&random, rows * FB_TILE_KEYS);
        guarded v = awkward_buffer(&random, (num_keys - 1) * stride + dim);
        guarded alpha = awkward_buffer(&random, rows);
        guarded ours = awkward_buffer(&random, rows * dim);
        guarded scalar = copy_buffer(&random, &ours);
        const float *first = reversed ? v.data + (num_keys - 1) * stride : v.data;
        ptrdiff_t step = reversed ? -(ptrdiff_t)stride : (ptrdiff_t)stride;
        k->values(p.data, rows, num_keys, first, step, dim, alpha.data, ours.data);
        fb_kernels_scalar.values(p.data, rows, num_keys, first, step, dim, alpha.data, scalar.data);
        expect_same("values", k, &ours, &scalar);
        guarded_free(&p);
        guarded_free(&v);
        guarded_free(&alpha);
    }
}

static void check_merge_row(const fb_kernels *k) {
    random_stream random = random_named(4);
    for (int round = 0; round < ROUNDS; round++) {
        size_t dim = 8 * random_between(&random, 1, 64);
        guarded big = awkward_buffer(&random, dim), small = awkward_buffer(&random, dim);
        guarded ours = copy_buffer(&random, &big), scalar = copy_buffer(&random, &small);
        float weight = fb_exp(-fabsf(random_awkward(&random)));
        /* in place on either input */
        k->merge_row(ours.data, small.data, weight, dim, ours.data);
        fb_kernels_scalar.merge_row(big.data, scalar.data, weight, dim, scalar.data);
        expect_same("merge_row", k, &ours, &scalar);
        guarded_free(&big);
        guarded_free(&small);
    }
}

/* All 65536 values of each storage type, from every offset, with every tail. */
static void check_widen(const fb_kernels *k) {
    enum { ALL = 1 << 16 };
    uint16_t *half = malloc((ALL + 64) * sizeof *half);
    cr_assert_not_null(half);
    for (size_t offset = 0; offset < 9; offset++) {
        size_t count = ALL - offset;
        for (size_t i = 0; i < ALL; i++)
            half[offset + i] = (uint16_t)i;
        for (int f16 = 0; f16 < 2; f16++) {
            guarded ours = guarded_new(count, offset), scalar = guarded_new(count, 0);
            (f16 ? k->widen_f16 : k->widen_bf16)(half + offset, ours.data, count);
            (f16 ? fb_kernels_scalar.widen_f16 : fb_kernels_scalar.widen_bf16)(half + offset,
                                                                               scalar.data, count);
            guarded_check("widen", &ours);
            /* NaN payloads pass through here: compared as they are */
            expect_same_bits(f16 ? "widen_f16" : "widen_bf16", ours.data, scalar.data, count);
            guarded_free(&ours);
            guarded_free(&scalar);
        }
    }
    free(half);
}

static void check_exp(const fb_kernels *k) {
    random_stream random = random_named(5);
    for (int round = 0; round < ROUNDS; round++) {
        size_t count = random_between(&random, 0, 300);
        guarded x = awkward_buffer(&random, count);
        for (size_t i = 0; i < count; i++)
            x.data[i] = round % 2 ? -fabsf(x.data[i]) : -110.0f * (float)random_uniform(&random);
        if (count > 2)
            x.data[1] = NAN, x.data[2] = -INFINITY;
        guarded ours = guarded_new(count, 1), scalar = guarded_new(count, 2);
        k->exp(x.data, ours.data, count);
        fb_kernels_scalar.exp(x.data, scalar.data, count);
        expect_same("exp", k, &ours, &scalar);
        guarded_free(&x);
    }
}

Test(kernels, scores) {
    for_each_simd(check_scores);
}

Test(kernels, softmax) {
    for_each_simd(check_softmax);
}

Test(kernels, values) {
    for_each_simd(check_values);
}

Test(kernels, merge_row) {
    for_each_simd(check_merge_row);
}

Test(kernels, widen) {
    for_each_simd(check_widen);
}

Test(kernels, exp) {
    for_each_simd(check_exp);
}
