/* The arithmetic of the oracle: errors, bounds, the judgement of files and candidates, and the
 * mistakes that it names. The golden files test its results for each kind. */
#include "base/error.h"
#include "oracle/attention_result.h"
#include "oracle/candidate.h"
#include "oracle/judge.h"
#include "oracle/kinds.h"
#include "tests/temporary.h"
#include "tests/write_npy.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { COUNT = 6 };

/* --- errors ----------------------------------------------------------------------------------- */

Test(oracle, spacing_is_that_of_float32) {
    cr_expect_eq(fb_spacing_at(1.0), 0x1p-23);
    cr_expect_eq(fb_spacing_at(-1.99), 0x1p-23);
    cr_expect_eq(fb_spacing_at(2.0), 0x1p-22);
    cr_expect_eq(fb_spacing_at(0.75), 0x1p-24);
    cr_expect_eq(fb_spacing_at(0.0), 0x1p-149, "the smallest number is next to 0");
    cr_expect_eq(fb_spacing_at(0x1p-126), 0x1p-149);
    cr_expect_eq(fb_spacing_at(0x1p-140), 0x1p-149);
}

Test(oracle, errors_are_measured) {
    const float values[COUNT] = {1.0f, 2.0f + 0x1p-21f, -4.0f, 0.0f, 8.0f, 0.5f};
    const double truth[COUNT] = {1.0, 2.0, -4.0, 0.0, 8.0, 0.5 + 0x1p-25};
    fb_errors errors = fb_errors_measure(values, truth, COUNT);
    cr_expect_eq(errors.max_abs, 0x1p-21);
    cr_expect_eq(errors.worst, 1);
    cr_expect_eq(errors.max_rel, 0x1p-22);
    cr_expect_eq(errors.max_ulp, 2.0, "two spacings of 2^-22 off 2");
    cr_expect_eq(errors.mean_ulp, (2.0 + 0.5) / COUNT);
    errors = fb_errors_measure(values, truth, 0);
    cr_expect_eq(errors.max_abs, 0.0);
    cr_expect_eq(errors.mean_ulp, 0.0);
}

Test(oracle, what_is_not_finite_is_right_or_infinitely_wrong) {
    static const struct {
        float value;
        double truth;
        bool right;
    } pairs[] = {
        {INFINITY, (double)INFINITY, true},
        {-INFINITY, -(double)INFINITY, true},
        {NAN, (double)NAN, true},
        {INFINITY, -(double)INFINITY, false},
        {NAN, 0.0, false},
        {0.0f, (double)NAN, false},
        {INFINITY, 3.0, false},
        {3.0f, -(double)INFINITY, false},
        {NAN, -(double)INFINITY, false},
    };
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
        fb_errors errors = fb_errors_measure(&pairs[i].value, &pairs[i].truth, 1);
        double expected = pairs[i].right ? 0.0 : (double)INFINITY;
        cr_expect_eq(errors.max_abs, expected, "%g for %g: %g", (double)pairs[i].value,
                     pairs[i].truth, errors.max_abs);
        cr_expect_eq(errors.mean_ulp, expected);
    }
}

Test(oracle, the_effect_of_a_score_begins_at_16) {
    const float v[3] = {0.5f, -3.0f, INFINITY};
    const double small[2] = {15.9, -(double)INFINITY}, large[2] = {-20000.0, 5.0};
    cr_expect_eq(fb_score_effect(small, 2, v, 3), 0.0);
    cr_expect_eq(fb_score_effect(large, 2, v, 3), 0.5 * fb_spacing_at(20000.0) * 3.0);
    cr_expect_eq(fb_score_effect(NULL, 0, NULL, 0), 0.0);
}

Test(oracle, indices_are_written_out) {
    char text[32];
    fb_dims shape = FB_DIMS(2, 3, 4);
    fb_dims_index(&shape, 23, text, sizeof text);
    cr_expect_str_eq(text, "1,2,3");
    fb_dims_index(&shape, 5, text, sizeof text);
    cr_expect_str_eq(text, "0,1,1");
    fb_dims_index(&shape, 23, text, 3);
    cr_expect_str_eq(text, "1,");
}

