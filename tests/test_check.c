/* Judging results through the public header of the oracle: results in memory, candidates in memory,
 * case files, golden hashes, and what reports say. */
#include "tests/numbers.h"

#include <flashblock/experimental/oracle.h>

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH = 2, QUERIES = 5, KEYS = 70, HEADS = 4, KV_HEADS = 2, DIM = 16 };
enum {
    ROWS = BATCH * QUERIES * HEADS,
    VALUES = ROWS * DIM,
    KV_VALUES = BATCH * KEYS * KV_HEADS * DIM
};

/* A problem, and this library's result of it: lse [batch, heads, queries]. */
static float q[VALUES], k[KV_VALUES], v[KV_VALUES], out[VALUES], lse[ROWS];

static fb_attention_check made(void) {
    fb_attention_check check;
    fb_attention_check_init(&check);
    check.batch = BATCH;
    check.num_queries = QUERIES;
    check.num_keys = KEYS;
    check.num_heads = HEADS;
    check.num_kv_heads = KV_HEADS;
    check.head_dim = DIM;
    check.q.data = q;
    check.k.data = k;
    check.v.data = v;
    check.out.data = out;
    check.lse.data = lse;
    return check;
}

static void attend(const fb_attention_check *check) {
    enum { Q = QUERIES * HEADS * DIM, KV = KEYS * KV_HEADS * DIM };
    for (size_t b = 0; b < BATCH; b++) {
        fb_queries queries = fb_queries_rows(q + b * Q, QUERIES, HEADS, DIM);
        fb_kv kv = fb_kv_rows(FB_F32, k + b * KV, v + b * KV, KEYS, KV_HEADS, DIM);
        fb_range all = {0, check->key_lengths ? check->key_lengths[b] : KEYS};
        fb_view view = {&kv, &all, 1};
        fb_part part = fb_part_rows(out + b * Q, lse + b * QUERIES * HEADS, HEADS, DIM);
        part.lse_token_stride = 1;
        part.lse_head_stride = QUERIES;
        cr_assert_eq(fb_attend(&queries, &view, &check->mask, (float)check->scale, &part), FB_OK,
                     "%s", fb_error_message());
    }
}

static void fill(void) {
    random_stream stream = random_named(1);
    for (size_t i = 0; i < VALUES; i++)
        q[i] = random_normal(&stream);
    for (size_t i = 0; i < KV_VALUES; i++) {
        k[i] = random_normal(&stream);
        v[i] = random_normal(&stream);
    }
}

static fb_report *checked(const fb_attention_check *check) {
    fb_report *report = NULL;
    cr_assert_eq(fb_check_attention(check, &report), FB_OK, "%s", fb_error_message());
    cr_assert_not_null(report);
    return report;
}

static void expect_passed(const fb_attention_check *check, const char *what) {
    fb_report *report = checked(check);
    cr_expect_eq(fb_report_outcome(report), FB_PASSED, "%s", what);
    for (size_t i = 0; i < fb_report_num_findings(report); i++) {
        const fb_finding *finding = fb_report_finding(report, i);
        cr_expect(fb_finding_passed(finding), "%s, %s: %s", what, fb_finding_tensor(finding),
                  fb_finding_verdict(finding));
        cr_expect_leq(fb_finding_error(finding), fb_finding_bound(finding));
    }
    fb_report_destroy(report);
}

/* The verdict on `tensor` holds these words. */
static void expect_failed(const fb_attention_check *check, const char *tensor, const char *words) {
    fb_report *report = checked(check);
    const fb_finding *found = NULL;
    cr_expect_eq(fb_report_outcome(report), FB_FAILED, "accepted; expected: %s", words);
    for (size_t i = 0; i < fb_report_num_findings(report); i++)
        if (strcmp(fb_finding_tensor(fb_report_finding(report, i)), tensor) == 0)
            found = fb_report_finding(report, i);
    cr_assert_not_null(found, "nothing is said of %s", tensor);
    cr_expect_not(fb_finding_passed(found));
    cr_expect(strstr(fb_finding_verdict(found), words), "'%s' is not in '%s'", words,
              fb_finding_verdict(found));
    fb_report_destroy(report);
}

