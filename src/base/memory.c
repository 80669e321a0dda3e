#define _DEFAULT_SOURCE /* madvise */
#include "base/memory.h"

#include "base/error.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

bool fb_size_mul(size_t a, size_t b, size_t *product) {
    if (a != 0 && b > SIZE_MAX / a)
        return false;
    *product = a * b;
    return true;
}

bool fb_size_add(size_t a, size_t b, size_t *sum) {
    if (b > SIZE_MAX - a)
        return false;
    *sum = a + b;
    return true;
}

void fb_release_pages(const void *memory, size_t bytes) {
#ifdef MADV_DONTNEED
    const uintptr_t page = 4096; /* of a system's page that is larger, the call fails */
    uintptr_t begin = ((uintptr_t)memory + page - 1) / page * page;
    uintptr_t end = ((uintptr_t)memory + bytes) / page * page;
    if (begin < end)
        (void)madvise((char *)(uintptr_t)memory + (begin - (uintptr_t)memory), end - begin,
                      MADV_DONTNEED);
#else
    (void)memory;
    (void)bytes;
#endif
}

void fb_ask_for_huge_pages(void *memory, size_t bytes) {
#ifdef MADV_HUGEPAGE
    (void)madvise(memory, bytes, MADV_HUGEPAGE);
#else
    (void)memory;
    (void)bytes;
#endif
}

/* NULL, with a message, when it fails. */
static void *allocate(size_t count, size_t size, const char *what) {
    size_t bytes = 0, most = 0;
    if (!fb_size_mul(count, size, &bytes) || !fb_size_add(bytes, FB_HUGE_PAGE, &most)) {
        fb_fail(FB_ERROR_MEMORY, "%s: %zu x %zu bytes do not fit the address space", what, count,
                size);
        return NULL;
    }
    size_t alignment = bytes < FB_HUGE_PAGE ? FB_ALIGNMENT : FB_HUGE_PAGE;
    /* aligned_alloc takes whole multiples, and never 0 here */
    size_t rounded = bytes == 0 ? alignment : (bytes + alignment - 1) / alignment * alignment;
    void *memory = aligned_alloc(alignment, rounded);
    if (!memory)
        fb_fail(FB_ERROR_MEMORY, "%s: cannot allocate %zu bytes", what, bytes);
    else if (alignment == FB_HUGE_PAGE)
        fb_ask_for_huge_pages(memory, rounded);
    return memory;
}

fb_status fb_alloc(size_t count, size_t size, const char *what, void *result) {
    void *memory = allocate(count, size, what);
    if (!memory)
        return FB_ERROR_MEMORY;
    memcpy(result, &memory, sizeof memory);
    return FB_OK;
}

fb_status fb_alloc_zeroed(size_t count, size_t size, const char *what, void *result) {
    void *memory = allocate(count, size, what);
    if (!memory)
        return FB_ERROR_MEMORY;
    memset(memory, 0, count * size);
    memcpy(result, &memory, sizeof memory);
    return FB_OK;
}

void fb_free(void *memory) {
    free(memory);
}
