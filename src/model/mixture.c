#include "model/mixture.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/memory.h"
#include "base/parallel.h"
#include "model/layers.h"
#include "simd/kernels.h"

#include <math.h>
#include <string.h>

/* --- buffers ---------------------------------------------------------------------------------- */

/* Arrays one after the other, each on cache lines of its own. */
static float *take(float **memory, size_t count, size_t *used) {
    const size_t line = FB_ALIGNMENT / sizeof(float);
    float *array = *memory ? *memory + *used : NULL;
    *used += (count + line - 1) / line * line;
    return array;
}

/* Sets the arrays of floats, or with memory NULL counts them. */
static size_t lay_out(fb_mixture *m, const fb_model_config *config, size_t rows, float *memory) {
    size_t experts = config->num_experts, chosen = rows * config->num_experts_per_tok, used = 0;
    m->logits = take(&memory, rows * experts, &used);
    m->weights = take(&memory, chosen, &used);
    m->scores = take(&memory, rows * 3 * experts, &used);
    m->inputs = take(&memory, chosen * config->hidden_size, &used);
    m->gate = take(&memory, chosen * config->moe_intermediate_size, &used);
    m->up = take(&memory, chosen * config->moe_intermediate_size, &used);
    return used;
}

static fb_status reserve_floats(fb_mixture *m, const fb_model_config *config, size_t rows) {
    size_t floats = lay_out(m, config, rows, NULL);
    if (floats > m->num_floats) {
        fb_free(m->memory);
        m->memory = NULL;
        m->num_floats = 0;
        FB_TRY(fb_alloc(floats, sizeof *m->memory, "rows of experts", &m->memory));
        m->num_floats = floats;
    }
    lay_out(m, config, rows, m->memory);
    return FB_OK;
}

static fb_status reserve_places(fb_mixture *m, const fb_model_config *config, size_t rows) {
    size_t chosen = rows * config->num_experts_per_tok, experts = config->num_experts;
    size_t places = chosen + 2 * experts + 1;
    if (places > m->num_places) {
        fb_free(m->places);
        m->places = NULL;
        m->num_places = 0;
        FB_TRY(fb_alloc(places, sizeof *m->places, "places of rows", &m->places));
        m->num_places = places;
    }
    if (chosen > m->num_chosen) {
        fb_free(m->chosen);
        m->chosen = NULL;
        m->num_chosen = 0;
        FB_TRY(fb_alloc(chosen, sizeof *m->chosen, "chosen experts", &m->chosen));
        m->num_chosen = chosen;
    }
    if (rows * 2 * experts > m->num_left_out) {
        fb_free(m->left_out);
        m->left_out = NULL;
        m->num_left_out = 0;
        FB_TRY(fb_alloc(rows * 2 * experts, sizeof *m->left_out, "experts", &m->left_out));
        m->num_left_out = rows * 2 * experts;
    }
    m->first = m->places;
    m->active = m->first + experts + 1;
    m->place = m->active + experts;
    return FB_OK;
}

static fb_status reserve_workers(fb_mixture *m, size_t threads) {
    if (threads <= m->num_workers)
        return FB_OK;
    fb_expert_worker *workers = NULL;
    FB_TRY(fb_alloc_zeroed(threads, sizeof *workers, "experts' work areas", &workers));
    if (m->num_workers > 0)
        memcpy(workers, m->workers, m->num_workers * sizeof *workers);
    fb_free(m->workers);
    m->workers = workers;
    m->num_workers = threads;
    return FB_OK;
}

void fb_mixture_free(fb_mixture *mixture) {
    for (size_t i = 0; i < mixture->num_workers; i++)
        fb_linear_scratch_free(&mixture->workers[i].linear);
    fb_free(mixture->workers);
    fb_free(mixture->memory);
    fb_free(mixture->places);
    fb_free(mixture->chosen);
    fb_free(mixture->left_out);
    *mixture = (fb_mixture){0};
}

/* One call, and the buffers. */
typedef struct run {
    fb_mixture *m;
    const fb_mixture_call *call;
    const fb_model_config *config;
    size_t chosen; /* experts of a row */
    size_t hidden, width;
} run;

/* Threads for work on `values` floats: for few of them, waking others costs more. */
static size_t threads_for(size_t values) {
    return values < 1 << 15 ? 1 : fb_parallel_threads();
}

/* --- the router ------------------------------------------------------------------------------- */

/* The index of the largest score that is not left out, the first of equal ones. A NaN is below
 * everything. At least one is not left out. */
static size_t largest(const float *scores, const bool *left_out, size_t count) {
    size_t best = count;
    for (size_t i = 0; i < count; i++) {
        if (left_out[i])
            continue;
        bool above =
            best == count || scores[i] > scores[best] || (isnan(scores[best]) && !isnan(scores[i]));
        best = above ? i : best;
    }
    return best;
}

