/* rope_3d: rotary positions of video tokens. video_norm: norms, and the embedding of time.
 * flow_scheduler: noise levels. */
#include "decode/flow_schedule.h"
#include "model/layers.h"
#include "model/rope3d.h"
#include "model/video_layers.h"
#include "oracle/kinds.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MAX_SIZE = 1 << 16, MAX_HEADS = 4096, NUM_FREQUENCIES = 64, TIME_SIZE = 32, NUM_TIMES = 7 };

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

/* --- rope_3d ---------------------------------------------------------------------------------- */

typedef struct rope_case {
    fb_case *c;
    fb_report *report;
    size_t head_dim, heads;
    fb_video_grid grid;
    const float *x; /* [2, tokens, heads, head_dim] */
    fb_dims shape;
} rope_case;

/* freqs64.re, freqs64.im  [64, D/2] F64: the turns of positions 0 to 63. */
static fb_status claim_table(const rope_case *r) {
    size_t half = r->head_dim / 2;
    fb_dims shape = FB_DIMS(NUM_FREQUENCIES, half);
    for (int imaginary = 0; imaginary < 2; imaginary++) {
        const char *name = imaginary ? "freqs64.im" : "freqs64.re";
        const double *table = NULL;
        float *ours = NULL, *file = NULL;
        FB_TRY(fb_case_f64(r->c, &table, shape, "%s", name));
        FB_TRY(fb_case_alloc(r->c, fb_dims_count(&shape), sizeof *ours, &ours));
        FB_TRY(fb_case_alloc(r->c, fb_dims_count(&shape), sizeof *file, &file));
        for (size_t i = 0; i < NUM_FREQUENCIES * half; i++) {
            double turn[2];
            fb_rope3d_turn(r->head_dim, i % half, i / half, &turn[0], &turn[1]);
            if (fabs(turn[imaginary] - table[i]) > 1e-12)
                return fb_fail(FB_ERROR_FORMAT, "%s: %s[%zu,%zu] is %.17g, expected %.17g",
                               fb_case_path(r->c), name, i / half, i % half, table[i],
                               turn[imaginary]);
            ours[i] = (float)turn[imaginary];
            file[i] = (float)table[i];
        }
        FB_TRY(claim(r->report, name, shape, ours, file, 0x1p-24));
    }
    return FB_OK;
}

static fb_status claim_rotated(const rope_case *r, const char *tensor, size_t first_frame) {
    size_t tokens = r->grid.frames * r->grid.rows * r->grid.columns;
    size_t count = fb_dims_count(&r->shape), sample = tokens * r->heads * r->head_dim;
    const float *file = NULL;
    float *ours = NULL;
    FB_TRY(fb_case_f32(r->c, &file, r->shape, "%s", tensor));
    FB_TRY(fb_case_alloc(r->c, count, sizeof *ours, &ours));
    memcpy(ours, r->x, count * sizeof *ours);
    for (size_t i = 0; i < count; i += sample)
        FB_TRY(fb_rope3d_rotate(&r->grid, first_frame, r->heads, r->head_dim, ours + i));
    /* rounded once, from double precision: half an ulp each */
    return claim(r->report, tensor, r->shape, ours, file,
                 0x1p-23 * fb_largest_magnitude(r->x, count));
}

/* The pairs of each axis. */
static fb_status check_pairs(fb_case *c, size_t head_dim) {
    size_t pairs = head_dim / 2;
    FB_TRY(fb_case_expect_size(c, "pairs_frame", pairs - 2 * (pairs / 3)));
    FB_TRY(fb_case_expect_size(c, "pairs_row", pairs / 3));
    return fb_case_expect_size(c, "pairs_col", pairs / 3);
}

