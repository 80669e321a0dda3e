/* fb_merge: the identity, commutativity, extremes, and bugs of other implementations. */
#include "base/half.h"
#include "tests/numbers.h"

#include <flashblock/flashblock.h>

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { DIM = 24, ROWS = 500 };

typedef struct rows {
    float out[ROWS * DIM], lse[ROWS];
} rows;

static fb_part part_of(rows *r) {
    return fb_part_rows(r->out, r->lse, 1, DIM);
}

static rows *rows_new(random_stream *random, float lse_spread) {
    rows *r = malloc(sizeof *r);
    cr_assert_not_null(r);
    for (size_t i = 0; i < ROWS * DIM; i++)
        r->out[i] = random_awkward(random);
    for (size_t i = 0; i < ROWS; i++)
        r->lse[i] = lse_spread * random_normal(random);
    return r;
}

static void merge(rows *a, rows *b, rows *result) {
    fb_part pa = part_of(a), pb = part_of(b), pr = part_of(result);
    cr_assert_eq(fb_merge(&pa, &pb, ROWS, 1, DIM, &pr), FB_OK, "%s", fb_error_message());
}

/* docs/contract.md C4.2. */
Test(merge, the_empty_part_is_an_identity_on_both_sides) {
    random_stream random = random_named(20);
    rows *a = rows_new(&random, 50.0f), *empty = calloc(1, sizeof *empty);
    rows *left = malloc(sizeof *left), *right = malloc(sizeof *right);
    for (size_t i = 0; i < ROWS; i++)
        empty->lse[i] = -INFINITY;
    merge(a, empty, right);
    merge(empty, a, left);
    expect_same_bits("out", a->out, right->out, ROWS * DIM);
    expect_same_bits("lse", a->lse, right->lse, ROWS);
    expect_same_bits("out", a->out, left->out, ROWS * DIM);
    expect_same_bits("lse", a->lse, left->lse, ROWS);
    /* an empty part's output may hold anything, such as a row that no kernel wrote */
    for (size_t i = 0; i < ROWS * DIM; i++)
        empty->out[i] = NAN;
    merge(a, empty, right);
    expect_same_bits("out", a->out, right->out, ROWS * DIM);
    free(a), free(empty), free(left), free(right);
}

/* vllm#27491, #28181, #39148; flashinfer#4051, #4054, #5262: two LSEs of -inf gave NaN. */
Test(merge, two_empty_parts_stay_empty) {
    rows *a = calloc(1, sizeof *a), *b = calloc(1, sizeof *b), *result = malloc(sizeof *result);
    for (size_t i = 0; i < ROWS; i++)
        a->lse[i] = b->lse[i] = -INFINITY;
    for (size_t i = 0; i < ROWS * DIM; i++)
        b->out[i] = NAN;
    merge(a, b, result);
    for (size_t i = 0; i < ROWS * DIM; i++)
        cr_assert(fb_f32_to_bits(result->out[i]) == 0);
    for (size_t i = 0; i < ROWS; i++)
        cr_assert_eq(result->lse[i], -INFINITY);
    free(a), free(b), free(result);
}

/* docs/contract.md C4.5. */
Test(merge, is_commutative_to_the_bit) {
    random_stream random = random_named(21);
    for (int round = 0; round < 20; round++) {
        rows *a = rows_new(&random, 3.0f), *b = rows_new(&random, 3.0f);
        rows *ab = malloc(sizeof *ab), *ba = malloc(sizeof *ba);
        for (size_t i = 0; i < ROWS; i += 7)
            b->lse[i] = a->lse[i]; /* ties as well */
        merge(a, b, ab);
        merge(b, a, ba);
        expect_same_bits("out", ab->out, ba->out, ROWS * DIM);
        expect_same_bits("lse", ab->lse, ba->lse, ROWS);
        free(a), free(b), free(ab), free(ba);
    }
}

/* The result may take the place of either input. */
Test(merge, in_place) {
    random_stream random = random_named(22);
    rows *a = rows_new(&random, 5.0f), *b = rows_new(&random, 5.0f);
    rows *result = malloc(sizeof *result), *kept = malloc(sizeof *kept);
    memcpy(kept, a, sizeof *kept);
    merge(a, b, result);
    merge(a, b, a);
    expect_same_bits("out", result->out, a->out, ROWS * DIM);
    merge(kept, b, b);
    expect_same_bits("out", result->out, b->out, ROWS * DIM);
    expect_same_bits("lse", result->lse, b->lse, ROWS);
    free(a), free(b), free(result), free(kept);
}

/* Beyond a difference of 104 the smaller part has weight 0: the larger one remains. */
Test(merge, differences_beyond_104) {
    random_stream random = random_named(23);
    rows *a = rows_new(&random, 1.0f), *b = rows_new(&random, 1.0f);
    rows *result = malloc(sizeof *result);
    for (size_t i = 0; i < ROWS; i++) {
        a->lse[i] = (float)i * 50.0f + 104.5f;
        b->lse[i] = (float)i * 50.0f;
    }
    for (size_t i = 0; i < ROWS * DIM; i++)
        a->out[i] += a->out[i] == 0.0f ? 1.0f : 0.0f; /* -0 + 0 would be +0 */
    merge(a, b, result);
    expect_same_bits("out", a->out, result->out, ROWS * DIM);
    expect_same_bits("lse", a->lse, result->lse, ROWS);
    free(a), free(b), free(result);
}

