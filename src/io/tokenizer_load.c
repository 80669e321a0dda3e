#include "base/error.h"
#include "base/memory.h"
#include "io/file.h"
#include "io/json.h"
#include "io/tokenizer_config.h"
#include "io/tokenizer_fields.h"
#include "io/tokenizer_internal.h"

#include <stdlib.h>
#include <string.h>

/* The largest published tokenizer.json has 35 MB. */
enum { MAX_FILE = 512 * 1024 * 1024 };

static const char file_name[] = "tokenizer.json";
static const char config_name[] = "tokenizer_config.json";

/* The added tokens of both files. */
typedef struct added_list {
    fb_added_token *items;
    size_t count;
} added_list;

static fb_status read_added(const fb_json *item, const char *where, size_t id,
                            fb_added_token *token) {
    FB_TRY(fb_json_get_string(item, where, "content", &token->content));
    token->id = (int32_t)id;
    FB_TRY(fb_json_get_bool_or(item, where, "special", false, &token->special));
    FB_TRY(fb_json_get_bool_or(item, where, "normalized", !token->special, &token->normalized));
    FB_TRY(fb_json_get_bool_or(item, where, "lstrip", false, &token->lstrip));
    FB_TRY(fb_json_get_bool_or(item, where, "rstrip", false, &token->rstrip));
    return fb_json_get_bool_or(item, where, "single_word", false, &token->single_word);
}

/* tokenizer.json: an array of objects that have an id. */
static fb_status read_added_array(const fb_json *array, const char *where, added_list *list) {
    for (size_t i = 0; i < fb_json_array_size(array); i++) {
        const fb_json *item = fb_json_array_get(array, i);
        size_t id = 0;
        FB_TRY(fb_json_get_size(item, where, "id", 0, FB_MAX_TOKEN_ID, &id));
        FB_TRY(read_added(item, where, id, &list->items[list->count]));
        list->count++;
    }
    return FB_OK;
}

static fb_status parse_id(const char *text, const char *where, size_t *id) {
    char *end = NULL;
    unsigned long value = strtoul(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end != '\0' || value > FB_MAX_TOKEN_ID)
        return fb_fail(FB_ERROR_FORMAT, "%s: '%s' is not a token id", where, text);
    *id = value;
    return FB_OK;
}

static int compare_texts(const void *left, const void *right) {
    const fb_added_token *const *a = left, *const *b = right;
    return strcmp((*a)->content, (*b)->content);
}

/* The tokens of the list, sorted by their texts. */
static fb_status sort_tokens(const added_list *list, const fb_added_token ***sorted) {
    FB_TRY(fb_alloc(list->count, sizeof **sorted, "added tokens", sorted));
    for (size_t i = 0; i < list->count; i++)
        (*sorted)[i] = &list->items[i];
    if (list->count > 0)
        qsort(*sorted, list->count, sizeof **sorted, compare_texts);
    return FB_OK;
}

/* What both files say about a token must be the same. */
static fb_status check_same(const fb_json *item, const char *where, size_t id,
                            const fb_added_token *token) {
    const struct {
        const char *name;
        bool value;
    } flags[] = {{"special", token->special},
                 {"normalized", token->normalized},
                 {"lstrip", token->lstrip},
                 {"rstrip", token->rstrip},
                 {"single_word", token->single_word}};
    if (id != (size_t)token->id)
        return fb_fail(FB_ERROR_FORMAT, "%s: '%.100s' is %zu, but %ld in %s", where, token->content,
                       id, (long)token->id, file_name);
    for (size_t i = 0; i < sizeof flags / sizeof flags[0]; i++) {
        bool value = false;
        FB_TRY(fb_json_get_bool_or(item, where, flags[i].name, flags[i].value, &value));
        if (value != flags[i].value)
            return fb_fail(FB_ERROR_UNSUPPORTED, "%s: %s of '%.100s' is %s, but %s in %s", where,
                           flags[i].name, token->content, value ? "true" : "false",
                           value ? "false" : "true", file_name);
    }
    return FB_OK;
}

