/* Other people's results of denoising sequences: right ones pass in every precision, and each known
 * mistake is caught and named. */
#include "oracle/verdict.h"
#include "tests/sequence_case.h"
#include "tests/temporary.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The parts from which a wrong implementation is built, in double precision by the readable
 * reference: parts for the queries of any pass. out [rows, D], lse [rows] */
typedef struct part {
    double out[6 * 4 * 16], lse[6 * 4];
} part;

enum { ROWS = 6 * 4, DIM = 16, VALUES = ROWS * DIM };

static void attend(const float *q, const float *k, const float *v, size_t keys, double scale,
                   part *result) {
    fb_queries queries = fb_queries_rows(q, 6, 4, 16);
    fb_kv kv = fb_kv_rows(FB_F32, k, v, keys, 2, 16);
    fb_range all = {0, keys};
    fb_view view = {&kv, &all, 1};
    OK(fb_attend_reference(&queries, &view, NULL, scale, result->out, result->lse));
}

static part external_of(const fb_script *s, size_t pass) {
    part result;
    attend(s->passes[pass].q, s->k_context, s->v_context, 70, 0.25, &result);
    return result;
}

static part internal_of(const fb_script *s, size_t pass) {
    part result;
    attend(s->passes[pass].q, s->passes[pass].k, s->passes[pass].v, 6, 0.25, &result);
    return result;
}

static part merged(const part *a, const part *b) {
    part result;
    fb_merge_reference(a->out, a->lse, b->out, b->lse, ROWS, DIM, result.out, result.lse);
    return result;
}

static bool accepted_between(const fb_script *s, size_t row, size_t begin, size_t end) {
    for (size_t i = begin; i < end; i++)
        if (s->passes[i].accepted[row / 4])
            return true;
    return false;
}

static void copy_row(part *to, const part *from, size_t row) {
    memcpy(to->out + row * DIM, from->out + row * DIM, DIM * sizeof(double));
    to->lse[row] = from->lse[row];
}

/* Passes 0 and `refresh` store; `reuse` uses the part of `refresh`. */
typedef struct passes {
    size_t refresh, reuse, reuse_of_first;
} passes;

static part not_refreshed(const fb_script *s, const passes *p) {
    part external = external_of(s, 0), internal = internal_of(s, p->refresh);
    return merged(&external, &internal);
}

static part not_refreshed_later(const fb_script *s, const passes *p) {
    part external = external_of(s, 0), internal = internal_of(s, p->reuse);
    return merged(&external, &internal);
}

static part recomputed(const fb_script *s, const passes *p) {
    part external = external_of(s, p->reuse), internal = internal_of(s, p->reuse);
    return merged(&external, &internal);
}

static part dirty_kept(const fb_script *s, const passes *p) {
    part external = external_of(s, p->refresh), old = external_of(s, 0);
    part internal = internal_of(s, p->refresh);
    for (size_t row = 0; row < ROWS; row++)
        if (accepted_between(s, row, 0, p->refresh))
            copy_row(&external, &old, row);
    return merged(&external, &internal);
}

static part dirty_recomputed(const fb_script *s, const passes *p) {
    part external = external_of(s, p->refresh), new = external_of(s, p->reuse);
    part internal = internal_of(s, p->reuse);
    for (size_t row = 0; row < ROWS; row++)
        if (accepted_between(s, row, p->refresh, p->reuse))
            copy_row(&external, &new, row);
    return merged(&external, &internal);
}

static part drop(const fb_script *s, const passes *p, bool weight) {
    part external = external_of(s, p->refresh), internal = internal_of(s, p->reuse);
    for (size_t row = 0; row < ROWS; row++)
        if (accepted_between(s, row, p->refresh, p->reuse)) {
            memset(external.out + row * DIM, 0, DIM * sizeof(double));
            if (weight)
                external.lse[row] = -(double)INFINITY;
        }
    return merged(&external, &internal);
}

static part dirty_zeroed(const fb_script *s, const passes *p) {
    return drop(s, p, false);
}

