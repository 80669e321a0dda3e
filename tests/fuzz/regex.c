/* Regular expressions of tokenizers: translated, compiled, and searched for in a text. The input is
 * the expression, NUL, and the text. */
#include "io/regex.h"

#include "io/utf8.h"
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>
#include <string.h>

/* All matches, as a pre-tokenizer looks for them. */
static void search(const fb_regex *regex, fb_regex_state *state, const unsigned char *text,
                   size_t length) {
    size_t from = 0, begin = 0, end = 0;
    bool found = true;
    while (from <= length && found) {
        if (fb_regex_find(regex, state, text, length, from, &found, &begin, &end) != FB_OK)
            return;
        if (found && (begin < from || end < begin || end > length))
            __builtin_trap();
        from = end > from ? end : from + 1;
        while (from < length && (text[from] & 0xc0) == 0x80)
            from++;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const uint8_t *nul = memchr(data, 0, size);
    size_t length = nul ? (size_t)(nul - data) : size, text = nul ? length + 1 : size;
    char *pattern = calloc(1, length + 1);
    fb_regex *regex = NULL;
    fb_regex_state *state = NULL;
    if (!pattern)
        return 0;
    memcpy(pattern, data, length);
    fb_buffer translated = {0};
    fb_regex_translate(&translated, pattern);
    fb_buffer_free(&translated);
    for (int literal = 0; literal < 2; literal++) {
        if (fb_regex_compile(pattern, literal, &regex) != FB_OK)
            continue;
        if (size - text < 4096 && fb_utf8_valid_prefix(data + text, size - text) == size - text &&
            fb_regex_state_create(&state) == FB_OK) {
            search(regex, state, data + text, size - text);
            fb_regex_state_destroy(state);
        }
        fb_regex_destroy(regex);
    }
    free(pattern);
    return 0;
}
