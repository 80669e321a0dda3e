#include "oracle/trajectory_record.h"

#include "base/error.h"
#include "base/memory.h"
#include "decode/generate_options.h"
#include "io/file.h"
#include "io/json.h"
#include "oracle/dims.h"
#include "oracle/trajectory_write.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MAX_BLOCK = 1 << 16, MAX_STOP_TOKENS = 1024 };

/* What reads a record: the line that is read, and the decoding up to there. */
typedef struct reader {
    fb_trajectory *record;
    const fb_model_config *config;
    fb_sequence *sequence; /* with the record's decisions */
    const char *tensors;   /* given by the caller; NULL: as the record says */
    size_t line;           /* from 1 */
    size_t last_line;      /* of the pass before */
    char where[600];       /* "run.jsonl: line 7" */
} reader;

static const char *const state_names[FB_TRAJECTORY_NUM_STATES] = {
    [FB_TRAJECTORY_LOGITS] = "logits",
    [FB_TRAJECTORY_GUMBEL] = "gumbel",
    [FB_TRAJECTORY_HIDDEN] = "hidden",
    [FB_TRAJECTORY_EXTERNAL_OUT] = "external_out",
    [FB_TRAJECTORY_EXTERNAL_LSE] = "external_lse",
    [FB_TRAJECTORY_INTERNAL_OUT] = "internal_out",
    [FB_TRAJECTORY_INTERNAL_LSE] = "internal_lse",
    [FB_TRAJECTORY_OUT] = "out",
    [FB_TRAJECTORY_LSE] = "lse",
};

const char *fb_trajectory_state_name(fb_trajectory_state state) {
    return state_names[state];
}

/* --- memory ----------------------------------------------------------------------------------- */

void fb_trajectory_close(fb_trajectory *record) {
    for (size_t i = 0; i < record->num_passes; i++)
        fb_free(record->passes[i].memory);
    fb_free(record->passes);
    fb_free(record->path);
    fb_free(record->model);
    fb_free(record->prompt_tokens);
    fb_free(record->stop_tokens);
    fb_safetensors_close(record->tensors);
    *record = (fb_trajectory){0};
}

static fb_status copy_text(const char *text, char **copy) {
    size_t size = strlen(text) + 1;
    FB_TRY(fb_alloc(size, 1, "text", copy));
    memcpy(*copy, text, size);
    return FB_OK;
}

/* A new pass, with its arrays. */
static fb_status add_pass(fb_trajectory *record, fb_trajectory_pass **pass) {
    if (record->num_passes == record->max_passes) {
        size_t room = record->max_passes ? 2 * record->max_passes : 64;
        fb_trajectory_pass *grown = NULL;
        FB_TRY(fb_alloc(room, sizeof *grown, "passes", &grown));
        if (record->num_passes)
            memcpy(grown, record->passes, record->num_passes * sizeof *grown);
        fb_free(record->passes);
        record->passes = grown;
        record->max_passes = room;
    }
    size_t size = record->options.block_size;
    char *memory = NULL;
    FB_TRY(fb_alloc_zeroed(size, sizeof(double) + 4 * sizeof(int32_t) + 2, "a pass", &memory));
    fb_trajectory_pass *added = &record->passes[record->num_passes++];
    *added = (fb_trajectory_pass){.memory = memory};
    added->uniform = (double *)(void *)memory;
    added->confidence = (float *)(void *)(added->uniform + size);
    added->entropy = added->confidence + size;
    added->proposed = (int32_t *)(void *)(added->entropy + size);
    added->tokens = added->proposed + size;
    added->masked = (bool *)(void *)(added->tokens + size);
    added->accepted = added->masked + size;
    *pass = added;
    return FB_OK;
}

/* --- arrays of a line ------------------------------------------------------------------------- */

/* An array of `size` items; NULL where the line has none. */
static fb_status get_items(const reader *r, const fb_json *line, const char *key, size_t size,
                           const fb_json **items) {
    *items = NULL;
    if (!fb_json_has(line, key))
        return FB_OK;
    FB_TRY(fb_json_get_array(line, r->where, key, items));
    if (fb_json_array_size(*items) != size)
        return fb_fail(FB_ERROR_FORMAT, "%s: %s has %zu items, expected %zu", r->where, key,
                       fb_json_array_size(*items), size);
    return FB_OK;
}

static fb_status read_id(const reader *r, const char *key, const fb_json *item, int32_t *id) {
    int64_t number = 0;
    char text[FB_JSON_SHOW_SIZE];
    if (!fb_json_is_int64(item, &number) || number < 0 || (uint64_t)number >= r->config->vocab_size)
        return fb_fail(FB_ERROR_FORMAT, "%s: %s: %s is not a token id, which are 0 to %zu",
                       r->where, key, fb_json_show(item, text), r->config->vocab_size - 1);
    *id = (int32_t)number;
    return FB_OK;
}

