/* The kernels for aarch64 AdvSIMD: 4 lanes, 32 registers.
 *
 * Scores and values are the same product (kernels.h): rows of A against blocks of 16 lines of 16
 * elements. The register tile is 5 rows x 16 columns, four lines at a time: 20 accumulators, a
 * register with 4 elements of each row of A, 4 registers of the block's line; 29 in all.
 *
 *               columns 0-3    4-7         8-11        12-15
 *     row 0   [   acc[0][0] | acc[0][1] | acc[0][2] | acc[0][3]   ]   For each line: load four
 *      ...         ...         ...         ...         ...            registers; 20 fma by an
 *     row 4   [   acc[4][0] | acc[4][1] | acc[4][2] | acc[4][3]   ]   element of each row.
 *
 * 20 independent chains hide an fma's 4 cycles at 4 a cycle (16 needed). FMLA multiplies by any
 * element of a register: one load a row serves four lines, and 21 loads feed 80 fma. Broadcasting
 * each element (LD1R) would take 36, and several of Arm's cores spend a vector slot on LD1R as well
 * (their Software Optimization Guides): one for every four fma. Six rows would need all 32
 * registers, which gcc 12 does not manage without the stack.
 *
 * A block is one chain long, and its first line multiplies instead of adding to zero. The sum of
 * the blocks so far stays in memory, in the L1 cache: there is no register left for it.
 *
 * Each lane computes one chain of the scalar kernel, operation by operation. So the bits are the
 * same.
 */
#if !defined(__aarch64__) || !defined(__ARM_NEON)
#error "simd/neon.c is for aarch64 with AdvSIMD"
#endif
#if !defined(__BYTE_ORDER__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "simd/neon.c is for little-endian machines"
#endif

#include "simd/constants.h"
#include "simd/tiles.h"

#include <flashblock/attention.h>

#include <arm_neon.h>
#include <math.h>
#include <string.h>

enum {
    LANES = 4,
    TILE_ROWS = 5,
    TILE_COLUMNS = 4, /* registers: 16 columns */
    TILE_BLOCKS = 1,
};

/* Compilers move no load or store past this place. Otherwise they load lines far ahead and run out
 * of registers; the CPU looks ahead and needs none. */
INLINE void stay_in_order(void) {
    __asm__ volatile("" ::: "memory");
}

INLINE void widen_x8(const fb_dtype DTYPE, const uint16_t *from, float *to) {
    uint16x8_t half_x8 = vld1q_u16(from);
    if (DTYPE == FB_BF16) {
        vst1q_f32(to, vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(half_x8), 16)));
        vst1q_f32(to + 4, vreinterpretq_f32_u32(vshll_high_n_u16(half_x8, 16)));
    } else { /* exact; signalling NaNs become quiet, as in the scalar kernel */
        float16x8_t f16_x8 = vreinterpretq_f16_u16(half_x8);
        vst1q_f32(to, vcvt_f32_f16(vget_low_f16(f16_x8)));
        vst1q_f32(to + 4, vcvt_high_f32_f16(f16_x8));
    }
}

/* acc = b * a[LANE] if first, else acc + b * a[LANE]. The instructions hold the lane's number. */
INLINE float32x4_t multiply(const int LANE, bool first, float32x4_t acc, float32x4_t b,
                            float32x4_t a) {
    switch (LANE) {
    case 0:
        return first ? vmulq_laneq_f32(b, a, 0) : vfmaq_laneq_f32(acc, b, a, 0);
    case 1:
        return first ? vmulq_laneq_f32(b, a, 1) : vfmaq_laneq_f32(acc, b, a, 1);
    case 2:
        return first ? vmulq_laneq_f32(b, a, 2) : vfmaq_laneq_f32(acc, b, a, 2);
    default:
        return first ? vmulq_laneq_f32(b, a, 3) : vfmaq_laneq_f32(acc, b, a, 3);
    }
}

