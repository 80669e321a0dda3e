#include "io/checkpoint.h"

#include "base/error.h"
#include "base/memory.h"
#include "io/file.h"
#include "io/json.h"
#include "io/safetensors.h"

#include <stdlib.h>
#include <string.h>

static const char single_name[] = "model.safetensors";
static const char index_name[] = "model.safetensors.index.json";

/* An index of 100 MB would name a million tensors. */
enum { MAX_INDEX = 100000000 };

struct fb_checkpoint {
    char *directory;
    fb_safetensors **shards;
    size_t num_shards;
    const fb_tensor_view **tensors; /* sorted by name */
    size_t count;
};

/* A weight_map entry: which file holds which tensor. */
typedef struct placement {
    const char *tensor;
    const char *shard;
} placement;

static int compare_shards(const void *left, const void *right) {
    const placement *a = left, *b = right;
    return strcmp(a->shard, b->shard);
}

static int compare_tensors(const void *left, const void *right) {
    const fb_tensor_view *const *a = left, *const *b = right;
    return strcmp((*a)->name, (*b)->name);
}

static fb_status open_shard(fb_checkpoint *checkpoint, const char *name) {
    char *path = NULL;
    FB_TRY(fb_path_join(checkpoint->directory, name, &path));
    fb_status status = fb_safetensors_open(path, &checkpoint->shards[checkpoint->num_shards]);
    fb_free(path);
    if (status == FB_OK)
        checkpoint->num_shards++;
    return status;
}

static fb_status load_single(fb_checkpoint *checkpoint) {
    FB_TRY(fb_alloc_zeroed(1, sizeof(fb_safetensors *), "shards", &checkpoint->shards));
    FB_TRY(open_shard(checkpoint, single_name));
    const fb_safetensors *file = checkpoint->shards[0];
    size_t count = fb_safetensors_count(file);
    FB_TRY(fb_alloc(count, sizeof(fb_tensor_view *), "tensor list", &checkpoint->tensors));
    for (size_t i = 0; i < count; i++)
        checkpoint->tensors[i] = fb_safetensors_at(file, i);
    checkpoint->count = count;
    return FB_OK;
}

/* The names come from a file. None may lead out of the directory. */
static fb_status check_plain_name(const char *name) {
    if (name[0] == '\0' || strchr(name, '/') || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return fb_fail(FB_ERROR_FORMAT, "weight_map: '%s' is not a plain file name", name);
    return FB_OK;
}

static fb_status read_placements(json_t *weight_map, placement *placements) {
    const char *key = NULL;
    json_t *value = NULL;
    size_t i = 0;
    json_object_foreach(weight_map, key, value) {
        placements[i].tensor = key;
        FB_TRY(fb_json_get_string(weight_map, "weight_map", key, &placements[i].shard));
        FB_TRY(check_plain_name(placements[i].shard));
        i++;
    }
    return FB_OK;
}

/* `placements` is sorted by shard, so each file is opened once. */
static fb_status load_placements(fb_checkpoint *checkpoint, const placement *placements,
                                 size_t count) {
    for (size_t i = 0; i < count; i++) {
        if (i == 0 || strcmp(placements[i].shard, placements[i - 1].shard) != 0)
            FB_TRY(open_shard(checkpoint, placements[i].shard));
        FB_TRY(fb_safetensors_get(checkpoint->shards[checkpoint->num_shards - 1],
                                  placements[i].tensor, &checkpoint->tensors[i]));
        checkpoint->count++;
    }
    if (count > 0)
        qsort(checkpoint->tensors, count, sizeof(fb_tensor_view *), compare_tensors);
    return FB_OK;
}

static fb_status load_weight_map(fb_checkpoint *checkpoint, json_t *weight_map) {
    size_t count = json_object_size(weight_map);
    placement *placements = NULL;
    FB_TRY(fb_alloc_zeroed(count, sizeof(fb_safetensors *), "shards", &checkpoint->shards));
    FB_TRY(fb_alloc(count, sizeof(fb_tensor_view *), "tensor list", &checkpoint->tensors));
    FB_TRY(fb_alloc(count, sizeof *placements, "weight map", &placements));
    fb_status status = read_placements(weight_map, placements);
    if (status == FB_OK) {
        if (count > 0)
            qsort(placements, count, sizeof *placements, compare_shards);
        status = load_placements(checkpoint, placements, count);
    }
    fb_free(placements);
    return status;
}

static fb_status load_index(fb_checkpoint *checkpoint, const char *path) {
    json_t *root = NULL, *weight_map = NULL;
    FB_TRY(fb_json_load(path, MAX_INDEX, &root));
    fb_status status = fb_json_get_object(root, path, "weight_map", &weight_map);
    if (status == FB_OK) {
        status = load_weight_map(checkpoint, weight_map);
        if (status != FB_OK)
            fb_fail_in(status, "%s", path);
    }
    json_decref(root);
    return status;
}

static fb_status load(fb_checkpoint *checkpoint) {
    char *single = NULL, *index = NULL;
    FB_TRY(fb_path_join(checkpoint->directory, single_name, &single));
    fb_status status = fb_path_join(checkpoint->directory, index_name, &index);
    if (status == FB_OK) {
        bool has_single = fb_file_exists(single), has_index = fb_file_exists(index);
        if (has_single && has_index)
            status = fb_fail(FB_ERROR_FORMAT, "%s: holds both %s and %s", checkpoint->directory,
                             single_name, index_name);
        else if (has_index)
            status = load_index(checkpoint, index);
        else if (has_single)
            status = load_single(checkpoint);
        else
            status = fb_fail(FB_ERROR_IO, "%s: holds neither %s nor %s", checkpoint->directory,
                             single_name, index_name);
    }
    fb_free(single);
    fb_free(index);
    return status;
}

fb_status fb_checkpoint_open(const char *directory, fb_checkpoint **checkpoint) {
    fb_checkpoint *made = NULL;
    FB_TRY(fb_alloc_zeroed(1, sizeof *made, "checkpoint", &made));
    fb_status status = fb_path_join("", directory, &made->directory);
    if (status == FB_OK)
        status = load(made);
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