/* Ids of an array of any length. */
static fb_status read_ids(const reader *r, const fb_json *object, const char *key, size_t limit,
                          int32_t **ids, size_t *count) {
    const fb_json *items = NULL;
    FB_TRY(fb_json_get_array(object, r->where, key, &items));
    *count = fb_json_array_size(items);
    if (*count > limit)
        return fb_fail(FB_ERROR_FORMAT, "%s: %s has %zu items, more than %zu", r->where, key,
                       *count, limit);
    FB_TRY(fb_alloc(*count, sizeof **ids, key, ids));
    for (size_t i = 0; i < *count; i++)
        FB_TRY(read_id(r, key, fb_json_array_get(items, i), &(*ids)[i]));
    return FB_OK;
}

/* A number of each masked position, null where the record does not know it: NaN. */
static fb_status read_number(const reader *r, const char *key, size_t position, const fb_json *item,
                             double *number) {
    char text[FB_JSON_SHOW_SIZE];
    *number = NAN;
    if (!item || fb_json_is_null(item))
        return FB_OK;
    if (!fb_json_is_number(item))
        return fb_fail(FB_ERROR_FORMAT, "%s: %s of position %zu is %s, not a finite number",
                       r->where, key, position, fb_json_show(item, text));
    return fb_json_double(item, r->where, key, number);
}

/* --- the first line --------------------------------------------------------------------------- */

static fb_status read_kv_dtype(const reader *r, const fb_json *options, fb_dtype *dtype) {
    const char *name = NULL;
    FB_TRY(fb_json_get_string_or(options, r->where, "kv_dtype", "f32", &name));
    fb_status status = fb_dtype_parse(name, dtype);
    return status == FB_OK ? FB_OK : fb_fail_in(FB_ERROR_FORMAT, "%s: kv_dtype", r->where);
}

/* One of two words; the first where there is none. */
static fb_status read_choice(const reader *r, const fb_json *options, const char *key,
                             const char *first, const char *second, bool *is_second) {
    const char *name = NULL;
    FB_TRY(fb_json_get_string_or(options, r->where, key, first, &name));
    *is_second = strcmp(name, second) == 0;
    if (!*is_second && strcmp(name, first) != 0)
        return fb_fail(FB_ERROR_FORMAT, "%s: %s is '%s', neither %s nor %s", r->where, key, name,
                       first, second);
    return FB_OK;
}

static fb_status read_reuse(const reader *r, const fb_json *options, fb_reuse_policy *reuse) {
    const char *where = r->where;
    const size_t limit = 1 << 30;
    FB_TRY(read_choice(r, options, "reuse", "tau", "rows", &reuse->rows));
    FB_TRY(fb_json_get_size_or(options, where, "tau", 0, limit, reuse->rows ? 1 : 2, &reuse->tau));
    FB_TRY(
        fb_json_get_size_or(options, where, "refresh_every", 0, limit, 0, &reuse->refresh_every));
    FB_TRY(
        fb_json_get_size_or(options, where, "refresh_dirty", 0, limit, 0, &reuse->refresh_dirty));
    FB_TRY(fb_json_get_bool_or(options, where, "refresh_commit", false, &reuse->refresh_commit));
    FB_TRY(fb_json_get_bool_or(options, where, "correction", false, &reuse->correction));
    FB_TRY(fb_json_get_bool_or(options, where, "reuse_always", false, &reuse->reuse_always));
    return fb_json_get_bool_or(options, where, "reuse_at_commit", false, &reuse->reuse_at_commit);
}

static fb_status read_sampling(const reader *r, const fb_json *options, fb_generate_options *o) {
    const char *where = r->where, *remasking = NULL;
    FB_TRY(fb_json_get_string_or(options, where, "remasking",
                                 fb_remasking_name(FB_LOW_CONFIDENCE_DYNAMIC), &remasking));
    if (fb_remasking_parse(remasking, &o->remasking) != FB_OK)
        return fb_fail_in(FB_ERROR_FORMAT, "%s", where);
    FB_TRY(fb_json_get_double_or(options, where, "confidence_threshold", o->confidence_threshold,
                                 &o->confidence_threshold));
    FB_TRY(fb_json_get_double_or(options, where, "entropy_bound", o->entropy_bound,
                                 &o->entropy_bound));
    FB_TRY(fb_json_get_double_or(options, where, "temperature", 0.0, &o->temperature));
    FB_TRY(fb_json_get_bool_or(options, where, "greedy", false, &o->greedy));
    FB_TRY(fb_json_get_size_or(options, where, "top_k", 0, 1 << 30, 0, &o->top_k));
    return fb_json_get_double_or(options, where, "top_p", 1.0, &o->top_p);
}

