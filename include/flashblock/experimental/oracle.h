/* Experimental: this header may change in any release. Library: flashblock-oracle.
 *
 * The oracle judges results. It computes the truth in double precision, says how far a result is
 * from it and how far it may be, and names known mistakes: a scale that is applied twice, an LSE in
 * base 2, a transposed LSE, a mask that is not there, and so on.
 *
 *     fb_attention_check check;
 *     fb_attention_check_init(&check);
 *     check.num_queries = 4, check.num_keys = 1024;
 *     check.num_heads = 32, check.num_kv_heads = 8, check.head_dim = 128;
 *     check.q.data = q, check.k.data = k, check.v.data = v;
 *     check.out.data = out, check.lse.data = lse;
 *     fb_report *report = NULL;
 *     if (fb_check_attention(&check, &report) == FB_OK)
 *         ...fb_report_outcome(report), fb_report_text(report, &text)...
 *     fb_report_destroy(report);
 *
 * What holds everywhere here
 *   the rule   How large an honest error may be is computed for each element, from what a kernel of
 *              the same arithmetic rounds: the noise. A result passes if its errors are noise, by
 *              tensor, head, token, channel and element, and if no known mistake shows in them, not
 *              even far below the noise. All tensors of a candidate are judged together. Honest
 *              results fail with a probability of at most 1e-4. (Of kinds of case files other than
 *              attention and sequences, the largest error may be at most twice that of a plain
 *              implementation in the same precision.)
 *   an LSE     is a natural logarithm, and -inf for a row that sees no key. Its output is then 0.
 *   errors     A call that fails leaves its results untouched and says why in fb_error_message. A
 *              wrong result is not an error: the call returns FB_OK and a report that says so.
 *   threads    Calls may run concurrently on different objects. One object must not be used by two
 *              threads at once.
 *   ownership  Text and pointers that an accessor returns belong to the object that it was given.
 */
#ifndef FLASHBLOCK_EXPERIMENTAL_ORACLE_H
#define FLASHBLOCK_EXPERIMENTAL_ORACLE_H

#include <flashblock/attention.h>
#include <flashblock/reuse.h>
#include <flashblock/status.h>
#include <flashblock/types.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* --- reports --------------------------------------------------------------------------------- */

typedef enum fb_outcome {
    FB_PASSED = 0,
    FB_FAILED,     /* a finding failed, or the case file cannot be used: fb_report_reason */
    FB_SKIPPED,    /* nothing was judged: fb_report_reason says why */
    FB_INCOMPLETE, /* what the candidate has is right, but required results are missing:
                      fb_report_missing_result */
} fb_outcome;

/* What a kernel computes in: how the operands of its matrix products are rounded. Sums are float32
 * or better in all of them. */
typedef enum fb_arithmetic {
    FB_ARITHMETIC_AUTO =
        0, /* found from what inputs and results are stored in, and from the errors */
    FB_ARITHMETIC_F32,
    FB_ARITHMETIC_TF32X3, /* three tf32 products for one */
    FB_ARITHMETIC_TF32,
    FB_ARITHMETIC_F16,
    FB_ARITHMETIC_BF16,
    FB_ARITHMETIC_FP8, /* weights in fp8 (e4m3), the rest in bf16 */
} fb_arithmetic;

/* "auto", "f32", "tf32x3", "tf32", "f16", "bf16", "fp8"; "unknown" for another value. Never NULL.
 * fb_arithmetic_parse: FB_ERROR_ARGUMENT for another name. */
FB_API const char *fb_arithmetic_name(fb_arithmetic arithmetic);
FB_API fb_status fb_arithmetic_parse(const char *name, fb_arithmetic *arithmetic);

/* The report on a case: one finding for each tensor that was judged. */
typedef struct fb_report fb_report;

/* The finding on one tensor. It belongs to its report. */
typedef struct fb_finding fb_finding;

/* Frees the report and its findings. Takes NULL. */
FB_API void fb_report_destroy(fb_report *report);

/* "passed", "failed", "skipped", "incomplete"; "unknown" for another value. Never NULL. */
FB_API const char *fb_outcome_name(fb_outcome outcome);

