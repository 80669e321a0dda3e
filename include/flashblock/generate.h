/* Generating text with a block-diffusion model, dense or with FlashBlock.
 *
 * Tokens are written block by block. A block starts as mask tokens; the first block also holds the
 * prompt's last tokens, where the prompt's length is not a multiple of block_size. The block is
 * denoised in steps. A step is a forward pass of the block, which proposes a token for each
 * position with its confidence; a remasking strategy then says which masked positions keep their
 * proposal. When no mask is left, one more forward pass, the commit, writes the finished block's
 * keys and values, and the next block follows. (The paper's engine: LLMEngine.generate_streaming
 * and Scheduler.)
 *
 *     fb_generate_options options;
 *     fb_generate_options_init(&options);
 *     fb_prompt prompt = {ids, num_ids};
 *     fb_generation *generation;
 *     if (fb_generate(model, &prompt, 1, &options, &generation) != FB_OK)
 *         ... fb_error_message() ...
 *     ... fb_generation_result(generation, 0)->tokens ...
 *     fb_generation_destroy(generation);
 *
 * Everything here is token ids; tokenizer.h has the text.
 */
#ifndef FLASHBLOCK_GENERATE_H
#define FLASHBLOCK_GENERATE_H

#include <flashblock/kv_cache.h>
#include <flashblock/model.h>
#include <flashblock/reuse.h>
#include <flashblock/status.h>
#include <flashblock/types.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct fb_sparse;         /* experimental/sparse.h */
struct fb_sparse_options; /* experimental/sparse.h */

/* Loops other than the one above, each as its model's own generate has it. fb_generate_options.loop
 * chooses; by default the model's files do. What stands for mask tokens is the token itself: a
 * proposal of the mask token leaves its position masked.
 *   sdar          as above: SDAR, TraDo, SDAR-MoE
 *   llada2        LLaDA2.0. A step accepts all masked positions whose confidence is above the
 *                 threshold, at least its budget of denoising_steps. Steps may run out: masks then
 *                 stay. The completion ends at the end of a block that holds a stop token, behind
 *                 it; with early_stop as soon as a stop token is accepted and no mask is before it
 *   llada2.1      LLaDA2.1. A step accepts as llada2 does, at least num_to_transfer, and *edits*: a
 *                 position that is not masked, and not of the prompt, is rewritten where the
 *                 proposal is another token of a confidence above editing_threshold. Without masks
 *                 steps go on while they edit, max_post_steps at most. A stop token ends the
 *                 completion only with early_stop, at the end of a block without masks; otherwise
 *                 all blocks are written, and the result is cut
 *   bd3lm         dllm's sampler. The prompt's first block is the short one, so that each block
 *                 written is whole, but for the last. A step accepts a number of the most confident
 *                 positions that depends on the steps of a block only. Ends after a block with a
 *                 stop token
 *   fast-dllm-v2  Fast-dLLM v2. Row i of the logits decides position i + 1. A block is denoised in
 *                 sub-blocks of small_block tokens, from the left; a step accepts what is above the
 *                 threshold, and the best one. The commit gives the next block's first token. Ends
 *                 within a block, at a stop token without a mask before it */

/* The names above; "unknown" otherwise. Never NULL. */
FB_API const char *fb_decoding_loop_name(fb_decoding_loop loop);

/* The inverse of fb_decoding_loop_name; FB_ERROR_ARGUMENT for any other name. */
FB_API fb_status fb_decoding_loop_parse(const char *name, fb_decoding_loop *loop);

/* Which masked positions keep the token proposed for them. The step's budget is block_size /
 * denoising_steps, one more in the first block_size % denoising_steps steps.
 *   low_confidence_dynamic  all whose confidence is above confidence_threshold; the `budget` most
 *                           confident ones if those are fewer
 *   low_confidence_static   the `budget` most confident ones
 *   sequential              the `budget` first ones
 *   entropy_bounded         those of the lowest entropy, as many as keep the sum of entropies
 *                           below entropy_bound, but at least one, and at least `budget`
 * Of equal confidences or entropies the lower position goes first. */