/* acc = or += the products of one line with element LANE of a[row], for all rows. ROWS is a
 * constant wherever these functions are inlined. */
INLINE void multiply_line(const int ROWS, const float32x4_t *a, const int LANE, const float *line,
                          bool first, float32x4_t acc[TILE_ROWS][TILE_COLUMNS]) {
    stay_in_order();
    UNROLLED
    for (int column = 0; column < TILE_COLUMNS; column++) {
        float32x4_t b_x4 = vld1q_f32(line + column * LANES);
        UNROLLED
        for (int row = 0; row < TILE_ROWS; row++) /* all 5: clang 14 keeps a loop of one row */
            if (row < ROWS)
                acc[row][column] = multiply(LANE, first, acc[row][column], b_x4, a[row]);
    }
}

/* Four lines: one register of each row's elements serves them all. */
INLINE void multiply_four_lines(const int ROWS, const float *a, const float *b, size_t line,
                                bool first, float32x4_t acc[TILE_ROWS][TILE_COLUMNS]) {
    float32x4_t a_x4[TILE_ROWS];
    UNROLLED
    for (int row = 0; row < ROWS; row++)
        a_x4[row] = vld1q_f32(a + row * FB_SEGMENT + line);
    UNROLLED
    for (int lane = 0; lane < LANES; lane++)
        multiply_line(ROWS, a_x4, lane, b + (line + (size_t)lane) * FB_GROUP_KEYS,
                      first && lane == 0, acc);
}

/* One line, where there may not be four elements left to load. */
INLINE void multiply_one_line(const int ROWS, const float *a, const float *b, size_t line,
                              bool first, float32x4_t acc[TILE_ROWS][TILE_COLUMNS]) {
    float32x4_t a_x4[TILE_ROWS];
    UNROLLED
    for (int row = 0; row < ROWS; row++)
        a_x4[row] = vld1q_dup_f32(a + row * FB_SEGMENT + line);
    multiply_line(ROWS, a_x4, 0, b + line * FB_GROUP_KEYS, first, acc);
}

/* acc = a . b, one chain: over all 16 lines of a block, or over the last, shorter one. */
INLINE void multiply_block(const int ROWS, const float *a, const float *b, size_t lines,
                           float32x4_t acc[TILE_ROWS][TILE_COLUMNS]) {
    if (lines == FB_SEGMENT) {
        multiply_four_lines(ROWS, a, b, 0, true, acc);
        ROLLED
        for (size_t line = LANES; line < FB_SEGMENT; line += LANES)
            multiply_four_lines(ROWS, a, b, line, false, acc);
    } else {
        multiply_one_line(ROWS, a, b, 0, true, acc);
        for (size_t line = 1; line < lines; line++)
            multiply_one_line(ROWS, a, b, line, false, acc);
    }
}

#define EACH_ROW_AND_COLUMN                                                                        \
    UNROLLED for (int row = 0; row < ROWS; row++)                                                  \
        UNROLLED for (int column = 0; column < TILE_COLUMNS; column++)

INLINE void product_tile(const int ROWS, const product_job *job) {
    float32x4_t acc[TILE_ROWS][TILE_COLUMNS];
    prefetch(job, TILE_BLOCKS);
    multiply_block(ROWS, job->a, job->b[0], job->lines, acc);
    float *sums = job->sums;
    const size_t stride = job->sums_stride; /* for a compiler, stores might change the job */
    if (!job->first) {
        EACH_ROW_AND_COLUMN {
            float32x4_t sum = vld1q_f32(sums + (size_t)row * stride + column * LANES);
            acc[row][column] = vaddq_f32(sum, acc[row][column]);
        }
    }
    if (job->scale) {
        EACH_ROW_AND_COLUMN acc[row][column] = vmulq_n_f32(acc[row][column], *job->scale);
    }
    EACH_ROW_AND_COLUMN
    vst1q_f32(sums + (size_t)row * stride + column * LANES, acc[row][column]);
}

