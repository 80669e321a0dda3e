#include "model/special_tokens.h"

#include "base/error.h"
#include "base/memory.h"
#include "io/added_list.h"
#include "io/file.h"
#include "io/json.h"

#include <stdlib.h>
#include <string.h>

/* The largest published tokenizer.json has 35 MB. */
enum { MAX_FILE = 512 * 1024 * 1024 };

static const char *const mask_spellings[] = {"<|MASK|>", "<|mask|>", "|<MASK>|", "[MASK]",
                                             "<mask>"};

/* The files; NULL what is not there. `vocabulary` is read when it is first needed: it can be
 * large. */
typedef struct documents {
    const char *directory;
    const fb_json *config;     /* tokenizer_config.json */
    const fb_json *map;        /* special_tokens_map.json */
    const fb_json *vocabulary; /* tokenizer.json */
    bool vocabulary_read;
    fb_warnings *warnings;
} documents;

static const char config_name[] = "tokenizer_config.json";
static const char map_name[] = "special_tokens_map.json";

static fb_status load_if_there(const char *directory, const char *name, const fb_json **root) {
    char *path = NULL;
    FB_TRY(fb_path_join(directory, name, &path));
    fb_status status = fb_file_exists(path) ? fb_json_load(path, MAX_FILE, root) : FB_OK;
    fb_free(path);
    return status;
}

static fb_status need_vocabulary(documents *files) {
    if (files->vocabulary_read)
        return FB_OK;
    FB_TRY(load_if_there(files->directory, "tokenizer.json", &files->vocabulary));
    files->vocabulary_read = true;
    return FB_OK;
}

static int32_t id_or_none(int64_t id) {
    return id >= 0 && id <= INT32_MAX ? (int32_t)id : -1;
}

/* added_tokens_decoder: {"151669": {"content": "<|MASK|>", ...}, ...} */
static int32_t find_in_decoder(const documents *files, const char *text) {
    const fb_json *decoder = fb_json_object_get(files->config, "added_tokens_decoder");
    for (size_t i = 0; i < fb_json_object_size(decoder); i++) {
        const char *key = fb_json_object_key(decoder, i);
        const char *content = fb_token_content(fb_json_object_at(decoder, i));
        char *end = NULL;
        long long id = strtoll(key, &end, 10);
        if (content && strcmp(content, text) == 0 && end != key && *end == '\0')
            return id_or_none(id);
    }
    return -1;
}

/* added_tokens: [{"id": 151669, "content": "<|MASK|>", ...}, ...] */
static int32_t find_in_added_tokens(const documents *files, const char *text) {
    const fb_json *added = fb_json_object_get(files->vocabulary, "added_tokens");
    for (size_t i = 0; i < fb_json_array_size(added); i++) {
        const fb_json *token = fb_json_array_get(added, i);
        const char *content = fb_token_content(token);
        int64_t id = -1;
        if (content && strcmp(content, text) == 0 &&
            fb_json_is_int64(fb_json_object_get(token, "id"), &id))
            return id_or_none(id);
    }
    return -1;
}

static fb_status find_added(documents *files, const char *text, int32_t *id) {
    *id = find_in_decoder(files, text);
    if (*id >= 0)
        return FB_OK;
    FB_TRY(need_vocabulary(files));
    *id = find_in_added_tokens(files, text);
    return FB_OK;
}

static int32_t find_in_vocabulary(const documents *files, const char *text) {
    const fb_json *model = fb_json_object_get(files->vocabulary, "model");
    int64_t id = -1;
    (void)fb_json_is_int64(fb_json_object_get(fb_json_object_get(model, "vocab"), text), &id);
    return id_or_none(id);
}

/* The token that a file names under `key`; -1 when it names none, or one that does not exist. */
static fb_status find_named(documents *files, const fb_json *file, const char *name,
                            const char *key, int32_t *id) {
    *id = -1;
    const fb_json *token = fb_json_object_get(file, key);
    const char *text = fb_token_content(token);
    if (!text && token && !fb_json_is_null(token)) {
        char shown[FB_JSON_SHOW_SIZE];
        return fb_fail(FB_ERROR_FORMAT, "%s/%s: %s is %s, not a token's text", files->directory,
                       name, key, fb_json_show(token, shown));
    }
    if (!text)
        return FB_OK;
    FB_TRY(find_added(files, text, id));
    if (*id < 0)
        *id = find_in_vocabulary(files, text);
    if (*id >= 0)
        return FB_OK;
    return fb_warn(files->warnings, "%s/%s: %s is '%.100s', which is not a token", files->directory,
                   name, key, text);
}

/* tokenizer_config.json goes before special_tokens_map.json, as in transformers. */
static fb_status find_first(documents *files, const char *key, int32_t *id) {
    FB_TRY(find_named(files, files->config, config_name, key, id));
    return *id >= 0 ? FB_OK : find_named(files, files->map, map_name, key, id);
}

static fb_status find_mask(documents *files, fb_special_tokens *found) {
    int32_t other = -1;
    found->mask_file = config_name;
    FB_TRY(find_named(files, files->config, config_name, "mask_token", &found->mask));
    FB_TRY(find_named(files, files->map, map_name, "mask_token", &other));
    if (found->mask >= 0 && other >= 0 && found->mask != other)
        return fb_fail(FB_ERROR_FORMAT,
                       "%s: mask_token of %s is token %ld, but mask_token of %s is %ld",
                       files->directory, map_name, (long)other, config_name, (long)found->mask);
    if (found->mask < 0 && other >= 0) {
        found->mask = other;
        found->mask_file = map_name;
    }
    return FB_OK;
}

/* Several spellings may be there; the first one is taken, and a warning says so. */
static fb_status guess_mask(documents *files, int32_t *id) {
    const char *taken = NULL;
    for (size_t i = 0; i < sizeof mask_spellings / sizeof mask_spellings[0]; i++) {
        int32_t other = -1;
        FB_TRY(find_added(files, mask_spellings[i], &other));
        if (other >= 0 && *id >= 0 && other != *id)
            return fb_warn(files->warnings,
                           "%s: no file names the mask token; '%s' (%ld) is taken, not '%s' (%ld)",
                           files->directory, taken, (long)*id, mask_spellings[i], (long)other);
        if (other >= 0 && *id < 0) {
            *id = other;
            taken = mask_spellings[i];
        }
    }
    return FB_OK;
}

static fb_status find_all(documents *files, bool guess, fb_special_tokens *found) {
    FB_TRY(load_if_there(files->directory, config_name, &files->config));
    FB_TRY(load_if_there(files->directory, map_name, &files->map));
    FB_TRY(find_mask(files, found));
    if (guess && found->mask < 0)
        FB_TRY(guess_mask(files, &found->guessed_mask));
    FB_TRY(find_first(files, "pad_token", &found->pad));
    return find_first(files, "eos_token", &found->eos);
}

fb_status fb_special_tokens_read(const char *directory, bool guess, fb_special_tokens *tokens,
                                 fb_warnings *warnings) {
    documents files = {.directory = directory, .warnings = warnings};
    *tokens = (fb_special_tokens){.mask = -1, .guessed_mask = -1, .pad = -1, .eos = -1};
    fb_status status = find_all(&files, guess, tokens);
    fb_json_free(files.config);
    fb_json_free(files.map);
    fb_json_free(files.vocabulary);
    return status;
}