typedef enum fb_remasking {
    FB_LOW_CONFIDENCE_DYNAMIC = 0,
    FB_LOW_CONFIDENCE_STATIC,
    FB_SEQUENTIAL,
    FB_ENTROPY_BOUNDED,
} fb_remasking;

/* The names above; "unknown" otherwise. Never NULL. */
FB_API const char *fb_remasking_name(fb_remasking remasking);

/* The inverse of fb_remasking_name; FB_ERROR_ARGUMENT for any other name. */
FB_API fb_status fb_remasking_parse(const char *name, fb_remasking *remasking);

typedef enum fb_finish_reason {
    FB_FINISH_STOP = 0,  /* a stop token was generated; it is the last token of the result */
    FB_FINISH_LENGTH,    /* max_tokens tokens */
    FB_FINISH_CONTEXT,   /* the next block would not fit max_position_embeddings */
    FB_FINISH_CANCELLED, /* on_step returned false, or is_cancelled true */
} fb_finish_reason;

/* "stop", "length", "context", "cancelled"; "unknown" otherwise. Never NULL. */
FB_API const char *fb_finish_reason_name(fb_finish_reason reason);

/* Token ids of a prompt, in [0, vocab_size). May be empty: the model then writes without a prompt.
 * The struct never grows. */
typedef struct fb_prompt {
    const int32_t *tokens; /* [num_tokens]; borrowed; may be NULL when num_tokens is 0 */
    size_t num_tokens;
} fb_prompt;

/* One pass over one sequence's block, as on_step sees it: after a denoising step, or after a
 * commit. Pointers are valid during the call. The struct can grow at its end. */
typedef struct fb_step_event {
    size_t sequence;       /* index of the prompt */
    size_t slot;           /* place in the batch, below max_active */
    size_t block;          /* number of the block in its sequence, from 0 */
    size_t context_length; /* committed tokens before the block: its first token's position */
    bool commit;           /* the pass over the finished block */
    size_t denoising_step; /* in the block, from 0 */
    size_t sequence_step;  /* denoising steps of the sequence before this pass */
    fb_reuse_action action;
    size_t dirty_before, dirty_after; /* dirty tokens: accepted since, and including, the last
                                         refresh */
    size_t num_accepted;
    size_t external_rows; /* rows whose block-external part this pass computed */

    size_t block_size;
    const int32_t *before;          /* [block_size], mask tokens where still masked */
    const int32_t *after;           /* [block_size]; after a commit the same as before */
    const bool *masked_before;      /* [block_size] */
    const bool *masked_after;       /* [block_size] */
    const bool *accepted;           /* [block_size] */
    const int32_t *proposed;        /* [block_size] sampled tokens; NULL at a commit */
    const float *confidence;        /* [block_size] their probabilities; NULL at a commit */
    const float *logits;            /* [block_size, vocab_size]; NULL at a commit */
    const fb_kv_cache *kv;          /* the sequence's, after the pass */
    const fb_part_cache *parts;     /* its block-external cache; NULL when tau is 0 or keys are
                                       selected */
    const struct fb_sparse *sparse; /* its sparse attention; NULL where every key is attended */

    const int32_t *completion; /* [num_completion] committed tokens after the prompt */
    size_t num_completion;
    size_t num_new;                 /* how many of them, the last ones, this commit added */
    bool finished;                  /* this was the sequence's last pass */
    fb_finish_reason finish_reason; /* if finished: why */

    const float *entropy;  /* [block_size] nats; NULL at a commit, and unless entropy_bounded */
    const double *uniform; /* [block_size] the numbers in [0, 1) that drew `proposed`; NULL at a
                              commit, and where tokens are not drawn */
    const bool *edited;    /* [block_size] positions that were not masked and got another token;
                              num_accepted does not count them */
    size_t num_edited;
    size_t first_row, num_rows;        /* rows of the block that the pass computed: all, but for
                                          fast-dllm-v2 with block_cache */
    size_t first_decided, num_decided; /* positions that this step could decide: all, but for the
                                          sub-blocks of fast-dllm-v2. Proposals of the others are
                                          the tokens that are there, with confidence 0 */
} fb_step_event;

