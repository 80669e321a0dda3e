/* A directory for one test, and malformed files to put there. A failure fails the running test. */
#ifndef FB_TESTS_TEMPORARY_H
#define FB_TESTS_TEMPORARY_H

#include <stddef.h>

/* Makes a directory. Its path is valid until temporary_remove, which removes the directory and its
 * contents. */
const char *temporary_make(void);
void temporary_remove(void);

/* The path of a file in it. The path is valid for the next seven calls. */
const char *temporary_path(const char *name);

/* Writes a file into it and returns its path. */
const char *temporary_write(const char *name, const void *data, size_t size);
const char *temporary_write_text(const char *name, const char *text);

/* The contents of a file, and a NUL after them. The caller frees them. */
char *read_whole(const char *path, size_t *size);

/* Makes malformed variants of a well-formed file: the file cut at each byte, then `flips` copies
 * with one to four bits or bytes changed at random. `try` gets each variant in memory that ends
 * where the variant ends, so a sanitizer sees a read beyond it. `try` returns whether the variant
 * was accepted. Returns the number of accepted variants. */
typedef int variant_trial(const void *data, size_t size, void *context);
size_t try_variants(const void *data, size_t size, size_t flips, variant_trial *trial,
                    void *context);

#endif
