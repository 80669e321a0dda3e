/* Tensors that hold the weights of all experts of a layer, as views of each expert's.
 *
 * Published files have a tensor for each matrix of each expert. The state of transformers 5, and
 * what some trainers save, has the experts stacked:
 *
 *     PREFIX.experts.gate_up_proj   [num_experts, 2 * width, hidden]  rows of gate_proj, then of
 * up_proj PREFIX.experts.gate_proj      [num_experts, width, hidden]      or these two
 *     PREFIX.experts.up_proj        [num_experts, width, hidden]
 *     PREFIX.experts.down_proj      [num_experts, hidden, width]
 *
 * Their views are called as published files call the tensors: PREFIX.experts.N.gate_proj.weight. */
#ifndef FB_IO_STACKED_TENSORS_H
#define FB_IO_STACKED_TENSORS_H

#include "io/tensor.h"

#include <stdbool.h>

/* How many views the tensor becomes; 0: it is not stacked, and stays as it is. So do tensors of no
 * elements, or of more than 4096 experts, or of less than 16 elements each: no model has these, and
 * their names would take more memory than the file. */
size_t fb_stacked_count(const fb_tensor_view *tensor);

/* Bytes of a view's name. */
size_t fb_stacked_name_size(const fb_tensor_view *tensor);

/* Fills in views[0 .. fb_stacked_count). names: fb_stacked_name_size bytes for each, which the
 * views borrow. */
void fb_stacked_split(const fb_tensor_view *tensor, fb_tensor_view *views, char *names);

#endif
