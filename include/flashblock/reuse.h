/* FlashBlock: the cached block-external part, and when it is reused.
 *
 * A block of `block_size` queries is denoised in several steps. Its attention to the committed
 * tokens (block-external) changes little between steps. So a *refresh* step computes that part and
 * keeps it, and a *reuse* step merges the kept part with a fresh block-internal part (the paper;
 * its engine's Scheduler.schedule and BlockAttention.forward).
 *
 *   action                 external part                      result
 *   FB_REFRESH_AND_STORE   computed and kept                  dense attention
 *   FB_REFRESH_ONLY        computed, not kept                 dense attention
 *   FB_REUSE               taken from the cache               reads only the block's own keys
 *   FB_REFRESH_ROWS        of some rows computed and kept,    dense attention for those rows
 *                          of the others taken
 *
 * A refresh is bitwise dense attention: dense *is* merge(external part, internal part), contract
 * C8.
 *
 * The rule (engine: scheduler.py; tau is its `sparsity_ratio`): a denoising step reuses if it is
 * not the block's first and fewer than tau tokens were accepted since, and including, the last
 * refresh (the *dirty* tokens). A refresh stores unless the block is expected to finish at this
 * step. That is so at the commit pass, at the last step, and where no more masks are left than this
 * step accepts at least. tau = 0 never reuses. tau = 1 does not either, where every step accepts a
 * token.
 *
 * Refresh by rows and the first-order correction go beyond the paper and are experimental: see
 * experimental/rows.h.
 */
#ifndef FLASHBLOCK_REUSE_H
#define FLASHBLOCK_REUSE_H

#include <flashblock/attention.h>
#include <flashblock/kv_cache.h>
#include <flashblock/status.h>

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Whose behaviour to follow where the paper and its released engine differ.
 *   FB_COMPAT_PAPER     dirty tokens are counted under every remasking strategy; a step reuses
 *                       only what was stored for this very block and KV length; the mask token
 *                       is never sampled; stop tokens count from the first generated token on
 *   FB_COMPAT_RELEASED  the engine exactly: only low_confidence_dynamic counts dirty tokens, so
 *                       every other strategy reuses at each step after the first (any tau >= 1);
 *                       a reuse takes whatever the slot holds (an earlier block's part; at first
 *                       O = 0 with L = 0); the mask token can be sampled and counts as accepted;
 *                       a stop token in the prompt's incomplete last block ends generation */
typedef enum fb_compat { FB_COMPAT_PAPER = 0, FB_COMPAT_RELEASED } fb_compat;

typedef enum fb_reuse_action {
    FB_REFRESH_AND_STORE = 0,
    FB_REFRESH_ONLY,
    FB_REUSE,
    FB_REFRESH_ROWS,  /* experimental/rows.h: some rows are computed and kept, the others taken */
    FB_REFRESH_HEADS, /* experimental/head_reuse.h: the same by head */
} fb_reuse_action;

/* "refresh+store", "refresh", "reuse", "refresh rows", "refresh heads". Never NULL. */
FB_API const char *fb_reuse_action_name(fb_reuse_action action);

/* {.tau = 2} is the paper's evaluation. The struct never grows. */
typedef struct fb_reuse_policy {
    size_t tau;           /* reuse while dirty tokens < tau; 0: dense attention throughout */
    bool reuse_always;    /* every step after a block's first, whatever tau says (tau >= 1);
                             the engine's TRADO_FORCE_DENOISE_NO_UPDATE */
    bool reuse_at_commit; /* the commit pass obeys the rule, too, instead of refreshing;
                             the engine's TRADO_NO_FORCE_UPDATE_ON_SAVE */

    /* Experimental, see experimental/rows.h; FB_COMPAT_PAPER only. */
    bool rows;            /* after a block's first step a refresh computes only the dirty rows; with
                             tau = 1, whenever there are any. The commit pass computes them whatever
                             tau is */
    size_t refresh_every; /* with rows: all rows at a step that comes this many steps, or more,
                             after the last that computed all of them; 0: never */
    size_t refresh_dirty; /* with rows: all rows where this many tokens, or more, were accepted
                             since then; 0: never */
    bool refresh_commit;  /* with rows: all rows at the commit pass */
    bool correction;      /* corrects the LSE of kept rows to first order; tau at least 1 */
} fb_reuse_policy;

/* A step, as far as the rule looks at it. The struct never grows. */
typedef struct fb_reuse_step {
    size_t denoising_step;  /* 0 at a block's first */
    size_t denoising_steps; /* the block's limit */
    size_t dirty_tokens;    /* accepted since, and including, the last refresh */
    size_t masked_tokens;   /* before the step */
    size_t budget;          /* tokens that the step accepts at least */
    bool commit;            /* the pass over the finished block */

    /* Experimental, for fb_reuse_policy.rows: steps, and accepted tokens, since and including the
     * last pass that computed all rows. */
    size_t steps_since_full, accepted_since_full;
} fb_reuse_step;

/* The rule. Never FB_REFRESH_HEADS. */
FB_API fb_reuse_action fb_reuse_decide(const fb_reuse_policy *policy, const fb_reuse_step *step);

