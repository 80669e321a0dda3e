/* The quantised weights of a tile of values of 8 bits (int_values.h). The file that includes this
 * one has defined VALUE_BYTES. */
#ifndef FB_SIMD_INT_WEIGHTS_H
#define FB_SIMD_INT_WEIGHTS_H

#include "simd/integers.h"
#include "simd/tiles.h"

#include <flashblock/attention.h>

enum { TILE_GROUPS = FB_TILE_KEYS / FB_GROUP_KEYS };

/* Of each row, and of each group of keys. Groups that are not there may hold anything. */
typedef struct int_weights_of_rows {
    _Alignas(CACHE_LINE) uint8_t u[FB_MAX_ROWS][FB_TILE_KEYS * VALUE_BYTES / FB_INT_QUAD];
    _Alignas(CACHE_LINE) float factors[FB_MAX_ROWS][TILE_GROUPS];
    uint32_t begins[FB_MAX_ROWS]
                   [TILE_GROUPS]; /* of sums, modulo 2^32, where these do not begin at 0 */
} int_weights_of_rows;

/* Of a stream. */
INLINE size_t groups_of(const fb_values_call *call) {
    return (call->num_keys + FB_GROUP_KEYS - 1) / FB_GROUP_KEYS;
}

/* The scales of a group of values. */
INLINE const float *scales_of(const fb_values_call *call, size_t stream, size_t group) {
    const char *values = call->groups[stream * groups_of(call) + group];
    return (const float *)(const void *)(values + fb_int_values_bytes(call->head_dim));
}

#endif