/* product_tiles[blocks - 1][rows - 1] */
#define TILE(ROWS)                                                                                 \
    static void product_##ROWS(const product_job *job) {                                           \
        product_tile(ROWS, job);                                                                   \
    }
TILE(1)
TILE(2)
TILE(3)
TILE(4)
TILE(5)
static product_tile_fn *const product_tiles[TILE_BLOCKS][TILE_ROWS] = {
    {product_1, product_2, product_3, product_4, product_5},
};

static void widen_bf16(const uint16_t *from, float *to, size_t count) {
    size_t i = 0;
    for (; i + 8 <= count; i += 8)
        widen_x8(FB_BF16, from + i, to + i);
    fb_kernels_scalar.widen_bf16(from + i, to + i, count - i);
}

static void widen_f16(const uint16_t *from, float *to, size_t count) {
    size_t i = 0;
    for (; i + 8 <= count; i += 8)
        widen_x8(FB_F16, from + i, to + i);
    fb_kernels_scalar.widen_f16(from + i, to + i, count - i);
}

INLINE void scale_and_add(float *o, float alpha, const float *sums, size_t count) {
    for (size_t i = 0; i < count; i += LANES)
        vst1q_f32(o + i, vfmaq_n_f32(vld1q_f32(sums + i), vld1q_f32(o + i), alpha));
}

#include "simd/products.h"

/* 4 x 4 floats, lines 16 floats apart in both: to[key][d] = from[d][key]. */
INLINE void transpose_4x4(const float *from, float *to) {
    float32x4_t line0 = vld1q_f32(from), line1 = vld1q_f32(from + FB_GROUP_KEYS);
    float32x4_t line2 = vld1q_f32(from + 2 * FB_GROUP_KEYS);
    float32x4_t line3 = vld1q_f32(from + 3 * FB_GROUP_KEYS);
    float32x4_t even01 = vtrn1q_f32(line0, line1), odd01 = vtrn2q_f32(line0, line1);
    float32x4_t even23 = vtrn1q_f32(line2, line3), odd23 = vtrn2q_f32(line2, line3);
    vst1q_f32(to, vcombine_f32(vget_low_f32(even01), vget_low_f32(even23)));
    vst1q_f32(to + FB_PANEL_DIMS, vcombine_f32(vget_low_f32(odd01), vget_low_f32(odd23)));
    vst1q_f32(to + 2 * FB_PANEL_DIMS, vcombine_f32(vget_high_f32(even01), vget_high_f32(even23)));
    vst1q_f32(to + 3 * FB_PANEL_DIMS, vcombine_f32(vget_high_f32(odd01), vget_high_f32(odd23)));
}

/* A panel, of whose 16 dimensions the first `dims` are there. Lines that are not floats, and panels
 * that are not whole, go through a block of their own. */
INLINE void transpose_panel(const fb_dtype DTYPE, const char *keys, size_t dims, float *to) {
    float wide[BLOCK];
    const float *lines = as_floats(DTYPE, keys, dims, wide);
    if (dims < FB_PANEL_DIMS) {
        if (lines != wide)
            memcpy(wide, lines, dims * FB_GROUP_KEYS * sizeof *wide);
        memset(wide + dims * FB_GROUP_KEYS, 0,
               (FB_PANEL_DIMS - dims) * FB_GROUP_KEYS * sizeof *wide);
        lines = wide;
    }
    for (size_t d = 0; d < FB_PANEL_DIMS; d += LANES)
        for (size_t key = 0; key < FB_GROUP_KEYS; key += LANES)
            transpose_4x4(lines + d * FB_GROUP_KEYS + key, to + key * FB_PANEL_DIMS + d);
}