static part dirty_dropped(const fb_script *s, const passes *p) {
    return drop(s, p, true);
}

static part external_alone(const fb_script *s, const passes *p) {
    return external_of(s, p->refresh);
}

static part internal_alone(const fb_script *s, const passes *p) {
    return internal_of(s, p->reuse);
}

static part stale_block(const fb_script *s, const passes *p) {
    part external = external_of(s, p->refresh), internal;
    attend(s->passes[p->reuse].q, s->passes[p->reuse - 1].k, s->passes[p->reuse - 1].v, 6, 0.25,
           &internal);
    return merged(&external, &internal);
}

static part result_kept(const fb_script *s, const passes *p) {
    part external = external_of(s, p->refresh), internal = internal_of(s, p->refresh);
    return merged(&external, &internal);
}

static part scaled(const fb_script *s, const passes *p, double scale) {
    part external, internal;
    attend(s->passes[p->refresh].q, s->k_context, s->v_context, 70, scale, &external);
    attend(s->passes[p->reuse].q, s->passes[p->reuse].k, s->passes[p->reuse].v, 6, scale,
           &internal);
    return merged(&external, &internal);
}

static part scaled_twice(const fb_script *s, const passes *p) {
    return scaled(s, p, 0.0625);
}

static part unscaled(const fb_script *s, const passes *p) {
    return scaled(s, p, 1.0);
}

/* Heads 0 1 2 3 read KV heads 0 1 0 1: those of heads 0 2 1 3 when these come as 0 1 2 3. */
static void reorder(const float *q, float *reordered) {
    static const size_t order[] = {0, 2, 1, 3};
    for (size_t i = 0; i < ROWS; i++)
        memcpy(reordered + (i / 4 * 4 + order[i % 4]) * DIM, q + i * DIM, DIM * sizeof *q);
}

static part wrong_head_part(const float *q, const float *k, const float *v, size_t keys) {
    static const size_t order[] = {0, 2, 1, 3};
    float reordered[VALUES];
    part swapped, result;
    reorder(q, reordered);
    attend(reordered, k, v, keys, 0.25, &swapped);
    for (size_t i = 0; i < ROWS; i++) {
        size_t from = i / 4 * 4 + order[i % 4];
        memcpy(result.out + i * DIM, swapped.out + from * DIM, DIM * sizeof(double));
        result.lse[i] = swapped.lse[from];
    }
    return result;
}

static part wrong_heads(const fb_script *s, const passes *p) {
    const fb_script_pass *pass = &s->passes[p->reuse];
    part external = wrong_head_part(s->passes[p->refresh].q, s->k_context, s->v_context, 70);
    part internal = wrong_head_part(pass->q, pass->k, pass->v, 6);
    return merged(&external, &internal);
}

/* Factors for the LSEs before a natural merge. */
static part scaled_lse(const fb_script *s, const passes *p, double external_factor,
                       double internal_factor) {
    part external = external_of(s, p->refresh), internal = internal_of(s, p->reuse);
    for (size_t row = 0; row < ROWS; row++) {
        external.lse[row] *= external_factor;
        internal.lse[row] *= internal_factor;
    }
    return merged(&external, &internal);
}

static part both_base2(const fb_script *s, const passes *p) {
    return scaled_lse(s, p, 1.0 / log(2.0), 1.0 / log(2.0));
}

static part external_base2(const fb_script *s, const passes *p) {
    return scaled_lse(s, p, 1.0 / log(2.0), 1.0);
}

static part internal_base2(const fb_script *s, const passes *p) {
    return scaled_lse(s, p, 1.0, 1.0 / log(2.0));
}

static part exp2_of_natural(const fb_script *s, const passes *p) {
    return scaled_lse(s, p, log(2.0), log(2.0));
}

static part averaged(const fb_script *s, const passes *p) {
    return scaled_lse(s, p, 0.0, 0.0);
}