/* --- claims ----------------------------------------------------------------------------------- */

/* A tensor [2, 3] like an LSE, which tests change. */
static const double truth_of_all[COUNT] = {1.0, -2.0, 0.5, 1.5, 0.25, -1.0};

typedef struct made {
    float ours[COUNT], file[COUNT];
    fb_claim claim;
} made;

static void make(made *m) {
    memset(m, 0, sizeof *m);
    for (size_t i = 0; i < COUNT; i++)
        m->ours[i] = m->file[i] = (float)truth_of_all[i];
    m->claim = (fb_claim){
        .tensor = "out",
        .shape = FB_DIMS(2, 3),
        .ours = m->ours,
        .file = m->file,
        .truth = truth_of_all,
    };
}

static fb_finding claimed(const made *m) {
    fb_report report = {0};
    cr_assert_eq(fb_report_claim(&report, &m->claim), FB_OK, "%s", fb_error_message());
    cr_assert_eq(report.num_findings, 1);
    fb_finding finding = report.findings[0];
    cr_expect_eq(report.outcome, finding.passed ? FB_PASSED : FB_FAILED);
    fb_report_release(&report);
    return finding;
}

Test(oracle, the_bound_is_the_files_error_and_an_ulp) {
    made m;
    make(&m);
    m.file[0] += 0x1p-23f;
    fb_finding finding = claimed(&m);
    cr_expect_eq(finding.file_errors.max_abs, 0x1p-23);
    cr_expect_eq(finding.bound, 0x1p-23 + 0x1p-22, "the largest is 2");
    m.ours[3] += 0x1.8p-22f;
    cr_expect(claimed(&m).passed, "as far as the bound");
    m.ours[3] += 0x1p-23f;
    finding = claimed(&m);
    cr_expect_not(finding.passed, "%g beyond %g", finding.errors.max_abs, finding.bound);
    cr_expect_eq(finding.errors.worst, 3);
    cr_expect_eq(finding.value, 1.5 + 0x1p-21);
    cr_expect_eq(finding.truth, 1.5);
    cr_expect_not(finding.file_failed);
    m.claim.score_effect = 0x1p-20;
    cr_expect(claimed(&m).passed, "scores are large");
}

Test(oracle, a_wrong_file_fails_and_widens_nothing) {
    made m;
    make(&m);
    m.file[4] = 0.26f;
    fb_finding finding = claimed(&m);
    cr_expect_not(finding.passed);
    cr_expect(finding.file_failed);
    cr_expect(strstr(finding.note, "the file's own result is wrong"), "%s", finding.note);
    cr_expect(strstr(finding.note, "1,1"), "%s", finding.note);
    m.file[4] = NAN;
    cr_expect(claimed(&m).file_failed);
}

Test(oracle, a_file_is_judged_in_its_own_precision) {
    made m;
    make(&m);
    m.file[1] = -2.0f + 0x1p-7f; /* one bf16 below 2 */
    cr_expect_not(claimed(&m).passed);
    m.claim.file_precision = FB_BF16;
    cr_expect(claimed(&m).passed);
    m.claim.file_precision = FB_F16;
    cr_expect_not(claimed(&m).passed);
}

Test(oracle, without_a_truth_the_file_is_it) {
    made m;
    make(&m);
    m.claim.truth = NULL;
    m.claim.rule = FB_BOUND_ABSOLUTE;
    m.claim.tolerance = 1e-3;
    m.ours[2] += 9e-4f;
    fb_finding finding = claimed(&m);
    cr_expect(finding.passed);
    cr_expect_not(finding.has_file);
    cr_expect_eq(finding.bound, 1e-3);
    m.ours[2] += 9e-4f;
    cr_expect_not(claimed(&m).passed);
}