static fb_status read_tokens(const reader *r, const fb_json *options, fb_generate_options *o) {
    const fb_json *mask = fb_json_object_get(options, "mask_token");
    if (mask && !fb_json_is_null(mask))
        FB_TRY(read_id(r, "mask_token", mask, &o->mask_token_id));
    FB_TRY(fb_json_get_bool_or(options, r->where, "ignore_stop", false, &o->ignore_stop));
    if (!fb_json_has(options, "stop_tokens"))
        return FB_OK;
    FB_TRY(read_ids(r, options, "stop_tokens", MAX_STOP_TOKENS, &r->record->stop_tokens,
                    &o->num_stop_tokens));
    o->stop_tokens = r->record->stop_tokens;
    return FB_OK;
}

static const char *const option_names[] = {
    "block_size",           "denoising_steps", "max_tokens",  "remasking",    "tau",
    "confidence_threshold", "entropy_bound",   "reuse",       "temperature",  "refresh_every",
    "refresh_dirty",        "refresh_commit",  "correction",  "reuse_always", "greedy",
    "reuse_at_commit",      "top_k",           "top_p",       "compat",       "kv_dtype",
    "mask_token",           "stop_tokens",     "ignore_stop",
};

static fb_status check_options(const reader *r, const fb_json *options) {
    const size_t num_names = sizeof option_names / sizeof *option_names;
    for (size_t i = 0; i < fb_json_object_size(options); i++) {
        const char *key = fb_json_object_key(options, i);
        size_t k = 0;
        while (k < num_names && strcmp(option_names[k], key) != 0)
            k++;
        if (k == num_names && key[0] != '_')
            return fb_fail(FB_ERROR_FORMAT, "%s: options: %.60s is not an option", r->where, key);
    }
    return FB_OK;
}

static fb_status read_options(const reader *r, const fb_json *options) {
    fb_generate_options *o = &r->record->options;
    const char *where = r->where;
    bool released = false;
    FB_TRY(check_options(r, options));
    FB_TRY(fb_json_get_size_or(options, where, "block_size", 1, MAX_BLOCK, 0, &o->block_size));
    FB_TRY(fb_json_get_size_or(options, where, "denoising_steps", 1, MAX_BLOCK, 0,
                               &o->denoising_steps));
    FB_TRY(fb_json_get_size_or(options, where, "max_tokens", 1, 1 << 30, o->max_tokens,
                               &o->max_tokens));
    FB_TRY(read_choice(r, options, "compat", "paper", "released", &released));
    o->compat = released ? FB_COMPAT_RELEASED : FB_COMPAT_PAPER;
    FB_TRY(read_reuse(r, options, &o->reuse));
    FB_TRY(read_sampling(r, options, o));
    FB_TRY(read_kv_dtype(r, options, &o->kv_dtype));
    FB_TRY(read_tokens(r, options, o));
    fb_status status = fb_generate_options_resolve(r->config, o);
    if (status == FB_ERROR_ARGUMENT) /* of the record, not of the caller */
        status = FB_ERROR_FORMAT;
    return status == FB_OK ? FB_OK : fb_fail_in(status, "%s: options", where);
}

/* The file of tensors lies beside the record. */
static fb_status open_tensors(const reader *r, const fb_json *line) {
    const char *name = NULL, *slash = strrchr(r->record->path, '/');
    char path[5000];
    FB_TRY(fb_json_get_string_or(line, r->where, "tensors", "", &name));
    if (r->tensors)
        return fb_safetensors_open(r->tensors, &r->record->tensors);
    if (!name[0])
        return FB_OK;
    if (strchr(name, '/') || strcmp(name, "..") == 0)
        return fb_fail(FB_ERROR_FORMAT,
                       "%s: tensors is '%.100s', expected the name of a file beside it", r->where,
                       name);
    int folder = slash ? (int)(slash - r->record->path) + 1 : 0;
    if (snprintf(path, sizeof path, "%.*s%s", folder, r->record->path, name) >= (int)sizeof path)
        return fb_fail(FB_ERROR_FORMAT, "%s: tensors: the name is too long", r->where);
    return fb_safetensors_open(path, &r->record->tensors);
}