/* FB_FAILED as soon as one finding failed. */
FB_API fb_outcome fb_report_outcome(const fb_report *report);

/* The kind of the case ("attention", "denoising_sequence", ...), its name, its file. "" for what
 * there is not. */
FB_API const char *fb_report_kind(const fb_report *report);
FB_API const char *fb_report_name(const fb_report *report);
FB_API const char *fb_report_path(const fb_report *report);

/* Why the case was skipped, or why it failed without a finding. Of a candidate of attention or of a
 * sequence the verdict on all its tensors: the mistake and its place, or within which noise it is.
 * "" otherwise. */
FB_API const char *fb_report_reason(const fb_report *report);

/* The whole report as text for people: a table with one line for each tensor, and the verdicts.
 * *text belongs to the report. FB_ERROR_MEMORY. */
FB_API fb_status fb_report_text(fb_report *report, const char **text);

/* The whole report as one JSON object, as in the list `cases` of `flashblock verify --json`: path,
 * kind, name, outcome, reason, isa, findings (each with its verdict in words). Infinities and NaN
 * are the strings "inf", "-inf" and "nan". *text belongs to the report. FB_ERROR_MEMORY. */
FB_API fb_status fb_report_json(fb_report *report, const char **text);

/* The number of findings. */
FB_API size_t fb_report_num_findings(const fb_report *report);

/* NULL for an index that is too large. */
FB_API const fb_finding *fb_report_finding(const fb_report *report, size_t index);

/* The tensors of a candidate that no result of the case is called like: they were not judged. NULL
 * for an index that is too large. */
FB_API size_t fb_report_num_unjudged(const fb_report *report);
FB_API const char *fb_report_unjudged(const fb_report *report, size_t index);

/* The results that are required and that the candidate does not have. NULL for an index that is too
 * large. */
FB_API size_t fb_report_num_missing(const fb_report *report);
FB_API const char *fb_report_missing_result(const fb_report *report, size_t index);

/* The tensor's name in the case. */
FB_API const char *fb_finding_tensor(const fb_finding *finding);

/* Its shape: the number of dimensions, and the size of one; 0 for a dimension that is not there. */
FB_API size_t fb_finding_ndim(const fb_finding *finding);
FB_API size_t fb_finding_size(const fb_finding *finding, size_t dimension);

/* Whether the error is within the bound. */
FB_API bool fb_finding_passed(const fb_finding *finding);

/* The finding in one line of words: the error, the bound, the worst element, and the known mistake
 * that explains a failure. */
FB_API const char *fb_finding_verdict(const fb_finding *finding);

/* What explains the error, without numbers: the mistake that was recognised, or for a correct LSE
 * its base and layout. "" if there is nothing to say. */
FB_API const char *fb_finding_note(const fb_finding *finding);

/* The largest absolute error, and the largest one that is allowed in that element; the noise (the
 * root mean square of an honest error), and the root mean square of error / noise. (Of other kinds:
 * the error of the plain implementation, and the largest error divided by that.) Infinite if an
 * element is not finite where the truth is, or the other way round. */
FB_API double fb_finding_error(const fb_finding *finding);
FB_API double fb_finding_bound(const fb_finding *finding);
FB_API double fb_finding_plain_error(const fb_finding *finding);
FB_API double fb_finding_ratio(const fb_finding *finding);

/* The element with the largest error: its position in C order, its value, its true value. Without
 * an error it is element 0. */
FB_API size_t fb_finding_worst(const fb_finding *finding);
FB_API double fb_finding_value(const fb_finding *finding);
FB_API double fb_finding_truth(const fb_finding *finding);

/* What the result is stored in. (Of other kinds: the precision that it was judged in.) */
FB_API fb_dtype fb_finding_precision(const fb_finding *finding);

/* --- one attention result in memory ---------------------------------------------------------- */

/* A tensor in memory. Strides are in elements; the last axis (head_dim) is contiguous. The strides
 * count if has_strides is set, or if one of them is not 0. Otherwise the tensor is dense in the
 * order that fb_attention_check gives: {.data = q, .dtype = FB_F32}. A stride of 0 repeats what is
 * there; one row that stands for all of them has three strides of 0 and needs has_strides. Never
 * grows. */
