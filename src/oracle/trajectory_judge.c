#include "oracle/trajectory_judge.h"

#include "base/error.h"
#include "base/memory.h"
#include "oracle/trajectory_decisions.h"

#include <math.h>
#include <stdio.h>

/* --- replay ----------------------------------------------------------------------------------- */

static fb_status replay_all(fb_trajectory_replay *replay, fb_trajectory_scratch *scratch,
                            fb_trajectory_judgement *j) {
    FB_TRY(fb_trajectory_scratch_make(replay, scratch));
    FB_TRY(fb_alloc_zeroed(j->record->num_passes, sizeof *j->steps, "steps", &j->steps));
    for (size_t i = 0; i < j->record->num_passes; i++) {
        FB_TRY(fb_trajectory_replay_run(replay, &j->record->passes[i]));
        j->num_steps = i + 1;
        FB_TRY(fb_trajectory_measure(replay, scratch, &j->steps[i]));
        FB_TRY(fb_trajectory_replay_decide(replay));
    }
    return FB_OK;
}

static fb_status replay(fb_model *model, fb_trajectory_judgement *j) {
    fb_trajectory_replay replay = {0};
    fb_trajectory_scratch scratch = {0};
    fb_status status = fb_trajectory_replay_begin(j->record, model, 2, &replay);
    if (status == FB_OK)
        status = replay_all(&replay, &scratch, j);
    fb_trajectory_scratch_free(&scratch);
    fb_trajectory_replay_free(&replay);
    return status;
}

/* --- the differences of a step ---------------------------------------------------------------- */

static const char *short_name(fb_reuse_action action) {
    return action == FB_REFRESH_AND_STORE ? "refresh" : fb_reuse_action_name(action);
}

static void find_action(const fb_trajectory_judgement *j, size_t index,
                        fb_trajectory_difference *found) {
    const fb_trajectory_step *step = &j->steps[index];
    if (!step->pass->has_action || fb_trajectory_same_action(step->rule, step->action))
        return;
    *found = (fb_trajectory_difference){
        .there = true, .step = index, .subject = FB_SUBJECT_ACTION, .size = INFINITY};
    snprintf(found->words, sizeof found->words,
             "the record's action is %s, the rule's %s (tau %zu, %zu dirty)",
             short_name(step->action), short_name(step->rule), j->record->options.reuse.tau,
             step->dirty);
}

/* " (rows 1, 3, too)", or " alone". */
static void say_rows(const fb_trajectory_judgement *j, const fb_trajectory_step *step,
                     fb_trajectory_state state, size_t layer, char *text, size_t size) {
    size_t block = j->record->options.block_size, wrong = 0;
    for (size_t r = 0; r < block; r++) {
        double ratio = fb_trajectory_state_ratio(j, step, state, layer, r);
        wrong += ratio > fb_trajectory_state_allowed ? 1 : 0;
    }
    snprintf(text, size, wrong == block ? " (and all others)" : wrong == 1 ? " alone" : "");
    if (wrong > 1 && wrong < block)
        snprintf(text, size, " (and %zu of %zu others)", wrong - 1, block - 1);
}

/* ", head 2 alone"; nothing where all are, or there are none. */
static void say_heads(const fb_trajectory_judgement *j, uint64_t heads, char *text, size_t size) {
    size_t count = 0, of = j->config->num_attention_heads, used = 0;
    for (size_t h = 0; h < of && h < 64; h++)
        count += heads >> h & 1;
    if (count == 0 || of > 64)
        return;
    if (count == of) {
        snprintf(text, size, ", all heads");
        return;
    }
    for (size_t h = 0; h < of && used + 16 < size; h++)
        if (heads >> h & 1)
            used += (size_t)snprintf(text + used, size - used, "%s%zu",
                                     used         ? ", "
                                     : count == 1 ? ", head "
                                                  : ", heads ",
                                     h);
    if (used + 8 < size)
        snprintf(text + used, size - used, " alone");
}