static fb_status read_precision(const reader *r, const fb_json *line) {
    const char *name = NULL;
    FB_TRY(fb_json_get_string(line, r->where, "precision", &name));
    if (fb_arithmetic_parse(name, &r->record->precision) != FB_OK)
        return fb_fail_in(FB_ERROR_FORMAT, "%s", r->where);
    if (r->record->precision == FB_ARITHMETIC_AUTO)
        return fb_fail(FB_ERROR_FORMAT, "%s: precision is auto, expected what the port computes in",
                       r->where);
    return FB_OK;
}

static fb_status read_prompt(const reader *r, const fb_json *line) {
    fb_trajectory *record = r->record;
    size_t limit = r->config->max_position_embeddings;
    FB_TRY(read_ids(r, line, "prompt", limit, &record->prompt_tokens, &record->prompt.num_tokens));
    record->prompt.tokens = record->prompt_tokens;
    fb_prompt *checked = NULL;
    fb_status status =
        fb_generate_prompts(r->config, &record->options, &record->prompt, 1, &checked);
    if (status != FB_OK)
        return fb_fail_in(status == FB_ERROR_MEMORY ? status : FB_ERROR_FORMAT, "%s", r->where);
    record->prompt = checked[0];
    fb_free(checked);
    return FB_OK;
}

static fb_status read_header(reader *r, const fb_json *line) {
    static const fb_json *const none = NULL;
    fb_trajectory *record = r->record;
    const fb_json *options = none;
    const char *model = NULL;
    size_t version = 0;
    if (!fb_json_has(line, "trajectory"))
        return fb_fail(FB_ERROR_FORMAT, "%s: no \"trajectory\": not the first line of a record",
                       r->where);
    FB_TRY(fb_json_get_size(line, r->where, "trajectory", 1, SIZE_MAX >> 1, &version));
    if (version != FB_TRAJECTORY_VERSION)
        return fb_fail(FB_ERROR_UNSUPPORTED, "%s: trajectory is %zu, this version reads %d",
                       r->where, version, FB_TRAJECTORY_VERSION);
    FB_TRY(fb_json_get_string_or(line, r->where, "model", "", &model));
    FB_TRY(copy_text(model, &record->model));
    FB_TRY(read_precision(r, line));
    FB_TRY(fb_json_get_object(line, r->where, "options", &options));
    fb_generate_options_init(&record->options);
    FB_TRY(read_options(r, options));
    FB_TRY(open_tensors(r, line));
    FB_TRY(read_prompt(r, line));
    record->schedule = fb_generate_schedule(r->config, &record->options);
    FB_TRY(fb_sequence_create(&record->schedule, &record->prompt, &r->sequence));
    fb_sequence_prefilled(r->sequence, fb_sequence_prefill_left(r->sequence));
    return FB_OK;
}

/* --- passes ----------------------------------------------------------------------------------- */

/* A line that lacks something that every line should have. */
static void note_missing(const reader *r, const char *what) {
    fb_trajectory *record = r->record;
    if (record->num_missing++ == 0) {
        record->missing_line = r->line;
        record->missing = what;
    }
}

static size_t count_masked(const reader *r) {
    size_t count = 0;
    for (size_t i = 0; i < r->record->options.block_size; i++)
        count += r->sequence->masked[i] ? 1 : 0;
    return count;
}

/* After the line before, which pass is next. */
static fb_status other_pass(const reader *r, size_t block, bool commit, size_t step) {
    const fb_sequence *s = r->sequence;
    char is[80], next[80];
    if (commit)
        snprintf(is, sizeof is, "the commit of block %zu", block);
    else
        snprintf(is, sizeof is, "step %zu of block %zu", step, block);
    if (s->status == FB_SEQUENCE_COMMIT)
        snprintf(next, sizeof next, "the commit of block %zu", s->num_blocks);
    else
        snprintf(next, sizeof next, "step %zu of block %zu", s->denoising_step, s->num_blocks);
    return fb_fail(FB_ERROR_FORMAT,
                   "%s: is %s, but %s is next (%zu masked positions are left): a block that does "
                   "not exist, or lines are missing",
                   r->where, is, next, count_masked(r));
}

/* A commit that the record leaves out: the next block begins. */
static fb_status add_commit(reader *r) {
    fb_trajectory_pass *pass = NULL;
    FB_TRY(add_pass(r->record, &pass));
    pass->block = r->sequence->num_blocks;
    pass->step = r->sequence->denoising_step;
    pass->commit = true;
    fb_sequence_commit(r->sequence);
    return FB_OK;
}