static void transpose(const fb_dtype DTYPE, const fb_transpose_call *call) {
    const char *keys = call->keys;
    float *to = call->to;
    size_t left = call->head_dim;
    for (; left >= FB_PANEL_DIMS; left -= FB_PANEL_DIMS, keys += block_bytes(DTYPE), to += BLOCK)
        transpose_panel(DTYPE, keys, FB_PANEL_DIMS, to);
    if (left > 0)
        transpose_panel(DTYPE, keys, left, to);
}

FB_BY_DTYPE(transpose)

/* fb_exp_value of scalar_math.h, four at a time. */
INLINE float32x4_t exp_x4(float32x4_t x) {
    const float32x4_t lowest = vdupq_n_f32(FB_EXP_LOWEST);
    const float32x4_t round = vdupq_n_f32(FB_EXP_ROUND);
    const float32x4_t one = vdupq_n_f32(1.0f);
    x = vbslq_f32(vcltq_f32(x, lowest), lowest, x); /* NaN stays */
    float32x4_t rounded = vfmaq_f32(round, x, vdupq_n_f32(FB_LOG2E));
    float32x4_t n = vsubq_f32(rounded, round);
    float32x4_t r = vfmsq_f32(x, n, vdupq_n_f32(FB_LN2_HIGH));
    r = vfmsq_f32(r, n, vdupq_n_f32(FB_LN2_LOW));
    float32x4_t p = vfmaq_f32(vdupq_n_f32(FB_EXP_C5), r, vdupq_n_f32(FB_EXP_C6));
    p = vfmaq_f32(vdupq_n_f32(FB_EXP_C4), p, r);
    p = vfmaq_f32(vdupq_n_f32(FB_EXP_C3), p, r);
    p = vfmaq_f32(vdupq_n_f32(FB_EXP_C2), p, r);
    p = vfmaq_f32(one, p, r);
    p = vfmaq_f32(one, p, r);
    float32x4_t power = vreinterpretq_f32_u32(vshlq_n_u32(vreinterpretq_u32_f32(rounded), 23));
    return vmulq_f32(vmulq_f32(p, power), vdupq_n_f32(FB_EXP_UNSCALE));
}

/* Lanes whose key index first .. first+3 is below count. */
INLINE uint32x4_t lanes_below(size_t first, size_t count) {
    static const uint32_t index[LANES] = {0, 1, 2, 3};
    uint32x4_t index_x4 = vaddq_u32(vld1q_u32(index), vdupq_n_u32((uint32_t)first));
    return vcltq_u32(index_x4, vdupq_n_u32((uint32_t)count));
}

/* 4 scores; -inf from count on, which ALL says is not among them. */
INLINE float32x4_t scores_x4(const bool ALL, const float *s, size_t first, size_t count) {
    float32x4_t s_x4 = vld1q_f32(s + first);
    return ALL ? s_x4 : vbslq_f32(lanes_below(first, count), s_x4, vdupq_n_f32(-INFINITY));
}

/* s > m ? s : m. FMAX would pass a NaN of s on; here, as in the scalar kernel, it never is the
 * maximum. (FMAXNM differs for a signalling NaN.) */
INLINE float32x4_t max_x4(float32x4_t s, float32x4_t m) {
    return vbslq_f32(vcgtq_f32(s, m), s, m);
}

/* A running sum or maximum each for the keys 0-3, 4-7, 8-11 and 12-15 of every 16: four chains. */
enum { CHAINS = FB_GROUP_KEYS / LANES };

/* The largest of the first `count` scores and of max. The maximum of a set is the same in any
 * order; -0 and +0 differ in no result. */
INLINE float max_of_scores(const bool ALL, const float *s, size_t count, float max) {
    float32x4_t chain[CHAINS];
    UNROLLED
    for (size_t i = 0; i < CHAINS; i++)
        chain[i] = vdupq_n_f32(max);
    UNROLLED
    for (size_t j = 0; j < FB_TILE_KEYS; j += FB_GROUP_KEYS) {
        UNROLLED
        for (size_t i = 0; i < CHAINS; i++)
            chain[i] = max_x4(scores_x4(ALL, s, j + i * LANES, count), chain[i]);
    }
    return vmaxvq_f32(max_x4(max_x4(chain[0], chain[1]), max_x4(chain[2], chain[3])));
}

