#include "base/error.h"
#include "base/memory.h"
#include "io/tokenizer_internal.h"
#include "io/unicode.h"

#include <string.h>

#define MAX_TEXT ((size_t)1 << 30)

/* One call of fb_tokenizer_encode. */
typedef struct encoding {
    const fb_tokenizer *tokenizer;
    fb_added_tokens added;
    fb_regex_state *regex;
    fb_bpe_scratch scratch;
    fb_buffer *ids;
} encoding;

static fb_status encode_piece(void *context, const unsigned char *piece, size_t length) {
    encoding *job = context;
    return fb_bpe_encode(&job->tokenizer->bpe, &job->tokenizer->vocabulary, &job->scratch, piece,
                         length, job->ids);
}

typedef fb_status encode_plain(encoding *job, const unsigned char *text, size_t length);

/* Appends the ids of added tokens, and gives the text between them to `plain`. */
static fb_status encode_parts(encoding *job, const fb_added_matcher *matcher, encode_plain *plain,
                              const unsigned char *text, size_t length) {
    for (size_t from = 0, search = 0; search < length;) {
        fb_added_part part = fb_added_find(matcher, job->added, text, length, from, search);
        if (part.begin < part.end)
            FB_TRY(plain(job, text + part.begin, part.end - part.begin));
        if (part.id >= 0)
            FB_TRY(fb_buffer_append(job->ids, &part.id, sizeof part.id));
        from = part.next;
        search = part.search;
    }
    return FB_OK;
}

static fb_status encode_words(encoding *job, const unsigned char *text, size_t length) {
    return fb_pretokenize(job->tokenizer->pretokenizer, job->regex, text, length, encode_piece,
                          job);
}

static fb_status encode_normalized(encoding *job, const unsigned char *text, size_t length) {
    return encode_parts(job, &job->tokenizer->normalized, encode_words, text, length);
}

static fb_status encode_raw(encoding *job, const unsigned char *text, size_t length) {
    if (!job->tokenizer->nfc || fb_unicode_is_plain(text, length))
        return encode_normalized(job, text, length);
    fb_buffer normalized = {0};
    fb_status status = fb_unicode_append_nfc(&normalized, text, length);
    if (status == FB_OK)
        status = encode_normalized(job, normalized.data, normalized.size);
    fb_buffer_free(&normalized);
    return status;
}

static fb_status encode_valid(encoding *job, const unsigned char *text, size_t length) {
    return encode_parts(job, &job->tokenizer->raw, encode_raw, text, length);
}

static fb_status encode_bytes(encoding *job, const unsigned char *text, size_t length) {
    if (fb_utf8_valid_prefix(text, length) == length)
        return encode_valid(job, text, length);
    fb_buffer replaced = {0};
    fb_status status = fb_utf8_append_replaced(&replaced, text, length, NULL);
    if (status == FB_OK)
        status = encode_valid(job, replaced.data, replaced.size);
    fb_buffer_free(&replaced);
    return status;
}

static fb_status append_buffer(fb_buffer *to, const fb_buffer *from) {
    return fb_buffer_append(to, from->data, from->size);
}

/* `whole`: with what the post-processor puts before and after a text. */
static fb_status encode_all(encoding *job, const unsigned char *text, size_t length, bool whole) {
    const fb_post_processor *around = &job->tokenizer->post_processor;
    FB_TRY(fb_buffer_reserve(job->ids, sizeof(int32_t)));
    if (whole)
        FB_TRY(append_buffer(job->ids, &around->before));
    FB_TRY(encode_bytes(job, text, length));
    return whole ? append_buffer(job->ids, &around->after) : FB_OK;
}

static fb_status encode(const fb_tokenizer *tokenizer, const char *text, size_t length,
                        fb_added_tokens added, bool whole, int32_t **ids, size_t *count) {
    if (!tokenizer || (!text && length > 0) || !ids || !count)
        return fb_fail(FB_ERROR_ARGUMENT, "fb_tokenizer_encode: an argument is NULL");
    if (length > MAX_TEXT)
        return fb_fail(FB_ERROR_ARGUMENT, "length is %zu, above %zu", length, MAX_TEXT);
    if (added != FB_ADDED_PARSED && added != FB_ADDED_SPECIAL_AS_TEXT && added != FB_ADDED_AS_TEXT)
        return fb_fail(FB_ERROR_ARGUMENT, "added is %d, not an fb_added_tokens", (int)added);
    fb_buffer buffer = {0};
    encoding job = {.tokenizer = tokenizer, .added = added, .ids = &buffer};
    FB_TRY(fb_regex_state_create(&job.regex));
    fb_status status = encode_all(&job, (const unsigned char *)text, length, whole);
    fb_regex_state_destroy(job.regex);
    fb_bpe_scratch_free(&job.scratch);
    if (status != FB_OK) {
        fb_buffer_free(&buffer);
        return status;
    }
    *ids = (int32_t *)(void *)buffer.data;
    *count = buffer.size / sizeof(int32_t);
    return FB_OK;
}

fb_status fb_tokenizer_encode(const fb_tokenizer *tokenizer, const char *text, size_t length,
                              fb_added_tokens added, int32_t **ids, size_t *count) {
    return encode(tokenizer, text, length, added, true, ids, count);
}

fb_status fb_tokenizer_encode_piece(const fb_tokenizer *tokenizer, const char *text, size_t length,
                                    fb_added_tokens added, int32_t **ids, size_t *count) {
    return encode(tokenizer, text, length, added, false, ids, count);
}

void fb_text_free(char *text) {
    fb_free(text);
}

void fb_token_ids_free(int32_t *ids) {
    fb_free(ids);
}

const char *fb_tokenizer_warning(const fb_tokenizer *tokenizer, size_t index) {
    return fb_warnings_at(&tokenizer->warnings, index);
}

size_t fb_tokenizer_vocab_size(const fb_tokenizer *tokenizer) {
    return tokenizer->vocabulary.size;
}

int32_t fb_tokenizer_token_id(const fb_tokenizer *tokenizer, const char *token) {
    return fb_vocabulary_find(&tokenizer->vocabulary, token, strlen(token));
}

bool fb_tokenizer_is_special(const fb_tokenizer *tokenizer, int32_t id) {
    const fb_token *token = fb_vocabulary_token(&tokenizer->vocabulary, id);
    return token && (token->flags & FB_TOKEN_SPECIAL);
}

const char *fb_tokenizer_token_bytes(const fb_tokenizer *tokenizer, int32_t id, size_t *length) {
    const fb_token *token = fb_vocabulary_token(&tokenizer->vocabulary, id);
    *length = token ? token->bytes_length : 0;
    return token ? (const char *)tokenizer->vocabulary.text.data + token->bytes : NULL;
}