static fb_status not_after_end(const reader *r, size_t block) {
    return fb_fail(FB_ERROR_FORMAT,
                   "%s: block %zu follows, but the completion ended in block %zu (%s)", r->where,
                   block, r->sequence->num_blocks - 1,
                   r->sequence->finish_reason == FB_FINISH_STOP
                       ? "a stop token; ignore_stop says that the port goes on"
                   : r->sequence->finish_reason == FB_FINISH_LENGTH ? "max_tokens"
                                                                    : "no room for another block");
}

/* Block and step are the ones that follow. */
static fb_status read_place(reader *r, const fb_json *line, bool *commit) {
    size_t block = 0, step = 0;
    fb_sequence *s = r->sequence;
    const fb_json *at = fb_json_object_get(line, "step");
    *commit = fb_json_is_string(at) && strcmp(fb_json_string(at), "commit") == 0;
    FB_TRY(fb_json_get_size(line, r->where, "block", 0, SIZE_MAX >> 1, &block));
    if (!*commit)
        FB_TRY(fb_json_size(at, r->where, "step", 0, SIZE_MAX >> 1, &step));
    bool next = block == s->num_blocks + 1 && step == 0 && !*commit;
    if (s->status == FB_SEQUENCE_COMMIT && next) {
        FB_TRY(add_commit(r));
        r->record->commits_left_out = true;
    }
    if (s->status == FB_SEQUENCE_FINISHED)
        return not_after_end(r, block);
    if (block != s->num_blocks || *commit != (s->status == FB_SEQUENCE_COMMIT) ||
        (!*commit && step != s->denoising_step))
        return other_pass(r, block, *commit, step);
    return FB_OK;
}

static fb_status read_action(const reader *r, const fb_json *line, fb_trajectory_pass *pass) {
    const char *name = NULL;
    FB_TRY(fb_json_get_string_or(line, r->where, "action", "", &name));
    pass->has_action = name[0] != '\0';
    if (!pass->has_action) {
        if (r->record->options.reuse.tau > 0)
            note_missing(r, "action");
        return FB_OK;
    }
    for (int action = FB_REFRESH_AND_STORE; action <= FB_REFRESH_ROWS; action++) {
        pass->action = (fb_reuse_action)action;
        if (strcmp(name, fb_reuse_action_name(pass->action)) == 0)
            break;
        if (action == FB_REFRESH_ROWS)
            return fb_fail(FB_ERROR_FORMAT,
                           "%s: action is '%.40s', not refresh, refresh+store, refresh rows or "
                           "reuse",
                           r->where, name);
    }
    bool taken = pass->action == FB_REUSE || pass->action == FB_REFRESH_ROWS;
    if (taken && r->record->options.reuse.tau == 0)
        return fb_fail(FB_ERROR_FORMAT, "%s: action is '%s', but tau is 0: nothing is kept",
                       r->where, name);
    return FB_OK;
}

/* The ids that the pass was given are those that the lines before have decided. */
static fb_status check_before(const reader *r, const fb_json *line, bool commit) {
    const fb_json *items = NULL;
    size_t size = r->record->options.block_size;
    FB_TRY(get_items(r, line, "before", size, &items));
    if (!items && !commit)
        note_missing(r, "before");
    for (size_t i = 0; items && i < size; i++) {
        int32_t id = 0;
        FB_TRY(read_id(r, "before", fb_json_array_get(items, i), &id));
        if (id == r->sequence->block[i])
            continue;
        return fb_fail(FB_ERROR_FORMAT, "%s: before: position %zu holds %ld, but it %s %ld",
                       r->where, i, (long)id,
                       r->sequence->masked[i]             ? "is masked:"
                       : r->sequence->denoising_step == 0 ? "is the prompt's"
                                                          : "was decided to be",
                       (long)r->sequence->block[i]);
    }
    return FB_OK;
}

static fb_status read_confidence(const reader *r, const fb_json *line, fb_trajectory_pass *pass) {
    const fb_json *items = NULL;
    size_t size = r->record->options.block_size;
    bool missing = false;
    FB_TRY(get_items(r, line, "confidence", size, &items));
    for (size_t i = 0; i < size; i++) {
        double value = NAN;
        pass->confidence[i] = NAN;
        if (!pass->masked[i])
            continue;
        FB_TRY(read_number(r, "confidence", i, items ? fb_json_array_get(items, i) : NULL, &value));
        if (value < 0.0 || value > 1.001)
            return fb_fail(FB_ERROR_FORMAT,
                           "%s: confidence of position %zu is %g, not a probability", r->where, i,
                           value);
        pass->confidence[i] = (float)value;
        missing = missing || isnan(value);
    }
    if (missing)
        note_missing(r, "confidence");
    return FB_OK;
}