/* flash-attention#978, flashinfer#4484: an LSE of +inf for an empty set is not a part. It and NaN
 * reach their own rows only. docs/contract.md C4.3. */
Test(merge, plus_infinity_and_nan_reach_their_own_rows) {
    random_stream random = random_named(24);
    rows *a = rows_new(&random, 1.0f), *b = rows_new(&random, 1.0f);
    rows *clean = malloc(sizeof *clean), *result = malloc(sizeof *result);
    for (size_t i = 0; i < ROWS * DIM; i++) {
        a->out[i] = random_normal(&random);
        b->out[i] = random_normal(&random);
    }
    merge(a, b, clean);
    a->lse[3] = INFINITY;
    b->lse[5] = NAN;
    b->out[7 * DIM + 2] = NAN;
    merge(a, b, result);
    for (size_t row = 0; row < ROWS; row++) {
        if (row == 3 || row == 5) {
            for (size_t d = 0; d < DIM; d++)
                cr_assert_eq(fb_f32_to_bits(result->out[row * DIM + d]), 0x7fc00000u);
            cr_assert_eq(fb_f32_to_bits(result->lse[row]), 0x7fc00000u);
        } else if (row == 7) {
            cr_assert(isnan(result->out[row * DIM + 2]));
            cr_assert(isfinite(result->out[row * DIM + 3]) && isfinite(result->lse[row]));
        } else {
            expect_same_bits("out", clean->out + row * DIM, result->out + row * DIM, DIM);
        }
    }
    free(a), free(b), free(clean), free(result);
}

/* Every instruction set and thread count, with so many rows that threads start. docs/contract.md
 * C7. */
Test(merge, one_answer_everywhere) {
    enum { MANY = 9000 };
    random_stream random = random_named(25);
    float *out_a = random_floats(&random, MANY * DIM, 1.0f),
          *lse_a = random_floats(&random, MANY, 4.0f);
    float *out_b = random_floats(&random, MANY * DIM, 1.0f),
          *lse_b = random_floats(&random, MANY, 4.0f);
    float *first = malloc(MANY * DIM * sizeof *first), *first_lse = malloc(MANY * sizeof *first);
    float *out = malloc(MANY * DIM * sizeof *out), *lse = malloc(MANY * sizeof *lse);
    fb_part a = fb_part_rows(out_a, lse_a, 3, DIM), b = fb_part_rows(out_b, lse_b, 3, DIM);
    fb_part expected = fb_part_rows(first, first_lse, 3, DIM), got = fb_part_rows(out, lse, 3, DIM);
    cr_assert_eq(fb_isa_select(FB_ISA_SCALAR), FB_OK);
    cr_assert_eq(fb_set_num_threads(1), FB_OK);
    cr_assert_eq(fb_merge(&a, &b, MANY / 3, 3, DIM, &expected), FB_OK);
    for (fb_isa isa = FB_ISA_SCALAR; isa < FB_ISA_COUNT; isa++)
        for (int threads = 1; threads <= 4; threads++) {
            if (!fb_isa_built(isa) || !fb_isa_supported(isa))
                continue;
            cr_assert_eq(fb_isa_select(isa), FB_OK);
            cr_assert_eq(fb_set_num_threads(threads), FB_OK);
            cr_assert_eq(fb_merge(&a, &b, MANY / 3, 3, DIM, &got), FB_OK);
            expect_same_bits("out", first, out, MANY * DIM);
            expect_same_bits("lse", first_lse, lse, MANY);
        }
    free(out_a), free(lse_a), free(out_b), free(lse_b);
    free(first), free(first_lse), free(out), free(lse);
}

/* sglang#35045, flashinfer#2113: a base-2 LSE in a natural merge gives results that are far off. */
Test(merge, a_base_2_lse_is_far_off) {
    float one[2] = {1.0f, 0.0f}, two[2] = {0.0f, 1.0f}, out[2];
    float natural_one = 8.0f, natural_two = 5.0f, lse;
    float base_2_one = natural_one * 1.44269504f;
    fb_part a = fb_part_rows(one, &natural_one, 1, 2), b = fb_part_rows(two, &natural_two, 1, 2);
    fb_part result = fb_part_rows(out, &lse, 1, 2);
    cr_assert_eq(fb_merge(&a, &b, 1, 1, 2, &result), FB_OK);
    cr_assert_float_eq(out[1], 0.0474259f, 1e-6f);
    a.lse = &base_2_one;
    cr_assert_eq(fb_merge(&a, &b, 1, 1, 2, &result), FB_OK);
    cr_assert(fabsf(out[1] - 0.0474259f) > 0.04f);
}

Test(merge, wrong_arguments) {
    float out[8] = {0}, lse[1] = {0};
    fb_part part = fb_part_rows(out, lse, 1, 8), broken = {0};
    cr_assert_eq(fb_merge(&part, &part, 1, 1, 0, &part), FB_ERROR_ARGUMENT);
    cr_assert(strstr(fb_error_message(), "head_dim is 0"));
    cr_assert_eq(fb_merge(&part, &broken, 1, 1, 8, &part), FB_ERROR_ARGUMENT);
    cr_assert(strstr(fb_error_message(), "b.out is NULL"), "%s", fb_error_message());
    cr_assert_eq(fb_merge(NULL, &part, 1, 1, 8, &part), FB_ERROR_ARGUMENT);
    cr_assert(strstr(fb_error_message(), "a is NULL"), "%s", fb_error_message());
}
