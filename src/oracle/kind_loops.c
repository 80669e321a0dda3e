/* generation, generation_sglang: recorded runs of other models' own loops, repeated. Decisions and
 * tokens must be equal; confidences and logits have tolerances. Kinds that share the name
 * `generation` are told apart by their tensors (kinds.h). */
#include "decode/loop.h"
#include "oracle/case_model.h"
#include "oracle/kinds.h"

#include <flashblock/generate.h>

#include <stdio.h>
#include <string.h>

static const double logits_tolerance = 5e-5, confidence_tolerance = 1e-5;

enum { MAX_ROWS = 1 << 20, MAX_BLOCK = 1 << 12, MAX_TOKENS = 1 << 20 };

/* A recorded column of whole numbers [rows] or [rows, width], and a copy of it that this build
 * writes its own decisions into. */
typedef struct column {
    const char *name; /* NULL: not there */
    size_t width;
    const int32_t *recorded;
    int32_t *ours;
} column;

enum {
    BLOCK = 0, /* of [rows] */
    STEP,
    STATUS,
    CONTEXT,
    REUSE,
    STORE,
    DIRTY,
    DIRTY_AFTER,
    LENGTH,
    NEED,
    KIND,
    CACHED,
    SMALL,
    NEXT,
    BEFORE, /* of [rows, block] */
    AFTER,
    ACC,
    EDIT,
    X0, /* of [rows, decided] */
    NUM_COLUMNS
};
static const char *const column_names[NUM_COLUMNS] = {
    "trace.block", "trace.step",  "trace.status",      "trace.ctx_true", "trace.reuse",
    "trace.store", "trace.dirty", "trace.dirty_after", "trace.length",   "trace.need",
    "trace.kind",  "trace.T",     "trace.small",       "trace.next",     "trace.before",
    "trace.after", "trace.acc",   "trace.edit",        "trace.x0"};

/* What a kind's passes are recorded as. */
typedef enum loop_kind { SDAR_LOOP, LLADA2_LOOP, SGLANG_LOOP, BD3LM_LOOP, FAST_LOOP } loop_kind;

typedef struct loop_run {
    fb_case *c;
    fb_report *report;
    loop_kind kind;
    fb_model *model;
    const fb_model_config *config;
    fb_generate_options options;
    fb_prompt prompt;
    int32_t stop;
    size_t rows, block, decided; /* recorded passes, tokens of a block, tokens of trace.x0 */
    column columns[NUM_COLUMNS];
    const float *file_conf, *file_logits;
    float *conf, *logits;
    size_t num_logits;      /* rows of `logits` */
    size_t row, logits_row; /* of this build, so far */
    bool changed;           /* the last step wrote tokens, or the mask token once more */
    int32_t *written;       /* tokens of the committed blocks, from the prompt's end on */
    size_t num_written, max_written;
} loop_run;

/* --- what the file says ----------------------------------------------------------------------- */

static fb_status read_column(loop_run *r, size_t index) {
    const char *name = column_names[index];
    size_t width = index < BEFORE ? 1 : index == X0 ? r->decided : r->block;
    column *col = &r->columns[index];
    if (!fb_case_has(r->c, "%s", name))
        return FB_OK;
    fb_dims shape = index < BEFORE ? FB_DIMS(r->rows) : FB_DIMS(r->rows, width);
    FB_TRY(fb_case_i32(r->c, &col->recorded, shape, "%s", name));
    FB_TRY(fb_case_alloc(r->c, r->rows * width, sizeof(int32_t), &col->ours));
    memcpy(col->ours, col->recorded, r->rows * width * sizeof(int32_t));
    col->name = name;
    col->width = width;
    return FB_OK;
}

static fb_status read_copy(loop_run *r, const char *name, fb_dims shape, const float **file,
                           float **copy) {
    FB_TRY(fb_case_f32(r->c, file, shape, "%s", name));
    FB_TRY(fb_case_alloc(r->c, fb_dims_count(&shape), sizeof **copy, copy));
    memcpy(*copy, *file, fb_dims_count(&shape) * sizeof **copy);
    return FB_OK;
}

