#include "model/video_attention.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/half.h"
#include "base/memory.h"
#include "base/parallel.h"
#include "base/scratch.h"
#include "model/layers.h"

void fb_round_values(fb_dtype dtype, float *values, size_t count) {
    if (dtype == FB_F32 || dtype == FB_INT8) /* no parts and no activations are of 8 bits */
        return;
    for (size_t i = 0; i < count; i++)
        values[i] = dtype == FB_BF16 ? fb_bf16_to_f32(fb_f32_to_bf16(values[i]))
                                     : fb_f16_to_f32(fb_f32_to_f16(values[i]));
}

/* One call: [tokens, dim] arrays, and the views of each head. */
typedef struct run {
    const fb_video_attention *attention;
    const fb_video_attention_pass *pass;
    size_t tokens, dim;
    float *q, *k, *v, *attended; /* [tokens, dim] */
    float *lse;                  /* [tokens, num_heads] */
    fb_kv *kvs;                  /* [num_heads] */
    fb_view *external, *internal;
} run;

static fb_status lay_out(run *r, void **memory) {
    size_t heads = r->attention->num_heads, values = 0, bytes = 0, views = 0;
    if (!fb_size_mul(r->tokens, r->dim, &values) || !fb_size_mul(values, 5 * sizeof(float), &bytes))
        return fb_fail(FB_ERROR_MEMORY, "a block of %zu x %zu values overflows", r->tokens, r->dim);
    views = heads * (sizeof(fb_kv) + 2 * sizeof(fb_view));
    FB_TRY(fb_scratch_acquire(bytes + views, memory));
    r->kvs = *memory;
    r->external = (fb_view *)(void *)(r->kvs + heads);
    r->internal = r->external + heads;
    r->q = (float *)(void *)(r->internal + heads);
    r->k = r->q + values;
    r->v = r->k + values;
    r->attended = r->v + values;
    r->lse = r->attended + values; /* no wider than dim */
    return FB_OK;
}

typedef struct norm_call {
    const run *r;
    const float *weight;
    float *x;
} norm_call;

static void norm_some_rows(void *context, size_t first, size_t end, size_t worker) {
    const norm_call *c = context;
    size_t dim = c->r->dim;
    (void)worker;
    for (size_t row = first; row < end; row++)
        fb_rms_norm(c->x + row * dim, c->weight, c->r->attention->eps, dim, c->x + row * dim);
}

static void norm_rows(const run *r, const float *weight, float *x) {
    norm_call call = {r, weight, x};
    if (weight)
        fb_parallel_for(r->tokens, 0, r->tokens < 1024 ? 1 : fb_parallel_threads(), norm_some_rows,
                        &call);
}

/* Queries and keys, normalised and with their positions applied. */
static fb_status place(const run *r, const float *weight, float *x) {
    size_t values = r->tokens * r->dim;
    fb_round_values(r->pass->activations, x, values);
    norm_rows(r, weight, x);
    fb_round_values(r->pass->activations, x, values);
    FB_TRY(fb_rope3d_rotate(&r->pass->grid, r->pass->first_frame, r->attention->num_heads,
                            r->attention->head_dim, x));
    fb_round_values(r->pass->activations, x, values);
    return FB_OK;
}

/* One head's kept part: outputs as bf16 where the pass runs in it, LSEs as the released code keeps
 * those of a refresh of all heads. */
static void round_head(const run *r, const fb_part *kept, size_t head, fb_dtype lse_dtype) {
    for (size_t row = 0; row < r->tokens; row++) {
        fb_round_values(r->pass->activations,
                        kept->out + (ptrdiff_t)row * kept->out_token_stride +
                            (ptrdiff_t)head * kept->out_head_stride,
                        r->attention->head_dim);
        fb_round_values(lse_dtype,
                        kept->lse + (ptrdiff_t)row * kept->lse_token_stride +
                            (ptrdiff_t)head * kept->lse_head_stride,
                        1);
    }
}

