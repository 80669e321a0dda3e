/* Compiled once for each instruction set, as limit_kernels.c is: SOFTMAX_TABLE is the table. */
#include "bench/softmax.h"

#include <string.h>

typedef float floats __attribute__((vector_size(VECTOR_BYTES)));
typedef int32_t ints __attribute__((vector_size(VECTOR_BYTES)));

#define INLINE static inline __attribute__((always_inline))

enum { LANES = VECTOR_BYTES / sizeof(float) };

/* Vectors of a row: it need not be aligned. */
INLINE floats load(const float *from) {
    floats x;
    memcpy(&x, from, sizeof x);
    return x;
}

INLINE void store(float *to, floats x) {
    memcpy(to, &x, sizeof x);
}

/* a where the mask is set, else b. */
INLINE floats choose(ints mask, floats a, floats b) {
    return (floats)((mask & (ints)a) | (~mask & (ints)b));
}

/* exp(x), x <= 0, and 0 below -87: 2^n e^r with |r| <= ln(2)/2, e^r by Cephes' polynomial. */
INLINE floats exp_of(floats x) {
    const float magic = 0x1.8p23f; /* the last bits of a sum with it are a whole number */
    floats n = x * 1.44269504f + magic;
    ints power = (ints)n << 23;
    n -= magic;
    floats r = x - n * 0.693359375f;
    r = r - n * -2.12194440e-4f;
    floats p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + (r + 1.0f);
    return (floats)(((ints)p + power) & (ints)(x > -87.0f)); /* n is added to the exponent */
}

static float max_of(const float *s, size_t keys) {
    float max = s[0];
    size_t i = 0;
    if (keys >= 2 * LANES) {
        floats a = load(s), b = load(s + LANES);
        for (; i + 2 * LANES <= keys; i += 2 * LANES) {
            floats x = load(s + i), y = load(s + i + LANES);
            a = choose(x > a, x, a);
            b = choose(y > b, y, b);
        }
        a = choose(b > a, b, a);
        for (int lane = 0; lane < (int)LANES; lane++)
            max = a[lane] > max ? a[lane] : max;
    }
    for (; i < keys; i++)
        max = s[i] > max ? s[i] : max;
    return max;
}

static float exponentials(float *s, size_t keys, float max, float scale) {
    floats a = {0}, b = {0};
    size_t i = 0;
    for (; i + 2 * LANES <= keys; i += 2 * LANES) {
        floats x = exp_of((load(s + i) - max) * scale);
        floats y = exp_of((load(s + i + LANES) - max) * scale);
        store(s + i, x);
        store(s + i + LANES, y);
        a += x;
        b += y;
    }
    a += b;
    float sum = 0;
    for (int lane = 0; lane < (int)LANES; lane++)
        sum += a[lane];
    for (; i < keys; i++) {
        floats x = {(s[i] - max) * scale};
        s[i] = exp_of(x)[0];
        sum += s[i];
    }
    return sum;
}

static void softmax_rows(float *scores, size_t rows, size_t keys, float scale, float *sums) {
    for (size_t row = 0; row < rows; row++) {
        float *s = scores + row * keys;
        sums[row] = exponentials(s, keys, max_of(s, keys), scale);
    }
}

/* To nearest, ties to even. The loop is simple enough for compilers to vectorise. */
static void narrow(const float *from, uint16_t *to, size_t count) {
    for (size_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, &from[i], sizeof bits);
        to[i] = (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
    }
}

const fb_softmax_kernels SOFTMAX_TABLE = {softmax_rows, narrow};
