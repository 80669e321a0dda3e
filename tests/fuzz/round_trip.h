/* Text through a tokenizer and back. */
#ifndef FB_TESTS_FUZZ_ROUND_TRIP_H
#define FB_TESTS_FUZZ_ROUND_TRIP_H

#include "tests/fuzz/fuzz.h"

#include <flashblock/tokenizer.h>

/* Encodes the text, in each way to read added tokens. Traps if the stream gives another text than
 * fb_tokenizer_decode, or if an id is not in the vocabulary. `exact`: the tokenizer changes no
 * character, and the text comes back as it was if it is ASCII. */
void fuzz_round_trip(const fb_tokenizer *tokenizer, fuzz_part text, bool exact);

#endif
