/* A harness without libFuzzer: gives it the files of the folders that are named. For builds by any
 * compiler, in which the seeds and all that was found have to pass. */
#define _DEFAULT_SOURCE
#include "tests/fuzz/fuzz.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

/* Nothing is mutated here. */
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size) {
    (void)data, (void)max_size;
    return size;
}

static bool replay(const char *path) {
    struct stat info;
    FILE *file = fopen(path, "rb");
    if (!file || fstat(fileno(file), &info) != 0)
        return false;
    size_t size = (size_t)info.st_size;
    uint8_t *data = malloc(size + !size); /* ends where the memory ends */
    bool read = data && fread(data, 1, size, file) == size;
    if (read)
        LLVMFuzzerTestOneInput(data, size);
    free(data);
    fclose(file);
    return read;
}

static size_t replay_folder(const char *folder) {
    size_t count = 0;
    DIR *open = opendir(folder);
    for (struct dirent *entry; open && (entry = readdir(open));) {
        char path[4096];
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        if (entry->d_name[0] == '.')
            continue;
        printf("%s\n", path);
        fflush(stdout);
        if (!replay(path)) {
            perror(path);
            exit(1);
        }
        count++;
    }
    if (open)
        closedir(open);
    return count;
}

int main(int argc, char **argv) {
    size_t count = 0;
    LLVMFuzzerInitialize(&argc, &argv);
    for (int i = 1; i < argc; i++)
        count += replay_folder(argv[i]);
    printf("%zu inputs\n", count);
    return count > 0 ? 0 : 1;
}
