/* A scripted denoising sequence: one layer of a block-diffusion model denoises one block over its
 * context, pass by pass. It is the case kind "denoising_sequence". The script stands for the model:
 * it says which positions each step accepts, and how queries, keys and values change. Everything
 * else is done by the library as any program would use it: KV cache, part cache, reuse decision,
 * fb_block_attend.
 *
 *   passes   `steps` denoising steps, then the commit pass over the finished block
 *   script   every step accepts at least one position; the last step accepts all that are left. The
 *            queries, keys and values of a token drift a little from pass to pass. They jump when
 *            the token is accepted: from the next pass on they are another token's
 *   rule     fb_reuse_decide with a budget of 1 (every step accepts at least one token)
 *
 * The file (safetensors; H heads, Hk KV heads, D head_dim, B block_size, C context_length):
 *
 *   k_context, v_context   [C, Hk, D]  dtype   the committed tokens; positions are applied
 *                                              already, so scores need nothing more
 *   accepted               [passes, B] bool    positions that each pass accepts
 *   action                 [passes]    i32     0 refresh and store, 1 refresh, 2 reuse, 3 refresh
 *                                              rows: the rows whose token was accepted since
 *                                              they were computed
 *   dirty                  [passes]    i32     when the pass begins: tokens accepted by the
 *                                              pass of the last refresh and since
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
 * num_kv_heads, head_dim, block_size, context_length, tau, steps, dtype, softmax_scale; and if they
 * are true, rows (refresh by rows) and correction (the first-order correction of the LSEs of rows
 * that are taken from the cache). */
#ifndef FB_ORACLE_SCRIPT_H
#define FB_ORACLE_SCRIPT_H

#include "io/json_write.h"

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
    bool rows, correction; /* as above */
} fb_script_config;

/* The shapes of published models, and one for quick tests. */
extern const fb_script_config fb_script_presets[];
extern const size_t fb_num_script_presets;

/* FB_ERROR_ARGUMENT for an unknown name; the message lists the known ones. */
fb_status fb_script_preset(const char *name, fb_script_config *config);

/* One pass. fb_script_generate or the caller sets the inputs. fb_script_run and
 * fb_script_find_truth fill in the results, whose memory comes with the sequence. */
typedef struct fb_script_pass {
    const float *q;          /* [B, H, D] */
    const float *k, *v;      /* [B, Hk, D]; values that `dtype` holds */
    const int32_t *accepted; /* [B] 0 or 1 */

    int32_t dirty, action;   /* action is an fb_reuse_action */
    size_t source;           /* the pass that computed the external part, or rows of it */
    const float *external_q; /* [B, H, D] the queries that the external part is of */
    float *composed_q;       /* external_q, if its rows are of several passes */
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

/* The first-order correction: what is added to the external LSEs of the queries q0 when the queries
 * are q. change [B, H] = scale (q - q0) . mean key of q0, in double precision; 0 without
 * correction. */
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

/* After fb_script_generate: rounds the queries to numbers that `dtype` holds, as a kernel of that
 * type gets them. */
fb_status fb_script_round_queries(fb_script *s);

/* Fills in dirty, action, source, out, lse, external_*. The inputs must be set. */
fb_status fb_script_run(fb_script *s);

/* Fills in true_*, after fb_script_run. `progress` is called after each of num_passes passes; it
 * may be NULL. A refresh takes 2 B H D C multiplications and as many additions. */
typedef void fb_script_progress(void *context, size_t done, size_t total);
fb_status fb_script_find_truth(fb_script *s, fb_script_progress *progress, void *context);

/* Copies known truths instead, of the shapes above. The external ones may be NULL if the pass does
 * not store. */
fb_status fb_script_set_truth(fb_script *s, size_t pass, const double *out, const double *lse,
                              const double *external_out, const double *external_lse);

/* Writes the case file. Equal sequences give equal bytes. The truths must be set. */
fb_status fb_script_write(const fb_script *s, const char *path);

/* Puts the params of the case file into the object that is open. */
void fb_script_put_params(const fb_script_config *config, fb_json_writer *w);

/* In files of fb_script_write, `produced_by` begins with this. A recomputation of their results
 * must have the same bits on every machine. */
#define FB_SCRIPT_PRODUCER "flashblock golden"

#endif
