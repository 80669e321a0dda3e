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
 * the blocks so far waits in memory, in the L1 cache: there is no register for it.
 *
 * Each lane is one of the scalar kernel's chains, operation for operation: hence the same bits.
 */
#if !defined(__aarch64__) || !defined(__ARM_NEON)
#error "simd/neon.c is for aarch64 with AdvSIMD"
#endif
#if !defined(__BYTE_ORDER__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "simd/neon.c is for little-endian machines"
#endif

#include "constants.h"
#include "table.h"
#include "tiles.h"

#include <flashblock/attention.h>

#include <arm_neon.h>
#include <math.h>

enum {
    LANES = 4,
    TILE_ROWS = 5,
    TILE_COLUMNS = 4, /* registers: 16 columns */
};

/* No load or store moves past this one's place. Compilers load lines far ahead and run out of
 * registers; the CPU looks ahead without needing any. */
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

/* What a product of some rows with some blocks works on. DTYPE and ROWS are constants wherever
 * these functions are inlined. */
typedef struct block {
    const void *lines; /* [16][16] elements */
    float *wide;       /* [16][16], written when DTYPE is a 16-bit type */
} block;

/* LINES lines as floats: where they are, or widened. They are read from memory in both cases: the
 * stores are on their way while the registers are needed. */
INLINE const float *lines_as_floats(const size_t LINES, const fb_dtype DTYPE, block b,
                                    size_t line) {
    size_t index = line * FB_GROUP_KEYS;
    if (DTYPE == FB_F32)
        return (const float *)b.lines + index;
    UNROLLED
    for (size_t i = 0; i < LINES * FB_GROUP_KEYS; i += 8)
        widen_x8(DTYPE, (const uint16_t *)b.lines + index + i, b.wide + index + i);
    return b.wide + index;
}

/* acc = or += the products of one line with element LANE of a[row], for all rows. */
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
INLINE void multiply_four_lines(const int ROWS, const fb_dtype DTYPE, const float *a, block b,
                                size_t line, bool first, float32x4_t acc[TILE_ROWS][TILE_COLUMNS]) {
    const float *lines = lines_as_floats(LANES, DTYPE, b, line);
    float32x4_t a_x4[TILE_ROWS];
    UNROLLED
    for (int row = 0; row < ROWS; row++)
        a_x4[row] = vld1q_f32(a + row * FB_SEGMENT + line);
    UNROLLED
    for (int lane = 0; lane < LANES; lane++)
        multiply_line(ROWS, a_x4, lane, lines + lane * FB_GROUP_KEYS, first && lane == 0, acc);
}

/* One line, where there may not be four elements left to load. */
INLINE void multiply_one_line(const int ROWS, const fb_dtype DTYPE, const float *a, block b,
                              size_t line, bool first, float32x4_t acc[TILE_ROWS][TILE_COLUMNS]) {
    const float *lines = lines_as_floats(1, DTYPE, b, line);
    float32x4_t a_x4[TILE_ROWS];
    UNROLLED
    for (int row = 0; row < ROWS; row++)
        a_x4[row] = vld1q_dup_f32(a + row * FB_SEGMENT + line);
    multiply_line(ROWS, a_x4, 0, lines, first, acc);
}

/* acc = a . b, one chain: over all 16 lines of a block, or over the last, shorter one. */
INLINE void multiply_block(const int ROWS, const fb_dtype DTYPE, const float *a, block b,
                           size_t lines, float32x4_t acc[TILE_ROWS][TILE_COLUMNS]) {
    if (lines == FB_SEGMENT) {
        multiply_four_lines(ROWS, DTYPE, a, b, 0, true, acc);
        ROLLED
        for (size_t line = LANES; line < FB_SEGMENT; line += LANES)
            multiply_four_lines(ROWS, DTYPE, a, b, line, false, acc);
    } else {
        multiply_one_line(ROWS, DTYPE, a, b, 0, true, acc);
        for (size_t line = 1; line < lines; line++)
            multiply_one_line(ROWS, DTYPE, a, b, line, false, acc);
    }
}

/* Cache lines begin .. end-1 of every block are one row tile's to prefetch. */
typedef struct fetch_share {
    size_t begin, end;
} fetch_share;

INLINE void prefetch(const void *next, fetch_share share) {
    for (size_t line = share.begin; line < share.end; line++)
        __builtin_prefetch((const char *)next + line * CACHE_LINE);
}

INLINE fetch_share share_of_tile(row_tiles tiles, size_t tile, fb_dtype dtype) {
    size_t lines = block_bytes(dtype) / CACHE_LINE;
    return (fetch_share){tile * lines / tiles.count, (tile + 1) * lines / tiles.count};
}