/* --- results in memory ------------------------------------------------------------------------ */

Test(check, right_results_pass) {
    fb_attention_check check = made();
    fill();
    attend(&check);
    expect_passed(&check, "dense");
    check.scale = 0.5;
    expect_failed(&check, "out", "error");
    attend(&check);
    expect_passed(&check, "a scale");
    check.mask = (fb_mask){FB_MASK_BLOCK_CAUSAL, 4, KEYS - QUERIES, 0};
    attend(&check);
    expect_passed(&check, "a mask");
    check.out.data = NULL;
    expect_passed(&check, "the LSE without the output");
}

Test(check, mistakes_are_named) {
    static float wrong[ROWS];
    fb_attention_check check = made();
    fill();
    attend(&check);
    check.lse.data = wrong;
    for (size_t i = 0; i < ROWS; i++)
        wrong[i] = lse[i] * 1.44269504f;
    expect_failed(&check, "lse", "base 2");
    for (size_t b = 0; b < BATCH; b++)
        for (size_t i = 0; i < QUERIES; i++)
            for (size_t h = 0; h < HEADS; h++)
                wrong[(b * QUERIES + i) * HEADS + h] = lse[(b * HEADS + h) * QUERIES + i];
    expect_failed(&check, "lse", "transposed: it is [rows, heads]");
    check.lse_by_token = true;
    expect_passed(&check, "[batch, queries, heads]");
    check.lse.data = lse;
    expect_failed(&check, "lse", "transposed: it is [heads, rows]");
    check.lse.data = NULL;
    check.scale = 1.0 / 16.0; /* as if what was computed had no square root */
    expect_failed(&check, "out", "the scale of the scores is off: 4 times the right one");
    check.scale = 0.0;
    check.out.data = NULL;
    cr_expect_eq(fb_check_attention(&check, &(fb_report *){NULL}), FB_ERROR_ARGUMENT);
}

/* Queries, keys and results at strides of their own: [batch, heads, tokens, head_dim], as PyTorch
 * has them. */
Test(check, key_lengths) {
    const size_t lengths[BATCH] = {KEYS - 3, 2}, too_long[BATCH] = {KEYS + 1, 2};
    fb_attention_check check = made();
    fb_report *report = NULL;
    fill();
    check.key_lengths = lengths;
    attend(&check);
    expect_passed(&check, "variable lengths");
    check.mask = (fb_mask){FB_MASK_BLOCK_CAUSAL, 4, KEYS - QUERIES, 0};
    attend(&check);
    expect_passed(&check, "variable lengths and a mask");
    check.mask = (fb_mask){0};
    check.key_lengths = NULL;
    attend(&check);
    check.key_lengths = lengths;
    expect_failed(&check, "out", "its number of keys is ignored");
    check.key_lengths = too_long;
    cr_expect_eq(fb_check_attention(&check, &report), FB_ERROR_ARGUMENT);
    cr_expect(strstr(fb_error_message(), "key_lengths[0]"), "%s", fb_error_message());
}

Test(check, strides_are_followed) {
    static float q_by_head[VALUES], out_by_head[VALUES];
    fb_attention_check check = made();
    fill();
    attend(&check);
    for (size_t row = 0; row < ROWS; row++) {
        size_t b = row / (QUERIES * HEADS), i = row / HEADS % QUERIES, h = row % HEADS;
        size_t to = ((b * HEADS + h) * QUERIES + i) * DIM;
        memcpy(q_by_head + to, q + row * DIM, DIM * sizeof *q);
        memcpy(out_by_head + to, out + row * DIM, DIM * sizeof *out);
    }
    check.q = (fb_check_tensor){q_by_head, FB_F32, QUERIES * HEADS * DIM, DIM, QUERIES * DIM, true};
    check.out =
        (fb_check_tensor){out_by_head, FB_F32, QUERIES * HEADS * DIM, DIM, QUERIES * DIM, true};
    expect_passed(&check, "heads first");
    check.out.head_stride = DIM;
    check.out.token_stride = HEADS * DIM;
    expect_failed(&check, "out", "transposed");
}

/* One query row that stands for all: three strides of 0, which are read as such. The row is
 * followed by nothing that may be read. */
