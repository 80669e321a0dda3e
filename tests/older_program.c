/* A program that was compiled against older headers, in which option structs were shorter
 * (test_install.sh makes them from the installed ones), and runs with the present library.
 *
 * Every struct lies before bytes of 0xff: a library that reads or writes more than the program has
 * crashes, or is found out. Prints the sizes of the structs.
 *
 *     older_program MODEL_DIRECTORY */
#include <flashblock/flashblock.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { GUARD_BYTES = 256, BLOCK = 4, DIM = 16, CONTEXT = 8, TOKENS = 8, NEW_TOKENS = 6 };

static void require(int holds, const char *what) {
    if (holds)
        return;
    fprintf(stderr, "%s (%s)\n", what, fb_error_message());
    exit(1);
}

/* `size` bytes for a struct, and the guard. */
static void *guarded(size_t size) {
    unsigned char *memory = malloc(size + GUARD_BYTES);
    require(memory != NULL, "memory");
    memset(memory, 0xff, size + GUARD_BYTES);
    return memory;
}

static void check_guard(const void *memory, size_t size) {
    for (size_t i = 0; i < GUARD_BYTES; i++)
        require(((const unsigned char *)memory)[size + i] == 0xff, "bytes after a struct changed");
}

/* A reuse of what was just stored is the refresh. */
static void attend(void) {
    static float k[(CONTEXT + BLOCK) * DIM], v[(CONTEXT + BLOCK) * DIM], q[BLOCK * DIM];
    static float out[2][BLOCK * DIM], lse[2][BLOCK];
    for (int i = 0; i < (CONTEXT + BLOCK) * DIM; i++)
        k[i] = sinf((float)i), v[i] = cosf((float)i);
    for (int i = 0; i < BLOCK * DIM; i++)
        q[i] = sinf(0.5f * (float)i);
    const fb_kv_cache_config config = {1, 1, DIM, FB_F32};
    const fb_queries queries = fb_queries_rows(q, BLOCK, 1, DIM);
    fb_kv_cache *kv = NULL;
    fb_part_cache *parts = NULL;
    require(fb_kv_cache_create(&config, &kv) == FB_OK, "kv cache");
    require(fb_kv_cache_write(kv, 0, 0, CONTEXT + BLOCK, k, v) == FB_OK, "write");
    require(fb_kv_cache_commit(kv, CONTEXT) == FB_OK, "commit");
    require(fb_part_cache_create(1, BLOCK, 1, DIM, &parts) == FB_OK, "part cache");
    fb_block_call *call = guarded(sizeof *call);
    fb_block_call_init(call);
    call->queries = &queries;
    call->kv = kv;
    call->parts = parts;
    for (int i = 0; i < 2; i++) {
        fb_part part = fb_part_rows(out[i], lse[i], 1, DIM);
        call->action = i == 0 ? FB_REFRESH_AND_STORE : FB_REUSE;
        require(fb_block_attend(call, &part) == FB_OK, "fb_block_attend");
    }
    check_guard(call, sizeof *call);
    require(memcmp(out[0], out[1], sizeof out[0]) == 0, "a reuse differs from its refresh");
    free(call);
    fb_part_cache_destroy(parts);
    fb_kv_cache_destroy(kv);
}

/* Two sequences in one array, the same tokens: the same logits. */
static void forward(fb_model *model) {
    static const int32_t tokens[TOKENS] = {1, 2, 3, 4, 5, 6, 7, 8};
    size_t vocab = fb_model_config_of(model)->vocab_size;
    float *logits = calloc(2 * TOKENS * vocab, sizeof *logits);
    fb_forward *sequences = guarded(2 * sizeof *sequences);
    fb_kv_cache *kv[2] = {NULL, NULL};
    for (int i = 0; i < 2; i++) {
        require(fb_model_new_kv_cache(model, FB_F32, &kv[i]) == FB_OK, "kv cache");
        fb_forward_init(&sequences[i]);
        sequences[i].tokens = tokens;
        sequences[i].num_tokens = TOKENS;
        sequences[i].kv = kv[i];
        sequences[i].action = FB_REFRESH_ONLY;
        sequences[i].logits = logits + (size_t)i * TOKENS * vocab;
    }
    require(fb_model_forward(model, sequences, 2, NULL) == FB_OK, "fb_model_forward");
    check_guard(sequences, 2 * sizeof *sequences);
    require(memcmp(logits, logits + TOKENS * vocab, TOKENS * vocab * sizeof *logits) == 0,
            "two equal sequences differ");
    require(isfinite(logits[0]) && logits[0] != 0.0f, "no logits");
    fb_kv_cache_destroy(kv[0]);
    fb_kv_cache_destroy(kv[1]);
    free(sequences);
    free(logits);
}

static void generate(fb_model *model) {
    static const int32_t ids[] = {10, 11, 12, 13, 14};
    const fb_prompt prompt = {ids, 5};
    fb_generate_options *options = guarded(sizeof *options);
    fb_generation *generation = NULL;
    fb_generate_options_init(options);
    options->max_tokens = NEW_TOKENS;
    options->ignore_stop = true;
    require(fb_generate(model, &prompt, 1, options, &generation) == FB_OK, "fb_generate");
    check_guard(options, sizeof *options);
    require(fb_generation_result(generation, 0)->num_tokens == NEW_TOKENS, "too few tokens");
    fb_generation_destroy(generation);
    free(options);
}

int main(int argc, char **argv) {
    fb_model *model = NULL;
    require(argc == 2, "usage: older_program MODEL_DIRECTORY");
    require(fb_model_load(argv[1], &model) == FB_OK, "fb_model_load");
    attend();
    forward(model);
    generate(model);
    fb_model_destroy(model);
    printf("%zu %zu %zu\n", sizeof(fb_block_call), sizeof(fb_forward), sizeof(fb_generate_options));
    return 0;
}
