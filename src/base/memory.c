#include "memory.h"

#include "error.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

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

fb_status fb_alloc(size_t count, size_t size, const char *what, void *result) {
    size_t bytes = 0, rounded = 0;
    if (!fb_size_mul(count, size, &bytes) || !fb_size_add(bytes, FB_ALIGNMENT, &rounded))
        return fb_fail(FB_ERROR_MEMORY, "%s: %zu x %zu bytes do not fit the address space", what,
                       count, size);
    rounded -= rounded % FB_ALIGNMENT; /* aligned_alloc takes whole multiples, and never 0 here */
    void *memory = aligned_alloc(FB_ALIGNMENT, rounded);
    if (!memory)
        return fb_fail(FB_ERROR_MEMORY, "%s: cannot allocate %zu bytes", what, bytes);
    memcpy(result, &memory, sizeof memory);
    return FB_OK;
}

fb_status fb_alloc_zeroed(size_t count, size_t size, const char *what, void *result) {
    void *memory = NULL;
    FB_TRY(fb_alloc(count, size, what, &memory));
    memset(memory, 0, count * size);
    memcpy(result, &memory, sizeof memory);
    return FB_OK;
}

void fb_free(void *memory) {
    free(memory);
}
