/* Lists of golden hashes. golden/hashes.txt is one: a line for each case,
 *
 *   NAME HASH_OF_OUT HASH_OF_LSE
 *
 * Lines that begin with # are comments. A hash has 32 hexadecimal digits. It is over the raw
 * float32 bytes (little-endian) in the order of the tensors. The build puts the list into the
 * library. */
#ifndef FB_ORACLE_HASH_LIST_H
#define FB_ORACLE_HASH_LIST_H

#include "oracle/hash_result.h"

/* The hashes of every case, by its index. A case that the list does not have: empty strings. */
typedef struct fb_hash_list {
    fb_hashes *entries; /* [fb_num_hash_cases] */
} fb_hash_list;

/* The list that the build has put in / a file's list. FB_ERROR_FORMAT names the line that is
 * malformed, names no case, or repeats a case. */
fb_status fb_hash_list_builtin(fb_hash_list *list);
fb_status fb_hash_list_load(const char *path, fb_hash_list *list);
void fb_hash_list_free(fb_hash_list *list);

/* Computes every case and writes the list, comments included. */
fb_status fb_hash_list_write(const char *path);

#endif
