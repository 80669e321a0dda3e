/* Sparse attention: which key blocks a query block attends to.
 *
 * The block-external context, tokens 0 .. num_keys - 1, is cut into *key blocks* of `block_keys`
 * tokens (the last may be partial). A *selection* names, for one layer and the current query
 * block, the key blocks to attend to: an ascending list for each KV head, or for each query head.
 * The query block's own keys are always attended and never part of a selection. A *selector* makes
 * selections. It may keep statistics and selections, layer by layer, until it is reset.
 *
 *   name         paper                                   one list per
 *   sparsed      SparseD, arXiv 2509.24014               query head
 *   mage         MAGE, arXiv 2602.14209                  KV head
 *   quest        Quest, arXiv 2406.10774                 KV head
 *   moba         MoBA, arXiv 2502.13189                  query head
 *   bfla         BFLA, arXiv 2605.12193                  KV head
 *   ba_att       BA-Att, arXiv 2605.19726                query head
 *   multipole    Multipole Attention, arXiv 2506.13059   KV head
 *   sink_window  StreamingLLM, arXiv 2309.17453          KV head
 *   given        a list of the caller's                  as given
 *
 * With q, k the queries and keys of a head (list per query head) or of a KV head's group, s = scale
 * q . k, and p the softmax of a query's s over the external context, key block B ranks by
 *
 *   sparsed      the mean of p over the queries and B's keys, tiles padded with zeros; exactly one
 *                pass a query block. Key blocks that begin at or after prompt_length rank among
 *                themselves, with p over the keys from the first of them on, and by a budget of
 *                their own (at least 1 block unless the density is 0), the others by theirs
 *   mage         the sum of p over queries, heads and B's keys, at the query block's first step
 *   quest        the largest over queries and heads of scale sum_d max(q_d min_d, q_d max_d), with
 *                the smallest and largest values of B's keys; a partial last block comes first
 *   moba         scale mean(q) . mean(k)
 *   bfla         softmax over B of scale mean(q) . mean(k) of a head, the largest among the heads
 *                that keep it: a head keeps the fewest blocks that reach the mass threshold
 *   ba_att       softmax over B of |B| exp(scale mean(q) . mean(k) + half the variance of s, were
 *                dimensions independent); the fewest blocks that reach the mass threshold
 *   multipole    the sum over B's keys, queries and heads of exp(s_c) / sum_j N_j exp(s_j), where c
 *                is the key's cluster, N_j the sizes and s_j the scores of the centroids
 *   sink_window  sinks, then the latest blocks
 *
 * These are the papers' methods as this library implements them. Where a method differs from its
 * paper or from the paper's code, the project's page on selectors says how.
 *
 * Rules that all of them keep
 *   budget    fb_selection_budget(num_blocks, density) key blocks a list: density x num_blocks,
 *             rounded to nearest, halves up. It may be 0: then a list is empty. sparsed has two
 *             budgets, and dense steps; a mass threshold may be reached with less
 *   ties      the lower block index first; a score of NaN counts as -infinity
 *   numbers   scores are computed in double precision, in one fixed order: a selection is the same
 *             on every instruction set and for any number of threads
 *   partial   the last key block, if partial, is scored over the keys that it has; quest takes it
 *             unscored, as bounds over fewer keys are smaller
 *   own keys  the query block's own keys have no part in any score
 */
#ifndef FLASHBLOCK_EXPERIMENTAL_SELECTOR_H
#define FLASHBLOCK_EXPERIMENTAL_SELECTOR_H

#include <flashblock/attention.h>
#include <flashblock/status.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* --- selections ------------------------------------------------------------------------------- */

/* Key block b holds tokens b * block_keys <= t < min((b + 1) * block_keys, num_keys).
 * Query head h of num_heads follows list h / (num_heads / num_lists).
 * Programs may read it; only the functions below change it. {0} is an empty selection of no lists,
 * ready for use. */
typedef struct fb_selection {
    size_t block_keys; /* a multiple of 16 */
    size_t num_keys;   /* tokens of the external context */
    size_t num_blocks; /* num_keys / block_keys, rounded up */
    size_t num_lists;  /* num_kv_heads or num_heads */
    size_t *counts;    /* [num_lists], each at most num_blocks */
    size_t *blocks;    /* [num_lists, num_blocks]; list i is blocks[i * num_blocks ..], counts[i] of
                          them, strictly ascending */
    size_t capacity;   /* elements of the allocation that counts and blocks share */
} fb_selection;

