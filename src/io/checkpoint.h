/* The weights of a Hugging Face model directory: model.safetensors, or the shards that
 * model.safetensors.index.json names. */
#ifndef FB_IO_CHECKPOINT_H
#define FB_IO_CHECKPOINT_H

#include "io/tensor.h"

/* Immutable once open: any number of threads may read one. */
typedef struct fb_checkpoint fb_checkpoint;

/* Maps every shard. FB_ERROR_IO when the directory has neither file, or when one cannot be read.
 * FB_ERROR_FORMAT when it has both, when the name of a shard is not a plain file name, when a shard
 * lacks a tensor that the index places there, or when a shard is malformed. A tensor that the index
 * does not name is not part of the checkpoint. */
fb_status fb_checkpoint_open(const char *directory, fb_checkpoint **checkpoint);

/* Invalidates every view. NULL is allowed. */
void fb_checkpoint_close(fb_checkpoint *checkpoint);

/* The tensor of this name, in O(log n); NULL when there is none. */
const fb_tensor_view *fb_checkpoint_find(const fb_checkpoint *checkpoint, const char *name);

#endif