fb_status fb_recompute_rope_3d(fb_case *c, fb_report *report) {
    rope_case r = {.c = c, .report = report};
    const fb_json *starts = NULL;
    FB_TRY(fb_case_size(c, "head_dim", 2, MAX_SIZE, &r.head_dim));
    FB_TRY(fb_case_size(c, "heads", 1, MAX_HEADS, &r.heads));
    FB_TRY(fb_case_size(c, "f", 1, 1024, &r.grid.frames));
    FB_TRY(fb_case_size(c, "h", 1, 1024, &r.grid.rows));
    FB_TRY(fb_case_size(c, "w", 1, 1024, &r.grid.columns));
    FB_TRY(fb_case_array(c, "starts", &starts));
    if (r.head_dim % 2 != 0)
        return fb_fail(FB_ERROR_FORMAT, "%s: head_dim is %zu, expected an even number",
                       fb_case_path(c), r.head_dim);
    FB_TRY(check_pairs(c, r.head_dim));
    r.shape = FB_DIMS(2, r.grid.frames * r.grid.rows * r.grid.columns, r.heads, r.head_dim);
    FB_TRY(fb_case_f32(c, &r.x, r.shape, "x"));
    FB_TRY(claim_table(&r));
    FB_TRY(claim_rotated(&r, "rope_apply", 0));
    for (size_t i = 0; i < fb_json_array_size(starts); i++) {
        size_t start = 0;
        char name[64];
        FB_TRY(fb_json_size(fb_json_array_get(starts, i), fb_case_path(c), "starts", 0, 1 << 20,
                            &start));
        snprintf(name, sizeof name, "causal.start%zu", start);
        FB_TRY(claim_rotated(&r, name, start));
    }
    return FB_OK;
}

/* --- video_norm ------------------------------------------------------------------------------- */

static fb_status claim_time(fb_case *c, fb_report *report) {
    const float *t = NULL, *file = NULL;
    float *ours = NULL;
    fb_dims shape = FB_DIMS(NUM_TIMES, TIME_SIZE);
    FB_TRY(fb_case_f32(c, &t, FB_DIMS(NUM_TIMES), "t"));
    FB_TRY(fb_case_f32(c, &file, shape, "time_emb"));
    FB_TRY(fb_case_alloc(c, fb_dims_count(&shape), sizeof *ours, &ours));
    for (size_t i = 0; i < NUM_TIMES; i++) {
        double embedding[TIME_SIZE];
        fb_time_embedding((double)t[i], TIME_SIZE, embedding);
        for (size_t j = 0; j < TIME_SIZE; j++)
            ours[i * TIME_SIZE + j] = (float)embedding[j];
    }
    return claim(report, "time_emb", shape, ours, file, 0x1p-23);
}

fb_status fb_recompute_video_norm(fb_case *c, fb_report *report) {
    static const char *const names[] = {"rms", "layernorm", "layernorm_affine"};
    size_t rows = 0, size = 0;
    double eps = 0.0;
    const float *x = NULL, *weight = NULL, *bias = NULL;
    FB_TRY(fb_case_size(c, "S", 1, MAX_SIZE, &rows));
    FB_TRY(fb_case_size(c, "D", 1, MAX_SIZE, &size));
    FB_TRY(fb_case_real(c, "eps", &eps));
    fb_dims shape = FB_DIMS(1, rows, size);
    FB_TRY(fb_case_f32(c, &x, shape, "x"));
    FB_TRY(fb_case_f32(c, &weight, FB_DIMS(size), "weight"));
    FB_TRY(fb_case_f32(c, &bias, FB_DIMS(size), "bias"));
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        const float *file = NULL;
        float *ours = NULL;
        FB_TRY(fb_case_f32(c, &file, shape, "%s", names[i]));
        FB_TRY(fb_case_alloc(c, rows * size, sizeof *ours, &ours));
        for (size_t row = 0; row < rows; row++) {
            const float *from = x + row * size;
            float *to = ours + row * size;
            if (i == 0)
                fb_rms_norm(from, weight, eps, size, to);
            else
                fb_layer_norm(from, i == 2 ? weight : NULL, i == 2 ? bias : NULL, eps, size, to);
        }
        /* the paper sums in float32, and rounds mean, difference, factor and products */
        FB_TRY(claim(report, names[i], shape, ours, file,
                     0x1p-21 * fb_largest_magnitude(file, rows * size)));
    }
    return claim_time(c, report);
}

/* --- flow_scheduler --------------------------------------------------------------------------- */

/* One row of a denoising-step list: how its clip is made noisy, and clean again. */
typedef struct flow_rows {
    const float *x0, *noise, *flow;   /* [4, row] */
    const float *noisy, *raw, *clean; /* the file's results */
    float *ours_noisy, *ours_raw, *ours_clean;
    size_t row;
} flow_rows;

