/* The kernels that checkasm checks: one function each, and the shapes that --bench takes. */
#include "checkasm.h"

#include <flashblock/attention.h>

#include <math.h>
#include <string.h>

enum { MAX_HEAD_DIM = 320, MAX_GROUPS = FB_TILE_GROUPS };

static size_t choose_rows(check *c) {
    return choose(c, "rows", 1, FB_MAX_ROWS, 1);
}

static size_t choose_head_dim(check *c) {
    return choose(c, "head_dim", 1, MAX_HEAD_DIM, 1);
}

/* Floats of an A operand: up to the last one that a kernel may read. */
static size_t row_floats(size_t rows, size_t length) {
    size_t last = (length - 1) / FB_SEGMENT;
    return last * FB_ROWS_BLOCK + (rows - 1) * FB_SEGMENT + length - last * FB_SEGMENT;
}

/* Packed keys or values, all bit patterns of 16-bit types among them. */
static const void *input_group(check *c, fb_dtype dtype, size_t count) {
    if (dtype == FB_F32)
        return input_floats(c, "group", count, ANY);
    return input_halves(c, "group", count);
}

static void check_scores(check *c, fb_scores_fn *tested, fb_scores_fn *twin, fb_dtype dtype) {
    size_t rows = choose_rows(c), head_dim = choose_head_dim(c);
    size_t num_groups = choose(c, "num_groups", 1, MAX_GROUPS, 1);
    float scale = random_ordinary(c);
    const float *q = input_floats(c, "q", row_floats(rows, head_dim), ANY);
    const void *groups[MAX_GROUPS];
    for (size_t i = 0; i < num_groups; i++)
        groups[i] = input_group(c, dtype, head_dim * FB_GROUP_KEYS);
    result wide = result_floats(c, "wide", head_dim * FB_GROUP_KEYS);
    result s = result_floats(c, "s", (rows - 1) * FB_SCORE_STRIDE + num_groups * FB_GROUP_KEYS);
    ready(c);
    tested(q, rows, head_dim, groups, num_groups, scale, wide.tested, groups, s.tested);
    twin(q, rows, head_dim, groups, num_groups, scale, wide.twin, groups, s.twin);
    expect_same(c, s, NANS_ALIKE);
    BENCH(c, rows * num_groups * FB_GROUP_KEYS * head_dim, "multiply-add",
          tested(q, rows, head_dim, groups, num_groups, scale, wide.tested, groups, s.tested));
}

/* Scores as they come: ordinary, far apart, all -inf, with NaN or +inf among them, awkward. */
static void fill_scores(check *c, float *s, size_t count) {
    size_t style = c->bench_sizes ? 0 : random_between(c, 0, 5);
    for (size_t i = 0; i < count; i++) {
        s[i] = random_ordinary(c) * (style == 1 ? 1e4f : style == 2 ? 60.0f : 3.0f);
        if (style == 3)
            s[i] = -INFINITY;
        if (style == 4 && random_between(c, 0, 9) == 0)
            s[i] = random_between(c, 0, 1) ? NAN : INFINITY;
        if (style == 5)
            s[i] = random_awkward(c);
    }
}

/* The state of a row: nothing yet, or a maximum (now and then above all scores, or infinite) and
 * sums that are not negative. */
static void fill_row_state(check *c, float *max, float *sums) {
    size_t style = c->bench_sizes ? 0 : random_between(c, 0, 9);
    *max = style < 3 ? -INFINITY : style == 3 ? INFINITY : random_ordinary(c);
    *max *= style < 7 ? 1.0f : 1e3f;
    for (size_t i = 0; i < FB_GROUP_KEYS; i++)
        sums[i] = *max == -INFINITY ? 0.0f : fabsf(random_ordinary(c));
}

/* All rows have the same number of keys, each its own, or all of them a full tile. */
static void fill_counts(check *c, size_t *counts, size_t rows, size_t alike) {
    size_t style = choose_any(c, "counts (0: alike, 1: arbitrary, 2: full)", 0, 2);
    for (size_t row = 0; row < rows; row++)
        counts[row] = style == 0   ? alike
                      : style == 1 ? random_between(c, 0, FB_TILE_KEYS)
                                   : FB_TILE_KEYS;
}

