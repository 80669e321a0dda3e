#include "oracle/arithmetic.h"

#include "base/error.h"
#include "base/half.h"

#include <math.h>
#include <string.h>

static const char *const names[] = {"auto", "f32", "tf32x3", "tf32", "f16", "bf16", "fp8"};
enum { COUNT = sizeof names / sizeof names[0] };

const char *fb_arithmetic_name(fb_arithmetic arithmetic) {
    return (unsigned)arithmetic < COUNT ? names[arithmetic] : "unknown";
}

fb_status fb_arithmetic_parse(const char *name, fb_arithmetic *arithmetic) {
    for (unsigned i = 0; i < COUNT; i++)
        if (strcmp(names[i], name) == 0) {
            *arithmetic = (fb_arithmetic)i;
            return FB_OK;
        }
    return fb_fail(FB_ERROR_ARGUMENT, "'%s' is none of auto, f32, tf32x3, tf32, f16, bf16, fp8",
                   name);
}

/* A rounding is uniform in half a spacing to either side: spacing / sqrt(12). The weight may be
 * anywhere between two powers of 2, so the spacing at 1 is the largest relative one. */
double fb_arithmetic_roundoff(fb_arithmetic arithmetic) {
    switch (arithmetic) {
    case FB_ARITHMETIC_BF16:
        return 0x1p-7 * 0.2886751;
    case FB_ARITHMETIC_F16:
    case FB_ARITHMETIC_TF32: /* also cut off: half a spacing of bias is in the gain */
        return 0x1p-10 * 0.2886751;
    case FB_ARITHMETIC_FP8: /* e4m3 */
        return 0x1p-3 * 0.2886751;
    case FB_ARITHMETIC_TF32X3:
        return 0x1p-21;
    case FB_ARITHMETIC_AUTO:
    case FB_ARITHMETIC_F32:
        break;
    }
    return 0.0;
}

double fb_arithmetic_underflow(fb_arithmetic arithmetic) {
    return arithmetic == FB_ARITHMETIC_F16   ? 0x1p-24 * 0.2886751
           : arithmetic == FB_ARITHMETIC_FP8 ? 0x1p-9 * 0.2886751
                                             : 0.0;
}

fb_weight_format fb_arithmetic_weights(fb_arithmetic arithmetic) {
    switch (arithmetic) {
    case FB_ARITHMETIC_BF16:
        return (fb_weight_format){.bits = 8};
    case FB_ARITHMETIC_F16:
        return (fb_weight_format){11, 0x1p-14, 0x1p-24};
    case FB_ARITHMETIC_FP8:
        return (fb_weight_format){4, 0x1p-6, 0x1p-9};
    case FB_ARITHMETIC_AUTO:
    case FB_ARITHMETIC_F32:
    case FB_ARITHMETIC_TF32X3:
    case FB_ARITHMETIC_TF32: /* what is cut off is larger than what rounding adds */
        break;
    }
    return (fb_weight_format){0};
}

/* tf32 numbers have 10 bits of fraction. A weight between two powers of 2 loses half a spacing, up
 * to 2^-11 of it where it is just above the lower one, and 0.72 of that in many weights. Of three
 * products for one, what is left out is the product of the two smaller numbers, which are half a
 * spacing on average (2^-22), and the last bits of both operands (2^-23 and less). */
fb_cut fb_arithmetic_cut(fb_arithmetic arithmetic) {
    switch (arithmetic) {
    case FB_ARITHMETIC_TF32:
        return (fb_cut){.weights = 0x1p-11 * 0.9};
    case FB_ARITHMETIC_TF32X3:
        return (fb_cut){.products = 0x1p-22 + 0x1p-23 + 0x1p-24};
    case FB_ARITHMETIC_AUTO:
    case FB_ARITHMETIC_F32:
    case FB_ARITHMETIC_F16:
    case FB_ARITHMETIC_BF16:
    case FB_ARITHMETIC_FP8:
        break;
    }
    return (fb_cut){0};
}

static float from_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* To nearest, ties to even; exponents from -6, 3 bits of fraction. */
static float to_e4m3(float value) {
    int exponent = 0;
    frexpf(value, &exponent);
    float spacing = ldexpf(1.0f, (exponent - 1 < -6 ? -6 : exponent - 1) - 3);
    float rounded = nearbyintf(value / spacing) * spacing;
    return rounded > 448.0f ? 448.0f : rounded < -448.0f ? -448.0f : rounded;
}

float fb_rounded(fb_rounding rounding, float value) {
    switch (rounding) {
    case FB_ROUND_NONE:
    case FB_NUM_ROUNDINGS:
        break;
    case FB_ROUND_BF16:
        return fb_bf16_to_f32(fb_f32_to_bf16(value));
    case FB_ROUND_F16:
        return fb_f16_to_f32(fb_f32_to_f16(value));
    case FB_ROUND_TF32:
        return isfinite(value) ? from_bits((fb_f32_to_bits(value) + 0x1000u) & 0xffffe000u) : value;
    case FB_ROUND_TF32_CUT:
        return isfinite(value) ? from_bits(fb_f32_to_bits(value) & 0xffffe000u) : value;
    case FB_ROUND_FP8:
        return to_e4m3(value);
    }
    return value;
}

