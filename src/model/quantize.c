#include "model/quantize.h"

#include "base/half.h"

#include <math.h>

enum {
    LANES = 16, /* of a sum: fixed, whatever the width of vectors is */
    /* The candidates of the search: SHRINK / SHRINK_WHOLE of the scale that takes the largest
     * weight. */
    SHRINK_FIRST = 80,
    SHRINK_LAST = 26,
    SHRINK_WHOLE = 64,
};

/* Scales are not less, as in compressed-tensors: of a group of zeros it would be 0. */
static const float least_scale = 0x1p-23f;

static float round_scale(fb_dtype dtype, float scale) {
    scale = scale < least_scale ? least_scale : scale;
    if (dtype == FB_BF16)
        return fb_bf16_to_f32(fb_f32_to_bf16(scale));
    return dtype == FB_F16 ? fb_f16_to_f32(fb_f32_to_f16(scale)) : scale;
}

/* To the nearest integer, ties to even; |x| < 2^22. */
static inline float nearest(float x) {
    return (x + 0x1.8p23f) - 0x1.8p23f;
}

static inline float clamp(float x, float low, float high) {
    x = x < low ? low : x;
    return x > high ? high : x;
}

static float last_of(const fb_rounding *how) {
    return (float)((1u << how->bits) - 1);
}

static float middle_of(const fb_rounding *how) {
    return (float)(1u << (how->bits - 1));
}

/* From the least to the greatest weight, 0 included. */
typedef struct range {
    float low, high;
} range;

static range range_of(const float *weights, size_t count) {
    range r = {0.0f, 0.0f};
    for (size_t i = 0; i < count; i++) {
        r.low = weights[i] < r.low ? weights[i] : r.low;
        r.high = weights[i] > r.high ? weights[i] : r.high;
    }
    return r;
}

/* As compressed-tensors has it: 2^bits - 1 steps from the least to the greatest weight, or from
 * -max |w| to max |w|. */
static fb_scale scale_of_range(const fb_rounding *how, range r) {
    float last = last_of(how), middle = middle_of(how);
    if (how->symmetric) {
        float largest = -r.low > r.high ? -r.low : r.high;
        return (fb_scale){round_scale(how->scale_dtype, largest / (last * 0.5f)), (uint8_t)middle};
    }
    float scale = round_scale(how->scale_dtype, (r.high - r.low) / last);
    return (fb_scale){scale, (uint8_t)nearest(clamp(-r.low / scale, 0.0f, last))};
}

/* Sum of (w - value)^2, in LANES sums that are added in the end. */
static float squared_error(const fb_rounding *how, fb_scale scale, const float *weights,
                           size_t count) {
    float sums[LANES] = {0};
    float zero = (float)scale.zero, low = -zero, high = last_of(how) - zero;
    float inverse = 1.0f / scale.scale;
    size_t whole = count - count % LANES;
    for (size_t i = 0; i < whole; i += LANES)
        for (size_t lane = 0; lane < LANES; lane++) {
            float w = weights[i + lane];
            float error = w - scale.scale * nearest(clamp(w * inverse, low, high));
            sums[lane] += error * error;
        }
    for (size_t i = whole; i < count; i++) {
        float error = weights[i] - scale.scale * nearest(clamp(weights[i] * inverse, low, high));
        sums[i - whole] += error * error;
    }
    for (size_t half = LANES / 2; half > 0; half /= 2)
        for (size_t lane = 0; lane < half; lane++)
            sums[lane] += sums[lane + half];
    return sums[0];
}

static fb_scale least_error(const fb_rounding *how, range r, const float *weights, size_t count) {
    fb_scale best = scale_of_range(how, r);
    float least = squared_error(how, best, weights, count);
    for (int i = SHRINK_FIRST; i >= SHRINK_LAST; i--) {
        float share = (float)i / SHRINK_WHOLE;
        fb_scale tried = scale_of_range(how, (range){r.low * share, r.high * share});
        float error = squared_error(how, tried, weights, count);
        if (error < least) {
            least = error;
            best = tried;
        }
    }
    return best;
}

fb_scale fb_rounding_scale(const fb_rounding *how, const float *weights, size_t count) {
    range r = range_of(weights, count);
    return how->method == FB_QUANTIZE_MSE ? least_error(how, r, weights, count)
                                          : scale_of_range(how, r);
}

unsigned fb_rounding_integer(const fb_rounding *how, fb_scale scale, float weight) {
    float zero = (float)scale.zero;
    float q = nearest(clamp(weight / scale.scale, -zero, last_of(how) - zero));
    return (unsigned)(int)(q + zero);
}
