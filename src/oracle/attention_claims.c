#include "oracle/attention_claims.h"

#include "base/error.h"
#include "base/memory.h"
#include "oracle/attention_result.h"
#include "oracle/verdict.h"

/* This build's results, and the truth. */
typedef struct answers {
    float *out, *lse;
    double *true_out, *true_lse;
} answers;

static fb_claim claim_of(const fb_attention_claims *claims) {
    return (fb_claim){
        .file_precision = claims->file_precision,
        .plain = fb_attention_plain,
        .name = fb_attention_name,
        .explain = fb_attention_explain,
    };
}

static fb_status claim_out(fb_report *report, const fb_attention_problem *p,
                           const fb_attention_claims *claims, const answers *a) {
    fb_attention_result context = {p, false};
    fb_claim claim = claim_of(claims);
    claim.tensor = claims->out_name;
    claim.shape = FB_DIMS(p->batch, p->queries, p->heads, p->head_dim);
    claim.token_axis = 1;
    claim.head_axis = 2;
    claim.ours = a->out;
    claim.file = claims->file_out;
    claim.truth = a->true_out;
    claim.context = &context;
    claim.score_effect = fb_score_effect(a->true_lse, fb_attention_problem_rows(p), p->v,
                                         p->batch * p->keys * p->kv_heads * p->head_dim);
    return fb_report_claim(report, &claim);
}

static fb_status claim_lse(fb_report *report, const fb_attention_problem *p,
                           const fb_attention_claims *claims, const answers *a) {
    fb_attention_result context = {p, true};
    fb_claim claim = claim_of(claims);
    claim.tensor = claims->lse_name;
    claim.shape = p->lse_by_token ? FB_DIMS(p->batch, p->queries, p->heads)
                                  : FB_DIMS(p->batch, p->heads, p->queries);
    claim.token_axis = p->lse_by_token ? 1 : 2;
    claim.head_axis = p->lse_by_token ? 2 : 1;
    claim.is_lse = true;
    claim.ours = a->lse;
    claim.file = claims->file_lse;
    claim.truth = a->true_lse;
    claim.context = &context;
    /* an LSE is as exact as its score and the logarithm are; the file's may be right by luck */
    claim.score_effect =
        2.0 * fb_spacing_at(fb_largest_finite(a->true_lse, fb_attention_problem_rows(p)));
    return fb_report_claim(report, &claim);
}

/* What the file states as the truth must be it. */
static fb_status check_stated(const fb_attention_problem *p, const fb_attention_claims *claims,
                              const answers *a) {
    if (claims->truth_out)
        FB_TRY(fb_errors_check_truth(claims->truth_out, a->true_out, fb_attention_problem_values(p),
                                     claims->path, "out64"));
    if (claims->truth_lse)
        FB_TRY(fb_errors_check_truth(claims->truth_lse, a->true_lse, fb_attention_problem_rows(p),
                                     claims->path, "lse64"));
    return FB_OK;
}

static fb_status claim_both(fb_report *report, const fb_attention_problem *p,
                            const fb_attention_claims *claims, answers *a) {
    size_t rows = fb_attention_problem_rows(p), values = fb_attention_problem_values(p);
    FB_TRY(fb_alloc(values, sizeof *a->out, "attention", &a->out));
    FB_TRY(fb_alloc(rows, sizeof *a->lse, "attention", &a->lse));
    FB_TRY(fb_alloc(values, sizeof *a->true_out, "attention truth", &a->true_out));
    FB_TRY(fb_alloc(rows, sizeof *a->true_lse, "attention truth", &a->true_lse));
    FB_TRY(fb_attention_problem_attend(p, a->out, a->lse));
    FB_TRY(fb_attention_problem_truth(p, a->true_out, a->true_lse));
    FB_TRY(check_stated(p, claims, a));
    FB_TRY(claim_out(report, p, claims, a));
    return claim_lse(report, p, claims, a);
}

static fb_status judge_candidate(fb_report *report, const fb_attention_problem *p,
                                 const fb_attention_claims *claims) {
    fb_trial *trial = NULL;
    FB_TRY(fb_trial_of_attention(p, claims->out_name, claims->lse_name, report->candidate, &trial));
    fb_status status = fb_report_trial(report, trial);
    fb_trial_free(trial);
    return status;
}

fb_status fb_claim_attention(fb_report *report, const fb_attention_problem *p,
                             const fb_attention_claims *claims) {
    answers a = {0};
    if (report->candidate && fb_attention_problem_values(p) < FB_TRIAL_MAX_VALUES)
        return judge_candidate(report, p, claims);
    fb_status status = claim_both(report, p, claims, &a);
    fb_free(a.out);
    fb_free(a.lse);
    fb_free(a.true_out);
    fb_free(a.true_lse);
    return status;
}
