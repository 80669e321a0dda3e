#include "cli/serve/logprobs.h"

#include "base/error.h"
#include "io/utf8.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct entry {
    int32_t token; /* -1: none */
    double logprob;
} entry;

static size_t entries_of(const fb_serve_logprobs *l) {
    return 1 + l->num_top;
}

/* --- numbers ---------------------------------------------------------------------------------- */

/* ln of the sum of exp of a row, the mask token left out. */
static double log_sum(const fb_serve_logprobs *l, const float *row) {
    double largest = -INFINITY, sum = 0.0;
    for (size_t i = 0; i < l->vocab_size; i++)
        if ((int64_t)i != l->mask_token && (double)row[i] > largest)
            largest = (double)row[i];
    for (size_t i = 0; i < l->vocab_size; i++)
        if ((int64_t)i != l->mask_token)
            sum += exp((double)row[i] - largest);
    return largest + log(sum);
}

/* The largest ones, in order; of equal ones the smaller id first. */
static void find_top(const fb_serve_logprobs *l, const float *row, double total, entry *top) {
    size_t count = 0;
    for (size_t i = 0; i < l->vocab_size; i++) {
        double logprob = (double)row[i] - total;
        if ((int64_t)i == l->mask_token ||
            (count == l->num_top && (count == 0 || logprob <= top[count - 1].logprob)))
            continue;
        size_t at = count < l->num_top ? count++ : count - 1;
        for (; at > 0 && top[at - 1].logprob < logprob; at--)
            top[at] = top[at - 1];
        top[at] = (entry){(int32_t)i, logprob};
    }
}

static void look(const fb_serve_logprobs *l, const float *row, int32_t token, entry *entries) {
    double total = log_sum(l, row);
    entries[0] = (entry){token, (double)row[token] - total};
    find_top(l, row, total, entries + 1);
}

/* Every block begins without any. */
static fb_status begin_block(fb_serve_logprobs *l, size_t block_size) {
    size_t count = block_size * entries_of(l);
    l->block.size = 0;
    FB_TRY(fb_buffer_reserve(&l->block, count * sizeof(entry)));
    entry *entries = (entry *)(void *)l->block.data;
    for (size_t i = 0; i < count; i++)
        entries[i] = (entry){-1, 0.0};
    l->block.size = count * sizeof(entry);
    return FB_OK;
}

fb_status fb_serve_logprobs_see(fb_serve_logprobs *l, const fb_step_event *event) {
    if (event->commit || !event->logits)
        return FB_OK;
    if (event->denoising_step == 0)
        FB_TRY(begin_block(l, event->block_size));
    entry *entries = (entry *)(void *)l->block.data;
    for (size_t i = event->first_row; i < event->first_row + event->num_rows; i++)
        if (event->accepted[i] || event->edited[i])
            look(l, event->logits + (i - event->first_row) * l->vocab_size, event->after[i],
                 entries + i * entries_of(l));
    return FB_OK;
}

/* A token that no step decided has none. */
fb_status fb_serve_logprobs_add(fb_serve_logprobs *l, const fb_step_event *event, size_t num_prompt,
                                size_t index, size_t offset) {
    size_t position = num_prompt + index - event->context_length;
    const entry *entries = (const entry *)(const void *)l->block.data;
    const entry none = {event->completion[index], NAN}, no_other = {-1, NAN};
    bool known = position < l->block.size / (entries_of(l) * sizeof *entries) &&
                 entries[position * entries_of(l)].token == none.token;
    for (size_t k = 0; k < entries_of(l); k++) {
        const entry *one = known    ? &entries[position * entries_of(l) + k]
                           : k == 0 ? &none
                                    : &no_other;
        FB_TRY(fb_buffer_append(&l->tokens, one, sizeof *one));
    }
    return fb_buffer_append(&l->offsets, &offset, sizeof offset);
}

/* --- JSON ------------------------------------------------------------------------------------- */

/* A token as text; where its bytes are no UTF-8, as OpenAI's interface writes those. */
static void name_token(fb_buffer *name, const char *bytes, size_t size, fb_json_writer *w) {
    fb_status status = FB_OK;
    name->size = 0;
    if (fb_utf8_valid_prefix((const unsigned char *)bytes, size) == size) {
        status = fb_buffer_append(name, bytes, size);
    } else {
        status = fb_buffer_append_text(name, "bytes:");
        for (size_t i = 0; i < size && status == FB_OK; i++) {
            char text[8];
            snprintf(text, sizeof text, "\\x%02x", (unsigned)(unsigned char)bytes[i]);
            status = fb_buffer_append_text(name, text);
        }
    }
    if (status == FB_OK)
        status = fb_buffer_terminate(name);
    fb_json_fail(w, status);
}

/* What is being written. */
typedef struct put {
    fb_json_writer *w;
    const fb_tokenizer *tokenizer;
    fb_buffer name;
    size_t first, end; /* tokens */
} put;

