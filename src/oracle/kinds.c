#include "oracle/kinds.h"

#include "oracle/candidate.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

const fb_kind fb_kinds[] = {
    {"attention", fb_recompute_attention},
    {"current_block", fb_recompute_current_block},
    {"denoising_sequence", fb_recompute_denoising_sequence},
    {"flow_scheduler", fb_recompute_flow_scheduler},
    {"fused_merge", fb_recompute_fused_merge},
    {"generation", fb_recompute_generation},
    {"head_masked_merge", fb_recompute_head_masked_merge},
    {"model_logits", fb_recompute_model_logits},
    {"pipeline", fb_recompute_pipeline},
    {"pipeline_weights", NULL},
    {"rmsnorm", fb_recompute_rmsnorm},
    {"rope_1d", fb_recompute_rope_1d},
    {"rope_3d", fb_recompute_rope_3d},
    {"sampler_filters", fb_recompute_sampler_filters},
    {"scheduler_trace", fb_recompute_scheduler_trace},
    {"sdar_attention", fb_recompute_sdar_attention},
    {"sdar_attention_inputs", NULL},
    {"select_transfer", fb_recompute_select_transfer},
    {"split_merge", fb_recompute_split_merge},
    {"video_attention", fb_recompute_video_attention},
    {"video_attention_inputs", NULL},
    {"video_norm", fb_recompute_video_norm},
};
const size_t fb_num_kinds = sizeof fb_kinds / sizeof fb_kinds[0];

static const fb_kind *find_kind(const char *name) {
    for (size_t i = 0; i < fb_num_kinds; i++)
        if (strcmp(fb_kinds[i].name, name) == 0)
            return &fb_kinds[i];
    return NULL;
}

static fb_status recompute(fb_case *c, fb_report *report) {
    const fb_kind *kind = find_kind(report->kind);
    if (!*report->kind)
        fb_report_skip(report, "no kind in the metadata: not a case");
    else if (!kind)
        fb_report_skip(report, "kind '%s' is not known to this version", report->kind);
    else if (!kind->recompute)
        fb_report_skip(report, "inputs of other cases");
    else
        return kind->recompute(c, report);
    return FB_OK;
}

fb_status fb_verify_file(const char *path, fb_report *report) {
    snprintf(report->path, sizeof report->path, "%s", path);
    snprintf(report->name, sizeof report->name, "%s", path);
    fb_case *c = NULL;
    fb_status status = fb_case_open(path, &c);
    if (status == FB_OK) {
        snprintf(report->kind, sizeof report->kind, "%s", fb_case_kind(c));
        snprintf(report->name, sizeof report->name, "%s", fb_case_name(c));
        if (report->candidate)
            fb_candidate_match(report->candidate, c);
        status = recompute(c, report);
        if (status == FB_OK && report->candidate && report->num_findings == 0 &&
            report->outcome == FB_PASSED)
            status = fb_fail(FB_ERROR_FORMAT,
                             "none of the candidate's %zu tensors has the name of a result of %s",
                             fb_candidate_count(report->candidate), path);
        if (status == FB_OK && !report->candidate && report->num_findings == 0 &&
            report->outcome == FB_PASSED)
            status = fb_fail(FB_ERROR_FORMAT, "%s: there is nothing to check in it", path);
    }
    fb_case_close(c);
    if (status == FB_ERROR_MEMORY)
        return status;
    if (status != FB_OK) {
        report->outcome = FB_FAILED;
        snprintf(report->reason, sizeof report->reason, "%s", fb_error_message());
    }
    return FB_OK;
}
