#include "oracle/truth.h"

#include "base/error.h"
#include "base/exp.h"
#include "base/memory.h"
#include "base/parallel.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

/* --- log -------------------------------------------------------------------------------------- */

/* ln 2 as the sum of two doubles; the first ends in zeros, so that its product with a whole number
 * below 2^11 is exact. */
static const double ln2_high = 0x1.62e42fefa3800p-1, ln2_low = 0x1.ef35793c76730p-45;

/* x = 2^n m, m in [sqrt(1/2), sqrt(2)): ln m = 2 (s + s^3/3 + s^5/5 + ...), s = (m - 1) / (m + 1);
 * |s| < 0.1716, where s^25 / 25 is below 3e-21. */
double fb_truth_log(double x) {
    if (!(x < (double)INFINITY)) /* NaN too */
        return x;
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    int exponent = (int)(bits >> 52) - 1023;
    bits = (bits & 0x000fffffffffffffu) | 0x3ff0000000000000u;
    double m;
    memcpy(&m, &bits, sizeof m);
    if (m > 0x1.6a09e667f3bcdp+0) {
        m *= 0.5;
        exponent++;
    }
    double s = (m - 1.0) / (m + 1.0), square = s * s, sum = 0.0;
    for (int odd = 23; odd >= 3; odd -= 2)
        sum = sum * square + 1.0 / (double)odd;
    double n = (double)exponent;
    return n * ln2_high + (2.0 * s + (2.0 * s * square * sum + n * ln2_low));
}

/* --- attention -------------------------------------------------------------------------------- */

enum { ROWS = 16, TILE = 64 }; /* rows that share a widened tile of keys; keys of a tile */

/* One thread's memory. */
typedef struct workspace {
    double *scores; /* [ROWS][keys] */
    double *tile;   /* [head_dim][TILE] keys, or [TILE][head_dim] values, widened */
} workspace;

/* Rows of a KV head: query-major, the heads that read it in order. */
typedef struct task {
    size_t kv_head, first, rows;
} task;

static size_t group_size(const fb_truth_problem *p) {
    return p->heads / p->kv_heads;
}

/* The index among [queries, heads] of a KV head's row. */
static size_t row_index(const fb_truth_problem *p, size_t kv_head, size_t row) {
    size_t query = row / group_size(p), in_group = row % group_size(p);
    return query * p->heads + kv_head * group_size(p) + in_group;
}

/* scores[j] = sum over d of q[d] k[j][d], in order of d: the keys are what runs in parallel. */
static void tile_scores(const float *q, const double *keys, size_t head_dim, double *scores,
                        size_t count) {
    double sums[TILE] = {0};
    for (size_t d = 0; d < head_dim; d++) {
        double factor = (double)q[d];
        for (size_t j = 0; j < TILE; j++)
            sums[j] += factor * keys[d * TILE + j];
    }
    memcpy(scores, sums, count * sizeof *scores);
}

static void all_scores(const fb_truth_problem *p, const task *t, const workspace *w) {
    size_t stride = p->kv_heads * p->head_dim;
    for (size_t first = 0; first < p->keys; first += TILE) {
        size_t count = p->keys - first < TILE ? p->keys - first : TILE;
        const float *k = p->k + first * stride + t->kv_head * p->head_dim;
        memset(w->tile, 0, p->head_dim * TILE * sizeof *w->tile);
        for (size_t j = 0; j < count; j++)
            for (size_t d = 0; d < p->head_dim; d++)
                w->tile[d * TILE + j] = (double)k[j * stride + d];
        for (size_t row = 0; row < t->rows; row++)
            tile_scores(p->q + row_index(p, t->kv_head, t->first + row) * p->head_dim, w->tile,
                        p->head_dim, w->scores + row * p->keys + first, count);
    }
}

/* scores[j] becomes exp(scale * scores[j] - maximum); *lse is the row's. Returns their sum. */
static double softmax(const fb_truth_problem *p, double *scores, double *lse) {
    double max = -(double)INFINITY, sum = 0.0;
    for (size_t j = 0; j < p->keys; j++) {
        scores[j] *= p->scale;
        max = scores[j] > max ? scores[j] : max;
    }
    double subtract = max == -(double)INFINITY ? 0.0 : max;
    for (size_t j = 0; j < p->keys; j++) {
        scores[j] = fb_exp_double(scores[j] - subtract);
        sum += scores[j];
    }
    *lse = sum == 0.0 ? max : max + fb_truth_log(sum);
    return sum;
}

