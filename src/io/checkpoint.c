#include "io/checkpoint.h"

#include "base/error.h"
#include "base/memory.h"
#include "io/file.h"
#include "io/json.h"
#include "io/safetensors.h"
#include "io/stacked_tensors.h"
#include "io/tokenizer_fields.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>

static const char single_name[] = "model.safetensors";
static const char index_name[] = "model.safetensors.index.json";

/* An index of 100 MB would name a million tensors. */
enum { MAX_INDEX = 100000000 };

struct fb_checkpoint {
    bool reads; /* files, instead of mapping them */
    char *directory;
    fb_safetensors **shards;
    size_t num_shards;
    const fb_tensor_view **tensors; /* sorted by name */
    size_t count;
    fb_tensor_view *split; /* views of parts of tensors that are stacked, */
    char *split_names;     /* and their names */
};

/* An entry of weight_map: the file that holds a tensor, and the tensor once the file is open; NULL
 * if the file does not have it. */
typedef struct placement {
    const char *name;
    const char *shard;
    const fb_tensor_view *tensor;
} placement;

typedef struct placement_list {
    placement *items;
    size_t count;
} placement_list;

static int compare_shards(const void *left, const void *right) {
    const placement *a = left, *b = right;
    return strcmp(a->shard, b->shard);
}

static int compare_names(const void *left, const void *right) {
    const placement *a = left, *b = right;
    return strcmp(a->name, b->name);
}

static int compare_tensors(const void *left, const void *right) {
    const fb_tensor_view *const *a = left, *const *b = right;
    return strcmp((*a)->name, (*b)->name);
}

static bool is_part(const char *part, size_t length, const char *text) {
    return length == strlen(text) && memcmp(part, text, length) == 0;
}

/* The names come from a file. None may lead out of the directory. */
static bool is_inside(const char *name) {
    for (const char *part = name;; part++) {
        size_t length = strcspn(part, "/");
        if (length == 0 || is_part(part, length, ".."))
            return false;
        if (!part[length])
            return !is_part(part, length, ".");
        part += length;
    }
}

static fb_status check_name(const char *name) {
    return is_inside(name)
               ? FB_OK
               : fb_fail(FB_ERROR_FORMAT, "weight_map: '%s' is not a file in the model's directory",
                         name);
}

static fb_status read_placements(const fb_json *weight_map, placement_list *list) {
    FB_TRY(fb_alloc_zeroed(fb_json_object_size(weight_map), sizeof *list->items, "weight map",
                           &list->items));
    for (size_t i = 0; i < fb_json_object_size(weight_map); i++) {
        const char *key = fb_json_object_key(weight_map, i);
        placement *item = &list->items[list->count++];
        item->name = key;
        FB_TRY(fb_json_text(fb_json_object_at(weight_map, i), "weight_map", key, &item->shard));
        FB_TRY(check_name(item->shard));
    }
    return FB_OK;
}

/* An index beside model.safetensors may name only that file, as some writers have it. One that
 * names others is of another copy of the weights, and not used, as in transformers. */
static bool is_of_single(const placement_list *list) {
    for (size_t i = 0; i < list->count; i++)
        if (strcmp(list->items[i].shard, single_name) != 0)
            return false;
    return true;
}

static fb_status open_shard(fb_checkpoint *checkpoint, const char *name) {
    char *path = NULL;
    FB_TRY(fb_path_join(checkpoint->directory, name, &path));
    fb_safetensors **shard = &checkpoint->shards[checkpoint->num_shards];
    fb_status status =
        checkpoint->reads ? fb_safetensors_read(path, shard) : fb_safetensors_open(path, shard);
    fb_free(path);
    if (status == FB_OK)
        checkpoint->num_shards++;
    return status;
}

