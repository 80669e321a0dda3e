/* Writes a model's directory anew with weights of 8 or 4 bits, in the layout of compressed-tensors
 * (docs/quantized.md). */
#ifndef FB_MODEL_QUANTIZE_MODEL_H
#define FB_MODEL_QUANTIZE_MODEL_H

#include "io/warnings.h"
#include "model/quantize.h"

#include <flashblock/status.h>

/* Bits that mean: as it is stored. */
enum { FB_BITS_AS_STORED = 16 };

typedef struct fb_quantize_options {
    size_t bits;       /* of linear layers: 8 or 4 */
    size_t group_size; /* columns that share a scale; 0: all of a row */
    bool symmetric;
    fb_quantize_method method;
    size_t embedding_bits, head_bits; /* 8, 4 or FB_BITS_AS_STORED; a scale for each row */
    const bool *layers; /* [num_layers]: decoder layers that are quantised; NULL: all */
    size_t num_layers;  /* of the array */

    /* Called before each tensor, with the number of those that are done. May be NULL. */
    void (*on_tensor)(void *user, size_t done, size_t count, const char *name);
    void *user;
} fb_quantize_options;

typedef struct fb_quantize_result {
    size_t num_layers;                /* of the model */
    size_t num_quantized;             /* matrices */
    size_t bytes_before, bytes_after; /* of all tensors */
    double error;       /* root of the mean square of the quantised weights' errors, relative to
                           that of the weights */
    double worst_error; /* of one matrix */
    char worst[192];    /* its name */
} fb_quantize_result;

/* `directory` is a model of this library that is not quantised; `output` does not exist. It appears
 * whole or not at all. Weights are read, rounded and written a part at a time. Threads change no
 * bit.
 * FB_ERROR_ARGUMENT: options that the model cannot have. FB_ERROR_UNSUPPORTED: it is quantised
 * already. FB_ERROR_FORMAT: a weight is not finite. FB_ERROR_IO. */
fb_status fb_quantize_model(const char *directory, const char *output,
                            const fb_quantize_options *options, fb_quantize_result *result,
                            fb_warnings *warnings);

#endif
