/* The weights of a Hugging Face model directory: model.safetensors, or the shards that
 * model.safetensors.index.json names. */
#ifndef FB_IO_CHECKPOINT_H
#define FB_IO_CHECKPOINT_H

#include "io/tensor.h"
#include "io/warnings.h"

#include <stdbool.h>

/* Immutable once open: any number of threads may read one. */
typedef struct fb_checkpoint fb_checkpoint;

/* Maps every file, or reads it into memory if `reads`. FB_ERROR_IO when the directory has neither
 * model.safetensors nor an index, or when a file cannot be read. FB_ERROR_FORMAT when a file is
 * malformed; when the index names a file by more than a plain name, or a tensor that its file
 * lacks; when the index names other files beside a model.safetensors.
 *
 * The tensors are those of all the files, as other loaders have it, also those that the index does
 * not name. Of tensors that hold all experts of a layer, they are views of each expert's
 * (stacked_tensors.h). If two files hold a tensor of one name, the index decides; FB_ERROR_FORMAT
 * when it does not name the tensor. */
fb_status fb_checkpoint_open(const char *directory, bool reads, fb_warnings *warnings,
                             fb_checkpoint **checkpoint);

/* Invalidates every view. NULL is allowed. */
void fb_checkpoint_close(fb_checkpoint *checkpoint);

/* The tensor of this name, in O(log n); NULL when there is none. */
const fb_tensor_view *fb_checkpoint_find(const fb_checkpoint *checkpoint, const char *name);

/* Every tensor, in the order of their names (bytewise); index < count. */
size_t fb_checkpoint_count(const fb_checkpoint *checkpoint);
const fb_tensor_view *fb_checkpoint_at(const fb_checkpoint *checkpoint, size_t index);

/* Bytes of a tensor that are not needed soon leave this process's memory, where they are a mapped
 * file's. Reading them brings them back. */
void fb_checkpoint_release(const fb_checkpoint *checkpoint, const void *data, size_t bytes);

/* The name of a tensor that `name` is a part of, or that is a part of it, with something before it
 * ("module.NAME"); NULL when there is none. */
const char *fb_checkpoint_similar(const fb_checkpoint *checkpoint, const char *name);

/* Warns of tensors that a model does not use. used[0 .. count) are views of fb_checkpoint_find, in
 * any order; they are sorted here. Frequencies of rotary positions that a file repeats
 * (rotary_emb.inv_freq) follow from the configuration, and are not warned of. */
fb_status fb_checkpoint_warn_unused(const fb_checkpoint *checkpoint, const fb_tensor_view **used,
                                    size_t count, fb_warnings *warnings);

#endif
