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

#include <flashblock/experimental/oracle.h>

struct fb_hash_list {
    fb_hashes *entries; /* [fb_num_hash_cases]; empty strings for a case that the list lacks */
};

/* Computes every case and writes the list, comments included. */
fb_status fb_hash_list_write(const char *path);

#endif