static fb_status round_kept(const run *r) {
    const fb_video_attention_pass *pass = r->pass;
    const fb_video_cache_config *cache = fb_video_cache_config_of(pass->cache);
    fb_dtype lse_dtype = FB_F32;
    if (cache->compat == FB_COMPAT_RELEASED && !pass->refresh)
        lse_dtype = pass->activations != FB_F32 ? pass->activations : cache->dtype;
    if (!pass->parts || (pass->activations == FB_F32 && lse_dtype == FB_F32))
        return FB_OK;
    fb_part kept;
    FB_TRY(fb_part_cache_layer(pass->parts, pass->layer, &kept));
    for (size_t head = 0; head < r->attention->num_heads; head++)
        if (!pass->refresh || pass->refresh[head])
            round_head(r, &kept, head, lse_dtype);
    return FB_OK;
}

static fb_status attend(const run *r) {
    const fb_video_attention_pass *pass = r->pass;
    size_t heads = r->attention->num_heads, head_dim = r->attention->head_dim;
    double start = fb_seconds();
    fb_queries queries = fb_queries_rows(r->q, r->tokens, heads, head_dim);
    fb_part result = fb_part_rows(r->attended, r->lse, heads, head_dim);
    FB_TRY(fb_video_cache_views(pass->cache, pass->layer, r->kvs, r->external, r->internal));
    bool history = fb_video_cache_has_history(pass->cache);
    fb_block_heads views = {.external = r->external,
                            .internal = r->internal,
                            .num_kv_heads = heads,
                            .context = fb_video_cache_context(pass->cache),
                            .refresh = history ? pass->refresh : NULL,
                            .internal_part = pass->internal};
    fb_block_call call;
    fb_block_call_init(&call);
    call.queries = &queries;
    call.layer = pass->layer;
    call.action = views.refresh            ? FB_REFRESH_HEADS
                  : history && pass->parts ? FB_REFRESH_AND_STORE
                                           : FB_REFRESH_ONLY;
    call.parts = pass->parts;
    call.heads = &views;
    FB_TRY(fb_block_attend(&call, &result));
    if (pass->seconds)
        *pass->seconds += fb_seconds() - start;
    return history ? round_kept(r) : FB_OK;
}

static fb_status run_layer(run *r, fb_linear_scratch *linear, const float *x, float *out) {
    const fb_video_attention *a = r->attention;
    size_t values = r->tokens * r->dim;
    fb_linear_input input = {x, r->tokens};
    fb_linear_output qkv[] = {{&a->q, r->q}, {&a->k, r->k}, {&a->v, r->v}};
    FB_TRY(fb_linear(linear, &input, qkv, 3));
    fb_round_values(r->pass->activations, r->v, values);
    FB_TRY(place(r, a->norm_q, r->q));
    FB_TRY(place(r, a->norm_k, r->k));
    FB_TRY(fb_video_cache_write(r->pass->cache, r->pass->layer, r->k, r->v));
    FB_TRY(attend(r));
    fb_round_values(r->pass->activations, r->attended, values);
    fb_linear_input merged = {r->attended, r->tokens};
    fb_linear_output o = {&a->o, out};
    FB_TRY(fb_linear(linear, &merged, &o, 1));
    fb_round_values(r->pass->activations, out, values);
    return FB_OK;
}

fb_status fb_video_attention_run(const fb_video_attention *attention,
                                 const fb_video_attention_pass *pass, fb_linear_scratch *linear,
                                 const float *x, float *out) {
    run r = {.attention = attention,
             .pass = pass,
             .tokens = pass->grid.frames * pass->grid.rows * pass->grid.columns,
             .dim = attention->num_heads * attention->head_dim};
    void *memory = NULL;
    FB_TRY(lay_out(&r, &memory));
    fb_status status = run_layer(&r, linear, x, out);
    fb_scratch_release(memory);
    return status;
}