Test(oracle, bits_are_compared) {
    made m;
    make(&m);
    m.claim.rule = FB_BOUND_BITS;
    cr_expect(claimed(&m).passed);
    m.ours[0] = m.file[0] = NAN;
    m.claim.truth = NULL;
    cr_expect(claimed(&m).passed, "NaN is NaN");
    m.ours[1] = 0.0f;
    m.file[1] = -0.0f;
    cr_expect_not(claimed(&m).passed, "0 is not -0");
    m.claim.truth = truth_of_all;
    m.claim.file = NULL;
    cr_expect_not(claimed(&m).passed, "there is nothing to be equal to");
}

Test(oracle, decisions_must_agree) {
    const int32_t ours[COUNT] = {1, 2, 3, 4, 5, 6}, file[COUNT] = {1, 2, 0, 4, 5, 0};
    fb_report report = {0};
    cr_assert_eq(fb_report_decisions(&report, "tokens", FB_DIMS(2, 3), ours, ours), FB_OK);
    cr_expect_eq(report.outcome, FB_PASSED);
    cr_assert_eq(fb_report_decisions(&report, "tokens", FB_DIMS(2, 3), ours, file), FB_OK);
    const fb_finding *finding = &report.findings[1];
    cr_expect_eq(report.outcome, FB_FAILED);
    cr_expect_eq(finding->differing, 2);
    cr_expect_eq(finding->errors.worst, 2);
    cr_expect_eq(finding->value, 3.0);
    cr_expect_eq(finding->truth, 0.0);
    fb_report_skip(&report, "because of %d", 3);
    cr_expect_str_eq(report.reason, "because of 3");
    fb_report_release(&report);
}

/* --- judging values --------------------------------------------------------------------------- */

/* A plain implementation that is 2^-10 off in its second element, whatever the precision. */
static fb_status plain_off(const void *context, fb_dtype precision, float *out) {
    (void)context;
    (void)precision;
    for (size_t i = 0; i < COUNT; i++)
        out[i] = (float)truth_of_all[i];
    out[1] += 0x1p-10f;
    return FB_OK;
}

static fb_finding judged(const made *m, const float *values, fb_dtype precision) {
    fb_finding finding = {.precision = precision};
    cr_assert_eq(fb_judge_values(&m->claim, values, &finding), FB_OK, "%s", fb_error_message());
    return finding;
}

Test(oracle, twice_the_plain_error_is_allowed) {
    made m;
    make(&m);
    m.claim.plain = plain_off;
    float values[COUNT];
    memcpy(values, m.ours, sizeof values);
    values[0] += 0x1p-9f;
    fb_finding finding = judged(&m, values, FB_F32);
    cr_expect(finding.passed, "exactly twice");
    cr_expect_eq(finding.plain_error, 0x1p-10);
    cr_expect_eq(finding.ratio, 2.0);
    cr_expect_eq(finding.bound, 0x1p-9 + 0x1p-21, "and two spacings of float32 at 2");
    cr_expect_str_eq(finding.note, "");
    values[0] = 1.0f + 0x1p-9f + 0x1p-20f;
    finding = judged(&m, values, FB_F32);
    cr_expect_not(finding.passed);
    cr_expect_str_eq(finding.note, "no known mistake explains the difference");
    cr_expect(judged(&m, values, FB_BF16).passed, "one spacing of bf16 at 2 is 2^-7");
    m.claim.rule = FB_BOUND_ABSOLUTE;
    m.claim.tolerance = 0.01;
    cr_expect(judged(&m, values, FB_F32).passed, "a kind's tolerance holds for candidates, too");
}

Test(oracle, without_a_plain_implementation_eight_times_ours) {
    made m;
    make(&m);
    m.ours[0] += 0x1p-15f;
    float values[COUNT];
    memcpy(values, m.ours, sizeof values);
    values[0] = 1.0f + 0x1p-12f + 0x1p-21f;
    cr_expect(judged(&m, values, FB_F32).passed);
    values[0] = 1.0f + 0x1p-12f + 0x1p-20f;
    cr_expect_not(judged(&m, values, FB_F32).passed);
}

/* --- mistakes --------------------------------------------------------------------------------- */

