/* The folder of the process. */
#define _GNU_SOURCE
#include "tests/fuzz/fuzz.h"

#include <flashblock/runtime.h>

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_PATH = 512, TURNS = 8 };

static char folder[MAX_PATH / 2];

static int remove_entry(const char *path, const struct stat *info, int type, struct FTW *state) {
    (void)info, (void)type, (void)state;
    return remove(path);
}

static void remove_folder(void) {
    nftw(folder, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
}

static void make_folder(void) {
    const char *chosen = getenv("TMPDIR");
    const char *base = chosen ? chosen : access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    snprintf(folder, sizeof folder, "%s/fuzz-XXXXXX", base);
    if (!mkdtemp(folder)) {
        perror(folder);
        exit(2);
    }
    atexit(remove_folder);
}

/* One thread: which code is reached then depends on the input only. */
int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc, (void)argv;
    make_folder();
    return fb_set_num_threads(1) == 0 ? 0 : 1;
}

const char *fuzz_path(const char *name) {
    static char paths[TURNS][MAX_PATH];
    static size_t turn;
    char *path = paths[turn++ % TURNS];
    snprintf(path, MAX_PATH, "%s/%s", folder, name);
    return path;
}

static void make_parent(const char *path) {
    char parent[MAX_PATH];
    snprintf(parent, sizeof parent, "%s", path);
    *strrchr(parent, '/') = '\0';
    mkdir(parent, 0700);
}

const char *fuzz_write(const char *name, fuzz_part part) {
    const char *path = fuzz_path(name);
    if (part.size == 0) {
        remove(path);
        return path;
    }
    FILE *file = fopen(path, "wb");
    if (!file) {
        make_parent(path);
        file = fopen(path, "wb");
    }
    if (!file || fwrite(part.data, 1, part.size, file) != part.size || fclose(file) != 0) {
        perror(path); /* not a finding: the disk is full, say */
        exit(2);
    }
    return path;
}
