/* Tensors that the paper's own code produced: attention with its log-sum-exp, parts and merges,
 * and the engine's fused merge kernels. Every file of the folders attn, split and kern. */
#include "golden_list.h"
#include "numbers.h"

#include <flashblock/flashblock.h>

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static double largest_error(const float *values, const double *truth, size_t count) {
    double worst = 0.0;
    for (size_t i = 0; i < count; i++) {
        double error = fabs((double)values[i] - truth[i]);
        worst = error <= worst ? worst : isnan(error) ? (double)INFINITY : error;
    }
    return worst;
}

static double largest(const double *values, size_t count) {
    double worst = 0.0;
    for (size_t i = 0; i < count; i++)
        worst = fmax(worst, fabs(values[i]));
    return worst;
}

/* One float32 ulp of a number of this size. */
static double ulp_of(double magnitude) {
    int exponent = 0;
    frexp(magnitude, &exponent);
    return ldexp(1.0, exponent - 24);
}

/* Never farther from the float64 truth than the paper's float32 result plus one ulp: of the largest
 * value, or `ulp_of_scores` where that is more. */
static void expect_as_good(golden_case *c, const char *what, const float *ours, const float *paper,
                           const double *truth, size_t count, double ulp_of_scores) {
    double error = largest_error(ours, truth, count), theirs = largest_error(paper, truth, count);
    double ulp = fmax(ulp_of(largest(truth, count)), ulp_of_scores);
    cr_log_info("%s: %s is off by %.2e, the paper's by %.2e", golden_name(c), what, error, theirs);
    cr_expect(error <= theirs + ulp, "%s: %s is off by %g, the paper's by %g, an ulp is %g",
              golden_name(c), what, error, theirs, ulp);
}

/* Scores of hundreds are known to an ulp of theirs only, whoever computes them in float32; what its
 * half, the rounding of one score, moves the output by. Below scores of 16 that is hidden among
 * the other roundings, and not granted. (The largest LSE is close to the largest score.) */
static double effect_of_scores(const double *lse, size_t rows, const float *v, size_t values) {
    double score = largest(lse, rows), v_max = 0.0;
    for (size_t i = 0; i < values; i++)
        v_max = fmax(v_max, fabs((double)v[i]));
    return score < 16.0 ? 0.0 : 0.5 * ulp_of(score) * v_max;
}

/* out and lse of a case, batch by batch. lse is [B, H, Sq] in the files. */
GOLDEN_TEST(golden_attention, attention, "attn", "attn_") {
    size_t batch = golden_size(c, "B"), sq = golden_size(c, "Sq"), sk = golden_size(c, "Sk");
    size_t heads = golden_size(c, "H"), kv_heads = golden_size(c, "Hk"), dim = golden_size(c, "D");
    const float *q = golden_f32(c, "q"), *k = golden_f32(c, "k"), *v = golden_f32(c, "v");
    size_t values = sq * heads * dim, rows = sq * heads;
    float *out = malloc(batch * values * sizeof *out), *lse = malloc(batch * rows * sizeof *lse);
    for (size_t b = 0; b < batch; b++) {
        fb_queries queries = fb_queries_rows(q + b * values, sq, heads, dim);
        fb_kv kv = fb_kv_rows(FB_F32, k + b * sk * kv_heads * dim, v + b * sk * kv_heads * dim, sk,
                              kv_heads, dim);
        fb_range all = {0, sk};
        fb_view view = {&kv, &all, 1};
        fb_part part = {
            out + b * values, (ptrdiff_t)(heads * dim), (ptrdiff_t)dim, lse + b * rows, 1,
            (ptrdiff_t)sq};
        float scale = (float)golden_real(c, "softmax_scale");
        cr_assert_eq(fb_attend(&queries, &view, NULL, scale, &part), FB_OK, "%s",
                     fb_error_message());
    }
    const double *lse64 = golden_f64(c, "lse64");
    expect_as_good(c, "out", out, golden_f32(c, "out"), golden_f64(c, "out64"), batch * values,
                   effect_of_scores(lse64, batch * rows, v, batch * sk * kv_heads * dim));
    expect_as_good(c, "lse", lse, golden_f32(c, "lse"), lse64, batch * rows, 0.0);
    free(out);
    free(lse);
}