/* One state of one layer; true if it is too far off. */
static bool find_state(fb_trajectory_judgement *j, size_t index, fb_trajectory_state state,
                       size_t layer, fb_trajectory_difference *found) {
    const fb_trajectory_step *step = &j->steps[index];
    double worst = 0.0;
    size_t row = 0, block = j->record->options.block_size;
    if (!step->states[state])
        return false;
    for (size_t r = 0; r < block; r++) {
        double ratio = fb_trajectory_state_ratio(j, step, state, layer, r);
        if (ratio > worst) {
            worst = ratio;
            row = r;
        }
    }
    j->worst_states[state] = fmax(j->worst_states[state], worst);
    j->exact = j->exact && worst <= 0.0;
    if (worst <= fb_trajectory_state_allowed)
        return false;
    if (found->there)
        return true;
    *found = (fb_trajectory_difference){.there = true,
                                        .step = index,
                                        .subject = FB_SUBJECT_STATE,
                                        .state = state,
                                        .layer = layer,
                                        .position = row,
                                        .size = worst};
    char place[80] = "";
    if (state == FB_TRAJECTORY_HIDDEN && layer == 0)
        snprintf(place, sizeof place, "[0], the embedding");
    else if (state == FB_TRAJECTORY_HIDDEN && layer == j->config->num_hidden_layers)
        snprintf(place, sizeof place, "[%zu], the output of the final norm", layer);
    else if (state == FB_TRAJECTORY_HIDDEN)
        snprintf(place, sizeof place, "[%zu], the output of layer %zu", layer, layer - 1);
    else if (state != FB_TRAJECTORY_LOGITS)
        snprintf(place, sizeof place, " of layer %zu", layer);
    char rows[80] = "", heads[80] = "", bias[60] = "";
    say_rows(j, step, state, layer, rows, sizeof rows);
    say_heads(j, step->states[state][layer * block + row].heads, heads, sizeof heads);
    if (state == FB_TRAJECTORY_EXTERNAL_LSE || state == FB_TRAJECTORY_INTERNAL_LSE ||
        state == FB_TRAJECTORY_LSE)
        snprintf(bias, sizeof bias, "; the record's is %+.3g on average",
                 step->states[state][layer * block + row].bias);
    snprintf(found->words, sizeof found->words,
             "%s%s, row %zu%s%s: the error is %.3g times the noise, %.3g is allowed%s",
             fb_trajectory_state_name(state), place, row, rows, heads, worst,
             fb_trajectory_state_allowed, bias);
    return true;
}

/* In the order in which a pass computes them. */
static void find_states(fb_trajectory_judgement *j, size_t index, fb_trajectory_difference *found) {
    static const fb_trajectory_state in_layer[] = {
        FB_TRAJECTORY_EXTERNAL_LSE, FB_TRAJECTORY_EXTERNAL_OUT, FB_TRAJECTORY_INTERNAL_LSE,
        FB_TRAJECTORY_INTERNAL_OUT, FB_TRAJECTORY_LSE,          FB_TRAJECTORY_OUT,
    };
    find_state(j, index, FB_TRAJECTORY_HIDDEN, 0, found);
    for (size_t layer = 0; layer < j->config->num_hidden_layers; layer++) {
        for (size_t i = 0; i < sizeof in_layer / sizeof *in_layer; i++)
            find_state(j, index, in_layer[i], layer, found);
        find_state(j, index, FB_TRAJECTORY_HIDDEN, layer + 1, found);
    }
    if (!j->steps[index].pass->commit)
        find_state(j, index, FB_TRAJECTORY_LOGITS, 0, found);
}

