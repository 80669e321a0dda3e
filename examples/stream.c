/* Text that appears while it is written: on_step is called after every pass of a block. A commit
 * adds the finished block's tokens, and a token stream makes text of them, whole characters only.
 */
#include <flashblock/flashblock.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct writer {
    fb_token_stream *stream;
    size_t pieces;
    fb_status status;
} writer;

static void check(fb_status status) {
    if (status == FB_OK)
        return;
    fprintf(stderr, "%s\n", fb_error_message());
    exit(1);
}

static void write_piece(const char *text, size_t length) {
    fwrite(text, 1, length, stdout);
    fflush(stdout); /* a reader sees it now */
}

/* Runs on the thread that called fb_generate. false cancels the generation. */
static bool on_step(void *user, const fb_step_event *event) {
    writer *to = user;
    const char *text = NULL;
    size_t length = 0;
    if (event->num_new > 0) { /* a commit: the last num_new tokens are final */
        const int32_t *added = event->completion + event->num_completion - event->num_new;
        to->status = fb_token_stream_put(to->stream, added, event->num_new, &text, &length);
        if (to->status != FB_OK)
            return false;
        write_piece(text, length);
        to->pieces++;
    }
    return true;
}

int main(int argc, char **argv) {
    const char *folder = argc > 1 ? argv[1] : "golden/demo-model";
    const char *text = argc > 2 ? argv[2] : "And it came to pass";
    fb_model *model = NULL;
    fb_tokenizer *tokenizer = NULL;
    writer to = {.status = FB_OK};
    int32_t *ids = NULL;
    size_t num_ids = 0, length = 0;
    check(fb_model_load(folder, &model));
    check(fb_tokenizer_load(folder, &tokenizer));
    check(fb_tokenizer_encode(tokenizer, text, strlen(text), FB_ADDED_SPECIAL_AS_TEXT, &ids,
                              &num_ids));
    check(fb_token_stream_create(tokenizer, true, &to.stream));

    fb_generate_options options;
    fb_generate_options_init(&options);
    options.max_tokens = 32;
    options.on_step = on_step;
    options.user = &to;
    fb_prompt prompt = {ids, num_ids};
    fb_generation *generation = NULL;
    printf("%s", text);
    check(fb_generate(model, &prompt, 1, &options, &generation));
    check(to.status);
    check(fb_token_stream_finish(to.stream, &text, &length)); /* an incomplete last character */
    write_piece(text, length);

    const fb_generate_result *result = fb_generation_result(generation, 0);
    printf("\n%zu tokens in %zu pieces, %s; %zu of %zu steps reused\n", result->num_tokens,
           to.pieces, fb_finish_reason_name(result->finish_reason), result->counts->reuses,
           result->counts->denoising_steps);
    fb_generation_destroy(generation);
    fb_token_ids_free(ids);
    fb_token_stream_destroy(to.stream);
    fb_tokenizer_destroy(tokenizer);
    fb_model_destroy(model);
    return 0;
}
