/* Kinds about merging two parts: split_merge (attention over past and current keys, and their
 * merge), fused_merge (the engine's store / refresh / reuse rows), head_masked_merge (video). */
#include "oracle/attention_claims.h"
#include "oracle/kinds.h"
#include "oracle/merge_problem.h"

#include <math.h>
#include <string.h>

/* The tensor as a claim's `file`, if the file has it. */
static fb_status read_result(fb_case *c, fb_merge_claim *claim, bool *found) {
    *found = fb_case_has(c, "%s", claim->tensor);
    if (!*found)
        return FB_OK;
    claim->file_precision = fb_case_precision(c, claim->tensor);
    return fb_case_f32(c, &claim->file, claim->shape, "%s", claim->tensor);
}

/* --- split_merge ------------------------------------------------------------------------------ */

/* [B, heads, tokens, D] to [B, tokens, heads, D], of the tokens begin .. end-1 */
static fb_status turned(fb_case *c, const float *from, size_t batch, size_t heads, size_t tokens,
                        size_t dim, fb_range range, const float **to) {
    float *copy = NULL;
    size_t kept = range.end - range.begin;
    FB_TRY(fb_case_alloc(c, batch * heads * kept * dim, sizeof *copy, &copy));
    for (size_t b = 0; b < batch; b++)
        for (size_t h = 0; h < heads; h++)
            for (size_t t = 0; t < kept; t++)
                memcpy(copy + ((b * kept + t) * heads + h) * dim,
                       from + ((b * heads + h) * tokens + range.begin + t) * dim,
                       dim * sizeof *copy);
    *to = copy;
    return FB_OK;
}

/* The three problems of a file: earlier keys, the block's own, all of them. */
typedef struct split {
    fb_attention_problem past, current, full;
} split;

static fb_status read_split(fb_case *c, split *s) {
    fb_attention_problem *p = &s->past;
    size_t own = 0;
    const float *q = NULL, *k = NULL, *v = NULL;
    FB_TRY(fb_attention_problem_sizes(c, p));
    FB_TRY(fb_case_size(c, "L", 1, FB_ATTENTION_MAX_SIZE, &own));
    FB_TRY(fb_case_size(c, "P", 0, FB_ATTENTION_MAX_SIZE, &p->keys));
    FB_TRY(fb_attention_problem_scale(c, p));
    p->queries = own;
    size_t tokens = p->keys + own;
    FB_TRY(fb_case_f32(c, &q, FB_DIMS(p->batch, p->heads, own, p->head_dim), "q"));
    FB_TRY(fb_case_f32(c, &k, FB_DIMS(p->batch, p->kv_heads, tokens, p->head_dim), "k"));
    FB_TRY(fb_case_f32(c, &v, FB_DIMS(p->batch, p->kv_heads, tokens, p->head_dim), "v"));
    FB_TRY(turned(c, q, p->batch, p->heads, own, p->head_dim, (fb_range){0, own}, &p->q));
    s->current = s->full = *p;
    s->current.keys = own;
    s->full.keys = tokens;
    fb_range ranges[] = {{0, p->keys}, {p->keys, tokens}, {0, tokens}};
    fb_attention_problem *problems[] = {p, &s->current, &s->full};
    for (size_t i = 0; i < 3; i++) {
        FB_TRY(
            turned(c, k, p->batch, p->kv_heads, tokens, p->head_dim, ranges[i], &problems[i]->k));
        FB_TRY(
            turned(c, v, p->batch, p->kv_heads, tokens, p->head_dim, ranges[i], &problems[i]->v));
    }
    return FB_OK;
}

/* One of the problems, as claims on the file's tensors of these names. */
static fb_status claim_part(fb_case *c, fb_report *report, const fb_attention_problem *p,
                            const char *out_name, const char *lse_name) {
    fb_attention_claims claims = {
        .out_name = out_name,
        .lse_name = lse_name,
        .file_precision = fb_case_precision(c, out_name),
    };
    fb_dims out = FB_DIMS(p->batch, p->queries, p->heads, p->head_dim);
    FB_TRY(fb_case_f32(c, &claims.file_out, out, "%s", out_name));
    FB_TRY(
        fb_case_f32(c, &claims.file_lse, FB_DIMS(p->batch, p->heads, p->queries), "%s", lse_name));
    return fb_claim_attention(report, p, &claims);
}