static void put_token(put *p, const char *key, const entry *e) {
    size_t size = 0;
    const char *bytes = fb_tokenizer_token_bytes(p->tokenizer, e->token, &size);
    name_token(&p->name, bytes ? bytes : "", size, p->w);
    if (p->name.data)
        fb_json_put_bytes(p->w, key, (const char *)p->name.data, p->name.size);
}

/* A member whose key is the token. */
static void put_by_token(put *p, const entry *e) {
    size_t size = 0;
    const char *bytes = fb_tokenizer_token_bytes(p->tokenizer, e->token, &size);
    name_token(&p->name, bytes ? bytes : "", size, p->w);
    if (p->name.data)
        fb_json_put_double(p->w, (const char *)p->name.data, e->logprob);
}

static void put_members(put *p, const entry *e) {
    size_t size = 0;
    const char *bytes = fb_tokenizer_token_bytes(p->tokenizer, e->token, &size);
    put_token(p, "token", e);
    fb_json_put_double(p->w, "logprob", e->logprob);
    fb_json_open_array(p->w, "bytes");
    for (size_t i = 0; i < size; i++)
        fb_json_put_size(p->w, NULL, (unsigned char)bytes[i]);
    fb_json_close_array(p->w);
}

static const entry *token_at(const fb_serve_logprobs *l, size_t index) {
    return (const entry *)(const void *)l->tokens.data + index * entries_of(l);
}

static size_t offset_at(const fb_serve_logprobs *l, size_t index) {
    return ((const size_t *)(const void *)l->offsets.data)[index];
}

static void put_for_chat(const fb_serve_logprobs *l, put *p) {
    fb_json_open_array(p->w, "content");
    for (size_t i = p->first; i < p->end; i++) {
        const entry *e = token_at(l, i);
        fb_json_open_object(p->w, NULL);
        put_members(p, e);
        fb_json_open_array(p->w, "top_logprobs");
        for (size_t k = 1; k <= l->num_top && e[k].token >= 0; k++) {
            fb_json_open_object(p->w, NULL);
            put_members(p, &e[k]);
            fb_json_close_object(p->w);
        }
        fb_json_close_array(p->w);
        fb_json_close_object(p->w);
    }
    fb_json_close_array(p->w);
    fb_json_put_null(p->w, "refusal");
}

/* Characters of the text until the byte. Offsets never fall. */
static size_t characters_until(fb_serve_logprobs *l, const char *text, size_t offset) {
    for (; l->until_offset < offset; l->until_offset++)
        l->characters += ((unsigned char)text[l->until_offset] & 0xC0) != 0x80;
    return l->characters;
}

static void put_for_text(fb_serve_logprobs *l, put *p, const char *text) {
    fb_json_open_array(p->w, "tokens");
    for (size_t i = p->first; i < p->end; i++)
        put_token(p, NULL, token_at(l, i));
    fb_json_close_array(p->w);
    fb_json_open_array(p->w, "token_logprobs");
    for (size_t i = p->first; i < p->end; i++)
        fb_json_put_double(p->w, NULL, token_at(l, i)->logprob);
    fb_json_close_array(p->w);
    if (l->num_top == 0) {
        fb_json_put_null(p->w, "top_logprobs");
    } else {
        fb_json_open_array(p->w, "top_logprobs");
        for (size_t i = p->first; i < p->end; i++) {
            const entry *e = token_at(l, i);
            fb_json_open_object(p->w, NULL);
            for (size_t k = 1; k <= l->num_top && e[k].token >= 0; k++)
                put_by_token(p, &e[k]);
            fb_json_close_object(p->w);
        }
        fb_json_close_array(p->w);
    }
    fb_json_open_array(p->w, "text_offset");
    for (size_t i = p->first; i < p->end; i++)
        fb_json_put_size(p->w, NULL, characters_until(l, text, offset_at(l, i)));
    fb_json_close_array(p->w);
}

void fb_serve_logprobs_put(fb_serve_logprobs *l, fb_json_writer *w, const fb_tokenizer *tokenizer,
                           const char *text, size_t end) {
    put p = {.w = w, .tokenizer = tokenizer, .first = l->sent, .end = l->sent};
    while (p.end < l->offsets.size / sizeof(size_t) && offset_at(l, p.end) < end)
        p.end++;
    l->sent = p.end;
    fb_json_open_object(w, "logprobs");
    if (l->chat)
        put_for_chat(l, &p);
    else
        put_for_text(l, &p, text);
    fb_json_close_object(w);
    fb_buffer_free(&p.name);
}

void fb_serve_logprobs_free(fb_serve_logprobs *l) {
    fb_buffer_free(&l->block);
    fb_buffer_free(&l->tokens);
    fb_buffer_free(&l->offsets);
}