/* p = exp(s - subtract) and sums = alpha * sums + p, one term after the other. */
INLINE void exp_of_scores(const bool ALL, const float *s, size_t count, float subtract, float alpha,
                          float *sums, float *p) {
    float32x4_t sum[CHAINS];
    UNROLLED
    for (size_t i = 0; i < CHAINS; i++)
        sum[i] = vmulq_n_f32(vld1q_f32(sums + i * LANES), alpha);
    ROLLED
    for (size_t j = 0; j < FB_TILE_KEYS; j += FB_GROUP_KEYS) {
        UNROLLED
        for (size_t i = 0; i < CHAINS; i++) {
            /* An absent key is -inf here, and its exponential exactly +0. */
            float32x4_t s_x4 = scores_x4(ALL, s, j + i * LANES, count);
            float32x4_t p_x4 = exp_x4(vsubq_f32(s_x4, vdupq_n_f32(subtract)));
            vst1q_f32(p + j / FB_SEGMENT * FB_ROWS_BLOCK + i * LANES, p_x4);
            sum[i] = vaddq_f32(sum[i], p_x4);
        }
    }
    UNROLLED
    for (size_t i = 0; i < CHAINS; i++)
        vst1q_f32(sums + i * LANES, sum[i]);
}

INLINE void softmax_row(const bool ALL, const float *s, size_t count, float *max, float *sums,
                        float *p, float *alpha) {
    float old_max = *max, new_max = max_of_scores(ALL, s, count, old_max);
    float subtract = new_max == -INFINITY ? 0.0f : new_max;
    *alpha = 1.0f;
    if (new_max != old_max)
        *alpha = vgetq_lane_f32(exp_x4(vdupq_n_f32(old_max - subtract)), 0);
    *max = new_max;
    exp_of_scores(ALL, s, count, subtract, *alpha, sums, p);
}

static void softmax(const fb_softmax_call *call) {
    const float *s = call->s;
    float *sums = call->sums, *p = call->p;
    for (size_t row = 0; row < call->rows; row++) {
        if (call->counts[row] == FB_TILE_KEYS)
            softmax_row(true, s, FB_TILE_KEYS, call->max + row, sums, p, call->alpha + row);
        else
            softmax_row(false, s, call->counts[row], call->max + row, sums, p, call->alpha + row);
        s += FB_SCORE_STRIDE;
        sums += FB_GROUP_KEYS;
        p += FB_SEGMENT;
    }
}

/* x / y; each NaN becomes the library's. */
INLINE float32x4_t quotient(float32x4_t x, float32x4_t y) {
    float32x4_t result = vdivq_f32(x, y);
    return vbslq_f32(vceqq_f32(result, result), result,
                     vreinterpretq_f32_u32(vdupq_n_u32(FB_NAN_BITS)));
}

static void merge_row(const float *big, const float *small, float weight, size_t head_dim,
                      float *o) {
    const float32x4_t total_x4 = vdupq_n_f32(1.0f + weight);
    size_t d = 0;
    for (; d + LANES <= head_dim; d += LANES) {
        float32x4_t sum = vfmaq_n_f32(vld1q_f32(big + d), vld1q_f32(small + d), weight);
        vst1q_f32(o + d, quotient(sum, total_x4));
    }
    fb_kernels_scalar.merge_row(big + d, small + d, weight, head_dim - d, o + d);
}

static void divide_row(float sum, size_t head_dim, float *o) {
    const float32x4_t sum_x4 = vdupq_n_f32(sum);
    size_t d = 0;
    for (; d + LANES <= head_dim; d += LANES)
        vst1q_f32(o + d, quotient(vld1q_f32(o + d), sum_x4));
    fb_kernels_scalar.divide_row(sum, head_dim - d, o + d);
}

