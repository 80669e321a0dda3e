/* A directory of one test's own, and malformed files to put there. Whatever fails fails the
 * running test. */
#ifndef FB_TESTS_TEMPORARY_H
#define FB_TESTS_TEMPORARY_H

#include <stddef.h>

/* Makes a directory; its path lasts until temporary_remove, which removes it with what is in it. */
const char *temporary_make(void);
void temporary_remove(void);

/* The path of a file in it; one of eight buffers that take turns. */
const char *temporary_path(const char *name);

/* Writes a file into it and returns its path. */
const char *temporary_write(const char *name, const void *data, size_t size);
const char *temporary_write_text(const char *name, const char *text);

/* The whole of a file, with a NUL behind it; freed by the caller. */
char *read_whole(const char *path, size_t *size);

/* Every malformed variant of a well-formed file, one after the other: cut at each byte, then
 * `flips` copies with one to four bits or bytes changed at random. `try` gets each in memory that
 * ends where the variant ends, so that a sanitizer sees a read beyond it; it returns whether the
 * variant was accepted. Returns how many were. */
typedef int variant_trial(const void *data, size_t size, void *context);
size_t try_variants(const void *data, size_t size, size_t flips, variant_trial *trial,
                    void *context);

#endif
