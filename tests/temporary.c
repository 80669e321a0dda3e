#include "tests/temporary.h"

#include "tests/numbers.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char directory[256];

const char *temporary_make(void) {
    const char *base = getenv("TMPDIR");
    snprintf(directory, sizeof directory, "%s/flashblock-test-XXXXXX", base ? base : "/tmp");
    cr_assert(mkdtemp(directory), "cannot make %s", directory);
    return directory;
}

void temporary_remove(void) {
    DIR *listing = opendir(directory);
    if (!listing)
        return;
    for (struct dirent *entry = readdir(listing); entry; entry = readdir(listing))
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            remove(temporary_path(entry->d_name));
    closedir(listing);
    cr_assert(rmdir(directory) == 0, "cannot remove %s", directory);
}

const char *temporary_path(const char *name) {
    static char paths[8][512];
    static size_t turn;
    char *path = paths[turn++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", directory, name);
    return path;
}

const char *temporary_write(const char *name, const void *data, size_t size) {
    const char *path = temporary_path(name);
    FILE *file = fopen(path, "wb");
    cr_assert(file, "cannot write %s", path);
    cr_assert(size == 0 || fwrite(data, 1, size, file) == size, "cannot write %s", path);
    cr_assert(fclose(file) == 0, "cannot write %s", path);
    return path;
}

const char *temporary_write_text(const char *name, const char *text) {
    return temporary_write(name, text, strlen(text));
}

char *read_whole(const char *path, size_t *size) {
    FILE *file = fopen(path, "rb");
    cr_assert(file, "cannot read %s", path);
    cr_assert(fseek(file, 0, SEEK_END) == 0);
    long length = ftell(file);
    cr_assert(length >= 0);
    rewind(file);
    char *data = malloc((size_t)length + 1);
    cr_assert(data && fread(data, 1, (size_t)length, file) == (size_t)length);
    data[length] = '\0';
    fclose(file);
    *size = (size_t)length;
    return data;
}

static void change(unsigned char *data, size_t size, random_stream *random) {
    for (size_t n = random_between(random, 1, 4); n > 0; n--) {
        size_t at = random_between(random, 0, size - 1);
        if (random_between(random, 0, 1))
            data[at] ^= (unsigned char)(1u << random_between(random, 0, 7));
        else
            data[at] = (unsigned char)random_between(random, 0, 255);
    }
}

size_t try_variants(const void *data, size_t size, size_t flips, variant_trial *trial,
                    void *context) {
    random_stream random = random_named(7);
    size_t accepted = 0;
    for (size_t i = 0; i < size + flips; i++) {
        size_t length = i < size ? i : size;
        unsigned char *variant = malloc(length ? length : 1);
        cr_assert(variant);
        memcpy(variant, data, length);
        if (i >= size)
            change(variant, length, &random);
        accepted += trial(variant, length, context) ? 1 : 0;
        free(variant);
    }
    return accepted;
}
