#include "base/error.h"
#include "base/memory.h"
#include "model/model_state.h"

/* The widest of the dense MLPs and the shared experts. */
static size_t dense_width(const fb_model_config *config) {
    size_t shared = config->shared_intermediate_size, dense = config->intermediate_size;
    return shared > dense ? shared : dense;
}

/* The arrays of `rows` rows, one after the other from `memory` on, each on a cache line of its own.
 * Returns their size in floats; with memory NULL nothing is set but that. Widths are below 2^24
 * and rows below 2^31 (see model_config.c and forward.c), so no sum overflows. */
static size_t lay_out(const fb_model_config *config, size_t rows, float *memory,
                      fb_activations *activations) {
    size_t q_width = config->num_attention_heads * config->head_dim;
    size_t kv_width = config->num_key_value_heads * config->head_dim;
    size_t hidden = config->hidden_size, middle = dense_width(config);
    struct {
        float **array;
        size_t width;
    } parts[] = {
        {&activations->x, hidden},
        {&activations->normed, hidden},
        {&activations->mixed, config->num_experts > 0 ? hidden : 0},
        {&activations->q, q_width},
        {&activations->attended, q_width},
        {&activations->k, kv_width},
        {&activations->v, kv_width},
        {&activations->gate, middle},
        {&activations->up, middle},
        {&activations->lse, config->num_attention_heads},
        {&activations->cosines, config->rotary_dim / 2},
        {&activations->sines, config->rotary_dim / 2},
    };
    const size_t line = FB_ALIGNMENT / sizeof(float);
    size_t used = 0;
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        if (memory)
            *parts[i].array = memory + used;
        used += (rows * parts[i].width + line - 1) / line * line;
    }
    return used;
}

static fb_status reserve_rows(const fb_model_config *config, size_t num_rows,
                              fb_activations *activations) {
    if (num_rows <= activations->num_rows)
        return FB_OK;
    size_t floats = lay_out(config, num_rows, NULL, activations);
    float *memory = NULL;
    FB_TRY(fb_alloc(floats, sizeof *memory, "activations", &memory));
    fb_free(activations->memory);
    activations->memory = memory;
    activations->num_rows = num_rows;
    lay_out(config, num_rows, memory, activations);
    return FB_OK;
}

fb_status fb_activations_reserve(const fb_model_config *config, size_t num_rows,
                                 size_t num_logit_rows, fb_activations *activations) {
    FB_TRY(reserve_rows(config, num_rows, activations));
    if (num_logit_rows > activations->num_logit_rows) {
        float *logits = NULL;
        FB_TRY(fb_alloc(num_logit_rows * config->vocab_size, sizeof *logits, "logits", &logits));
        fb_free(activations->logits);
        activations->logits = logits;
        activations->num_logit_rows = num_logit_rows;
    }
    return FB_OK;
}

void fb_activations_free(fb_activations *activations) {
    fb_free(activations->memory);
    fb_free(activations->logits);
    *activations = (fb_activations){0};
}