static fb_status read_proposed(const reader *r, const fb_json *line, fb_trajectory_pass *pass) {
    const fb_json *items = NULL;
    size_t size = r->record->options.block_size;
    bool missing = false;
    FB_TRY(get_items(r, line, "proposed", size, &items));
    for (size_t i = 0; i < size; i++) {
        const fb_json *item = items ? fb_json_array_get(items, i) : NULL;
        pass->proposed[i] = -1;
        if (!pass->masked[i])
            continue;
        if (!item || fb_json_is_null(item))
            missing = true;
        else
            FB_TRY(read_id(r, "proposed", item, &pass->proposed[i]));
    }
    if (missing)
        note_missing(r, "proposed");
    return FB_OK;
}

/* Entropies and random numbers: where they are needed. */
static fb_status read_entropy(const reader *r, const fb_json *line, fb_trajectory_pass *pass) {
    const fb_json *items = NULL;
    size_t size = r->record->options.block_size;
    bool needed = r->record->options.remasking == FB_ENTROPY_BOUNDED;
    FB_TRY(get_items(r, line, "entropy", size, &items));
    for (size_t i = 0; items && i < size; i++) {
        double value = NAN;
        if (pass->masked[i])
            FB_TRY(read_number(r, "entropy", i, fb_json_array_get(items, i), &value));
        if (value < 0.0 || value > 1e3)
            return fb_fail(FB_ERROR_FORMAT, "%s: entropy of position %zu is %g, not in nats",
                           r->where, i, value);
        pass->entropy[i] = (float)value;
    }
    if (!items)
        pass->entropy = NULL;
    if (!items && needed)
        note_missing(r, "entropy");
    return FB_OK;
}

static fb_status read_uniform(const reader *r, const fb_json *line, fb_trajectory_pass *pass) {
    const fb_json *items = NULL;
    size_t size = r->record->options.block_size;
    FB_TRY(get_items(r, line, "uniform", size, &items));
    for (size_t i = 0; items && i < size; i++) {
        pass->uniform[i] = NAN;
        if (pass->masked[i])
            FB_TRY(read_number(r, "uniform", i, fb_json_array_get(items, i), &pass->uniform[i]));
        if (pass->uniform[i] < 0.0 || pass->uniform[i] >= 1.0)
            return fb_fail(FB_ERROR_FORMAT, "%s: uniform of position %zu is %g, not in [0, 1)",
                           r->where, i, pass->uniform[i]);
    }
    if (!items)
        pass->uniform = NULL;
    return FB_OK;
}

static fb_status read_accepted(const reader *r, const fb_json *line, fb_trajectory_pass *pass) {
    const fb_json *positions = NULL, *tokens = NULL;
    size_t size = r->record->options.block_size;
    FB_TRY(fb_json_get_array(line, r->where, "accepted", &positions));
    pass->num_accepted = fb_json_array_size(positions);
    FB_TRY(get_items(r, line, "tokens", pass->num_accepted, &tokens));
    for (size_t i = 0; i < pass->num_accepted; i++) {
        size_t at = 0;
        FB_TRY(
            fb_json_size(fb_json_array_get(positions, i), r->where, "accepted", 0, size - 1, &at));
        if (pass->accepted[at])
            return fb_fail(FB_ERROR_FORMAT, "%s: accepted: position %zu twice", r->where, at);
        if (!pass->masked[at])
            return fb_fail(FB_ERROR_FORMAT,
                           "%s: accepted: position %zu is not masked: it holds %ld already",
                           r->where, at, (long)r->sequence->block[at]);
        pass->accepted[at] = true;
        if (tokens)
            FB_TRY(read_id(r, "tokens", fb_json_array_get(tokens, i), &pass->tokens[at]));
        else if (pass->proposed[at] >= 0)
            pass->tokens[at] = pass->proposed[at];
        else
            return fb_fail(FB_ERROR_FORMAT,
                           "%s: no tokens, and nothing is proposed at position %zu, which is "
                           "accepted",
                           r->where, at);
    }
    return FB_OK;
}

/* --- tensors of a pass ------------------------------------------------------------------------ */

static fb_dims shape_of(const reader *r, fb_trajectory_state state) {
    const fb_model_config *c = r->config;
    size_t block = r->record->options.block_size, layers = c->num_hidden_layers;
    switch (state) {
    case FB_TRAJECTORY_LOGITS:
    case FB_TRAJECTORY_GUMBEL:
        return FB_DIMS(block, c->vocab_size);
    case FB_TRAJECTORY_HIDDEN:
        return FB_DIMS(layers + 1, block, c->hidden_size);
    case FB_TRAJECTORY_EXTERNAL_LSE:
    case FB_TRAJECTORY_INTERNAL_LSE:
    case FB_TRAJECTORY_LSE:
        return FB_DIMS(layers, block, c->num_attention_heads);
    default:
        return FB_DIMS(layers, block, c->num_attention_heads, c->head_dim);
    }
}

