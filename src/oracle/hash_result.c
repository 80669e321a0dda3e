#include "oracle/hash_result.h"

#include "base/error.h"
#include "base/half.h"
#include "base/memory.h"

#include <stdio.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

void fb_hash_result_free(fb_hash_result *result) {
    fb_free(result->out);
    fb_free(result->lse);
    *result = (fb_hash_result){0};
}

fb_status fb_hash_result_alloc(fb_hash_result *result, size_t num_out, size_t num_lse) {
    *result = (fb_hash_result){.num_out = num_out, .num_lse = num_lse};
    FB_TRY(fb_alloc_zeroed(num_out, sizeof *result->out, "selftest", &result->out));
    return fb_alloc_zeroed(num_lse, sizeof *result->lse, "selftest", &result->lse);
}

static void digest(const float *values, size_t count, char text[FB_HASH_TEXT]) {
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits(values, count * sizeof *values));
    for (size_t i = 0; i < sizeof canonical.digest; i++)
        snprintf(text + 2 * i, 3, "%02x", canonical.digest[i]);
}

void fb_hash_result_digest(const fb_hash_result *result, fb_hashes *hashes) {
    digest(result->out, result->num_out, hashes->out);
    digest(result->lse, result->num_lse, hashes->lse);
}

static bool first_difference(const char *tensor, const float *found, const float *scalar,
                             size_t count, char *text, size_t size) {
    for (size_t i = 0; i < count; i++) {
        uint32_t bits = fb_f32_to_bits(found[i]), scalar_bits = fb_f32_to_bits(scalar[i]);
        if (bits == scalar_bits)
            continue;
        snprintf(text, size, "%s[%zu] is %.9g (0x%08x), the scalar path's %.9g (0x%08x)", tensor, i,
                 (double)found[i], bits, (double)scalar[i], scalar_bits);
        return true;
    }
    return false;
}

bool fb_hash_result_difference(const fb_hash_result *found, const fb_hash_result *scalar,
                               char *text, size_t size) {
    return first_difference("out", found->out, scalar->out, found->num_out, text, size) ||
           first_difference("lse", found->lse, scalar->lse, found->num_lse, text, size);
}
