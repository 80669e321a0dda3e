#include "oracle/trajectory_pass.h"

#include "base/error.h"
#include "base/memory.h"
#include "oracle/dims.h"
#include "oracle/trajectory_step.h"

#include <stdio.h>
#include <string.h>

/* --- which pass it is ------------------------------------------------------------------------- */

static size_t count_masked(const fb_trajectory_reader *r) {
    size_t count = 0;
    for (size_t i = 0; i < r->record->options.block_size; i++)
        count += r->sequence->masked[i] ? 1 : 0;
    return count;
}

/* After the line before, which pass is next. */
static fb_status other_pass(const fb_trajectory_reader *r, size_t block, bool commit, size_t step) {
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
static fb_status fb_trajectory_add_commit(fb_trajectory_reader *r) {
    fb_trajectory_pass *pass = NULL;
    FB_TRY(fb_trajectory_add_pass(r->record, &pass));
    pass->block = r->sequence->num_blocks;
    pass->step = r->sequence->denoising_step;
    pass->commit = true;
    fb_sequence_commit(r->sequence);
    return FB_OK;
}

static fb_status not_after_end(const fb_trajectory_reader *r, size_t block) {
    return fb_fail(FB_ERROR_FORMAT,
                   "%s: block %zu follows, but the completion ended in block %zu (%s)", r->where,
                   block, r->sequence->num_blocks - 1,
                   r->sequence->finish_reason == FB_FINISH_STOP
                       ? "a stop token; ignore_stop says that the port goes on"
                   : r->sequence->finish_reason == FB_FINISH_LENGTH ? "max_tokens"
                                                                    : "no room for another block");
}

/* Block and step are the ones that follow. */
static fb_status read_place(fb_trajectory_reader *r, const fb_json *line, bool *commit) {
    size_t block = 0, step = 0;
    fb_sequence *s = r->sequence;
    const fb_json *at = fb_json_object_get(line, "step");
    *commit = fb_json_is_string(at) && strcmp(fb_json_string(at), "commit") == 0;
    FB_TRY(fb_json_get_size(line, r->where, "block", 0, SIZE_MAX >> 1, &block));
    if (!*commit)
        FB_TRY(fb_json_size(at, r->where, "step", 0, SIZE_MAX >> 1, &step));
    bool next = block == s->num_blocks + 1 && step == 0 && !*commit;
    if (s->status == FB_SEQUENCE_COMMIT && next) {
        FB_TRY(fb_trajectory_add_commit(r));
        r->record->commits_left_out = true;
    }
    if (s->status == FB_SEQUENCE_FINISHED)
        return not_after_end(r, block);
    if (block != s->num_blocks || *commit != (s->status == FB_SEQUENCE_COMMIT) ||
        (!*commit && step != s->denoising_step))
        return other_pass(r, block, *commit, step);
    return FB_OK;
}

/* --- what both kinds of passes have ----------------------------------------------------------- */

static fb_status read_action(const fb_trajectory_reader *r, const fb_json *line,
                             fb_trajectory_pass *pass) {
    const char *name = NULL;
    FB_TRY(fb_json_get_string_or(line, r->where, "action", "", &name));
    pass->has_action = name[0] != '\0';
    if (!pass->has_action) {
        if (r->record->options.reuse.tau > 0)
            fb_trajectory_note_missing(r, "action");
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

/* What the position should hold, and why. */
static fb_status other_before(const fb_trajectory_reader *r, size_t i, int32_t id) {
    const fb_sequence *s = r->sequence;
    size_t whole = s->num_prompt_tokens - s->num_prompt_tokens % r->record->options.block_size;
    bool of_prompt = s->num_tokens + i < s->num_prompt_tokens;
    char should[240];
    if (of_prompt)
        snprintf(should, sizeof should,
                 "the prompt's token %zu is there: %ld. The first block begins with the %zu tokens "
                 "of the prompt that fill no block",
                 s->num_tokens + i, (long)s->block[i], s->num_prompt_tokens - whole);
    else if (s->masked[i])
        snprintf(should, sizeof should, "no line has accepted it: it is masked, %ld",
                 (long)s->block[i]);
    else
        snprintf(should, sizeof should, "an earlier step accepted %ld there%s", (long)s->block[i],
                 id == r->record->options.mask_token_id ? ", which stays" : "");
    return fb_fail(FB_ERROR_FORMAT, "%s: before: position %zu holds %ld, but %s", r->where, i,
                   (long)id, should);
}

/* The ids that the pass was given are those that the lines before have decided. */
static fb_status check_before(const fb_trajectory_reader *r, const fb_json *line, bool commit) {
    const fb_json *items = NULL;
    size_t size = r->record->options.block_size;
    FB_TRY(fb_trajectory_items(r, line, "before", size, &items));
    if (!items && !commit)
        fb_trajectory_note_missing(r, "before");
    for (size_t i = 0; items && i < size; i++) {
        int32_t id = 0;
        FB_TRY(fb_trajectory_read_id(r, "before", fb_json_array_get(items, i), &id));
        if (id == r->sequence->block[i])
            continue;
        return other_before(r, i, id);
    }
    return FB_OK;
}

/* --- tensors of a pass ------------------------------------------------------------------------ */

static fb_dims shape_of(const fb_trajectory_reader *r, fb_trajectory_state state) {
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

static fb_status read_states(const fb_trajectory_reader *r, const fb_json *line,
                             fb_trajectory_pass *pass) {
    for (int i = 0; i < FB_TRAJECTORY_NUM_STATES; i++) {
        const char *name = NULL, *key = fb_trajectory_state_name((fb_trajectory_state)i);
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

static fb_status check_keys(const fb_trajectory_reader *r, const fb_json *line) {
    static const char *const known[] = {"block",   "step",   "action",   "before",  "proposed",
                                        "entropy", "tokens", "accepted", "uniform", "confidence"};
    for (size_t i = 0; i < fb_json_object_size(line); i++) {
        const char *key = fb_json_object_key(line, i);
        bool found = key[0] == '_';
        for (size_t k = 0; k < sizeof known / sizeof *known && !found; k++)
            found = strcmp(known[k], key) == 0;
        for (size_t k = 0; k < FB_TRAJECTORY_NUM_STATES && !found; k++)
            found = strcmp(fb_trajectory_state_name((fb_trajectory_state)k), key) == 0;
        if (!found)
            return fb_fail(FB_ERROR_FORMAT,
                           "%s: %.60s is not a key of a pass (a port's own begin with _)", r->where,
                           key);
    }
    return FB_OK;
}

fb_status fb_trajectory_read_pass(fb_trajectory_reader *r, const fb_json *line) {
    bool commit = false;
    fb_trajectory_pass *pass = NULL;
    fb_sequence *s = r->sequence;
    FB_TRY(check_keys(r, line));
    FB_TRY(read_place(r, line, &commit));
    FB_TRY(check_before(r, line, commit));
    FB_TRY(fb_trajectory_add_pass(r->record, &pass));
    pass->line = r->line;
    pass->block = s->num_blocks;
    pass->step = s->denoising_step;
    pass->commit = commit;
    FB_TRY(read_action(r, line, pass));
    FB_TRY(read_states(r, line, pass));
    if (!commit)
        FB_TRY(fb_trajectory_read_step(r, line, pass));
    if (commit)
        fb_sequence_commit(s);
    else
        fb_sequence_accept_as(s, pass->tokens, pass->accepted);
    return FB_OK;
}

/* The completion has another length. */
static fb_status other_completion(const fb_trajectory_reader *r, const int32_t *ids, size_t count,
                                  size_t expected) {
    const fb_sequence *s = r->sequence;
    const int32_t *decided = s->tokens + s->num_prompt_tokens;
    bool stopped = s->finish_reason == FB_FINISH_STOP;
    size_t equal = 0;
    while (equal < count && equal < expected && ids[equal] == decided[equal])
        equal++;
    const char *why = equal == count && count + 1 == expected && stopped
                          ? ": the stop token belongs to them"
                      : equal == expected && stopped ? ": nothing behind the stop token does"
                      : equal == expected && s->finish_reason == FB_FINISH_LENGTH
                          ? ": nothing behind max_tokens does"
                          : "";
    return fb_fail(FB_ERROR_FORMAT,
                   "%s: tokens has %zu items, but %zu tokens were decided and committed%s%s",
                   r->where, count, expected, why[0] ? " and belong to the completion" : "", why);
}

static fb_status check_completion(const fb_trajectory_reader *r, const fb_json *line) {
    const fb_sequence *s = r->sequence;
    int32_t *ids = NULL;
    size_t count = 0, expected = fb_sequence_num_completion(s);
    if (!fb_json_has(line, "tokens"))
        return FB_OK;
    fb_status status = fb_trajectory_read_ids(r, line, "tokens", SIZE_MAX >> 1, &ids, &count);
    const int32_t *decided = s->tokens + s->num_prompt_tokens;
    if (status == FB_OK && count != expected)
        status = other_completion(r, ids, count, expected);
    for (size_t i = 0; status == FB_OK && i < count; i++)
        if (ids[i] != decided[i])
            status = fb_fail(FB_ERROR_FORMAT, "%s: token %zu is %ld, but was decided to be %ld",
                             r->where, i, (long)ids[i], (long)decided[i]);
    fb_free(ids);
    return status;
}

fb_status fb_trajectory_read_end(fb_trajectory_reader *r, const fb_json *line) {
    const char *reason = NULL;
    FB_TRY(fb_json_get_string(line, r->where, "end", &reason));
    if (r->sequence->status == FB_SEQUENCE_COMMIT) {
        FB_TRY(fb_trajectory_add_commit(r));
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