/* The first differing element, if any is farther apart than `tolerance`. Equal infinities and
 * paired NaNs are equal. */
static void expect_close(golden_case *c, const char *what, const float *ours, const float *paper,
                         size_t count, double tolerance) {
    for (size_t i = 0; i < count; i++) {
        if (ours[i] == paper[i] || (isnan(ours[i]) && isnan(paper[i])))
            continue;
        double error = fabs((double)ours[i] - (double)paper[i]);
        cr_assert(error <= tolerance, "%s: %s[%zu] is %.9g, the paper has %.9g", golden_name(c),
                  what, i, (double)ours[i], (double)paper[i]);
    }
}

/* The same for LSEs [heads, tokens] of a truth [tokens, heads]. */
static void expect_transposed(golden_case *c, const char *what, const float *ours,
                              const float *paper, const double *truth, size_t tokens,
                              size_t heads) {
    double *turned = malloc(tokens * heads * sizeof *turned);
    for (size_t token = 0; token < tokens; token++)
        for (size_t head = 0; head < heads; head++)
            turned[head * tokens + token] = truth[token * heads + head];
    expect_as_good(c, what, ours, paper, turned, tokens * heads, 0.0);
    free(turned);
}

/* Part over the P past tokens, part over the L current ones, their merge: against the paper's, and
 * the merge against the float64 truth. q, k, v are [B, heads, tokens, D] here. */
static void check_split_batch(golden_case *c, size_t batch) {
    size_t heads = golden_size(c, "H"), kv_heads = golden_size(c, "Hk"), dim = golden_size(c, "D");
    size_t current = golden_size(c, "L"), past = golden_size(c, "P"), tokens = past + current;
    size_t kv_values = tokens * kv_heads * dim;
    fb_queries queries = {golden_f32(c, "q") + batch * current * heads * dim,
                          current,
                          heads,
                          dim,
                          (ptrdiff_t)dim,
                          (ptrdiff_t)(current * dim)};
    fb_kv kv = fb_kv_rows(FB_F32, golden_f32(c, "k") + batch * kv_values,
                          golden_f32(c, "v") + batch * kv_values, tokens, kv_heads, dim);
    kv.k_token_stride = kv.v_token_stride = (ptrdiff_t)dim;
    kv.k_head_stride = kv.v_head_stride = (ptrdiff_t)(tokens * dim);
    size_t values = current * heads * dim, rows = current * heads;
    float *out[3], *lse[3];
    fb_part parts[3]; /* past, current, merged; the paper's lse is [H, L] */
    for (size_t i = 0; i < 3; i++) {
        out[i] = malloc(values * sizeof(float));
        lse[i] = malloc(rows * sizeof(float));
        parts[i] = (fb_part){out[i], (ptrdiff_t)(heads * dim), (ptrdiff_t)dim, lse[i],
                             1,      (ptrdiff_t)current};
    }
    fb_range ranges[2] = {{0, past}, {past, tokens}};
    float scale = (float)golden_real(c, "softmax_scale");
    const char *names[2][2] = {{"o_past", "lse_past"}, {"o_cur", "lse_cur"}};
    for (size_t i = 0; i < 2; i++) {
        fb_view view = {&kv, &ranges[i], 1};
        cr_assert_eq(fb_attend(&queries, &view, NULL, scale, &parts[i]), FB_OK);
        if (ranges[i].begin < ranges[i].end) { /* the paper has +inf for the empty past */
            double *truth = malloc(values * sizeof *truth),
                   *truth_lse = malloc(rows * sizeof *truth);
            cr_assert_eq(
                fb_attend_reference(&queries, &view, NULL, (double)scale, truth, truth_lse), FB_OK);
            expect_as_good(c, names[i][0], out[i],
                           golden_f32(c, "%s", names[i][0]) + batch * values, truth, values,
                           effect_of_scores(truth_lse, rows, kv.v, tokens * kv_heads * dim));
            expect_transposed(c, names[i][1], lse[i],
                              golden_f32(c, "%s", names[i][1]) + batch * rows, truth_lse, current,
                              heads);
            free(truth);
            free(truth_lse);
        }
    }
    cr_assert_eq(fb_merge(&parts[0], &parts[1], current, heads, dim, &parts[2]), FB_OK);
    const double *full = golden_f64(c, "full64") + batch * values;
    const double *full_lse = golden_f64(c, "full_lse64") + batch * rows;
    expect_as_good(c, "full_lse", lse[2], golden_f32(c, "full_lse") + batch * rows, full_lse, rows,
                   0.0);
    if (past > 0) { /* against the paper's merges: of two parts, as ours is */
        double ulp = effect_of_scores(full_lse, rows, kv.v, tokens * kv_heads * dim);
        expect_as_good(c, "merged_hf", out[2], golden_f32(c, "merged_hf") + batch * values, full,
                       values, ulp);
        expect_as_good(c, "merged_kernel", out[2], golden_f32(c, "merged_kernel") + batch * values,
                       full, values, ulp);
    }
    for (size_t i = 0; i < 3; i++) {
        free(out[i]);
        free(lse[i]);
    }
}