/* This build's part as [B x tokens, heads] rows. */
static fb_status part_rows(fb_case *c, const fb_attention_problem *p, const float **out,
                           const float **lse) {
    float *part_out = NULL, *part_lse = NULL;
    FB_TRY(fb_case_alloc(c, fb_attention_problem_values(p), sizeof *part_out, &part_out));
    FB_TRY(fb_case_alloc(c, fb_attention_problem_rows(p), sizeof *part_lse, &part_lse));
    FB_TRY(fb_attention_problem_attend(p, part_out, part_lse));
    *out = part_out;
    return turned(c, part_lse, p->batch, p->heads, p->queries, 1, (fb_range){0, p->queries}, lse);
}

/* The truth over all keys, which a stated truth must agree with. truth: out, then lse */
static fb_status full_truth(fb_case *c, const fb_attention_problem *full, double **truth) {
    size_t rows = fb_attention_problem_rows(full), values = fb_attention_problem_values(full);
    const double *stated = NULL;
    FB_TRY(fb_case_alloc(c, values + rows, sizeof **truth, truth));
    FB_TRY(fb_attention_problem_truth(full, *truth, *truth + values));
    if (fb_case_has(c, "full64")) {
        FB_TRY(fb_case_f64(c, &stated,
                           FB_DIMS(full->batch, full->queries, full->heads, full->head_dim),
                           "full64"));
        FB_TRY(fb_case_check_truth(c, stated, *truth, values, "full64"));
    }
    if (fb_case_has(c, "full_lse64")) {
        FB_TRY(fb_case_f64(c, &stated, FB_DIMS(full->batch, full->heads, full->queries),
                           "full_lse64"));
        FB_TRY(fb_case_check_truth(c, stated, *truth + values, rows, "full_lse64"));
    }
    return FB_OK;
}

/* The merges of the two parts that the file has. */
static fb_status claim_merges(fb_case *c, fb_report *report, const split *s, const double *truth) {
    static const char *const names[] = {"merged_hf", "merged_kernel", "merged_kernel_store"};
    const fb_attention_problem *full = &s->full;
    size_t values = fb_attention_problem_values(full), rows = fb_attention_problem_rows(full);
    fb_merge_problem m = {
        .tokens = full->batch * full->queries, .heads = full->heads, .head_dim = full->head_dim};
    FB_TRY(part_rows(c, &s->past, &m.out_a, &m.lse_a));
    FB_TRY(part_rows(c, &s->current, &m.out_b, &m.lse_b));
    double plain_error = 0.0, effect = 0.0; /* of the parts, which a merge inherits */
    FB_TRY(fb_attention_problem_plain_error(full, truth, &plain_error));
    effect = fb_score_effect(truth + values, rows, full->v,
                             full->batch * full->keys * full->kv_heads * full->head_dim);
    fb_merge_claim claim = {
        .shape = FB_DIMS(full->batch, full->queries, full->heads, full->head_dim),
        .token_axis = 1,
        .head_axis = 2,
        .truth = truth,
        .score_effect = fmax(effect, 4.0 * plain_error),
    };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        bool found;
        claim.tensor = names[i];
        FB_TRY(read_result(c, &claim, &found));
        if (found)
            FB_TRY(fb_claim_merge(c, report, &m, &claim));
    }
    return FB_OK;
}

/* params B, H, Hk, L, P, D, softmax_scale. With P = 0 the past part is empty. The paper gives it an
 * LSE of +inf, this library -inf: it is not compared, the merges are. */
fb_status fb_recompute_split_merge(fb_case *c, fb_report *report) {
    split s = {0};
    double *truth = NULL;
    FB_TRY(read_split(c, &s));
    FB_TRY(full_truth(c, &s.full, &truth));
    if (s.past.keys > 0)
        FB_TRY(claim_part(c, report, &s.past, "o_past", "lse_past"));
    FB_TRY(claim_part(c, report, &s.current, "o_cur", "lse_cur"));
    if (fb_case_has(c, "full") && fb_case_has(c, "full_lse"))
        FB_TRY(claim_part(c, report, &s.full, "full", "full_lse"));
    return claim_merges(c, report, &s, truth);
}

/* --- fused_merge ------------------------------------------------------------------------------ */

/* The engine's table, row by row: a row that stores merges the fresh history with the current
 * block and keeps the history; one that refreshes without storing passes the full attention
 * through; one that reuses merges the cached history. Masks are [B, H, L, 1]. */