static void check_softmax(check *c, const fb_kernels *tested, const fb_kernels *twin) {
    size_t rows = choose_rows(c);
    size_t count = choose(c, "count", 0, FB_TILE_KEYS, 1);
    float *s = input_floats(c, "s", (rows - 1) * FB_SCORE_STRIDE + FB_TILE_KEYS, ORDINARY);
    size_t *counts = input_sizes(c, "counts", rows);
    result max = result_floats(c, "max", rows);
    result sums = result_floats(c, "sums", rows * FB_GROUP_KEYS);
    result p = result_floats(c, "p", row_floats(rows, FB_TILE_KEYS));
    result alpha = result_floats(c, "alpha", rows);
    fill_scores(c, s, (rows - 1) * FB_SCORE_STRIDE + FB_TILE_KEYS);
    fill_counts(c, counts, rows, count);
    for (size_t row = 0; row < rows; row++)
        fill_row_state(c, max.tested + row, sums.tested + row * FB_GROUP_KEYS);
    ready(c);
    tested->softmax(s, rows, counts, max.tested, sums.tested, p.tested, alpha.tested);
    twin->softmax(s, rows, counts, max.twin, sums.twin, p.twin, alpha.twin);
    expect_same(c, max, NANS_ALIKE | ZEROS_ALIKE); /* a zero is subtracted: its sign is lost */
    expect_same(c, sums, NANS_ALIKE);
    expect_same(c, p, NANS_ALIKE);
    expect_same(c, alpha, NANS_ALIKE);
    BENCH(c, rows * count, "key",
          tested->softmax(s, rows, counts, max.tested, sums.tested, p.tested, alpha.tested));
}

static void check_values(check *c, fb_values_fn *tested, fb_values_fn *twin, fb_dtype dtype) {
    size_t rows = choose_rows(c), num_keys = choose(c, "num_keys", 1, FB_TILE_KEYS, 1);
    size_t head_dim = choose_head_dim(c), padded_dim = fb_padded_dim(head_dim);
    const float *p = input_floats(c, "p", row_floats(rows, num_keys), ANY);
    const void *groups[MAX_GROUPS];
    for (size_t first = 0; first < num_keys; first += FB_GROUP_KEYS) {
        size_t left = num_keys - first, keys = left < FB_GROUP_KEYS ? left : FB_GROUP_KEYS;
        size_t before = (padded_dim - FB_PANEL_DIMS) * FB_GROUP_KEYS; /* of the last panel */
        groups[first / FB_GROUP_KEYS] = input_group(c, dtype, before + keys * FB_PANEL_DIMS);
    }
    const float *alpha = input_floats(c, "alpha", rows, ANY);
    result wide = result_floats(c, "wide", FB_TILE_KEYS * FB_PANEL_DIMS);
    result o = result_floats(c, "o", rows * padded_dim);
    ready(c);
    tested(p, rows, num_keys, groups, head_dim, alpha, wide.tested, groups, o.tested);
    twin(p, rows, num_keys, groups, head_dim, alpha, wide.twin, groups, o.twin);
    expect_same(c, o, NANS_ALIKE);
    BENCH(c, rows * num_keys * head_dim, "multiply-add",
          tested(p, rows, num_keys, groups, head_dim, alpha, wide.tested, groups, o.tested));
}

/* The kernels that there is one of for each storage type. */
#define CHECKS_OF_TYPE(NAME, DTYPE)                                                                \
    static void check_scores_##NAME(check *c, const fb_kernels *tested, const fb_kernels *twin) {  \
        check_scores(c, tested->scores[DTYPE], twin->scores[DTYPE], DTYPE);                        \
    }                                                                                              \
    static void check_values_##NAME(check *c, const fb_kernels *tested, const fb_kernels *twin) {  \
        check_values(c, tested->values[DTYPE], twin->values[DTYPE], DTYPE);                        \
    }

CHECKS_OF_TYPE(f32, FB_F32)
CHECKS_OF_TYPE(bf16, FB_BF16)
CHECKS_OF_TYPE(f16, FB_F16)