/* The sum of a group's two largest scores; none of them is left out. */
static float group_score(const float *scores, bool *left_out, size_t count) {
    size_t first = largest(scores, left_out, count);
    left_out[first] = true;
    size_t second = largest(scores, left_out, count);
    left_out[first] = false;
    return scores[first] + scores[second];
}

/* Leaves out the experts of all groups but the best ones. `groups` and `groups_taken` are scratch.
 */
static void keep_best_groups(const fb_model_config *config, const float *scores, bool *left_out,
                             float *groups, bool *groups_taken) {
    size_t count = config->num_expert_groups, of_group = config->num_experts / count;
    for (size_t g = 0; g < count; g++) {
        groups[g] = group_score(scores + g * of_group, left_out + g * of_group, of_group);
        groups_taken[g] = false;
    }
    for (size_t kept = 0; kept < config->num_chosen_groups; kept++)
        groups_taken[largest(groups, groups_taken, count)] = true;
    for (size_t i = 0; i < config->num_experts; i++)
        left_out[i] = !groups_taken[i / of_group];
}

/* The weights of a row's chosen experts from their probabilities, in place. */
static void scale_weights(const fb_model_config *config, float *weights) {
    bool sigmoid = config->router == FB_ROUTER_SIGMOID;
    size_t count = config->num_experts_per_tok;
    float sum = 0.0f;
    for (size_t i = 0; i < count; i++)
        sum += weights[i];
    if (sigmoid ? count > 1 : config->norm_topk_prob)
        for (size_t i = 0; i < count; i++)
            weights[i] = weights[i] / (sigmoid ? sum + 1e-20f : sum);
    if (sigmoid)
        for (size_t i = 0; i < count; i++)
            weights[i] *= (float)config->routed_scaling_factor;
}

static void route_row(const run *r, size_t row) {
    const fb_model_config *config = r->config;
    size_t experts = config->num_experts;
    float *scores = r->m->scores + row * 3 * experts, *p = scores + experts;
    bool *left_out = r->m->left_out + row * 2 * experts;
    const float *z = r->m->logits + row * experts, *bias = r->call->layer->router_bias;
    if (config->router == FB_ROUTER_SIGMOID)
        fb_sigmoid(r->call->kernels, z, experts, p);
    else
        fb_softmax(r->call->kernels, z, experts, p);
    for (size_t i = 0; i < experts; i++) {
        scores[i] = bias ? p[i] + bias[i] : p[i];
        left_out[i] = false;
    }
    if (config->num_expert_groups > 1) {
        keep_best_groups(config, scores, left_out, p + experts, left_out + experts);
    }
    for (size_t i = 0; i < r->chosen; i++) {
        size_t best = largest(scores, left_out, experts);
        left_out[best] = true;
        r->m->chosen[row * r->chosen + i] = (int32_t)best;
        r->m->weights[row * r->chosen + i] = p[best];
    }
    scale_weights(config, r->m->weights + row * r->chosen);
}

static void route_rows(void *context, size_t first, size_t end, size_t worker) {
    (void)worker;
    for (size_t row = first; row < end; row++)
        route_row(context, row);
}

/* --- rows to experts, and back ---------------------------------------------------------------- */

/* Sorts the chosen (row, expert) pairs by expert; rows of an expert stay in order. */
static void sort_rows(run *r) {
    fb_mixture *m = r->m;
    size_t experts = r->config->num_experts, pairs = r->call->num_rows * r->chosen;
    memset(m->first, 0, (experts + 1) * sizeof *m->first);
    for (size_t i = 0; i < pairs; i++)
        m->first[m->chosen[i] + 1]++;
    m->num_active = 0;
    for (size_t e = 0; e < experts; e++) {
        if (m->first[e + 1] > 0)
            m->active[m->num_active++] = e;
        m->first[e + 1] += m->first[e];
    }
    for (size_t i = 0; i < pairs; i++)
        m->place[i] = m->first[m->chosen[i]]++;
    for (size_t e = experts; e > 0; e--) /* they moved to the ends, which are the next ones */
        m->first[e] = m->first[e - 1];
    m->first[0] = 0;
}

static void gather_rows(void *context, size_t first, size_t end, size_t worker) {
    const run *r = context;
    (void)worker;
    for (size_t row = first; row < end; row++)
        for (size_t i = 0; i < r->chosen; i++)
            memcpy(r->m->inputs + r->m->place[row * r->chosen + i] * r->hidden,
                   r->call->x + row * r->hidden, r->hidden * sizeof(float));
}