static void fill_row(const fb_flow_schedule *schedule, const flow_rows *f, size_t i, double warped,
                     double raw) {
    size_t at = i * f->row;
    float sigma = fb_flow_sigma(schedule, warped), raw_sigma = fb_flow_sigma(schedule, raw);
    fb_flow_add_noise(f->x0 + at, f->noise + at, sigma, f->row, f->ours_noisy + at);
    fb_flow_add_noise(f->x0 + at, f->noise + at, raw_sigma, f->row, f->ours_raw + at);
    fb_flow_clean(f->noisy + at, f->flow + at, sigma, f->row, f->ours_clean + at);
}

static fb_status read_rows(fb_case *c, fb_dims shape, flow_rows *f) {
    f->row = fb_dims_count(&shape) / 4;
    FB_TRY(fb_case_f32(c, &f->x0, shape, "x0"));
    FB_TRY(fb_case_f32(c, &f->noise, shape, "noise"));
    FB_TRY(fb_case_f32(c, &f->flow, shape, "flow"));
    FB_TRY(fb_case_f32(c, &f->noisy, shape, "noisy"));
    FB_TRY(fb_case_f32(c, &f->raw, shape, "raw_list_noisy"));
    FB_TRY(fb_case_f32(c, &f->clean, shape, "x0_pred"));
    FB_TRY(fb_case_alloc(c, 4 * f->row, sizeof(float), &f->ours_noisy));
    FB_TRY(fb_case_alloc(c, 4 * f->row, sizeof(float), &f->ours_raw));
    return fb_case_alloc(c, 4 * f->row, sizeof(float), &f->ours_clean);
}

static fb_status make_schedule(fb_case *c, fb_flow_schedule **schedule) {
    double shift = 0.0;
    FB_TRY(fb_case_real(c, "shift", &shift));
    if (!(shift > 0.0))
        return fb_fail(FB_ERROR_FORMAT, "%s: shift is %g", fb_case_path(c), shift);
    FB_TRY(fb_case_alloc(c, 1, sizeof **schedule, schedule));
    fb_flow_schedule_make(shift, *schedule);
    return FB_OK;
}

fb_status fb_recompute_flow_scheduler(fb_case *c, fb_report *report) {
    static const size_t steps[4] = {1000, 750, 500, 250};
    const float *sigmas = NULL, *timesteps = NULL, *warped = NULL;
    fb_dims all = FB_DIMS(FB_FLOW_STEPS), row = FB_DIMS(4, 3, 4, 5);
    fb_flow_schedule *schedule = NULL;
    flow_rows f = {0};
    FB_TRY(make_schedule(c, &schedule));
    FB_TRY(fb_case_f32(c, &sigmas, all, "sigmas"));
    FB_TRY(fb_case_f32(c, &timesteps, all, "timesteps"));
    FB_TRY(fb_case_f32(c, &warped, FB_DIMS(4), "warped"));
    FB_TRY(read_rows(c, row, &f));
    float ours_warped[4];
    for (size_t i = 0; i < 4; i++) {
        ours_warped[i] = (float)fb_flow_warp(schedule, steps[i]);
        fill_row(schedule, &f, i, (double)ours_warped[i], (double)steps[i]);
    }
    /* PyTorch's 1 - i/1000 is up to an ulp off, depending on the vector width. Three roundings
     * follow, and one more for timesteps. The numbers are at most 1, and at most 1000. */
    FB_TRY(claim(report, "sigmas", all, schedule->sigmas, sigmas, 0x1p-22));
    FB_TRY(claim(report, "timesteps", all, schedule->timesteps, timesteps, 0x1p-12));
    FB_TRY(claim(report, "warped", FB_DIMS(4), ours_warped, warped, 0x1p-12));
    FB_TRY(claim(report, "noisy", row, f.ours_noisy, f.noisy, 1e-6));
    FB_TRY(claim(report, "raw_list_noisy", row, f.ours_raw, f.raw, 1e-6));
    return claim(report, "x0_pred", row, f.ours_clean, f.clean, 1e-6);
}
