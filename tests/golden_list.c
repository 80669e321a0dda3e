#include "tests/golden_list.h"

#include "tests/golden_case.h"

#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_FILES = 4096 };

static int by_name(const void *a, const void *b) {
    return strcmp(((const golden_file *)a)->name, ((const golden_file *)b)->name);
}

static bool wanted(const char *name, const char *prefix) {
    static const char suffix[] = ".safetensors";
    size_t length = strlen(name);
    return strncmp(name, prefix, strlen(prefix)) == 0 && length > strlen(suffix) &&
           strcmp(name + length - strlen(suffix), suffix) == 0;
}

/* `files` may be NULL. */
static size_t list(const char *folder, const char *prefix, golden_file *files) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", golden_folder(), folder);
    DIR *directory = opendir(path);
    size_t count = 0;
    for (struct dirent *entry; directory && count < MAX_FILES && (entry = readdir(directory));) {
        if (!wanted(entry->d_name, prefix))
            continue;
        if (files)
            snprintf(files[count].name, sizeof files[count].name, "%s/%s", folder, entry->d_name);
        count++;
    }
    if (directory)
        closedir(directory);
    return count;
}

size_t golden_list(const char *folder, const char *prefix, golden_file **files) {
    *files = cr_malloc(MAX_FILES * sizeof **files);
    size_t count = list(folder, prefix, *files);
    qsort(*files, count, sizeof **files, by_name);
    return count;
}

size_t golden_count(const char *folder, const char *prefix) {
    return list(folder, prefix, NULL);
}

fb_model *golden_model(const char *name) {
    char path[4096 + 256];
    fb_model *model = NULL;
    snprintf(path, sizeof path, "%s/%s", golden_folder(), name);
    cr_assert_eq(fb_model_load(path, &model), FB_OK, "%s", fb_error_message());
    return model;
}