/* Opens every file once, and finds the tensors that the index places there. */
static fb_status open_shards(fb_checkpoint *checkpoint, placement_list *list, bool single) {
    FB_TRY(
        fb_alloc_zeroed(list->count + 1, sizeof(fb_safetensors *), "shards", &checkpoint->shards));
    if (single)
        FB_TRY(open_shard(checkpoint, single_name));
    if (list->count > 0)
        qsort(list->items, list->count, sizeof *list->items, compare_shards);
    for (size_t i = 0; i < list->count; i++) {
        placement *item = &list->items[i];
        if (!single && (i == 0 || strcmp(item->shard, item[-1].shard) != 0))
            FB_TRY(open_shard(checkpoint, item->shard));
        item->tensor =
            fb_safetensors_find(checkpoint->shards[checkpoint->num_shards - 1], item->name);
    }
    return FB_OK;
}

/* Other loaders read what the files hold. A model that needs the tensor fails for lack of it. */
static fb_status warn_of_missing(const fb_checkpoint *checkpoint, const placement_list *list,
                                 fb_warnings *warnings) {
    const placement *first = NULL;
    size_t missing = 0;
    for (size_t i = 0; i < list->count; i++) {
        first = !list->items[i].tensor && !first ? &list->items[i] : first;
        missing += !list->items[i].tensor;
    }
    if (missing == 0)
        return FB_OK;
    return fb_warn(
        warnings, "%s: %s places %zu tensor%s in files that do not have %s: %.200s in %.200s%s",
        checkpoint->directory, index_name, missing, missing == 1 ? "" : "s",
        missing == 1 ? "it" : "them", first->name, first->shard, missing == 1 ? "" : ", ...");
}

/* Adds the tensors of a file, except those that the index places in another file that has them.
 * `list` is sorted by name. */
static void add_tensors(fb_checkpoint *checkpoint, const fb_safetensors *shard,
                        const placement_list *list) {
    for (size_t i = 0; i < fb_safetensors_count(shard); i++) {
        const fb_tensor_view *tensor = fb_safetensors_at(shard, i);
        placement wanted = {.name = tensor->name};
        const placement *named = list->count == 0 ? NULL
                                                  : bsearch(&wanted, list->items, list->count,
                                                            sizeof wanted, compare_names);
        if (!named || !named->tensor || named->tensor == tensor)
            checkpoint->tensors[checkpoint->count++] = tensor;
    }
}

/* Puts the views of each expert in the place of tensors that hold all experts. */
static fb_status split_stacked(fb_checkpoint *checkpoint) {
    size_t num_views = 0, name_bytes = 0, kept = 0, count = checkpoint->count;
    for (size_t i = 0; i < count; i++) {
        size_t views = fb_stacked_count(checkpoint->tensors[i]);
        num_views += views;
        name_bytes += views * fb_stacked_name_size(checkpoint->tensors[i]);
    }
    if (num_views == 0)
        return FB_OK;
    const fb_tensor_view **tensors = NULL;
    FB_TRY(fb_alloc(num_views, sizeof *checkpoint->split, "tensors", &checkpoint->split));
    FB_TRY(fb_alloc(name_bytes, 1, "names of tensors", &checkpoint->split_names));
    FB_TRY(fb_alloc(count + num_views, sizeof *tensors, "tensor list", &tensors));
    fb_tensor_view *view = checkpoint->split;
    char *names = checkpoint->split_names;
    for (size_t i = 0; i < count; i++) {
        const fb_tensor_view *tensor = checkpoint->tensors[i];
        size_t views = fb_stacked_count(tensor);
        if (views == 0)
            tensors[kept++] = tensor;
        fb_stacked_split(tensor, view, names);
        names += views * fb_stacked_name_size(tensor);
        for (size_t k = 0; k < views; k++)
            tensors[kept++] = view++;
    }
    fb_free(checkpoint->tensors);
    checkpoint->tensors = tensors;
    checkpoint->count = kept;
    return FB_OK;
}

static fb_status check_unique(const fb_checkpoint *checkpoint) {
    for (size_t i = 1; i < checkpoint->count; i++)
        if (compare_tensors(&checkpoint->tensors[i - 1], &checkpoint->tensors[i]) == 0)
            return fb_fail(
                FB_ERROR_FORMAT,
                "%s: more than one tensor is called %s, and no index says which is meant",
                checkpoint->directory, checkpoint->tensors[i]->name);
    return FB_OK;
}

