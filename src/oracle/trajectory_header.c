#include "oracle/trajectory_header.h"

#include "base/error.h"
#include "base/memory.h"
#include "decode/generate_options.h"
#include "oracle/trajectory_write.h"

#include <stdio.h>
#include <string.h>

enum { MAX_BLOCK = 1 << 16, MAX_STOP_TOKENS = 1024 };

static fb_status read_kv_dtype(const fb_trajectory_reader *r, const fb_json *options,
                               fb_dtype *dtype) {
    const char *name = NULL;
    FB_TRY(fb_json_get_string_or(options, r->where, "kv_dtype", "f32", &name));
    fb_status status = fb_kv_dtype_parse(name, dtype);
    return status == FB_OK ? FB_OK : fb_fail_in(FB_ERROR_FORMAT, "%s: kv_dtype", r->where);
}

/* One of two words; the first where there is none. */
static fb_status read_choice(const fb_trajectory_reader *r, const fb_json *options, const char *key,
                             const char *first, const char *second, bool *is_second) {
    const char *name = NULL;
    FB_TRY(fb_json_get_string_or(options, r->where, key, first, &name));
    *is_second = strcmp(name, second) == 0;
    if (!*is_second && strcmp(name, first) != 0)
        return fb_fail(FB_ERROR_FORMAT, "%s: %s is '%s', neither %s nor %s", r->where, key, name,
                       first, second);
    return FB_OK;
}

static fb_status read_reuse(const fb_trajectory_reader *r, const fb_json *options,
                            fb_reuse_policy *reuse) {
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

static fb_status read_sampling(const fb_trajectory_reader *r, const fb_json *options,
                               fb_generate_options *o) {
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

static fb_status read_tokens(const fb_trajectory_reader *r, const fb_json *options,
                             fb_generate_options *o) {
    const fb_json *mask = fb_json_object_get(options, "mask_token");
    if (mask && !fb_json_is_null(mask))
        FB_TRY(fb_trajectory_read_id(r, "mask_token", mask, &o->mask_token_id));
    FB_TRY(fb_json_get_bool_or(options, r->where, "ignore_stop", false, &o->ignore_stop));
    if (!fb_json_has(options, "stop_tokens"))
        return FB_OK;
    FB_TRY(fb_trajectory_read_ids(r, options, "stop_tokens", MAX_STOP_TOKENS,
                                  &r->record->stop_tokens, &o->num_stop_tokens));
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

static fb_status check_options(const fb_trajectory_reader *r, const fb_json *options) {
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

static fb_status read_options(const fb_trajectory_reader *r, const fb_json *options) {
    fb_generate_options *o = &r->record->options;
    const char *where = r->where;
    bool released = false;
    o->loop = FB_LOOP_SDAR; /* the only one that records have */
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
static fb_status open_tensors(const fb_trajectory_reader *r, const fb_json *line) {
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

static fb_status read_precision(const fb_trajectory_reader *r, const fb_json *line) {
    const char *name = NULL;
    FB_TRY(fb_json_get_string(line, r->where, "precision", &name));
    if (fb_arithmetic_parse(name, &r->record->precision) != FB_OK)
        return fb_fail_in(FB_ERROR_FORMAT, "%s", r->where);
    if (r->record->precision == FB_ARITHMETIC_AUTO)
        return fb_fail(FB_ERROR_FORMAT, "%s: precision is auto, expected what the port computes in",
                       r->where);
    return FB_OK;
}

static fb_status read_prompt(const fb_trajectory_reader *r, const fb_json *line) {
    fb_trajectory *record = r->record;
    size_t limit = r->config->max_position_embeddings;
    FB_TRY(fb_trajectory_read_ids(r, line, "prompt", limit, &record->prompt_tokens,
                                  &record->prompt.num_tokens));
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

fb_status fb_trajectory_read_header(fb_trajectory_reader *r, const fb_json *line) {
    fb_trajectory *record = r->record;
    const fb_json *options = NULL;
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
    FB_TRY(fb_trajectory_copy_text(model, &record->model));
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
