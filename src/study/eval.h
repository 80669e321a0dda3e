/* How much a way to attend changes the text that a model writes, measured on a known text.
 *
 * The text is cut into windows. A window's first `context` tokens are read densely; then block
 * after block is denoised, greedily, once with every policy, each time from masks and after the
 * *true* tokens before it, whatever was written for earlier blocks. So policies are compared on the
 * same contexts, and one wrong token is counted once.
 *
 * At every step of a policy, the same tokens are also passed through the model densely: the
 * divergence of the predictions, and of each layer's attention with the same queries and keys, is
 * what attending that way costs. */
#ifndef FB_STUDY_EVAL_H
#define FB_STUDY_EVAL_H

#include <flashblock/experimental/sparse.h>
#include <flashblock/generate.h>
#include <flashblock/model.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A way to attend to earlier tokens. {0} is dense attention. */
typedef struct fb_eval_policy {
    fb_reuse_policy reuse;
    const fb_sparse_options *sparse; /* borrowed; NULL: every key */
} fb_eval_policy;

typedef struct fb_eval_options {
    fb_generate_options generate; /* resolved: sizes of blocks, remasking, mask token, kv_dtype */
    size_t context;               /* tokens before a window's first block, a multiple of a block */
    size_t blocks;                /* of a window */
    size_t windows;               /* at most; 0: as many as the text has */
    /* Called after every block of a window; may be NULL. */
    void (*on_block)(void *user, size_t blocks_done, size_t blocks);
    void *user;
} fb_eval_options;

/* Sums over all blocks. */
typedef struct fb_eval_result {
    size_t tokens;           /* that were written */
    size_t agreeing;         /* the same as by dense attention */
    size_t correct;          /* the same as in the text */
    size_t steps;            /* denoising steps */
    size_t predictions;      /* masked positions, over all steps */
    double divergence;       /* KL(dense || policy) in nats, over these */
    double keys, dense_keys; /* external keys attended by steps, a head's average */
    double *layer_errors;    /* [num_layers] |O - O_dense| / |O_dense| of attention, over steps */
    size_t forced_refreshes; /* reuses of layers that a changed selection turned into refreshes */
} fb_eval_result;

/* Measures every policy.
 *   tokens   [num_tokens] the text
 *   results  [num_policies]; layer_errors are the caller's memory, zeroed here
 * FB_ERROR_ARGUMENT: sizes that do not fit the model or the text. */
fb_status fb_eval_run(fb_model *model, const int32_t *tokens, size_t num_tokens,
                      const fb_eval_options *options, const fb_eval_policy *policies,
                      size_t num_policies, fb_eval_result *results);

/* Shares of all tokens: equal to those of dense attention, and to those of the text. */
double fb_eval_agreement(const fb_eval_result *result);
double fb_eval_accuracy(const fb_eval_result *result);

/* Means: the divergence of a prediction, and the error of a layer. */
double fb_eval_divergence(const fb_eval_result *result);
double fb_eval_error(const fb_eval_result *result, size_t num_layers);

/* Earlier keys attended, by those of dense attention. */
double fb_eval_keys(const fb_eval_result *result);

/* The share of a selector's loss that a residual wins back: of agreement with dense attention, and
 * of the divergence from it. `without` is the same selector and density without a residual. */
double fb_eval_won_agreement(const fb_eval_result *with, const fb_eval_result *without);
double fb_eval_won_divergence(const fb_eval_result *with, const fb_eval_result *without);

#endif
