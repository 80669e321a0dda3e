/* The body of a request to `flashblock serve`, read as one for a chat and as one for a text. Data:
 * a small model, and a tokenizer with ChatML's tokens. */
#include "cli/serve/request.h"
#include "io/chat_template.h"
#include "tests/fuzz/fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static fb_serve_model *load(void) {
    static fb_session session;
    static fb_serve_model model = {
        .session = &session, .name = "model", .has_chat = true, .no_chat = "", .most_seconds = 1.0};
    char folder[4096];
    const char *data = getenv("FLASHBLOCK_FUZZ_DATA");
    snprintf(folder, sizeof folder, "%s/chat", data ? data : "");
    fb_generate_options_init(&session.options);
    if (!data || fb_model_load(folder, &session.model) != FB_OK ||
        fb_tokenizer_load(folder, &session.tokenizer) != FB_OK ||
        fb_chat_template_of_directory(folder, &session.chat_format) != FB_OK) {
        fprintf(stderr, "FLASHBLOCK_FUZZ_DATA has to name a folder with chat/\n");
        exit(2);
    }
    session.chat = true;
    return &model;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
    return fuzz_mutate_one(data, size, max_size, seed);
}

static void check(const fb_serve_model *model, const fb_serve_request *r) {
    size_t vocab = fb_model_config_of(model->session->model)->vocab_size;
    const int32_t *ids = (const int32_t *)(const void *)r->ids.data;
    for (size_t i = 0; i < r->ids.size / sizeof *ids; i++)
        if (ids[i] < 0 || (size_t)ids[i] >= vocab)
            abort();
    if (r->num_choices < 1 || r->num_choices > FB_SERVE_MOST_CHOICES ||
        r->num_stops > FB_SERVE_MOST_STOPS || r->options.max_tokens < 1 ||
        r->options.block_size < 1)
        abort();
    for (size_t i = 0; i < r->num_stops; i++)
        if (r->stops[i].size == 0)
            abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static fb_serve_model *model;
    if (!model)
        model = load();
    for (int chat = 0; chat < 2; chat++) {
        fb_serve_request request;
        if (fb_serve_request_read(model, chat == 1, (const char *)data, size, &request) == FB_OK)
            check(model, &request);
        fb_serve_request_free(&request);
    }
    return 0;
}
