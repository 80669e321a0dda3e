/* Golden hashes of refresh by rows. */
#ifndef FB_ORACLE_HASH_ROWS_H
#define FB_ORACLE_HASH_ROWS_H

#include "oracle/hash_cases.h"
#include "oracle/hash_result.h"

#include <stdint.h>

/* Computes a case of kind FB_HASH_ROWS. */
fb_status fb_hash_rows_compute(const fb_hash_case *c, uint64_t seed, fb_hash_result *result);

#endif
