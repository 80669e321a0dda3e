/* Scripted sequences in memory, through the public header: a port that computes them is judged. */
#include <flashblock/experimental/oracle.h>

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OK(call) cr_assert_eq((call), FB_OK, "%s", fb_error_message())

/* A part over `num_keys` keys of q, as the library computes it. */
typedef struct part {
    float *out, *lse;
} part;

static void widen(fb_dtype dtype, const void *from, size_t count, float *to) {
    OK(fb_to_f32(dtype, from, to, count));
}

static part part_over(const fb_scripted_options *o, const void *q, const void *k, const void *v,
                      size_t num_keys) {
    size_t rows = o->block_size * o->num_heads, values = rows * o->head_dim;
    part made = {malloc(values * sizeof(float)), malloc(rows * sizeof(float))};
    float *widened = malloc(values * sizeof(float));
    widen(o->dtype, q, values, widened);
    fb_queries queries = fb_queries_rows(widened, o->block_size, o->num_heads, o->head_dim);
    fb_kv kv = fb_kv_rows(o->dtype, k, v, num_keys, o->num_kv_heads, o->head_dim);
    fb_range all = {0, num_keys};
    fb_view view = {&kv, &all, 1};
    fb_part result = fb_part_rows(made.out, made.lse, o->num_heads, o->head_dim);
    OK(fb_attend(&queries, &view, NULL, (float)o->scale, &result));
    free(widened);
    return made;
}

static void free_part(part p) {
    free(p.out);
    free(p.lse);
}

/* Results are kept in the sequence's dtype. */
static void add(fb_candidate *candidate, const fb_scripted_options *o, size_t pass,
                const char *name, part p) {
    const size_t shape[] = {o->block_size, o->num_heads, o->head_dim};
    size_t rows = shape[0] * shape[1], values = rows * shape[2];
    char tensor[64];
    void *stored = malloc(values * sizeof(float));
    OK(fb_from_f32(o->dtype, p.out, stored, values));
    snprintf(tensor, sizeof tensor, "step%02zu.%sout", pass, name);
    OK(fb_candidate_add(candidate, tensor, o->dtype, 3, shape, stored));
    snprintf(tensor, sizeof tensor, "step%02zu.%slse", pass, name);
    OK(fb_candidate_add(candidate, tensor, FB_F32, 2, shape, p.lse));
    free(stored);
}

/* What the port decided: action and dirty of each pass, in one of them `off` too much at pass 1. */
static void state(const fb_scripted *s, fb_candidate *candidate, const char *name, float off) {
    const size_t shape[] = {fb_scripted_num_passes(s)};
    float numbers[100];
    for (size_t pass = 0; pass < shape[0]; pass++)
        numbers[pass] = strcmp(name, "dirty") == 0 ? (float)fb_scripted_dirty(s, pass)
                                                   : (float)fb_scripted_action(s, pass);
    numbers[1] += off;
    OK(fb_candidate_add(candidate, name, FB_F32, 1, shape, numbers));
}

/* Runs the sequence. A stale port refreshes only at the first pass. stated: NULL, or what the port
 * states, `off` too much at pass 1. */
static fb_report *run_stating(fb_scripted *s, bool stale, const char *stated, float off) {
    const fb_scripted_options *o = fb_scripted_options_of(s);
    fb_candidate *candidate = NULL;
    part kept = {NULL, NULL};
    OK(fb_candidate_create(&candidate));
    for (size_t pass = 0; pass < fb_scripted_num_passes(s); pass++) {
        const void *q = fb_scripted_q(s, pass);
        fb_reuse_action action = fb_scripted_action(s, pass);
        if (action != FB_REUSE && (!stale || pass == 0)) {
            free_part(kept);
            kept = part_over(o, q, fb_scripted_context_k(s), fb_scripted_context_v(s),
                             o->context_length);
        }
        if (action == FB_REFRESH_AND_STORE)
            add(candidate, o, pass, "external_", kept);
        part internal =
            part_over(o, q, fb_scripted_k(s, pass), fb_scripted_v(s, pass), o->block_size);
        fb_part a = fb_part_rows(kept.out, kept.lse, o->num_heads, o->head_dim);
        fb_part b = fb_part_rows(internal.out, internal.lse, o->num_heads, o->head_dim);
        OK(fb_merge(&a, &b, o->block_size, o->num_heads, o->head_dim, &b));
        add(candidate, o, pass, "", internal);
        free_part(internal);
    }
    free_part(kept);
    if (stated)
        state(s, candidate, stated, off);
    fb_verify_options options;
    fb_report *report = NULL;
    fb_verify_options_init(&options);
    options.candidate = candidate;
    OK(fb_scripted_judge(s, &options, &report));
    fb_candidate_close(candidate);
    return report;
}