static fb_status read_trace(loop_run *r) {
    const fb_tensor_view *before = NULL, *x0 = NULL, *prompt = NULL, *logits = NULL;
    FB_TRY(fb_safetensors_get(fb_case_file(r->c), "trace.before", &before));
    FB_TRY(fb_safetensors_get(fb_case_file(r->c), "trace.x0", &x0));
    FB_TRY(fb_safetensors_get(fb_case_file(r->c), "prompt.0", &prompt));
    if (before->ndim != 2 || x0->ndim != 2 || before->shape[0] > MAX_ROWS ||
        before->shape[1] > MAX_BLOCK || x0->shape[1] > before->shape[1])
        return fb_fail(FB_ERROR_FORMAT, "%s: trace.before and trace.x0 are not [passes, tokens]",
                       fb_case_path(r->c));
    r->rows = before->shape[0];
    r->block = before->shape[1];
    r->decided = x0->shape[1];
    r->prompt.num_tokens = prompt->count;
    for (size_t i = 0; i < NUM_COLUMNS; i++)
        FB_TRY(read_column(r, i));
    FB_TRY(fb_case_i32(r->c, &r->prompt.tokens, FB_DIMS(prompt->count), "prompt.0"));
    FB_TRY(read_copy(r, "trace.conf", FB_DIMS(r->rows, r->decided), &r->file_conf, &r->conf));
    if (!fb_case_has(r->c, "logits"))
        return FB_OK;
    FB_TRY(fb_safetensors_get(fb_case_file(r->c), "logits", &logits));
    r->num_logits = logits->ndim == 3 ? logits->shape[0] : 0;
    return read_copy(r, "logits", FB_DIMS(r->num_logits, r->decided, r->config->vocab_size),
                     &r->file_logits, &r->logits);
}

/* --- options ---------------------------------------------------------------------------------- */

static fb_status read_id(loop_run *r, const char *key, int32_t *id) {
    size_t value = 0;
    FB_TRY(fb_case_size(r->c, key, 0, INT32_MAX, &value));
    *id = (int32_t)value;
    return FB_OK;
}

static fb_status read_llada2(loop_run *r, fb_generate_options *o) {
    fb_case *c = r->c;
    const fb_json *editing = NULL;
    FB_TRY(fb_case_param_or_null(c, "editing_threshold", &editing));
    FB_TRY(fb_case_size(c, "block_length", 1, MAX_BLOCK, &o->block_size));
    FB_TRY(fb_case_size(c, "gen_length", 1, MAX_TOKENS, &o->max_tokens));
    FB_TRY(fb_case_real(c, "threshold", &o->confidence_threshold));
    FB_TRY(fb_case_bool_or(c, "eos_early_stop", false, &o->early_stop));
    o->loop = editing ? FB_LOOP_LLADA2_EDITING : FB_LOOP_LLADA2;
    if (editing) {
        FB_TRY(fb_case_real(c, "editing_threshold", &o->editing_threshold));
        FB_TRY(fb_case_size_or(c, "max_post_steps", 0, MAX_ROWS, SIZE_MAX, &o->max_post_steps));
        return fb_case_size_or(c, "num_to_transfer", 1, MAX_BLOCK, 0, &o->num_to_transfer);
    }
    FB_TRY(fb_case_size_or(c, "steps", 1, MAX_ROWS, 0, &o->denoising_steps));
    return fb_case_size_or(c, "minimal_topk", 1, MAX_TOKENS, 0, &o->minimal_topk);
}

