/* threads MODEL_DIRECTORY: several threads call the library at the same time, each with objects of
 * its own (a tokenizer is shared), and every call is shared among the library's threads again. The
 * bits are those of one thread. A plain program, which the thread sanitizer can run: Criterion does
 * not work under it. */
#include <flashblock/flashblock.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CALLERS = 4, ROUNDS = 3, THREADS = 3 };
enum { CONTEXT = 600, BLOCK = 4, HEADS = 8, KV_HEADS = 2, DIM = 64, STEPS = 4 };
enum { ROWS = BLOCK * HEADS, VALUES = ROWS * DIM, KV_ROW = KV_HEADS * DIM };
enum { TOKENS = 12 };

static const char *directory;
static fb_tokenizer *tokenizer;

/* What a caller has computed. */
typedef struct results {
    float out[(STEPS + 1) * VALUES], lse[(STEPS + 1) * ROWS];
    int32_t tokens[2][TOKENS];
    char text[256];
    char message[256];
} results;

static void check(fb_status status) {
    if (status == FB_OK)
        return;
    fprintf(stderr, "threads: %s\n", fb_error_message());
    exit(1);
}

static void fill(float *values, size_t count, uint32_t seed) {
    for (size_t i = 0; i < count; i++) {
        seed = seed * 1664525u + 1013904223u;
        values[i] = 2.0f * (float)(int32_t)seed * 0x1p-31f;
    }
}

/* A block of a sequence: some steps refresh, others reuse. */
static void attend(results *r) {
    static const fb_kv_cache_config config = {1, KV_HEADS, DIM, FB_BF16};
    fb_kv_cache *kv = NULL;
    fb_part_cache *parts = NULL;
    fb_block_call call;
    float *keys = malloc(2 * CONTEXT * KV_ROW * sizeof *keys), q[VALUES];
    if (!keys)
        exit(1);
    fill(keys, 2 * CONTEXT * KV_ROW, 1);
    check(fb_kv_cache_create(&config, &kv));
    check(fb_part_cache_create(1, BLOCK, HEADS, DIM, &parts));
    check(fb_kv_cache_write(kv, 0, 0, CONTEXT, keys, keys + CONTEXT * KV_ROW));
    check(fb_kv_cache_commit(kv, CONTEXT));
    fb_block_call_init(&call);
    call.kv = kv, call.parts = parts;
    for (size_t step = 0; step <= STEPS; step++) {
        fb_queries queries = fb_queries_rows(q, BLOCK, HEADS, DIM);
        fb_part part = fb_part_rows(r->out + step * VALUES, r->lse + step * ROWS, HEADS, DIM);
        fill(q, VALUES, 2 + (uint32_t)step);
        check(fb_kv_cache_write(kv, 0, CONTEXT, BLOCK, keys + step, keys + 2 * step));
        call.queries = &queries;
        call.action = step % 3 ? FB_REUSE : FB_REFRESH_AND_STORE;
        check(fb_block_attend(&call, &part));
    }
    fb_part_cache_destroy(parts);
    fb_kv_cache_destroy(kv);
    free(keys);
}

static void generate(results *r) {
    static const char prompt[] = "In the beginning God created the heaven and the earth.";
    fb_model *model = NULL;
    fb_generation *generation = NULL;
    fb_generate_options options;
    int32_t *ids = NULL;
    size_t count = 0, length = 0;
    char *text = NULL;
    check(fb_model_load(directory, &model));
    check(
        fb_tokenizer_encode(tokenizer, prompt, sizeof prompt - 1, FB_ADDED_AS_TEXT, &ids, &count));
    const fb_prompt prompts[] = {{ids, count}, {ids, 3}};
    fb_generate_options_init(&options);
    options.max_tokens = TOKENS;
    options.ignore_stop = true;
    options.temperature = 0.7;
    check(fb_generate(model, prompts, 2, &options, &generation));
    for (size_t i = 0; i < 2; i++)
        memcpy(r->tokens[i], fb_generation_result(generation, i)->tokens, sizeof r->tokens[i]);
    check(fb_tokenizer_decode(tokenizer, r->tokens[0], TOKENS, true, &text, &length));
    snprintf(r->text, sizeof r->text, "%s", text);
    fb_text_free(text);
    fb_token_ids_free(ids);
    fb_generation_destroy(generation);
    fb_model_destroy(model);
}

/* The message is the thread's own. */
static void fail(results *r, size_t caller) {
    char path[64], expected[80];
    fb_model *model = NULL;
    snprintf(path, sizeof path, "no-such-directory-%zu", caller);
    snprintf(expected, sizeof expected, "%s:", path);
    if (fb_model_load(path, &model) == FB_OK || !strstr(fb_error_message(), expected))
        snprintf(r->message, sizeof r->message, "'%s' of %s", fb_error_message(), path);
}

typedef struct caller {
    size_t number;
    pthread_t thread;
    results results;
} caller;

static void *call(void *of) {
    caller *c = of;
    for (size_t i = 0; i < ROUNDS; i++) {
        attend(&c->results);
        generate(&c->results);
        fail(&c->results, c->number);
    }
    return NULL;
}

/* A line of TAP. */
static int report(int number, const char *fact, int differing) {
    printf("%s %d - %s\n", differing ? "not ok" : "ok", number, fact);
    return differing;
}

static int compare(const caller *callers, const results *alone) {
    int attention = 0, generation = 0, text = 0, messages = 0;
    for (size_t i = 0; i < CALLERS; i++) {
        const results *r = &callers[i].results;
        attention += memcmp(r->out, alone->out, sizeof r->out) != 0;
        attention += memcmp(r->lse, alone->lse, sizeof r->lse) != 0;
        generation += memcmp(r->tokens, alone->tokens, sizeof r->tokens) != 0;
        text += strcmp(r->text, alone->text) != 0;
        messages += *r->message != '\0';
    }
    puts("1..4");
    return report(1, "attention and reuse have the bits of one thread", attention) +
           report(2, "generation has the tokens of one thread", generation) +
           report(3, "a tokenizer may be shared", text) +
           report(4, "an error message is its thread's own", messages);
}

int main(int argc, char **argv) {
    static caller callers[CALLERS];
    static results alone;
    if (argc != 2) {
        fprintf(stderr, "usage: threads MODEL_DIRECTORY\n");
        return 2;
    }
    directory = argv[1];
    check(fb_tokenizer_load(directory, &tokenizer));
    check(fb_set_num_threads(1));
    attend(&alone);
    generate(&alone);
    check(fb_set_num_threads(THREADS));
    for (size_t i = 0; i < CALLERS; i++) {
        callers[i].number = i;
        if (pthread_create(&callers[i].thread, NULL, call, &callers[i]) != 0)
            return 1;
    }
    for (size_t i = 0; i < CALLERS; i++)
        pthread_join(callers[i].thread, NULL);
    int differing = compare(callers, &alone);
    fb_tokenizer_destroy(tokenizer);
    return differing > 0;
}
