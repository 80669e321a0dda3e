/* The kernels that checkasm checks: a function for each, and the shapes that --bench takes. */
#include "tests/checkasm.h"

#include <flashblock/attention.h>

#include <math.h>
#include <string.h>

static size_t choose_rows(check *c) {
    return choose(c, "rows", 1, FB_MAX_ROWS, 1);
}

/* Mostly around a few segments, up to 512 now and then, when all sizes are arbitrary. */
static size_t choose_head_dim(check *c) {
    bool large = c->number % (4 * (MAX_SWEPT + 1)) == MAX_SWEPT;
    return choose(c, "head_dim", 1, large ? 512 : 128, 1);
}

/* Floats of an A operand of the products, up to the last one that a kernel may read. */
static size_t row_floats(size_t rows, size_t length) {
    size_t last = (length - 1) / FB_SEGMENT;
    return last * FB_ROWS_BLOCK + (rows - 1) * FB_SEGMENT + length - last * FB_SEGMENT;
}

/* An address that a kernel may prefetch but must not read: some input, NULL, or anywhere at all. */
static const void *choose_next(check *c, const void *input) {
    size_t style = c->bench_sizes ? 0 : random_between(c, 0, 2);
    uintptr_t anywhere = (uintptr_t)random_between(c, 0, UINT32_MAX / 2) << 16;
    return style == 0 ? input : style == 1 ? NULL : (const void *)anywhere;
}

/* One stream, or several where rows are few. */
static size_t choose_streams(check *c, size_t rows) {
    if (c->bench_sizes || rows > FB_STREAM_ROWS)
        return 1;
    return choose_any(c, "streams", 1, FB_STREAMS);
}

static void check_scores(check *c, const fb_kernels *tested, const fb_kernels *twin) {
    size_t rows = choose_rows(c), head_dim = choose_head_dim(c);
    size_t num_groups = choose(c, "num_groups", 1, FB_TILE_GROUPS, 1);
    size_t streams = choose_streams(c, rows), all_groups = streams * num_groups;
    float scale = random_ordinary(c);
    const float *q = input_floats(c, "q", row_floats(rows, head_dim), ANY);
    const void **groups = input_pointers(c, "groups", all_groups);
    for (size_t group = 0; group < all_groups; group++)
        groups[group] = input_elements(c, "keys of a group", head_dim * FB_GROUP_KEYS);
    const void *next = choose_next(c, groups[0]);
    result s =
        result_floats(c, "s", (streams * rows - 1) * FB_SCORE_STRIDE + num_groups * FB_GROUP_KEYS);
    ready(c);
    fb_scores_call call = {
        .q = q,
        .rows = rows,
        .head_dim = head_dim,
        .streams = streams,
        .groups = groups,
        .num_groups = num_groups,
        .scale = scale,
        .next = next,
        .s = s.tested,
    };
    tested->scores[c->dtype](&call);
    call.s = s.twin;
    twin->scores[c->dtype](&call);
    expect_same(c, s, NANS_ALIKE);
    call.s = s.tested;
    BENCH(c, rows * all_groups * FB_GROUP_KEYS * head_dim, "multiply-add",
          tested->scores[c->dtype](&call));
}

/* Integers from -127 to 127. */
static int8_t *input_integers(check *c, const char *name, size_t count) {
    int8_t *integers = (int8_t *)input_bytes(c, name, count, 254);
    for (size_t i = 0; i < count; i++)
        integers[i] = (int8_t)((uint8_t)integers[i] - 127);
    return integers;
}

/* The scales of a group of 8 bits. In some groups they are so small that weights become 0, and in
 * some there is a NaN; in few, as it makes all outputs NaN. */
static void random_scales(check *c, int8_t *to) {
    float scales[FB_GROUP_KEYS];
    bool is_small = !c->bench_sizes && random_between(c, 0, 9) == 0;
    for (size_t key = 0; key < FB_GROUP_KEYS; key++)
        scales[key] = fabsf(random_ordinary(c)) * (is_small ? 0x1p-101f : 1.0f);
    if (!c->bench_sizes && random_between(c, 0, 9) == 0)
        scales[random_between(c, 0, FB_GROUP_KEYS - 1)] = NAN;
    memcpy(to, scales, sizeof scales);
}

/* A group of keys of 8 bits: the dimensions that only fill the last four are 0, and scales follow.
 */