static part swapped(const fb_script *s, const passes *p) {
    part external = external_of(s, p->refresh), internal = internal_of(s, p->reuse);
    part result = external;
    memcpy(result.lse, internal.lse, sizeof result.lse);
    memcpy(internal.lse, external.lse, sizeof internal.lse);
    return merged(&result, &internal);
}

typedef struct planted {
    const char *word; /* of the note */
    part (*make)(const fb_script *s, const passes *p);
    bool at_refresh; /* otherwise at the reuse */
    bool out_only;   /* the LSE is right all the same */
} planted;

static const planted mistakes[] = {
    {"the external part is not refreshed", not_refreshed, true, false},
    {"the external part is not refreshed", not_refreshed_later, false, false},
    {"recomputed although the step reuses", recomputed, false, false},
    {"dirty rows are kept", dirty_kept, true, false},
    {"the external part of dirty rows is recomputed", dirty_recomputed, false, false},
    {"the cached output of dirty rows is dropped", dirty_zeroed, false, true},
    {"the cached part of dirty rows is dropped", dirty_dropped, false, false},
    {"the internal part is missing", external_alone, true, false},
    {"the external part is missing", internal_alone, false, false},
    {"keys and values are those of the step before", stale_block, false, false},
    {"the result of the refresh is given out again", result_kept, false, false},
    {"the scale is applied twice", scaled_twice, false, false},
    {"the scores are not scaled", unscaled, false, false},
    {"the wrong KV head is read", wrong_heads, false, false},
    {"LSEs in base 2 are merged with natural", both_base2, false, false},
    {"the external part's LSE is in base 2", external_base2, false, false},
    {"the internal part's LSE is in base 2", internal_base2, false, false},
    {"natural LSEs are merged with exp2", exp2_of_natural, false, true},
    {"the weights of the merge are swapped", swapped, false, true},
    {"the parts are averaged", averaged, false, true},
};

/* A file with one tensor of f32, bf16 or f16 values. */
static const char *write_candidate(const char *name, fb_dtype dtype, const double *values,
                                   size_t count) {
    static const fb_tensor_dtype dtypes[] = {FB_TENSOR_F32, FB_TENSOR_BF16, FB_TENSOR_F16};
    float *narrow = malloc(count * sizeof *narrow);
    void *stored = malloc(count * sizeof *narrow);
    for (size_t i = 0; i < count; i++)
        narrow[i] = (float)values[i];
    OK(fb_from_f32(dtype, narrow, stored, count));
    fb_tensor_view view = {
        .name = name, .dtype = dtypes[dtype], .ndim = 2, .shape = {6, count / 6}, .data = stored};
    const char *path = temporary_path("candidate.safetensors");
    OK(fb_safetensors_write(path, &view, 1, NULL, 0));
    free(narrow);
    free(stored);
    return path;
}

/* A sequence with a first refresh, another that stores and that has dirty rows, and a reuse after
 * it with dirty rows of its own. */
static passes find_passes(const fb_script *s) {
    passes p = {0};
    for (size_t i = 1; i < s->num_passes; i++) {
        const fb_script_pass *pass = &s->passes[i];
        if (!p.refresh && pass->action == FB_REFRESH_AND_STORE)
            p.refresh = i;
        if (!p.reuse && pass->action == FB_REUSE && pass->source > 0 && pass->dirty > 0)
            p.reuse = i;
    }
    cr_assert(p.refresh && p.reuse && s->passes[p.reuse].source == p.refresh);
    return p;
}

static const fb_script_config with_reuse = {
    .preset = "test",
    .num_heads = 4,
    .num_kv_heads = 2,
    .head_dim = 16,
    .block_size = 6,
    .context_length = 70,
    .tau = 2,
    .steps = 6,
    .seed = 1,
};