/* y = sum of weight_e expert_e(x), the best expert first. */
static void combine_rows(void *context, size_t first, size_t end, size_t worker) {
    const run *r = context;
    (void)worker;
    for (size_t row = first; row < end; row++) {
        float *y = r->call->y + row * r->hidden;
        for (size_t i = 0; i < r->chosen; i++) {
            float weight = r->m->weights[row * r->chosen + i];
            const float *out = r->m->inputs + r->m->place[row * r->chosen + i] * r->hidden;
            for (size_t j = 0; j < r->hidden; j++)
                y[j] = i == 0 ? weight * out[j] : y[j] + weight * out[j];
        }
        fb_round_significand(r->call->significand_bits, y, r->hidden);
    }
}

/* --- experts ---------------------------------------------------------------------------------- */

/* Its outputs take the place of its inputs. */
static fb_status run_expert(const run *r, size_t expert, fb_linear_scratch *linear) {
    fb_mixture *m = r->m;
    size_t first = m->first[expert], rows = m->first[expert + 1] - first;
    const fb_mlp_weights *mlp = &r->call->layer->experts[expert];
    float *x = m->inputs + first * r->hidden;
    float *gate = m->gate + first * r->width, *up = m->up + first * r->width;
    int bits = r->call->significand_bits;
    fb_linear_output gate_up[] = {{&mlp->gate, gate}, {&mlp->up, up}};
    FB_TRY(fb_linear(linear, &(fb_linear_input){x, rows}, gate_up, 2));
    fb_round_significand(bits, gate, rows * r->width);
    fb_round_significand(bits, up, rows * r->width);
    fb_swiglu(r->call->kernels, gate, up, rows * r->width);
    fb_round_significand(bits, gate, rows * r->width);
    fb_linear_output down = {&mlp->down, x};
    FB_TRY(fb_linear(linear, &(fb_linear_input){gate, rows}, &down, 1));
    fb_round_significand(bits, x, rows * r->hidden);
    return FB_OK;
}

static void run_some_experts(void *context, size_t first, size_t end, size_t worker) {
    run *r = context;
    for (size_t i = first; i < end; i++)
        if (run_expert(r, r->m->active[i], &r->m->workers[worker].linear) != FB_OK)
            r->m->workers[worker].failed = true;
}

/* Experts in parallel, where there are enough of them to keep all threads busy; otherwise one after
 * the other, each on all threads. */
static fb_status run_experts(run *r) {
    fb_mixture *m = r->m;
    size_t threads = fb_parallel_threads();
    if (threads == 1 || m->num_active < 2 * threads) {
        for (size_t i = 0; i < m->num_active; i++)
            FB_TRY(run_expert(r, m->active[i], r->call->linear));
        return FB_OK;
    }
    FB_TRY(reserve_workers(m, threads));
    for (size_t i = 0; i < m->num_workers; i++)
        m->workers[i].failed = false;
    fb_parallel_for(m->num_active, 1, threads, run_some_experts, r);
    for (size_t i = 0; i < m->num_workers; i++)
        if (m->workers[i].failed)
            return fb_fail(FB_ERROR_MEMORY, "rows of experts: out of memory");
    return FB_OK;
}

static void count_experts(const run *r) {
    for (size_t i = 0; i < r->m->num_active; i++) {
        const fb_mlp_weights *mlp = &r->call->layer->experts[r->m->active[i]];
        r->m->bytes_read += (double)(fb_matrix_bytes(&mlp->gate) + fb_matrix_bytes(&mlp->up) +
                                     fb_matrix_bytes(&mlp->down));
    }
    r->m->experts_read += (double)r->m->num_active;
}

fb_status fb_mixture_run(fb_mixture *mixture, const fb_mixture_call *call) {
    const fb_model_config *config = call->config;
    run r = {.m = mixture,
             .call = call,
             .config = config,
             .chosen = config->num_experts_per_tok,
             .hidden = config->hidden_size,
             .width = config->moe_intermediate_size};
    FB_TRY(reserve_floats(mixture, config, call->num_rows));
    FB_TRY(reserve_places(mixture, config, call->num_rows));
    size_t threads = threads_for(call->num_rows * r.chosen * r.hidden);
    double start = fb_seconds();
    fb_linear_output router = {&call->layer->router, mixture->logits};
    FB_TRY(fb_linear(call->linear, &(fb_linear_input){call->x, call->num_rows}, &router, 1));
    double routed = fb_seconds();
    fb_parallel_for(call->num_rows, 0, threads_for(call->num_rows * config->num_experts * r.chosen),
                    route_rows, &r);
    sort_rows(&r);
    fb_parallel_for(call->num_rows, 0, threads, gather_rows, &r);
    double gathered = fb_seconds();
    FB_TRY(run_experts(&r));
    double done = fb_seconds();
    fb_parallel_for(call->num_rows, 0, threads, combine_rows, &r);
    count_experts(&r);
    *call->linear_seconds += (routed - start) + (done - gathered);
    *call->routing_seconds += (gathered - routed) + (fb_seconds() - done);
    return FB_OK;
}