static const void *input_int_keys(check *c, size_t head_dim) {
    size_t bytes = fb_int_keys_bytes(head_dim);
    int8_t *group = input_integers(c, "keys of a group", bytes + FB_GROUP_KEYS * sizeof(float));
    for (size_t d = head_dim; d * FB_GROUP_KEYS < bytes; d++)
        for (size_t key = 0; key < FB_GROUP_KEYS; key++)
            group[fb_int_key_index(d, key)] = 0;
    random_scales(c, group + bytes);
    return group;
}

/* A group of values of 8 bits. */
static const void *input_int_values(check *c, size_t head_dim) {
    size_t bytes = fb_int_values_bytes(head_dim);
    int8_t *group = input_integers(c, "values of a group", bytes + FB_GROUP_KEYS * sizeof(float));
    random_scales(c, group + bytes);
    return group;
}

static void check_int_scores(check *c, const fb_kernels *tested, const fb_kernels *twin) {
    size_t rows = choose_rows(c), head_dim = choose_head_dim(c), stride = fb_padded_dim(head_dim);
    size_t num_groups = choose(c, "num_groups", 1, FB_TILE_GROUPS, 1);
    size_t streams = choose_streams(c, rows), all_groups = streams * num_groups;
    int8_t *q = input_integers(c, "q", rows * stride);
    const float *factors = input_floats(c, "factors", rows, ANY);
    int32_t *sums = (int32_t *)(void *)input_floats(c, "sums of q", rows, ORDINARY);
    for (size_t row = 0; row < rows; row++) {
        memset(q + row * stride + head_dim, 0, stride - head_dim);
        sums[row] = 0;
        for (size_t d = 0; d < head_dim; d++)
            sums[row] += q[row * stride + d];
    }
    const void **groups = input_pointers(c, "groups", all_groups);
    for (size_t group = 0; group < all_groups; group++)
        groups[group] = input_int_keys(c, head_dim);
    const void *next = choose_next(c, groups[0]);
    result s =
        result_floats(c, "s", (streams * rows - 1) * FB_SCORE_STRIDE + num_groups * FB_GROUP_KEYS);
    ready(c);
    fb_int_scores_call call = {
        .q = q,
        .factors = factors,
        .sums = sums,
        .rows = rows,
        .head_dim = head_dim,
        .streams = streams,
        .groups = groups,
        .num_groups = num_groups,
        .next = next,
        .s = s.tested,
    };
    tested->int_scores(&call);
    call.s = s.twin;
    twin->int_scores(&call);
    expect_same(c, s, NANS_ALIKE);
    call.s = s.tested;
    BENCH(c, rows * all_groups * FB_GROUP_KEYS * head_dim, "multiply-add",
          tested->int_scores(&call));
}

static void check_dots(check *c, const fb_kernels *tested, const fb_kernels *twin) {
    size_t rows = choose(c, "rows", 1, FB_DOT_ROWS, 1);
    /* Long ones now and then only: under an emulator they would take most of the time. */
    bool any_length = c->bench_sizes || random_between(c, 0, 3) == 0;
    size_t most = any_length ? FB_DOT_COLUMNS : 4 * FB_DOT_STEP;
    size_t columns = choose(c, "columns", FB_DOT_STEP, most, FB_DOT_STEP);
    size_t least = tested->dot_outputs;
    size_t outputs = c->bench_sizes ? FB_DOT_OUTPUTS : choose_any(c, "calls", 1, 6 / least) * least;
    if (FB_DOT_OUTPUTS % outputs)
        outputs = FB_DOT_OUTPUTS;
    const float *x = input_floats(c, "x", (rows - 1) * FB_DOT_COLUMNS + columns, ANY);
    const void **weights = input_pointers(c, "weights", outputs);
    for (size_t i = 0; i < outputs; i++)
        weights[i] = input_elements(c, "a row of weights", columns);
    const void **next = input_pointers(c, "next", outputs);
    for (size_t i = 0; i < outputs; i++)
        next[i] = choose_next(c, weights[i]);
    const void *const *fetched = c->bench_sizes || random_between(c, 0, 1) ? NULL : next;
    float *wide = scratch_floats(c, "wide", outputs * FB_DOT_COLUMNS);
    result sums = result_floats(c, "sums", outputs * fb_dot_stride(rows));
    ready(c);
    fb_dots_call call = {
        .x = x,
        .rows = rows,
        .weights = weights,
        .outputs = outputs,
        .columns = columns,
        .wide = wide,
        .next = fetched,
        .sums = sums.tested,
    };
    tested->dots[c->dtype](&call);
    call.sums = sums.twin;
    twin->dots[c->dtype](&call);
    expect_same(c, sums, NANS_ALIKE);
    call.sums = sums.tested;
    BENCH(c, rows * outputs * columns, "multiply-add", tested->dots[c->dtype](&call));
}