/* Empty lists for a context of num_keys tokens. Reuses the memory that the selection has and
 * allocates when it is too small; untouched on error. block_keys: a multiple of 16, at least 16;
 * num_lists at least 1. */
FB_API fb_status fb_selection_begin(fb_selection *selection, size_t block_keys, size_t num_keys,
                                    size_t num_lists);

/* Sets list number `list`: `count` block indices, strictly ascending, below num_blocks. They are
 * copied; `blocks` may be NULL when count is 0. */
FB_API fb_status fb_selection_set(fb_selection *selection, size_t list, const size_t *blocks,
                                  size_t count);

/* Sets list number `list` to every block. */
FB_API fb_status fb_selection_set_all(fb_selection *selection, size_t list);

/* Sets list number `list` to the `count` blocks of the largest scores (all when count is larger).
 *   scores  [num_blocks]
 * Ties go to the lower index; NaN counts as -infinity. */
FB_API fb_status fb_selection_set_top(fb_selection *selection, size_t list, const double *scores,
                                      size_t count);

/* Frees the memory; the selection is {0} afterwards. NULL is allowed. */
FB_API void fb_selection_release(fb_selection *selection);

/* A copy, the same content in the memory of `to`. */
FB_API fb_status fb_selection_copy(const fb_selection *from, fb_selection *to);

/* The unselected blocks, list by list. `complement` must not be `selection`. */
FB_API fb_status fb_selection_complement(const fb_selection *selection, fb_selection *complement);

/* One list as token ranges, neighbouring blocks joined, ascending: what fb_view takes. The full
 * list is the one range [0, num_keys); at most counts[list] ranges are written to `ranges`.
 * Returns their number. */
FB_API size_t fb_selection_ranges(const fb_selection *selection, size_t list, fb_range *ranges);

/* Tokens of one list. */
FB_API size_t fb_selection_tokens(const fb_selection *selection, size_t list);

/* Same shape and same lists. */
FB_API bool fb_selection_equal(const fb_selection *a, const fb_selection *b);

/* A fingerprint of shape and lists (XXH3, 64 bits): equal selections have equal ids, in every
 * process; a part cached for one selection is recognised as not belonging to another. Never 0. */
FB_API uint64_t fb_selection_id(const fb_selection *selection);

/* The common rounding: floor(density * num_blocks + 1/2), at most num_blocks. density 0 to 1. */
FB_API size_t fb_selection_budget(size_t num_blocks, double density);

/* --- what a selector sees --------------------------------------------------------------------- */

typedef struct fb_selector_input {
    size_t layer;
    const fb_queries *queries; /* the query block, q [num_queries, num_heads, head_dim], positions
                                  applied; at least one query */
    const fb_kv *kv;           /* the layer's keys and values; rows or pages of a KV cache. Tokens
                                  after the context (the block's own) may be there */
    size_t context_length;     /* external tokens, at most kv->num_tokens */
    uint64_t history;          /* fb_kv_cache_history: of two calls with the same history, the
                                  shorter context is the beginning of the longer. 0: unknown; then
                                  statistics of keys are made anew at every call, and a kept
                                  selection is recognised only by its query block and context
                                  length */
    size_t prompt_length;      /* tokens from here on were generated */
    size_t block;              /* number of the query block in the generation, from 0 */
    size_t denoising_step;     /* of the block, from 0 */
    size_t denoising_steps;    /* of the block at most; 0: unknown */
    double density;            /* share of the key blocks to select, 0 to 1 */
    float scale;               /* of the scores; 0 means 1/sqrt(head_dim) */
} fb_selector_input;

/* --- selectors -------------------------------------------------------------------------------- */

typedef struct fb_selector fb_selector;

/* A selector's functions. Programs can write their own: fb_selector_wrap makes a fb_selector of
 * them. */
