#include "io/tokenizer_config.h"

#include "base/error.h"
#include "io/added_list.h"
#include "io/tokenizer_fields.h"

#include <string.h>

static int32_t find(const fb_tokenizer *tokenizer, const char *text) {
    return fb_vocabulary_find(&tokenizer->vocabulary, text, strlen(text));
}

/* --- what begins and ends a text -------------------------------------------------------------- */

static const char *const llama_classes[] = {"LlamaTokenizer", "LlamaTokenizerFast"};

static const char *const byte_level_classes[] = {
    "Qwen2Tokenizer",    "Qwen2TokenizerFast",  "GPT2Tokenizer",
    "GPT2TokenizerFast", "PreTrainedTokenizer", "PreTrainedTokenizerFast",
    "TokenizersBackend", "LlamaTokenizer",      "LlamaTokenizerFast"};

static bool is_listed(const char *text, const char *const *list, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (strcmp(text, list[i]) == 0)
            return true;
    return false;
}

#define IS_LISTED(text, list) is_listed(text, list, sizeof(list) / sizeof(list)[0])

/* add_bos_token and bos_token, or those of the end. `ids` are what the post-processor adds there.
 */
static fb_status check_end(const fb_tokenizer *tokenizer, const fb_json *config, const char *path,
                           const char *key, const char *token, bool by_default,
                           const fb_buffer *ids) {
    bool wanted = by_default;
    if (!fb_json_has(config, key) && !by_default)
        return FB_OK; /* tokenizer.json decides */
    FB_TRY(fb_json_get_bool_or(config, path, key, by_default, &wanted));
    if (!wanted && ids->size > 0)
        return fb_fail(FB_ERROR_UNSUPPORTED,
                       "%s: %s is false, but post_processor of tokenizer.json adds %zu tokens",
                       path, key, ids->size / sizeof(int32_t));
    if (!wanted)
        return FB_OK;
    const char *text = fb_token_content(fb_json_object_get(config, token));
    int32_t id = text ? find(tokenizer, text) : -1;
    if (ids->size == sizeof id && memcmp(ids->data, &id, sizeof id) == 0)
        return FB_OK;
    return fb_fail(FB_ERROR_UNSUPPORTED,
                   "%s: %s is %s, but post_processor of tokenizer.json does not add %s '%.100s'",
                   path, key, fb_json_has(config, key) ? "true" : "true by default", token,
                   text ? text : "");
}

static fb_status check_class(fb_tokenizer *tokenizer, const fb_json *config, const char *path) {
    const char *name = NULL;
    FB_TRY(fb_json_get_string_or(config, path, "tokenizer_class", NULL, &name));
    if (name && !IS_LISTED(name, byte_level_classes))
        FB_TRY(fb_warn(&tokenizer->warnings,
                       "%s: tokenizer_class '%.100s' is not known; tokenizer.json is read as it is",
                       path, name));
    bool adds_bos = name && IS_LISTED(name, llama_classes);
    FB_TRY(check_end(tokenizer, config, path, "add_bos_token", "bos_token", adds_bos,
                     &tokenizer->post_processor.before));
    return check_end(tokenizer, config, path, "add_eos_token", "eos_token", false,
                     &tokenizer->post_processor.after);
}

static fb_status check_prefix_space(const fb_tokenizer *tokenizer, const fb_json *config,
                                    const char *path) {
    static const char key[] = "add_prefix_space";
    bool wanted = false, used = fb_pretokenizer_adds_space(tokenizer->pretokenizer);
    if (!fb_json_has(config, key))
        return FB_OK;
    FB_TRY(fb_json_get_bool(config, path, key, &wanted));
    return wanted == used ? FB_OK
                          : fb_fail(FB_ERROR_UNSUPPORTED,
                                    "%s: %s is %s, but %s in pre_tokenizer of tokenizer.json", path,
                                    key, wanted ? "true" : "false", used ? "true" : "false");
}

/* --- added tokens ----------------------------------------------------------------------------- */

/* The loader has read what it uses of these; they are objects. */
static fb_status check_decoder_items(fb_tokenizer *tokenizer, const fb_json *config,
                                     const char *path) {
    const fb_json *items = fb_json_object_get(config, "added_tokens_decoder");
    for (size_t i = 0; i < fb_json_object_size(items); i++)
        FB_TRY(fb_fields_check(fb_json_object_at(items, i), path, fb_added_token_fields, NULL,
                               &tokenizer->warnings));
    return FB_OK;
}

fb_status fb_tokenizer_config_check(fb_tokenizer *tokenizer, const fb_json *config,
                                    const char *path) {
    FB_TRY(check_class(tokenizer, config, path));
    FB_TRY(check_prefix_space(tokenizer, config, path));
    FB_TRY(check_decoder_items(tokenizer, config, path));
    return fb_fields_check(config, path, fb_tokenizer_config_fields, NULL, &tokenizer->warnings);
}

fb_status fb_added_tokens_file_check(fb_tokenizer *tokenizer, const fb_json *file,
                                     const char *path) {
    for (size_t i = 0; i < fb_json_object_size(file); i++) {
        const char *text = fb_json_object_key(file, i);
        int32_t found = find(tokenizer, text);
        size_t id = 0;
        FB_TRY(fb_json_get_size(file, path, text, 0, FB_MAX_TOKEN_ID, &id));
        if (found < 0)
            FB_TRY(fb_warn(&tokenizer->warnings,
                           "%s: '%.100s' is not a token of tokenizer.json, and not used", path,
                           text));
        else if ((size_t)found != id)
            return fb_fail(FB_ERROR_FORMAT, "%s: '%.100s' is %zu, but %ld in tokenizer.json", path,
                           text, id, (long)found);
    }
    return FB_OK;
}
