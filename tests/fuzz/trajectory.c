/* The record of a decoding, judged by a small model. Parts: the record, its tensors, config.json,
 * model.safetensors. */
#include "tests/fuzz/fuzz.h"

#include <flashblock/experimental/oracle.h>

#include <string.h>

enum { PARTS = 4 };

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
    return fuzz_mutate_parts(data, size, max_size, seed, PARTS);
}

static void judge(const char *path, const char *model) {
    fb_trajectory_options options;
    fb_report *report = NULL;
    const char *text = NULL;
    fb_trajectory_options_init(&options);
    options.partial = true;
    if (fb_verify_trajectory(path, model, &options, &report) != FB_OK)
        return;
    fb_report_text(report, &text);
    fb_report_json(report, &text);
    fb_report_destroy(report);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz_part parts[PARTS];
    fuzz_split(data, size, parts, PARTS);
    fuzz_write("record.safetensors", parts[1]);
    fuzz_write("model/config.json", parts[2]);
    fuzz_write("model/model.safetensors", parts[3]);
    judge(fuzz_write("record.jsonl", parts[0]), fuzz_path("model"));
    return 0;
}