static void check_merge_row(check *c, const fb_kernels *tested, const fb_kernels *twin) {
    size_t head_dim = choose_head_dim(c);
    size_t into = choose_any(c, "into (1: big, 2: small)", 0, 2);
    float exponent = -fabsf(random_awkward(c)), weight;
    twin->exp(&exponent, &weight, 1);
    const float *big = input_floats(c, "big", head_dim, ANY);
    const float *small = input_floats(c, "small", head_dim, ANY);
    result o = result_floats(c, "o", head_dim);
    if (into)
        memcpy(o.tested, into == 1 ? big : small, head_dim * sizeof *big);
    ready(c);
    tested->merge_row(into == 1 ? o.tested : big, into == 2 ? o.tested : small, weight, head_dim,
                      o.tested);
    twin->merge_row(into == 1 ? o.twin : big, into == 2 ? o.twin : small, weight, head_dim, o.twin);
    expect_same(c, o, NANS_ALIKE);
    BENCH(c, head_dim, "element", tested->merge_row(big, small, weight, head_dim, o.tested));
}

/* NaN payloads pass through: compared as they are. Now and then, when the count would be arbitrary,
 * a case holds all 65536 values. */
static void check_widen(check *c, fb_widen_fn *tested, fb_widen_fn *twin) {
    enum { ALL = 1 << 16, TURNS = MAX_SWEPT + 1, PERIOD = 13 * TURNS };
    bool all = c->number % PERIOD == MAX_SWEPT && !c->bench_sizes;
    size_t tail = c->number / PERIOD % 16;
    size_t count =
        all ? choose_any(c, "count", ALL - tail, ALL - tail) : choose(c, "count", 0, 100, 1);
    uint16_t *from = input_halves(c, "from", count);
    for (size_t i = 0; all && i < count; i++)
        from[i] = (uint16_t)i;
    result to = result_floats(c, "to", count);
    ready(c);
    tested(from, to.tested, count);
    twin(from, to.twin, count);
    expect_same(c, to, SAME_BITS);
    BENCH(c, count, "element", tested(from, to.tested, count));
}

static void check_widen_bf16(check *c, const fb_kernels *tested, const fb_kernels *twin) {
    check_widen(c, tested->widen_bf16, twin->widen_bf16);
}

static void check_widen_f16(check *c, const fb_kernels *tested, const fb_kernels *twin) {
    check_widen(c, tested->widen_f16, twin->widen_f16);
}

/* Arguments up to 0: over the range where the result is not 0, and anywhere. */
static void check_exp(check *c, const fb_kernels *tested, const fb_kernels *twin) {
    size_t count = choose(c, "count", 0, 300, 1);
    float *x = input_floats(c, "x", count, ANY);
    bool in_range = random_between(c, 0, 1) || c->bench_sizes;
    for (size_t i = 0; i < count; i++)
        x[i] = in_range ? -110.0f * (float)random_between(c, 0, 1 << 24) * 0x1p-24f : -fabsf(x[i]);
    if (count > 2 && !c->bench_sizes) {
        x[1] = NAN;
        x[2] = -INFINITY;
    }
    result out = result_floats(c, "out", count);
    ready(c);
    tested->exp(x, out.tested, count);
    twin->exp(x, out.twin, count);
    expect_same(c, out, NANS_ALIKE);
    BENCH(c, count, "element", tested->exp(x, out.tested, count));
}

const kernel_check kernel_checks[] = {
    {"scores_f32", check_scores_f32, {{1, 128, 4}, {16, 128, 4}, {48, 128, 4}, {48, 64, 4}}},
    {"scores_bf16", check_scores_bf16, {{1, 128, 4}, {16, 128, 4}, {48, 128, 4}}},
    {"scores_f16", check_scores_f16, {{1, 128, 4}, {16, 128, 4}, {48, 128, 4}}},
    {"softmax", check_softmax, {{1, 64}, {16, 64}, {48, 64}}},
    {"values_f32", check_values_f32, {{1, 64, 128}, {16, 64, 128}, {48, 64, 128}, {48, 64, 64}}},
    {"values_bf16", check_values_bf16, {{1, 64, 128}, {16, 64, 128}, {48, 64, 128}}},
    {"values_f16", check_values_f16, {{1, 64, 128}, {16, 64, 128}, {48, 64, 128}}},
    {"merge_row", check_merge_row, {{128}}},
    {"widen_bf16", check_widen_bf16, {{1024}}},
    {"widen_f16", check_widen_f16, {{1024}}},
    {"exp", check_exp, {{1024}}},
};
const size_t num_kernel_checks = sizeof kernel_checks / sizeof *kernel_checks;