void fb_rounded_values(fb_rounding rounding, const float *from, float *to, size_t count) {
    for (size_t i = 0; i < count; i++)
        to[i] = fb_rounded(rounding, from[i]);
}

/* Numbers of these types end in zeros. (Of f16 not all that do are such numbers.) */
bool fb_rounding_changes(fb_rounding rounding, const float *values, size_t count) {
    uint32_t low = rounding == FB_ROUND_BF16                                    ? 0xffffu
                   : rounding == FB_ROUND_TF32 || rounding == FB_ROUND_TF32_CUT ? 0x1fffu
                                                                                : 0;
    if (rounding == FB_ROUND_NONE)
        return false;
    for (size_t first = 0; low && first < count; first += 4096) {
        size_t end = count - first < 4096 ? count : first + 4096;
        uint32_t bits = 0;
        for (size_t i = first; i < end; i++)
            bits |= fb_f32_to_bits(values[i]);
        if (bits & low)
            return true;
    }
    for (size_t i = 0; !low && i < count; i++)
        if (fb_rounded(rounding, values[i]) != values[i])
            return true;
    return false;
}

#define HALF_READINGS(round, name)                                                                 \
    {                                                                                              \
        {round, round, false, false, "inputs rounded to " name},                                   \
            {FB_ROUND_NONE, FB_ROUND_NONE, false, false, ""},                                      \
            {round, round, true, false, "scaled queries rounded to " name},                        \
            {round, round, true, true, "queries rounded to " name " after scale and log2 e"},      \
    }

const fb_reading *fb_arithmetic_readings(fb_arithmetic arithmetic, size_t *count) {
    static const fb_reading bf16[] = HALF_READINGS(FB_ROUND_BF16, "bf16");
    static const fb_reading f16[] = HALF_READINGS(FB_ROUND_F16, "f16");
    static const fb_reading exact = {FB_ROUND_NONE, FB_ROUND_NONE, false, false, ""};
    static const fb_reading tf32[] = {
        {FB_ROUND_TF32, FB_ROUND_TF32, false, false, "inputs rounded to tf32"},
        {FB_ROUND_TF32_CUT, FB_ROUND_TF32_CUT, false, false, "inputs cut to tf32"},
        {FB_ROUND_NONE, FB_ROUND_NONE, false, false, ""},
    };
    switch (arithmetic) {
    case FB_ARITHMETIC_BF16:
    case FB_ARITHMETIC_FP8: /* q, k and v are bf16; only weights are fp8 */
        *count = sizeof bf16 / sizeof bf16[0];
        return bf16;
    case FB_ARITHMETIC_F16:
        *count = sizeof f16 / sizeof f16[0];
        return f16;
    case FB_ARITHMETIC_TF32:
        *count = sizeof tf32 / sizeof tf32[0];
        return tf32;
    case FB_ARITHMETIC_TF32X3:
    case FB_ARITHMETIC_AUTO:
    case FB_ARITHMETIC_F32:
        break;
    }
    *count = 1;
    return &exact;
}

static const double log2_of_e = 0x1.71547652b82fep+0;

static int stored_bits(fb_dtype stored) {
    return stored == FB_BF16 ? 8 : stored == FB_F16 ? 11 : 24;
}

/* The mean relative error of rounding `factor` times a number of `bits` bits to `bits` bits; small
 * numbers between two powers of 2 are taken more often than large ones, or less often. */
static double mean_error(int bits, double factor, double power) {
    double least = ldexp(1.0, bits - 1), sum = 0.0, weights = 0.0;
    int exponent = 0;
    factor = 2.0 * frexp(factor, &exponent);
    for (double number = least; number < 2.0 * least; number++) {
        double product = number * factor, weight = pow(number / least, power);
        double spacing = product < 2.0 * least ? 1.0 : 2.0;
        sum += weight * (nearbyint(product / spacing) * spacing - product) / product;
        weights += weight;
    }
    return sum / weights;
}

double fb_arithmetic_score_bias(fb_arithmetic arithmetic, double scale) {
    double most = 0.0;
    int bits = arithmetic == FB_ARITHMETIC_F16                                       ? 11
               : arithmetic == FB_ARITHMETIC_BF16 || arithmetic == FB_ARITHMETIC_FP8 ? 8
                                                                                     : 0;
    for (int base2 = 0; bits && base2 < 2; base2++)
        for (double power = -4.0; power <= 4.0; power += 2.0) {
            double factor = fabs(scale) * (base2 ? log2_of_e : 1.0);
            most = fmax(most, fabs(mean_error(bits, factor, power)));
        }
    return most;
}

double fb_storage_error(fb_dtype stored, double value) {
    fb_rounding rounding = stored == FB_BF16  ? FB_ROUND_BF16
                           : stored == FB_F16 ? FB_ROUND_F16
                                              : FB_ROUND_NONE;
    return rounding == FB_ROUND_NONE ? 0.0 : (double)fb_rounded(rounding, (float)value) - value;
}

double fb_storage_variance(fb_dtype stored, double value) {
    int exponent = 0;
    frexp(value, &exponent);
    int bits = stored_bits(stored);
    int lowest = stored == FB_F16 ? -24 : -149;
    double spacing = ldexp(1.0, exponent - bits > lowest ? exponent - bits : lowest);
    return spacing * spacing / 12.0;
}
