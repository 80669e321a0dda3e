/* Which positions torch.topk chooses on a CPU, ties included. */
#ifndef FB_DECODE_TORCH_TOPK_H
#define FB_DECODE_TORCH_TOPK_H

#include <stdbool.h>
#include <stddef.h>

/* Writes the positions of the `count` largest of value[size] to the front of order[size], where a
 * position that is not `eligible` has the value -inf. Scratch: the rest of `order`.
 *
 * With more to choose than there are eligible positions, ties at -inf decide, and PyTorch decides
 * them by the steps of std::nth_element in libstdc++ (median of three, unguarded partition,
 * insertion sort below four elements); this repeats those steps. (PyTorch sorts the front
 * afterwards; the set is the same. From 64 elements on per chosen one it uses a heap instead,
 * which short blocks never reach.) */
void fb_torch_topk(const float *value, const bool *eligible, size_t size, size_t count,
                   size_t *order);

#endif