Test(check, a_row_can_stand_for_all) {
    fb_attention_check check = made();
    fill();
    for (size_t row = 1; row < ROWS; row++)
        memcpy(q + row * DIM, q, DIM * sizeof *q);
    attend(&check);
    float *one = malloc(DIM * sizeof *one);
    cr_assert_not_null(one);
    memcpy(one, q, DIM * sizeof *one);
    check.q = (fb_check_tensor){.data = one, .dtype = FB_F32, .has_strides = true};
    expect_passed(&check, "one row");
    free(one);
}

Test(check, members_of_later_versions_are_refused) {
    fb_attention_check check = made();
    check.unused = 1;
    cr_expect_eq(fb_check_attention(&check, &(fb_report *){NULL}), FB_ERROR_ARGUMENT);
}

Test(check, precision_is_the_results) {
    static uint16_t half[VALUES];
    fb_attention_check check = made();
    fill();
    attend(&check);
    cr_assert_eq(fb_from_f32(FB_BF16, out, half, VALUES), FB_OK);
    check.out = (fb_check_tensor){.data = half, .dtype = FB_BF16};
    expect_passed(&check, "bf16");
    fb_report *report = checked(&check);
    cr_expect_eq(fb_finding_precision(fb_report_finding(report, 0)), FB_BF16);
    fb_report_destroy(report);
    static float widened[VALUES];
    cr_assert_eq(fb_to_f32(FB_BF16, half, widened, VALUES), FB_OK);
    check.out = (fb_check_tensor){.data = widened};
    expect_failed(&check, "out", "error");
    check.has_precision = true;
    check.precision = FB_BF16;
    expect_passed(&check, "stored as f32, computed as bf16");
}

Test(check, no_keys_and_no_queries) {
    fb_attention_check check = made();
    memset(out, 0, sizeof out);
    for (size_t i = 0; i < ROWS; i++)
        lse[i] = -INFINITY;
    check.num_keys = 0;
    check.k.data = check.v.data = NULL;
    expect_passed(&check, "no keys");
    lse[3] = 0.0f;
    expect_failed(&check, "lse", "it should be -inf");
    check.num_queries = 0;
    expect_passed(&check, "no queries");
}

Test(check, arguments_are_checked) {
    fb_report *report = NULL;
    fb_attention_check right = made();
    fill();
    attend(&right);
    for (int i = 0; i < 9; i++) {
        fb_attention_check check = right;
        static const char *const words[] = {"struct_size", "num_heads", "head_dim",
                                            "q.data",      "batch",     "dtype",
                                            "scale",       "mask",      "precision"};
        switch (i) {
        case 0:
            check.struct_size = 0;
            break;
        case 1:
            check.num_heads = 3;
            break;
        case 2:
            check.head_dim = 0;
            break;
        case 3:
            check.q.data = NULL;
            break;
        case 4:
            check.batch = (size_t)1 << 25;
            break;
        case 5:
            check.k.dtype = (fb_dtype)17;
            break;
        case 6:
            check.scale = NAN;
            break;
        case 7:
            check.mask.kind = FB_MASK_BLOCK_CAUSAL;
            break;
        case 8:
            check.has_precision = true;
            check.precision = (fb_dtype)17;
            break;
        }
        cr_expect_eq(fb_check_attention(&check, &report), FB_ERROR_ARGUMENT, "%s", words[i]);
        cr_expect(strstr(fb_error_message(), words[i]), "'%s' is not in '%s'", words[i],
                  fb_error_message());
    }
    cr_expect_null(report);
}

/* A program that was compiled with another version of the header: a shorter struct is enough, a
 * longer one may not ask for anything that this library does not know. */
Test(check, struct_may_be_of_another_version) {
    struct {
        fb_attention_check known;
        size_t later;
    } longer;
    fb_report *report = NULL;
    fb_attention_check check = made();
    fill();
    attend(&check);
    check.struct_size = offsetof(fb_attention_check, lse_by_token);
    check.lse_by_token = true; /* beyond the struct: not read */
    expect_passed(&check, "a shorter struct");
    fb_attention_check_init_sized(&longer.known, sizeof longer);
    cr_expect_eq(longer.later, 0);
    longer.known = made();
    longer.known.struct_size = sizeof longer;
    expect_passed(&longer.known, "a longer struct");
    longer.later = 1;
    cr_expect_eq(fb_check_attention(&longer.known, &report), FB_ERROR_ARGUMENT);
    cr_expect_null(report);
}