/* One row tile of the scores of one group. */
typedef struct scores_job {
    const float *q; /* the tile's first row */
    size_t head_dim;
    const void *group; /* [head_dim][16] */
    float *wide;       /* [head_dim][16] */
    float scale;
    const void *next;
    fetch_share share;
    float *s; /* [ROWS] at stride FB_SCORE_STRIDE */
} scores_job;

INLINE void scores_tile(const int ROWS, const fb_dtype DTYPE, const scores_job *job) {
    const float *q = job->q;
    block keys = {job->group, job->wide};
    const char *next = job->next;
    for (size_t first = 0; first < job->head_dim; first += FB_SEGMENT) {
        size_t left = job->head_dim - first;
        float32x4_t acc[TILE_ROWS][TILE_COLUMNS];
        prefetch(next, job->share);
        multiply_block(ROWS, DTYPE, q, keys, left < FB_SEGMENT ? left : FB_SEGMENT, acc);
        UNROLLED
        for (int row = 0; row < ROWS; row++) {
            UNROLLED
            for (int column = 0; column < TILE_COLUMNS; column++) {
                float *s = job->s + row * FB_SCORE_STRIDE + column * LANES;
                float32x4_t sum = acc[row][column];
                if (first)
                    sum = vaddq_f32(vld1q_f32(s), sum);
                if (left <= FB_SEGMENT)
                    sum = vmulq_n_f32(sum, job->scale);
                vst1q_f32(s, sum);
            }
        }
        q += FB_ROWS_BLOCK;
        keys.lines = (const char *)keys.lines + block_bytes(DTYPE);
        keys.wide += BLOCK;
        next += block_bytes(DTYPE);
    }
}

/* One row tile of the values of one panel. */
typedef struct values_job {
    const float *p; /* the tile's first row */
    size_t num_keys;
    const void *blocks[FB_TILE_KEYS / FB_GROUP_KEYS]; /* the panel's, each [16 keys][16] */
    float *wide;                                      /* [64][16] */
    const float *alpha;
    const void *next[FB_TILE_KEYS / FB_GROUP_KEYS];
    fetch_share share;
    float *sums; /* [ROWS][16] of scratch */
    float *o;    /* [ROWS][16] at stride o_stride */
    size_t o_stride;
} values_job;

INLINE void values_tile(const int ROWS, const fb_dtype DTYPE, const values_job *job) {
    const float *p = job->p;
    for (size_t first = 0; first < job->num_keys; first += FB_SEGMENT) {
        size_t left = job->num_keys - first, group = first / FB_GROUP_KEYS;
        block v = {job->blocks[group], job->wide + group * BLOCK};
        float32x4_t acc[TILE_ROWS][TILE_COLUMNS];
        prefetch(job->next[group], job->share);
        multiply_block(ROWS, DTYPE, p + group * FB_ROWS_BLOCK, v,
                       left < FB_SEGMENT ? left : FB_SEGMENT, acc);
        UNROLLED
        for (int row = 0; row < ROWS; row++) {
            UNROLLED
            for (int column = 0; column < TILE_COLUMNS; column++) {
                float *sums = job->sums + row * FB_PANEL_DIMS + column * LANES;
                float *o = job->o + (size_t)row * job->o_stride + column * LANES;
                float32x4_t sum = acc[row][column];
                if (first)
                    sum = vaddq_f32(vld1q_f32(sums), sum);
                if (left > FB_SEGMENT)
                    vst1q_f32(sums, sum);
                else
                    vst1q_f32(o, vfmaq_n_f32(sum, vld1q_f32(o), job->alpha[row]));
            }
        }
    }
}

typedef void scores_tile_fn(const scores_job *job);
typedef void values_tile_fn(const values_job *job);

/* KIND_NAME[rows - 1]: the tile for each number of rows. */
#define TILES(KIND, NAME, DTYPE)                                                                   \
    static void KIND##_##NAME##_1(const KIND##_job *job) {                                         \
        KIND##_tile(1, DTYPE, job);                                                                \
    }                                                                                              \
    static void KIND##_##NAME##_2(const KIND##_job *job) {                                         \
        KIND##_tile(2, DTYPE, job);                                                                \
    }                                                                                              \
    static void KIND##_##NAME##_3(const KIND##_job *job) {                                         \
        KIND##_tile(3, DTYPE, job);                                                                \
    }                                                                                              \
    static void KIND##_##NAME##_4(const KIND##_job *job) {                                         \
        KIND##_tile(4, DTYPE, job);                                                                \
    }                                                                                              \
    static void KIND##_##NAME##_5(const KIND##_job *job) {                                         \
        KIND##_tile(5, DTYPE, job);                                                                \
    }                                                                                              \
    static KIND##_tile_fn *const KIND##_##NAME[TILE_ROWS] = {                                      \
        KIND##_##NAME##_1, KIND##_##NAME##_2, KIND##_##NAME##_3,                                   \
        KIND##_##NAME##_4, KIND##_##NAME##_5,                                                      \
    };

