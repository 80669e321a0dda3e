/* Attention and merge in double precision, as the paper writes them. This file is the truth that
 * errors are stated against: it is for reading, and never optimised.
 *
 *   s_j = scale * (q . k_j)     L = ln sum_j exp(s_j)     O = sum_j exp(s_j - L) v_j
 *
 * (FlashBlock, arXiv 2602.05305: attention with its log-sum-exp, and the log-space merge.)
 *
 * First of three files to read: attention/reference.c, cache/reference.c, decode/reference.c. */
#include "attention/check.h"
#include "attention/kv_access.h"
#include "base/error.h"
#include "base/memory.h"

#include <flashblock/attention.h>

#include <math.h>
#include <string.h>

/* row [head_dim]: scratch, for the key. */
static double dot(const fb_kv *kv, const float *q, size_t head, size_t token, float *row) {
    fb_read_key(kv, head, token, row);
    double sum = 0.0;
    for (size_t d = 0; d < kv->head_dim; d++)
        sum += (double)q[d] * (double)row[d];
    return sum;
}

/* Whether query row `query` sees the view's key number `key`. */
static bool sees(const fb_mask *mask, size_t query, size_t key) {
    if (!mask || mask->kind == FB_MASK_NONE)
        return true;
    return (mask->first_key + key) / mask->block_size <=
           (mask->first_query + query) / mask->block_size;
}

/* One row: every score, their maximum, the sum, the weighted values. scores [num_keys] and
 * row [head_dim] are scratch: the scaled scores, -inf where masked; a key or a value. */
static void reference_row(const fb_kv *kv, const fb_view *view, const fb_mask *mask, const float *q,
                          size_t query, size_t kv_head, double scale, double *scores, float *row,
                          double *out, double *lse) {
    size_t key = 0;
    double max = -INFINITY;
    for (size_t r = 0; r < view->num_ranges; r++)
        for (size_t token = view->ranges[r].begin; token < view->ranges[r].end; token++, key++) {
            scores[key] =
                sees(mask, query, key) ? scale * dot(kv, q, kv_head, token, row) : -INFINITY;
            max = scores[key] > max ? scores[key] : max;
        }
    double subtract = max == -INFINITY ? 0.0 : max; /* no key, or every score -inf: an empty part */
    double sum = 0.0;
    memset(out, 0, kv->head_dim * sizeof *out);
    key = 0;
    for (size_t r = 0; r < view->num_ranges; r++)
        for (size_t token = view->ranges[r].begin; token < view->ranges[r].end; token++, key++) {
            if (!sees(mask, query, key))
                continue;
            double p = exp(scores[key] - subtract);
            fb_read_value(kv, kv_head, token, row);
            sum += p;
            for (size_t d = 0; d < kv->head_dim; d++)
                out[d] += p * (double)row[d];
        }
    *lse = sum == 0.0 ? -INFINITY : max + log(sum);
    for (size_t d = 0; d < kv->head_dim; d++)
        out[d] = sum == 0.0 ? 0.0 : out[d] / sum;
}

fb_status fb_attend_reference(const fb_queries *queries, const fb_view *view, const fb_mask *mask,
                              double scale, double *out, double *lse) {
    size_t num_keys = 0;
    FB_TRY(fb_check_view(view, &num_keys));
    FB_TRY(fb_check_queries(queries, view));
    FB_TRY(fb_check_mask(mask));
    if (queries->num_queries > 0 && (!out || !lse))
        return fb_fail(FB_ERROR_ARGUMENT, "%s is NULL", out ? "lse" : "out");
    if (scale == 0.0)
        scale = 1.0 / sqrt((double)queries->head_dim);
    double *scores = NULL;
    float *kv_row = NULL;
    FB_TRY(fb_alloc(num_keys, sizeof *scores, "reference scores", &scores));
    fb_status status = fb_alloc(queries->head_dim, sizeof *kv_row, "reference row", &kv_row);
    if (status != FB_OK) {
        fb_free(scores);
        return status;
    }
    size_t heads_per_kv = queries->num_heads / view->kv->num_kv_heads;
    for (size_t query = 0; query < queries->num_queries; query++)
        for (size_t head = 0; head < queries->num_heads; head++) {
            const float *q = queries->q + (ptrdiff_t)query * queries->token_stride +
                             (ptrdiff_t)head * queries->head_stride;
            size_t row = query * queries->num_heads + head;
            reference_row(view->kv, view, mask, q, query, head / heads_per_kv, scale, scores,
                          kv_row, out + row * queries->head_dim, lse + row);
        }
    fb_free(kv_row);
    fb_free(scores);
    return FB_OK;
}

void fb_merge_reference(const double *out_a, const double *lse_a, const double *out_b,
                        const double *lse_b, size_t num_rows, size_t head_dim, double *out,
                        double *lse) {
    for (size_t row = 0; row < num_rows; row++) {
        double max = lse_a[row] > lse_b[row] ? lse_a[row] : lse_b[row];
        double subtract = max == -INFINITY ? 0.0 : max; /* both empty */
        double weight_a = exp(lse_a[row] - subtract);
        double weight_b = exp(lse_b[row] - subtract);
        double total = weight_a + weight_b;
        for (size_t d = 0; d < head_dim; d++) {
            size_t i = row * head_dim + d;
            double sum = weight_a * out_a[i] + weight_b * out_b[i];
            out[i] = total == 0.0 ? 0.0 : sum / total;
        }
        lse[row] = total == 0.0 ? -INFINITY : max + log(total);
    }
}