typedef struct engine_rows {
    size_t batch, block, heads, dim;
    const float *full_or_cur, *cur, *hist, *cached; /* [B, L, H, D] */
    const float *lse_cur, *lse_hist, *lse_cached;   /* [B, L, H, 1] */
    const int32_t *need_mask, *store_mask, *dirty_mask;
    unsigned char *refreshes, *stores, *dirty, *passes_b, *passes_lse_b; /* [B, L, H] */
} engine_rows;

static fb_status read_engine_sizes(fb_case *c, engine_rows *e) {
    FB_TRY(fb_case_size(c, "B", 1, FB_ATTENTION_MAX_SIZE, &e->batch));
    FB_TRY(fb_case_size(c, "L", 1, FB_ATTENTION_MAX_SIZE, &e->block));
    FB_TRY(fb_case_size(c, "H", 1, FB_ATTENTION_MAX_SIZE, &e->heads));
    return fb_case_size(c, "D", 1, 65536, &e->dim);
}

static fb_status read_engine_rows(fb_case *c, engine_rows *e) {
    FB_TRY(read_engine_sizes(c, e));
    fb_dims out = FB_DIMS(e->batch, e->block, e->heads, e->dim);
    fb_dims lse = FB_DIMS(e->batch, e->block, e->heads, 1);
    fb_dims mask = FB_DIMS(e->batch, e->heads, e->block, 1);
    FB_TRY(fb_case_f32(c, &e->full_or_cur, out, "o_full_or_cur"));
    FB_TRY(fb_case_f32(c, &e->cur, out, "out_cur"));
    FB_TRY(fb_case_f32(c, &e->hist, out, "out_hist"));
    FB_TRY(fb_case_f32(c, &e->cached, out, "hist_out_in"));
    FB_TRY(fb_case_f32(c, &e->lse_cur, lse, "lse_cur"));
    FB_TRY(fb_case_f32(c, &e->lse_hist, lse, "lse_hist"));
    FB_TRY(fb_case_f32(c, &e->lse_cached, lse, "hist_lse_in"));
    FB_TRY(fb_case_i32(c, &e->need_mask, mask, "need_mask"));
    FB_TRY(fb_case_i32(c, &e->store_mask, mask, "store_mask"));
    return fb_case_i32(c, &e->dirty_mask, mask, "dirty_mask");
}

/* The masks in the order of the rows. */
static fb_status turn_masks(fb_case *c, engine_rows *e) {
    unsigned char **flags[] = {&e->refreshes, &e->stores, &e->dirty, &e->passes_b,
                               &e->passes_lse_b};
    size_t rows = e->batch * e->block * e->heads;
    for (size_t i = 0; i < sizeof flags / sizeof flags[0]; i++)
        FB_TRY(fb_case_alloc(c, rows, 1, flags[i]));
    for (size_t row = 0; row < rows; row++) {
        size_t b = row / (e->block * e->heads), token = row / e->heads % e->block;
        size_t flag = (b * e->heads + row % e->heads) * e->block + token;
        e->refreshes[row] = e->need_mask[flag] != 0;
        e->stores[row] = e->store_mask[flag] != 0;
        e->dirty[row] = e->dirty_mask[flag] != 0;
        e->passes_b[row] = e->refreshes[row] && !e->stores[row];
        e->passes_lse_b[row] = !e->stores[row];
    }
    return FB_OK;
}

/* A row takes `yes` if its flag is set, otherwise `no`. */
static fb_status choose(fb_case *c, const engine_rows *e, const unsigned char *flags, size_t width,
                        const float *yes, const float *no, const float **chosen) {
    float *copy = NULL;
    size_t rows = e->batch * e->block * e->heads;
    FB_TRY(fb_case_alloc(c, rows * width, sizeof *copy, &copy));
    for (size_t row = 0; row < rows; row++)
        memcpy(copy + row * width, (flags[row] ? yes : no) + row * width, width * sizeof *copy);
    *chosen = copy;
    return FB_OK;
}

