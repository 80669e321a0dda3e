/* attention: q, k, v -> out, lse. current_block: a block's attention to itself. */
#include "oracle/attention_claims.h"
#include "oracle/kinds.h"

/* params mask_block_size (no mask where it is missing), first_query, first_key: the block-causal
 * mask of attention.h. FlashBlock has no mask
 * that is causal token by token (`causal`). */
static fb_status read_mask(fb_case *c, fb_mask *mask) {
    bool causal = false;
    FB_TRY(fb_case_bool_or(c, "causal", false, &causal));
    if (causal)
        return fb_fail(FB_ERROR_UNSUPPORTED,
                       "%s: params.causal is true; only block-causal masks "
                       "(mask_block_size) are supported",
                       fb_case_path(c));
    FB_TRY(fb_case_size_or(c, "mask_block_size", 1, FB_ATTENTION_MAX_SIZE, 0, &mask->block_size));
    FB_TRY(fb_case_size_or(c, "first_query", 0, FB_ATTENTION_MAX_SIZE, 0, &mask->first_query));
    FB_TRY(fb_case_size_or(c, "first_key", 0, FB_ATTENTION_MAX_SIZE, 0, &mask->first_key));
    mask->kind = mask->block_size ? FB_MASK_BLOCK_CAUSAL : FB_MASK_NONE;
    return FB_OK;
}

/* params key_lengths: the keys of each entry of the batch, at most Sk; all of them where it is
 * missing. */
static fb_status read_lengths(fb_case *c, fb_attention_problem *p) {
    const fb_json *list = NULL;
    size_t *lengths = NULL;
    FB_TRY(fb_case_param_or_null(c, "key_lengths", &list));
    if (!list || fb_json_is_null(list))
        return FB_OK;
    FB_TRY(fb_case_array(c, "key_lengths", &list));
    if (fb_json_array_size(list) != p->batch)
        return fb_fail(FB_ERROR_FORMAT, "%s: params.key_lengths has %zu numbers, B is %zu",
                       fb_case_path(c), fb_json_array_size(list), p->batch);
    FB_TRY(fb_case_alloc(c, p->batch, sizeof *lengths, &lengths));
    for (size_t b = 0; b < p->batch; b++)
        FB_TRY(fb_json_size(fb_json_array_get(list, b), fb_case_path(c), "key_lengths", 0, p->keys,
                            &lengths[b]));
    p->key_lengths = lengths;
    return FB_OK;
}

/* A result of the file. Where a candidate is judged, the file need not have one. */
static fb_status read_result(fb_case *c, const fb_report *report, const float **values,
                             fb_dims shape, const char *name) {
    if (report->candidate && !fb_case_has(c, "%s", name))
        return FB_OK;
    return fb_case_f32(c, values, shape, "%s", name);
}

/* params B, Sq, Sk, H, Hk, D, softmax_scale, key_lengths and those of the mask; out64 and lse64 may
 * be missing. */
fb_status fb_recompute_attention(fb_case *c, fb_report *report) {
    fb_attention_problem p = {0};
    fb_attention_claims claims = {
        .out_name = "out",
        .lse_name = "lse",
        .path = fb_case_path(c),
        .file_precision = fb_case_precision(c, "out"),
    };
    FB_TRY(fb_attention_problem_sizes(c, &p));
    FB_TRY(fb_attention_problem_scale(c, &p));
    FB_TRY(fb_case_size(c, "Sq", 0, FB_ATTENTION_MAX_SIZE, &p.queries));
    FB_TRY(fb_case_size(c, "Sk", 0, FB_ATTENTION_MAX_SIZE, &p.keys));
    FB_TRY(read_mask(c, &p.mask));
    FB_TRY(read_lengths(c, &p));
    fb_dims kv = FB_DIMS(p.batch, p.keys, p.kv_heads, p.head_dim);
    fb_dims out = FB_DIMS(p.batch, p.queries, p.heads, p.head_dim);
    fb_dims lse = FB_DIMS(p.batch, p.heads, p.queries);
    FB_TRY(fb_case_f32(c, &p.q, out, "q"));
    FB_TRY(fb_case_f32(c, &p.k, kv, "k"));
    FB_TRY(fb_case_f32(c, &p.v, kv, "v"));
    FB_TRY(read_result(c, report, &claims.file_out, out, "out"));
    FB_TRY(read_result(c, report, &claims.file_lse, lse, "lse"));
    if (fb_case_has(c, "out64"))
        FB_TRY(fb_case_f64(c, &claims.truth_out, out, "out64"));
    if (fb_case_has(c, "lse64"))
        FB_TRY(fb_case_f64(c, &claims.truth_lse, lse, "lse64"));
    return fb_claim_attention(report, &p, &claims);
}

/* params B, L, H, Hk, D */
fb_status fb_recompute_current_block(fb_case *c, fb_report *report) {
    fb_attention_problem p = {0};
    fb_attention_claims claims = {
        .out_name = "out",
        .lse_name = "lse",
        .path = fb_case_path(c),
        .file_precision = fb_case_precision(c, "out"),
    };
    FB_TRY(fb_attention_problem_sizes(c, &p));
    FB_TRY(fb_attention_problem_scale(c, &p));
    FB_TRY(fb_case_size(c, "L", 1, FB_ATTENTION_MAX_SIZE, &p.queries));
    p.keys = p.queries;
    fb_dims kv = FB_DIMS(p.batch, p.keys, p.kv_heads, p.head_dim);
    fb_dims out = FB_DIMS(p.batch, p.queries, p.heads, p.head_dim);
    FB_TRY(fb_case_f32(c, &p.q, out, "q"));
    FB_TRY(fb_case_f32(c, &p.k, kv, "k_new"));
    FB_TRY(fb_case_f32(c, &p.v, kv, "v_new"));
    FB_TRY(read_result(c, report, &claims.file_out, out, "out"));
    FB_TRY(read_result(c, report, &claims.file_lse, FB_DIMS(p.batch, p.heads, p.queries), "lse"));
    return fb_claim_attention(report, &p, &claims);
}
