/* A model directory: loaded, one pass over a block, and some generated tokens. Parts: config.json,
 * model.safetensors, generation_config.json, tokenizer_config.json, tokenizer.json. */
#include "tests/fuzz/fuzz.h"

#include <flashblock/flashblock.h>

#include <stdlib.h>

enum { PARTS = 5, TOKENS = 4, MAX_BLOCK = 64 };

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
    return fuzz_mutate_parts(data, size, max_size, seed, PARTS);
}

static const char *const names[PARTS] = {
    "model/config.json",           "model/model.safetensors", "model/generation_config.json",
    "model/tokenizer_config.json", "model/tokenizer.json",
};

/* The files are small, and so is a model that they hold: what is computed is bounded by them. */
static void pass(fb_model *model, fb_dtype kv_dtype) {
    const fb_model_config *config = fb_model_config_of(model);
    int32_t tokens[TOKENS];
    fb_kv_cache *kv = NULL;
    fb_forward forward;
    for (size_t i = 0; i < TOKENS; i++)
        tokens[i] = (int32_t)((i * 7 + 1) % config->vocab_size);
    if (fb_model_new_kv_cache(model, kv_dtype, &kv) != FB_OK)
        return;
    fb_forward_init(&forward);
    forward.tokens = tokens;
    forward.num_tokens = TOKENS;
    forward.kv = kv;
    forward.logits = malloc(TOKENS * config->vocab_size * sizeof *forward.logits);
    if (forward.logits)
        fb_model_forward(model, &forward, 1, NULL);
    free(forward.logits);
    fb_kv_cache_destroy(kv);
}

static void generate(fb_model *model, fb_dtype kv_dtype) {
    const int32_t tokens[] = {1, 2, 0, 1, 2};
    const fb_prompt prompts[] = {{tokens, 5}, {tokens, 0}};
    fb_generate_options options;
    fb_generation *generation = NULL;
    fb_generate_options_init(&options);
    options.max_tokens = 6;
    options.kv_dtype = kv_dtype;
    if (fb_model_config_of(model)->block_size > MAX_BLOCK)
        options.block_size = MAX_BLOCK; /* there are as many steps, and none is bounded otherwise */
    if (fb_generate(model, prompts, 2, &options, &generation) == FB_OK)
        fb_generation_destroy(generation);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz_part parts[PARTS];
    fb_model *model = NULL;
    fb_dtype kv_dtype;
    fuzz_split(data, size, parts, PARTS);
    for (size_t i = 0; i < PARTS; i++)
        fuzz_write(names[i], parts[i]);
    if (fb_model_load(fuzz_path("model"), &model) != FB_OK)
        return 0;
    kv_dtype = size % 2 ? FB_BF16 : FB_INT8;
    pass(model, kv_dtype);
    generate(model, kv_dtype);
    fb_model_destroy(model);
    return 0;
}