static fb_status read_sglang(loop_run *r, fb_generate_options *o) {
    fb_case *c = r->c;
    const char *algorithm = NULL;
    FB_TRY(fb_case_string(c, "algorithm", &algorithm));
    FB_TRY(fb_case_size(c, "block_length", 1, MAX_BLOCK, &o->block_size));
    FB_TRY(fb_case_size(c, "max_new_tokens", 1, MAX_TOKENS, &o->max_tokens));
    FB_TRY(fb_case_real(c, "threshold", &o->confidence_threshold));
    FB_TRY(fb_case_real_or(c, "penalty_lambda", 0.0, &o->repeat_penalty));
    if (strcmp(algorithm, "low_confidence") == 0) {
        o->loop = FB_LOOP_LLADA2;
        o->denoising_steps = o->block_size;
        o->minimal_topk = SIZE_MAX;
        return FB_OK;
    }
    if (strcmp(algorithm, "joint_threshold") != 0)
        return fb_fail(FB_ERROR_FORMAT,
                       "%s: algorithm is '%.40s', expected low_confidence or joint_threshold",
                       fb_case_path(c), algorithm);
    o->loop = FB_LOOP_LLADA2_EDITING;
    o->early_stop = true;
    FB_TRY(fb_case_real(c, "edit_threshold", &o->editing_threshold));
    FB_TRY(fb_case_size_or(c, "max_post_edit_steps", 0, MAX_ROWS, 16, &o->max_post_steps));
    o->max_block_steps = o->block_size + o->max_post_steps;
    return FB_OK;
}

static fb_status read_bd3lm(loop_run *r, fb_generate_options *o) {
    fb_case *c = r->c;
    size_t steps = 0;
    o->loop = FB_LOOP_BD3LM;
    FB_TRY(fb_case_size(c, "block_size", 1, MAX_BLOCK, &o->block_size));
    FB_TRY(fb_case_size(c, "max_new_tokens", 1, MAX_TOKENS, &o->max_tokens));
    FB_TRY(fb_case_size(c, "steps", 1, MAX_ROWS, &steps));
    size_t blocks = (o->max_tokens + o->block_size - 1) / o->block_size;
    FB_TRY(fb_case_size_or(c, "steps_per_block", 1, MAX_ROWS, (steps + blocks - 1) / blocks,
                           &o->denoising_steps));
    return read_id(r, "pad_id", &o->pad_token_id);
}

static fb_status read_fast(loop_run *r, fb_generate_options *o) {
    fb_case *c = r->c;
    o->loop = FB_LOOP_FAST_DLLM_V2;
    FB_TRY(fb_case_size(c, "block_size", 1, MAX_BLOCK, &o->block_size));
    FB_TRY(fb_case_size(c, "small_block_size", 1, MAX_BLOCK, &o->small_block));
    FB_TRY(fb_case_size(c, "max_new_tokens", 1, MAX_TOKENS, &o->max_tokens));
    FB_TRY(fb_case_real(c, "threshold", &o->confidence_threshold));
    return fb_case_bool_or(c, "use_block_cache", false, &o->block_cache);
}

static fb_status read_sdar(loop_run *r, fb_generate_options *o) {
    fb_case *c = r->c;
    const char *name = NULL;
    o->loop = FB_LOOP_SDAR;
    o->greedy = true; /* the engine's multinomial was replaced by argmax */
    FB_TRY(fb_case_size(c, "tau", 0, MAX_ROWS, &o->reuse.tau));
    FB_TRY(fb_case_size(c, "block_length", 1, MAX_BLOCK, &o->block_size));
    FB_TRY(fb_case_size(c, "denoising_steps", 1, MAX_ROWS, &o->denoising_steps));
    FB_TRY(fb_case_size(c, "max_tokens", 1, MAX_TOKENS, &o->max_tokens));
    FB_TRY(fb_case_real(c, "dynamic_threshold", &o->confidence_threshold));
    FB_TRY(fb_case_real(c, "temperature", &o->temperature));
    FB_TRY(fb_case_size(c, "top_k", 0, SIZE_MAX >> 1, &o->top_k));
    FB_TRY(fb_case_real(c, "top_p", &o->top_p));
    FB_TRY(fb_case_bool_or(c, "ignore_eos", false, &o->ignore_stop));
    FB_TRY(fb_case_string(c, "remasking", &name));
    return fb_remasking_parse(name, &o->remasking);
}

static bool take_event(void *user, const fb_step_event *event);

