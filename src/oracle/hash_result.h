/* The numbers that a golden hash is of, and the hash. */
#ifndef FB_ORACLE_HASH_RESULT_H
#define FB_ORACLE_HASH_RESULT_H

#include <flashblock/status.h>

#include <stdbool.h>
#include <stddef.h>

/* The results of one case. A case of several passes has them one after the other. */
typedef struct fb_hash_result {
    float *out, *lse;
    size_t num_out, num_lse;
} fb_hash_result;

/* Zeroed memory for a result. */
fb_status fb_hash_result_alloc(fb_hash_result *result, size_t num_out, size_t num_lse);
void fb_hash_result_free(fb_hash_result *result);

/* 32 hexadecimal digits and a NUL. */
enum { FB_HASH_TEXT = 33 };
typedef struct fb_hashes {
    char out[FB_HASH_TEXT], lse[FB_HASH_TEXT];
} fb_hashes;

/* XXH3-128 over the raw bytes, as `xxhsum -H2` prints it. */
void fb_hash_result_digest(const fb_hash_result *result, fb_hashes *hashes);

/* Says in one line which element of `found` is the first whose bits are not those of `scalar`.
 * false if there is none. */
bool fb_hash_result_difference(const fb_hash_result *found, const fb_hash_result *scalar,
                               char *text, size_t size);

#endif
