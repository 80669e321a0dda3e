/* A tokenizer's directory, and text through it. Parts: tokenizer.json, tokenizer_config.json, text.
 */
#include "tests/fuzz/round_trip.h"

enum { PARTS = 3 };

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
    return fuzz_mutate_parts(data, size, max_size, seed, PARTS);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz_part parts[PARTS];
    fb_tokenizer *tokenizer = NULL;
    fuzz_split(data, size, parts, PARTS);
    fuzz_write("tokenizer/tokenizer.json", parts[0]);
    fuzz_write("tokenizer/tokenizer_config.json", parts[1]);
    if (fb_tokenizer_load(fuzz_path("tokenizer"), &tokenizer) != FB_OK)
        return 0;
    fuzz_round_trip(tokenizer, parts[2], false);
    fb_tokenizer_destroy(tokenizer);
    return 0;
}