static void expect_named(const char *path, const char *candidate, const char *tensor,
                         const planted *mistake) {
    fb_report *report = verify(path, candidate);
    cr_assert_eq(report->num_findings, 1, "%s: %s", mistake->word, report->reason);
    const fb_finding *finding = &report->findings[0];
    cr_expect_str_eq(finding->tensor, tensor);
    cr_expect_not(finding->passed, "%s: %s passed", mistake->word, tensor);
    cr_expect(strstr(finding->note, mistake->word), "%s: '%s' is not in '%s'", tensor,
              mistake->word, finding->note);
    cr_expect(strlen(finding->detail) > 20, "no detail");
    fb_report_destroy(report);
}

static void plant_all(const fb_script *s, const char *path, fb_dtype dtype) {
    passes p = find_passes(s);
    for (size_t i = 0; i < sizeof mistakes / sizeof mistakes[0]; i++) {
        const planted *mistake = &mistakes[i];
        part wrong = mistake->make(s, &p);
        size_t pass = mistake->at_refresh ? p.refresh : p.reuse;
        char tensor[64];
        snprintf(tensor, sizeof tensor, "step%02zu.out", pass);
        expect_named(path, write_candidate(tensor, dtype, wrong.out, VALUES), tensor, mistake);
        if (mistake->out_only || dtype != FB_F32)
            continue;
        snprintf(tensor, sizeof tensor, "step%02zu.lse", pass);
        expect_named(path, write_candidate(tensor, dtype, wrong.lse, ROWS), tensor, mistake);
    }
}

/* A result that is too large is named by its first tokens: here five of six. */
static void name_sample(const fb_script *s, const char *tensor, const double *values,
                        const char *word) {
    fb_candidate *candidate = NULL;
    fb_trial *trial = NULL, *sample = NULL;
    char words[512];
    OK(fb_candidate_open(write_candidate(tensor, FB_F32, values, VALUES), &candidate));
    OK(fb_trial_of_script(s, candidate, &trial));
    OK(fb_trial_sample(trial, 5, &sample));
    OK(fb_trial_name(sample, FB_ARITHMETIC_AUTO, words, sizeof words));
    cr_expect(strstr(words, word), "'%s' is not in '%s'", word, words);
    fb_trial_free(sample);
    fb_trial_free(trial);
    fb_candidate_close(candidate);
}

/* The truth of each tensor, narrowed to any precision, is right. */
static void expect_right_passes(const fb_script *s, const char *path, fb_dtype dtype) {
    for (size_t i = 0; i < s->num_passes; i++) {
        const fb_script_pass *pass = &s->passes[i];
        char tensor[64];
        snprintf(tensor, sizeof tensor, "step%02zu.out", i);
        fb_report *report = verify(path, write_candidate(tensor, dtype, pass->true_out, VALUES));
        expect_passed(tensor, report, 1);
        snprintf(tensor, sizeof tensor, "step%02zu.lse", i);
        report = verify(path, write_candidate(tensor, dtype, pass->true_lse, ROWS));
        expect_passed(tensor, report, 1);
        if (!pass->external_out)
            continue;
        snprintf(tensor, sizeof tensor, "step%02zu.external_out", i);
        report = verify(path, write_candidate(tensor, dtype, pass->true_external_out, VALUES));
        expect_passed(tensor, report, 1);
    }
}

Test(verify_candidate, right_results_pass) {
    temporary_make();
    fb_script *s = generated(&with_reuse);
    char *path = strdup(temporary_path("case.safetensors"));
    OK(fb_script_write(s, path));
    for (fb_dtype dtype = FB_F32; dtype <= FB_F16; dtype++)
        expect_right_passes(s, path, dtype);
    fb_script_free(s);
    free(path);
    temporary_remove();
}

Test(verify_candidate, mistakes_are_named) {
    temporary_make();
    fb_script *s = generated(&with_reuse);
    char *path = strdup(temporary_path("case.safetensors"));
    OK(fb_script_write(s, path));
    plant_all(s, path, FB_F32);
    plant_all(s, path, FB_F16);
    fb_script_free(s);
    free(path);
    temporary_remove();
}