/* --- reports ---------------------------------------------------------------------------------- */

Test(check, reports_are_told_as_text_and_json) {
    fb_attention_check check = made();
    const char *text = NULL, *json = NULL;
    fill();
    attend(&check);
    out[7] += 1.0f;
    fb_report *report = checked(&check);
    const fb_finding *finding = fb_report_finding(report, 0);
    cr_assert_eq(fb_report_num_findings(report), 2);
    cr_expect_null(fb_report_finding(report, 2));
    cr_expect_str_eq(fb_report_kind(report), "attention");
    cr_expect_str_eq(fb_report_name(report), "check");
    cr_expect_str_eq(fb_report_path(report), "");
    cr_expect(strstr(fb_finding_verdict(finding), "is allowed, worst at [0,0,0,7]: "), "%s",
              fb_finding_verdict(finding));
    cr_expect(strstr(fb_report_reason(report), "the element of token 0, head 0, channel 7"), "%s",
              fb_report_reason(report)); /* one verdict on all tensors, with the place */
    cr_expect_str_eq(fb_outcome_name(fb_report_outcome(report)), "failed");
    cr_expect_eq(fb_finding_ndim(finding), 4);
    cr_expect_eq(fb_finding_size(finding, 3), DIM);
    cr_expect_eq(fb_finding_size(finding, 4), 0);
    cr_expect_eq(fb_finding_worst(finding), 7);
    cr_expect_eq(fb_finding_value(finding), (double)out[7]);
    cr_expect_float_eq(fb_finding_truth(finding), (double)out[7] - 1.0, 1e-5);
    cr_expect_gt(fb_finding_ratio(finding), 1000.0);
    cr_expect_gt(fb_finding_plain_error(finding), 0.0);
    cr_expect_str_eq(fb_finding_note(finding), "no known mistake explains the difference");
    cr_expect_str_eq(fb_finding_note(fb_report_finding(report, 1)), "base e, [heads, rows]");
    cr_assert_eq(fb_report_text(report, &text), FB_OK);
    cr_expect(strstr(text, "check (attention), candidate in memory\n"), "%s", text);
    cr_expect(strstr(text, "\nFAIL: no known mistake"), "%s", text);
    cr_assert_eq(fb_report_json(report, &json), FB_OK);
    cr_expect(strstr(json, "\"outcome\": \"failed\""), "%s", json);
    fb_report_destroy(report);
    fb_report_destroy(NULL);
}

/* --- case files ------------------------------------------------------------------------------- */

static const char *case_path(const char *name) {
    static char path[5000];
    snprintf(path, sizeof path, "%s/golden/paper/attn/%s", getenv("FLASHBLOCK_SOURCE_ROOT"), name);
    return path;
}

/* A case passes, and so does its own file as a candidate; what is not a result is not judged. */
Test(check, a_case_file_and_a_candidate) {
    const char *path = case_path("attn_19_hugepos_q4_k64_h4-1_d64.safetensors"), *text = NULL;
    fb_verify_options options;
    fb_report *report = NULL;
    cr_assert_eq(fb_verify_file(path, NULL, &report), FB_OK);
    cr_expect_eq(fb_report_outcome(report), FB_PASSED, "%s", fb_report_reason(report));
    cr_expect_eq(fb_report_num_findings(report), 2);
    cr_expect_eq(fb_report_num_unjudged(report), 0);
    cr_expect_str_eq(fb_report_path(report), path);
    cr_assert_eq(fb_report_text(report, &text), FB_OK);
    cr_expect(strstr(text, "PASS"), "%s", text);
    fb_report_destroy(report);
    fb_verify_options_init(&options);
    cr_assert_eq(fb_candidate_open(path, &options.candidate), FB_OK, "%s", fb_error_message());
    cr_assert_eq(fb_verify_file(path, &options, &report), FB_OK);
    fb_candidate_close(options.candidate);
    cr_expect_eq(fb_report_outcome(report), FB_PASSED);
    cr_expect_eq(fb_report_num_findings(report), 2);
    cr_expect_geq(fb_report_num_unjudged(report), 3);
    cr_expect_not_null(fb_report_unjudged(report, 0));
    cr_expect_null(fb_report_unjudged(report, fb_report_num_unjudged(report)));
    cr_assert_eq(fb_report_text(report, &text), FB_OK);
    cr_expect(strstr(text, "called 'q': not judged"), "%s", text);
    fb_report_destroy(report);
}

