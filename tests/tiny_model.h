/* Small random models in a Hugging Face directory that belongs to the test, well-formed or with one
 * defect. The same sizes give the same weights, however they are stored. */
#ifndef FB_TESTS_TINY_MODEL_H
#define FB_TESTS_TINY_MODEL_H

#include <flashblock/types.h>

#include <stdbool.h>
#include <stddef.h>

typedef struct tiny_model {
    size_t hidden, middle, layers, heads, kv_heads, head_dim, vocab;
    bool tied, bias;
    bool own_head, copied_head; /* tied, and the file has another head, or the embedding again */
    fb_dtype rounded;           /* values are of this type ... */
    fb_dtype dtype;             /* ... and stored as this one */
    bool misaligned;            /* tensors at odd addresses */
    size_t shards;              /* files; with more than one, an index */
    const char *config;         /* more fields for config.json: ", \"key\": value", or NULL */

    /* Defects: names of tensors, or NULL. */
    const char *missing;
    const char *misshapen; /* one row too few */
    const char *mistyped;  /* I32 */
} tiny_model;

/* Sizes that are not multiples of a panel, in bf16, with work for several threads; and the smallest
 * sizes. */
extern const tiny_model tiny_model_large, tiny_model_small;

/* Writes the model and returns its directory. */
const char *tiny_model_write(const tiny_model *model);

/* Removes the directory of the last tiny_model_write. */
void tiny_model_remove(void);

#endif