typedef struct fb_check_tensor {
    const void *data;
    fb_dtype dtype;
    ptrdiff_t batch_stride, token_stride, head_stride;
    bool has_strides;
} fb_check_tensor;

/* Attention, and the result to be judged. Set struct_size and defaults with
 * fb_attention_check_init; new members may be added at the end. */
typedef struct fb_attention_check {
    size_t struct_size;
    size_t batch; /* 1 by default */
    size_t num_queries, num_keys;
    size_t num_heads, num_kv_heads, head_dim; /* num_heads: a multiple of num_kv_heads */
    fb_check_tensor q;                        /* [batch, num_queries, num_heads, head_dim] */
    fb_check_tensor k, v;                     /* [batch, num_keys, num_kv_heads, head_dim] */
    fb_mask mask;                             /* none by default */
    double scale;                             /* of the scores; 0: 1/sqrt(head_dim) */
    fb_check_tensor out;                      /* [batch, num_queries, num_heads, head_dim] */
    /* [batch, num_heads, num_queries], flash-attn's layout, unless lse_by_token is set:
     * [batch, num_queries, num_heads]. The layout that is expected matters for the verdict: a
     * result in the other layout fails and is recognised. */
    fb_check_tensor lse;
    bool lse_by_token;
    /* Data NULL in out or lse: that one is not judged. One of them must be there. */
    bool has_precision; /* `precision` is set: what the kernel computes in, if that is coarser than
                         */
    fb_dtype precision; /* what it stores. Otherwise out is judged in its dtype, and lse in the
                           coarser of the two dtypes */
    fb_arithmetic arithmetic; /* what the kernel computes in; it goes before `precision` */
    uint32_t unused;          /* 0: room for members of later versions */
    /* [batch] how many keys each entry of the batch has, 0 to num_keys: its queries see none of
     * those after them, with a mask or without, whatever is stored there. NULL: num_keys each */
    const size_t *key_lengths;
} fb_attention_check;

/* Sets the defaults of the first struct_size bytes: fb_attention_check_init(&check) in C; bindings
 * pass the size of the struct that they declare (types.h says which sizes there are). */
FB_API void fb_attention_check_init_sized(fb_attention_check *check, size_t struct_size);
static inline void fb_attention_check_init(fb_attention_check *check) {
    fb_attention_check_init_sized(check, sizeof *check);
}

/* Judges one attention result. The report has the findings "out" and "lse". fb_report_destroy.
 *
 * The truth is computed in double precision, with the threads that are set.
 * FB_ERROR_ARGUMENT: sizes outside 1 to 2^24 (num_queries and num_keys may be 0; head_dim at most
 * 65536), a key length above num_keys, no data, an unknown dtype. FB_ERROR_MEMORY. */
FB_API fb_status fb_check_attention(const fb_attention_check *check, fb_report **report);

/* --- case files and candidates --------------------------------------------------------------- */

/* The results of another implementation: tensors with the names of a case's results. */
typedef struct fb_candidate fb_candidate;

/* Opens a .safetensors file (f32, bf16, f16), or a .npy file. The array of a .npy file is the
 * result that the file is named after ("lse.npy"), or, if the case has no such result, `out`.
 * FB_ERROR_IO, FB_ERROR_FORMAT, FB_ERROR_UNSUPPORTED, FB_ERROR_MEMORY. */
FB_API fb_status fb_candidate_open(const char *path, fb_candidate **candidate);

/* A candidate without tensors, and a tensor for it: C order, at most 8 dimensions. Copies name and
 * data. FB_ERROR_ARGUMENT: an unknown dtype, too many dimensions, a name that is there already.
 * FB_ERROR_MEMORY. */
FB_API fb_status fb_candidate_create(fb_candidate **candidate);
FB_API fb_status fb_candidate_add(fb_candidate *candidate, const char *name, fb_dtype dtype,
                                  size_t ndim, const size_t *shape, const void *data);

/* Sets the precision that the candidate computes in, if that is coarser than what it stores.
 * Otherwise each tensor is judged in its own dtype, and LSEs in the coarsest dtype of all. */
FB_API void fb_candidate_set_precision(fb_candidate *candidate, fb_dtype precision);