/* One layer's attention of one sequence's block, as on_attention sees it: during a pass, before
 * on_step sees the pass's result. Pointers are valid during the call; nothing may be changed. The
 * struct can grow at its end. */
typedef struct fb_generate_attention_event {
    size_t sequence;                     /* index of the prompt */
    size_t slot;                         /* place in the batch, below max_active */
    size_t block;                        /* number of the block in its sequence, from 0 */
    size_t context_length;               /* committed tokens before the block */
    bool commit;                         /* the pass over the finished block */
    size_t denoising_step;               /* in the block, from 0 */
    const fb_attention_event *attention; /* layer, queries, KV cache, action, parts, result */
} fb_generate_attention_event;

/* Begin with fb_generate_options_init, which sets struct_size (types.h) and the defaults: the
 * struct can grow. "0: ..." says what zero stands for. */
typedef struct fb_generate_options {
    size_t struct_size;
    size_t max_tokens;      /* tokens to write after each prompt, at least 1; default 128 */
    size_t block_size;      /* 0 (default): the model's; 4, as in the paper, if it names none */
    size_t denoising_steps; /* per block; 0 (default): block_size; 32 (llada2); 128 for all blocks
                               together (bd3lm). llada2.1 and fast-dllm-v2 have no such limit.
                               sdar: with more than block_size (the
                               paper's scripts: 8 for blocks of 4) the budget is 1 in the first
                               block_size steps, and 0 in later ones, which only
                               FB_COMPAT_RELEASED can reach */
    fb_reuse_policy reuse;  /* default tau 2 (the paper's evaluation script); 0: dense */
    fb_compat compat;       /* default FB_COMPAT_PAPER, see below */
    const struct fb_sparse_options
        *sparse;            /* borrowed; NULL (default): every key is attended. Otherwise a
                        denoising step or commit attends to what a selector chooses
                        (prefill to everything); `reuse` is the cached residual's,
                        and tau is 0 where there is none. FB_COMPAT_PAPER only */
    bool overwrite_decided; /* FB_COMPAT_RELEASED only: the engine's code path on the GPU
                               (TRADO_GPU_POST_SCHED_OPS) or with differing sampling parameters,
                               where a budget above the number of masks overwrites decided tokens,
                               those of the prompt included. Default false */

    fb_remasking remasking; /* default low_confidence_dynamic */
    double
        confidence_threshold; /* exceeded, not reached; below 0 (default): 0.9, or what the
                                 loop's own code has: 0.95 (llada2, llada2.1), 1 (fast-dllm-v2) */
    double entropy_bound;     /* default 0.35; nats */

    double temperature; /* default 0: the most probable token, its confidence being its probability
                           at temperature 1. Otherwise tokens are sampled from
                           softmax(logits / temperature) */
    bool greedy;        /* the most probable token at any temperature, which then matters to the
                           confidence only; default false */
    size_t top_k;       /* 0 (default): all; else tokens whose logit is at least the k-th largest */
    double top_p;       /* default 1: all; else the fewest most probable tokens whose probabilities
                           add up to more than top_p. In (0, 1]. After top_k, before sampling; the
                           confidence is the probability among the tokens left */
    uint64_t seed;      /* default 0. A number drawn depends on the seed, and on the block, the step
                           and the position in its own sequence. So each prompt comes out as it would
                           without the others, wherever it stands in the list; equal prompts come out
                           equal, unless `seeds` says otherwise */

    const int32_t *stop_tokens; /* borrowed; NULL (default): the model's end-of-text tokens */
    size_t num_stop_tokens;
    bool ignore_stop;      /* never stop at a token; default false */
    int32_t mask_token_id; /* -1 (default): the model's */

    fb_dtype kv_dtype;    /* how keys and values are kept; default FB_F32 */
    size_t prefill_chunk; /* prompt tokens of one forward pass, cut to a multiple of block_size (at
                             least one block); 0 (default): 512 */
    size_t max_active; /* prompts denoised together; 0 (default): 8. The others wait for a slot */

    /* Called after every denoising step and commit, from the calling thread; false cancels every
     * sequence. NULL (default): none. */
    bool (*on_step)(void *user, const fb_step_event *event);
    void *user; /* of on_step, on_attention and is_cancelled */

    /* Called for every layer of every denoising step and commit, see fb_forward.on_attention; not
     * at prefill. NULL (default): none. */
    void (*on_attention)(void *user, const fb_generate_attention_event *event);

    /* [num_prompts] the seed of each prompt, in place of `seed`; borrowed. NULL (default): `seed`
     * is that of all. For several samples of one prompt, give it several times with different
     * seeds. Each is what a call with that prompt and that seed alone gives. */
    const uint64_t *seeds;

    /* Loops, see the top of this file. */
    fb_decoding_loop loop;    /* default FB_LOOP_MODEL: fb_model_config.decoding_loop */
    size_t minimal_topk;      /* llada2: denoising_steps is at most max_tokens / minimal_topk; 0
                                 (default): 1; SIZE_MAX: without this limit */
    size_t num_to_transfer;   /* llada2.1: least number that a step accepts; 0 (default): 1 */
    double editing_threshold; /* llada2.1: exceeded, not reached; below 0 (default): 0.9 */
    size_t max_post_steps;    /* llada2.1: steps of a block without masks; SIZE_MAX (default): 16 */
    size_t max_block_steps;   /* llada2.1: steps of a block, edits that write masks included; masks
                                 that are left then stay. 0 (default): 16 * block_size +
                                 max_post_steps. A block also ends where a step changes nothing */
    double repeat_penalty;    /* llada2, llada2.1: subtracted from the logit of the token that is to
                                 the left in the block; default 0 (sglang's penalty_lambda) */
    size_t small_block;       /* fast-dllm-v2: tokens of a sub-block, a divisor of block_size; 0
                                 (default): 8, or the block where 8 does not divide it */
    int32_t pad_token_id;     /* bd3lm: such tokens of the prompt and of finished blocks are not
                                 attended, and take no position; -1 (default): the model's */
    bool block_cache;         /* fast-dllm-v2: keys and values of the block's other sub-blocks are
                                 kept while a sub-block is denoised; tau must be 0. Default false */
    bool early_stop;          /* llada2, llada2.1: see above; default false */
    bool unused_bools[2];     /* false: room for later versions */

    /* [num_prompts] for each prompt the KV cache to go on with, or NULL; borrowed. For a
     * conversation: only what is new in a prompt is read. A cache is one of fb_model_new_kv_cache
     * with kv_dtype. Its committed tokens are the prompt's first ones, whole blocks of them that
     * were written with the same model, block_size and loop; this function cannot see whether they
     * are. At the end it holds all blocks that were committed: prompt, completion, and what the
     * last block has behind the completion's end. Not with FB_COMPAT_RELEASED nor with bd3lm, whose
     * blocks begin elsewhere in another prompt; fast-dllm-v2 has to read the last block of a prompt
     * of whole blocks. NULL (default): the function makes its own. */
    struct fb_kv_cache *const *kv_caches;

    /* Called before every forward pass, those over the prompt included, from the calling thread;
     * true cancels every sequence. NULL (default): none. */
    bool (*is_cancelled)(void *user);
} fb_generate_options;

