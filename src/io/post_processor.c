#include "io/post_processor.h"

#include "base/error.h"
#include "io/vocabulary.h"

#include <string.h>

static fb_status append_id(fb_buffer *ids, const fb_json *item, const char *where,
                           const char *key) {
    size_t value = 0;
    FB_TRY(fb_json_size(item, where, key, 0, FB_MAX_TOKEN_ID, &value));
    int32_t id = (int32_t)value;
    return fb_buffer_append(ids, &id, sizeof id);
}

/* {"id": "<s>", "type_id": 0}, where special_tokens has {"<s>": {"ids": [1], ...}} */
static fb_status append_special(const fb_json *piece, const fb_json *tokens, const char *where,
                                fb_buffer *ids) {
    const char *name = NULL;
    const fb_json *token = NULL, *list = NULL;
    FB_TRY(fb_json_get_string(piece, where, "id", &name));
    FB_TRY(fb_json_get_object(tokens, where, name, &token));
    FB_TRY(fb_json_get_array(token, where, "ids", &list));
    for (size_t i = 0; i < fb_json_array_size(list); i++)
        FB_TRY(append_id(ids, fb_json_array_get(list, i), where, "ids"));
    return FB_OK;
}

/* Puts ids around those of earlier processors. */
static fb_status wrap(fb_post_processor *processor, fb_buffer *before, const fb_buffer *after) {
    fb_buffer inner = processor->before;
    FB_TRY(fb_buffer_append(before, inner.data, inner.size));
    processor->before = *before;
    *before = inner;
    return fb_buffer_append(&processor->after, after->data, after->size);
}

static fb_status read_template(const fb_json *config, const char *where, fb_buffer *before,
                               fb_buffer *after) {
    const fb_json *pieces = NULL, *tokens = NULL, *piece = NULL;
    size_t num_texts = 0;
    FB_TRY(fb_json_get_array(config, where, "single", &pieces));
    FB_TRY(fb_json_get_object(config, where, "special_tokens", &tokens));
    for (size_t i = 0; i < fb_json_array_size(pieces); i++) {
        const fb_json *item = fb_json_array_get(pieces, i);
        if (fb_json_has(item, "Sequence")) {
            const char *name = NULL;
            FB_TRY(fb_json_get_object(item, where, "Sequence", &piece));
            FB_TRY(fb_json_get_string(piece, where, "id", &name));
            num_texts += strcmp(name, "A") == 0 ? 1 : 2;
            continue;
        }
        FB_TRY(fb_json_get_object(item, where, "SpecialToken", &piece));
        FB_TRY(append_special(piece, tokens, where, num_texts == 0 ? before : after));
    }
    if (num_texts != 1)
        return fb_fail(FB_ERROR_UNSUPPORTED, "%s: single has not the text A once", where);
    return FB_OK;
}

/* "cls": ["<s>", 0] */
static fb_status read_token(const fb_json *config, const char *where, const char *key,
                            fb_buffer *ids) {
    const fb_json *token = NULL;
    FB_TRY(fb_json_get_array(config, where, key, &token));
    return append_id(ids, fb_json_array_get(token, 1), where, key);
}

static fb_status load_one(const fb_json *config, const char *where, const char *type,
                          fb_post_processor *processor) {
    fb_buffer before = {0}, after = {0};
    fb_status status = FB_OK;
    if (strcmp(type, "TemplateProcessing") == 0) {
        status = read_template(config, where, &before, &after);
    } else {
        status = read_token(config, where, "cls", &before);
        if (status == FB_OK)
            status = read_token(config, where, "sep", &after);
    }
    if (status == FB_OK)
        status = wrap(processor, &before, &after);
    fb_buffer_free(&before);
    fb_buffer_free(&after);
    return status;
}

fb_status fb_post_processor_load(const fb_json *config, const char *where,
                                 fb_post_processor *processor) {
    const char *type = NULL;
    FB_TRY(fb_json_get_string(config, where, "type", &type));
    if (strcmp(type, "ByteLevel") == 0) /* changes places in the text only */
        return FB_OK;
    if (strcmp(type, "TemplateProcessing") == 0 || strcmp(type, "RobertaProcessing") == 0 ||
        strcmp(type, "BertProcessing") == 0)
        return load_one(config, where, type, processor);
    if (strcmp(type, "Sequence") != 0)
        return fb_fail(FB_ERROR_UNSUPPORTED, "%s: type is '%s'", where, type);
    const fb_json *items = NULL;
    FB_TRY(fb_json_get_array(config, where, "processors", &items));
    for (size_t i = 0; i < fb_json_array_size(items); i++)
        FB_TRY(fb_post_processor_load(fb_json_array_get(items, i), where, processor));
    return FB_OK;
}

void fb_post_processor_free(fb_post_processor *processor) {
    fb_buffer_free(&processor->before);
    fb_buffer_free(&processor->after);
}
