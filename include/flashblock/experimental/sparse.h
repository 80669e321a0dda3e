/* Sparse attention of a block, and residual reuse (FlashBlock, arXiv 2602.05305, section on sparse
 * attention).
 *
 * A query block attends to the key blocks that a selector chose (selector.h), and to itself. The
 * *residual* is the part over the other, unselected keys. Residual reuse keeps it from an earlier
 * step and merges it:
 *
 *     dense     merge(part(external), part(internal))
 *     sparse    merge(part(selected), part(internal))
 *     residual  merge(merge(part(selected), residual), part(internal))
 *
 *   selected  fresh at every step, one gathered view for each list (fb_attend_gathered)
 *   residual  FB_RESIDUAL_CACHED: part(unselected), computed and kept at a refresh, taken from the
 *             cache at a reuse. FB_RESIDUAL_CENTROIDS: approximated by the selector at every step
 *             (Multipole Attention)
 *
 * Two identities hold bit for bit (contract C8.7): with everything selected each of them is dense
 * attention; with nothing selected the cached residual is FlashBlock. A refresh attends to every
 * key, and its result is dense attention except for the rounding of one more merge.
 *
 * A cached residual belongs to one selection, to one epoch of the KV cache (and so to one block: a
 * commit begins a new epoch), and to the block's rows. Anything else is FB_ERROR_STALE.
 */
#ifndef FLASHBLOCK_EXPERIMENTAL_SPARSE_H
#define FLASHBLOCK_EXPERIMENTAL_SPARSE_H

#include <flashblock/attention.h>
#include <flashblock/experimental/selector.h>
#include <flashblock/kv_cache.h>
#include <flashblock/reuse.h>
#include <flashblock/status.h>

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* part(selected): the attention of every query row to the key blocks of its head's list.
 *   queries    q [num_queries, num_heads, head_dim]
 *   kv         the layer's keys and values, at least selection->num_keys tokens
 *   selection  its lists divide num_heads, and kv->num_kv_heads divides their number
 *   scale      0 means 1/sqrt(head_dim)
 *   result     written whole; undefined on error */
FB_API fb_status fb_selection_attend(const fb_queries *queries, const fb_kv *kv,
                                     const fb_selection *selection, float scale,
                                     const fb_part *result);

typedef enum fb_residual {
    FB_RESIDUAL_NONE = 0, /* unselected keys are not attended */
    FB_RESIDUAL_CACHED,
    FB_RESIDUAL_CENTROIDS, /* of a selector that can approximate */
} fb_residual;

/* "none", "cached", "centroids"; "unknown" otherwise. Never NULL. */
FB_API const char *fb_residual_name(fb_residual residual);

/* The inverse; FB_ERROR_ARGUMENT for any other name. */
FB_API fb_status fb_residual_parse(const char *name, fb_residual *residual);

/* --- one layer, one selection ----------------------------------------------------------------- */

/* fb_block_attend with fb_block_call.selection attends to a selection of the committed tokens:
 * selection->num_keys is their number. With fb_block_call.parts there is a residual.
 * FB_REFRESH_ONLY computes it, FB_REFRESH_AND_STORE computes and keeps it, FB_REUSE takes it from
 * `parts`.
 *
 * fb_residual_is_fresh says whether the cache holds the residual of `layer` for this state of `kv`
 * and this selection. */
FB_API bool fb_residual_is_fresh(const fb_part_cache *cache, size_t layer, const fb_kv_cache *kv,
                                 const fb_selection *selection);

struct fb_model;      /* model.h */
struct fb_generation; /* generate.h */

/* --- a sequence ------------------------------------------------------------------------------- */

/* Begin with fb_sparse_options_init. */
typedef struct fb_sparse_options {
    size_t struct_size;
    const char *selector;         /* a name of selector.h; no default */
    fb_selector_options choosing; /* its defaults; fb_sparse_create sets num_layers */
    double density;               /* share of the key blocks to select, 0 to 1; default 0.2 */
    fb_residual residual;         /* default FB_RESIDUAL_NONE */

    /* With a cached residual: when the selector is asked. false (default): at refreshes; a reuse
     * keeps the selection that the residual belongs to. true: at every step, and a layer whose
     * selection has changed refreshes whatever the step was meant to be. Without a cached residual
     * the selector is asked at every step. */
    bool select_every_step;
} fb_sparse_options;

FB_API void fb_sparse_options_init_sized(fb_sparse_options *options, size_t size);
static inline void fb_sparse_options_init(fb_sparse_options *options) {
    fb_sparse_options_init_sized(options, sizeof *options);
}

/* The selector, its latest selections, and the residuals of one sequence. */
typedef struct fb_sparse fb_sparse;

/* FB_ERROR_ARGUMENT: an unknown selector, an option out of range, centroids of a selector that has
 * none. The caller owns *sparse. */
FB_API fb_status fb_sparse_create(const fb_sparse_options *options, size_t num_layers,
                                  size_t block_size, size_t num_heads, size_t head_dim,
                                  fb_sparse **sparse);
FB_API void fb_sparse_destroy(fb_sparse *sparse); /* NULL is allowed */

/* The same, of a model's shapes (library flashblock-lm). */
FB_API fb_status fb_model_new_sparse(const struct fb_model *model, const fb_sparse_options *options,
                                     size_t block_size, fb_sparse **sparse);

/* A new sequence begins; counts stay. */
FB_API void fb_sparse_reset(fb_sparse *sparse);

/* Which pass it is. */
typedef struct fb_sparse_step {
    size_t prompt_length;   /* tokens from here on were generated */
    size_t block;           /* number of the block in its sequence, from 0 */
    size_t denoising_step;  /* from 0; the commit pass has the number after the last step's */
    size_t denoising_steps; /* of the block at most */
} fb_sparse_step;

/* Says which pass the calls that follow belong to: one call of fb_block_attend for each layer, with
 * fb_block_call.sparse. It selects, and attends as with fb_block_call.selection. The action is
 * about the cached residual; without one it is not looked at. A refresh of a cached residual
 * attends to every key, whatever is selected. Where the selector wants a dense step there, it is
 * asked for the next step's selection instead, so that reuses are sparse. */
FB_API void fb_sparse_begin(fb_sparse *sparse, const fb_sparse_step *step);

/* The selection that the last pass used in a layer; NULL before the first. Owned by `sparse`. */
FB_API const fb_selection *fb_sparse_selection(const fb_sparse *sparse, size_t layer);

/* Sums over layers and passes. Keys are external keys, averaged over query heads. */
typedef struct fb_sparse_counts {
    size_t layers;           /* calls of fb_block_attend */
    size_t selections;       /* selections that were made */
    size_t forced_refreshes; /* reuses that became refreshes, as the selection had changed */
    double keys_selected;    /* attended as selected */
    double keys_residual;    /* attended to compute a residual */
    double keys;             /* all that there were */
} fb_sparse_counts;

/* Owned by `sparse`. */
FB_API const fb_sparse_counts *fb_sparse_counts_of(const fb_sparse *sparse);

/* Sums over the sequences of a generation (library flashblock-lm); zero where every key was
 * attended. Owned by the generation. */
FB_API const fb_sparse_counts *fb_generation_sparse_counts(const struct fb_generation *generation);

#ifdef __cplusplus
}
#endif

#endif
