/* An allocator whose n-th call fails, to be loaded before libc (LD_PRELOAD). Calls are counted from
 * the program's start on, on all threads.
 *
 *   FAIL_AT=n        the n-th call fails
 *   FAIL_FROM=n      that call and all later ones fail
 *   LIST_CALLS=FILE  writes, for every call that comes from a place in the code from which none
 * came before, a line with its number. A place is a stack of return addresses.
 *
 * malloc, calloc, realloc, aligned_alloc, posix_memalign, and mmap. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { DEPTH = 24, PLACES = 1 << 16 };

static void *(*real_malloc)(size_t);
static void *(*real_calloc)(size_t, size_t);
static void *(*real_realloc)(void *, size_t);
static void *(*real_aligned_alloc)(size_t, size_t);
static int (*real_posix_memalign)(void **, size_t, size_t);
static void *(*real_mmap)(void *, size_t, int, int, int, off_t);

static atomic_long calls;
static long fail_at, fail_from;
static int list = -1;
static atomic_bool counting;
static _Thread_local bool inside;

/* dlsym allocates before there is an allocator. What it gets is never freed: see free below. */
static char early[1 << 14];
static size_t early_used;

static void *take_early(size_t bytes) {
    void *taken = early + early_used;
    early_used += (bytes + 15) / 16 * 16;
    return early_used <= sizeof early ? taken : NULL;
}

static bool is_early(const void *memory) {
    return (uintptr_t)memory >= (uintptr_t)early &&
           (uintptr_t)memory < (uintptr_t)early + sizeof early;
}

static void find(const char *name, void *function) {
    void *found = dlsym(RTLD_NEXT, name);
    memcpy(function, &found, sizeof found);
}

static void find_all(void) {
    if (real_malloc || inside)
        return;
    inside = true;
    find("calloc", &real_calloc);
    find("realloc", &real_realloc);
    find("aligned_alloc", &real_aligned_alloc);
    find("posix_memalign", &real_posix_memalign);
    find("mmap", &real_mmap);
    find("malloc", &real_malloc);
    inside = false;
}

static long number_of(const char *name) {
    const char *text = getenv(name);
    return text ? atol(text) : 0;
}

__attribute__((constructor)) static void start(void) {
    void *frames[2];
    find_all();
    fail_at = number_of("FAIL_AT");
    fail_from = number_of("FAIL_FROM");
    inside = true;
    if (getenv("LIST_CALLS"))
        list = open(getenv("LIST_CALLS"), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    backtrace(frames, 2); /* loads what it takes */
    inside = false;
    unsetenv("LD_PRELOAD"); /* not for programs that this one starts */
    atomic_store(&counting, true);
}

/* Whether no call came from this place before. */
static bool is_new_place(void) {
    static uint64_t places[PLACES];
    static size_t count;
    void *frames[DEPTH];
    int depth = backtrace(frames, DEPTH);
    uint64_t hash = 14695981039346656037u;
    for (int i = 2; i < depth; i++)
        hash = (hash ^ (uint64_t)(uintptr_t)frames[i]) * 1099511628211u;
    size_t at = hash % PLACES;
    while (places[at] && places[at] != hash)
        at = (at + 1) % PLACES;
    if (places[at] == hash || count == PLACES / 2)
        return false;
    places[at] = hash;
    count++;
    return true;
}

static bool fails(void) {
    if (!atomic_load(&counting) || inside)
        return false;
    long number = atomic_fetch_add(&calls, 1) + 1;
    if (list >= 0) {
        char line[32];
        inside = true;
        int length = is_new_place() ? snprintf(line, sizeof line, "%ld\n", number) : 0;
        if (length > 0 && write(list, line, (size_t)length) != length)
            abort();
        inside = false;
    }
    if (number != fail_at && !(fail_from && number >= fail_from))
        return false;
    errno = ENOMEM;
    return true;
}

void *malloc(size_t bytes) {
    find_all();
    if (!real_malloc)
        return take_early(bytes);
    return fails() ? NULL : real_malloc(bytes);
}

void *calloc(size_t count, size_t size) {
    find_all();
    if (!real_calloc)
        return take_early(count * size);
    return fails() ? NULL : real_calloc(count, size);
}

void *realloc(void *memory, size_t bytes) {
    find_all();
    if (is_early(memory)) {
        void *moved = real_malloc(bytes);
        return moved ? memcpy(moved, memory, bytes) : NULL;
    }
    return fails() ? NULL : real_realloc(memory, bytes);
}

void free(void *memory) {
    static void (*real_free)(void *);
    if (is_early(memory))
        return;
    if (!real_free)
        find("free", &real_free);
    real_free(memory);
}

void *aligned_alloc(size_t alignment, size_t bytes) {
    find_all();
    return fails() ? NULL : real_aligned_alloc(alignment, bytes);
}

int posix_memalign(void **memory, size_t alignment, size_t bytes) {
    find_all();
    return fails() ? ENOMEM : real_posix_memalign(memory, alignment, bytes);
}

void *mmap(void *address, size_t bytes, int protection, int flags, int file, off_t offset) {
    find_all();
    return fails() ? MAP_FAILED : real_mmap(address, bytes, protection, flags, file, offset);
}