/* The integers of a row of x are in an order of their table's own: each table multiplies its own.
 */
static void check_int_dots(check *c, const fb_kernels *tested, const fb_kernels *twin, int bits) {
    enum { MOST_ROWS = 13 };
    static fb_int_row tested_rows[FB_INT_ROWS], twin_rows[FB_INT_ROWS];
    size_t rows = choose(c, "rows", 1, c->bench_sizes ? FB_INT_ROWS : MOST_ROWS, 1);
    bool any_length = c->bench_sizes || random_between(c, 0, 7) == 0;
    size_t most = any_length ? FB_INT_COLUMNS : 3 * FB_INT_STEP;
    size_t columns = choose(c, "columns", FB_INT_STEP, most, FB_INT_STEP);
    size_t group = c->bench_sizes ? 128 : (size_t)32 << choose_any(c, "log2(group / 32)", 0, 2);
    unsigned shift = c->bench_sizes ? 31 : (unsigned)choose_any(c, "shift", 0, 3);
    size_t least = tested->int_outputs;
    size_t outputs =
        c->bench_sizes ? FB_INT_OUTPUTS : choose_any(c, "calls", 1, FB_INT_OUTPUTS / least) * least;
    size_t num_scales = ((columns / group - 1) >> shift) + 1;
    bool has_zero_points = bits == 4 && choose_any(c, "zero points", 0, 1);
    /* The last columns of x may be missing: they are zeros then. */
    size_t left = c->bench_sizes ? columns : columns - random_between(c, 0, FB_INT_STEP - 1);
    const void **weights = input_pointers(c, "weights", outputs);
    const void **scales = input_pointers(c, "scales", outputs);
    const void **zero_points = input_pointers(c, "zero points", outputs);
    const void **next = input_pointers(c, "next", outputs);
    for (size_t i = 0; i < outputs; i++)
        weights[i] = input_bytes(c, "a row of weights", columns * (size_t)bits / 8, 255);
    /* One buffer for the scales of all rows: there are not enough for each. */
    const float *all_scales = input_floats(c, "scales of rows", outputs * num_scales, ORDINARY);
    const uint8_t *all_zeros = input_bytes(c, "zero points of rows", outputs * num_scales, 15);
    for (size_t i = 0; i < outputs; i++) {
        scales[i] = all_scales + i * num_scales;
        zero_points[i] = all_zeros + i * num_scales;
        next[i] = choose_next(c, weights[i]);
    }
    const float *x = input_floats(c, "x", rows * left, c->number % 4 ? ORDINARY : ANY);
    result x_scales = result_floats(c, "scales of x", rows * (columns / group));
    result sums = result_floats(c, "sums", outputs * fb_dot_stride(rows));
    ready(c);
    for (size_t row = 0; row < rows; row++) {
        fb_quantize_call quantize = {x + row * left, left, group, bits, &tested_rows[row]};
        tested->quantize(&quantize);
        quantize.to = &twin_rows[row];
        twin->quantize(&quantize);
        size_t groups = columns / group;
        memcpy(x_scales.tested + row * groups, tested_rows[row].scales, groups * sizeof *x);
        memcpy(x_scales.twin + row * groups, twin_rows[row].scales, groups * sizeof *x);
    }
    expect_same(c, x_scales, SAME_BITS);
    fb_int_dots_call call = {
        .x = tested_rows,
        .rows = rows,
        .weights = weights,
        .bits = bits,
        .outputs = outputs,
        .columns = columns,
        .group = group,
        .scales = (const float *const *)(const void *)scales,
        .zero_points = has_zero_points ? (const uint8_t *const *)(const void *)zero_points : NULL,
        .scale_shift = shift,
        .next = c->bench_sizes || random_between(c, 0, 1) ? NULL : next,
        .sums = sums.tested,
    };
    tested->int_dots(&call);
    call.x = twin_rows;
    call.sums = sums.twin;
    twin->int_dots(&call);
    expect_same(c, sums, NANS_ALIKE);
    call.x = tested_rows;
    call.sums = sums.tested;
    BENCH(c, rows * outputs * columns, "multiply-add", tested->int_dots(&call));
}

static void check_int8_dots(check *c, const fb_kernels *tested, const fb_kernels *twin) {
    check_int_dots(c, tested, twin, 8);
}