static fb_status engine_merge(fb_case *c, const engine_rows *e, fb_merge_problem *m) {
    *m = (fb_merge_problem){
        .tokens = e->batch * e->block,
        .heads = e->heads,
        .head_dim = e->dim,
        .lse_b = e->lse_cur,
        .passes_b = e->passes_b,
        .passes_lse_b = e->passes_lse_b,
        .stores = e->stores,
        .dirty = e->dirty,
    };
    FB_TRY(choose(c, e, e->stores, e->dim, e->hist, e->cached, &m->out_a));
    FB_TRY(choose(c, e, e->stores, 1, e->lse_hist, e->lse_cached, &m->lse_a));
    FB_TRY(choose(c, e, e->stores, e->dim, e->cached, e->hist, &m->other_a));
    FB_TRY(choose(c, e, e->stores, 1, e->lse_cached, e->lse_hist, &m->other_lse_a));
    return choose(c, e, e->stores, e->dim, e->cur, e->full_or_cur, &m->out_b);
}

/* Claims on the kernel PREFIX: its output, its LSE, and the cache after it, if the file has them.
 */
static fb_status claim_kernel(fb_case *c, fb_report *report, const engine_rows *e,
                              const fb_merge_problem *m, const char *const names[4]) {
    size_t rows = e->batch * e->block * e->heads;
    fb_dims shapes[2] = {FB_DIMS(e->batch, e->block, e->heads, e->dim),
                         FB_DIMS(e->batch, e->block, e->heads, 1)};
    const float *before[2] = {e->cached, e->lse_cached}, *fresh[2] = {e->hist, e->lse_hist};
    for (size_t i = 0; i < 4; i++) {
        bool found, lse = i % 2 == 1;
        fb_merge_claim claim = {
            .tensor = names[i],
            .shape = shapes[lse],
            .token_axis = 1,
            .head_axis = 2,
            .lse = lse,
            .lse_tensor = i == 0 ? names[1] : NULL,
        };
        fb_cache_problem cache = {rows,       lse ? 1 : e->dim, before[lse],
                                  fresh[lse], e->stores,        e->dirty};
        FB_TRY(read_result(c, &claim, &found));
        if (!found)
            continue;
        FB_TRY(i < 2 ? fb_claim_merge(c, report, m, &claim)
                     : fb_claim_cache(c, report, &cache, &claim));
    }
    return FB_OK;
}

fb_status fb_recompute_fused_merge(fb_case *c, fb_report *report) {
    static const char *const engine[] = {"engine.out", "engine.full_lse", "engine.hist_out",
                                         "engine.hist_lse"};
    static const char *const fused[] = {"fused.out", "fused.full_lse", "fused.hist_out",
                                        "fused.hist_lse"};
    engine_rows e = {0};
    fb_merge_problem m;
    FB_TRY(read_engine_rows(c, &e));
    FB_TRY(turn_masks(c, &e));
    FB_TRY(engine_merge(c, &e, &m));
    FB_TRY(claim_kernel(c, report, &e, &m, engine));
    /* The other kernel passes through every row that refreshes. */
    m.passes_b = e.refreshes;
    m.out_b = e.full_or_cur;
    return claim_kernel(c, report, &e, &m, fused);
}

/* --- head_masked_merge ------------------------------------------------------------------------ */

typedef struct head_rows {
    size_t batch, length, heads, dim;
    const float *lse_cached, *lse_cur, *lse_hist; /* [H, B x Lq] */
    unsigned char *masked, *masked_by_head;       /* [B x Lq, H], [H, B x Lq] */
} head_rows;

/* The params may say the mask, too. mask: NULL without a tensor */
static fb_status check_stated_mask(fb_case *c, const int32_t *mask, size_t heads) {
    const fb_json *stated = NULL;
    FB_TRY(fb_case_param_or_null(c, "head_mask", &stated));
    if (fb_json_is_null(stated))
        return FB_OK;
    bool same = fb_json_array_size(stated) == heads;
    for (size_t head = 0; same && head < heads; head++) {
        int64_t value = -1;
        same = fb_json_is_int64(fb_json_array_get(stated, head), &value) &&
               (value != 0) == (mask && mask[head] != 0);
    }
    return same ? FB_OK
                : fb_fail(FB_ERROR_FORMAT, "%s: params.head_mask is not what the tensor says",
                          fb_case_path(c));
}

static fb_status read_head_mask(fb_case *c, head_rows *r) {
    size_t tokens = r->batch * r->length, rows = tokens * r->heads;
    const int32_t *mask = NULL;
    FB_TRY(fb_case_alloc(c, rows, 1, &r->masked));
    FB_TRY(fb_case_alloc(c, rows, 1, &r->masked_by_head));
    if (fb_case_has(c, "head_mask"))
        FB_TRY(fb_case_i32(c, &mask, FB_DIMS(r->heads), "head_mask"));
    FB_TRY(check_stated_mask(c, mask, r->heads));
    if (!mask)
        return FB_OK;
    for (size_t row = 0; row < rows; row++) {
        r->masked[row] = mask[row % r->heads] != 0;
        r->masked_by_head[row] = mask[row / tokens] != 0;
    }
    return FB_OK;
}

