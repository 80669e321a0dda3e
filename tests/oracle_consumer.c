/* A program of somebody else that judges kernels, against the installed header and library
 * (test_install.sh): a right result passes, a wrong one fails with the right words. */
#include <flashblock/experimental/oracle.h>

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { QUERIES = 4, KEYS = 40, HEADS = 2, HEAD_DIM = 8, ROWS = QUERIES * HEADS };

static float q[ROWS * HEAD_DIM], k[KEYS * HEAD_DIM], v[KEYS * HEAD_DIM];
static float out[ROWS * HEAD_DIM], lse[ROWS];

static int attend(void) {
    for (int i = 0; i < ROWS * HEAD_DIM; i++)
        q[i] = sinf((float)i);
    for (int i = 0; i < KEYS * HEAD_DIM; i++) {
        k[i] = cosf((float)i);
        v[i] = sinf(0.5f * (float)i);
    }
    fb_queries queries = fb_queries_rows(q, QUERIES, HEADS, HEAD_DIM);
    fb_kv kv = fb_kv_rows(FB_F32, k, v, KEYS, 1, HEAD_DIM);
    fb_range all = {0, KEYS};
    fb_view view = {&kv, &all, 1};
    fb_part part = fb_part_rows(out, lse, HEADS, HEAD_DIM);
    return fb_attend(&queries, &view, NULL, 0, &part) == FB_OK;
}

/* Whether the outcome is this one, and the text of the report has these words. */
static int judged(fb_outcome outcome, const char *words) {
    fb_attention_check check;
    fb_report *report = NULL;
    const char *text = NULL;
    fb_attention_check_init(&check);
    check.num_queries = QUERIES;
    check.num_keys = KEYS;
    check.num_heads = HEADS;
    check.num_kv_heads = 1;
    check.head_dim = HEAD_DIM;
    check.q.data = q;
    check.k.data = k;
    check.v.data = v;
    check.out.data = out;
    check.lse.data = lse;
    check.lse_by_token = true;
    if (fb_check_attention(&check, &report) != FB_OK || fb_report_text(report, &text) != FB_OK)
        return 0;
    int right = fb_report_outcome(report) == outcome && strstr(text, words) != NULL;
    if (!right)
        fputs(text, stderr);
    fb_report_destroy(report);
    return right;
}

/* One error message for both libraries. */
static int error_is_shared(void) {
    fb_report *report = NULL;
    fb_attention_check check;
    fb_attention_check_init(&check);
    return fb_check_attention(&check, &report) == FB_ERROR_ARGUMENT && !report &&
           strstr(fb_error_message(), "num_heads") != NULL;
}

int main(void) {
    int right = attend() && error_is_shared() && judged(FB_PASSED, "base e, [rows, heads]");
    for (int i = 0; i < ROWS; i++)
        lse[i] *= 1.44269504f;
    right = right && judged(FB_FAILED, "base 2");
    if (!right)
        fprintf(stderr, "oracle_consumer: %s\n", fb_error_message());
    return !right;
}
