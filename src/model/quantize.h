/* Rounding weights to 8 or 4 bits. docs/quantized.md has the rules. Pure functions of their
 * arguments, with float32 operations in a fixed order: the same bits on every machine. */
#ifndef FB_MODEL_QUANTIZE_H
#define FB_MODEL_QUANTIZE_H

#include <flashblock/types.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum fb_quantize_method {
    FB_QUANTIZE_NEAREST, /* the scale takes the largest weight */
    FB_QUANTIZE_MSE,     /* the scale with the least mean-squared error of those that are tried */
} fb_quantize_method;

typedef struct fb_rounding {
    size_t bits;    /* 8 or 4 */
    bool symmetric; /* the zero point is 2^(bits - 1) */
    fb_quantize_method method;
    fb_dtype scale_dtype; /* that the scale is rounded to before it is used */
} fb_rounding;

/* scale * (integer - zero), integers 0 .. 2^bits - 1 */
typedef struct fb_scale {
    float scale;
    uint8_t zero;
} fb_scale;

/* The scale and zero point of a group of finite weights [count]. */
fb_scale fb_rounding_scale(const fb_rounding *how, const float *weights, size_t count);

/* The integer of a weight. */
unsigned fb_rounding_integer(const fb_rounding *how, fb_scale scale, float weight);

/* What the integer stands for. */
static inline float fb_scale_value(fb_scale scale, unsigned integer) {
    return scale.scale * (float)((int)integer - (int)scale.zero);
}

#endif