static fb_status off_by(double *out, double first, double second) {
    memcpy(out, truth_of_all, sizeof truth_of_all);
    out[0] += first;
    out[1] += second;
    return FB_OK;
}

static fb_status mistake_far(const void *context, double *out, size_t count) {
    (void)context;
    (void)count;
    return off_by(out, 0.5, 0.004);
}

static fb_status mistake_near(const void *context, double *out, size_t count) {
    (void)context;
    (void)count;
    return off_by(out, 0.5, 0.0);
}

static fb_status mistake_none(const void *context, double *out, size_t count) {
    (void)context;
    (void)count;
    return off_by(out, 0.0, 0.0);
}

static fb_status mistake_impossible(const void *context, double *out, size_t count) {
    (void)mistake_near(context, out, count);
    return FB_ERROR_UNSUPPORTED;
}

static fb_status mistake_fails(const void *context, double *out, size_t count) {
    (void)context;
    (void)out;
    (void)count;
    return fb_fail(FB_ERROR_MEMORY, "no memory for it");
}

Test(oracle, the_nearest_mistake_is_named) {
    static const fb_mistake known[] = {{"none", mistake_none},
                                       {"impossible", mistake_impossible},
                                       {"far", mistake_far},
                                       {"near", mistake_near},
                                       {"near, too", mistake_near}};
    made m;
    make(&m);
    m.claim.plain = plain_off;
    m.claim.mistakes = known;
    m.claim.num_mistakes = sizeof known / sizeof known[0];
    float values[COUNT];
    memcpy(values, m.ours, sizeof values);
    cr_expect_str_eq(judged(&m, values, FB_F32).note, "", "nothing is said of what is right");
    values[0] += 0.5f;
    cr_expect_str_eq(judged(&m, values, FB_F32).note, "near");
    values[1] += 0.004f;
    cr_expect_str_eq(judged(&m, values, FB_F32).note, "far");
    values[0] = 1.0f + 0.25f; /* half way to a mistake is not that mistake */
    cr_expect_str_eq(judged(&m, values, FB_F32).note, "no known mistake explains the difference");
    values[0] = NAN;
    cr_expect(strstr(judged(&m, values, FB_F32).note, "1 values are NaN"));
    static const fb_mistake broken[] = {{"broken", mistake_fails}};
    m.claim.mistakes = broken;
    m.claim.num_mistakes = 1;
    fb_finding finding = {0};
    cr_expect_eq(fb_judge_values(&m.claim, values, &finding), FB_ERROR_MEMORY);
}

/* A result that is too large to be judged whole: the tokens from the worst one on say what is
 * wrong. 4 heads of 128, 4 KV heads, 3 keys; the scale is applied twice. */
enum { LARGE_QUERIES = 19600, LARGE_DIM = 128, LARGE_HEADS = 4, LARGE_KEYS = 3 };

Test(oracle, a_large_result_is_named_by_some_of_its_tokens) {
    enum { TOKEN = LARGE_HEADS * LARGE_DIM, Q = LARGE_QUERIES * TOKEN, KV = LARGE_KEYS * TOKEN };
    enum { ROWS = LARGE_QUERIES * LARGE_HEADS };
    fb_attention_problem p = {.batch = 2,
                              .queries = LARGE_QUERIES,
                              .keys = LARGE_KEYS,
                              .heads = LARGE_HEADS,
                              .kv_heads = LARGE_HEADS,
                              .head_dim = LARGE_DIM,
                              .scale = 0.0883883476};
    float *q = malloc((size_t)2 * 2 * Q * sizeof *q), *out = q + (size_t)2 * Q;
    float k[2 * KV], v[2 * KV], *lse = malloc(2 * ROWS * sizeof *lse);
    for (size_t i = 0; i < (size_t)2 * Q; i++) /* no period of tokens or heads */
        q[i] = i < 1009 ? (float)sin(0.37 * (double)i) * 2.0f : q[i - 1009];
    for (size_t i = 0; i < (size_t)2 * KV; i++) {
        k[i] = (float)sin(0.53 * (double)(i + 5));
        v[i] = (float)cos(0.71 * (double)i);
    }
    p.q = q;
    p.k = k;
    p.v = v;
    cr_assert_geq(fb_attention_problem_values(&p), 20000000);
    p.scale *= p.scale;
    cr_assert_eq(fb_attention_problem_attend(&p, out, lse), FB_OK);
    p.scale = 0.0883883476;
    fb_attention_result of_out = {&p, false}, of_lse = {&p, true};
    fb_finding finding = {.shape = FB_DIMS(2, LARGE_QUERIES, LARGE_HEADS, LARGE_DIM)};
    finding.errors.worst = 2 * Q - 7; /* near the end: as many tokens before it */
    char words[512];
    cr_assert_eq(fb_attention_name(&of_out, out, &finding, words, sizeof words), FB_OK);
    cr_expect(strstr(words, "the scale is applied twice"), "%s", words);
    finding.shape = FB_DIMS(2, LARGE_HEADS, LARGE_QUERIES);
    finding.errors.worst = ROWS + 3;
    cr_assert_eq(fb_attention_name(&of_lse, lse, &finding, words, sizeof words), FB_OK);
    cr_expect(strstr(words, "the scale is applied twice"), "%s", words);
    free(q);
    free(lse);
}