static fb_status collect_tensors(fb_checkpoint *checkpoint, placement_list *list) {
    size_t total = 0;
    for (size_t i = 0; i < checkpoint->num_shards; i++)
        total += fb_safetensors_count(checkpoint->shards[i]);
    FB_TRY(fb_alloc(total, sizeof(fb_tensor_view *), "tensor list", &checkpoint->tensors));
    if (list->count > 0)
        qsort(list->items, list->count, sizeof *list->items, compare_names);
    for (size_t i = 0; i < checkpoint->num_shards; i++)
        add_tensors(checkpoint, checkpoint->shards[i], list);
    FB_TRY(split_stacked(checkpoint));
    if (checkpoint->count > 0)
        qsort(checkpoint->tensors, checkpoint->count, sizeof(fb_tensor_view *), compare_tensors);
    return check_unique(checkpoint);
}

static fb_status load_files(fb_checkpoint *checkpoint, placement_list *list, bool single,
                            fb_warnings *warnings) {
    if (single && !is_of_single(list)) {
        FB_TRY(fb_warn(warnings, "%s: %s is used, and not the files that %s names",
                       checkpoint->directory, single_name, index_name));
        list->count = 0;
    }
    FB_TRY(open_shards(checkpoint, list, single));
    FB_TRY(warn_of_missing(checkpoint, list, warnings));
    return collect_tensors(checkpoint, list);
}

static fb_status load_index(fb_checkpoint *checkpoint, const char *path, bool single,
                            fb_warnings *warnings) {
    const fb_json *root = NULL, *weight_map = NULL;
    placement_list list = {0};
    FB_TRY(fb_json_load(path, MAX_INDEX, &root));
    fb_status status = fb_json_get_object(root, path, "weight_map", &weight_map);
    if (status == FB_OK) {
        status = read_placements(weight_map, &list);
        if (status == FB_OK)
            status = load_files(checkpoint, &list, single, warnings);
        if (status != FB_OK)
            fb_fail_in(status, "%s", path);
    }
    if (status == FB_OK)
        status = fb_fields_check(root, path, fb_index_fields, NULL, warnings);
    fb_free(list.items);
    fb_json_free(root);
    return status;
}

static bool ends_with(const char *name, const char *ending) {
    size_t length = strlen(name), size = strlen(ending);
    return length > size && strcmp(name + length - size, ending) == 0;
}

/* What a file's name says about a directory without the weights that are looked for. */
static const char *advice_on(const char *name) {
    static const struct {
        const char *ending, *advice;
    } list[] = {
        {".incomplete", "its download did not finish"},
        {".aria2", "its download did not finish"},
        {".part", "its download did not finish"},
        {".safetensors",
         "a single file must be called model.safetensors, several need their index"},
        {".bin",
         "save the weights with safetensors: save_pretrained(..., safe_serialization=True)"},
        {".pt", "save the weights with safetensors"},
        {".pth", "save the weights with safetensors"},
        {".gguf", "take the model's Hugging Face directory"},
        {".h5", "save the weights with safetensors"},
        {".msgpack", "save the weights with safetensors"},
    };
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++)
        if (ends_with(name, list[i].ending))
            return list[i].advice;
    return NULL;
}

/* The message names a file that explains it, the same one wherever the directory is. */
static fb_status fail_without_weights(const char *directory) {
    char name[256] = "";
    DIR *entries = opendir(directory);
    for (struct dirent *entry; entries && (entry = readdir(entries));)
        if (advice_on(entry->d_name) && strlen(entry->d_name) < sizeof name &&
            (!name[0] || strcmp(entry->d_name, name) < 0))
            strcpy(name, entry->d_name);
    if (entries)
        closedir(entries);
    return fb_fail(FB_ERROR_IO, "%s: holds neither %s nor %s%s%s%s%s", directory, single_name,
                   index_name, name[0] ? "; it holds " : "", name, name[0] ? ": " : "",
                   name[0] ? advice_on(name) : "");
}

