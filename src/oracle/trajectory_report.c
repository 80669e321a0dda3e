#include "oracle/trajectory_report.h"

#include "base/error.h"
#include "io/json_write.h"

#include <stdio.h>
#include <string.h>

/* --- places ----------------------------------------------------------------------------------- */

/* "block 2, step 0 (line 12), layer 3" */
static void say_place(const fb_trajectory_judgement *j, const fb_trajectory_difference *d,
                      char *text, size_t size) {
    const fb_trajectory_pass *pass = j->steps[d->step].pass;
    char step[40], line[40] = "", layer[64] = "";
    size_t layers = j->config->num_hidden_layers;
    if (pass->commit)
        snprintf(step, sizeof step, "commit");
    else
        snprintf(step, sizeof step, "step %zu", pass->step);
    if (pass->line)
        snprintf(line, sizeof line, " (line %zu)", pass->line);
    if (d->subject == FB_SUBJECT_STATE && d->state == FB_TRAJECTORY_LOGITS)
        snprintf(layer, sizeof layer, ", the head");
    else if (d->subject == FB_SUBJECT_STATE && d->state == FB_TRAJECTORY_HIDDEN && d->layer == 0)
        snprintf(layer, sizeof layer, ", the embedding");
    else if (d->subject == FB_SUBJECT_STATE && d->state == FB_TRAJECTORY_HIDDEN &&
             d->layer == layers)
        snprintf(layer, sizeof layer, ", layer %zu or the final norm", layers - 1);
    else if (d->subject == FB_SUBJECT_STATE)
        snprintf(layer, sizeof layer, ", layer %zu",
                 d->state == FB_TRAJECTORY_HIDDEN ? d->layer - 1 : d->layer);
    snprintf(text, size, "block %zu, %s%s%s", pass->block, step, line, layer);
}

/* --- the verdict ------------------------------------------------------------------------------ */

static void judge_missing(const fb_trajectory_judgement *j, fb_report *report) {
    const fb_trajectory *record = j->record;
    char missing[200] = "", end[100] = "";
    if (record->num_missing)
        snprintf(missing, sizeof missing, "%zu line%s lack%s something: the first, line %zu, %s",
                 record->num_missing, record->num_missing == 1 ? "" : "s",
                 record->num_missing == 1 ? "s" : "", record->missing_line, record->missing);
    if (!record->ended)
        snprintf(end, sizeof end, "%sthe record stops at line %zu, without its end",
                 missing[0] ? "; " : "", record->num_lines);
    snprintf(report->reason, sizeof report->reason, "%s%s", missing, end);
    report->outcome = FB_INCOMPLETE;
}

static void give_reason(const fb_trajectory_judgement *j, fb_report *report) {
    const fb_trajectory *record = j->record;
    const char *precision = fb_arithmetic_name(record->precision);
    char place[200];
    if (j->mistake.there) {
        say_place(j, &j->mistake, place, sizeof place);
        report->outcome = FB_FAILED;
        snprintf(report->reason, sizeof report->reason, "%.190s: %.290s%s%.390s", place,
                 j->name[0] ? j->name : j->mistake.words, j->name[0] ? "; " : "",
                 j->name[0] ? j->mistake.words : "");
    } else if ((record->num_missing || !record->ended) && !report->partial)
        judge_missing(j, report);
    else if (j->exact)
        snprintf(report->reason, sizeof report->reason, "bit for bit");
    else if (j->ties)
        snprintf(report->reason, sizeof report->reason,
                 "%zu difference%s, each a tie within the noise of %s", j->ties,
                 j->ties == 1 ? "" : "s", precision);
    else
        snprintf(report->reason, sizeof report->reason, "within the noise of %s", precision);
}

/* --- findings --------------------------------------------------------------------------------- */

static fb_status add_share(const fb_trajectory_judgement *j, fb_report *report, const char *name,
                           const fb_trajectory_share *share, bool mistaken) {
    fb_finding finding = {.shape = FB_DIMS(share->of),
                          .decisions = true,
                          .rule = FB_BOUND_BITS,
                          .differing = share->of - share->agree,
                          .errors = {.worst = share->of},
                          .passed = !mistaken};
    snprintf(finding.tensor, sizeof finding.tensor, "%s", name);
    if (mistaken)
        snprintf(finding.note, sizeof finding.note, "%s", j->name[0] ? j->name : j->mistake.words);
    return fb_report_add(report, &finding);
}

static fb_status add_size(const fb_trajectory_judgement *j, fb_report *report, const char *name,
                          size_t count, double largest, double allowed, bool mistaken) {
    fb_finding finding = {.shape = FB_DIMS(count),
                          .rule = FB_BOUND_ABSOLUTE,
                          .of_candidate = true,
                          .errors = {.max_abs = largest, .worst = count},
                          .bound = allowed,
                          .ratio = largest,
                          .passed = !mistaken};
    snprintf(finding.tensor, sizeof finding.tensor, "%s", name);
    if (mistaken)
        snprintf(finding.note, sizeof finding.note, "%s", j->name[0] ? j->name : j->mistake.words);
    return fb_report_add(report, &finding);
}