/* An LSE [2, 3]: tokens, heads. */
static void make_lse(made *m) {
    make(m);
    m->claim.tensor = "lse";
    m->claim.is_lse = true;
    m->claim.head_axis = 1;
}

Test(oracle, base_and_layout_of_an_lse_are_named) {
    made m;
    float values[COUNT], turned[COUNT];
    make_lse(&m);
    cr_expect_str_eq(judged(&m, m.ours, FB_F32).note, "base e, [rows, heads]");
    for (size_t i = 0; i < COUNT; i++) {
        values[i] = (float)(truth_of_all[i] / log(2.0));
        turned[i % 3 * 2 + i / 3] = (float)truth_of_all[i];
    }
    const char *note = judged(&m, values, FB_F32).note;
    cr_expect(strstr(note, "base 2") && !strstr(note, "transposed"), "%s", note);
    fb_finding finding = judged(&m, turned, FB_F32);
    cr_expect(strstr(finding.note, "transposed: it is [heads, rows] where"), "%s", finding.note);
    cr_expect_not(strstr(finding.note, "base 2"), "%s", finding.note);
    for (size_t i = 0; i < COUNT; i++)
        turned[i] = (float)((double)turned[i] / log(2.0));
    finding = judged(&m, turned, FB_F32);
    cr_expect(strstr(finding.note, "base 2") && strstr(finding.note, "transposed"), "%s",
              finding.note);
    m.claim.token_axis = m.claim.head_axis = 0; /* no layout is known */
    cr_expect_str_eq(judged(&m, turned, FB_F32).note, "no known mistake explains the difference");
    cr_expect_str_eq(judged(&m, m.ours, FB_F32).note, "base e");
}

Test(oracle, a_trailing_axis_goes_with_a_transposition) {
    made m;
    make_lse(&m);
    m.claim.shape = FB_DIMS(3, 2, 1); /* tokens, heads, 1 */
    float turned[COUNT];
    for (size_t i = 0; i < COUNT; i++)
        turned[i % 2 * 3 + i / 2] = (float)truth_of_all[i];
    fb_finding finding = judged(&m, turned, FB_F32);
    cr_expect(strstr(finding.note, "transposed"), "%s", finding.note);
}

