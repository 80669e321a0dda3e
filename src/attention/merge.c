#include "merge.h"

#include "check.h"
#include "error.h"
#include "scalar_math.h"

#include <flashblock/attention.h>

#include <string.h>

/* Below this many outputs, starting threads costs more than it saves. */
enum { PARALLEL_VALUES = 1 << 16 };

void fb_canonical_nan(float *values, size_t count) {
    for (size_t i = 0; i < count; i++)
        values[i] = isnan(values[i]) ? fb_bits_to_f32(FB_NAN_BITS) : values[i];
}

static void fill(float *values, size_t count, float value) {
    for (size_t i = 0; i < count; i++)
        values[i] = value;
}

float fb_round_lse(double lse) {
    return isnan(lse) ? fb_bits_to_f32(FB_NAN_BITS) : (float)lse;
}

void fb_merge_rows(const fb_kernels *kernels, const float *out_a, double lse_a, const float *out_b,
                   double lse_b, size_t head_dim, float *out, double *lse) {
    if (!(lse_a < (double)INFINITY) || !(lse_b < (double)INFINITY)) { /* NaN, or no LSE of a part */
        *lse = (double)NAN;
        fill(out, head_dim, fb_bits_to_f32(FB_NAN_BITS));
        return;
    }
    if (lse_a < lse_b) { /* the part of the larger LSE first */
        fb_merge_rows(kernels, out_b, lse_b, out_a, lse_a, head_dim, out, lse);
        return;
    }
    if (isinf(lse_a)) {
        *lse = lse_a;
        fill(out, head_dim, 0.0f);
        return;
    }
    if (isinf(lse_b)) { /* the identity, to the bit: -0 and NaN outputs included */
        *lse = lse_a;
        if (out != out_a)
            memcpy(out, out_a, head_dim * sizeof *out);
        return;
    }
    float weight = fb_exp_value((float)(lse_b - lse_a));
    kernels->merge_row(out_a, out_b, weight, head_dim, out);
    fb_canonical_nan(out, head_dim);
    *lse = lse_a + fb_log_value(1.0 + (double)weight);
}

static float *out_row(const fb_part *part, ptrdiff_t token, ptrdiff_t head) {
    return part->out + token * part->out_token_stride + head * part->out_head_stride;
}

static float *mean_key_row(const fb_part *part, ptrdiff_t token, ptrdiff_t head) {
    return part->mean_key + token * part->out_token_stride + head * part->out_head_stride;
}

static float *lse_row(const fb_part *part, ptrdiff_t token, ptrdiff_t head) {
    return part->lse + token * part->lse_token_stride + head * part->lse_head_stride;
}

fb_status fb_merge(const fb_part *a, const fb_part *b, size_t num_queries, size_t num_heads,
                   size_t head_dim, const fb_part *result) {
    if (head_dim == 0 || head_dim > FB_MAX_HEAD_DIM)
        return fb_fail(FB_ERROR_ARGUMENT, "head_dim is %zu, expected 1 to %d", head_dim,
                       FB_MAX_HEAD_DIM);
    FB_TRY(fb_check_part(a, "a", num_queries, num_heads, head_dim));
    FB_TRY(fb_check_part(b, "b", num_queries, num_heads, head_dim));
    FB_TRY(fb_check_part(result, "result", num_queries, num_heads, head_dim));
    if (result->mean_key && (!a->mean_key || !b->mean_key))
        return fb_fail(FB_ERROR_ARGUMENT, "%s.mean_key is NULL, result.mean_key is not",
                       a->mean_key ? "b" : "a");
    const fb_kernels *kernels = NULL;
    FB_TRY(fb_kernels_current(&kernels));
    size_t num_rows = num_queries * num_heads;
    int threads = num_rows * head_dim < PARALLEL_VALUES ? 1 : fb_num_threads();
#pragma omp parallel for num_threads(threads) schedule(static)
    for (size_t row = 0; row < num_rows; row++) {
        ptrdiff_t t = (ptrdiff_t)(row / num_heads), h = (ptrdiff_t)(row % num_heads);
        double lse = 0.0, lse_a = (double)*lse_row(a, t, h), lse_b = (double)*lse_row(b, t, h);
        if (result->mean_key)
            fb_merge_rows(kernels, mean_key_row(a, t, h), lse_a, mean_key_row(b, t, h), lse_b,
                          head_dim, mean_key_row(result, t, h), &lse);
        fb_merge_rows(kernels, out_row(a, t, h), lse_a, out_row(b, t, h), lse_b, head_dim,
                      out_row(result, t, h), &lse);
        *lse_row(result, t, h) = fb_round_lse(lse);
    }
    return FB_OK;
}

float fb_exp(float x) {
    return fb_exp_value(x);
}

float fb_log(float x) {
    return (float)fb_log_value((double)x);
}
