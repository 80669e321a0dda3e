/* A file of `flashblock chat`: loaded; if that works, saved, loaded again, and the turns are the
 * same. */
#include "cli/chat/chat_file.h"

#include "tests/fuzz/fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static fb_tokenizer *load(void) {
    char folder[4096];
    const char *data = getenv("FLASHBLOCK_FUZZ_DATA");
    fb_tokenizer *tokenizer = NULL;
    snprintf(folder, sizeof folder, "%s/chat", data ? data : "");
    if (!data || fb_tokenizer_load(folder, &tokenizer) != FB_OK) {
        fprintf(stderr, "FLASHBLOCK_FUZZ_DATA has to name a folder with chat/\n");
        exit(2);
    }
    return tokenizer;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
    return fuzz_mutate_one(data, size, max_size, seed);
}

static bool is_equal(const fb_buffer *one, const fb_buffer *other) {
    return one->size == other->size &&
           (one->size == 0 || memcmp(one->data, other->data, one->size) == 0);
}

static bool is_same(const fb_chat *one, const fb_chat *other) {
    if (one->num_turns != other->num_turns || !one->system != !other->system ||
        (one->system && strcmp(one->system, other->system) != 0) ||
        !is_equal(&one->ids, &other->ids))
        return false;
    for (size_t i = 0; i < one->num_turns; i++) {
        const fb_chat_turn *a = &one->turns[i], *b = &other->turns[i];
        if (a->answer != b->answer || !is_equal(&a->text, &b->text))
            return false;
    }
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static fb_tokenizer *tokenizer;
    if (!tokenizer)
        tokenizer = load();
    fb_chat chat = {.session = {.tokenizer = tokenizer}, .format = FB_CHAT_CHATML}, again = chat;
    if (fb_chat_load(&chat, fuzz_write("chat.json", (fuzz_part){data, size})) == FB_OK) {
        const char *saved = fuzz_path("saved.json");
        if (fb_chat_save(&chat, saved) != FB_OK || fb_chat_load(&again, saved) != FB_OK ||
            !is_same(&chat, &again))
            abort();
    }
    fb_chat_free_turns(&chat);
    fb_chat_free_turns(&again);
    return 0;
}