/* Mistakes about the stored part, and about an LSE itself. */
Test(verify_candidate, mistakes_of_other_tensors) {
    temporary_make();
    fb_script *s = generated(&with_reuse);
    passes p = find_passes(s);
    char *path = strdup(temporary_path("case.safetensors"));
    OK(fb_script_write(s, path));
    char tensor[64];
    snprintf(tensor, sizeof tensor, "step%02zu.external_out", p.refresh);
    part whole = result_kept(s, &p);
    expect_named(path, write_candidate(tensor, FB_F32, whole.out, VALUES), tensor,
                 &(planted){.word = "the block's own keys are in the stored external part"});
    snprintf(tensor, sizeof tensor, "step%02zu.lse", p.reuse);
    part right = {{0}, {0}}, other = {{0}, {0}};
    memcpy(right.lse, s->passes[p.reuse].true_lse, sizeof right.lse);
    for (size_t i = 0; i < ROWS; i++)
        other.lse[i] = right.lse[i] / log(2.0);
    expect_named(path, write_candidate(tensor, FB_F32, other.lse, ROWS), tensor,
                 &(planted){.word = "base 2"});
    for (size_t i = 0; i < ROWS; i++)
        other.lse[i % 4 * 6 + i / 4] = right.lse[i];
    expect_named(path, write_candidate(tensor, FB_F32, other.lse, ROWS), tensor,
                 &(planted){.word = "transposed"});
    right.lse[5] += 0.01;
    expect_named(path, write_candidate(tensor, FB_F32, right.lse, ROWS), tensor,
                 &(planted){.word = "no known mistake"});
    fb_script_free(s);
    free(path);
    temporary_remove();
}

/* A file without truths: they are computed, for a candidate too. */
Test(verify_candidate, truths_may_be_missing) {
    temporary_make();
    fb_script *s = generated(&with_reuse);
    char *path = strdup(temporary_path("case.safetensors"));
    OK(fb_script_write(s, path));
    char *without = strdup(temporary_path("without.safetensors"));
    write_changed(path, without, &(change){.drop = "step03.out64"});
    expect_right_passes(s, without, FB_F32);
    free(without);
    fb_script_free(s);
    free(path);
    temporary_remove();
}

/* A case's own file is a right candidate: copies of inputs are no results. Steps that the case does
 * not have are an error. */
Test(verify_candidate, the_file_of_the_case_and_one_of_a_longer_case) {
    temporary_make();
    fb_script *s = generated(&with_reuse);
    char *path = strdup(temporary_path("case.safetensors"));
    OK(fb_script_write(s, path));
    static const double values[VALUES];
    fb_report *report = verify(path, path);
    cr_expect_eq(report->outcome, FB_PASSED, "%s", report->reason);
    cr_expect_gt(report->num_unjudged, 3 * s->num_passes);
    fb_report_destroy(report);
    report = verify(path, write_candidate("step99.q", FB_F32, values, VALUES));
    cr_expect_eq(report->outcome, FB_FAILED);
    cr_expect(strstr(report->reason, "the candidate has step99.q"), "%s", report->reason);
    fb_report_destroy(report);
    report = verify(path, write_candidate("step00.q", FB_F32, values, VALUES));
    cr_expect_eq(report->outcome, FB_FAILED);
    cr_expect(strstr(report->reason, "step00.q is an input"), "%s", report->reason);
    fb_report_destroy(report);
    fb_script_free(s);
    free(path);
    temporary_remove();
}

Test(verify_candidate, first_tokens_say_what_is_wrong) {
    fb_script *s = generated(&with_reuse);
    passes p = find_passes(s);
    for (size_t i = 0; i < sizeof mistakes / sizeof mistakes[0]; i++) {
        char tensor[64];
        part wrong = mistakes[i].make(s, &p);
        snprintf(tensor, sizeof tensor, "step%02zu.out",
                 mistakes[i].at_refresh ? p.refresh : p.reuse);
        name_sample(s, tensor, wrong.out, mistakes[i].word);
    }
    fb_script_free(s);
}
