/* Models of the shapes of published ones, with random weights, for the time of a forward pass.
 *
 * All matrices are slices of one piece of memory of a gigabyte, one after the other and again from
 * its beginning: it is much larger than any cache, so that reading weights takes as long as with
 * memory of their own, and models fit that would not. */
#ifndef FB_BENCH_LIKE_MODEL_H
#define FB_BENCH_LIKE_MODEL_H

#include "bench/rounded_weights.h"

#include <flashblock/model.h>

/* Starts as {0}. */
typedef struct fb_like_model {
    bool float_activations; /* set by the caller: as in fb_quantized */
    void *memory;           /* of the matrices */
    size_t size, next;
    float *scales;    /* of quantised matrices, all the same */
    fb_buffer blocks; /* void *: fb_quantized */
} fb_like_model;

/* "llada2-mini, llada2-flash, ..." */
const char *fb_like_model_names(void);

/* `layers` in place of the published number; 0: that number. FB_WEIGHTS_STORED is bf16. The caller
 * destroys *model before the memory is freed. FB_ERROR_ARGUMENT for another name. */
fb_status fb_like_model_create(const char *name, size_t layers, fb_weight_bits bits,
                               fb_like_model *like, fb_model **model);
void fb_like_model_free(fb_like_model *like);

#endif
