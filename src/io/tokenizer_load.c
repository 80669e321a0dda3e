#include "base/error.h"
#include "base/memory.h"
#include "io/added_list.h"
#include "io/file.h"
#include "io/json.h"
#include "io/tokenizer_config.h"
#include "io/tokenizer_fields.h"
#include "io/tokenizer_internal.h"

#include <string.h>

/* The largest published tokenizer.json has 35 MB. */
enum { MAX_FILE = 512 * 1024 * 1024 };

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

static fb_status load_added(fb_tokenizer *tokenizer, const fb_json *vocab,
                            const fb_added_list *list) {
    FB_TRY(fb_vocabulary_load(vocab, list->items, list->count, "model", &tokenizer->vocabulary));
    FB_TRY(fb_added_matcher_load(list->items, list->count, false, false, &tokenizer->raw));
    return fb_added_matcher_load(list->items, list->count, true, tokenizer->nfc,
                                 &tokenizer->normalized);
}

static fb_status load_parts(fb_tokenizer *tokenizer, const fb_json *root,
                            const fb_added_list *list) {
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

static fb_status load_documents(fb_tokenizer *tokenizer, const fb_tokenizer_files *files) {
    fb_added_list list = {0};
    fb_status status = fb_added_list_read(files, &list, &tokenizer->warnings);
    if (status == FB_OK)
        status = load_parts(tokenizer, files->tokenizer, &list);
    fb_added_list_free(&list);
    return status;
}

/* Loads tokenizer.json; the other files of `files` are loaded already. */
static fb_status load_file(fb_tokenizer_files files, fb_tokenizer **tokenizer) {
    fb_tokenizer *made = NULL;
    FB_TRY(fb_json_load(files.path, MAX_FILE, &files.tokenizer));
    fb_status status = fb_alloc_zeroed(1, sizeof *made, "tokenizer", &made);
    if (status == FB_OK) {
        status = load_documents(made, &files);
        if (status != FB_OK)
            fb_fail_in(status, "%s", files.path);
    }
    if (status == FB_OK)
        status = fb_tokenizer_check_fields(files.tokenizer, files.path, &made->warnings);
    fb_json_free(files.tokenizer);
    if (status != FB_OK) {
        fb_tokenizer_destroy(made);
        return status;
    }
    *tokenizer = made;
    return FB_OK;
}

/* The paths of a directory's files. */
typedef struct file_paths {
    char *tokenizer, *config, *map, *added;
} file_paths;

static fb_status join_paths(const char *directory, file_paths *paths) {
    FB_TRY(fb_path_join(directory, "tokenizer.json", &paths->tokenizer));
    FB_TRY(fb_path_join(directory, "tokenizer_config.json", &paths->config));
    FB_TRY(fb_path_join(directory, "special_tokens_map.json", &paths->map));
    return fb_path_join(directory, "added_tokens.json", &paths->added);
}

static void free_paths(file_paths *paths) {
    fb_free(paths->tokenizer);
    fb_free(paths->config);
    fb_free(paths->map);
    fb_free(paths->added);
}

static fb_status load_if_there(const char *path, const fb_json **root) {
    return fb_file_exists(path) ? fb_json_load(path, MAX_FILE, root) : FB_OK;
}

/* What the other files say must be what the tokenizer does. */
static fb_status check_files(fb_tokenizer *tokenizer, const fb_tokenizer_files *files,
                             const file_paths *paths) {
    const fb_json *added = NULL;
    if (files->config)
        FB_TRY(fb_tokenizer_config_check(tokenizer, files->config, paths->config));
    if (files->map)
        FB_TRY(fb_fields_check(files->map, paths->map, fb_special_map_fields, NULL,
                               &tokenizer->warnings));
    FB_TRY(load_if_there(paths->added, &added));
    fb_status status = fb_added_tokens_file_check(tokenizer, added, paths->added);
    fb_json_free(added);
    return status;
}

/* What transformers makes a tokenizer.json of. */
static fb_status check_there(const char *directory, const char *path) {
    static const char *const sources[] = {"vocab.json", "tokenizer.model"};
    if (fb_file_exists(path))
        return FB_OK;
    for (size_t i = 0; i < sizeof sources / sizeof sources[0]; i++) {
        char *source = NULL;
        FB_TRY(fb_path_join(directory, sources[i], &source));
        bool there = fb_file_exists(source);
        fb_free(source);
        if (there)
            return fb_fail(FB_ERROR_IO,
                           "%s: is not there, but %s is: let transformers write it, by "
                           "AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)",
                           path, sources[i]);
    }
    return FB_OK; /* reading it fails */
}

static fb_status load_files(const char *directory, const file_paths *paths,
                            fb_tokenizer **tokenizer) {
    fb_tokenizer_files files = {.path = paths->tokenizer};
    fb_tokenizer *made = NULL;
    FB_TRY(check_there(directory, paths->tokenizer));
    fb_status status = load_if_there(paths->config, &files.config);
    if (status == FB_OK)
        status = load_if_there(paths->map, &files.map);
    if (status == FB_OK)
        status = load_file(files, &made);
    if (status == FB_OK)
        status = check_files(made, &files, paths);
    fb_json_free(files.config);
    fb_json_free(files.map);
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
        return load_file((fb_tokenizer_files){.path = path}, tokenizer);
    file_paths paths = {0};
    fb_status status = join_paths(path, &paths);
    if (status == FB_OK)
        status = load_files(path, &paths, tokenizer);
    free_paths(&paths);
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