static void check_int4_dots(check *c, const fb_kernels *tested, const fb_kernels *twin) {
    check_int_dots(c, tested, twin, 4);
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
    fb_softmax_call call = {s, rows, counts, max.tested, sums.tested, p.tested, alpha.tested};
    tested->softmax(&call);
    twin->softmax(&(fb_softmax_call){s, rows, counts, max.twin, sums.twin, p.twin, alpha.twin});
    expect_same(c, max, NANS_ALIKE | ZEROS_ALIKE); /* a zero is subtracted: its sign is lost */
    expect_same(c, sums, NANS_ALIKE);
    expect_same(c, p, NANS_ALIKE);
    expect_same(c, alpha, NANS_ALIKE);
    BENCH(c, rows * count, "key", tested->softmax(&call));
}

/* A stream's groups of values. In the last group, memory ends after the last key of the last panel;
 * of 8 bits all of it is there. */
static void fill_value_groups(check *c, const void **groups, size_t num_keys, size_t head_dim) {
    size_t elements = FB_GROUP_KEYS * fb_padded_dim(head_dim);
    for (size_t key = 0; key < num_keys; key += FB_GROUP_KEYS) {
        size_t left = num_keys - key;
        size_t absent = left < FB_GROUP_KEYS ? FB_GROUP_KEYS - left : 0;
        size_t count = elements - absent * FB_PANEL_DIMS;
        groups[key / FB_GROUP_KEYS] = c->dtype == FB_INT8
                                          ? input_int_values(c, head_dim)
                                          : input_elements(c, "values of a group", count);
    }
}

static fb_values_fn *values_of(const check *c, const fb_kernels *kernels) {
    return c->dtype == FB_INT8 ? kernels->int_values : kernels->values[c->dtype];
}

static void check_values(check *c, const fb_kernels *tested, const fb_kernels *twin) {
    size_t rows = choose_rows(c);
    size_t num_keys = choose(c, "num_keys", 1, FB_TILE_KEYS, 1);
    size_t head_dim = choose_head_dim(c);
    size_t num_groups = (num_keys + FB_GROUP_KEYS - 1) / FB_GROUP_KEYS;
    size_t streams = choose_streams(c, rows), all_rows = streams * rows;
    float *p = input_floats(c, "p", row_floats(all_rows, num_keys), ANY);
    for (size_t i = 0; c->dtype == FB_INT8 && i < row_floats(all_rows, num_keys); i++)
        p[i] = fabsf(p[i]);
    const float *alpha = input_floats(c, "alpha", all_rows, ANY);
    const void **groups = input_pointers(c, "groups", streams * num_groups);
    for (size_t stream = 0; stream < streams; stream++)
        fill_value_groups(c, groups + stream * num_groups, num_keys, head_dim);
    const void *next = choose_next(c, groups[0]);
    result o = result_floats(c, "o", all_rows * fb_padded_dim(head_dim));
    ready(c);
    fb_values_call call = {
        .p = p,
        .rows = rows,
        .num_keys = num_keys,
        .streams = streams,
        .groups = groups,
        .head_dim = head_dim,
        .alpha = alpha,
        .next = next,
        .o = o.tested,
    };
    fb_values_fn *values = values_of(c, tested);
    values(&call);
    call.o = o.twin;
    values_of(c, twin)(&call);
    expect_same(c, o, NANS_ALIKE);
    call.o = o.tested;
    BENCH(c, all_rows * num_keys * head_dim, "multiply-add", values(&call));
}

static void check_transpose(check *c, const fb_kernels *tested, const fb_kernels *twin) {
    size_t head_dim = choose_head_dim(c);
    const void *keys = input_elements(c, "keys", head_dim * FB_GROUP_KEYS);
    result to = result_floats(c, "to", fb_padded_dim(head_dim) * FB_GROUP_KEYS);
    ready(c);
    fb_transpose_call call = {keys, head_dim, to.tested};
    tested->transpose[c->dtype](&call);
    twin->transpose[c->dtype](&(fb_transpose_call){keys, head_dim, to.twin});
    expect_same(c, to, SAME_BITS);
    BENCH(c, head_dim * FB_GROUP_KEYS, "element", tested->transpose[c->dtype](&call));
}

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
    expect_same(c, o, 0);
    BENCH(c, head_dim, "element", tested->merge_row(big, small, weight, head_dim, o.tested));
}