/* The same for arithmetic that has no dtype of its own. FB_ARITHMETIC_AUTO: found, as before. */
FB_API void fb_candidate_set_arithmetic(fb_candidate *candidate, fb_arithmetic arithmetic);

/* Frees the candidate. Takes NULL. */
FB_API void fb_candidate_close(fb_candidate *candidate);

/* How a case file is verified. fb_verify_options_init sets struct_size and the defaults. */
typedef struct fb_verify_options {
    size_t struct_size;
    fb_candidate *candidate; /* is judged; NULL (default): this build's results and the file's */
    bool details;            /* the text and JSON also say how the worst elements came about */
    bool partial;            /* the candidate needs not have all results: none is FB_INCOMPLETE */
    bool unused[sizeof(size_t) - 2]; /* false: room for members of later versions */
    /* Of fb_verify_file: a folder for truths that take long. Those that it has are not computed
     * again, and those that it lacks are put there. It is made if its parent is there. It changes
     * no result, and no error: a folder that cannot be read or written is as good as none. NULL
     * (default): all are computed. */
    const char *truths;
} fb_verify_options;

/* As fb_attention_check_init_sized: fb_verify_options_init(&options) in C. */
FB_API void fb_verify_options_init_sized(fb_verify_options *options, size_t struct_size);
static inline void fb_verify_options_init(fb_verify_options *options) {
    fb_verify_options_init_sized(options, sizeof *options);
}

/* Recomputes a case file with the current instruction set and threads, and judges. A file that
 * cannot be read, or that contradicts itself, is FB_FAILED with a reason; a kind that this version
 * does not know is FB_SKIPPED. `options` may be NULL. fb_report_destroy.
 * FB_ERROR_ARGUMENT: struct_size is wrong. FB_ERROR_MEMORY: there is no memory for the case or for
 * a report, which says nothing about the file. */
FB_API fb_status fb_verify_file(const char *path, const fb_verify_options *options,
                                fb_report **report);

/* --- trajectories ---------------------------------------------------------------------------- */

/* How a trajectory is judged. fb_trajectory_options_init sets struct_size and the defaults; new
 * members may be added at the end. */
typedef struct fb_trajectory_options {
    size_t struct_size;
    const char *tensors;     /* the file of hidden states, parts, logits and noise; NULL (default):
                                the one that the record names, beside it */
    fb_arithmetic precision; /* what the port computes in; FB_ARITHMETIC_AUTO (default): as the
                                record says */
    bool partial;            /* what the record lacks is not needed: none is FB_INCOMPLETE */
    bool details;            /* the text has every difference, not only the first ones */
    const char *states;     /* a .safetensors file to write: what this library computes in each pass
                               on the record's tokens, float32: "block0.step2.hidden",
                               "block0.commit.external_lse", ..., shaped as a record's own. NULL
                               (default): none */
    bool float_activations; /* the model is loaded with fb_model_options.float_activations: of
                               quantised layers the inputs stay float32 */
    bool unused[sizeof(size_t) - 1]; /* false: room for members of later versions */
} fb_trajectory_options;

/* As fb_attention_check_init_sized: fb_trajectory_options_init(&options) in C. */
FB_API void fb_trajectory_options_init_sized(fb_trajectory_options *options, size_t struct_size);
static inline void fb_trajectory_options_init(fb_trajectory_options *options) {
    fb_trajectory_options_init_sized(options, sizeof *options);
}

/* Judges the record of a whole decoding by another implementation. It is replayed with its own
 * decisions forced. The report says the first step, layer and decision that differs, and whether
 * that is a tie within the noise of the port's precision or a mistake. Its findings are "actions",
 * "confidence", "proposals", "decisions", and the states that the record has ("hidden", "logits",
 * ...): of these the error is the largest error / noise.
 *
 * A record is a text file, as `flashblock generate --record` writes it: each line a JSON object.
 * The first has "trajectory": 1, "precision", "prompt" and "options"; each pass has "block",
 * "step", "action", "before", "proposed", "confidence", "accepted" and "tokens"; the last has
 * "end".
 *
 *   model  a Hugging Face directory, as fb_model_load takes it
 *
 * A record that contradicts itself, or cannot be read, is FB_FAILED with a reason that names the
 * line. `options` may be NULL. fb_report_destroy.
 * FB_ERROR_ARGUMENT: NULL, or struct_size is wrong. FB_ERROR_MEMORY. Other errors: the model cannot
 * be loaded. */
