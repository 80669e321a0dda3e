/* What is done with each field that describes quantised weights. docs/models.md shows the tables; a
 * test compares the two. */
#ifndef FB_MODEL_QUANTIZATION_FIELDS_H
#define FB_MODEL_QUANTIZATION_FIELDS_H

#include "io/fields.h"

/* quantization_config of compressed-tensors, an object of its config_groups, and the objects
 * `weights` and `input_activations` of that. */
extern const fb_field fb_compressed_fields[];
extern const fb_field fb_compressed_group_fields[];
extern const fb_field fb_compressed_weight_fields[];
extern const fb_field fb_compressed_input_fields[];

/* quantization_config of GPTQ, and quantize_config.json. */
extern const fb_field fb_gptq_fields[];

#endif
