#include "oracle/trajectory_alter.h"

#include "base/error.h"

#include <math.h>
#include <string.h>

static bool is_reuse(const fb_trajectory_trial *t) {
    return t->replay.action == FB_REUSE || t->replay.action == FB_REFRESH_ROWS;
}

/* What was kept before the part that the pass uses: a reuse uses the last one. */
static const fb_trajectory_parts *kept_before(const fb_trajectory_trial *t) {
    return is_reuse(t) ? &t->older : &t->last;
}

bool fb_trajectory_can_alter(const fb_trajectory_alter_call *call) {
    const fb_trajectory_trial *t = call->trial;
    size_t length = fb_kv_cache_length(t->replay.lanes[0].kv);
    if (t->replay.action == FB_REFRESH_ROWS || length == 0)
        return call->alteration == FB_ALTER_INNER_TAIL && length == 0;
    switch (call->alteration) {
    case FB_ALTER_TAIL:
    case FB_ALTER_OWN_TWICE:
        return !is_reuse(t);
    case FB_ALTER_LAST_KEYS:
    case FB_ALTER_FIRST_KEYS:
        return !is_reuse(t) && call->amount < length;
    case FB_ALTER_STALE_LSE:
    case FB_ALTER_STALE_OUT:
        return kept_before(t)->there;
    case FB_ALTER_COMMIT_LSE:
    case FB_ALTER_COMMIT_OUT:
        return t->has_part && !is_reuse(t);
    default:
        return true;
    }
}

/* The external part as the pass uses it, over the keys that the mistake leaves. */
static fb_status take_external(const fb_trajectory_alter_call *call,
                               const fb_attention_event *event, fb_part *part) {
    size_t length = fb_kv_cache_length(event->kv), rows = event->queries->num_queries;
    size_t heads = event->queries->num_heads, dim = event->queries->head_dim;
    if (event->action == FB_REUSE) {
        fb_part kept;
        FB_TRY(
            fb_part_cache_load(event->parts, event->layer, event->kv, FB_COMPAT_RELEASED, &kept));
        memcpy(part->out, kept.out, rows * heads * dim * sizeof *part->out);
        memcpy(part->lse, kept.lse, rows * heads * sizeof *part->lse);
        return FB_OK;
    }
    fb_kv kv;
    FB_TRY(fb_kv_cache_layer(event->kv, event->layer, &kv));
    fb_range keys = {0, length};
    if (call->alteration == FB_ALTER_OWN_TWICE)
        keys.end = length + rows;
    if (call->alteration == FB_ALTER_LAST_KEYS)
        keys.end = length - call->amount;
    if (call->alteration == FB_ALTER_FIRST_KEYS)
        keys.begin = call->amount;
    fb_view view = {&kv, &keys, 1};
    return fb_attend(event->queries, &view, NULL, 0.0f, part);
}

static fb_status take_internal(const fb_attention_event *event, const fb_part *part) {
    fb_kv kv;
    FB_TRY(fb_kv_cache_layer(event->kv, event->layer, &kv));
    size_t length = fb_kv_cache_length(event->kv);
    fb_range keys = {length, length + event->queries->num_queries};
    fb_view view = {&kv, &keys, 1};
    return fb_attend(event->queries, &view, NULL, 0.0f, part);
}

/* A key of zeros has the score 0, and a value of zeros: it adds exp(0) to the sum, nothing to O. */
static void add_zero_keys(const fb_trajectory_alter_call *call, const fb_queries *queries,
                          fb_part *part) {
    size_t heads = queries->num_heads, dim = queries->head_dim;
    for (size_t i = 0; i < queries->num_queries * heads; i++) {
        if (call->head != SIZE_MAX && i % heads != call->head)
            continue;
        double before = (double)part->lse[i], tail = log((double)call->amount);
        double largest = fmax(before, tail);
        double after = largest + log(exp(before - largest) + exp(tail - largest));
        float factor = (float)exp(before - after);
        part->lse[i] = (float)after;
        for (size_t n = 0; n < dim; n++)
            part->out[i * dim + n] *= factor;
    }
}

