/* Results of another implementation, judged by a case. Parts: the candidate (safetensors or .npy),
 * the case. */
#include "tests/fuzz/fuzz.h"

#include <flashblock/experimental/oracle.h>

#include <string.h>

enum { PARTS = 2 };

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
    return fuzz_mutate_parts(data, size, max_size, seed, PARTS);
}

static bool is_npy(fuzz_part part) {
    return part.size > 6 && memcmp(part.data, "\x93NUMPY", 6) == 0;
}

static void judge(const char *path, fb_candidate *candidate) {
    fb_verify_options options;
    fb_report *report = NULL;
    const char *text = NULL;
    fb_verify_options_init(&options);
    options.candidate = candidate;
    options.details = true;
    if (fb_verify_file(path, &options, &report) != FB_OK)
        return;
    fb_report_text(report, &text);
    fb_report_json(report, &text);
    fb_report_destroy(report);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz_part parts[PARTS];
    fb_candidate *candidate = NULL;
    fuzz_split(data, size, parts, PARTS);
    const char *name = is_npy(parts[0]) ? "out.npy" : "candidate.safetensors";
    const char *path = fuzz_write(name, parts[0]);
    const char *of_case = fuzz_write("case.safetensors", parts[1]);
    if (fb_candidate_open(path, &candidate) != FB_OK)
        return 0;
    judge(of_case, candidate);
    fb_candidate_close(candidate);
    return 0;
}