static fb_status add_findings(const fb_trajectory_judgement *j, fb_report *report) {
    const fb_trajectory_difference *m = &j->mistake;
    fb_outcome outcome = report->outcome;
#define WRONG(what) (m->there && m->subject == (what))
    FB_TRY(add_share(j, report, "actions", &j->all.actions, WRONG(FB_SUBJECT_ACTION)));
    for (int i = 0; i < FB_TRAJECTORY_NUM_STATES; i++)
        if (j->pooled[i])
            FB_TRY(add_size(j, report, fb_trajectory_state_name((fb_trajectory_state)i),
                            fb_trajectory_state_layers(j->config, (fb_trajectory_state)i),
                            j->worst_states[i], fb_trajectory_state_allowed,
                            WRONG(FB_SUBJECT_STATE) && (int)m->state == i));
    FB_TRY(add_size(j, report, "confidence", j->num_confidences, j->largest, j->allowed,
                    WRONG(FB_SUBJECT_CONFIDENCE)));
    FB_TRY(add_share(j, report, "proposals", &j->all.proposals, WRONG(FB_SUBJECT_PROPOSAL)));
    FB_TRY(add_share(j, report, "decisions", &j->all.decisions, WRONG(FB_SUBJECT_DECISION)));
#undef WRONG
    report->outcome = outcome;
    return FB_OK;
}

/* --- text ------------------------------------------------------------------------------------- */

static void put_share(FILE *file, const fb_trajectory_share *share) {
    char text[48] = "-";
    if (share->of)
        snprintf(text, sizeof text, "%zu of %zu", share->agree, share->of);
    fprintf(file, "  %-16s", text);
}

static void put_agreement(FILE *file, const fb_trajectory_judgement *j) {
    static const char *const names[] = {"actions", "steps", "decisions", "proposals"};
    const fb_trajectory_agreement *all[] = {&j->all, &j->before, &j->after};
    fprintf(file, "%-12s  %-16s  %-16s  %s\n", "", "agree", "before the first", "from it on");
    for (size_t i = 0; i < 4; i++) {
        fprintf(file, "%-12s", names[i]);
        for (size_t k = 0; k < 3; k++) {
            const fb_trajectory_share shares[] = {all[k]->actions, all[k]->steps, all[k]->decisions,
                                                  all[k]->proposals};
            put_share(file, &shares[i]);
        }
        fputc('\n', file);
    }
}

static void put_sizes(FILE *file, const fb_trajectory_judgement *j) {
    fprintf(file, "%-12s  error / noise: root mean square %.3g, largest %.3g; %.3g is allowed\n",
            "confidence", j->rms, j->largest, j->allowed);
    for (int i = 0; i < FB_TRAJECTORY_NUM_STATES; i++)
        if (j->pooled[i])
            fprintf(file, "%-12s  error / noise: largest %.3g; %.3g is allowed\n",
                    fb_trajectory_state_name((fb_trajectory_state)i), j->worst_states[i],
                    fb_trajectory_state_allowed);
}

static void put_difference(FILE *file, const fb_trajectory_judgement *j, const char *what,
                           const fb_trajectory_difference *d) {
    char place[200];
    if (!d->there)
        return;
    say_place(j, d, place, sizeof place);
    fprintf(file, "%s: %s: %s: %s\n", what, place, d->words, d->tie ? "a tie" : "a mistake");
}

static const char *capital(fb_outcome outcome) {
    return outcome == FB_PASSED       ? "PASS"
           : outcome == FB_INCOMPLETE ? "INCOMPLETE, what is there is right"
                                      : "FAIL";
}

static void write_text(FILE *file, const fb_trajectory_judgement *j, const char *model,
                       const fb_report *report) {
    const fb_trajectory *record = j->record;
    size_t steps = 0, blocks = 0;
    for (size_t i = 0; i < j->num_steps; i++) {
        steps += j->steps[i].pass->commit ? 0 : 1;
        blocks = j->steps[i].pass->block + 1;
    }
    fprintf(file, "trajectory ");
    fb_finding_write_text(file, record->path);
    fprintf(file, " (%s), model ", fb_arithmetic_name(record->precision));
    fb_finding_write_text(file, model);
    fprintf(file, ": %zu blocks, %zu steps, %zu masked positions\n", blocks, steps,
            j->num_confidences);
    put_agreement(file, j);
    put_sizes(file, j);
    for (size_t i = 0; i < j->num_differences && report->verbose; i++)
        put_difference(file, j, "difference", &j->differences[i]);
    put_difference(file, j, "first difference", &j->first);
    if (j->mistake.there && (j->first.tie || j->first.step != j->mistake.step))
        put_difference(file, j, "first mistake", &j->mistake);
    bool computed =
        j->mistake.subject == FB_SUBJECT_CONFIDENCE || j->mistake.subject == FB_SUBJECT_PROPOSAL;
    if (j->mistake.there && computed && !j->name[0] && !j->pooled[FB_TRAJECTORY_HIDDEN])
        fprintf(file, "note: no known mistake. Record hidden states, and the layer is found: "
                      "record.step(..., hidden=...), the key \"hidden\"\n");
    if (record->commits_left_out)
        fprintf(file, "note: the record leaves out commits; the rule's actions are taken there\n");
    fprintf(file, "%s: %s\n", capital(report->outcome), report->reason);
}

