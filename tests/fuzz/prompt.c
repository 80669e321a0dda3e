/* Any text through the demo model's tokenizer, which has Qwen3's expression and normalizer. Its
 * vocabulary has every byte, so ASCII comes back as it was. */
#include "tests/fuzz/round_trip.h"

#include <stdio.h>
#include <stdlib.h>

static fb_tokenizer *load(void) {
    const char *folder = getenv("FLASHBLOCK_FUZZ_DATA");
    fb_tokenizer *tokenizer = NULL;
    if (!folder || fb_tokenizer_load(folder, &tokenizer) != FB_OK) {
        fprintf(stderr, "FLASHBLOCK_FUZZ_DATA has to name a folder with tokenizer.json\n");
        exit(2);
    }
    return tokenizer;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static fb_tokenizer *tokenizer;
    if (!tokenizer)
        tokenizer = load();
    fuzz_round_trip(tokenizer, (fuzz_part){data, size}, true);
    return 0;
}