static void exp_values(const float *x, float *out, size_t count) {
    size_t i = 0;
    for (; i + LANES <= count; i += LANES)
        vst1q_f32(out + i, exp_x4(vld1q_f32(x + i)));
    fb_kernels_scalar.exp(x + i, out + i, count - i);
}

#include "simd/dots_neon.h"

/* Sums of two products of bytes fit 16 bits: 2 * 128 * 127. */
INLINE int32x4_t add_products(int32x4_t sums, int8x16_t w, int8x16_t x) {
    int16x8_t low = vmull_s8(vget_low_s8(w), vget_low_s8(x)), high = vmull_high_s8(w, x);
    return vpadalq_s16(sums, vpaddq_s16(low, high));
}

#include "simd/int_dots_neon.h"

#define SCORE_ROWS     4
#define VALUE_ROWS     4
#define UNSIGNED_LANES 2

INLINE int32x4_t add_four(int32x4_t sums, int8x16_t keys, const int8_t *four) {
    int32_t x;
    memcpy(&x, four, sizeof x);
    return add_products(sums, keys, vreinterpretq_s8_s32(vdupq_n_s32(x)));
}

typedef uint32x4x4_t unsigned_sums;

/* Sums of two products of unsigned bytes do not fit 16 bits: the lanes of a sum are two. */
INLINE unsigned_sums add_unsigned_four(unsigned_sums sums, uint8x16x2_t values,
                                       const uint8_t *four) {
    uint32_t x;
    memcpy(&x, four, sizeof x);
    uint8x16_t x_x4 = vreinterpretq_u8_u32(vdupq_n_u32(x));
    /* Otherwise clang 14 copies upper halves of v into other registers, and runs out of these. */
    __asm__("" : "+w"(x_x4));
    UNROLLED
    for (int i = 0; i < 2; i++) {
        uint8x16_t v = values.val[i];
        uint16x8_t low = vmull_u8(vget_low_u8(v), vget_low_u8(x_x4));
        sums.val[2 * i] = vpadalq_u16(sums.val[2 * i], low);
        sums.val[2 * i + 1] = vpadalq_u16(sums.val[2 * i + 1], vmull_high_u8(v, x_x4));
    }
    return sums;
}

INLINE uint32x4x2_t whole_sums(unsigned_sums sums) {
    return (uint32x4x2_t){
        {vpaddq_u32(sums.val[0], sums.val[1]), vpaddq_u32(sums.val[2], sums.val[3])}};
}

#include "simd/int_attention_neon.h"

void fb_kernels_init_neon(fb_kernels *kernels) {
    kernels->scores[FB_F32] = scores_f32;
    kernels->scores[FB_BF16] = scores_bf16;
    kernels->scores[FB_F16] = scores_f16;
    kernels->values[FB_F32] = values_f32;
    kernels->values[FB_BF16] = values_bf16;
    kernels->values[FB_F16] = values_f16;
    kernels->dots[FB_F32] = dots_f32;
    kernels->dots[FB_BF16] = dots_bf16;
    kernels->dots[FB_F16] = dots_f16;
    kernels->dot_outputs = DOT_TILE_OUTPUTS;
    kernels->quantize = quantize;
    kernels->int_dots = int_dots;
    kernels->int_outputs = INT_OUTPUTS;
    kernels->int_scores = int_scores;
    kernels->int_values = int_values;
    kernels->transpose[FB_F32] = transpose_f32;
    kernels->transpose[FB_BF16] = transpose_bf16;
    kernels->transpose[FB_F16] = transpose_f16;
    kernels->softmax = softmax;
    kernels->merge_row = merge_row;
    kernels->divide_row = divide_row;
    kernels->widen_bf16 = widen_bf16;
    kernels->widen_f16 = widen_f16;
    kernels->exp = exp_values;
}
