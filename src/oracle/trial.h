/* A candidate on trial: all its results, the truth of each, and how large an honest error may be,
 * element by element. docs/judge.md has the formulas.
 *
 * Everything is in rows [batch, tokens, heads], an LSE too, whatever the file's layout. A tensor is
 * a part (attention to some keys), or two parts merged. */
#ifndef FB_ORACLE_TRIAL_H
#define FB_ORACLE_TRIAL_H

#include "oracle/arithmetic.h"
#include "oracle/candidate.h"
#include "oracle/moments.h"
#include "oracle/script.h"

enum { FB_NO_PART = 1 << 20 };

/* A trial holds a dozen numbers for each value of an output. */
enum { FB_TRIAL_MAX_VALUES = 20000000 };

/* The tokens of a large result whose mistakes are searched in seconds: at least one. */
static inline size_t fb_trial_tokens(size_t keys, size_t values_of_token) {
    size_t each = (keys > 1000 ? keys : 1000) * (values_of_token ? values_of_token : 1);
    return each < 1000000000 ? 1000000000 / each : 1;
}

typedef struct fb_trial_part {
    fb_attention_problem right; /* as the case has it */
    fb_attention_problem read;  /* as the kernel reads it: inputs rounded */
    float *queries;             /* memory of read.q */
    fb_rounding read_kv;        /* what read.k and read.v are rounded to; NONE: the case's own */
    bool known;                 /* the moments are there, for these weights */
    int weight_bits;
    fb_moments m;
} fb_trial_part;

/* The variances of an honest error, by cause: [count] each. */
typedef struct fb_noise {
    double *weights; /* of p before the second product */
    double *scores;  /* of scores stored in the type of the inputs, as eager PyTorch does */
    double *floats;  /* float32 arithmetic */
    double *stored;  /* of the result as it is stored */
    double *kept;    /* of parts that are kept in that type */
} fb_noise;

typedef struct fb_trial_tensor {
    char name[96];
    bool lse, required;
    size_t pass;                /* of a sequence */
    size_t external, internal;  /* parts; internal FB_NO_PART: the tensor is `external` itself */
    const double *shift;        /* [rows] is added to the external LSEs in the merge, or NULL */
    fb_dims shape;              /* the file's */
    bool by_head;               /* the file's layout of an LSE: [batch, heads, tokens] */
    const fb_tensor_view *view; /* the candidate's tensor; NULL: not given */
    bool wrong_size;
    bool aside; /* given, but not looked at now: stages.h; its parts are there */
    fb_dtype stored;
    size_t count;          /* rows, or rows x head_dim */
    double *value, *truth; /* [count] */
    double *error, *sigma; /* error: 0 where `usable` is not */
    double *weight;        /* [rows] of the external part in the merge; 1 without a merge */
    bool *usable;          /* value and truth are finite */
    fb_noise noise;
} fb_trial_tensor;

/* Keys or values that several parts share, and what they are rounded to. */
typedef struct fb_rounded_input {
    const float *from;
    fb_rounding rounding;
    bool changes;
    float *rounded; /* NULL: not needed yet */
} fb_rounded_input;

typedef struct fb_trial {
    size_t batch, tokens, heads, dim; /* tokens of one batch entry */
    size_t rows;                      /* batch x tokens x heads */
    fb_arithmetic arithmetic;
    const fb_reading *reading;
    bool eager;        /* scores are allowed to be stored in a lower type */
    double score_bias; /* of those, fb_arithmetic_score_bias */
    fb_trial_part *parts;
    size_t num_parts;
    fb_trial_tensor *tensors;
    size_t num_tensors;
    const fb_script *script;  /* NULL: one attention */
    size_t *external_of;      /* [passes] the part of this pass' own external queries */
    size_t *internal_of;      /* [passes] */
    fb_rounded_input *inputs; /* [num_inputs] */
    size_t num_inputs;
    struct fb_truth_cache *truths; /* NULL: none are kept */
    void **memory;
    size_t num_memory;
} fb_trial;

/* Zeroed memory that is freed with the trial. */
fb_status fb_trial_take(fb_trial *trial, size_t count, size_t size, void *result);
void fb_trial_free(fb_trial *trial); /* NULL is allowed */

/* Builds the trial of one attention, or of a sequence whose actions are known. `results` names the
 * tensors of attention: out, then lse. Values of the candidate are read. */
fb_status fb_trial_of_attention(const fb_attention_problem *problem, const char *out_name,
                                const char *lse_name, fb_candidate *candidate, fb_trial **trial);
fb_status fb_trial_of_script(const fb_script *script, fb_candidate *candidate, fb_trial **trial);

/* `tokens` tokens, of the batch entry with the most keys and of one pass: parts and given tensors
 * of a trial, which outlives the sample. The first tokens; with a mask, the last ones. */
fb_status fb_trial_sample(const fb_trial *trial, size_t tokens, fb_trial **sample);

/* Reads the inputs as `reading` says, and finds truths, errors and noise of all given tensors. */
fb_status fb_trial_prepare(fb_trial *trial, fb_arithmetic arithmetic, const fb_reading *reading);

/* The same from the parts as they are now. */
fb_status fb_trial_refresh(fb_trial *trial);

/* The errors of given tensors anew, after mistakes were taken away from them. */
void fb_trial_restore_errors(fb_trial *trial);

/* Whether given tensors have a part as their external (or internal) one. */
enum { FB_EXTERNAL = 1, FB_INTERNAL = 2, FB_ALL_PARTS = 3 };
bool fb_trial_uses(const fb_trial *trial, size_t part, unsigned which);

/* Whether a merge of two parts is looked at: what internal parts are shows nowhere else. */
bool fb_trial_has_merges(const fb_trial *trial);

/* Whether any input of a given tensor is changed by the reading. */
bool fb_trial_reading_matters(fb_trial *trial, const fb_reading *reading);

/* The moments of a part, computed when they are first asked for. */
fb_status fb_trial_know(fb_trial *trial, size_t part);

/* sigma from the noise; `eager` as in the trial. */
void fb_trial_set_sigma(fb_trial *trial);

/* Whether an element says how exact a kernel is. An output of no keys is 0 in every kernel, so it
 * does not, unless it is something else. */
static inline bool fb_trial_counts(const fb_trial_tensor *t, size_t at) {
    return t->usable[at] && (t->sigma[at] > 1e-29 || t->error[at] != 0.0);
}

/* The weight of the external part in a merge of LSEs a and b; 0.5 if both are -inf. */
double fb_merge_weight(double a, double b);

#endif