static void find_confidence(fb_trajectory_judgement *j, size_t index,
                            fb_trajectory_difference *found) {
    const fb_trajectory_step *step = &j->steps[index];
    for (size_t r = 0; r < step->num_rows; r++) {
        const fb_trajectory_row *row = &step->rows[r];
        double ratio = fb_trajectory_confidence_ratio(j, row);
        j->exact = j->exact && step->pass->confidence[row->position] >= row->confidence &&
                   step->pass->confidence[row->position] <= row->confidence;
        j->largest = fmax(j->largest, ratio);
        if (ratio <= j->allowed || (found->there && found->size >= ratio))
            continue;
        *found = (fb_trajectory_difference){.there = true,
                                            .step = index,
                                            .subject = FB_SUBJECT_CONFIDENCE,
                                            .position = row->position,
                                            .size = ratio};
        snprintf(found->words, sizeof found->words,
                 "the confidence of position %zu (token %ld) is %.6g, expected %.6g: %.3g times "
                 "the noise, %.3g is allowed",
                 row->position, (long)step->pass->proposed[row->position],
                 (double)step->pass->confidence[row->position], exp(row->own), ratio, j->allowed);
    }
}

/* No confidence of the step is too far off by itself; are all together? */
static void find_confidences(fb_trajectory_judgement *j, size_t index,
                             fb_trajectory_difference *found) {
    const fb_trajectory_step *step = &j->steps[index];
    double square = 0.0, worst = 0.0, known = 0.0;
    size_t position = 0;
    for (size_t r = 0; r < step->num_rows; r++) {
        double ratio = fb_trajectory_confidence_ratio(j, &step->rows[r]);
        square += ratio * ratio;
        known += isnan(step->rows[r].error) ? 0.0 : 1.0;
        if (ratio > worst) {
            worst = ratio;
            position = step->rows[r].position;
        }
    }
    double allowed = fb_trajectory_allowed_rms(known / 2.0, (double)j->num_steps);
    double rms = known > 0.0 ? sqrt(square / known) : 0.0;
    j->largest_rms = fmax(j->largest_rms, rms / allowed);
    if (rms <= allowed || found->there)
        return;
    *found = (fb_trajectory_difference){.there = true,
                                        .step = index,
                                        .subject = FB_SUBJECT_CONFIDENCE,
                                        .position = position,
                                        .size = rms};
    snprintf(found->words, sizeof found->words,
             "the confidences of the step are off by %.3g times the noise (root mean square), %.3g "
             "is allowed; most at position %zu: %.6g",
             rms, allowed, position, (double)step->pass->confidence[position]);
}

/* No step is too far off by itself; are all together? */
static void find_all(fb_trajectory_judgement *j, size_t num_known) {
    size_t step = 0;
    double allowed = fb_trajectory_allowed_rms((double)j->all.steps.of / 4.0, 1.0);
    if (j->rms <= allowed || j->mistake.there || num_known == 0)
        return;
    while (step + 1 < j->num_steps && j->steps[step].num_rows == 0)
        step++;
    j->mistake = (fb_trajectory_difference){
        .there = true, .step = step, .subject = FB_SUBJECT_CONFIDENCE, .size = j->rms};
    snprintf(
        j->mistake.words, sizeof j->mistake.words,
        "no confidence is off by more than is allowed, but all together are: by %.3g times the "
        "noise (root mean square), %.3g is allowed",
        j->rms, allowed);
    j->mistakes++;
    if (!j->first.there)
        j->first = j->mistake;
}

/* Ties are proposals, too, that differ; the first of a step counts, a mistake before a tie. */
static void find_proposal(const fb_trajectory_judgement *j, size_t index,
                          fb_trajectory_difference *found) {
    const fb_trajectory_step *step = &j->steps[index];
    for (size_t r = 0; r < step->num_rows; r++) {
        const fb_trajectory_row *row = &step->rows[r];
        int32_t theirs = step->pass->proposed[row->position];
        if (theirs < 0 || (theirs == row->ours && !(row->gap > 0.0)))
            continue;
        double noise = row->gap_shape * fmax(row->noise, j->noise);
        double ratio = row->gap > 0.0 ? row->gap / noise : 0.0;
        bool tie = ratio <= j->allowed;
        if (found->there && (tie || !found->tie))
            continue;
        *found = (fb_trajectory_difference){.there = true,
                                            .tie = tie,
                                            .step = index,
                                            .subject = FB_SUBJECT_PROPOSAL,
                                            .position = row->position,
                                            .size = ratio};
        snprintf(found->words, sizeof found->words,
                 "position %zu: the record proposes token %ld, this library %ld; they are %.3g "
                 "apart, the noise is %.3g",
                 row->position, (long)theirs, (long)row->ours, row->gap, noise);
    }
}

