/* The decoding loop: blocks, their denoising steps, their commits. */
#include "base/error.h"
#include "base/memory.h"
#include "cache/reference_cache.h"
#include "decode/reference_decode.h"

#include <string.h>

/* Keys and values of all tokens before the current block. */
typedef struct context {
    size_t length, row; /* tokens; floats of one: num_kv_heads * head_dim */
    float *k, *v;       /* [length, num_kv_heads, head_dim] */
} context;

static void append(context *c, const float *k, const float *v, size_t tokens) {
    if (tokens == 0)
        return;
    memcpy(c->k + c->length * c->row, k, tokens * c->row * sizeof *k);
    memcpy(c->v + c->length * c->row, v, tokens * c->row * sizeof *v);
    c->length += tokens;
}

/* One pass over the block: the rule's decision, and the attention that follows from it. */
static fb_status run_pass(const fb_reference_script *s, const fb_reference_step *step,
                          const context *c, fb_reference_cache *cache, fb_reference_pass *pass) {
    fb_queries queries = fb_queries_rows(pass->q, s->block_size, s->num_heads, s->head_dim);
    fb_kv before = fb_kv_rows(FB_F32, c->k, c->v, c->length, s->num_kv_heads, s->head_dim);
    fb_kv block = fb_kv_rows(FB_F32, pass->k, pass->v, s->block_size, s->num_kv_heads, s->head_dim);
    pass->ran = true;
    pass->action = fb_reuse_decide_reference(cache, step);
    return fb_block_attend_reference(cache, pass->action, &queries, &before, &block, s->scale,
                                     pass->out, pass->lse);
}

/* Denoising steps until no token is masked, then the commit, whose keys and values join the
 * context. */
static fb_status decode_block(const fb_reference_script *s, context *c, fb_reference_cache *cache,
                              fb_reference_pass *passes) {
    fb_reference_step step = {
        .limit = s->denoising_steps, .masked = s->block_size, .budget = s->budget};
    cache->dirty = 0;
    for (; step.masked > 0 && step.number < step.limit; step.number++) {
        fb_reference_pass *pass = &passes[step.number];
        FB_TRY(run_pass(s, &step, c, cache, pass));
        fb_reference_cache_accept(cache, pass->action, pass->accepted);
        step.masked -= pass->accepted < step.masked ? pass->accepted : step.masked;
    }
    fb_reference_pass *commit = &passes[s->denoising_steps];
    step.commit = true;
    FB_TRY(run_pass(s, &step, c, cache, commit));
    append(c, commit->k, commit->v, s->block_size);
    return FB_OK;
}

static fb_status decode(const fb_reference_script *s, context *c, fb_reference_cache *cache) {
    append(c, s->prompt_keys, s->prompt_values, s->prompt_length);
    for (size_t i = 0; i < s->num_blocks * (s->denoising_steps + 1); i++)
        s->passes[i].ran = false;
    for (size_t block = 0; block < s->num_blocks; block++)
        FB_TRY(decode_block(s, c, cache, s->passes + block * (s->denoising_steps + 1)));
    return FB_OK;
}

fb_status fb_decode_reference(const fb_reference_script *s) {
    size_t tokens = s->prompt_length + s->num_blocks * s->block_size;
    size_t rows = s->block_size * s->num_heads;
    context c = {.row = s->num_kv_heads * s->head_dim};
    fb_reference_cache cache = {.tau = s->tau};
    fb_status status = fb_alloc(tokens * c.row, sizeof *c.k, "reference keys", &c.k);
    if (status == FB_OK)
        status = fb_alloc(tokens * c.row, sizeof *c.v, "reference values", &c.v);
    if (status == FB_OK)
        status = fb_alloc(rows * s->head_dim, sizeof(double), "reference A_out", &cache.a_out);
    if (status == FB_OK)
        status = fb_alloc(rows, sizeof(double), "reference L_out", &cache.l_out);
    if (status == FB_OK)
        status = decode(s, &c, &cache);
    fb_free(c.k);
    fb_free(c.v);
    fb_free(cache.a_out);
    fb_free(cache.l_out);
    return status;
}
