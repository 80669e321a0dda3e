#include "attention/merge.h"

#include "attention/check.h"
#include "base/error.h"
#include "base/parallel.h"
#include "simd/scalar_math.h"

#include <flashblock/attention.h>

#include <math.h>
#include <stdbool.h>
#include <string.h>

/* Below this many outputs, starting threads costs more than it saves. */
enum { PARALLEL_VALUES = 1 << 16 };

static void fill(float *values, size_t count, float value) {
    for (size_t i = 0; i < count; i++)
        values[i] = value;
}

float fb_round_lse(double lse) {
    return isnan(lse) ? fb_bits_to_f32(FB_NAN_BITS) : (float)lse;
}

/* Whether no set of finite scores has this LSE: NaN or +inf. */
static bool is_invalid(double lse) {
    return !(lse < (double)INFINITY);
}

void fb_merge_weights(const fb_kernels *kernels, const double *lse_a, const double *lse_b,
                      size_t rows, float *weights, double *lse) {
    float differences[FB_MAX_ROWS] = {0}; /* the smaller LSE minus the larger */
    for (size_t row = 0; row < rows; row++) {
        double difference = -fabs(lse_a[row] - lse_b[row]); /* NaN of two infinities: not used */
        differences[row] = (float)difference;
    }
    kernels->exp(differences, weights, rows);
    for (size_t row = 0; row < rows; row++) {
        double a = lse_a[row], b = lse_b[row], larger = a < b ? b : a, smaller = a < b ? a : b;
        if (is_invalid(a) || is_invalid(b))
            lse[row] = (double)NAN;
        else if (isinf(smaller))
            lse[row] = larger;
        else
            lse[row] = larger + fb_log_value(1.0 + (double)weights[row]);
    }
}

void fb_merge_output_row(const fb_kernels *kernels, const float *out_a, double lse_a,
                         const float *out_b, double lse_b, float weight, size_t head_dim,
                         float *out) {
    if (is_invalid(lse_a) || is_invalid(lse_b)) {
        fill(out, head_dim, fb_bits_to_f32(FB_NAN_BITS));
        return;
    }
    bool b_is_larger = lse_a < lse_b;
    const float *big = b_is_larger ? out_b : out_a, *small = b_is_larger ? out_a : out_b;
    double larger = b_is_larger ? lse_b : lse_a, smaller = b_is_larger ? lse_a : lse_b;
    if (isinf(larger)) {
        fill(out, head_dim, 0.0f);
    } else if (isinf(smaller)) { /* the identity, to the bit: -0 and NaN outputs included */
        if (out != big)
            memcpy(out, big, head_dim * sizeof *out);
    } else {
        kernels->merge_row(big, small, weight, head_dim, out);
    }
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

/* `count` rows from number `first` on, where a token has num_heads rows. */
typedef struct row_batch {
    size_t first, count, num_heads, head_dim;
} row_batch;

static void merge_batch(const fb_kernels *kernels, const fb_part *a, const fb_part *b,
                        row_batch rows, const fb_part *result) {
    double lse_a[FB_MAX_ROWS] = {0}, lse_b[FB_MAX_ROWS] = {0}, lse[FB_MAX_ROWS];
    float weights[FB_MAX_ROWS];
    for (size_t i = 0; i < rows.count; i++) {
        ptrdiff_t t = (ptrdiff_t)((rows.first + i) / rows.num_heads);
        ptrdiff_t h = (ptrdiff_t)((rows.first + i) % rows.num_heads);
        lse_a[i] = (double)*lse_row(a, t, h);
        lse_b[i] = (double)*lse_row(b, t, h);
    }
    fb_merge_weights(kernels, lse_a, lse_b, rows.count, weights, lse);
    for (size_t i = 0; i < rows.count; i++) {
        ptrdiff_t t = (ptrdiff_t)((rows.first + i) / rows.num_heads);
        ptrdiff_t h = (ptrdiff_t)((rows.first + i) % rows.num_heads);
        if (result->mean_key)
            fb_merge_output_row(kernels, mean_key_row(a, t, h), lse_a[i], mean_key_row(b, t, h),
                                lse_b[i], weights[i], rows.head_dim, mean_key_row(result, t, h));
        fb_merge_output_row(kernels, out_row(a, t, h), lse_a[i], out_row(b, t, h), lse_b[i],
                            weights[i], rows.head_dim, out_row(result, t, h));
        *lse_row(result, t, h) = fb_round_lse(lse[i]);
    }
}

typedef struct merge_call {
    const fb_kernels *kernels;
    const fb_part *a, *b, *result;
    size_t num_rows, num_heads, head_dim;
} merge_call;

static void merge_batches(void *context, size_t first, size_t end, size_t worker) {
    const merge_call *m = context;
    (void)worker;
    for (size_t row = first * FB_MAX_ROWS; row < m->num_rows && row < end * FB_MAX_ROWS;
         row += FB_MAX_ROWS) {
        size_t left = m->num_rows - row;
        row_batch rows = {row, left < FB_MAX_ROWS ? left : FB_MAX_ROWS, m->num_heads, m->head_dim};
        merge_batch(m->kernels, m->a, m->b, rows, m->result);
    }
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
    size_t threads = num_rows * head_dim < PARALLEL_VALUES ? 1 : fb_parallel_threads();
    merge_call call = {kernels, a, b, result, num_rows, num_heads, head_dim};
    fb_parallel_for((num_rows + FB_MAX_ROWS - 1) / FB_MAX_ROWS, 0, threads, merge_batches, &call);
    return FB_OK;
}

float fb_exp(float x) {
    return fb_exp_value(x);
}

float fb_log(float x) {
    return (float)fb_log_value((double)x);
}
