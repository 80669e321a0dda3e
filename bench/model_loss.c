/* model_loss TEXT CONTEXT BLOCK WINDOWS [--activations f32] [--kv-dtype TYPE] DIR...: what models
 * of one tokenizer make of a text, for docs/results/quantized.md. --kv-dtype may stand before any
 * DIR, and holds for it and those after it.
 *
 * WINDOWS windows are spread over the text. In each, a block of BLOCK tokens follows CONTEXT true
 * ones; one pass has its even tokens masked, a second one the odd ones. Of the masked tokens a line
 * for each DIR says: the loss (mean of -log p of the true token), and beside the first DIR the mean
 * KL divergence from its probabilities, and how often the most probable token is the same. */
#include <flashblock/flashblock.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_TEXT = 1 << 24 };

typedef struct job {
    size_t context, block, windows;
    bool float_activations;
    fb_dtype kv_dtype;
    int32_t *tokens;
    size_t num_tokens;
    size_t vocab;
    float *first; /* logits of the first model at all masked tokens, in the order of the passes */
} job;

static void stop(const char *what) {
    fprintf(stderr, "model_loss: %s: %s\n", what, fb_error_message());
    exit(1);
}

static void *allocate(size_t bytes) {
    void *memory = malloc(bytes);
    if (!memory)
        stop("memory");
    return memory;
}

static void read_tokens(const char *path, const char *directory, job *j) {
    fb_tokenizer *tokenizer = NULL;
    char *text = allocate(MAX_TEXT);
    FILE *file = fopen(path, "rb");
    if (!file || fb_tokenizer_load(directory, &tokenizer) != FB_OK)
        stop(path);
    size_t size = fread(text, 1, MAX_TEXT, file);
    fclose(file);
    if (fb_tokenizer_encode(tokenizer, text, size, FB_ADDED_SPECIAL_AS_TEXT, &j->tokens,
                            &j->num_tokens) != FB_OK)
        stop(path);
    fb_tokenizer_destroy(tokenizer);
    free(text);
}

static double log_sum(const float *logits, size_t count) {
    double largest = (double)logits[0], sum = 0.0;
    for (size_t i = 1; i < count; i++)
        largest = (double)logits[i] > largest ? (double)logits[i] : largest;
    for (size_t i = 0; i < count; i++)
        sum += exp((double)logits[i] - largest);
    return largest + log(sum);
}

static size_t most_probable(const float *logits, size_t count) {
    size_t best = 0;
    for (size_t i = 1; i < count; i++)
        best = logits[i] > logits[best] ? i : best;
    return best;
}

typedef struct totals {
    double loss, divergence;
    size_t same, count;
} totals;

/* `first` is NULL for the first model. */
static void add(totals *t, const float *logits, const float *first, size_t vocab, int32_t truth) {
    double total = log_sum(logits, vocab);
    t->loss += total - (double)logits[truth];
    t->count++;
    if (!first)
        return;
    double of_first = log_sum(first, vocab);
    for (size_t i = 0; i < vocab; i++) {
        double before = (double)first[i] - of_first, now = (double)logits[i] - total;
        t->divergence += exp(before) * (before - now);
    }
    t->same += most_probable(logits, vocab) == most_probable(first, vocab);
}

static void forward(fb_model *model, fb_kv_cache *kv, const int32_t *tokens, size_t count,
                    size_t prefill, float *logits) {
    fb_forward pass;
    fb_forward_init(&pass);
    pass.tokens = tokens;
    pass.num_tokens = count;
    pass.kv = kv;
    pass.prefill_block = prefill;
    pass.action = FB_REFRESH_ONLY;
    pass.logits = logits;
    if (fb_model_forward(model, &pass, 1, NULL) != FB_OK)
        stop("forward");
}

static void measure(const char *directory, job *j, bool is_first) {
    fb_model_options options;
    fb_model *model = NULL;
    fb_kv_cache *kv = NULL;
    fb_model_options_init(&options);
    options.float_activations = j->float_activations;
    if (fb_model_load_with(directory, &options, &model) != FB_OK)
        stop(directory);
    if (fb_model_new_kv_cache(model, j->kv_dtype, &kv) != FB_OK)
        stop(directory);
    const fb_model_config *config = fb_model_config_of(model);
    size_t vocab = config->vocab_size, needed = j->context + j->block;
    if (j->num_tokens < needed)
        stop("the text is too short");
    if (is_first)
        j->first = allocate(j->windows * j->block * vocab * sizeof *j->first);
    float *logits = allocate(j->block * vocab * sizeof *logits), *kept = j->first;
    int32_t *masked = allocate(j->block * sizeof *masked);
    totals t = {0};
    for (size_t w = 0; w < j->windows; w++) {
        size_t last = j->num_tokens - needed;
        const int32_t *text = j->tokens + (j->windows > 1 ? last * w / (j->windows - 1) : 0);
        fb_kv_cache_truncate(kv, 0);
        if (j->context > 0)
            forward(model, kv, text, j->context, j->block, NULL);
        fb_kv_cache_commit(kv, j->context);
        for (size_t odd = 0; odd < 2; odd++) {
            for (size_t i = 0; i < j->block; i++)
                masked[i] = i % 2 == odd ? config->mask_token_id : text[j->context + i];
            forward(model, kv, masked, j->block, 0, logits);
            for (size_t i = odd; i < j->block; i += 2, kept += vocab) {
                add(&t, logits + i * vocab, is_first ? NULL : kept, vocab, text[j->context + i]);
                if (is_first)
                    memcpy(kept, logits + i * vocab, vocab * sizeof *kept);
            }
        }
    }
    double count = (double)t.count;
    printf("%-40s %-4s  loss %.4f", directory, fb_dtype_name(j->kv_dtype), t.loss / count);
    if (!is_first)
        printf("  KL %.5f  same token %.2f %%", t.divergence / count,
               100.0 * (double)t.same / count);
    printf("  %.1f MB\n", (double)fb_model_num_bytes(model) / 1e6);
    fflush(stdout);
    free(masked);
    free(logits);
    fb_kv_cache_destroy(kv);
    fb_model_destroy(model);
}

int main(int argc, char **argv) {
    job j = {0};
    int at = 5;
    if (argc < 6) {
        fprintf(stderr, "usage: model_loss TEXT CONTEXT BLOCK WINDOWS [--activations f32] "
                        "[--kv-dtype TYPE] DIR...\n");
        return 2;
    }
    j.context = strtoul(argv[2], NULL, 10);
    j.block = strtoul(argv[3], NULL, 10);
    j.windows = strtoul(argv[4], NULL, 10);
    j.float_activations = strcmp(argv[at], "--activations") == 0;
    at += j.float_activations ? 2 : 0;
    if (at >= argc)
        return 2;
    read_tokens(argv[1], argv[argc - 1], &j);
    for (int i = at; i < argc; i++) {
        if (strcmp(argv[i], "--kv-dtype") != 0)
            measure(argv[i], &j, !j.first);
        else if (++i == argc || fb_kv_dtype_parse(argv[i], &j.kv_dtype) != FB_OK)
            stop("--kv-dtype");
    }
    fb_token_ids_free(j.tokens);
    free(j.first);
    return 0;
}