typedef struct fb_selector_ops {
    const char *name;

    /* Begins `selection` (fb_selection_begin: context_length tokens, num_kv_heads or num_heads
     * lists) and sets its lists. The input has been checked; so will be the selection. A failure
     * may leave `selection` in any state: the caller of fb_selector_select does not see it. */
    fb_status (*select)(void *state, const fb_selector_input *input, fb_selection *selection);

    /* Optional: the part of the *unselected* keys, approximately, from what the selector keeps.
     * `selection` is what `select` gave for this input; `part` [num_queries, num_heads]. */
    fb_status (*approximate)(void *state, const fb_selector_input *input,
                             const fb_selection *selection, const fb_part *part);

    void (*reset)(void *state);   /* optional: a new sequence begins */
    void (*destroy)(void *state); /* optional: frees `state` */
} fb_selector_ops;

/* A selector of the caller's own. `ops` is copied, its name is not. On success the selector owns
 * `state` (ops->destroy); on error the caller still does. */
FB_API fb_status fb_selector_wrap(const fb_selector_ops *ops, void *state, fb_selector **selector);

/* How SparseD scales the scores that it selects by. */
typedef enum fb_sparsed_scaling {
    FB_SPARSED_BY_HEAD_DIM = 0, /* 1/sqrt(head_dim), or the input's scale: the paper */
    FB_SPARSED_BY_NUM_HEADS,    /* 1/sqrt(num_heads): its released code */
} fb_sparsed_scaling;

/* Every selector reads the fields that concern it. Begin with fb_selector_options_init, which
 * sets the defaults, in parentheses. */
typedef struct fb_selector_options {
    size_t struct_size;
    size_t block_keys;   /* tokens of a key block, a multiple of 16 (64) */
    size_t num_layers;   /* layers that the selector will see; at least 1 (no default) */
    size_t dense_layers; /* layers below this number select every block (0; Quest's paper: 2) */

    /* sink_window, bfla: this many blocks from the start of the context come first (1).
     * bfla: then this many of the latest (1). sink_window: then as many of the latest as the
     * budget has left. Sinks come first where the budget is smaller. */
    size_t sink_blocks, local_blocks;

    /* sparsed: share of a query block's steps that are dense, every key block selected (0.2), but
     * at least its first; the last of them takes the pattern that its other steps keep. */
    double dense_share;
    fb_sparsed_scaling sparsed_scaling;

    /* bfla, ba_att: the fewest blocks whose softmax mass reaches this share of the whole (0.99),
     * above 0 and at most 1; but no more than the budget. 1: only the budget counts. */
    double mass_threshold;

    /* multipole: the context is cut into windows of this many keys, a multiple of 16 (512), each
     * with one cluster for this many keys (16), found by this many iterations of k-means at most
     * (10). */
    size_t cluster_window, cluster_keys, kmeans_iterations;

    /* given: one selection for each layer, or one for all (num_given = 1); copied. Blocks after
     * the end of the context are left out, so that one list serves a context that grows. */
    const fb_selection *given;
    size_t num_given;
} fb_selector_options;

FB_API void fb_selector_options_init_sized(fb_selector_options *options, size_t size);
static inline void fb_selector_options_init(fb_selector_options *options) {
    fb_selector_options_init_sized(options, sizeof *options);
}

/* The selector of that name. FB_ERROR_ARGUMENT for an unknown name or an option that is out of its
 * range. The caller owns *selector. */
FB_API fb_status fb_selector_create(const char *name, const fb_selector_options *options,
                                    fb_selector **selector);

/* NULL is allowed. */
FB_API void fb_selector_destroy(fb_selector *selector);

/* Forgets everything: a new sequence begins. */
FB_API void fb_selector_reset(fb_selector *selector);

/* The name that it was created with; of one that was wrapped, ops.name itself. Never NULL. */
FB_API const char *fb_selector_name(const fb_selector *selector);

/* The names that fb_selector_create knows, from 0 on, and what each does, in one line; NULL after
 * the last. */
FB_API const char *fb_selector_known_name(size_t index);
FB_API const char *fb_selector_known_summary(size_t index);

/* Selects. `selection` is begun anew; untouched on error. A selector serves one sequence at a time
 * and one thread at a time. */
FB_API fb_status fb_selector_select(fb_selector *selector, const fb_selector_input *input,
                                    fb_selection *selection);

/* Whether fb_selector_approximate can be called; the approximate part of the unselected keys. */
FB_API bool fb_selector_can_approximate(const fb_selector *selector);
FB_API fb_status fb_selector_approximate(fb_selector *selector, const fb_selector_input *input,
                                         const fb_selection *selection, const fb_part *part);

#ifdef __cplusplus
}
#endif

#endif