Test(oracle, infinities_of_an_lse_are_named) {
    static const double half_empty[COUNT] = {-INFINITY, -INFINITY, 0.5, 1.5, 0.25, -1.0};
    static const struct {
        float values[COUNT];
        const char *words;
    } wrong[] = {
        {{INFINITY, INFINITY, 0.5f, 1.5f, 0.25f, -1.0f}, "2 empty rows have an LSE of +inf"},
        {{0.5f, -INFINITY, -INFINITY, 1.5f, 0.25f, -1.0f}, "-inf is in the wrong slot: 1 rows"},
        {{-1e30f, -INFINITY, 0.5f, 1.5f, 0.25f, -1.0f}, "it should be -inf"},
        {{-INFINITY, -INFINITY, -INFINITY, 1.5f, 0.25f, -1.0f}, "-inf is in the wrong slot"},
        {{NAN, -INFINITY, 0.5f, 1.5f, 0.25f, -1.0f}, "1 values are NaN"},
    };
    made m;
    make_lse(&m);
    m.claim.truth = half_empty;
    m.ours[0] = m.ours[1] = -INFINITY;
    cr_expect(judged(&m, m.ours, FB_F32).passed);
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        fb_finding finding = judged(&m, wrong[i].values, FB_F32);
        cr_expect_not(finding.passed);
        cr_expect(strstr(finding.note, wrong[i].words), "%s", finding.note);
    }
}

/* --- candidates ------------------------------------------------------------------------------- */

static fb_tensor_view view_of(const char *name, fb_tensor_dtype dtype, const void *data) {
    return (fb_tensor_view){
        .name = name, .dtype = dtype, .ndim = 2, .shape = {2, 3}, .count = COUNT, .data = data};
}

Test(oracle, candidates_are_found_and_judged_by_name) {
    made m;
    make(&m);
    uint16_t half[COUNT];
    temporary_make();
    cr_assert_eq(fb_from_f32(FB_BF16, m.ours, half, COUNT), FB_OK);
    const fb_tensor_view tensors[] = {view_of("out", FB_TENSOR_BF16, half),
                                      view_of("lse", FB_TENSOR_F32, m.ours),
                                      view_of("other", FB_TENSOR_F32, m.ours)};
    const char *path = temporary_path("candidate.safetensors");
    cr_assert_eq(fb_safetensors_write(path, tensors, 3, NULL, 0), FB_OK, "%s", fb_error_message());
    fb_report report = {0};
    cr_assert_eq(fb_candidate_open(path, &report.candidate), FB_OK, "%s", fb_error_message());
    cr_expect_eq(fb_candidate_count(report.candidate), 3);
    m.ours[0] = 77.0f; /* the candidate is judged, not this build */
    cr_assert_eq(fb_report_claim(&report, &m.claim), FB_OK);
    m.claim.tensor = "unknown";
    cr_assert_eq(fb_report_claim(&report, &m.claim), FB_OK);
    m.claim.tensor = "lse";
    m.claim.is_lse = true;
    cr_assert_eq(fb_report_claim(&report, &m.claim), FB_OK);
    m.claim.is_lse = false;
    cr_assert_eq(fb_report_claim(&report, &m.claim), FB_OK);
    cr_assert_eq(report.num_findings, 3);
    cr_expect(report.findings[0].passed && report.findings[0].of_candidate);
    cr_expect_eq(report.findings[0].precision, FB_BF16);
    cr_expect_eq(report.findings[1].precision, FB_BF16, "an LSE: the coarsest type of all");
    cr_expect_eq(report.findings[2].precision, FB_F32);
    fb_report_release(&report);
    fb_candidate_set_precision(report.candidate, FB_F16);
    report = (fb_report){.candidate = report.candidate};
    cr_assert_eq(fb_report_claim(&report, &m.claim), FB_OK);
    cr_expect_eq(report.findings[0].precision, FB_F16, "what was said");
    size_t unused = 0;
    for (size_t i = 0; i < 3; i++)
        if (fb_candidate_unused(report.candidate, i)) {
            cr_expect_str_eq(fb_candidate_unused(report.candidate, i), "other");
            unused++;
        }
    cr_expect_eq(unused, 1);
    fb_report_release(&report);
    fb_candidate_close(report.candidate);
    temporary_remove();
}