/* Where FB_COMPAT_RELEASED differs here, beside what reuse.h lists:
 *   - which positions are masked is read from the token ids, so a mask token in the prompt's
 *     incomplete last block is denoised, and a sampled mask token stays masked; FB_COMPAT_PAPER
 *     remembers positions, and prompts may hold any token;
 *   - a prompt that holds the model's pad token is cut to what follows its first one;
 *   - mask tokens that are left when denoising_steps run out are committed;
 *   - entropy_bounded has no minimum but one;
 *   - a stop token right after the max_tokens-th token, in its block, is still appended;
 *   - a new sequence finds in its block-external cache the parts of the slot's last sequence.
 * Of the loops other than sdar it has quirks of their models' own code: with llada2 and early_stop
 * a stop token in the prompt counts, and the result is empty, and a completion that a step ends can
 * be longer than max_tokens, up to the end of its block; with llada2.1 a block in which nothing but
 * the mask token is proposed goes on up to max_block_steps; with fast-dllm-v2 a prompt of exactly
 * one block is not read. */

FB_API void fb_generate_options_init_sized(fb_generate_options *options, size_t size);
static inline void fb_generate_options_init(fb_generate_options *options) {
    fb_generate_options_init_sized(options, sizeof *options);
}

/* Counts of one sequence, or sums over all. The struct can grow at its end. */
typedef struct fb_generate_counts {
    size_t prefill_tokens;  /* prompt tokens in whole blocks, without those of kv_caches */
    size_t denoising_steps; /* = refreshes + row_refreshes + reuses */
    size_t refreshes;       /* denoising steps that computed all of the block-external part */
    size_t stores;          /* refreshes that kept it */
    size_t reuses;          /* denoising steps that took it from the cache */
    size_t commits;         /* passes over finished blocks */
    size_t accepted_tokens; /* masks replaced */
    size_t completion_tokens;
    size_t row_refreshes; /* denoising steps that computed the external part of some rows */
    size_t external_rows; /* rows whose external part was computed, in steps and commits (in each
                             layer, for all heads) */
    size_t edited_tokens; /* tokens that were not masked, replaced */
} fb_generate_counts;