static fb_report *run(fb_scripted *s, bool stale) {
    return run_stating(s, stale, NULL, 0.0f);
}

static fb_scripted *created(fb_dtype dtype) {
    fb_scripted_options options;
    fb_scripted *s = NULL;
    fb_scripted_options_init(&options);
    options.dtype = dtype;
    options.context_length = 200;
    options.seed = 7;
    OK(fb_scripted_create(&options, &s));
    return s;
}

Test(scripted, a_right_port_passes_in_every_type) {
    for (int dtype = FB_F32; dtype <= FB_F16; dtype++) {
        fb_scripted *s = created((fb_dtype)dtype);
        fb_report *report = run(s, false);
        const char *text = NULL;
        OK(fb_report_text(report, &text));
        cr_expect_eq(fb_report_outcome(report), FB_PASSED, "%s", text);
        cr_expect_eq(fb_report_num_unjudged(report), 0);
        cr_expect_eq(fb_report_num_findings(report), 14);
        fb_report_destroy(report);
        fb_scripted_destroy(s);
    }
}

Test(scripted, a_stale_port_fails_and_is_named) {
    fb_scripted *s = created(FB_BF16);
    fb_report *report = run(s, true);
    const char *text = NULL;
    OK(fb_report_text(report, &text));
    cr_expect_eq(fb_report_outcome(report), FB_FAILED);
    cr_expect(strstr(text, "not refreshed"), "%s", text);
    fb_report_destroy(report);
    fb_scripted_destroy(s);
}

Test(scripted, says_what_each_pass_does) {
    fb_scripted *s = created(FB_F32);
    const fb_scripted_options *o = fb_scripted_options_of(s);
    size_t passes = fb_scripted_num_passes(s), accepted = 0;
    cr_expect_eq(passes, o->steps + 1);
    cr_expect_eq(fb_scripted_action(s, 0), FB_REFRESH_AND_STORE);
    cr_expect_eq(fb_scripted_action(s, passes - 1), FB_REFRESH_ONLY);
    cr_expect_eq(fb_scripted_dirty(s, 0), 0);
    for (size_t pass = 0; pass < passes; pass++)
        for (size_t token = 0; token < o->block_size; token++) {
            accepted += fb_scripted_accepts(s, pass, token);
            cr_expect_eq(fb_scripted_refreshes(s, pass, token),
                         fb_scripted_action(s, pass) != FB_REUSE);
        }
    cr_expect_eq(accepted, o->block_size);
    cr_expect_null(fb_scripted_q(s, passes));
    cr_expect_not(fb_scripted_accepts(s, passes, 0));
    fb_scripted_destroy(s);
}

Test(scripted, options_are_checked) {
    fb_scripted_options options;
    fb_scripted *s = NULL;
    fb_scripted_options_init(&options);
    cr_expect_eq(fb_scripted_preset("nothing", &options), FB_ERROR_ARGUMENT);
    cr_expect(strstr(fb_error_message(), "trado-8b"));
    for (size_t i = 0; fb_scripted_preset_name(i); i++)
        OK(fb_scripted_preset(fb_scripted_preset_name(i), &options));
    fb_scripted_options_init(&options);
    options.num_kv_heads = 4;
    cr_expect_eq(fb_scripted_create(&options, &s), FB_ERROR_ARGUMENT);
    fb_scripted_options_init(&options);
    options.head_dim = 0;
    cr_expect_eq(fb_scripted_create(&options, &s), FB_ERROR_ARGUMENT);
    fb_scripted_options_init(&options);
    options.dtype = (fb_dtype)9;
    cr_expect_eq(fb_scripted_create(&options, &s), FB_ERROR_ARGUMENT);
    options.struct_size = 0;
    cr_expect_eq(fb_scripted_create(&options, &s), FB_ERROR_ARGUMENT);
    cr_expect_null(s);
    s = created(FB_F32);
    fb_verify_options nothing;
    fb_report *report = NULL;
    fb_verify_options_init(&nothing);
    cr_expect_eq(fb_scripted_judge(s, &nothing, &report), FB_ERROR_ARGUMENT);
    cr_expect_null(report);
    fb_scripted_destroy(s);
}

