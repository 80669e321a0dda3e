/* Case files of the oracle: verified, and the report written. Parts: the case; the file that it
 * names as its inputs or weights (beside.safetensors); config.json and model.safetensors of its
 * model (the folder "tiny"). */
#include "tests/fuzz/fuzz.h"

#include <flashblock/experimental/oracle.h>

enum { PARTS = 4 };

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
    return fuzz_mutate_parts(data, size, max_size, seed, PARTS);
}

static const char *const names[PARTS] = {
    "case.safetensors",
    "beside.safetensors",
    "tiny/config.json",
    "tiny/model.safetensors",
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz_part parts[PARTS];
    fb_report *report = NULL;
    const char *text = NULL;
    fuzz_split(data, size, parts, PARTS);
    for (size_t i = 0; i < PARTS; i++)
        fuzz_write(names[i], parts[i]);
    if (fb_verify_file(fuzz_path(names[0]), NULL, &report) == FB_OK) {
        fb_report_text(report, &text);
        fb_report_json(report, &text);
        fb_report_destroy(report);
    }
    return 0;
}