static fb_status read_options(loop_run *r) {
    fb_generate_options *o = &r->options;
    fb_generate_options_init(o);
    o->reuse.tau = 0;
    o->compat = FB_COMPAT_RELEASED;
    switch (r->kind) {
    case SDAR_LOOP:
        FB_TRY(read_sdar(r, o));
        break;
    case LLADA2_LOOP:
        FB_TRY(read_llada2(r, o));
        break;
    case SGLANG_LOOP:
        FB_TRY(read_sglang(r, o));
        break;
    case BD3LM_LOOP:
        FB_TRY(read_bd3lm(r, o));
        break;
    case FAST_LOOP:
        FB_TRY(read_fast(r, o));
        break;
    }
    if (o->block_size != r->block)
        return fb_fail(FB_ERROR_FORMAT, "%s: blocks of %zu, but trace.before has %zu tokens",
                       fb_case_path(r->c), o->block_size, r->block);
    FB_TRY(read_id(r, "mask_id", &o->mask_token_id));
    FB_TRY(read_id(r, r->kind == FAST_LOOP ? "stop_token" : "eos_id", &r->stop));
    o->stop_tokens = &r->stop;
    o->num_stop_tokens = 1;
    o->on_step = take_event;
    o->user = r;
    return FB_OK;
}

/* --- events ----------------------------------------------------------------------------------- */

static void set(loop_run *r, size_t index, size_t value) {
    if (r->columns[index].name)
        r->columns[index].ours[r->row] = (int32_t)value;
}

/* Tokens of a short block are continued with -1, flags with 0. */
static void set_tokens(loop_run *r, size_t index, const int32_t *tokens, size_t count) {
    const column *col = &r->columns[index];
    for (size_t i = 0; col->name && i < col->width; i++)
        col->ours[r->row * col->width + i] = i < count ? tokens[i] : -1;
}

static void set_flags(loop_run *r, size_t index, const bool *flags, size_t count) {
    const column *col = &r->columns[index];
    for (size_t i = 0; col->name && i < col->width; i++)
        col->ours[r->row * col->width + i] = i < count && flags[i];
}

/* Positions that got a token: one that accepted the mask token is in no record. */
static void set_accepted(loop_run *r, const fb_step_event *event) {
    bool kept[MAX_BLOCK] = {0};
    for (size_t i = 0; i < event->block_size; i++)
        kept[i] = event->accepted[i] && !event->masked_after[i];
    set_flags(r, ACC, kept, event->block_size);
}

/* A proposal that decided nothing may be nearly as probable as another one: the recorded one is
 * taken there. Confidences count where the tokens are the same. */
static void take_proposals(loop_run *r, const fb_step_event *event) {
    const column *x0 = &r->columns[X0];
    size_t first = event->first_decided;
    for (size_t i = 0; i < r->decided && first + i < event->block_size; i++) {
        size_t at = r->row * r->decided + i, position = first + i;
        bool decides = event->accepted[position] || event->edited[position];
        if (decides)
            x0->ours[at] = event->proposed[position];
        if (event->proposed[position] == x0->recorded[at])
            r->conf[at] = event->confidence[position];
    }
}

/* Rows of logits as they decide: shifted by one, where the loop shifts. */
static void take_logits(loop_run *r, const fb_step_event *event) {
    size_t vocab = r->config->vocab_size, shift = r->kind == FAST_LOOP ? 1 : 0;
    if (r->kind == SDAR_LOOP) /* commits have rows, too */
        r->logits_row = r->row;
    if (!r->logits || r->logits_row >= r->num_logits)
        return;
    for (size_t i = 0; i < r->decided; i++) {
        size_t position = event->first_decided + i, row = position - event->first_row;
        row -= shift > 0 && row > 0 ? 1 : 0;
        memcpy(r->logits + (r->logits_row * r->decided + i) * vocab, event->logits + row * vocab,
               vocab * sizeof *r->logits);
    }
    r->logits_row++;
}

/* Tokens that a step of bd3lm accepts, proposals of the mask token among them. */
static size_t need_of(const loop_run *r, const fb_step_event *event) {
    size_t transfers[MAX_BLOCK];
    size_t steps = fb_loop_transfers(event->block_size, r->options.denoising_steps, transfers);
    return event->denoising_step < steps ? transfers[event->denoising_step] : 0;
}

/* fast-dllm-v2 with a block cache: the pass is one over a sub-block, which may be the whole block.
 */