FB_API fb_status fb_verify_trajectory(const char *path, const char *model,
                                      const fb_trajectory_options *options, fb_report **report);

/* --- scripted sequences ---------------------------------------------------------------------- */

/* A block of a language or video model that is denoised by a script, in memory: one layer, step by
 * step, then the commit pass over the finished block.
 *
 *     fb_scripted_options options;
 *     fb_scripted_options_init(&options);
 *     fb_scripted_preset("trado-8b", &options);
 *     options.context_length = 16384, options.dtype = FB_BF16;
 *     fb_scripted *sequence = NULL;
 *     fb_scripted_create(&options, &sequence);
 *     for (size_t pass = 0; pass < fb_scripted_num_passes(sequence); pass++)
 *         ...compute it, fb_candidate_add(candidate, "step00.out", ...)...
 *     fb_scripted_judge(sequence, &verify_options, &report);
 *
 * It is what `flashblock golden` writes to a file. The script says what every pass is given, and
 * whether it refreshes or reuses. A port computes the passes in order, and its results are judged.
 */
typedef struct fb_scripted fb_scripted;

/* The sizes and the seed. fb_scripted_options_init sets those of the preset "tiny"; new members may
 * be added at the end. */
typedef struct fb_scripted_options {
    size_t struct_size;
    size_t num_heads, num_kv_heads, head_dim; /* num_heads: a multiple of num_kv_heads */
    size_t block_size;                        /* queries, and the keys of the block itself */
    size_t context_length;                    /* committed keys; 0: there is no external part */
    size_t tau, steps; /* tau of fb_reuse_policy; denoising steps, 1 to 99, at most block_size */
    fb_dtype dtype;    /* of queries, keys and values */
    double scale;      /* of the scores; 0: 1/sqrt(head_dim) */
    uint64_t seed;
    bool rows, correction; /* refresh by rows; the first-order correction: experimental/rows.h */
    bool unused[sizeof(size_t) - 2]; /* false: room for members of later versions */
} fb_scripted_options;

/* As fb_attention_check_init_sized: fb_scripted_options_init(&options) in C. */
FB_API void fb_scripted_options_init_sized(fb_scripted_options *options, size_t struct_size);
static inline void fb_scripted_options_init(fb_scripted_options *options) {
    fb_scripted_options_init_sized(options, sizeof *options);
}

/* The presets: shapes of published models, and "tiny". NULL for an index that is too large. */
FB_API const char *fb_scripted_preset_name(size_t index);

/* Sets all options to those of the preset. FB_ERROR_ARGUMENT: a name that is not known (the message
 * lists those that are), a struct_size that is not set. */
FB_API fb_status fb_scripted_preset(const char *name, fb_scripted_options *options);

/* Makes the inputs: the same bits on every machine. fb_scripted_destroy. FB_ERROR_ARGUMENT: sizes
 * that are out of range. FB_ERROR_MEMORY. */
FB_API fb_status fb_scripted_create(const fb_scripted_options *options, fb_scripted **sequence);
FB_API void fb_scripted_destroy(fb_scripted *sequence); /* takes NULL */

/* The options, with the scale that is used. They belong to the sequence. */
FB_API const fb_scripted_options *fb_scripted_options_of(const fb_scripted *sequence);

/* Denoising steps and the commit pass, which is the last. */
FB_API size_t fb_scripted_num_passes(const fb_scripted *sequence);

/* What the pass does, and how many tokens are dirty when it begins: see reuse.h. For a pass that is
 * not there FB_REFRESH_AND_STORE and 0. */
FB_API fb_reuse_action fb_scripted_action(const fb_scripted *sequence, size_t pass);
FB_API size_t fb_scripted_dirty(const fb_scripted *sequence, size_t pass);

/* Whether the pass accepts the token; whether it computes the token's external part anew (every
 * token of a refresh, none of a reuse, some of FB_REFRESH_ROWS). false for one that is not
 * there. */
