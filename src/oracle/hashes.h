/* Golden hashes: a list of generated cases, each computed with the public API alone, and the
 * XXH3-128 of what must come out, to the bit, on every instruction set and with any number of
 * threads. golden/hashes.txt holds them, a line a case,
 *
 *   NAME HASH_OF_OUT HASH_OF_LSE
 *
 * in 32 hexadecimal digits each, as `xxhsum -H2` prints them, over the raw float32 bytes (little-
 * endian) in the order of the tensors; lines that begin with # are comments. The build puts the
 * list into the library. A case once published keeps its name, its inputs and its hashes. */
#ifndef FB_ORACLE_HASHES_H
#define FB_ORACLE_HASHES_H

#include <flashblock/runtime.h>

#include <stdbool.h>
#include <stddef.h>

size_t fb_hash_case_count(void);
const char *fb_hash_case_name(size_t index);

/* What one case gives. A case of several passes has them one behind the other. */
typedef struct fb_hash_result {
    float *out, *lse;
    size_t num_out, num_lse;
} fb_hash_result;

/* Computes a case with the instruction set and threads that are current; fb_hash_result_free. */
fb_status fb_hash_case_compute(size_t index, fb_hash_result *result);
void fb_hash_result_free(fb_hash_result *result);

/* 32 hexadecimal digits and a NUL. */
enum { FB_HASH_TEXT = 33 };
typedef struct fb_hashes {
    char out[FB_HASH_TEXT], lse[FB_HASH_TEXT];
} fb_hashes;

void fb_hash_result_digest(const fb_hash_result *result, fb_hashes *hashes);

/* The hashes of every case, by its index; an entry of empty strings where a list has none. */
typedef struct fb_hash_list {
    fb_hashes *entries; /* [fb_hash_case_count()] */
} fb_hash_list;

/* The list that the build has put in / a file's. FB_ERROR_FORMAT names the line that is malformed,
 * names no case, or comes twice. */
fb_status fb_hash_list_builtin(fb_hash_list *list);
fb_status fb_hash_list_load(const char *path, fb_hash_list *list);
void fb_hash_list_free(fb_hash_list *list);

/* Computes every case and writes the list, comments included. */
fb_status fb_hash_list_write(const char *path);

/* What checking a case found. */
typedef struct fb_hash_finding {
    fb_hashes expected, found;
    bool out_differs, lse_differs; /* from the list */
    char detail[512];              /* of a difference: the first differing element, in words */
} fb_hash_finding;

/* Computes a case with what is current. Where it differs from the list, the scalar path computes it
 * too, on one thread, and finding->detail says where the two part; instruction set and threads are
 * then set back. */
fb_status fb_hash_case_check(size_t index, const fb_hash_list *list, fb_hash_finding *finding);

/* One line on the first element of `found` whose bits are not those of `scalar`; false when there
 * is none. */
bool fb_hash_first_difference(const fb_hash_result *found, const fb_hash_result *scalar, char *text,
                              size_t size);

#endif