/* Stored parts of one sequence, a slot for each layer: the part of the block's rows over keys
 * outside the block. Of each head in a slot the cache knows the keys that its part was computed
 * from. */
typedef struct fb_part_cache fb_part_cache;

/* A slot has block_size x num_heads rows of head_dim, float32. The caller owns *cache. Slots start
 * with O = 0 and L = 0, and are stale. */
FB_API fb_status fb_part_cache_create(size_t num_layers, size_t block_size, size_t num_heads,
                                      size_t head_dim, fb_part_cache **cache);
FB_API void fb_part_cache_destroy(fb_part_cache *cache); /* NULL is allowed */

/* Makes every slot stale (for a new sequence, say). The values stay. */
FB_API void fb_part_cache_invalidate(fb_part_cache *cache);

/* Whether the slot of `layer` holds the part over all tokens that are committed in `kv` now: the
 * same KV cache, length and epoch. */
FB_API bool fb_part_cache_is_fresh(const fb_part_cache *cache, size_t layer, const fb_kv_cache *kv);

/* The slot of `layer`, for reading: out [block_size, num_heads, head_dim], lse [block_size,
 * num_heads], and mean_key if the cache corrects. They are as they were computed, and the cache
 * owns them. FB_ERROR_STALE where fb_part_cache_is_fresh is false; FB_COMPAT_RELEASED gives out a
 * stale slot as well, as the engine does. */
FB_API fb_status fb_part_cache_load(const fb_part_cache *cache, size_t layer, const fb_kv_cache *kv,
                                    fb_compat compat, fb_part *part);

struct fb_selection;   /* experimental/selector.h */
struct fb_sparse;      /* experimental/sparse.h */
struct fb_block_heads; /* experimental/head_reuse.h */

/* One layer's attention of the current block at one step. The struct can grow: begin with
 * fb_block_call_init, which sets struct_size (types.h) and makes everything else 0 and NULL. */
typedef struct fb_block_call {
    size_t struct_size;
    const fb_queries *queries; /* q [rows, num_heads, head_dim] */
    const fb_kv_cache *kv;     /* holds the block's keys and values already, from position `length`
                                  on; NULL with `heads` */
    size_t layer;
    fb_reuse_action action; /* from fb_reuse_decide */
    fb_compat compat;       /* FB_COMPAT_RELEASED: a reuse takes a stale slot, too */
    float scale;            /* 0 means 1/sqrt(head_dim) */
    fb_part_cache *parts;   /* the action stores there and takes from there. FB_REFRESH_ONLY does
                               neither, and `parts` may be NULL */

    /* Experimental. */
    const bool *refresh_rows;             /* [rows] with FB_REFRESH_ROWS; otherwise NULL */
    const struct fb_selection *selection; /* of these three, at most one is not NULL */
    struct fb_sparse *sparse;
    const struct fb_block_heads *heads;
} fb_block_call;

FB_API void fb_block_call_init_sized(fb_block_call *call, size_t size);
static inline void fb_block_call_init(fb_block_call *call) {
    fb_block_call_init_sized(call, sizeof *call);
}

/* The heart of FlashBlock: the attention of a block,
 *
 *     result = merge(external part, internal part)        out, lse  [rows, num_heads, ...]
 *
 * The internal part is over the block's own keys, and every step computes it. The external part is
 * over keys outside the block. Which keys these are depends on the member that is not NULL:
 *
 *                external part over              REFRESH_ONLY  _AND_STORE  REUSE  _ROWS  _HEADS
 *     none       all committed tokens            yes           parts       parts  parts  -
 *     selection  selected tokens, the residual   yes           parts       parts  -      -
 *     sparse     the same, selected by itself    yes           yes         yes    -      -
 *     heads      each head's own view            yes           parts       parts  -      parts
 *
 *   "yes" is allowed, "parts" is allowed and needs the member `parts`, "-" is FB_ERROR_ARGUMENT.
 *   FB_COMPAT_RELEASED is allowed in the first line, without FB_REFRESH_ROWS.
 *
 *   selection  a list of key blocks, see experimental/sparse.h. The *residual* is the part over
 *              the committed tokens that are not selected. `parts` keeps it, and the action is
 *              about it. Where `parts` is NULL there is no residual: these tokens are not attended
 *   sparse     selects, and keeps residuals itself, see experimental/sparse.h; `parts` is NULL
 *   heads      see experimental/head_reuse.h; `kv` is NULL, `layer` is a layer of `parts`
 *
 * A refresh of the first line is dense attention, bit for bit (contract C8.2). A reuse reads no
 * committed key or value (C8.3): its cost does not depend on the context length.
 *
 * FB_ERROR_ARGUMENT: a call that contradicts itself (a "-" of the table; two of selection,
 * sparse and heads; refresh_rows without FB_REFRESH_ROWS); a layer or shapes that kv or parts do
 * not have; a block that is not in kv. FB_ERROR_STALE: a reuse of a part that was computed from
 * other keys or for fewer rows. Neither error writes to the result.
 *
 * Threads: calls that share neither `parts` nor `sparse` may run concurrently. */
FB_API fb_status fb_block_attend(const fb_block_call *call, const fb_part *result);

#ifdef __cplusplus
}
#endif

#endif
