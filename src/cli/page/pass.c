/* One pass over a block, as JSON. */
#include "cli/page/page.h"

/* A token's text; of a character that several tokens share, the last one has it. */
static void put_token(fb_json_writer *w, fb_token_stream *stream, int32_t token, bool last) {
    const char *text = NULL;
    size_t size = 0;
    fb_buffer whole = {0};
    fb_status status = fb_token_stream_put(stream, &token, 1, &text, &size);
    if (status == FB_OK)
        status = fb_buffer_append(&whole, text, size);
    if (status == FB_OK && last)
        status = fb_token_stream_finish(stream, &text, &size);
    if (status == FB_OK && last)
        status = fb_buffer_append(&whole, text, size);
    fb_json_fail(w, status);
    fb_json_put_bytes(w, NULL, whole.data ? (const char *)whole.data : "", whole.size);
    fb_buffer_free(&whole);
}

/* The block after the pass; null where it is masked. */
static void put_tokens(fb_json_writer *w, fb_token_stream *stream, const fb_step_event *event) {
    fb_json_open_array(w, "tokens");
    for (size_t i = 0; i < event->block_size; i++) {
        bool last = i + 1 == event->block_size || event->masked_after[i + 1];
        if (event->masked_after[i])
            fb_json_put_null(w, NULL);
        else
            put_token(w, stream, event->after[i], last);
    }
    fb_json_close_array(w);
}

static bool is_decided(const fb_step_event *event, size_t i) {
    return i >= event->first_decided && i < event->first_decided + event->num_decided &&
           (event->masked_before[i] || event->edited[i]);
}

/* What a step proposed for positions that it could decide, and its confidence. */
static void put_proposals(fb_json_writer *w, fb_token_stream *stream, const fb_step_event *event) {
    fb_json_open_array(w, "proposed");
    for (size_t i = 0; i < event->block_size; i++)
        if (is_decided(event, i))
            put_token(w, stream, event->proposed[i], true);
        else
            fb_json_put_null(w, NULL);
    fb_json_close_array(w);
    int digits = w->digits;
    w->digits = 3;
    fb_json_open_array(w, "confidence");
    for (size_t i = 0; i < event->block_size; i++)
        if (is_decided(event, i))
            fb_json_put_double(w, NULL, (double)event->confidence[i]);
        else
            fb_json_put_null(w, NULL);
    fb_json_close_array(w);
    w->digits = digits;
}

static void put_positions(fb_json_writer *w, const char *key, const bool *has, size_t count) {
    fb_json_open_array(w, key);
    for (size_t i = 0; i < count; i++)
        if (has[i])
            fb_json_put_size(w, NULL, i);
    fb_json_close_array(w);
}

/* Keys that a layer's attention reads: those outside the block only where a row computes its
 * external part. Sparse attention reads others from one head to the next: no number. */
static void put_keys(fb_json_writer *w, const fb_step_event *event) {
    size_t inside = event->block_size, outside = event->context_length;
    fb_json_put_size(w, "keys", inside + outside);
    if (event->sparse)
        fb_json_put_null(w, "keys_read");
    else
        fb_json_put_size(w, "keys_read", inside + (event->external_rows > 0 ? outside : 0));
}

static void put_block(fb_json_writer *w, size_t num_prompt_tokens, const fb_step_event *event) {
    size_t start = event->context_length, left = 0;
    if (num_prompt_tokens > start)
        left = num_prompt_tokens - start;
    fb_json_put_size(w, "block", event->block);
    fb_json_put_size(w, "start", start);
    fb_json_put_size(w, "size", event->block_size);
    fb_json_put_size(w, "prompt", left < event->block_size ? left : event->block_size);
    fb_json_put_size(w, "step", event->denoising_step);
    fb_json_put_bool(w, "commit", event->commit);
}

void fb_page_put_pass(fb_json_writer *w, const fb_tokenizer *tokenizer, size_t num_prompt_tokens,
                      const fb_step_event *event) {
    fb_token_stream *stream = NULL;
    fb_status status = fb_token_stream_create(tokenizer, false, &stream);
    fb_json_fail(w, status);
    if (status != FB_OK)
        return;
    put_block(w, num_prompt_tokens, event);
    fb_json_put_string(w, "action", fb_reuse_action_name(event->action));
    fb_json_put_size(w, "dirty", event->dirty_before);
    fb_json_put_size(w, "rows", event->num_rows);
    fb_json_put_size(w, "external_rows", event->external_rows);
    put_keys(w, event);
    put_tokens(w, stream, event);
    if (!event->commit)
        put_proposals(w, stream, event);
    put_positions(w, "accepted", event->accepted, event->block_size);
    put_positions(w, "edited", event->edited, event->block_size);
    if (event->finished) {
        fb_json_put_size(w, "end", num_prompt_tokens + event->num_completion);
        fb_json_put_string(w, "finish_reason", fb_finish_reason_name(event->finish_reason));
    }
    fb_token_stream_destroy(stream);
}
