/* fb_verify_trajectory. */
#include "base/error.h"
#include "base/memory.h"
#include "base/sized.h"
#include "oracle/trajectory_judge.h"
#include "oracle/trajectory_names.h"
#include "oracle/trajectory_open.h"
#include "oracle/trajectory_report.h"
#include "oracle/trajectory_spread.h"
#include "oracle/trajectory_states.h"

#include <flashblock/runtime.h>

#include <stdio.h>

FB_SIZED_ENDS_WITH(fb_trajectory_options, unused);

void fb_trajectory_options_init_sized(fb_trajectory_options *options, size_t struct_size) {
    const fb_trajectory_options defaults = {0};
    fb_sized_init(options, struct_size, &defaults, sizeof defaults);
}

static bool is_fine(fb_arithmetic precision) {
    return fb_trajectory_significand_bits(precision) > 20;
}

/* What the first mistake is, if it is a known one. */
static fb_status name_mistake(fb_model *model, fb_trajectory_judgement *j) {
    fb_trajectory_name_guess(j, j->name, sizeof j->name);
    fb_trajectory_subject subject = j->mistake.subject;
    if (j->mistake.there && !j->name[0] && subject == FB_SUBJECT_ACTION)
        fb_trajectory_name_action(j, j->name, sizeof j->name);
    if (j->mistake.there && !j->name[0] && subject == FB_SUBJECT_DECISION)
        fb_trajectory_name_decision(j, j->name, sizeof j->name);
    if (j->mistake.there && !j->name[0] && subject == FB_SUBJECT_PROPOSAL)
        fb_trajectory_name_proposal(j, j->name, sizeof j->name);
    bool computed =
        j->mistake.there && subject >= FB_SUBJECT_STATE && subject <= FB_SUBJECT_PROPOSAL;
    return computed && !j->name[0] ? fb_trajectory_name_model(j, model, j->name, sizeof j->name)
                                   : FB_OK;
}

/* A record that says f32, and was computed in less: it would pass as what it is, with errors of
 * that size everywhere. */
static fb_status try_coarser(fb_trajectory *record, fb_model *model, fb_trajectory_judgement *j) {
    static const fb_arithmetic coarser[] = {FB_ARITHMETIC_F16, FB_ARITHMETIC_BF16};
    fb_arithmetic said = record->precision;
    if (!j->mistake.there || j->name[0] || !is_fine(said) ||
        j->mistake.subject == FB_SUBJECT_ACTION || j->mistake.subject == FB_SUBJECT_DECISION)
        return FB_OK;
    for (size_t i = 0; i < sizeof coarser / sizeof *coarser; i++) {
        fb_trajectory_judgement as = {0};
        record->precision = coarser[i];
        fb_status status = fb_trajectory_judge(record, model, &as);
        if (status == FB_OK && !as.mistake.there)
            fb_trajectory_name_guess(&as, as.name, sizeof as.name);
        bool passes = status == FB_OK && !as.mistake.there && fb_trajectory_looks_rounded(&as);
        fb_trajectory_judgement_free(&as);
        record->precision = said;
        FB_TRY(status);
        if (!passes)
            continue;
        const char *name = fb_arithmetic_name(coarser[i]);
        snprintf(j->name, sizeof j->name,
                 "the errors are those of %s, not of %s (as %s the record passes)", name,
                 fb_arithmetic_name(said), name);
        return FB_OK;
    }
    return FB_OK;
}

static fb_status judge(fb_trajectory *record, fb_model *model, const char *directory,
                       fb_report *report) {
    fb_trajectory_judgement judgement = {0};
    fb_status status = fb_trajectory_judge(record, model, &judgement);
    if (status == FB_OK)
        status = name_mistake(model, &judgement);
    if (status == FB_OK)
        status = try_coarser(record, model, &judgement);
    if (status == FB_OK)
        status = fb_trajectory_report(&judgement, directory, report);
    fb_trajectory_judgement_free(&judgement);
    return status;
}

/* A record that cannot be replayed has failed; nothing else has. *written: of the file of states.
 */
static fb_status verify(const char *path, const char *directory, fb_model *model,
                        const fb_trajectory_options *options, fb_status *written,
                        fb_report *report) {
    fb_trajectory record;
    fb_status status =
        fb_trajectory_open(path, options->tensors, fb_model_config_of(model), &record);
    if (options->precision != FB_ARITHMETIC_AUTO)
        record.precision = options->precision;
    if (status == FB_OK && options->states)
        status = *written = fb_trajectory_write_states(&record, model, options->states);
    if (status == FB_OK)
        status = judge(&record, model, directory, report);
    fb_trajectory_close(&record);
    if (status == FB_ERROR_MEMORY || status == FB_OK || *written != FB_OK)
        return status;
    report->outcome = FB_FAILED;
    snprintf(report->reason, sizeof report->reason, "%s", fb_error_message());
    return FB_OK;
}

static fb_status make(const char *path, const char *directory, const fb_trajectory_options *options,
                      fb_report *report) {
    fb_isa isa;
    fb_model *model = NULL;
    FB_TRY(fb_isa_current(&isa));
    report->isa = fb_isa_name(isa);
    report->partial = options->partial;
    report->verbose = options->details;
    snprintf(report->kind, sizeof report->kind, "trajectory");
    snprintf(report->path, sizeof report->path, "%s", path);
    snprintf(report->name, sizeof report->name, "%s", path);
    fb_model_options loading;
    fb_model_options_init(&loading);
    loading.float_activations = options->float_activations;
    FB_TRY(fb_model_load_with(directory, &loading, &model));
    fb_status written = FB_OK, status = verify(path, directory, model, options, &written, report);
    fb_model_destroy(model);
    return status;
}

fb_status fb_verify_trajectory(const char *path, const char *model,
                               const fb_trajectory_options *options, fb_report **report) {
    fb_trajectory_options own = {0};
    fb_report *made = NULL;
    if (!path || !model)
        return fb_fail(FB_ERROR_ARGUMENT, "%s is NULL", path ? "model" : "path");
    if (options)
        FB_TRY(fb_sized_read(&own, sizeof own, options, "options"));
    FB_TRY(fb_sized_unused(own.unused, sizeof own.unused / sizeof *own.unused, "options"));
    FB_TRY(fb_alloc_zeroed(1, sizeof *made, "report", &made));
    fb_status status = make(path, model, &own, made);
    if (status != FB_OK) {
        fb_report_destroy(made);
        return status;
    }
    *report = made;
    return FB_OK;
}