static bool is_floating(fb_tensor_dtype dtype) {
    return dtype == FB_TENSOR_F64 || dtype == FB_TENSOR_F32 || dtype == FB_TENSOR_BF16 ||
           dtype == FB_TENSOR_F16;
}

static fb_status read_states(const reader *r, const fb_json *line, fb_trajectory_pass *pass) {
    for (int i = 0; i < FB_TRAJECTORY_NUM_STATES; i++) {
        const char *name = NULL, *key = state_names[i];
        FB_TRY(fb_json_get_string_or(line, r->where, key, "", &name));
        if (!name[0])
            continue;
        if (!r->record->tensors)
            return fb_fail(FB_ERROR_FORMAT, "%s: %s is given, but the first line names no tensors",
                           r->where, key);
        const fb_tensor_view *view = fb_safetensors_find(r->record->tensors, name);
        if (!view)
            return fb_fail(FB_ERROR_FORMAT, "%s: %s: the file of tensors has no '%.100s'", r->where,
                           key, name);
        fb_dims shape = shape_of(r, (fb_trajectory_state)i);
        fb_status status = fb_tensor_check_shape(view, shape.ndim, shape.sizes);
        if (status != FB_OK)
            return fb_fail_in(status, "%s: %s", r->where, key);
        if (!is_floating(view->dtype))
            return fb_fail(FB_ERROR_FORMAT, "%s: %s is %s, expected F32, BF16, F16 or F64",
                           r->where, key, view->dtype_name);
        pass->states[i] = view;
    }
    return FB_OK;
}

/* --- lines ------------------------------------------------------------------------------------ */

static fb_status check_keys(const reader *r, const fb_json *line) {
    static const char *const known[] = {"block",   "step",   "action",   "before",  "proposed",
                                        "entropy", "tokens", "accepted", "uniform", "confidence"};
    for (size_t i = 0; i < fb_json_object_size(line); i++) {
        const char *key = fb_json_object_key(line, i);
        bool found = key[0] == '_';
        for (size_t k = 0; k < sizeof known / sizeof *known && !found; k++)
            found = strcmp(known[k], key) == 0;
        for (size_t k = 0; k < FB_TRAJECTORY_NUM_STATES && !found; k++)
            found = strcmp(state_names[k], key) == 0;
        if (!found)
            return fb_fail(FB_ERROR_FORMAT,
                           "%s: %.60s is not a key of a pass (a port's own begin with _)", r->where,
                           key);
    }
    return FB_OK;
}

/* Tokens are drawn: the record should have what drew them. */
static void check_noise(const reader *r, const fb_trajectory_pass *pass) {
    const fb_generate_options *o = &r->record->options;
    if (!o->greedy && o->temperature > 0.0 && !pass->uniform && !pass->states[FB_TRAJECTORY_GUMBEL])
        note_missing(r, "uniform (or gumbel)");
}

static fb_status read_step(const reader *r, const fb_json *line, fb_trajectory_pass *pass) {
    memcpy(pass->masked, r->sequence->masked, r->record->options.block_size * sizeof(bool));
    FB_TRY(read_proposed(r, line, pass));
    FB_TRY(read_confidence(r, line, pass));
    FB_TRY(read_entropy(r, line, pass));
    FB_TRY(read_uniform(r, line, pass));
    FB_TRY(read_accepted(r, line, pass));
    check_noise(r, pass);
    return FB_OK;
}

static fb_status read_pass(reader *r, const fb_json *line) {
    bool commit = false;
    fb_trajectory_pass *pass = NULL;
    fb_sequence *s = r->sequence;
    FB_TRY(check_keys(r, line));
    FB_TRY(read_place(r, line, &commit));
    FB_TRY(check_before(r, line, commit));
    FB_TRY(add_pass(r->record, &pass));
    pass->line = r->line;
    pass->block = s->num_blocks;
    pass->step = s->denoising_step;
    pass->commit = commit;
    FB_TRY(read_action(r, line, pass));
    FB_TRY(read_states(r, line, pass));
    if (!commit)
        FB_TRY(read_step(r, line, pass));
    if (commit)
        fb_sequence_commit(s);
    else
        fb_sequence_accept_as(s, pass->tokens, pass->accepted);
    return FB_OK;
}

