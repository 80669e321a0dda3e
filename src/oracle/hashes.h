/* Golden hashes: a list of generated cases, and the XXH3-128 of their results. The results are the
 * same to the bit on every instruction set and with any number of threads. A published case keeps
 * its name, its inputs and its hashes. */
#ifndef FB_ORACLE_HASHES_H
#define FB_ORACLE_HASHES_H

#include "oracle/hash_list.h"

size_t fb_hash_case_count(void);
const char *fb_hash_case_name(size_t index);

/* What the check of a case found. */
typedef struct fb_hash_finding {
    fb_hashes expected, found;
    bool out_differs, lse_differs; /* from the list */
    char detail[512];              /* the first element that differs, in words */
} fb_hash_finding;

/* Computes a case with the current instruction set and threads. If it differs from the list, the
 * scalar path computes it too, on one thread, and finding->detail says where the two part. The
 * instruction set and the threads are then set back. */
fb_status fb_hash_case_check(size_t index, const fb_hash_list *list, fb_hash_finding *finding);

#endif
