#include "oracle/attention_problem.h"

#include "base/error.h"
#include "base/memory.h"
#include "oracle/errors.h"
#include "oracle/plain.h"

#include <math.h>
#include <string.h>

fb_status fb_attention_problem_sizes(fb_case *c, fb_attention_problem *problem) {
    FB_TRY(fb_case_size(c, "B", 1, FB_ATTENTION_MAX_SIZE, &problem->batch));
    FB_TRY(fb_case_size(c, "H", 1, FB_ATTENTION_MAX_SIZE, &problem->heads));
    FB_TRY(fb_case_size(c, "Hk", 1, FB_ATTENTION_MAX_SIZE, &problem->kv_heads));
    FB_TRY(fb_case_size(c, "D", 1, FB_ATTENTION_MAX_HEAD_DIM, &problem->head_dim));
    if (problem->heads % problem->kv_heads != 0)
        return fb_fail(FB_ERROR_FORMAT, "%s: %zu heads are not a multiple of %zu KV heads",
                       fb_case_path(c), problem->heads, problem->kv_heads);
    return FB_OK;
}

fb_status fb_attention_problem_scale(fb_case *c, fb_attention_problem *problem) {
    double scale = 0.0;
    FB_TRY(fb_case_real_or(c, "softmax_scale", 1.0 / sqrt((double)problem->head_dim), &scale));
    if (!(fabs(scale) >= 1e-30 && fabs(scale) <= 1e30))
        return fb_fail(FB_ERROR_FORMAT, "%s: params.softmax_scale is %g", fb_case_path(c), scale);
    problem->scale = scale;
    return FB_OK;
}

size_t fb_attention_problem_rows(const fb_attention_problem *problem) {
    return problem->batch * problem->queries * problem->heads;
}

size_t fb_attention_problem_values(const fb_attention_problem *problem) {
    return fb_attention_problem_rows(problem) * problem->head_dim;
}

size_t fb_attention_problem_keys(const fb_attention_problem *p, size_t b) {
    return p->key_lengths ? p->key_lengths[b] : p->keys;
}

size_t fb_attention_problem_seen(const fb_attention_problem *p, size_t b, size_t query) {
    const fb_mask *mask = &p->mask;
    size_t keys = fb_attention_problem_keys(p, b);
    if (mask->kind == FB_MASK_NONE)
        return keys;
    size_t end = ((mask->first_query + query) / mask->block_size + 1) * mask->block_size;
    end = end > mask->first_key ? end - mask->first_key : 0;
    return end < keys ? end : keys;
}

bool fb_attention_problem_whole(const fb_attention_problem *p) {
    return p->mask.kind == FB_MASK_NONE && !p->key_lengths;
}

fb_attention_problem fb_attention_problem_cut(const fb_attention_problem *problem, size_t b,
                                              size_t first, size_t tokens) {
    fb_attention_problem p = *problem;
    size_t kv = b * p.keys * p.kv_heads * p.head_dim;
    if (p.q)
        p.q += (b * p.queries + first) * p.heads * p.head_dim;
    if (kv) {
        p.k += kv;
        p.v += kv;
    }
    if (p.key_lengths)
        p.key_lengths += b;
    p.mask.first_query += first;
    p.batch = 1;
    p.queries = tokens;
    return p;
}

/* The problem of one batch entry as the library's types; `all` outlives the view. */
typedef struct batch_entry {
    fb_queries queries;
    fb_kv kv;
    fb_range all;
    fb_view view;
} batch_entry;

static void entry_of(const fb_attention_problem *p, size_t b, batch_entry *e) {
    size_t q_size = p->queries * p->heads * p->head_dim, kv_size = p->kv_heads * p->head_dim;
    e->queries = fb_queries_rows(p->q + b * q_size, p->queries, p->heads, p->head_dim);
    e->kv = fb_kv_rows(FB_F32, p->k + b * p->keys * kv_size, p->v + b * p->keys * kv_size, p->keys,
                       p->kv_heads, p->head_dim);
    e->all = (fb_range){0, fb_attention_problem_keys(p, b)};
    e->view = (fb_view){&e->kv, &e->all, 1};
}

fb_status fb_attention_problem_attend(const fb_attention_problem *p, float *out, float *lse) {
    size_t rows = p->queries * p->heads;
    for (size_t b = 0; b < p->batch; b++) {
        batch_entry e;
        entry_of(p, b, &e);
        fb_part part =
            fb_part_rows(out + b * rows * p->head_dim, lse + b * rows, p->heads, p->head_dim);
        if (!p->lse_by_token) {
            part.lse_token_stride = 1;
            part.lse_head_stride = (ptrdiff_t)p->queries;
        }
        FB_TRY(fb_attend(&e.queries, &e.view, &p->mask, (float)p->scale, &part));
    }
    return FB_OK;
}

size_t fb_attention_problem_lse(const fb_attention_problem *p, size_t b, size_t query,
                                size_t head) {
    return b * p->queries * p->heads +
           (p->lse_by_token ? query * p->heads + head : head * p->queries + query);
}

/* scratch: the LSEs of one entry */
static fb_status entry_truth(const fb_attention_problem *p, size_t b, double *scratch, double *out,
                             double *lse) {
    size_t rows = p->queries * p->heads;
    batch_entry e;
    entry_of(p, b, &e);
    FB_TRY(fb_attend_reference(&e.queries, &e.view, &p->mask, p->scale,
                               out + b * rows * p->head_dim, scratch));
    for (size_t row = 0; row < rows; row++)
        lse[fb_attention_problem_lse(p, b, row / p->heads, row % p->heads)] = scratch[row];
    return FB_OK;
}

fb_status fb_attention_problem_truth(const fb_attention_problem *p, double *out, double *lse) {
    double *scratch = NULL;
    fb_status status = FB_OK;
    FB_TRY(fb_alloc(p->queries * p->heads, sizeof *scratch, "attention truth", &scratch));
    for (size_t b = 0; b < p->batch && status == FB_OK; b++)
        status = entry_truth(p, b, scratch, out, lse);
    fb_free(scratch);
    return status;
}

fb_status fb_attention_problem_plain(const fb_attention_problem *p, fb_dtype precision, float *out,
                                     float *lse) {
    size_t rows = p->queries * p->heads;
    float *entry_lse = NULL;
    fb_status status = FB_OK;
    FB_TRY(fb_alloc(rows, sizeof *entry_lse, "plain attention", &entry_lse));
    for (size_t b = 0; b < p->batch && status == FB_OK; b++) {
        batch_entry e;
        entry_of(p, b, &e);
        status = fb_plain_attention(&e.queries, &e.view, &p->mask, (float)p->scale, precision,
                                    out + b * rows * p->head_dim, entry_lse);
        for (size_t row = 0; row < rows; row++)
            lse[fb_attention_problem_lse(p, b, row / p->heads, row % p->heads)] = entry_lse[row];
    }
    fb_free(entry_lse);
    return status;
}

fb_status fb_attention_problem_plain_error(const fb_attention_problem *p, const double *truth,
                                           double *error) {
    size_t values = fb_attention_problem_values(p), rows = fb_attention_problem_rows(p);
    float *out = NULL;
    FB_TRY(fb_alloc(values + rows, sizeof *out, "plain attention", &out));
    fb_status status = fb_attention_problem_plain(p, FB_F32, out, out + values);
    if (status == FB_OK)
        *error = fb_errors_measure(out, truth, values).max_abs;
    fb_free(out);
    return status;
}
