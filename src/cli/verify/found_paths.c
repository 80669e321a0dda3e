/* Files and directories of the command line, as a list of files. */
#include "cli/verify/found_paths.h"

#include "base/error.h"
#include "base/memory.h"
#include "io/file.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static fb_status append(fb_found_paths *list, const char *path, bool named) {
    if (list->count == list->capacity) {
        fb_found_path *grown = NULL;
        size_t capacity = list->capacity ? 2 * list->capacity : 64;
        FB_TRY(fb_alloc(capacity, sizeof *grown, "paths", &grown));
        if (list->count)
            memcpy(grown, list->paths, list->count * sizeof *grown);
        fb_free(list->paths);
        list->paths = grown;
        list->capacity = capacity;
    }
    char *copy = NULL;
    size_t size = strlen(path) + 1;
    FB_TRY(fb_alloc(size, 1, "path", &copy));
    memcpy(copy, path, size);
    list->paths[list->count++] = (fb_found_path){copy, named};
    return FB_OK;
}

void fb_found_paths_free(fb_found_paths *list) {
    for (size_t i = 0; i < list->count; i++)
        fb_free(list->paths[i].text);
    fb_free(list->paths);
    *list = (fb_found_paths){0};
}

static bool is_case_file(const char *name) {
    static const char ending[] = ".safetensors";
    size_t length = strlen(name), tail = sizeof ending - 1;
    return length > tail && strcmp(name + length - tail, ending) == 0;
}

static int compare_paths(const void *a, const void *b) {
    const fb_found_path *left = a, *right = b;
    return strcmp(left->text, right->text);
}

/* Reads one directory: files go to `files`, directories to `folders`. */
static fb_status list_entry(const char *path, const char *name, fb_found_paths *files,
                            fb_found_paths *folders) {
    struct stat info;
    char *whole = NULL;
    if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return FB_OK;
    FB_TRY(fb_path_join(path, name, &whole));
    fb_status status = FB_OK;
    if (lstat(whole, &info) == 0 && S_ISDIR(info.st_mode))
        status = append(folders, whole, false);
    else if (is_case_file(name) && !fb_file_is_directory(whole) && !fb_file_is_stream(whole))
        status = append(files, whole, false);
    fb_free(whole);
    return status;
}

/* `folders` also holds the directories that are still to be read, as there is no recursion. */
static fb_status list_directory(const char *path, fb_found_paths *files, fb_found_paths *folders) {
    DIR *directory = opendir(path);
    if (!directory)
        return fb_fail(FB_ERROR_IO, "%s: %s", path, strerror(errno));
    fb_status status = FB_OK;
    const struct dirent *entry;
    while (status == FB_OK && (entry = readdir(directory)) != NULL)
        status = list_entry(path, entry->d_name, files, folders);
    closedir(directory);
    return status;
}

static fb_status find_below(const char *path, fb_found_paths *list) {
    fb_found_paths folders = {0};
    size_t first = list->count;
    fb_status status = list_directory(path, list, &folders);
    for (size_t i = 0; i < folders.count && status == FB_OK; i++) {
        /* the list may move while it grows */
        char *folder = folders.paths[i].text;
        status = list_directory(folder, list, &folders);
    }
    fb_found_paths_free(&folders);
    if (list->count > first)
        qsort(list->paths + first, list->count - first, sizeof *list->paths, compare_paths);
    return status;
}

fb_status fb_found_paths_find(fb_found_paths *list, const fb_option_list *arguments) {
    for (size_t i = 0; i < arguments->count; i++) {
        const char *path = arguments->values[i].text;
        FB_TRY(fb_file_is_directory(path) ? find_below(path, list) : append(list, path, true));
    }
    return FB_OK;
}