Test(scripted, action_and_dirty_are_judged_where_they_are_stated) {
    static const char *const names[] = {"action", "dirty"};
    fb_scripted *s = created(FB_F32);
    for (size_t i = 0; i < 2; i++) {
        fb_report *right = run_stating(s, false, names[i], 0.0f);
        fb_report *wrong = run_stating(s, false, names[i], 1.0f);
        cr_expect_eq(fb_report_outcome(right), FB_PASSED, "%s", fb_report_reason(right));
        cr_expect_eq(fb_report_outcome(wrong), FB_FAILED);
        cr_expect(strstr(fb_report_reason(wrong), "step 1: "), "%s", fb_report_reason(wrong));
        cr_expect(strstr(fb_report_reason(wrong), i ? "dirty tokens are stated" : "is due"), "%s",
                  fb_report_reason(wrong));
        fb_report_destroy(right);
        fb_report_destroy(wrong);
    }
    fb_scripted_destroy(s);
}

/* What comes of judging one tensor beside a right result of pass 0. `report` is NULL if the judge
 * refuses the candidate. */
static fb_status judge_with(fb_scripted *s, const char *name, const void *data, float off,
                            fb_report **report) {
    const fb_scripted_options *o = fb_scripted_options_of(s);
    const size_t shape[] = {o->block_size, o->num_heads, o->head_dim};
    size_t count = shape[0] * shape[1] * shape[2];
    fb_candidate *candidate = NULL;
    fb_verify_options options;
    float *values = malloc(count * sizeof *values);
    widen(o->dtype, data, count, values);
    values[3] += off;
    fb_verify_options_init(&options);
    OK(fb_candidate_create(&candidate));
    part external = part_over(o, fb_scripted_q(s, 0), fb_scripted_context_k(s),
                              fb_scripted_context_v(s), o->context_length);
    add(candidate, o, 0, "external_", external);
    free_part(external);
    OK(fb_candidate_add(candidate, name, FB_F32, 3, shape, values));
    options.candidate = candidate;
    options.partial = true;
    *report = NULL;
    fb_status status = fb_scripted_judge(s, &options, report);
    fb_candidate_close(candidate);
    free(values);
    return status;
}

/* A copy of an input may be there, and names that mean nothing; not other inputs, nor steps that
 * the sequence does not have. */
Test(scripted, inputs_and_steps_that_are_not_there_are_no_results) {
    static const char *const allowed[] = {"step00.q", "step", "step.q", "stepx0.q", "step00", "q"};
    static const char *const refused[] = {"step99.q", "step05.out", "step5.q", "step123.lse",
                                          "step99999999999999999999.out"};
    fb_report *report = NULL;
    fb_scripted *s = created(FB_BF16);
    const void *q = fb_scripted_q(s, 0);
    cr_assert_eq(fb_scripted_num_passes(s), 5);
    for (size_t i = 0; i < sizeof allowed / sizeof *allowed; i++) {
        cr_assert_eq(judge_with(s, allowed[i], q, 0.0f, &report), FB_OK, "%s", fb_error_message());
        cr_expect_eq(fb_report_outcome(report), FB_PASSED, "%s", fb_report_reason(report));
        cr_assert_eq(fb_report_num_unjudged(report), 1);
        cr_expect_str_eq(fb_report_unjudged(report, 0), allowed[i]);
        fb_report_destroy(report);
    }
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        cr_expect_eq(judge_with(s, refused[i], q, 0.0f, &report), FB_ERROR_ARGUMENT);
        cr_expect_null(report);
        cr_expect(strstr(fb_error_message(), refused[i]), "%s", fb_error_message());
        cr_expect(strstr(fb_error_message(), "5 passes: step00 to step04"), "%s",
                  fb_error_message());
    }
    cr_expect_eq(judge_with(s, "step00.q", q, 1.0f, &report), FB_ERROR_ARGUMENT);
    cr_expect(strstr(fb_error_message(), "step00.q is an input"), "%s", fb_error_message());
    cr_expect_eq(judge_with(s, "step01.k", q, 0.0f, &report), FB_ERROR_ARGUMENT);
    cr_expect(strstr(fb_error_message(), "step01.k is an input"), "%s", fb_error_message());
    cr_expect_eq(judge_with(s, "v_context", q, 0.0f, &report), FB_ERROR_ARGUMENT);
    cr_expect(strstr(fb_error_message(), "v_context is an input"), "%s", fb_error_message());
    fb_scripted_destroy(s);
}