/* sorted[0 .. count) are the tokens that the list has. */
static fb_status read_missing(const fb_json *object, const char *where,
                              const fb_added_token *const *sorted, size_t count, added_list *list) {
    for (size_t i = 0; i < fb_json_object_size(object); i++) {
        const fb_json *item = fb_json_object_at(object, i);
        size_t id = 0;
        fb_added_token token = {0};
        const fb_added_token *wanted = &token;
        FB_TRY(parse_id(fb_json_object_key(object, i), where, &id));
        FB_TRY(read_added(item, where, id, &token));
        const fb_added_token *const *found =
            count ? bsearch(&wanted, sorted, count, sizeof *sorted, compare_texts) : NULL;
        if (found)
            FB_TRY(check_same(item, where, id, *found));
        else
            list->items[list->count++] = token;
    }
    return FB_OK;
}

/* Reads added_tokens_decoder of tokenizer_config.json, an object with ids as keys. It adds only
 * tokens whose text is not in tokenizer.json; the others must be the same there. */
static fb_status read_added_object(const fb_json *object, const char *where, added_list *list) {
    const fb_added_token **sorted = NULL;
    FB_TRY(sort_tokens(list, &sorted));
    fb_status status = read_missing(object, where, sorted, list->count, list);
    fb_free(sorted);
    return status;
}

static fb_status is_nfc(const fb_json *normalizer, const char *where, bool *nfc);

static fb_status any_is_nfc(const fb_json *items, const char *where, bool *nfc) {
    for (size_t i = 0; i < fb_json_array_size(items); i++) {
        bool one = false;
        FB_TRY(is_nfc(fb_json_array_get(items, i), where, &one));
        *nfc = *nfc || one;
    }
    return FB_OK;
}

static fb_status is_nfc(const fb_json *normalizer, const char *where, bool *nfc) {
    const char *type = NULL;
    FB_TRY(fb_json_get_string(normalizer, where, "type", &type));
    if (strcmp(type, "Sequence") == 0) {
        const fb_json *items = NULL;
        FB_TRY(fb_json_get_array(normalizer, where, "normalizers", &items));
        return any_is_nfc(items, where, nfc);
    }
    if (strcmp(type, "NFC") != 0)
        return fb_fail(FB_ERROR_UNSUPPORTED, "%s: type is '%s', not NFC", where, type);
    *nfc = true;
    return FB_OK;
}

static fb_status load_added(fb_tokenizer *tokenizer, const fb_json *vocab, const added_list *list) {
    FB_TRY(fb_vocabulary_load(vocab, list->items, list->count, "model", &tokenizer->vocabulary));
    /* Without a normalizer, `raw` takes all of them. */
    for (size_t i = 0; i < list->count; i++)
        list->items[i].normalized = list->items[i].normalized && tokenizer->nfc;
    FB_TRY(fb_added_matcher_load(list->items, list->count, false, false, &tokenizer->raw));
    return fb_added_matcher_load(list->items, list->count, true, true, &tokenizer->normalized);
}

static fb_status load_parts(fb_tokenizer *tokenizer, const fb_json *root, const added_list *list) {
    const fb_json *model = NULL, *vocab = NULL;
    if (fb_json_has(root, "normalizer"))
        FB_TRY(is_nfc(fb_json_object_get(root, "normalizer"), "normalizer", &tokenizer->nfc));
    FB_TRY(fb_json_get_object(root, "top level", "model", &model));
    FB_TRY(fb_json_get_object(model, "model", "vocab", &vocab));
    FB_TRY(load_added(tokenizer, vocab, list));
    if (!fb_json_has(root, "pre_tokenizer"))
        return fb_fail(FB_ERROR_UNSUPPORTED, "pre_tokenizer is null: not a byte-level tokenizer");
    FB_TRY(fb_pretokenizer_load(fb_json_object_get(root, "pre_tokenizer"), "pre_tokenizer",
                                &tokenizer->pretokenizer));
    if (fb_json_has(root, "post_processor"))
        FB_TRY(fb_post_processor_load(fb_json_object_get(root, "post_processor"), "post_processor",
                                      &tokenizer->post_processor));
    return fb_bpe_load(model, &tokenizer->vocabulary, "model", &tokenizer->bpe);
}

/* `array` is of tokenizer.json, `object` of tokenizer_config.json; either may be NULL. */
static fb_status collect_added(const fb_json *array, const fb_json *object, added_list *list) {
    FB_TRY(fb_alloc_zeroed(fb_json_array_size(array) + fb_json_object_size(object),
                           sizeof *list->items, "added tokens", &list->items));
    FB_TRY(read_added_array(array, "added_tokens", list));
    fb_status status = read_added_object(object, "added_tokens_decoder", list);
    return status == FB_OK ? FB_OK : fb_fail_in(status, "%s", config_name);
}