/* --- JSON ------------------------------------------------------------------------------------- */

static void put_json_share(fb_json_writer *w, const char *key, const fb_trajectory_share *share) {
    fb_json_open_object(w, key);
    fb_json_put_size(w, "agree", share->agree);
    fb_json_put_size(w, "of", share->of);
    fb_json_close_object(w);
}

static void put_json_agreement(fb_json_writer *w, const char *key,
                               const fb_trajectory_agreement *a) {
    fb_json_open_object(w, key);
    put_json_share(w, "actions", &a->actions);
    put_json_share(w, "steps", &a->steps);
    put_json_share(w, "decisions", &a->decisions);
    put_json_share(w, "proposals", &a->proposals);
    fb_json_close_object(w);
}

static void put_json_difference(fb_json_writer *w, const char *key,
                                const fb_trajectory_judgement *j,
                                const fb_trajectory_difference *d) {
    static const char *const subjects[] = {"action", "state", "confidence", "proposal", "decision"};
    if (!d->there) {
        fb_json_put_null(w, key);
        return;
    }
    const fb_trajectory_pass *pass = j->steps[d->step].pass;
    fb_json_open_object(w, key);
    fb_json_put_size(w, "line", pass->line);
    fb_json_put_size(w, "block", pass->block);
    if (pass->commit)
        fb_json_put_string(w, "step", "commit");
    else
        fb_json_put_size(w, "step", pass->step);
    fb_json_put_string(w, "subject", subjects[d->subject]);
    if (d->subject == FB_SUBJECT_STATE) {
        fb_json_put_string(w, "state", fb_trajectory_state_name(d->state));
        fb_json_put_size(w, "layer", d->layer);
    }
    fb_json_put_size(w, "position", d->position);
    fb_json_put_bool(w, "tie", d->tie);
    fb_json_put_double(w, "size", d->size);
    fb_json_put_text(w, "words", d->words);
    fb_json_close_object(w);
}

static fb_status write_json(const fb_trajectory_judgement *j, fb_buffer *text) {
    fb_json_writer w = fb_json_writer_to(text, FB_JSON_COMPACT);
    w.digits = 9;
    fb_json_open_object(&w, NULL);
    fb_json_put_string(&w, "precision", fb_arithmetic_name(j->record->precision));
    fb_json_put_bool(&w, "bit_for_bit", j->exact);
    put_json_agreement(&w, "agreement", &j->all);
    put_json_agreement(&w, "before", &j->before);
    put_json_agreement(&w, "after", &j->after);
    fb_json_put_double(&w, "noise_of_a_logit", j->noise);
    fb_json_put_double(&w, "allowed", j->allowed);
    fb_json_put_double(&w, "confidence_rms", j->rms);
    fb_json_put_double(&w, "confidence_largest", j->largest);
    fb_json_put_double(&w, "step_share_of_allowed", j->largest_rms);
    fb_json_put_size(&w, "ties", j->ties);
    fb_json_put_size(&w, "mistakes", j->mistakes);
    fb_json_put_text(&w, "name", j->name);
    put_json_difference(&w, "first_difference", j, &j->first);
    put_json_difference(&w, "first_mistake", j, &j->mistake);
    fb_json_open_array(&w, "differences");
    for (size_t i = 0; i < j->num_differences; i++)
        put_json_difference(&w, NULL, j, &j->differences[i]);
    fb_json_close_array(&w);
    fb_json_close_object(&w);
    FB_TRY(fb_json_finish(&w));
    return fb_buffer_terminate(text);
}

fb_status fb_trajectory_report(const fb_trajectory_judgement *j, const char *model,
                               fb_report *report) {
    size_t size = 0;
    give_reason(j, report);
    FB_TRY(add_findings(j, report));
    if (report->outcome == FB_INCOMPLETE && j->record->missing)
        FB_TRY(fb_report_missing(report, j->record->missing));
    if (report->outcome == FB_INCOMPLETE && !j->record->ended)
        FB_TRY(fb_report_missing(report, "end"));
    FILE *file = open_memstream(&report->words, &size);
    if (file)
        write_text(file, j, model, report);
    if (!file || fclose(file) != 0)
        return fb_fail(FB_ERROR_MEMORY, "no memory for a report's text");
    return write_json(j, &report->members);
}