static fb_status read_head_rows(fb_case *c, head_rows *r, fb_merge_problem *m) {
    FB_TRY(fb_case_size(c, "B", 1, FB_ATTENTION_MAX_SIZE, &r->batch));
    FB_TRY(fb_case_size(c, "Lq", 1, FB_ATTENTION_MAX_SIZE, &r->length));
    FB_TRY(fb_case_size(c, "H", 1, FB_ATTENTION_MAX_SIZE, &r->heads));
    FB_TRY(fb_case_size(c, "D", 1, 65536, &r->dim));
    size_t tokens = r->batch * r->length;
    fb_dims out = FB_DIMS(tokens, r->heads, r->dim), lse = FB_DIMS(r->heads, tokens);
    *m = (fb_merge_problem){.tokens = tokens, .heads = r->heads, .head_dim = r->dim};
    FB_TRY(
        fb_case_f32(c, &m->out_a, FB_DIMS(r->batch, r->length, r->heads, r->dim), "hist_out_in"));
    FB_TRY(fb_case_f32(c, &m->out_b, out, "o"));
    FB_TRY(fb_case_f32(c, &m->other_a, out, "out_hist"));
    FB_TRY(fb_case_f32(c, &r->lse_cached, lse, "hist_lse_in"));
    FB_TRY(fb_case_f32(c, &r->lse_cur, lse, "lse"));
    FB_TRY(fb_case_f32(c, &r->lse_hist, lse, "lse_hist"));
    fb_range all = {0, tokens};
    FB_TRY(turned(c, r->lse_cached, 1, r->heads, tokens, 1, all, &m->lse_a));
    FB_TRY(turned(c, r->lse_cur, 1, r->heads, tokens, 1, all, &m->lse_b));
    FB_TRY(turned(c, r->lse_hist, 1, r->heads, tokens, 1, all, &m->other_lse_a));
    FB_TRY(read_head_mask(c, r));
    m->passes_b = r->masked;
    return FB_OK;
}

/* The cache after the merge, if the file has it. */
static fb_status claim_head_cache(fb_case *c, fb_report *report, const head_rows *r,
                                  const fb_merge_problem *m) {
    bool found;
    size_t rows = m->tokens * r->heads;
    fb_merge_claim claim = {.tensor = "hist_out",
                            .shape = FB_DIMS(r->batch, r->length, r->heads, r->dim),
                            .token_axis = 1,
                            .head_axis = 2};
    FB_TRY(read_result(c, &claim, &found));
    if (found)
        FB_TRY(fb_claim_cache(
            c, report, &(fb_cache_problem){rows, r->dim, m->out_a, m->other_a, r->masked, NULL},
            &claim));
    claim = (fb_merge_claim){.tensor = "hist_lse",
                             .shape = FB_DIMS(r->heads, m->tokens),
                             .token_axis = 1,
                             .head_axis = 0,
                             .lse = true};
    FB_TRY(read_result(c, &claim, &found));
    return found ? fb_claim_cache(c, report,
                                  &(fb_cache_problem){rows, 1, r->lse_cached, r->lse_hist,
                                                      r->masked_by_head, NULL},
                                  &claim)
                 : FB_OK;
}

/* Heads in the mask take `o` and store the fresh history; the others merge the cached part. LSEs
 * are [H, B x Lq]. Without a mask no head is in it. */
fb_status fb_recompute_head_masked_merge(fb_case *c, fb_report *report) {
    head_rows r = {0};
    fb_merge_problem m;
    bool found;
    FB_TRY(read_head_rows(c, &r, &m));
    fb_merge_claim claim = {.tensor = "out",
                            .shape = FB_DIMS(m.tokens, r.heads, r.dim),
                            .token_axis = 0,
                            .head_axis = 1};
    FB_TRY(read_result(c, &claim, &found));
    if (!found)
        return fb_fail(FB_ERROR_FORMAT, "%s: there is no tensor 'out'", fb_case_path(c));
    FB_TRY(fb_claim_merge(c, report, &m, &claim));
    return claim_head_cache(c, report, &r, &m);
}