static bool sees_sub_block(const loop_run *r, const fb_step_event *event) {
    return r->options.block_cache && !event->commit && event->denoising_step > 0 &&
           !event->masked_before[event->first_decided];
}

static void take_numbers(loop_run *r, const fb_step_event *event) {
    bool fast = r->kind == FAST_LOOP;
    size_t cached = fb_kv_cache_length(event->kv) - (event->commit ? event->block_size : 0);
    bool part = sees_sub_block(r, event);
    set(r, BLOCK, r->kind == BD3LM_LOOP ? event->block : event->context_length / r->block);
    set(r, STEP, event->denoising_step);
    set(r, STATUS, event->commit);
    set(r, CONTEXT, event->context_length);
    set(r, REUSE, event->action == FB_REUSE);
    set(r, STORE, event->action == FB_REFRESH_AND_STORE);
    set(r, DIRTY, event->dirty_before);
    set(r, DIRTY_AFTER, event->dirty_after);
    set(r, LENGTH, event->block_size);
    set(r, NEED, r->columns[NEED].name ? need_of(r, event) : 0);
    set(r, KIND, event->commit ? 4 : part ? 3 : r->options.block_cache ? 2 : 1);
    set(r, CACHED, cached);
    set(r, SMALL, event->commit ? 0 : event->first_decided);
    if (fast && event->commit) /* the completion ends with it */
        set(r, NEXT, (size_t)event->completion[event->num_completion - 1]);
    else
        set(r, NEXT, (size_t)-1);
}

/* Whether a pass is in the record: commits are in some of them. */
static bool is_recorded(const loop_run *r, const fb_step_event *event) {
    if (!event->commit)
        return true;
    if (r->kind == SGLANG_LOOP) /* one more pass, unless the last one saw the final tokens */
        return r->options.loop == FB_LOOP_LLADA2 || r->changed;
    return r->kind == SDAR_LOOP || r->kind == FAST_LOOP;
}

static void take_written(loop_run *r, const fb_step_event *event) {
    size_t first = event->context_length, prompt = r->prompt.num_tokens;
    for (size_t i = 0; i < event->block_size; i++)
        if (first + i >= prompt && r->num_written < r->max_written)
            r->written[r->num_written++] = event->after[i];
}

/* Returns false to end the run, if there are more passes than were recorded. */
static bool take_event(void *user, const fb_step_event *event) {
    loop_run *r = user;
    if (event->commit)
        take_written(r, event);
    if (!is_recorded(r, event))
        return true;
    if (r->row >= r->rows) {
        r->row++;
        return false;
    }
    take_numbers(r, event);
    set_tokens(r, BEFORE, event->before, event->block_size);
    /* after an engine's commit, the next block */
    if (!event->commit || r->kind != SDAR_LOOP)
        set_tokens(r, AFTER, event->after, event->block_size);
    set_accepted(r, event);
    set_flags(r, EDIT, event->edited, event->block_size);
    if (!event->commit) {
        take_proposals(r, event);
        take_logits(r, event);
        r->changed = memchr(event->masked_before, true, event->block_size) != NULL ||
                     memcmp(event->before, event->after, event->block_size * sizeof(int32_t)) != 0;
    }
    r->row++;
    return true;
}

/* --- claims ----------------------------------------------------------------------------------- */

static fb_status claim_numbers(loop_run *r, const char *tensor, fb_dims shape, const float *ours,
                               const float *file, double tolerance) {
    fb_claim claim = {.tensor = tensor,
                      .shape = shape,
                      .ours = ours,
                      .file = file,
                      .rule = FB_BOUND_ABSOLUTE,
                      .tolerance = tolerance};
    return ours ? fb_report_claim(r->report, &claim) : FB_OK;
}

static fb_status claim_output(loop_run *r, const int32_t *tokens, size_t count) {
    const fb_tensor_view *output = NULL;
    const int32_t *file = NULL;
    FB_TRY(fb_safetensors_get(fb_case_file(r->c), "output.0", &output));
    FB_TRY(fb_case_i32(r->c, &file, FB_DIMS(output->count), "output.0"));
    int32_t ours = (int32_t)count, recorded = (int32_t)output->count;
    FB_TRY(fb_report_decisions(r->report, "tokens of output.0", FB_DIMS(1), &ours, &recorded));
    if (count != output->count || count == 0)
        return FB_OK;
    return fb_report_decisions(r->report, "output.0", FB_DIMS(count), tokens, file);
}