GOLDEN_TEST(golden_attention, split_and_merge, "split", "split_") {
    for (size_t batch = 0; batch < golden_size(c, "B"); batch++)
        check_split_batch(c, batch);
}

/* The engine's table (BlockAttention and its merge kernel): a store row merges the new history
 * with the current block and keeps the history; a refresh row that does not store passes the full
 * attention through; a reuse row merges what is cached. The dirty mask changes nothing. */
GOLDEN_TEST(golden_attention, engine_merge, "kern", "merge_") {
    size_t batch = golden_size(c, "B"), block = golden_size(c, "L");
    size_t heads = golden_size(c, "H"), dim = golden_size(c, "D");
    const float *full_or_cur = golden_f32(c, "o_full_or_cur"), *cur = golden_f32(c, "out_cur");
    const float *hist = golden_f32(c, "out_hist"), *cached = golden_f32(c, "hist_out_in");
    const float *lse_cur = golden_f32(c, "lse_cur"), *lse_hist = golden_f32(c, "lse_hist");
    const float *lse_cached = golden_f32(c, "hist_lse_in");
    const int32_t *need = golden_i32(c, "need_mask"), *store = golden_i32(c, "store_mask");
    for (size_t b = 0; b < batch; b++)
        for (size_t token = 0; token < block; token++)
            for (size_t head = 0; head < heads; head++) {
                size_t row = (b * block + token) * heads + head;
                size_t flag = (b * heads + head) * block + token; /* masks are [B, H, L] */
                float out[512], lse;
                fb_part result = fb_part_rows(out, &lse, 1, dim);
                const float *external = store[flag] ? hist : cached;
                const float *external_lse = store[flag] ? lse_hist : lse_cached;
                const float *internal = store[flag] ? cur : full_or_cur;
                float *kept = malloc(2 * dim * sizeof *kept); /* parts are not const */
                memcpy(kept, external + row * dim, dim * sizeof *kept);
                memcpy(kept + dim, internal + row * dim, dim * sizeof *kept);
                float lses[2] = {external_lse[row], lse_cur[row]};
                fb_part a = fb_part_rows(kept, &lses[0], 1, dim);
                fb_part d = fb_part_rows(kept + dim, &lses[1], 1, dim);
                if (need[flag] && !store[flag])
                    memcpy(out, internal + row * dim, dim * sizeof *out);
                else
                    cr_assert_eq(fb_merge(&a, &d, 1, 1, dim, &result), FB_OK);
                expect_close(c, "engine.out", out, golden_f32(c, "engine.out") + row * dim, dim,
                             5e-6);
                const float *after = store[flag] ? hist : cached;
                expect_same_bits("cache after", after + row * dim,
                                 golden_f32(c, "engine.hist_out") + row * dim, dim);
                free(kept);
            }
}

