/* Judging a kernel of one's own, in a test of one's own: flashblock-oracle says whether a result is
 * right, and which known mistake explains a wrong one. `flashblock verify --candidate` does the
 * same with files. */
#include <flashblock/experimental/oracle.h>

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

enum { QUERIES = 4, KEYS = 500, HEADS = 4, KV_HEADS = 2, HEAD_DIM = 64 };
enum { ROWS = QUERIES * HEADS, VALUES = ROWS * HEAD_DIM, KV_VALUES = KEYS * KV_HEADS * HEAD_DIM };

static float q[VALUES], k[KV_VALUES], v[KV_VALUES]; /* [tokens, heads, HEAD_DIM] */
static float out[VALUES], lse[ROWS];                /* lse [HEADS, QUERIES], as flash-attn's */

/* What may be wrong about the kernel below. */
typedef enum mistake { NONE, BASE_2, NO_SCALE, WRONG_KV_HEAD, LAST_TILE, BY_TOKEN } mistake;

static void check(fb_status status) {
    if (status == FB_OK)
        return;
    fprintf(stderr, "%s\n", fb_error_message());
    exit(1);
}

/* Numbers between -2 and 2 that are the same everywhere. */
static void fill(float *values, size_t count, uint32_t seed) {
    for (size_t i = 0; i < count; i++) {
        seed = seed * 1664525u + 1013904223u;
        values[i] = (float)(int32_t)seed * 0x1p-30f;
    }
}

/* The kernel under test: one row of attention. */
static void attend(int query, int head, mistake made) {
    int kv_head = made == WRONG_KV_HEAD ? head % KV_HEADS : head / (HEADS / KV_HEADS);
    int keys = made == LAST_TILE ? KEYS / 64 * 64 : KEYS;
    float scale = made == NO_SCALE ? 1.0f : 1.0f / sqrtf(HEAD_DIM);
    float scores[KEYS], max = -INFINITY, sum = 0.0f;
    float *row = out + (query * HEADS + head) * HEAD_DIM;
    for (int j = 0; j < keys; j++) {
        scores[j] = 0.0f;
        for (int d = 0; d < HEAD_DIM; d++)
            scores[j] += q[(query * HEADS + head) * HEAD_DIM + d] *
                         k[(j * KV_HEADS + kv_head) * HEAD_DIM + d];
        scores[j] *= scale;
        max = fmaxf(max, scores[j]);
    }
    for (int d = 0; d < HEAD_DIM; d++)
        row[d] = 0.0f;
    for (int j = 0; j < keys; j++) {
        float p = expf(scores[j] - max);
        sum += p;
        for (int d = 0; d < HEAD_DIM; d++)
            row[d] += p * v[(j * KV_HEADS + kv_head) * HEAD_DIM + d];
    }
    for (int d = 0; d < HEAD_DIM; d++)
        row[d] /= sum;
    lse[made == BY_TOKEN ? query * HEADS + head : head * QUERIES + query] =
        (max + logf(sum)) * (made == BASE_2 ? 1.44269504f : 1.0f);
}

static void judge(const char *title, mistake made) {
    fb_attention_check kernel;
    fb_report *report = NULL;
    for (int row = 0; row < ROWS; row++)
        attend(row / HEADS, row % HEADS, made);
    fb_attention_check_init(&kernel);
    kernel.num_queries = QUERIES, kernel.num_keys = KEYS;
    kernel.num_heads = HEADS, kernel.num_kv_heads = KV_HEADS, kernel.head_dim = HEAD_DIM;
    kernel.q.data = q, kernel.k.data = k, kernel.v.data = v;
    kernel.out.data = out, kernel.lse.data = lse;
    check(fb_check_attention(&kernel, &report));
    printf("%s: %s\n", title, fb_outcome_name(fb_report_outcome(report)));
    for (size_t i = 0; i < fb_report_num_findings(report); i++) {
        const fb_finding *finding = fb_report_finding(report, i); /* fb_finding_verdict: numbers */
        printf("  %s %s: %s\n", fb_finding_tensor(finding),
               fb_finding_passed(finding) ? "pass" : "FAIL",
               *fb_finding_note(finding) ? fb_finding_note(finding) : "within the bound");
    }
    fb_report_destroy(report);
}

int main(void) {
    fill(q, VALUES, 1), fill(k, KV_VALUES, 2), fill(v, KV_VALUES, 3);
    judge("The kernel as it should be", NONE);
    judge("Its LSE in base 2", BASE_2);
    judge("Without the scale", NO_SCALE);
    judge("With the wrong KV head", WRONG_KV_HEAD);
    judge("Without the last, partial tile of 64 keys", LAST_TILE);
    judge("Its LSE as [queries, heads]", BY_TOKEN);
    return 0;
}
