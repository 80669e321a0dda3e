#include "io/added_list.h"

#include "base/error.h"
#include "base/memory.h"

#include <stdlib.h>
#include <string.h>

static const char tokenizer_name[] = "tokenizer.json";
static const char config_name[] = "tokenizer_config.json";
static const char map_name[] = "special_tokens_map.json";

const char *fb_token_content(const fb_json *token) {
    return fb_json_string(fb_json_is_object(token) ? fb_json_object_get(token, "content") : token);
}

/* --- added_tokens and added_tokens_decoder ---------------------------------------------------- */

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
static fb_status read_added_array(const fb_json *array, const char *where, fb_added_list *list) {
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
static fb_status sort_tokens(const fb_added_list *list, fb_added_token ***sorted) {
    FB_TRY(fb_alloc(list->count, sizeof **sorted, "added tokens", sorted));
    for (size_t i = 0; i < list->count; i++)
        (*sorted)[i] = &list->items[i];
    if (list->count > 0)
        qsort(*sorted, list->count, sizeof **sorted, compare_texts);
    return FB_OK;
}

static fb_added_token *find_sorted(fb_added_token **sorted, size_t count, const char *text) {
    fb_added_token wanted = {.content = text}, *key = &wanted;
    fb_added_token **found =
        count ? bsearch(&key, sorted, count, sizeof *sorted, compare_texts) : NULL;
    return found ? *found : NULL;
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
                       id, (long)token->id, tokenizer_name);
    for (size_t i = 0; i < sizeof flags / sizeof flags[0]; i++) {
        bool value = false;
        FB_TRY(fb_json_get_bool_or(item, where, flags[i].name, flags[i].value, &value));
        if (value != flags[i].value)
            return fb_fail(FB_ERROR_UNSUPPORTED, "%s: %s of '%.100s' is %s, but %s in %s", where,
                           flags[i].name, token->content, value ? "true" : "false",
                           value ? "false" : "true", tokenizer_name);
    }
    return FB_OK;
}

/* sorted[0 .. count) are the tokens that the list has. */
static fb_status read_missing(const fb_json *object, const char *where, fb_added_token **sorted,
                              size_t count, fb_added_list *list) {
    for (size_t i = 0; i < fb_json_object_size(object); i++) {
        const fb_json *item = fb_json_object_at(object, i);
        size_t id = 0;
        fb_added_token token = {0};
        FB_TRY(parse_id(fb_json_object_key(object, i), where, &id));
        FB_TRY(read_added(item, where, id, &token));
        const fb_added_token *found = find_sorted(sorted, count, token.content);
        if (found)
            FB_TRY(check_same(item, where, id, found));
        else
            list->items[list->count++] = token;
    }
    return FB_OK;
}

/* Reads added_tokens_decoder of tokenizer_config.json, an object with ids as keys. */
static fb_status read_added_object(const fb_json *object, const char *where, fb_added_list *list) {
    fb_added_token **sorted = NULL;
    FB_TRY(sort_tokens(list, &sorted));
    fb_status status = read_missing(object, where, sorted, list->count, list);
    fb_free(sorted);
    return status;
}

/* --- special tokens that other files name ------------------------------------------------------
 */

/* Which of them the model's configuration reads, and warns of, itself. */
static const struct {
    const char *key;
    bool of_model;
} named[] = {{"bos_token", false}, {"eos_token", true},  {"unk_token", false}, {"sep_token", false},
             {"pad_token", true},  {"cls_token", false}, {"mask_token", true}};
static const char *const listed[] = {"additional_special_tokens", "extra_special_tokens"};

typedef struct naming {
    const fb_tokenizer_files *files;
    const char *name; /* of the file that is read */
    const fb_json *vocab;
    fb_added_token **sorted; /* [num_sorted], by their texts: the tokens before these */
    size_t num_sorted;
    fb_added_list *list;
    fb_warnings *warnings;
} naming;

/* A token of the vocabulary that no list of added tokens has. It is found in texts as others are.
 */
static fb_status add_special(const naming *job, const fb_json *token, const char *text,
                             const fb_json *id) {
    size_t value = 0;
    fb_added_token *added = &job->list->items[job->list->count];
    FB_TRY(fb_json_size(id, "model: vocab", text, 0, FB_MAX_TOKEN_ID, &value));
    *added = (fb_added_token){.content = text, .id = (int32_t)value};
    if (fb_json_is_object(token))
        FB_TRY(read_added(token, job->name, value, added));
    added->special = true;
    job->list->count++;
    return FB_OK;
}

static fb_status take_special(const naming *job, const char *key, const fb_json *token,
                              bool by_name, bool warn) {
    char shown[FB_JSON_SHOW_SIZE];
    const char *text = fb_token_content(token);
    if (!text)
        return fb_fail(FB_ERROR_FORMAT, "%s: %s has %s, not a token", job->name, key,
                       fb_json_show(token, shown));
    fb_added_token *added = find_sorted(job->sorted, job->num_sorted, text);
    if (added && by_name)
        added->special = true;
    if (added)
        return added->special
                   ? FB_OK
                   : fb_warn(job->warnings,
                             "%s: %s of %s has '%.100s', which is not special here: it is text",
                             job->files->path, key, job->name, text);
    const fb_json *id = fb_json_object_get(job->vocab, text);
    if (id)
        return add_special(job, token, text, id);
    return warn ? fb_warn(job->warnings, "%s: %s of %s has '%.100s', which is not a token",
                          job->files->path, key, job->name, text)
                : FB_OK;
}