/* Head-wise (video): a head of the mask takes the fresh output, the others merge their cache.
 * LSEs are [H, tokens]. */
GOLDEN_TEST(golden_attention, head_masked_merge, "kern", "varlen_") {
    size_t tokens = golden_size(c, "B") * golden_size(c, "Lq");
    size_t heads = golden_size(c, "H"), dim = golden_size(c, "D");
    size_t values = tokens * heads * dim;
    float *out = malloc(values * sizeof *out), *lse = malloc(tokens * heads * sizeof *lse);
    float *copies = malloc(2 * (values + tokens * heads) * sizeof *copies);
    memcpy(copies, golden_f32(c, "hist_out_in"), values * sizeof *copies);
    memcpy(copies + values, golden_f32(c, "o"), values * sizeof *copies);
    float *lses = copies + 2 * values;
    memcpy(lses, golden_f32(c, "hist_lse_in"), tokens * heads * sizeof *lses);
    memcpy(lses + tokens * heads, golden_f32(c, "lse"), tokens * heads * sizeof *lses);
    ptrdiff_t row = (ptrdiff_t)(heads * dim), head = (ptrdiff_t)dim, lse_head = (ptrdiff_t)tokens;
    fb_part cached = {copies, row, head, lses, 1, lse_head};
    fb_part current = {copies + values, row, head, lses + tokens * heads, 1, lse_head};
    fb_part result = {out, row, head, lse, 1, lse_head};
    cr_assert_eq(fb_merge(&cached, &current, tokens, heads, dim, &result), FB_OK);
    const int32_t *mask = golden_has(c, "head_mask") ? golden_i32(c, "head_mask") : NULL;
    for (size_t token = 0; token < tokens; token++)
        for (size_t h = 0; h < heads; h++) {
            size_t at = (token * heads + h) * dim;
            const float *expected = mask && mask[h] ? copies + values + at : out + at;
            expect_close(c, "out", expected, golden_f32(c, "out") + at, dim, 5e-6);
        }
    free(out);
    free(lse);
    free(copies);
}

/* The attention of a block to itself. */
GOLDEN_TEST(golden_attention, current_block, "kern", "curblock_") {
    size_t batch = golden_size(c, "B"), block = golden_size(c, "L"), heads = golden_size(c, "H");
    size_t kv_heads = golden_size(c, "Hk"), dim = golden_size(c, "D");
    size_t values = block * heads * dim, rows = block * heads;
    float *out = malloc(values * sizeof *out), *lse = malloc(rows * sizeof *lse);
    for (size_t b = 0; b < batch; b++) {
        fb_queries queries = fb_queries_rows(golden_f32(c, "q") + b * values, block, heads, dim);
        size_t kv_values = block * kv_heads * dim;
        fb_kv kv = fb_kv_rows(FB_F32, golden_f32(c, "k_new") + b * kv_values,
                              golden_f32(c, "v_new") + b * kv_values, block, kv_heads, dim);
        fb_range all = {0, block};
        fb_view view = {&kv, &all, 1};
        fb_part part = {out, (ptrdiff_t)(heads * dim), (ptrdiff_t)dim, lse, 1, (ptrdiff_t)block};
        cr_assert_eq(fb_attend(&queries, &view, NULL, 0.0f, &part), FB_OK);
        expect_close(c, "out", out, golden_f32(c, "out") + b * values, values, 5e-6);
        expect_close(c, "lse", lse, golden_f32(c, "lse") + b * rows, rows, 5e-6);
    }
    free(out);
    free(lse);
}
