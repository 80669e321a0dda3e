/* config.json of a quantised model. */
#ifndef FB_MODEL_QUANTIZED_CONFIG_H
#define FB_MODEL_QUANTIZED_CONFIG_H

#include "io/buffer.h"

#include <flashblock/status.h>

#include <stdbool.h>

typedef struct fb_quantized_config {
    size_t bits, group_size; /* of linear layers; 0: a row is one group */
    bool symmetric;
    size_t embedding_bits, head_bits; /* 16: not quantised */
    bool unties;                      /* the file has a head of its own now */
    const char *const *ignored;       /* [num_ignored]: layers that are not quantised */
    size_t num_ignored;
} fb_quantized_config;

/* Appends config.json of a directory with quantization_config. */
fb_status fb_quantized_config_make(const char *directory, const fb_quantized_config *config,
                                   fb_buffer *text);

#endif