/* The weights of the external and the internal part. */
static void weigh(fb_trajectory_alteration alteration, double external, double internal, double *a,
                  double *b) {
    double base = alteration == FB_ALTER_BASE_2 ? log(2.0) : 1.0;
    double largest = fmax(external, internal);
    *a = isinf(external) ? 0.0 : exp((external - largest) * base);
    *b = isinf(internal) ? 0.0 : exp((internal - largest) * base);
    double total = *a + *b;
    *a /= total, *b /= total;
    if (alteration == FB_ALTER_SWAPPED) {
        double swapped = *a;
        *a = *b, *b = swapped;
    }
    if (alteration == FB_ALTER_MEAN)
        *a = *b = 0.5;
    if (alteration == FB_ALTER_SUM)
        *a = *b = 1.0;
    if (alteration == FB_ALTER_INNER_ALONE)
        *a = 0.0, *b = 1.0;
}

static void merge(const fb_trajectory_alter_call *call, const fb_queries *queries,
                  const fb_part *external, const fb_part *internal, const fb_part *result) {
    size_t dim = queries->head_dim;
    for (size_t i = 0; i < queries->num_queries * queries->num_heads; i++) {
        double a = 0.0, b = 0.0;
        weigh(call->alteration, (double)external->lse[i], (double)internal->lse[i], &a, &b);
        for (size_t n = i * dim; n < (i + 1) * dim; n++)
            result->out[n] = (float)(a * (double)external->out[n] + b * (double)internal->out[n]);
    }
}

/* O or L of the commit before in place of the part's. */
static fb_status take_of_commit(const fb_trajectory_alter_call *call,
                                const fb_attention_event *event, const fb_part *part) {
    size_t rows = event->queries->num_queries * event->queries->num_heads;
    bool lse = call->alteration == FB_ALTER_COMMIT_LSE;
    fb_part kept;
    if (!lse && call->alteration != FB_ALTER_COMMIT_OUT)
        return FB_OK;
    FB_TRY(fb_part_cache_load(call->trial->of_commit, event->layer, event->kv, FB_COMPAT_RELEASED,
                              &kept));
    if (lse)
        memcpy(part->lse, kept.lse, rows * sizeof *part->lse);
    else
        memcpy(part->out, kept.out, rows * event->queries->head_dim * sizeof *part->out);
    return FB_OK;
}

/* Parts are dense, and so is the result of a forward pass. */
static fb_status alter(const fb_trajectory_alter_call *call, const fb_attention_event *event) {
    fb_trajectory_trial *t = call->trial;
    const fb_queries *q = event->queries;
    size_t rows = q->num_queries * q->num_heads;
    fb_part external = fb_part_rows(t->part_out, t->part_lse, q->num_heads, q->head_dim);
    fb_part internal = fb_part_rows(t->inner_out, t->inner_lse, q->num_heads, q->head_dim);
    FB_TRY(take_external(call, event, &external));
    FB_TRY(take_internal(event, &internal));
    if (call->alteration == FB_ALTER_TAIL)
        add_zero_keys(call, q, &external);
    if (call->alteration == FB_ALTER_INNER_TAIL)
        add_zero_keys(call, q, &internal);
    if (call->alteration == FB_ALTER_STALE_LSE)
        memcpy(external.lse, kept_before(t)->lse + event->layer * rows, rows * sizeof(float));
    if (call->alteration == FB_ALTER_STALE_OUT)
        memcpy(external.out, kept_before(t)->out + event->layer * rows * q->head_dim,
               rows * q->head_dim * sizeof(float));
    FB_TRY(take_of_commit(call, event, &external));
    merge(call, q, &external, &internal, event->result);
    return FB_OK;
}

void fb_trajectory_alter(void *call, const fb_attention_event *event) {
    const fb_trajectory_alter_call *c = call;
    if (c->trial->status == FB_OK)
        c->trial->status = alter(c, event);
}
