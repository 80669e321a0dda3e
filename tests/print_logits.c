/* print_logits DIR TOKEN...: the logits of one pass over a block of tokens, as a model in DIR gives
 * them with activations in float32: float32 in the machine's order, [tokens, vocabulary], on
 * standard output. Warnings of loading go to standard error. For tests that compute them in another
 * way. */
#include <flashblock/flashblock.h>

#include <stdio.h>
#include <stdlib.h>

enum { MAX_TOKENS = 64 };

static int fail(const char *what) {
    fprintf(stderr, "%s: %s\n", what, fb_error_message());
    return 1;
}

static int print(fb_model *model, const int32_t *tokens, size_t count) {
    size_t size = count * fb_model_config_of(model)->vocab_size;
    fb_kv_cache *kv = NULL;
    fb_forward forward;
    fb_forward_init(&forward);
    forward.tokens = tokens;
    forward.num_tokens = count;
    forward.action = FB_REFRESH_ONLY;
    forward.logits = malloc(size * sizeof *forward.logits);
    int status = 1;
    if (!forward.logits || fb_model_new_kv_cache(model, FB_F32, &kv) != FB_OK)
        fail("memory");
    else if ((forward.kv = kv), fb_model_forward(model, &forward, 1, NULL) != FB_OK)
        fail("forward");
    else
        status = fwrite(forward.logits, sizeof *forward.logits, size, stdout) != size;
    free(forward.logits);
    fb_kv_cache_destroy(kv);
    return status;
}

int main(int argc, char **argv) {
    int32_t tokens[MAX_TOKENS];
    fb_model *model = NULL;
    if (argc < 3 || argc - 2 > MAX_TOKENS)
        return 2;
    for (int i = 2; i < argc; i++)
        tokens[i - 2] = (int32_t)atoi(argv[i]);
    fb_model_options options;
    fb_model_options_init(&options);
    options.float_activations = true;
    if (fb_model_load_with(argv[1], &options, &model) != FB_OK)
        return fail("load");
    for (size_t i = 0; fb_model_warning(model, i); i++)
        fprintf(stderr, "warning: %s\n", fb_model_warning(model, i));
    int status = print(model, tokens, (size_t)argc - 2);
    fb_model_destroy(model);
    return status;
}
