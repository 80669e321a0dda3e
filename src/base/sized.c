#include "base/sized.h"

#include "base/error.h"

#include <stdbool.h>
#include <string.h>

fb_status fb_sized_same(size_t struct_size, size_t known, const char *name) {
    if (struct_size != known)
        return fb_fail(FB_ERROR_ARGUMENT,
                       "%s.struct_size is %zu, expected %zu: its init function sets it, and a "
                       "program is compiled anew for another version of an experimental struct",
                       name, struct_size, known);
    return FB_OK;
}

/* No struct has another size than these. A number that was never set seldom is one of them. */
static bool is_size(size_t size) {
    return size >= sizeof size && size <= FB_SIZED_MAX;
}

void fb_sized_init(void *given, size_t size, const void *defaults, size_t known) {
    if (!is_size(size)) {
        memset(given, 0, sizeof size); /* struct_size 0, which no function takes */
        return;
    }
    memset(given, 0, size);
    memcpy(given, defaults, size < known ? size : known);
    memcpy(given, &size, sizeof size);
}

fb_status fb_sized_read(void *own, size_t known, const void *given, const char *name) {
    if (!given)
        return fb_fail(FB_ERROR_ARGUMENT, "%s is NULL", name);
    size_t size = 0;
    memcpy(&size, given, sizeof size);
    if (!is_size(size))
        return fb_fail(FB_ERROR_ARGUMENT,
                       "%s.struct_size is %zu, expected the struct's size, %zu to %d: its init "
                       "function sets it",
                       name, size, sizeof size, FB_SIZED_MAX);
    for (size_t i = known; i < size; i++)
        if (((const char *)given)[i] != 0)
            return fb_fail(FB_ERROR_ARGUMENT,
                           "%s has %zu bytes, of which this library knows %zu, and byte %zu is not "
                           "zero: the program needs a later version",
                           name, size, known, i);
    memcpy(own, given, size < known ? size : known);
    memcpy(own, &known, sizeof known);
    return FB_OK;
}

fb_status fb_sized_unused(const bool *unused, size_t count, const char *name) {
    for (size_t i = 0; i < count; i++)
        if (unused[i])
            return fb_fail(FB_ERROR_ARGUMENT,
                           "%s.unused[%zu] is set: the program needs a later version", name, i);
    return FB_OK;
}
