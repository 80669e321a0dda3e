/* Finds the weights of layers in a checkpoint, quantised or not, and checks what is found.
 *
 * Integers stay in the mapped file where kernels can read them there. Where they cannot, they are
 * copied in another order, and weights that no kernel takes become float32 (docs/quantized.md says
 * which). */
#ifndef FB_MODEL_WEIGHT_READER_H
#define FB_MODEL_WEIGHT_READER_H

#include "io/buffer.h"
#include "io/checkpoint.h"
#include "model/linear.h"
#include "model/quantization.h"

/* Starts with the first three members, the others 0. */
typedef struct fb_weight_reader {
    const fb_checkpoint *checkpoint;
    const fb_quantization *quantization; /* NULL: nothing is quantised */
    bool float_activations;              /* of quantised matrices */
    bool only_rows;                      /* of what is found next, rows are looked up */
    fb_buffer used;                      /* the tensors that were found: pointers to views */
    fb_buffer memory;                    /* of matrices: pointers, for fb_weight_memory_free */
    size_t num_parameters;               /* of what was found */
    size_t num_bytes;                    /* of it, as stored */
    size_t num_widened, num_wrapped;     /* for the warnings of fb_weight_reader_warn */
    char first_widened[256], first_wrapped[256];
} fb_weight_reader;

/* A tensor of this name and shape in a type of float. */
fb_status fb_weight_find(fb_weight_reader *reader, const char *name, size_t ndim,
                         const size_t *shape, const fb_tensor_view **tensor);

/* The weight of a layer ("model.layers.0.mlp.up_proj") whose module is of a class ("Linear",
 * "Embedding"). A tensor that is missing, has another shape or type, or a scale that is not finite:
 * an error that names it. */
fb_status fb_weight_find_matrix(fb_weight_reader *reader, const char *layer, const char *class_name,
                                size_t rows, size_t columns, fb_matrix *matrix);

/* Rows first .. first + count - 1 of a matrix that was found, as a matrix. */
fb_status fb_weight_rows(fb_weight_reader *reader, const fb_matrix *matrix, size_t first,
                         size_t count, fb_matrix *rows);

/* Whether the checkpoint has a weight of the layer, in any layout. */
bool fb_weight_exists(const fb_weight_reader *reader, const char *layer);

/* Warns, once for all, of weights that became float32, and of zero points that are read in
 * different ways. */
fb_status fb_weight_reader_warn(const fb_weight_reader *reader, const char *directory,
                                fb_warnings *warnings);

/* Frees `used`, whose views belong to the checkpoint. */
void fb_weight_reader_free(fb_weight_reader *reader);

/* Frees what matrices refer to besides the checkpoint. */
void fb_weight_memory_free(fb_buffer *memory);

#endif
