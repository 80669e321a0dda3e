/* Golden hashes of linear layers. */
#ifndef FB_ORACLE_HASH_PRODUCT_H
#define FB_ORACLE_HASH_PRODUCT_H

#include "oracle/hash_cases.h"
#include "oracle/hash_result.h"

#include <stdint.h>

/* Computes a case of kind FB_HASH_PRODUCT: out is y [queries, features]; there is no LSE. */
fb_status fb_hash_product_compute(const fb_hash_case *c, uint64_t seed, fb_hash_result *result);

#endif