static fb_status make_claims(loop_run *r, const fb_generate_result *result) {
    int32_t ours = (int32_t)r->row, file = (int32_t)r->rows;
    FB_TRY(fb_report_decisions(r->report, "passes", FB_DIMS(1), &ours, &file));
    for (size_t i = 0; i < NUM_COLUMNS; i++) {
        const column *col = &r->columns[i];
        if (!col->name)
            continue;
        fb_dims shape = i < BEFORE ? FB_DIMS(r->rows) : FB_DIMS(r->rows, col->width);
        FB_TRY(fb_report_decisions(r->report, col->name, shape, col->ours, col->recorded));
    }
    if (r->kind == BD3LM_LOOP) /* whole blocks: its caller cuts the text */
        FB_TRY(claim_output(r, r->written, r->num_written));
    else
        FB_TRY(claim_output(r, result->tokens, result->num_tokens));
    if (fb_case_has(r->c, "unmask_step.0") && result->num_tokens > 0) {
        const int32_t *steps = NULL;
        fb_dims shape = FB_DIMS(result->num_tokens);
        FB_TRY(fb_case_i32(r->c, &steps, shape, "unmask_step.0"));
        FB_TRY(fb_report_decisions(r->report, "unmask_step.0", shape, result->unmask_step, steps));
    }
    FB_TRY(claim_numbers(r, "trace.conf", FB_DIMS(r->rows, r->decided), r->conf, r->file_conf,
                         confidence_tolerance));
    return claim_numbers(r, "logits", FB_DIMS(r->num_logits, r->decided, r->config->vocab_size),
                         r->logits, r->file_logits, logits_tolerance);
}

/* fast-dllm-v2 records its prefill as a row: the next token of a prompt of whole blocks is in the
 * block's `before`, of others in nothing. */
static void skip_prefill_row(loop_run *r) {
    const column *kind = &r->columns[KIND];
    if (kind->name && r->rows > 0 && kind->recorded[0] == 0)
        r->row = 1;
}

static fb_status run(loop_run *r) {
    fb_generation *generation = NULL;
    FB_TRY(fb_case_load_model(r->c, &r->model));
    r->config = fb_model_config_of(r->model);
    FB_TRY(read_trace(r));
    FB_TRY(read_options(r));
    r->max_written = r->options.max_tokens + 2 * r->block;
    FB_TRY(fb_case_alloc(r->c, r->max_written, sizeof(int32_t), &r->written));
    skip_prefill_row(r);
    FB_TRY(fb_generate(r->model, &r->prompt, 1, &r->options, &generation));
    fb_status status = make_claims(r, fb_generation_result(generation, 0));
    fb_generation_destroy(generation);
    return status;
}

static fb_status recompute(fb_case *c, fb_report *report, loop_kind kind) {
    loop_run r = {.c = c, .report = report, .kind = kind};
    fb_status status = run(&r);
    fb_model_destroy(r.model);
    return status == FB_ERROR_ARGUMENT ? fb_fail_in(FB_ERROR_FORMAT, "%s", fb_case_path(c))
                                       : status;
}

fb_status fb_recompute_sdar_loop(fb_case *c, fb_report *report) {
    return recompute(c, report, SDAR_LOOP);
}

fb_status fb_recompute_llada2_loop(fb_case *c, fb_report *report) {
    return recompute(c, report, LLADA2_LOOP);
}

fb_status fb_recompute_sglang_loop(fb_case *c, fb_report *report) {
    return recompute(c, report, SGLANG_LOOP);
}

fb_status fb_recompute_bd3lm_loop(fb_case *c, fb_report *report) {
    return recompute(c, report, BD3LM_LOOP);
}

fb_status fb_recompute_fast_loop(fb_case *c, fb_report *report) {
    return recompute(c, report, FAST_LOOP);
}