FB_API bool fb_scripted_accepts(const fb_scripted *sequence, size_t pass, size_t token);
FB_API bool fb_scripted_refreshes(const fb_scripted *sequence, size_t pass, size_t token);

/* Inputs, dense, in the dtype of the options. They belong to the sequence.
 *   context_k, context_v  [context_length, num_kv_heads, head_dim] the committed keys and values
 *   q                     [block_size, num_heads, head_dim]        of the pass
 *   k, v                  [block_size, num_kv_heads, head_dim]     the block's own, of the pass
 * NULL for a pass that is not there. */
FB_API const void *fb_scripted_context_k(const fb_scripted *sequence);
FB_API const void *fb_scripted_context_v(const fb_scripted *sequence);
FB_API const void *fb_scripted_q(const fb_scripted *sequence, size_t pass);
FB_API const void *fb_scripted_k(const fb_scripted *sequence, size_t pass);
FB_API const void *fb_scripted_v(const fb_scripted *sequence, size_t pass);

/* Judges options->candidate. Its tensors are, for pass 00, 01, ...:
 *   step00.out            [block_size, num_heads, head_dim]  the merged result
 *   step00.lse            [block_size, num_heads]
 *   step00.external_out, step00.external_lse                 of a pass that stores: what is kept
 * The truths are computed when they are first needed, and are kept. fb_report_destroy.
 * FB_ERROR_ARGUMENT: no candidate; a tensor of a pass that is not there (step99.q); an input
 * (step00.q, k_context, ...) with other values than the sequence's, rounded to the tensor's type.
 * FB_ERROR_MEMORY. */
FB_API fb_status fb_scripted_judge(fb_scripted *sequence, const fb_verify_options *options,
                                   fb_report **report);

/* Writes the sequence as a case file, as `flashblock golden` does. FB_ERROR_IO, FB_ERROR_MEMORY. */
FB_API fb_status fb_scripted_write(fb_scripted *sequence, const char *path);

/* --- golden hashes --------------------------------------------------------------------------- */

/* Golden hashes are XXH3-128 hashes of results of generated cases. The results are the same to the
 * bit on every instruction set and with any number of threads. Cases have indices from 0. */
FB_API size_t fb_hash_case_count(void);

/* NULL for an index that is too large. */
FB_API const char *fb_hash_case_name(size_t index);

/* The hashes that are expected. path: a text file with a line for each case, NAME HASH_OF_OUT
 * HASH_OF_LSE, and comments that begin with #. NULL: the list that was built in. FB_ERROR_IO,
 * FB_ERROR_FORMAT (naming the line), FB_ERROR_MEMORY. */
typedef struct fb_hash_list fb_hash_list;
FB_API fb_status fb_hash_list_open(const char *path, fb_hash_list **list);
FB_API void fb_hash_list_close(fb_hash_list *list); /* takes NULL */

/* Computes a case with the current instruction set and threads, and compares. If the hashes differ,
 * the scalar path computes the case too, on one thread; instruction set and threads are then set
 * back, so no other thread may compute meanwhile. fb_hash_finding_destroy. FB_ERROR_ARGUMENT: no
 * such case. FB_ERROR_MEMORY. */
typedef struct fb_hash_finding fb_hash_finding;
FB_API fb_status fb_hash_case_check(size_t index, const fb_hash_list *list,
                                    fb_hash_finding **finding);
FB_API void fb_hash_finding_destroy(fb_hash_finding *finding); /* takes NULL */

/* Whether both hashes are those of the list. */
FB_API bool fb_hash_finding_passed(const fb_hash_finding *finding);

/* The hashes of outputs and of LSEs, 32 hexadecimal digits each: as computed, as expected ("" if
 * the list does not have the case). */
FB_API const char *fb_hash_finding_out(const fb_hash_finding *finding);
FB_API const char *fb_hash_finding_lse(const fb_hash_finding *finding);
FB_API const char *fb_hash_finding_expected_out(const fb_hash_finding *finding);
FB_API const char *fb_hash_finding_expected_lse(const fb_hash_finding *finding);

/* The first element that differs from the scalar path, in words; "" if the hashes agree. */
FB_API const char *fb_hash_finding_detail(const fb_hash_finding *finding);

#ifdef __cplusplus
}
#endif

#endif
