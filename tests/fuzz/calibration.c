/* Calibration files: loaded, asked, and saved. What was saved loads again and is the same. */
#include "tests/fuzz/fuzz.h"

#include <flashblock/experimental/calibration.h>

#include <string.h>

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
    return fuzz_mutate_one(data, size, max_size, seed);
}

/* Equal numbers, or both NaN. */
static void check_same(double a, double b) {
    if (memcmp(&a, &b, sizeof a) != 0 && !(a != a && b != b))
        __builtin_trap();
}

static void compare(fb_calibration *a, fb_calibration *b) {
    const fb_calibration_config *config = fb_calibration_config_of(a);
    for (size_t step = 1; step < config->num_steps; step++)
        for (size_t layer = 0; layer < config->num_layers; layer++)
            for (size_t head = 0; head < config->num_heads; head++) {
                check_same(fb_calibration_similarity(a, layer, step, head),
                           fb_calibration_similarity(b, layer, step, head));
                check_same(fb_calibration_lse_change(a, layer, step, head),
                           fb_calibration_lse_change(b, layer, step, head));
                if (fb_calibration_refresh(a, layer, step)[head] !=
                    fb_calibration_refresh(b, layer, step)[head])
                    __builtin_trap();
            }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fb_calibration *first = NULL, *second = NULL;
    const char *path = fuzz_write("calibration.json", (fuzz_part){data, size});
    const char *saved = fuzz_path("saved.json");
    if (fb_calibration_load(path, &first) != FB_OK)
        return 0;
    fb_calibration_reused_share(first);
    if (fb_calibration_save(first, saved) == FB_OK) {
        if (fb_calibration_load(saved, &second) != FB_OK)
            __builtin_trap();
        compare(first, second);
        fb_calibration_destroy(second);
    }
    fb_calibration_destroy(first);
    return 0;
}