/* The results of one call. The functions below give pointers to structs that belong to it, and that
 * can grow at their ends: read them through these pointers, do not copy them or index them. */
typedef struct fb_generation fb_generation;

/* The text after one prompt. */
typedef struct fb_generate_result {
    const int32_t *tokens;      /* [num_tokens] the completion, a stop token included */
    const int32_t *unmask_step; /* [num_tokens] the step of the sequence, from 1, that accepted it;
                                   0: none did (a committed mask, FB_COMPAT_RELEASED only) */
    size_t num_tokens;
    fb_finish_reason finish_reason;
    const fb_generate_counts *counts;
} fb_generate_result;

/* Sums over all prompts. */
typedef struct fb_generate_stats {
    const fb_generate_counts *counts;
    size_t prefill_passes; /* calls of fb_model_forward, each for a batch */
    size_t decode_passes;
    fb_forward_times prefill, decode; /* seconds inside fb_model_forward */
    double seconds;                   /* of the whole call */
} fb_generate_stats;

/* As many as there were prompts. */
FB_API size_t fb_generation_num_results(const fb_generation *generation);

/* The result of prompt number `index`, from 0; NULL for a number that no prompt has. */
FB_API const fb_generate_result *fb_generation_result(const fb_generation *generation,
                                                      size_t index);

/* Counts and times of the whole call. */
FB_API const fb_generate_stats *fb_generation_stats(const fb_generation *generation);

/* Generates a completion after every prompt. Prompts wait for one of max_active slots; prefill goes
 * before denoising, as in the engine; each sequence has its own KV cache, block-external cache and
 * reuse decisions. The caller owns *generation.
 *
 * FB_ERROR_ARGUMENT: an option out of range, a token that is not in the vocabulary, a prompt that
 * leaves no room for a block in max_position_embeddings, a model without a mask token where none
 * is given. FB_ERROR_FORMAT: the model's logits are not finite.
 * Needs the model to itself during the call. */
FB_API fb_status fb_generate(fb_model *model, const fb_prompt *prompts, size_t num_prompts,
                             const fb_generate_options *options, fb_generation **generation);

/* NULL is allowed. */
FB_API void fb_generation_destroy(fb_generation *generation);

#ifdef __cplusplus
}
#endif

#endif