/* `config`: tokenizer_config.json, or NULL. */
static fb_status load_documents(fb_tokenizer *tokenizer, const fb_json *root,
                                const fb_json *config) {
    const fb_json *array = NULL, *object = NULL;
    if (fb_json_has(root, "added_tokens"))
        FB_TRY(fb_json_get_array(root, "top level", "added_tokens", &array));
    if (fb_json_has(config, "added_tokens_decoder"))
        FB_TRY(fb_json_get_object(config, config_name, "added_tokens_decoder", &object));
    added_list list = {0};
    fb_status status = collect_added(array, object, &list);
    if (status == FB_OK)
        status = load_parts(tokenizer, root, &list);
    fb_free(list.items);
    return status;
}

static fb_status load_file(const char *path, const fb_json *config, fb_tokenizer **tokenizer) {
    const fb_json *root = NULL;
    fb_tokenizer *made = NULL;
    FB_TRY(fb_json_load(path, MAX_FILE, &root));
    fb_status status = fb_alloc_zeroed(1, sizeof *made, "tokenizer", &made);
    if (status == FB_OK) {
        status = load_documents(made, root, config);
        if (status != FB_OK)
            fb_fail_in(status, "%s", path);
    }
    if (status == FB_OK)
        status = fb_tokenizer_check_fields(root, path, &made->warnings);
    fb_json_free(root);
    if (status != FB_OK) {
        fb_tokenizer_destroy(made);
        return status;
    }
    *tokenizer = made;
    return FB_OK;
}

/* The paths of a directory's files. */
typedef struct directory_files {
    char *tokenizer, *config, *added;
} directory_files;

static fb_status join_paths(const char *directory, directory_files *files) {
    FB_TRY(fb_path_join(directory, file_name, &files->tokenizer));
    FB_TRY(fb_path_join(directory, config_name, &files->config));
    return fb_path_join(directory, "added_tokens.json", &files->added);
}

static void free_paths(directory_files *files) {
    fb_free(files->tokenizer);
    fb_free(files->config);
    fb_free(files->added);
}

static fb_status check_added_file(fb_tokenizer *tokenizer, const char *path) {
    const fb_json *root = NULL;
    if (!fb_file_exists(path))
        return FB_OK;
    FB_TRY(fb_json_load(path, MAX_FILE, &root));
    fb_status status = fb_added_tokens_file_check(tokenizer, root, path);
    fb_json_free(root);
    return status;
}

static fb_status load_files(const directory_files *files, fb_tokenizer **tokenizer) {
    const fb_json *config = NULL;
    fb_tokenizer *made = NULL;
    if (fb_file_exists(files->config))
        FB_TRY(fb_json_load(files->config, MAX_FILE, &config));
    fb_status status = load_file(files->tokenizer, config, &made);
    if (status == FB_OK && config)
        status = fb_tokenizer_config_check(made, config, files->config);
    if (status == FB_OK)
        status = check_added_file(made, files->added);
    fb_json_free(config);
    if (status == FB_OK)
        *tokenizer = made;
    else
        fb_tokenizer_destroy(made);
    return status;
}

fb_status fb_tokenizer_load(const char *path, fb_tokenizer **tokenizer) {
    if (!path || !tokenizer)
        return fb_fail(FB_ERROR_ARGUMENT, "fb_tokenizer_load: path or tokenizer is NULL");
    if (!fb_file_is_directory(path))
        return load_file(path, NULL, tokenizer);
    directory_files files = {0};
    fb_status status = join_paths(path, &files);
    if (status == FB_OK)
        status = load_files(&files, tokenizer);
    free_paths(&files);
    return status;
}

void fb_tokenizer_destroy(fb_tokenizer *tokenizer) {
    if (!tokenizer)
        return;
    fb_vocabulary_free(&tokenizer->vocabulary);
    fb_added_matcher_free(&tokenizer->raw);
    fb_added_matcher_free(&tokenizer->normalized);
    fb_pretokenizer_destroy(tokenizer->pretokenizer);
    fb_bpe_free(&tokenizer->bpe);
    fb_post_processor_free(&tokenizer->post_processor);
    fb_warnings_free(&tokenizer->warnings);
    fb_free(tokenizer);
}
