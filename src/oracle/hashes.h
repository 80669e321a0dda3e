/* Golden hashes: a list of generated cases, and the XXH3-128 of their results. The results are the
 * same to the bit on every instruction set and with any number of threads. A published case keeps
 * its name, its inputs and its hashes. */
#ifndef FB_ORACLE_HASHES_H
#define FB_ORACLE_HASHES_H

#include "oracle/hash_list.h"

#include <flashblock/experimental/oracle.h>

/* What the check of a case found. */
struct fb_hash_finding {
    fb_hashes expected, found;
    bool out_differs, lse_differs; /* from the list */
    char detail[512];              /* the first element that differs, in words */
};

#endif