/* --- the whole -------------------------------------------------------------------------------- */

static void count(fb_trajectory_share *share, bool agrees) {
    share->of++;
    share->agree += agrees ? 1 : 0;
}

static void count_step(const fb_trajectory_step *step, size_t block,
                       fb_trajectory_agreement *agreement) {
    const fb_trajectory_pass *pass = step->pass;
    bool equal = true;
    if (pass->has_action)
        count(&agreement->actions, fb_trajectory_same_action(step->rule, step->action));
    if (pass->commit)
        return;
    for (size_t i = 0; i < block; i++)
        equal = equal && step->ours[i] == pass->accepted[i];
    for (size_t r = 0; r < step->num_rows; r++) {
        const fb_trajectory_row *row = &step->rows[r];
        size_t at = row->position;
        if (pass->proposed[at] >= 0 && row->gap_shape > 0.0)
            count(&agreement->proposals, pass->proposed[at] == row->ours);
        if (!pass->accepted[at])
            continue;
        bool same = step->ours[at] && pass->tokens[at] == row->ours;
        count(&agreement->decisions, same);
        equal = equal && same;
    }
    count(&agreement->steps, equal);
}

/* Keeps the first difference, and the first mistake. */
static void take(fb_trajectory_judgement *j, const fb_trajectory_difference *found) {
    if (!found->there)
        return;
    *(found->tie ? &j->ties : &j->mistakes) += 1;
    if (j->num_differences < FB_TRAJECTORY_MAX_DIFFERENCES)
        j->differences[j->num_differences++] = *found;
    if (!j->first.there)
        j->first = *found;
    if (!found->tie && !j->mistake.there)
        j->mistake = *found;
}

static void judge_step(fb_trajectory_judgement *j, size_t index) {
    fb_trajectory_difference found[5] = {0};
    bool commit = j->steps[index].pass->commit;
    find_action(j, index, &found[0]);
    find_states(j, index, &found[1]);
    if (!commit) {
        find_confidence(j, index, &found[2]);
        find_confidences(j, index, &found[2]);
        find_proposal(j, index, &found[3]);
        bool wrong = found[1].there || found[2].there || (found[3].there && !found[3].tie);
        fb_trajectory_grade_decisions(j, index, wrong, &found[4]);
    }
    for (size_t i = 0; i < 5; i++)
        take(j, &found[i]);
}

static void judge_all(fb_trajectory_judgement *j) {
    double square = 0.0;
    size_t known = 0, block = j->record->options.block_size;
    j->exact = true;
    for (size_t i = 0; i < j->num_steps; i++) {
        judge_step(j, i);
        for (size_t r = 0; r < j->steps[i].num_rows; r++) {
            double ratio = fb_trajectory_confidence_ratio(j, &j->steps[i].rows[r]);
            square += ratio * ratio;
            known += isnan(j->steps[i].rows[r].error) ? 0 : 1;
        }
    }
    j->rms = known ? sqrt(square / (double)known) : 0.0;
    for (size_t i = 0; i < j->num_steps; i++)
        count_step(&j->steps[i], block, &j->all);
    find_all(j, known);
    for (size_t i = 0; i < j->num_steps; i++) {
        bool before = !j->first.there || i < j->first.step;
        count_step(&j->steps[i], block, before ? &j->before : &j->after);
    }
}

fb_status fb_trajectory_judge(const fb_trajectory *record, fb_model *model,
                              fb_trajectory_judgement *j) {
    j->record = record;
    j->config = fb_model_config_of(model);
    FB_TRY(fb_alloc(FB_TRAJECTORY_MAX_DIFFERENCES, sizeof *j->differences, "differences",
                    &j->differences));
    FB_TRY(replay(model, j));
    FB_TRY(fb_trajectory_pool_noise(j));
    judge_all(j);
    return FB_OK;
}
