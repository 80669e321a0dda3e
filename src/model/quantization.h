/* What the files of a model say about quantised weights: which layers are, and in which layout.
 * docs/quantized.md specifies the layouts. */
#ifndef FB_MODEL_QUANTIZATION_H
#define FB_MODEL_QUANTIZATION_H

#include "io/warnings.h"

#include <flashblock/status.h>

#include <stdbool.h>
#include <stddef.h>

typedef enum fb_weight_layout {
    FB_WEIGHT_PLAIN,  /* NAME.weight, in a type of float */
    FB_WEIGHT_INT8,   /* compressed-tensors, int-quantized: NAME.weight as int8 */
    FB_WEIGHT_PACKED, /* compressed-tensors, pack-quantized: NAME.weight_packed */
    FB_WEIGHT_GPTQ,   /* NAME.qweight where there is one, else NAME.weight */
} fb_weight_layout;

typedef enum fb_scale_span {
    FB_SCALE_OF_TENSOR,
    FB_SCALE_OF_ROW,
    FB_SCALE_OF_GROUP, /* group_size columns of a row */
} fb_scale_span;

/* How the weight of one layer is stored. */
typedef struct fb_weight_scheme {
    fb_weight_layout layout;
    size_t bits; /* 8 or 4; 0: the tensors decide (GPTQ) */
    fb_scale_span span;
    size_t group_size; /* 0: the tensors decide (GPTQ) */
    bool symmetric;    /* there are no zero points */
    bool ordered;      /* NAME.weight_g_idx says which group a column is of */
    bool whole_zeros;  /* GPTQ: qzeros hold the zero point, and not the zero point less 1 */
} fb_weight_scheme;

typedef struct fb_quantization fb_quantization;

/* Reads quantization_config (or compression_config) of config.json, or else quantize_config.json.
 * *quantization is NULL when there is none. Methods and formats that cannot be read are
 * FB_ERROR_UNSUPPORTED. */
fb_status fb_quantization_read(const char *directory, fb_warnings *warnings,
                               fb_quantization **quantization);

/* The scheme of a layer by its name ("model.layers.0.mlp.up_proj") and the class of its module
 * ("Linear", "Embedding"). `quantization` may be NULL: nothing is quantised. */
fb_status fb_quantization_scheme(const fb_quantization *quantization, const char *name,
                                 const char *class_name, fb_weight_scheme *scheme);

void fb_quantization_free(fb_quantization *quantization);

#endif
