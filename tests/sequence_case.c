#include "tests/sequence_case.h"

#include <stdlib.h>
#include <string.h>

fb_script *generated(const fb_script_config *config) {
    fb_script *s = NULL;
    OK(fb_script_create(config, &s));
    OK(fb_script_generate(s));
    OK(fb_script_run(s));
    OK(fb_script_find_truth(s, NULL, NULL));
    return s;
}

fb_report *verify(const char *path, const char *candidate_path) {
    fb_verify_options options;
    fb_report *report = NULL;
    fb_verify_options_init(&options);
    options.details = true;
    options.partial = true; /* one tensor at a time */
    if (candidate_path)
        OK(fb_candidate_open(candidate_path, &options.candidate));
    OK(fb_verify_file(path, &options, &report));
    fb_candidate_close(options.candidate);
    return report;
}

void expect_passed(const char *what, fb_report *report, size_t findings) {
    for (size_t i = 0; i < report->num_findings; i++)
        cr_expect(report->findings[i].passed, "%s: %s: error %g, bound %g: %s", what,
                  report->findings[i].tensor, report->findings[i].errors.max_abs,
                  report->findings[i].bound, report->findings[i].note);
    cr_expect_eq(report->outcome, FB_PASSED, "%s: %s", what, report->reason);
    cr_expect_eq(report->num_findings, findings, "%s: %zu findings", what, report->num_findings);
    fb_report_destroy(report);
}

void write_changed(const char *from, const char *to, const change *c) {
    static const char *const keys[] = {"kind", "case", "seed", "produced_by", "params"};
    fb_safetensors *file = NULL;
    fb_tensor_view tensors[128];
    fb_metadata_entry metadata[5];
    void *copy = NULL;
    size_t count = 0;
    OK(fb_safetensors_open(from, &file));
    for (size_t i = 0; i < fb_safetensors_count(file); i++) {
        const fb_tensor_view *tensor = fb_safetensors_at(file, i);
        if (c->drop && strcmp(tensor->name, c->drop) == 0)
            continue;
        tensors[count] = *tensor;
        if (c->tensor && strcmp(tensor->name, c->tensor) == 0) {
            copy = malloc(tensor->bytes);
            memcpy(copy, tensor->data, tensor->bytes);
            c->edit(copy, tensor->bytes);
            tensors[count].data = copy;
        }
        count++;
    }
    cr_assert(!c->tensor || copy, "there is no %s", c->tensor);
    for (size_t i = 0; i < 5; i++) {
        const char *value = fb_safetensors_metadata(file, keys[i]);
        bool other = c->key && strcmp(keys[i], c->key) == 0;
        metadata[i] = (fb_metadata_entry){keys[i], other ? c->value : value};
    }
    OK(fb_safetensors_write(to, tensors, count, metadata, 5));
    fb_safetensors_close(file);
    free(copy);
}