Test(oracle, a_candidate_of_another_size_fails) {
    made m;
    make(&m);
    temporary_make();
    fb_tensor_view tensor = view_of("out", FB_TENSOR_F32, m.ours);
    tensor.shape[1] = 2;
    const char *path = temporary_path("candidate.safetensors");
    cr_assert_eq(fb_safetensors_write(path, &tensor, 1, NULL, 0), FB_OK);
    fb_report report = {.verbose = true};
    cr_assert_eq(fb_candidate_open(path, &report.candidate), FB_OK);
    cr_assert_eq(fb_report_claim(&report, &m.claim), FB_OK);
    cr_expect_eq(report.outcome, FB_FAILED);
    cr_expect(strstr(report.findings[0].note, "has 4 elements, expected 6"));
    fb_report_release(&report);
    fb_candidate_close(report.candidate);
    temporary_remove();
}

/* A case of one query, one key, one head: its LSE is the score. */
static const char *write_case(void) {
    static const char *const names[] = {"q", "k", "v", "out", "lse"};
    const float values[2] = {0.5f, -0.5f}, lse = (float)(0.5 / sqrt(2.0));
    const fb_metadata_entry metadata[] = {
        {"kind", "attention"},
        {"params", "{\"B\": 1, \"Sq\": 1, \"Sk\": 1, \"H\": 1, \"Hk\": 1, \"D\": 2}"}};
    fb_tensor_view tensors[5];
    for (size_t i = 0; i < 5; i++)
        tensors[i] = (fb_tensor_view){.name = names[i],
                                      .dtype = FB_TENSOR_F32,
                                      .ndim = i < 4 ? 4 : 3,
                                      .shape = {1, 1, 1, 2},
                                      .count = i < 4 ? 2 : 1,
                                      .data = i < 4 ? values : &lse};
    const char *path = temporary_path("case.safetensors");
    cr_assert_eq(fb_safetensors_write(path, tensors, 5, metadata, 2), FB_OK, "%s",
                 fb_error_message());
    return path;
}

Test(oracle, an_array_is_called_after_its_file_or_out) {
    static const struct {
        const char *file, *tensor;
    } names[] = {{"lse.npy", "lse"}, {"result.npy", "out"}, {"out.npy", "out"}};
    made m;
    make(&m);
    fb_case *c = NULL;
    temporary_make();
    cr_assert_eq(fb_case_open(write_case(), &c), FB_OK, "%s", fb_error_message());
    for (size_t i = 0; i < 3; i++) {
        fb_tensor_view tensor = view_of(NULL, FB_TENSOR_F32, m.ours);
        const char *file = temporary_path(names[i].file);
        fb_candidate *candidate = NULL;
        write_npy(file, &tensor);
        cr_assert_eq(fb_candidate_open(file, &candidate), FB_OK, "%s", fb_error_message());
        fb_candidate_match(candidate, c);
        cr_expect(fb_candidate_find(candidate, names[i].tensor), "%s", names[i].file);
        cr_expect_null(fb_candidate_find(candidate, "else"));
        fb_candidate_close(candidate);
    }
    fb_case_close(c);
    temporary_remove();
}

/* --- hostile files ---------------------------------------------------------------------------- */

/* A damaged case file always gets a report. The only error is a lack of memory. */
static int verify_variant(const void *data, size_t size, void *context) {
    (void)context;
    fb_verify_options options;
    fb_report *report = NULL;
    fb_verify_options_init(&options);
    options.details = true;
    const char *path = temporary_write("variant.safetensors", data, size);
    cr_assert_eq(fb_verify_file(path, &options, &report), FB_OK, "%s", fb_error_message());
    if (report->outcome == FB_FAILED && report->num_findings == 0)
        cr_expect(report->reason[0], "a failure without a reason");
    int accepted = report->outcome == FB_PASSED;
    fb_report_destroy(report);
    return accepted;
}

Test(oracle, damaged_cases_do_no_harm, .timeout = 300) {
    temporary_make();
    const char *path = write_case();
    size_t size = 0;
    char *whole = read_whole(path, &size);
    cr_expect(verify_variant(whole, size, NULL), "the case itself passes");
    size_t accepted = try_variants(whole, size, 3000, verify_variant, NULL);
    cr_log_info("%zu damaged cases still pass", accepted);
    cr_expect(accepted < 1500);
    free(whole);
    temporary_remove();
}