Test(check, a_candidate_in_memory) {
    const char *path = case_path("attn_19_hugepos_q4_k64_h4-1_d64.safetensors");
    static const float zeros[4 * 4 * 64];
    const size_t shape[4] = {1, 4, 4, 64};
    fb_verify_options options;
    fb_report *report = NULL;
    fb_verify_options_init(&options);
    cr_assert_eq(fb_candidate_create(&options.candidate), FB_OK);
    cr_assert_eq(fb_candidate_add(options.candidate, "out", FB_F32, 4, shape, zeros), FB_OK);
    cr_assert_eq(fb_candidate_add(options.candidate, "lsd", FB_F32, 2, shape, zeros), FB_OK);
    cr_expect_eq(fb_candidate_add(options.candidate, "out", FB_F32, 4, shape, zeros),
                 FB_ERROR_ARGUMENT);
    cr_expect_eq(fb_candidate_add(options.candidate, "x", (fb_dtype)9, 4, shape, zeros),
                 FB_ERROR_ARGUMENT);
    cr_expect_eq(fb_candidate_add(options.candidate, "x", FB_F32, 9, shape, zeros),
                 FB_ERROR_ARGUMENT);
    cr_assert_eq(fb_verify_file(path, &options, &report), FB_OK);
    fb_candidate_close(options.candidate);
    cr_expect_eq(fb_report_outcome(report), FB_FAILED);
    cr_assert_eq(fb_report_num_findings(report), 1);
    cr_assert_eq(fb_report_num_unjudged(report), 1);
    cr_expect_str_eq(fb_report_unjudged(report, 0), "lsd");
    fb_report_destroy(report);
    fb_candidate_close(NULL);
}

Test(check, what_cannot_be_verified) {
    fb_verify_options options;
    fb_report *report = NULL;
    cr_assert_eq(fb_verify_file("/no/such/case.safetensors", NULL, &report), FB_OK);
    cr_expect_eq(fb_report_outcome(report), FB_FAILED);
    cr_expect(strstr(fb_report_reason(report), "/no/such/case"), "%s", fb_report_reason(report));
    fb_report_destroy(report);
    fb_verify_options_init(&options);
    options.struct_size = 0;
    cr_expect_eq(fb_verify_file("x", &options, &report), FB_ERROR_ARGUMENT);
}

/* --- golden hashes ---------------------------------------------------------------------------- */

Test(check, golden_hashes) {
    fb_hash_list *list = NULL;
    fb_hash_finding *finding = NULL;
    cr_assert_eq(fb_hash_list_open(NULL, &list), FB_OK, "%s", fb_error_message());
    cr_assert_gt(fb_hash_case_count(), 0);
    cr_expect_null(fb_hash_case_name(fb_hash_case_count()));
    cr_expect_eq(fb_hash_case_check(fb_hash_case_count(), list, &finding), FB_ERROR_ARGUMENT);
    cr_assert_eq(fb_hash_case_check(0, list, &finding), FB_OK);
    cr_expect(fb_hash_finding_passed(finding), "%s", fb_hash_finding_detail(finding));
    cr_expect_str_eq(fb_hash_finding_out(finding), fb_hash_finding_expected_out(finding));
    cr_expect_str_eq(fb_hash_finding_lse(finding), fb_hash_finding_expected_lse(finding));
    fb_hash_finding_destroy(finding);
    fb_hash_list_close(list);
    cr_expect_eq(fb_hash_list_open("/no/such/list", &list), FB_ERROR_IO);
}
