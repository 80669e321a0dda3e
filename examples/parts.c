/* Attention as parts: attention over a set of keys is an output and a log-sum-exp, and parts over
 * disjoint sets merge into the part over both. FlashBlock is nothing but this. */
#include <flashblock/flashblock.h>

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { QUERIES = 4, HEADS = 8, KV_HEADS = 2, HEAD_DIM = 64, KEYS = 300, CUT = 200 };
enum { ROWS = QUERIES * HEADS, VALUES = ROWS * HEAD_DIM, KV_VALUES = KEYS * KV_HEADS * HEAD_DIM };

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

static double largest_difference(const float *a, const float *b, size_t count) {
    double largest = 0.0;
    for (size_t i = 0; i < count; i++) {
        double difference = fabs((double)a[i] - (double)b[i]);
        largest = difference > largest ? difference : largest;
    }
    return largest;
}

int main(void) {
    static float q[VALUES], k[KV_VALUES], v[KV_VALUES];
    static float out[5][VALUES], lse[5][ROWS];
    fill(q, VALUES, 1), fill(k, KV_VALUES, 2), fill(v, KV_VALUES, 3);

    fb_queries queries = fb_queries_rows(q, QUERIES, HEADS, HEAD_DIM);
    fb_kv kv = fb_kv_rows(FB_F32, k, v, KEYS, KV_HEADS, HEAD_DIM);
    fb_part parts[5];
    for (int i = 0; i < 5; i++)
        parts[i] = fb_part_rows(out[i], lse[i], HEADS, HEAD_DIM);

    /* A view is a list of token ranges: all keys, the first 200, the other 100, both, none. */
    const fb_range all = {0, KEYS}, halves[2] = {{0, CUT}, {CUT, KEYS}};
    const fb_view views[5] = {
        {&kv, &all, 1},   {&kv, &halves[0], 1}, {&kv, &halves[1], 1},
        {&kv, halves, 2}, {&kv, NULL, 0},
    };
    for (int i = 0; i < 5; i++)
        check(fb_attend(&queries, &views[i], NULL, 0, &parts[i]));

    printf("%d queries, %d heads, %d keys; row 0 of head 0:\n", QUERIES, HEADS, KEYS);
    printf("  keys 0-299    LSE %.6f\n", (double)lse[0][0]);
    printf("  keys 0-199    LSE %.6f, %.1f %% of the softmax mass\n", (double)lse[1][0],
           100.0 * exp((double)(lse[1][0] - lse[0][0])));
    printf("  keys 200-299  LSE %.6f, %.1f %% of it\n", (double)lse[2][0],
           100.0 * exp((double)(lse[2][0] - lse[0][0])));
    printf("  no keys       LSE %.0f, output %.0f: the empty part\n", (double)lse[4][0],
           (double)out[4][0]);

    /* The merge of the two halves into the first of them. */
    check(fb_merge(&parts[1], &parts[2], QUERIES, HEADS, HEAD_DIM, &parts[1]));
    printf("\nmerge(0-199, 200-299) differs from attention over 0-299 by at most\n");
    printf("  %.1e in outputs, %.1e in LSEs: rounding, no approximation\n",
           largest_difference(out[1], out[0], VALUES), largest_difference(lse[1], lse[0], ROWS));
    printf("a view of the two ranges is that merge, bit for bit: %s\n",
           memcmp(out[1], out[3], sizeof out[1]) == 0 ? "yes" : "no");

    check(fb_merge(&parts[1], &parts[4], QUERIES, HEADS, HEAD_DIM, &parts[1]));
    printf("merging the empty part changes no bit: %s\n",
           memcmp(out[1], out[3], sizeof out[1]) == 0 ? "yes" : "no");

    static double true_out[VALUES], true_lse[ROWS];
    check(fb_attend_reference(&queries, &views[0], NULL, 0, true_out, true_lse));
    double error = 0.0;
    for (int i = 0; i < VALUES; i++) {
        double off = fabs((double)out[1][i] - true_out[i]);
        error = off > error ? off : error;
    }
    printf("merged outputs are off the double-precision truth by at most %.1e\n", error);
    return 0;
}
