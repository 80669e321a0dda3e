#include "base/error.h"
#include "base/memory.h"
#include "io/tokenizer_internal.h"
#include "io/utf8.h"

#include <string.h>

struct fb_token_stream {
    const fb_tokenizer *tokenizer;
    bool skip_special;
    fb_buffer pending; /* bytes of tokens, not yet decoded */
    fb_buffer text;    /* the result of the last call */
};

/* Decodes pending bytes. An incomplete character at the end stays pending unless `all`. */
static fb_status flush(fb_token_stream *stream, bool all) {
    size_t rest = 0;
    FB_TRY(fb_utf8_append_replaced(&stream->text, stream->pending.data, stream->pending.size,
                                   all ? NULL : &rest));
    size_t used = stream->pending.size - rest;
    if (used > 0)
        memmove(stream->pending.data, stream->pending.data + used, rest);
    stream->pending.size = rest;
    return FB_OK;
}

static fb_status put_token(fb_token_stream *stream, int32_t id) {
    const fb_vocabulary *vocabulary = &stream->tokenizer->vocabulary;
    const fb_token *token = fb_vocabulary_token(vocabulary, id);
    if (!token || (stream->skip_special && (token->flags & FB_TOKEN_SPECIAL)))
        return FB_OK;
    const unsigned char *bytes = vocabulary->text.data + token->bytes;
    return fb_buffer_append(&stream->pending, bytes, token->bytes_length);
}

static fb_status give(fb_token_stream *stream, bool all, const char **text, size_t *length) {
    FB_TRY(flush(stream, all));
    FB_TRY(fb_buffer_terminate(&stream->text));
    *text = (const char *)stream->text.data;
    *length = stream->text.size;
    return FB_OK;
}

fb_status fb_token_stream_create(const fb_tokenizer *tokenizer, bool skip_special,
                                 fb_token_stream **stream) {
    if (!tokenizer || !stream)
        return fb_fail(FB_ERROR_ARGUMENT, "fb_token_stream_create: an argument is NULL");
    fb_token_stream *made = NULL;
    FB_TRY(fb_alloc_zeroed(1, sizeof *made, "token stream", &made));
    made->tokenizer = tokenizer;
    made->skip_special = skip_special;
    *stream = made;
    return FB_OK;
}

void fb_token_stream_destroy(fb_token_stream *stream) {
    if (!stream)
        return;
    fb_buffer_free(&stream->pending);
    fb_buffer_free(&stream->text);
    fb_free(stream);
}

static fb_status put_all(fb_token_stream *stream, const int32_t *ids, size_t count) {
    stream->text.size = 0;
    for (size_t i = 0; i < count; i++)
        FB_TRY(put_token(stream, ids[i]));
    return FB_OK;
}

fb_status fb_token_stream_put(fb_token_stream *stream, const int32_t *ids, size_t count,
                              const char **text, size_t *length) {
    if (!stream || (!ids && count > 0) || !text || !length)
        return fb_fail(FB_ERROR_ARGUMENT, "fb_token_stream_put: an argument is NULL");
    FB_TRY(put_all(stream, ids, count));
    return give(stream, false, text, length);
}

fb_status fb_token_stream_finish(fb_token_stream *stream, const char **text, size_t *length) {
    if (!stream || !text || !length)
        return fb_fail(FB_ERROR_ARGUMENT, "fb_token_stream_finish: an argument is NULL");
    stream->text.size = 0;
    return give(stream, true, text, length);
}

fb_status fb_tokenizer_decode(const fb_tokenizer *tokenizer, const int32_t *ids, size_t count,
                              bool skip_special, char **text, size_t *length) {
    if (!tokenizer || (!ids && count > 0) || !text || !length)
        return fb_fail(FB_ERROR_ARGUMENT, "fb_tokenizer_decode: an argument is NULL");
    fb_token_stream stream = {.tokenizer = tokenizer, .skip_special = skip_special};
    const char *all = NULL;
    size_t size = 0;
    fb_status status = put_all(&stream, ids, count);
    if (status == FB_OK)
        status = give(&stream, true, &all, &size);
    if (status == FB_OK) { /* the stream's buffer becomes the caller's */
        *text = (char *)(void *)stream.text.data;
        *length = size;
        stream.text = (fb_buffer){0};
    }
    fb_buffer_free(&stream.pending);
    fb_buffer_free(&stream.text);
    return status;
}