static void check_divide_row(check *c, const fb_kernels *tested, const fb_kernels *twin) {
    size_t head_dim = choose_head_dim(c);
    float sum = random_between(c, 0, 3) ? 1.0f + fabsf(random_ordinary(c)) : random_awkward(c);
    result o = result_floats(c, "o", head_dim);
    for (size_t d = 0; d < head_dim; d++)
        o.tested[d] = random_between(c, 0, 3) ? random_ordinary(c) : random_awkward(c);
    ready(c);
    tested->divide_row(sum, head_dim, o.tested);
    twin->divide_row(sum, head_dim, o.twin);
    expect_same(c, o, 0);
    BENCH(c, head_dim, "element", tested->divide_row(sum, head_dim, o.tested));
}

/* NaN payloads pass through: compared as they are. Now and then, when the count would be arbitrary,
 * a case holds all 65536 values. */
static void check_widen(check *c, const fb_kernels *tested, const fb_kernels *twin) {
    enum { ALL = 1 << 16, TURNS = MAX_SWEPT + 1, PERIOD = 13 * TURNS };
    fb_widen_fn *widen = c->dtype == FB_F16 ? tested->widen_f16 : tested->widen_bf16;
    fb_widen_fn *twin_widen = c->dtype == FB_F16 ? twin->widen_f16 : twin->widen_bf16;
    bool all = c->number % PERIOD == MAX_SWEPT && !c->bench_sizes;
    size_t tail = c->number / PERIOD % 16;
    size_t count =
        all ? choose_any(c, "count", ALL - tail, ALL - tail) : choose(c, "count", 0, 100, 1);
    uint16_t *from = input_halves(c, "from", count);
    for (size_t i = 0; all && i < count; i++)
        from[i] = (uint16_t)i;
    result to = result_floats(c, "to", count);
    ready(c);
    widen(from, to.tested, count);
    twin_widen(from, to.twin, count);
    expect_same(c, to, SAME_BITS);
    BENCH(c, count, "element", widen(from, to.tested, count));
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

/* Name, function, type, shapes: the sizes in the order of choose()'s calls. */
const kernel_check kernel_checks[] = {
    {"scores_f32", check_scores, FB_F32, {{4, 128, 4}, {32, 128, 4}, {32, 64, 4}}},
    {"scores_bf16", check_scores, FB_BF16, {{4, 128, 4}, {32, 128, 4}, {32, 64, 4}}},
    {"scores_f16", check_scores, FB_F16, {{4, 128, 4}, {32, 128, 4}, {32, 64, 4}}},
    {"softmax", check_softmax, FB_F32, {{1, 64}, {16, 64}, {48, 64}}},
    {"values_f32", check_values, FB_F32, {{4, 64, 128}, {32, 64, 128}, {32, 64, 64}}},
    {"values_bf16", check_values, FB_BF16, {{4, 64, 128}, {32, 64, 128}, {32, 64, 64}}},
    {"values_f16", check_values, FB_F16, {{4, 64, 128}, {32, 64, 128}, {32, 64, 64}}},
    {"int_scores", check_int_scores, FB_INT8, {{4, 128, 4}, {32, 128, 4}, {32, 64, 4}}},
    {"int_values", check_values, FB_INT8, {{4, 64, 128}, {32, 64, 128}, {32, 64, 64}}},
    {"dots_f32", check_dots, FB_F32, {{4, 512}, {32, 512}}},
    {"dots_bf16", check_dots, FB_BF16, {{4, 512}, {32, 512}}},
    {"dots_f16", check_dots, FB_F16, {{4, 512}, {32, 512}}},
    {"int_dots_8", check_int8_dots, FB_F32, {{4, 2048}, {32, 2048}}},
    {"int_dots_4", check_int4_dots, FB_F32, {{4, 2048}, {32, 2048}}},
    {"transpose_f32", check_transpose, FB_F32, {{128}, {100}}},
    {"transpose_bf16", check_transpose, FB_BF16, {{128}, {100}}},
    {"transpose_f16", check_transpose, FB_F16, {{128}, {100}}},
    {"merge_row", check_merge_row, FB_F32, {{128}}},
    {"divide_row", check_divide_row, FB_F32, {{128}}},
    {"widen_bf16", check_widen, FB_BF16, {{1024}}},
    {"widen_f16", check_widen, FB_F16, {{1024}}},
    {"exp", check_exp, FB_F32, {{1024}}},
};
const size_t num_kernel_checks = sizeof kernel_checks / sizeof *kernel_checks;
