/* Computes the cases of golden hashes with the public API only. */
#ifndef FB_ORACLE_HASH_COMPUTE_H
#define FB_ORACLE_HASH_COMPUTE_H

#include "oracle/hash_cases.h"
#include "oracle/hash_result.h"

/* Computes a case with the current instruction set and threads. The caller frees the result with
 * fb_hash_result_free. */
fb_status fb_hash_compute(const fb_hash_case *c, fb_hash_result *result);

#endif