static fb_status load(fb_checkpoint *checkpoint, fb_warnings *warnings) {
    char *single = NULL, *index = NULL;
    FB_TRY(fb_path_join(checkpoint->directory, single_name, &single));
    fb_status status = fb_path_join(checkpoint->directory, index_name, &index);
    if (status == FB_OK) {
        bool has_single = fb_file_exists(single);
        if (fb_file_exists(index))
            status = load_index(checkpoint, index, has_single, warnings);
        else if (has_single)
            status = load_files(checkpoint, &(placement_list){0}, true, NULL);
        else
            status = fail_without_weights(checkpoint->directory);
    }
    fb_free(single);
    fb_free(index);
    return status;
}

fb_status fb_checkpoint_open(const char *directory, bool reads, fb_warnings *warnings,
                             fb_checkpoint **checkpoint) {
    fb_checkpoint *made = NULL;
    FB_TRY(fb_alloc_zeroed(1, sizeof *made, "checkpoint", &made));
    made->reads = reads;
    fb_status status = fb_path_join("", directory, &made->directory);
    if (status == FB_OK)
        status = load(made, warnings);
    if (status != FB_OK) {
        fb_checkpoint_close(made);
        return status;
    }
    *checkpoint = made;
    return FB_OK;
}

void fb_checkpoint_close(fb_checkpoint *checkpoint) {
    if (!checkpoint)
        return;
    for (size_t i = 0; i < checkpoint->num_shards; i++)
        fb_safetensors_close(checkpoint->shards[i]);
    fb_free(checkpoint->shards);
    fb_free(checkpoint->tensors);
    fb_free(checkpoint->split);
    fb_free(checkpoint->split_names);
    fb_free(checkpoint->directory);
    fb_free(checkpoint);
}

const fb_tensor_view *fb_checkpoint_find(const fb_checkpoint *checkpoint, const char *name) {
    if (checkpoint->count == 0)
        return NULL;
    fb_tensor_view wanted = {.name = name};
    const fb_tensor_view *key = &wanted;
    const fb_tensor_view *const *found = bsearch(&key, checkpoint->tensors, checkpoint->count,
                                                 sizeof(fb_tensor_view *), compare_tensors);
    return found ? *found : NULL;
}

size_t fb_checkpoint_count(const fb_checkpoint *checkpoint) {
    return checkpoint->count;
}

const fb_tensor_view *fb_checkpoint_at(const fb_checkpoint *checkpoint, size_t index) {
    return checkpoint->tensors[index];
}

void fb_checkpoint_release(const fb_checkpoint *checkpoint, const void *data, size_t bytes) {
    for (size_t i = 0; i < checkpoint->num_shards; i++)
        fb_safetensors_release(checkpoint->shards[i], data, bytes);
}

const char *fb_checkpoint_similar(const fb_checkpoint *checkpoint, const char *name) {
    for (size_t i = 0; i < checkpoint->count; i++) {
        const char *other = checkpoint->tensors[i]->name;
        if (ends_with(other, name) || ends_with(name, other))
            return other;
    }
    return NULL;
}

static bool is_derived(const char *name) {
    static const char suffix[] = "rotary_emb.inv_freq";
    size_t length = strlen(name), of_suffix = sizeof suffix - 1;
    return length >= of_suffix && strcmp(name + length - of_suffix, suffix) == 0;
}

fb_status fb_checkpoint_warn_unused(const fb_checkpoint *checkpoint, const fb_tensor_view **used,
                                    size_t count, fb_warnings *warnings) {
    const fb_tensor_view *first = NULL;
    size_t num_unused = 0, next = 0;
    if (count > 0)
        qsort(used, count, sizeof *used, compare_tensors);
    for (size_t i = 0; i < checkpoint->count; i++) {
        const fb_tensor_view *tensor = checkpoint->tensors[i];
        while (next < count && strcmp(used[next]->name, tensor->name) < 0)
            next++;
        if ((next < count && strcmp(used[next]->name, tensor->name) == 0) ||
            is_derived(tensor->name))
            continue;
        first = first ? first : tensor;
        num_unused++;
    }
    if (num_unused == 0)
        return FB_OK;
    return fb_warn(warnings, "%s: %zu tensor%s not of this model, and not used: %.200s%s",
                   checkpoint->directory, num_unused, num_unused == 1 ? " is" : "s are",
                   first->name, num_unused == 1 ? "" : ", ...");
}