static void add_values(const fb_truth_problem *p, const task *t, const workspace *w, double *out) {
    size_t stride = p->kv_heads * p->head_dim;
    for (size_t first = 0; first < p->keys; first += TILE) {
        size_t count = p->keys - first < TILE ? p->keys - first : TILE;
        const float *v = p->v + first * stride + t->kv_head * p->head_dim;
        for (size_t j = 0; j < count; j++)
            for (size_t d = 0; d < p->head_dim; d++)
                w->tile[j * p->head_dim + d] = (double)v[j * stride + d];
        for (size_t row = 0; row < t->rows; row++) {
            double *sums = out + row_index(p, t->kv_head, t->first + row) * p->head_dim;
            for (size_t j = 0; j < count; j++) {
                double weight = w->scores[row * p->keys + first + j];
                for (size_t d = 0; d < p->head_dim; d++)
                    sums[d] += weight * w->tile[j * p->head_dim + d];
            }
        }
    }
}

static void run_task(const fb_truth_problem *p, const task *t, const workspace *w, double *out,
                     double *lse) {
    double sums[ROWS];
    all_scores(p, t, w);
    for (size_t row = 0; row < t->rows; row++) {
        size_t index = row_index(p, t->kv_head, t->first + row);
        sums[row] = softmax(p, w->scores + row * p->keys, lse + index);
        memset(out + index * p->head_dim, 0, p->head_dim * sizeof *out);
    }
    add_values(p, t, w, out);
    for (size_t row = 0; row < t->rows; row++) {
        double *values = out + row_index(p, t->kv_head, t->first + row) * p->head_dim;
        for (size_t d = 0; d < p->head_dim; d++)
            values[d] = sums[row] == 0.0 ? 0.0 : values[d] / sums[row];
    }
}

static void empty_part(const fb_truth_problem *p, double *out, double *lse) {
    size_t rows = p->queries * p->heads;
    for (size_t i = 0; i < rows * p->head_dim; i++)
        out[i] = 0.0;
    for (size_t i = 0; i < rows; i++)
        lse[i] = -(double)INFINITY;
}

typedef struct truth_call {
    const fb_truth_problem *p;
    size_t rows, tasks_per_head, floats, scores;
    double *memory; /* [threads, floats] */
    double *out, *lse;
} truth_call;

static void run_tasks(void *context, size_t first, size_t end, size_t worker) {
    const truth_call *c = context;
    double *memory = c->memory + worker * c->floats;
    workspace w = {memory, memory + c->scores};
    for (size_t i = first; i < end; i++) {
        size_t row = i % c->tasks_per_head * ROWS;
        task t = {i / c->tasks_per_head, row, c->rows - row < ROWS ? c->rows - row : ROWS};
        run_task(c->p, &t, &w, c->out, c->lse);
    }
}

fb_status fb_truth_attend(const fb_truth_problem *p, double *out, double *lse) {
    if (p->keys == 0 || p->queries == 0) {
        empty_part(p, out, lse);
        return FB_OK;
    }
    size_t rows = p->queries * group_size(p), tasks_per_head = (rows + ROWS - 1) / ROWS;
    size_t num_tasks = tasks_per_head * p->kv_heads, threads = fb_parallel_threads();
    size_t tile = p->head_dim * TILE, scores = 0, floats = 0;
    double *memory = NULL;
    threads = threads < num_tasks ? threads : num_tasks;
    if (!fb_size_mul(p->keys, ROWS, &scores) || !fb_size_add(scores, tile, &floats))
        return fb_fail(FB_ERROR_MEMORY, "%zu keys overflow", p->keys);
    FB_TRY(fb_alloc(floats, threads * sizeof *memory, "attention truth", &memory));
    truth_call call = {p, rows, tasks_per_head, floats, scores, memory, out, lse};
    fb_parallel_for(num_tasks, 1, threads, run_tasks, &call);
    fb_free(memory);
    return FB_OK;
}

void fb_truth_merge(const double *out_a, const double *lse_a, const double *out_b,
                    const double *lse_b, size_t num_rows, size_t head_dim, double *out,
                    double *lse) {
    for (size_t row = 0; row < num_rows; row++) {
        double a = lse_a[row], b = lse_b[row], max = a > b ? a : b;
        bool empty = max == -(double)INFINITY;
        double weight_a = empty ? 0.0 : fb_exp_double(a - max);
        double weight_b = empty ? 0.0 : fb_exp_double(b - max), total = weight_a + weight_b;
        for (size_t i = row * head_dim; i < (row + 1) * head_dim; i++)
            out[i] = empty ? 0.0 : (weight_a * out_a[i] + weight_b * out_b[i]) / total;
        lse[row] = empty ? max : max + fb_truth_log(total);
    }
}
