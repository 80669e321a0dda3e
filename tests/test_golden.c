/* Recomputes every golden file as `flashblock verify` does: attention, merges, layers, models,
 * selections, schedules, and whole generations of the paper's own code. */
#include "oracle/kinds.h"
#include "tests/golden_list.h"
#include "tests/numbers.h"

#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <stdio.h>
#include <string.h>

static const char *const folders[] = {"attn",
                                      "gen",
                                      "kern",
                                      "model",
                                      "pipeline",
                                      "rope",
                                      "sched",
                                      "sdar_attn",
                                      "select",
                                      "split",
                                      "video",
                                      "../models/llada20",
                                      "../models/llada21",
                                      "../models/sdar_moe",
                                      "../models/sdar_moe_step2",
                                      "../models/fast_dllm_v2",
                                      "../models/qwen3_bd3lm"};
enum { NUM_FOLDERS = sizeof folders / sizeof folders[0] };

/* The files of all folders as parameters for Criterion; a sample has every third of each folder. */
ParameterizedTestParameters(golden, file_passes) {
    golden_file *all = NULL;
    size_t total = 0, step = test_is_sample() ? 3 : 1;
    for (size_t i = 0; i < NUM_FOLDERS; i++) {
        golden_file *files = NULL;
        size_t count = golden_list(folders[i], "", &files);
        golden_file *grown = cr_malloc((total + count + 1) * sizeof *grown);
        if (total)
            memcpy(grown, all, total * sizeof *grown);
        for (size_t file = 0; file < count; file += step)
            grown[total++] = files[file];
        all = grown;
    }
    return cr_make_param_array(golden_file, all, total);
}

/* For these tensors this build is never farther from the truth than the paper's code, plus an
 * ulp. */
static void expect_passed(const fb_report *report) {
    for (size_t i = 0; i < report->num_findings; i++) {
        const fb_finding *f = &report->findings[i];
        cr_expect(f->passed,
                  "%s: %s is off by %g (bound %g), %zu differ; element %zu is %.9g, %.9g "
                  "expected",
                  report->path, f->tensor, f->errors.max_abs, f->bound, f->differing,
                  f->errors.worst, f->value, f->truth);
        if (f->rule == FB_BOUND_FILE && f->has_file && !f->decisions)
            cr_expect(f->errors.max_abs <= f->file_bound,
                      "%s: %s is off by %g, the paper's by %g, %g allowed", report->path, f->tensor,
                      f->errors.max_abs, f->file_errors.max_abs, f->file_bound);
    }
    cr_expect(report->outcome == FB_PASSED, "%s: %s", report->path, report->reason);
}

ParameterizedTest(golden_file *file, golden, file_passes) {
    char path[5000];
    fb_report *report = NULL;
    snprintf(path, sizeof path, "%s/%s", golden_folder(), file->name);
    cr_assert_eq(fb_verify_file(path, NULL, &report), FB_OK, "%s", fb_error_message());
    if (report->outcome == FB_SKIPPED) {
        cr_log_info("%s: %s", path, report->reason);
        fb_report_destroy(report);
        cr_skip_test("not a case of a known kind");
    }
    expect_passed(report);
    fb_report_destroy(report);
}

/* Each kind has at least one file, so no kind is left untested. */
Test(golden, every_kind_occurs) {
    static const struct {
        const char *folder, *prefix;
    } kinds[] = {
        {"attn", "attn_"},       {"split", "split_"},
        {"kern", "merge_"},      {"kern", "varlen_"},
        {"kern", "curblock_"},   {"rope", "sdar_rope_"},
        {"rope", "rmsnorm_"},    {"sdar_attn", ""},
        {"model", ""},           {"gen", ""},
        {"sched", ""},           {"select", "select_"},
        {"select", "sampler_"},  {"rope", "video_rope_"},
        {"rope", "video_norm_"}, {"rope", "flow_scheduler_"},
        {"video", ""},           {"pipeline", ""},
    };
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        cr_expect(golden_count(kinds[i].folder, kinds[i].prefix) > 0, "%s/%s holds no %s*",
                  golden_folder(), kinds[i].folder, kinds[i].prefix);
}
