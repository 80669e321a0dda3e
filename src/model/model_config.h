/* Reading a model's configuration from its Hugging Face directory. */
#ifndef FB_MODEL_MODEL_CONFIG_H
#define FB_MODEL_MODEL_CONFIG_H

#include "io/warnings.h"

#include <flashblock/model.h>

/* config.json, then what generation_config.json and the tokenizer's files say about token ids (see
 * fb_model_config). Everything but `dtype` is set. What the files say and is not used is among the
 * warnings (NULL: nobody wants them). FB_ERROR_IO without config.json, FB_ERROR_FORMAT for a field
 * out of its range or two that contradict each other, FB_ERROR_UNSUPPORTED for another architecture
 * or a feature that this library does not have. */
fb_status fb_model_config_read(const char *directory, fb_model_config *config,
                               fb_warnings *warnings);

/* Whether a layer's MLP is a mixture of experts. */
static inline bool fb_model_config_is_mixture(const fb_model_config *config, size_t layer) {
    return config->num_experts > 0 && layer >= config->num_dense_layers &&
           (layer + 1) % config->decoder_sparse_step == 0;
}

#endif
