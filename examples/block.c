/* FlashBlock on a scripted block: one layer, one block of six tokens after 2,000 committed ones, a
 * token accepted at every step. The script stands for the model: the queries, keys and values of
 * a token drift from step to step, and jump once it is accepted. */
#include <flashblock/flashblock.h>

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

enum { CONTEXT = 2000, BLOCK = 6, STEPS = 6, HEADS = 8, KV_HEADS = 2, HEAD_DIM = 64, TAU = 3 };
enum { ROWS = BLOCK * HEADS, VALUES = ROWS * HEAD_DIM, KV_ROW = KV_HEADS * HEAD_DIM };

static void check(fb_status status) {
    if (status == FB_OK)
        return;
    fprintf(stderr, "%s\n", fb_error_message());
    exit(1);
}

/* Adds numbers between -scale and scale that are the same everywhere. */
static void add(float *values, size_t count, float scale, uint32_t seed) {
    for (size_t i = 0; i < count; i++) {
        seed = seed * 1664525u + 1013904223u;
        values[i] += scale * (float)(int32_t)seed * 0x1p-31f;
    }
}

/* The largest difference, in percent of the largest of b. */
static double percent_off(const float *a, const float *b, size_t count) {
    double difference = 0.0, largest = 0.0;
    for (size_t i = 0; i < count; i++) {
        double off = fabs((double)a[i] - (double)b[i]), size = fabs((double)b[i]);
        difference = off > difference ? off : difference;
        largest = size > largest ? size : largest;
    }
    return 100.0 * difference / largest;
}

int main(void) {
    static float context[2][CONTEXT * KV_ROW], q[VALUES], k[BLOCK * KV_ROW], v[BLOCK * KV_ROW];
    static float out[VALUES], lse[ROWS], dense_out[VALUES], dense_lse[ROWS];
    fb_part result = fb_part_rows(out, lse, HEADS, HEAD_DIM);
    static float external_out[VALUES], external_lse[ROWS];
    fb_part external = fb_part_rows(external_out, external_lse, HEADS, HEAD_DIM);
    fb_part dense = fb_part_rows(dense_out, dense_lse, HEADS, HEAD_DIM);
    fb_queries queries = fb_queries_rows(q, BLOCK, HEADS, HEAD_DIM);

    /* The context's keys and values, committed; and a slot for the block's external part. */
    const fb_kv_cache_config config = {1, KV_HEADS, HEAD_DIM, FB_F32};
    fb_kv_cache *kv = NULL;
    fb_part_cache *parts = NULL;
    check(fb_kv_cache_create(&config, &kv));
    check(fb_part_cache_create(1, BLOCK, HEADS, HEAD_DIM, &parts));
    add(context[0], CONTEXT * KV_ROW, 1.5f, 1), add(context[1], CONTEXT * KV_ROW, 1.5f, 2);
    check(fb_kv_cache_write(kv, 0, 0, CONTEXT, context[0], context[1]));
    check(fb_kv_cache_commit(kv, CONTEXT));

    fb_block_call call;
    fb_block_call_init(&call);
    call.queries = &queries, call.kv = kv, call.parts = parts;
    const fb_reuse_policy policy = {.tau = TAU};
    fb_reuse_step step = {.denoising_steps = STEPS, .masked_tokens = BLOCK, .budget = 1};
    add(q, VALUES, 2.0f, 3), add(k, BLOCK * KV_ROW, 7.0f, 4), add(v, BLOCK * KV_ROW, 1.5f, 5);
    printf("tau %d: a step reuses while fewer than %d tokens are dirty\n\n", TAU, TAU);
    printf("pass      dirty  action         keys read  external mass  off dense by\n");
    for (; step.denoising_step <= STEPS; step.denoising_step++) {
        step.commit = step.denoising_step == STEPS;
        fb_reuse_action action = fb_reuse_decide(&policy, &step);
        check(fb_kv_cache_write(kv, 0, CONTEXT, BLOCK, k, v));
        check((call.action = action, fb_block_attend(&call, &result)));
        check((call.action = FB_REFRESH_ONLY, fb_block_attend(&call, &dense)));
        fb_kv keys; /* only for the table: the external part as it would be now */
        const fb_view view = {&keys, &(fb_range){0, CONTEXT}, 1};
        double mass = 0.0;
        check(fb_kv_cache_layer(kv, 0, &keys));
        check(fb_attend(&queries, &view, NULL, 0, &external));
        for (int row = 0; row < ROWS; row++)
            mass += exp((double)(external_lse[row] - dense_lse[row])) / ROWS;
        printf("%-6s %zu  %5zu  %-13s  %9d  %11.1f %%  %10.1f %%\n",
               step.commit ? "commit" : "step", step.denoising_step, step.dirty_tokens,
               fb_reuse_action_name(action), action == FB_REUSE ? BLOCK : CONTEXT + BLOCK,
               100.0 * mass, percent_off(out, dense_out, VALUES));

        /* All tokens drift; the one that this step accepts becomes another. */
        size_t token = step.denoising_step;
        step.dirty_tokens = (action == FB_REUSE ? step.dirty_tokens : 0) + !step.commit;
        step.masked_tokens -= !step.commit;
        add(q, VALUES, 0.1f, 6), add(k, BLOCK * KV_ROW, 0.1f, 7), add(v, BLOCK * KV_ROW, 0.1f, 8);
        if (!step.commit)
            add(q + token * HEADS * HEAD_DIM, HEADS * HEAD_DIM, 1.0f, 9 + (uint32_t)token);
    }
    puts("\nA refresh is dense attention, to the bit. A reuse reads only the block's own keys. Its "
         "error\n"
         "comes from the queries: they have moved since the part was stored.");
    fb_part_cache_destroy(parts);
    fb_kv_cache_destroy(kv);
    return 0;
}