TILES(scores, f32, FB_F32)
TILES(scores, bf16, FB_BF16)
TILES(scores, f16, FB_F16)
TILES(values, f32, FB_F32)
TILES(values, bf16, FB_BF16)
TILES(values, f16, FB_F16)

static scores_tile_fn *const *const scores_tiles[FB_NUM_DTYPES] = {scores_f32, scores_bf16,
                                                                   scores_f16};
static values_tile_fn *const *const values_tiles[FB_NUM_DTYPES] = {values_f32, values_bf16,
                                                                   values_f16};

/* One group stays in the L1 cache while all rows pass by. */
static void scores(fb_dtype dtype, const float *q, size_t rows, size_t head_dim,
                   const void *const *groups, size_t num_groups, float scale, float *wide,
                   const void *const *next, float *s) {
    row_tiles tiles = cut_rows(rows, TILE_ROWS);
    for (size_t group = 0; group < num_groups; group++) {
        scores_job job = {
            .q = q,
            .head_dim = head_dim,
            .group = groups[group],
            .wide = wide,
            .scale = scale,
            .next = next[group],
            .s = s + group * FB_GROUP_KEYS,
        };
        fb_dtype stored = dtype; /* the first tile of rows widens for the others */
        for (size_t tile = 0; tile < tiles.count; tile++) {
            size_t tile_rows = tiles.base + (tile < tiles.longer);
            job.share = share_of_tile(tiles, tile, dtype);
            scores_tiles[stored][tile_rows - 1](&job);
            if (stored != FB_F32) {
                stored = FB_F32;
                job.group = wide;
            }
            job.q += tile_rows * FB_SEGMENT;
            job.s += tile_rows * FB_SCORE_STRIDE;
        }
    }
}

/* One panel of the tile's values stays in the L1 cache while all rows pass by. */
static void values(fb_dtype dtype, const float *p, size_t rows, size_t num_keys,
                   const void *const *groups, size_t head_dim, const float *alpha, float *wide,
                   const void *const *next, float *o) {
    row_tiles tiles = cut_rows(rows, TILE_ROWS);
    size_t num_groups = (num_keys + FB_GROUP_KEYS - 1) / FB_GROUP_KEYS;
    size_t panels = fb_padded_dim(head_dim) / FB_PANEL_DIMS;
    float sums[TILE_ROWS * FB_PANEL_DIMS];
    for (size_t panel = 0; panel < panels; panel++) {
        values_job job = {
            .p = p,
            .num_keys = num_keys,
            .wide = wide,
            .alpha = alpha,
            .sums = sums,
            .o = o + panel * FB_PANEL_DIMS,
            .o_stride = panels * FB_PANEL_DIMS,
        };
        for (size_t group = 0; group < num_groups; group++) {
            job.blocks[group] = (const char *)groups[group] + panel * block_bytes(dtype);
            job.next[group] = (const char *)next[group] + panel * block_bytes(dtype);
        }
        fb_dtype stored = dtype;
        for (size_t tile = 0; tile < tiles.count; tile++) {
            size_t tile_rows = tiles.base + (tile < tiles.longer);
            job.share = share_of_tile(tiles, tile, dtype);
            values_tiles[stored][tile_rows - 1](&job);
            if (stored != FB_F32) {
                stored = FB_F32;
                for (size_t group = 0; group < num_groups; group++)
                    job.blocks[group] = wide + group * BLOCK;
            }
            job.p += tile_rows * FB_SEGMENT;
            job.alpha += tile_rows;
            job.o += tile_rows * job.o_stride;
        }
    }
}

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

static void softmax(const float *s, size_t rows, const size_t *counts, float *max, float *sums,
                    float *p, float *alpha) {
    for (size_t row = 0; row < rows; row++) {
        if (counts[row] == FB_TILE_KEYS)
            softmax_row(true, s, FB_TILE_KEYS, max + row, sums, p, alpha + row);
        else
            softmax_row(false, s, counts[row], max + row, sums, p, alpha + row);
        s += FB_SCORE_STRIDE;
        sums += FB_GROUP_KEYS;
        p += FB_SEGMENT;
    }
}

/* x / y, every NaN the library's. */
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

static void exp_values(const float *x, float *out, size_t count) {
    size_t i = 0;
    for (; i + LANES <= count; i += LANES)
        vst1q_f32(out + i, exp_x4(vld1q_f32(x + i)));
    fb_kernels_scalar.exp(x + i, out + i, count - i);
}

#include "dots_neon.h"

FB_KERNEL_TABLE(fb_kernels_neon, FB_ISA_NEON)
