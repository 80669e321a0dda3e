/* bf16 and f16 to and from binary32, in integer arithmetic: the same on every machine
 * (docs/contract.md C1.3, C1.4).
 * The SIMD kernels widen with instructions; tests compare all 65536 values of each. */
#ifndef FB_BASE_HALF_H
#define FB_BASE_HALF_H

#include <stdint.h>
#include <string.h>

static inline float fb_bits_to_f32(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t fb_f32_to_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float fb_bf16_to_f32(uint16_t half) {
    return fb_bits_to_f32((uint32_t)half << 16);
}

static inline uint16_t fb_f32_to_bf16(float value) {
    uint32_t bits = fb_f32_to_bits(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) /* NaN: truncated, made quiet so that it stays NaN */
        return (uint16_t)((bits >> 16) | 0x0040u);
    bits += 0x7fffu + ((bits >> 16) & 1u); /* to nearest, ties to even */
    return (uint16_t)(bits >> 16);
}

/* Sign 1, exponent 5 (bias 15), fraction 10. Signalling NaNs become quiet, as the widening
 * instructions of x86 and Arm make them. */
static inline float fb_f16_to_f32(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    uint32_t exponent = (half >> 10) & 0x1fu;
    uint32_t fraction = half & 0x3ffu;
    if (exponent == 0x1f)
        return fb_bits_to_f32(sign | 0x7f800000u | (fraction << 13) | (fraction ? 0x00400000u : 0));
    if (exponent == 0) { /* zero or subnormal: fraction * 2^-24, exact in binary32 */
        float magnitude = (float)fraction * 0x1p-24f;
        return fb_bits_to_f32(sign | fb_f32_to_bits(magnitude));
    }
    return fb_bits_to_f32(sign | ((exponent + 112u) << 23) | (fraction << 13));
}

static inline uint16_t fb_f32_to_f16(float value) {
    uint32_t bits = fb_f32_to_bits(value);
    uint32_t sign = (bits >> 16) & 0x8000u;
    uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu));
    if (magnitude >= 0x477ff000u) /* 65520 and above round to infinity */
        return (uint16_t)(sign | 0x7c00u);
    if (magnitude < 0x38800000u) {                 /* below 2^-14: subnormal, or zero */
        uint32_t shift = 126u - (magnitude >> 23); /* fraction is kept in units of 2^-24 */
        if (shift > 24u)
            return (uint16_t)sign;
        uint32_t fraction = (magnitude & 0x007fffffu) | 0x00800000u;
        uint32_t kept = fraction >> shift;
        uint32_t rest = fraction & ((1u << shift) - 1u);
        uint32_t half = 1u << (shift - 1u);
        kept += (rest > half || (rest == half && (kept & 1u))) ? 1u : 0u;
        return (uint16_t)(sign | kept);
    }
    magnitude += 0xfffu + ((magnitude >> 13) & 1u);
    return (uint16_t)(sign | ((magnitude - (112u << 23)) >> 13));
}

#endif
