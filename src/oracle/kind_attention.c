/* attention: q, k, v -> out, lse. current_block: a block's attention to itself. */
#include "attention_problem.h"
#include "kinds.h"

#include <math.h>

/* params B, Sq, Sk, H, Hk, D, softmax_scale, causal (must be false); out64 and lse64 may be
 * missing. */
fb_status fb_recompute_attention(fb_case *c, fb_report *report) {
    fb_attention_problem p = {0};
    fb_problem_claims claims = {.out_name = "out", .lse_name = "lse"};
    FB_TRY(fb_attention_problem_sizes(c, &p));
    FB_TRY(fb_case_size(c, "Sq", 0, 1 << 24, &p.queries));
    FB_TRY(fb_case_size(c, "Sk", 0, 1 << 24, &p.keys));
    FB_TRY(fb_case_real_or(c, "softmax_scale", 1.0 / sqrt((double)p.head_dim), &p.scale));
    fb_shape kv = FB_SHAPE(p.batch, p.keys, p.kv_heads, p.head_dim);
    fb_shape out = FB_SHAPE(p.batch, p.queries, p.heads, p.head_dim);
    fb_shape lse = FB_SHAPE(p.batch, p.heads, p.queries);
    FB_TRY(fb_case_f32(c, &p.q, out, "q"));
    FB_TRY(fb_case_f32(c, &p.k, kv, "k"));
    FB_TRY(fb_case_f32(c, &p.v, kv, "v"));
    FB_TRY(fb_case_f32(c, &claims.file_out, out, "out"));
    FB_TRY(fb_case_f32(c, &claims.file_lse, lse, "lse"));
    if (fb_case_has(c, "out64"))
        FB_TRY(fb_case_f64(c, &claims.truth_out, out, "out64"));
    if (fb_case_has(c, "lse64"))
        FB_TRY(fb_case_f64(c, &claims.truth_lse, lse, "lse64"));
    return fb_claim_attention(c, report, &p, &claims);
}

/* params B, L, H, Hk, D */
fb_status fb_recompute_current_block(fb_case *c, fb_report *report) {
    fb_attention_problem p = {0};
    fb_problem_claims claims = {.out_name = "out", .lse_name = "lse"};
    FB_TRY(fb_attention_problem_sizes(c, &p));
    FB_TRY(fb_case_size(c, "L", 1, 1 << 24, &p.queries));
    p.keys = p.queries;
    p.scale = 1.0 / sqrt((double)p.head_dim);
    fb_shape kv = FB_SHAPE(p.batch, p.keys, p.kv_heads, p.head_dim);
    fb_shape out = FB_SHAPE(p.batch, p.queries, p.heads, p.head_dim);
    FB_TRY(fb_case_f32(c, &p.q, out, "q"));
    FB_TRY(fb_case_f32(c, &p.k, kv, "k_new"));
    FB_TRY(fb_case_f32(c, &p.v, kv, "v_new"));
    FB_TRY(fb_case_f32(c, &claims.file_out, out, "out"));
    FB_TRY(fb_case_f32(c, &claims.file_lse, FB_SHAPE(p.batch, p.heads, p.queries), "lse"));
    return fb_claim_attention(c, report, &p, &claims);
}