/* A list of tokens, or an object of them by name. */
static fb_status take_listed(const naming *job, const fb_json *file, const char *key) {
    const fb_json *value = fb_json_object_get(file, key);
    if (!fb_json_has(file, key))
        return FB_OK;
    if (!fb_json_is_object(value))
        FB_TRY(fb_json_get_array(file, job->name, key, &value));
    for (size_t i = 0; i < fb_json_array_size(value); i++)
        FB_TRY(take_special(job, key, fb_json_array_get(value, i), false, true));
    for (size_t i = 0; i < fb_json_object_size(value); i++)
        FB_TRY(take_special(job, key, fb_json_object_at(value, i), false, true));
    return FB_OK;
}

static fb_status take_named(const naming *job, const fb_json *file) {
    for (size_t i = 0; i < sizeof named / sizeof named[0]; i++)
        if (fb_json_has(file, named[i].key))
            FB_TRY(take_special(job, named[i].key, fb_json_object_get(file, named[i].key), true,
                                !named[i].of_model));
    for (size_t i = 0; i < sizeof listed / sizeof listed[0]; i++)
        FB_TRY(take_listed(job, file, listed[i]));
    return FB_OK;
}

static int compare_items(const void *left, const void *right) {
    const fb_added_token *a = left, *b = right;
    return strcmp(a->content, b->content);
}

/* Several fields may name one token. */
static void remove_repeated(fb_added_list *list, size_t from) {
    size_t used = from;
    if (list->count > from)
        qsort(list->items + from, list->count - from, sizeof *list->items, compare_items);
    for (size_t i = from; i < list->count; i++)
        if (i == from || compare_items(&list->items[i], &list->items[used - 1]) != 0)
            list->items[used++] = list->items[i];
    list->count = used;
}

static fb_status take_all_named(naming *job) {
    size_t from = job->list->count;
    FB_TRY(sort_tokens(job->list, &job->sorted));
    job->num_sorted = from;
    job->name = config_name;
    fb_status status = take_named(job, job->files->config);
    job->name = map_name;
    if (status == FB_OK)
        status = take_named(job, job->files->map);
    fb_free(job->sorted);
    remove_repeated(job->list, from);
    return status;
}

static size_t count_named(const fb_json *file) {
    size_t count = sizeof named / sizeof named[0];
    for (size_t i = 0; i < sizeof listed / sizeof listed[0]; i++) {
        const fb_json *value = fb_json_object_get(file, listed[i]);
        count += fb_json_array_size(value) + fb_json_object_size(value);
    }
    return count;
}

/* --- all of them ------------------------------------------------------------------------------ */

/* The tokenizers library does not take the ids of a file. A token of the vocabulary has its id
 * there; the others are numbered after the vocabulary, in their order. */
static fb_status check_ids(const char *path, const fb_json *vocab, const fb_added_list *list,
                           fb_warnings *warnings) {
    int64_t size = (int64_t)fb_json_object_size(vocab), largest = -1;
    for (size_t i = 0; i < list->count; i++) {
        const fb_added_token *token = &list->items[i];
        int64_t id = largest >= size ? largest + 1 : size;
        if (!token->content[0])
            continue;
        (void)fb_json_is_int64(fb_json_object_get(vocab, token->content), &id);
        if (id != token->id)
            return fb_warn(warnings,
                           "%s: added token '%.100s' is %ld; transformers does not read this "
                           "number, and takes %lld, the next one",
                           path, token->content, (long)token->id, (long long)id);
        largest = id > largest ? id : largest;
    }
    return FB_OK;
}

fb_status fb_added_list_read(const fb_tokenizer_files *files, fb_added_list *list,
                             fb_warnings *warnings) {
    const fb_json *array = NULL, *object = NULL, *model = NULL;
    naming job = {.files = files, .list = list, .warnings = warnings};
    model = fb_json_object_get(files->tokenizer, "model");
    job.vocab = fb_json_object_get(model, "vocab");
    if (fb_json_has(files->tokenizer, "added_tokens"))
        FB_TRY(fb_json_get_array(files->tokenizer, "top level", "added_tokens", &array));
    if (fb_json_has(files->config, "added_tokens_decoder"))
        FB_TRY(fb_json_get_object(files->config, config_name, "added_tokens_decoder", &object));
    FB_TRY(fb_alloc_zeroed(fb_json_array_size(array) + fb_json_object_size(object) +
                               count_named(files->config) + count_named(files->map),
                           sizeof *list->items, "added tokens", &list->items));
    FB_TRY(read_added_array(array, "added_tokens", list));
    fb_status status = read_added_object(object, "added_tokens_decoder", list);
    if (status != FB_OK)
        return fb_fail_in(status, "%s", config_name);
    FB_TRY(check_ids(files->path, job.vocab, list, warnings));
    return take_all_named(&job);
}

void fb_added_list_free(fb_added_list *list) {
    fb_free(list->items);
    *list = (fb_added_list){0};
}
