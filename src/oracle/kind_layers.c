/* rope_1d: rotary tables and rotated heads. rmsnorm: normalisation. */
#include "model/layers.h"
#include "model/rope.h"
#include "oracle/kinds.h"

#include <math.h>
#include <string.h>

enum { MAX_ROWS = 1 << 20, MAX_HEAD_DIM = 4096 };

static fb_status claim(fb_report *report, const char *tensor, fb_dims shape, const float *ours,
                       const float *file, double tolerance) {
    fb_claim claim = {.tensor = tensor,
                      .shape = shape,
                      .ours = ours,
                      .file = file,
                      .rule = FB_BOUND_ABSOLUTE,
                      .tolerance = tolerance};
    return fb_report_claim(report, &claim);
}

/* --- rope_1d ---------------------------------------------------------------------------------- */

typedef struct rope_case {
    size_t head_dim, half, positions;
    const int32_t *pos; /* [1, S] */
    float *inv_freq;    /* [D/2] */
    float *cos, *sin;   /* [1, S, D], the halves equal */
} rope_case;

static fb_status open_rope(fb_case *c, rope_case *r) {
    double theta = 0.0;
    FB_TRY(fb_case_size(c, "D", 2, MAX_HEAD_DIM, &r->head_dim));
    FB_TRY(fb_case_positive(c, "theta", &theta));
    const fb_tensor_view *pos = NULL;
    FB_TRY(fb_safetensors_get(fb_case_file(c), "pos", &pos));
    r->half = r->head_dim / 2;
    r->positions = pos->count;
    if (r->head_dim % 2 != 0 || r->positions > MAX_ROWS)
        return fb_fail(FB_ERROR_FORMAT, "%s: D is %zu, %zu positions", fb_case_path(c), r->head_dim,
                       r->positions);
    FB_TRY(fb_case_i32(c, &r->pos, FB_DIMS(1, r->positions), "pos"));
    FB_TRY(fb_case_alloc(c, r->half, sizeof(float), &r->inv_freq));
    FB_TRY(fb_case_alloc(c, r->positions * r->head_dim, sizeof(float), &r->cos));
    FB_TRY(fb_case_alloc(c, r->positions * r->head_dim, sizeof(float), &r->sin));
    fb_rope_frequencies(r->head_dim, theta, r->inv_freq);
    for (size_t p = 0; p < r->positions; p++) {
        float *cosines = r->cos + p * r->head_dim, *sines = r->sin + p * r->head_dim;
        if (r->pos[p] < 0)
            return fb_fail(FB_ERROR_FORMAT, "%s: pos[%zu] is %d", fb_case_path(c), p,
                           (int)r->pos[p]);
        fb_rope_angles(r->inv_freq, r->half, (size_t)r->pos[p], cosines, sines);
        memcpy(cosines + r->half, cosines, r->half * sizeof *cosines);
        memcpy(sines + r->half, sines, r->half * sizeof *sines);
    }
    return FB_OK;
}

/* `name` and `name`_rot  [1, heads, S, D] */
static fb_status claim_rotated(fb_case *c, fb_report *report, const rope_case *r, const char *name,
                               const char *rotated_name) {
    const fb_tensor_view *tensor = NULL;
    const float *x = NULL, *file = NULL;
    FB_TRY(fb_safetensors_get(fb_case_file(c), name, &tensor));
    size_t heads = tensor->ndim == 4 ? tensor->shape[1] : 0;
    fb_dims shape = FB_DIMS(1, heads, r->positions, r->head_dim);
    FB_TRY(fb_case_f32(c, &x, shape, "%s", name));
    FB_TRY(fb_case_f32(c, &file, shape, "%s", rotated_name));
    float *ours = NULL;
    size_t count = fb_dims_count(&shape);
    FB_TRY(fb_case_alloc(c, count, sizeof *ours, &ours));
    memcpy(ours, x, count * sizeof *ours);
    for (size_t row = 0; row < heads * r->positions; row++) {
        size_t p = row % r->positions;
        fb_rope_rotate(r->cos + p * r->head_dim, r->sin + p * r->head_dim, r->half,
                       ours + row * r->head_dim);
    }
    /* cosine and sine off by an ulp, two products and their sum rounded */
    return claim(report, rotated_name, shape, ours, file, 0xap-24 * fb_largest_magnitude(x, count));
}

fb_status fb_recompute_rope_1d(fb_case *c, fb_report *report) {
    rope_case r = {0};
    const float *inv_freq = NULL, *cos = NULL, *sin = NULL;
    FB_TRY(open_rope(c, &r));
    fb_dims table = FB_DIMS(1, r.positions, r.head_dim);
    FB_TRY(fb_case_f32(c, &inv_freq, FB_DIMS(r.half), "inv_freq"));
    FB_TRY(fb_case_f32(c, &cos, table, "cos"));
    FB_TRY(fb_case_f32(c, &sin, table, "sin"));
    FB_TRY(claim(report, "inv_freq", FB_DIMS(r.half), r.inv_freq, inv_freq, 0.0));
    FB_TRY(claim(report, "cos", table, r.cos, cos, 0x1p-24));
    FB_TRY(claim(report, "sin", table, r.sin, sin, 0x1p-24));
    FB_TRY(claim_rotated(c, report, &r, "q", "q_rot"));
    return claim_rotated(c, report, &r, "k", "k_rot");
}

/* --- rmsnorm ---------------------------------------------------------------------------------- */

/* The Hugging Face order, float32: normalised, then multiplied by the weight. */
fb_status fb_recompute_rmsnorm(fb_case *c, fb_report *report) {
    static const struct {
        const char *tensor;
        double eps;
    } results[] = {{"rms_hf_eps1e-06", 1e-6}, {"rms_hf_eps1e-05", 1e-5}};
    size_t rows = 0, size = 0;
    const float *x = NULL, *weight = NULL;
    FB_TRY(fb_case_size(c, "S", 1, MAX_ROWS, &rows));
    FB_TRY(fb_case_size(c, "D", 1, MAX_ROWS, &size));
    FB_TRY(fb_case_f32(c, &x, FB_DIMS(rows, size), "x"));
    FB_TRY(fb_case_f32(c, &weight, FB_DIMS(size), "weight"));
    for (size_t i = 0; i < sizeof results / sizeof results[0]; i++) {
        const float *file = NULL;
        float *ours = NULL;
        FB_TRY(fb_case_f32(c, &file, FB_DIMS(rows, size), "%s", results[i].tensor));
        FB_TRY(fb_case_alloc(c, rows * size, sizeof *ours, &ours));
        for (size_t row = 0; row < rows; row++)
            fb_rms_norm(x + row * size, weight, results[i].eps, size, ours + row * size);
        /* the paper sums squares in float32: its factor may be two ulps off, products follow */
        FB_TRY(claim(report, results[i].tensor, FB_DIMS(rows, size), ours, file,
                     0x1p-21 * fb_largest_magnitude(file, rows * size)));
    }
    return FB_OK;
}
