/* Checks a kernel of yours: its error against the double-precision truth may be at most twice that
 * of a plain implementation in float32 on the same inputs. `flashblock verify --candidate` does
 * this with files, and names the mistake; here it is done from inside a test. */
#include <flashblock/flashblock.h>

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>

enum { QUERIES = 4, KEYS = 500, HEAD_DIM = 64, VALUES = QUERIES * HEAD_DIM };

static float q[VALUES], k[KEYS * HEAD_DIM], v[KEYS * HEAD_DIM];

/* Numbers between -2 and 2 that are the same everywhere. */
static void fill(float *values, size_t count, uint32_t seed) {
    for (size_t i = 0; i < count; i++) {
        seed = seed * 1664525u + 1013904223u;
        values[i] = (float)(int32_t)seed * 0x1p-30f;
    }
}

/* The plain one: all scores, their maximum, softmax, sum. It is the yardstick. */
static void plain(float *out, float *lse) {
    for (int i = 0; i < QUERIES; i++) {
        float scores[KEYS], max = -INFINITY, sum = 0.0f;
        for (int j = 0; j < KEYS; j++) {
            scores[j] = 0.0f;
            for (int d = 0; d < HEAD_DIM; d++)
                scores[j] += q[i * HEAD_DIM + d] * k[j * HEAD_DIM + d];
            scores[j] /= sqrtf(HEAD_DIM);
            max = fmaxf(max, scores[j]);
        }
        for (int d = 0; d < HEAD_DIM; d++)
            out[i * HEAD_DIM + d] = 0.0f;
        for (int j = 0; j < KEYS; j++) {
            float p = expf(scores[j] - max);
            sum += p;
            for (int d = 0; d < HEAD_DIM; d++)
                out[i * HEAD_DIM + d] += p * v[j * HEAD_DIM + d];
        }
        for (int d = 0; d < HEAD_DIM; d++)
            out[i * HEAD_DIM + d] /= sum;
        lse[i] = max + logf(sum);
    }
}

/* The kernel under test, as GPU kernels are written: in powers of two. Its LSE is in base 2. */
static void foreign(float *out, float *lse) {
    plain(out, lse);
    for (int i = 0; i < QUERIES; i++)
        lse[i] *= 1.44269504f;
}

static void judge(const char *name, const float *values, const float *yardstick,
                  const double *truth, int count) {
    double error = 0.0, allowed = 0.0;
    int worst = 0;
    for (int i = 0; i < count; i++) {
        double distance = fabs((double)values[i] - truth[i]);
        worst = distance > error ? i : worst;
        error = fmax(error, distance);
        /* twice the yardstick's largest error, and two units in the last place */
        allowed = fmax(allowed, 2.0 * fabs((double)yardstick[i] - truth[i]) +
                                    2.0 * FLT_EPSILON * fabs(truth[i]));
    }
    printf("%-18s %s: ", name, error <= allowed ? "PASS" : "FAIL");
    if (error <= allowed)
        printf("within the bound\n");
    else
        printf("%s[%d] is %.4f, the truth is %.4f\n", name, worst, (double)values[worst],
               truth[worst]);
}

int main(void) {
    static float plain_out[VALUES], plain_lse[QUERIES], out[VALUES], lse[QUERIES];
    static double true_out[VALUES], true_lse[QUERIES];
    fill(q, VALUES, 1), fill(k, KEYS * HEAD_DIM, 2), fill(v, KEYS * HEAD_DIM, 3);
    const fb_queries queries = fb_queries_rows(q, QUERIES, 1, HEAD_DIM);
    const fb_kv kv = fb_kv_rows(FB_F32, k, v, KEYS, 1, HEAD_DIM);
    const fb_range all = {0, KEYS};
    const fb_view view = {&kv, &all, 1};
    if (fb_attend_reference(&queries, &view, NULL, 0, true_out, true_lse) != FB_OK)
        return 1;
    plain(plain_out, plain_lse);
    foreign(out, lse);
    judge("out", out, plain_out, true_out, VALUES);
    judge("lse", lse, plain_lse, true_lse, QUERIES);
    for (int i = 0; i < QUERIES; i++)
        lse[i] *= 0.693147181f; /* base e: what merging takes */
    judge("lse times ln 2", lse, plain_lse, true_lse, QUERIES);
    return 0;
}
