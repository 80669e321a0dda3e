/* A scripted denoising sequence: one block of a block-diffusion model over its context, one layer,
 * pass by pass, as case kind "denoising_sequence". The script stands for the model: which positions
 * each step accepts, and how queries, keys and values change. The library does the rest, used as
 * anyone would use it: KV cache, part cache, reuse decision, fb_block_attend.
 *
 *   passes   `steps` denoising steps, then the commit pass over the finished block
 *   script   every step accepts at least one position, the last step all that are left. The
 * queries, keys and values of a token drift a little from pass to pass, and jump once it is
 *            accepted: from the pass after its step on they are another token's
 *   rule     fb_reuse_decide with a budget of 1 (what every step accepts at least)
 *
 * The file (safetensors; H heads, Hk KV heads, D head_dim, B block_size, C context_length):
 *
 *   k_context, v_context   [C, Hk, D]  dtype   the committed tokens; scores need no more than this,
 *                                              positions are already applied
 *   accepted               [passes, B] bool    positions that each pass accepts
 *   action                 [passes]    i32     0 refresh and store, 1 refresh, 2 reuse, 3 refresh
 *                                              rows: those whose token was accepted since they
 *                                              were computed
 *   dirty                  [passes]    i32     tokens accepted since, and including, the last
 *                                              refresh, when the pass begins
 *   stepNN.q               [B, H, D]   f32     NN = 00, 01, ...; the last one is the commit
 *   stepNN.k, stepNN.v     [B, Hk, D]  dtype   the block's own keys and values in this pass
 *   stepNN.out, .lse       [B, H, D], [B, H] f32   this library's result: external and internal
 *   stepNN.out64, .lse64   the same, f64       the truth (truth.h): a reuse merges the external
 *                                              part of the queries that it was stored with
 *   stepNN.external_out, .external_lse, .external_out64, .external_lse64
 *                                              the external part, where the pass stores it (all
 *                                              rows; LSEs as they were computed)
 *
 * Metadata: kind, case, seed, produced_by, params, layout, notes. params: preset, num_heads,
 * num_kv_heads, head_dim, block_size, context_length, tau, steps, dtype, softmax_scale; and where
 * they are true, rows (refresh by rows) and correction (the first-order correction of the LSEs of
 * rows that are taken from the cache), see reuse.h. */
#ifndef FB_ORACLE_SCRIPT_H
#define FB_ORACLE_SCRIPT_H

#include <flashblock/reuse.h>
#include <flashblock/types.h>

#include <stdbool.h>
#include <stdint.h>

/* Passes have two digits in the file. */
enum { FB_SCRIPT_MAX_STEPS = 99 };

typedef struct fb_script_config {
    const char *preset; /* where the shape is from */
    size_t num_heads, num_kv_heads, head_dim;
    size_t block_size, context_length; /* tokens; the context may be empty */
    size_t tau, steps;                 /* 1 <= steps <= block_size, FB_SCRIPT_MAX_STEPS */
    fb_dtype dtype;                    /* of keys and values */
    double scale;                      /* of the scores; 1/sqrt(head_dim) unless a file says else */
    uint64_t seed;
    bool rows, correction; /* see reuse.h */
} fb_script_config;

/* The shapes of published models, and one for quick tests. */
extern const fb_script_config fb_script_presets[];
extern const size_t fb_num_script_presets;

/* FB_ERROR_ARGUMENT, naming those there are, for any other name. */
fb_status fb_script_preset(const char *name, fb_script_config *config);

/* One pass. Inputs are set by fb_script_generate or by the caller; results, allocated with the
 * sequence, by fb_script_run and fb_script_find_truth. */
typedef struct fb_script_pass {
    const float *q;          /* [B, H, D] */
    const float *k, *v;      /* [B, Hk, D]; values that `dtype` holds */
    const int32_t *accepted; /* [B] 0 or 1 */

    int32_t dirty, action;   /* action is an fb_reuse_action */
    size_t source;           /* the pass that computed the external part, or rows of it */
    const float *external_q; /* [B, H, D] the queries that the external part is of */
    float *composed_q;       /* external_q, where it is of several passes */
    bool *refresh_rows;      /* [B] rows that a pass of FB_REFRESH_ROWS computes */
    float *out, *lse;        /* [B, H, D], [B, H] */
    float *external_out, *external_lse; /* of a pass that stores */
    double *true_out, *true_lse;
    double *true_external_out, *true_external_lse; /* of a pass that refreshes */
} fb_script_pass;

typedef struct fb_script {
    fb_script_config config;
    const float *k_context, *v_context; /* [C, Hk, D]; values that `dtype` holds */
    size_t num_passes;                  /* steps + 1 */
    fb_script_pass *passes;
    struct fb_script_memory *memory; /* what fb_script_free frees */
} fb_script;

/* Whether a pass keeps the external part, or rows of it. */
static inline bool fb_script_stores(const fb_script_pass *pass) {
    return pass->action == FB_REFRESH_AND_STORE || pass->action == FB_REFRESH_ROWS;
}

/* What the first-order correction adds to the external LSEs of the queries q0 where the queries are
 * q: change [B, H] = scale (q - q0) . mean key of q0, in double precision. 0 without correction. */
fb_status fb_script_corrections(const fb_script *s, const float *q, const float *q0,
                                double *change);

/* Rows and values of a result; values of a pass's keys. */
size_t fb_script_rows(const fb_script *s);
size_t fb_script_values(const fb_script *s);
size_t fb_script_kv_values(const fb_script *s);

/* Checks the configuration, allocates passes and results. config.scale 0: 1/sqrt(head_dim). */
fb_status fb_script_create(const fb_script_config *config, fb_script **sequence);
void fb_script_free(fb_script *s); /* NULL is allowed */

/* Makes the inputs from config.seed: the same bits everywhere. */
fb_status fb_script_generate(fb_script *s);

/* Fills dirty, action, source, out, lse, external_*: inputs must be there. */
fb_status fb_script_run(fb_script *s);

/* Fills true_*; fb_script_run must have been. `progress` may be NULL: told after each of
 * num_passes passes. Refreshes take 2 B H D C multiplications and additions each. */
typedef void fb_script_progress(void *context, size_t done, size_t total);
fb_status fb_script_find_truth(fb_script *s, fb_script_progress *progress, void *context);

/* Takes truths that are known, of the shapes above, instead: copies them. External ones may be NULL
 * where the pass does not store. */
fb_status fb_script_set_truth(fb_script *s, size_t pass, const double *out, const double *lse,
                              const double *external_out, const double *external_lse);

/* Writes the case file: equal sequences give equal bytes. Truths must be there. */
fb_status fb_script_write(const fb_script *s, const char *path);

/* What `produced_by` begins with in files of fb_script_write: their results can be expected to
 * have the same bits as a recomputation, whatever the machine. */
#define FB_SCRIPT_PRODUCER "flashblock golden"

#endif
