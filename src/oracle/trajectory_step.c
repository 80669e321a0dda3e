#include "oracle/trajectory_step.h"

#include "base/error.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static fb_status not_a_probability(const fb_trajectory_reader *r, size_t position, double value) {
    char guess[100];
    if (value < 0.0)
        snprintf(guess, sizeof guess, "; is it a logarithm? That of %.3g", exp(value));
    else
        snprintf(guess, sizeof guess, "; is it a logit, or not divided by the sum?");
    return fb_fail(FB_ERROR_FORMAT, "%s: confidence of position %zu is %g, not a probability%s",
                   r->where, position, value, guess);
}

static fb_status read_confidence(const fb_trajectory_reader *r, const fb_json *line,
                                 fb_trajectory_pass *pass) {
    const fb_json *items = NULL;
    size_t size = r->record->options.block_size;
    bool missing = false;
    FB_TRY(fb_trajectory_items(r, line, "confidence", size, &items));
    for (size_t i = 0; i < size; i++) {
        double value = NAN;
        pass->confidence[i] = NAN;
        if (!pass->masked[i])
            continue;
        FB_TRY(fb_trajectory_read_number(r, "confidence", i,
                                         items ? fb_json_array_get(items, i) : NULL, &value));
        if (value < 0.0 || value > 1.001)
            return not_a_probability(r, i, value);
        pass->confidence[i] = (float)value;
        missing = missing || isnan(value);
    }
    if (missing)
        fb_trajectory_note_missing(r, "confidence");
    return FB_OK;
}

static fb_status read_proposed(const fb_trajectory_reader *r, const fb_json *line,
                               fb_trajectory_pass *pass) {
    const fb_json *items = NULL;
    size_t size = r->record->options.block_size;
    bool missing = false;
    FB_TRY(fb_trajectory_items(r, line, "proposed", size, &items));
    for (size_t i = 0; i < size; i++) {
        const fb_json *item = items ? fb_json_array_get(items, i) : NULL;
        pass->proposed[i] = -1;
        if (!pass->masked[i])
            continue;
        if (!item || fb_json_is_null(item))
            missing = true;
        else
            FB_TRY(fb_trajectory_read_id(r, "proposed", item, &pass->proposed[i]));
    }
    if (missing)
        fb_trajectory_note_missing(r, "proposed");
    return FB_OK;
}

/* Entropies and random numbers: where they are needed. */
static fb_status read_entropy(const fb_trajectory_reader *r, const fb_json *line,
                              fb_trajectory_pass *pass) {
    const fb_json *items = NULL;
    size_t size = r->record->options.block_size;
    bool needed = r->record->options.remasking == FB_ENTROPY_BOUNDED;
    FB_TRY(fb_trajectory_items(r, line, "entropy", size, &items));
    for (size_t i = 0; items && i < size; i++) {
        double value = NAN;
        if (pass->masked[i])
            FB_TRY(fb_trajectory_read_number(r, "entropy", i, fb_json_array_get(items, i), &value));
        if (value < 0.0 || value > 1e3)
            return fb_fail(FB_ERROR_FORMAT, "%s: entropy of position %zu is %g, not in nats",
                           r->where, i, value);
        pass->entropy[i] = (float)value;
    }
    if (!items)
        pass->entropy = NULL;
    if (!items && needed)
        fb_trajectory_note_missing(r, "entropy");
    return FB_OK;
}

static fb_status read_uniform(const fb_trajectory_reader *r, const fb_json *line,
                              fb_trajectory_pass *pass) {
    const fb_json *items = NULL;
    size_t size = r->record->options.block_size;
    FB_TRY(fb_trajectory_items(r, line, "uniform", size, &items));
    for (size_t i = 0; items && i < size; i++) {
        pass->uniform[i] = NAN;
        if (pass->masked[i])
            FB_TRY(fb_trajectory_read_number(r, "uniform", i, fb_json_array_get(items, i),
                                             &pass->uniform[i]));
        if (pass->uniform[i] < 0.0 || pass->uniform[i] >= 1.0)
            return fb_fail(FB_ERROR_FORMAT, "%s: uniform of position %zu is %g, not in [0, 1)",
                           r->where, i, pass->uniform[i]);
    }
    if (!items)
        pass->uniform = NULL;
    return FB_OK;
}

static fb_status read_accepted(const fb_trajectory_reader *r, const fb_json *line,
                               fb_trajectory_pass *pass) {
    const fb_json *positions = NULL, *tokens = NULL;
    size_t size = r->record->options.block_size;
    FB_TRY(fb_json_get_array(line, r->where, "accepted", &positions));
    pass->num_accepted = fb_json_array_size(positions);
    FB_TRY(fb_trajectory_items(r, line, "tokens", pass->num_accepted, &tokens));
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
            FB_TRY(fb_trajectory_read_id(r, "tokens", fb_json_array_get(tokens, i),
                                         &pass->tokens[at]));
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

/* Tokens are drawn: the record should have what drew them. */
static void check_noise(const fb_trajectory_reader *r, const fb_trajectory_pass *pass) {
    const fb_generate_options *o = &r->record->options;
    if (!o->greedy && o->temperature > 0.0 && !pass->uniform && !pass->states[FB_TRAJECTORY_GUMBEL])
        fb_trajectory_note_missing(r, "uniform (or gumbel)");
}

fb_status fb_trajectory_read_step(const fb_trajectory_reader *r, const fb_json *line,
                                  fb_trajectory_pass *pass) {
    memcpy(pass->masked, r->sequence->masked, r->record->options.block_size * sizeof(bool));
    FB_TRY(read_proposed(r, line, pass));
    FB_TRY(read_confidence(r, line, pass));
    FB_TRY(read_entropy(r, line, pass));
    FB_TRY(read_uniform(r, line, pass));
    FB_TRY(read_accepted(r, line, pass));
    check_noise(r, pass);
    return FB_OK;
}