static fb_status check_completion(const reader *r, const fb_json *line) {
    const fb_sequence *s = r->sequence;
    int32_t *ids = NULL;
    size_t count = 0, expected = fb_sequence_num_completion(s);
    if (!fb_json_has(line, "tokens"))
        return FB_OK;
    fb_status status = read_ids(r, line, "tokens", SIZE_MAX >> 1, &ids, &count);
    const int32_t *decided = s->tokens + s->num_prompt_tokens;
    if (status == FB_OK && count != expected)
        status = fb_fail(FB_ERROR_FORMAT,
                         "%s: tokens has %zu items, but %zu tokens were decided and committed",
                         r->where, count, expected);
    for (size_t i = 0; status == FB_OK && i < count; i++)
        if (ids[i] != decided[i])
            status = fb_fail(FB_ERROR_FORMAT, "%s: token %zu is %ld, but was decided to be %ld",
                             r->where, i, (long)ids[i], (long)decided[i]);
    fb_free(ids);
    return status;
}

static fb_status read_end(reader *r, const fb_json *line) {
    const char *reason = NULL;
    FB_TRY(fb_json_get_string(line, r->where, "end", &reason));
    if (r->sequence->status == FB_SEQUENCE_COMMIT) {
        FB_TRY(add_commit(r));
        r->record->commits_left_out = true;
    }
    bool cancelled = strcmp(reason, fb_finish_reason_name(FB_FINISH_CANCELLED)) == 0;
    bool finished = r->sequence->status == FB_SEQUENCE_FINISHED;
    const char *ours = finished ? fb_finish_reason_name(r->sequence->finish_reason) : "";
    if (!cancelled && !finished)
        return fb_fail(FB_ERROR_FORMAT,
                       "%s: end is '%.40s', but step %zu of block %zu is next (\"cancelled\" ends "
                       "a record early)",
                       r->where, reason, r->sequence->denoising_step, r->sequence->num_blocks);
    if (!cancelled && strcmp(reason, ours) != 0)
        return fb_fail(FB_ERROR_FORMAT, "%s: end is '%.40s', expected '%s'", r->where, reason,
                       ours);
    r->record->ended = true;
    return check_completion(r, line);
}

static fb_status read_line(reader *r, const char *text, size_t size) {
    const fb_json *line = NULL;
    snprintf(r->where, sizeof r->where, "%.500s: line %zu", r->record->path, r->line);
    if (r->record->ended)
        return fb_fail(FB_ERROR_FORMAT, "%s: follows the end of the record", r->where);
    FB_TRY(fb_json_parse(text, size, r->where, &line));
    fb_status status = !r->sequence               ? read_header(r, line)
                       : fb_json_has(line, "end") ? read_end(r, line)
                                                  : read_pass(r, line);
    fb_json_free(line);
    return status;
}

static bool is_blank(const char *text, size_t size) {
    for (size_t i = 0; i < size; i++)
        if (!strchr(" \t\r", text[i]) || text[i] == '\0')
            return false;
    return true;
}

static fb_status read_lines(reader *r, const char *text, size_t size) {
    for (size_t at = 0; at < size;) {
        const char *end = memchr(text + at, '\n', size - at);
        size_t length = end ? (size_t)(end - text) - at : size - at;
        r->line++;
        if (!is_blank(text + at, length))
            FB_TRY(read_line(r, text + at, length));
        at += length + 1;
    }
    if (!r->sequence)
        return fb_fail(FB_ERROR_FORMAT, "%s: is empty", r->record->path);
    r->record->num_lines = r->line;
    return FB_OK;
}

fb_status fb_trajectory_open(const char *path, const char *tensors, const fb_model_config *config,
                             fb_trajectory *record) {
    reader r = {.record = record, .config = config, .tensors = tensors};
    fb_file_map map = {0};
    *record = (fb_trajectory){0};
    FB_TRY(copy_text(path, &record->path));
    FB_TRY(fb_file_map_open(path, &map));
    fb_status status = read_lines(&r, map.data, map.size);
    fb_file_map_close(&map);
    fb_sequence_destroy(r.sequence);
    return status;
}

fb_reuse_action fb_trajectory_forced_action(const fb_trajectory *record,
                                            const fb_trajectory_pass *pass, const fb_plan *rule) {
    if (!pass->has_action)
        return rule->action;
    bool refresh = pass->action == FB_REFRESH_ONLY || pass->action == FB_REFRESH_AND_STORE;
    if (!refresh)
        return pass->action;
    bool keeps = pass->action == FB_REFRESH_AND_STORE || rule->action != FB_REFRESH_ONLY;
    return pass->commit || record->options.reuse.tau == 0 || !keeps ? FB_REFRESH_ONLY
                                                                    : FB_REFRESH_AND_STORE;
}
