/* A loaded model with weights of 8 or 4 bits, rounded from its own: for the time of a forward pass.
 * The model files with such weights are another matter (docs/quantized.md). */
#ifndef FB_BENCH_ROUNDED_WEIGHTS_H
#define FB_BENCH_ROUNDED_WEIGHTS_H

#include "io/buffer.h"
#include "model/model_state.h"

/* What is measured. */
typedef enum fb_weight_bits {
    FB_WEIGHTS_STORED, /* as they are in the file */
    FB_WEIGHTS_8,      /* int8, a scale a row */
    FB_WEIGHTS_4,      /* int4, groups of 128; embedding and head as with 8 bits */
} fb_weight_bits;

/* "stored", "w8", "w4" */
const char *fb_weight_bits_name(fb_weight_bits bits);

/* `parse` of an option whose target is an fb_weight_bits. */
fb_status fb_weight_bits_parse(const char *text, void *bits);

/* Memory of the weights. Starts as {0}. */
typedef struct fb_rounded_weights {
    bool float_activations; /* set by the caller: as in fb_quantized */
    fb_buffer blocks;       /* void * */
} fb_rounded_weights;

/* Replaces the matrices of a model. FB_WEIGHTS_STORED: nothing. The model is destroyed before the
 * memory is freed. */
fb_status fb_rounded_weights_set(fb_model *model, fb_weight_bits bits, fb_rounded_weights *own);
void fb_rounded_weights_free(fb_rounded_weights *own);

#endif
