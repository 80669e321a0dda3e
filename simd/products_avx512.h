/* Scores and values on AVX-512; avx512.c includes this.
 *
 * Both are the same product (kernels.h): rows of A against blocks of 16 lines of 16 elements. A
 * line of a block is one register. Four blocks are taken side by side: those of four groups of
 * keys, or of four panels of values. The register tile is 6 rows x 64 columns:
 *
 *               block 0     ...     block 3      For each line: load four registers, broadcast an
 *     row 0   [ acc[0][0] | ... | acc[0][3] ]    element of each row, 24 fma. 10 loads feed them;
 *      ...        ...               ...          two loads and two fma a cycle are possible, and 8
 *     row 5   [ acc[5][0] | ... | acc[5][3] ]    independent chains would do.
 *
 * So many chains, and so few loads, leave room for what a CPU does not schedule perfectly. Every 16
 * lines a chain is complete. Its first line multiplies instead of adding to zero. There is no
 * register for the sum of the chains, which is in the L1 cache: each chain is loaded, added to and
 * stored once.
 *
 * The four blocks of a chain (4 KiB) stay in the L1 cache while one row tile after the other is
 * multiplied with them. The first tile widens 16-bit elements in registers; if there are others, it
 * leaves them the floats.
 */
#ifndef FB_SIMD_PRODUCTS_AVX512_H
#define FB_SIMD_PRODUCTS_AVX512_H

enum {
    TILE_ROWS = 6,
    TILE_BLOCKS = 4,
    TILE_COLUMNS = TILE_BLOCKS * LANES,
    FETCH_TILES = 2, /* tiles of rows that share the prefetching for f32 */
};

/* A row tile and the blocks it is multiplied with: one chain. */
typedef struct tile_job {
    const float *a;             /* [rows][16] */
    const void *b[TILE_BLOCKS]; /* each [lines][16] elements */
    float (*wide)[BLOCK];       /* [TILE_BLOCKS]: to keep them in */
    const char *next[2][2];     /* for each line of either half, two cache lines to prefetch */
    size_t lines;               /* 1 to 16 */
    float *sums;                /* [rows][16, 32 or 64] at this stride */
    size_t stride;
    bool add;           /* sums += a . b, else sums = a . b */
    const float *scale; /* then sums *= *scale; NULL: not yet */
    float *o;           /* then o = o * alpha + sums, and sums is not written; NULL: not yet */
    size_t o_stride;
    const float *alpha; /* [rows] */
} tile_job;

/* HOW a tile is multiplied; a constant wherever these functions are inlined. */
enum {
    KEEP = 1,  /* leaves the widened blocks for the tiles after it */
    FETCH = 2, /* prefetches */
};

#define EACH_ROW   UNROLLED for (size_t row = 0; row < ROWS; row++)
#define EACH_BLOCK UNROLLED for (size_t block = 0; block < BLOCKS; block++)

/* A line of a block, widened. Where the line's neighbour can be read as well, one permutation of
 * both puts the bf16 elements into the upper halves of words. */
INLINE __m512 load_line(const fb_dtype DTYPE, const bool WHOLE, const void *block, size_t line) {
    if (DTYPE == FB_F32)
        return _mm512_loadu_ps((const float *)block + line * LANES);
    const uint16_t *halves = (const uint16_t *)block + line * LANES;
    if (DTYPE == FB_BF16 && WHOLE) {
        const __m512i first =
            _mm512_set_epi32(0x000f0000, 0x000e0000, 0x000d0000, 0x000c0000, 0x000b0000, 0x000a0000,
                             0x00090000, 0x00080000, 0x00070000, 0x00060000, 0x00050000, 0x00040000,
                             0x00030000, 0x00020000, 0x00010000, 0);
        const __m512i second = _mm512_add_epi32(first, _mm512_set1_epi32(0x00100000));
        __m512i both = _mm512_loadu_si512(halves - line % 2 * LANES);
        return _mm512_castsi512_ps(
            _mm512_maskz_permutexvar_epi16(0xaaaaaaaa, line % 2 ? second : first, both));
    }
    return widen_x16(DTYPE, _mm256_loadu_si256((const __m256i *)(const void *)halves));
}

/* acc = or += one line's products, for all rows. */
INLINE void multiply_line(const size_t ROWS, const size_t BLOCKS, const fb_dtype DTYPE,
                          const int HOW, const bool WHOLE, const float *a, const void *const *b,
                          float (*wide)[BLOCK], size_t line, bool first,
                          __m512 acc[TILE_ROWS][TILE_BLOCKS]) {
    __m512 b_x16[TILE_BLOCKS];
    UNROLLED
    for (size_t block = 0; block < BLOCKS; block++) {
        b_x16[block] = load_line(DTYPE, WHOLE, b[block], line);
        if (HOW & KEEP)
            _mm512_store_ps(wide[block] + line * LANES, b_x16[block]);
    }
    UNROLLED
    for (size_t row = 0; row < ROWS; row++) {
        __m512 a_x16 = _mm512_set1_ps(a[row * FB_SEGMENT + line]);
        if (BLOCKS > 1) /* or compilers would load it for each fma */
            __asm__("" : "+v"(a_x16));
        UNROLLED
        for (size_t block = 0; block < BLOCKS; block++)
            acc[ROW_OF(ROWS, row)][block] =
                first ? _mm512_mul_ps(a_x16, b_x16[block])
                      : _mm512_fmadd_ps(a_x16, b_x16[block], acc[ROW_OF(ROWS, row)][block]);
    }
}

/* acc = a . b, one chain: over all 16 lines of the blocks, or over the first ones. */
INLINE void multiply_chain(const size_t ROWS, const size_t BLOCKS, const fb_dtype DTYPE,
                           const int HOW, const tile_job *job, __m512 acc[TILE_ROWS][TILE_BLOCKS]) {
    const float *a = job->a;
    const void *b[TILE_BLOCKS];
    float(*wide)[BLOCK] = job->wide;
    UNROLLED
    for (size_t block = 0; block < BLOCKS; block++)
        b[block] = job->b[block];
    if (job->lines == FB_SEGMENT) {
        UNROLLED
        for (size_t line = 0; line < FB_SEGMENT; line++) {
            if (HOW & FETCH) {
                _mm_prefetch(job->next[0][line / 8] + line % 8 * CACHE_LINE, _MM_HINT_T1);
                _mm_prefetch(job->next[1][line / 8] + line % 8 * CACHE_LINE, _MM_HINT_T1);
            }
            multiply_line(ROWS, BLOCKS, DTYPE, HOW, true, a, b, wide, line, line == 0, acc);
        }
    } else {
        multiply_line(ROWS, BLOCKS, DTYPE, HOW, false, a, b, wide, 0, true, acc);
        for (size_t line = 1; line < job->lines; line++)
            multiply_line(ROWS, BLOCKS, DTYPE, HOW, false, a, b, wide, line, false, acc);
    }
}

/* The next row's sums. Without the assembly compilers compute the addresses of all rows in advance,
 * and keep them on the stack. */
INLINE float *row_after(float *row, size_t stride) {
    row += stride;
    __asm__("" : "+r"(row));
    return row;
}

/* Where a complete chain goes. Each register is added to and stored before the next one's turn: an
 * Intel core is 1 to 3 % slower when all additions come first, and then all stores. */
INLINE void finish_chain(const size_t ROWS, const size_t BLOCKS, const bool ADD,
                         const tile_job *job, __m512 acc[TILE_ROWS][TILE_BLOCKS]) {
    float *sums = job->sums, *o = job->o;
    const float *alpha = job->alpha;
    const size_t stride = job->stride, o_stride = job->o_stride;
#define SUM                                                                                        \
    (ADD ? _mm512_add_ps(_mm512_loadu_ps(sums + block * LANES), acc[ROW_OF(ROWS, row)][block])     \
         : acc[ROW_OF(ROWS, row)][block])
    if (o) {
        EACH_ROW {
            const __m512 alpha_x16 = _mm512_set1_ps(alpha[row]);
            EACH_BLOCK _mm512_storeu_ps(
                o + block * LANES,
                _mm512_fmadd_ps(_mm512_loadu_ps(o + block * LANES), alpha_x16, SUM));
            o = row_after(o, o_stride);
            sums = row_after(sums, stride);
        }
    } else if (job->scale) {
        const __m512 scale_x16 = _mm512_set1_ps(*job->scale);
        EACH_ROW {
            EACH_BLOCK _mm512_storeu_ps(sums + block * LANES, _mm512_mul_ps(scale_x16, SUM));
            sums = row_after(sums, stride);
        }
    } else {
        EACH_ROW {
            EACH_BLOCK _mm512_storeu_ps(sums + block * LANES, SUM);
            sums = row_after(sums, stride);
        }
    }
#undef SUM
}

INLINE void product_tile(const size_t ROWS, const size_t BLOCKS, const fb_dtype DTYPE,
                         const int HOW, const tile_job *job) {
    __m512 acc[TILE_ROWS][TILE_BLOCKS];
    multiply_chain(ROWS, BLOCKS, DTYPE, HOW, job, acc);
    if (job->add)
        finish_chain(ROWS, BLOCKS, true, job, acc);
    else
        finish_chain(ROWS, BLOCKS, false, job, acc);
}

typedef void tile_fn(const tile_job *job);

/* tiles_NAME[log2 of the blocks][rows - 1] */
#define TILE(NAME, ROWS, DTYPE, HOW)                                                               \
    static void NAME##_##ROWS##x1(const tile_job *job) {                                           \
        product_tile(ROWS, 1, DTYPE, HOW, job);                                                    \
    }                                                                                              \
    static void NAME##_##ROWS##x2(const tile_job *job) {                                           \
        product_tile(ROWS, 2, DTYPE, HOW, job);                                                    \
    }                                                                                              \
    static void NAME##_##ROWS##x4(const tile_job *job) {                                           \
        product_tile(ROWS, 4, DTYPE, HOW, job);                                                    \
    }
#define TILES(NAME, DTYPE, HOW)                                                                    \
    TILE(NAME, 1, DTYPE, HOW)                                                                      \
    TILE(NAME, 2, DTYPE, HOW)                                                                      \
    TILE(NAME, 3, DTYPE, HOW)                                                                      \
    TILE(NAME, 4, DTYPE, HOW)                                                                      \
    TILE(NAME, 5, DTYPE, HOW)                                                                      \
    TILE(NAME, 6, DTYPE, HOW)                                                                      \
    static tile_fn *const tiles_##NAME[3][TILE_ROWS] = {                                           \
        {NAME##_1x1, NAME##_2x1, NAME##_3x1, NAME##_4x1, NAME##_5x1, NAME##_6x1},                  \
        {NAME##_1x2, NAME##_2x2, NAME##_3x2, NAME##_4x2, NAME##_5x2, NAME##_6x2},                  \
        {NAME##_1x4, NAME##_2x4, NAME##_3x4, NAME##_4x4, NAME##_5x4, NAME##_6x4},                  \
    };
/* The first one of several tiles has 3 rows and more. */
#define FIRST_TILES(NAME, DTYPE, HOW)                                                              \
    TILE(NAME, 3, DTYPE, HOW)                                                                      \
    TILE(NAME, 4, DTYPE, HOW)                                                                      \
    TILE(NAME, 5, DTYPE, HOW)                                                                      \
    TILE(NAME, 6, DTYPE, HOW)                                                                      \
    static tile_fn *const tiles_##NAME[3][TILE_ROWS] = {                                           \
        {NULL, NULL, NAME##_3x1, NAME##_4x1, NAME##_5x1, NAME##_6x1},                              \
        {NULL, NULL, NAME##_3x2, NAME##_4x2, NAME##_5x2, NAME##_6x2},                              \
        {NULL, NULL, NAME##_3x4, NAME##_4x4, NAME##_5x4, NAME##_6x4},                              \
    };
TILES(f32, FB_F32, 0)
FIRST_TILES(f32_first, FB_F32, FETCH)
TILES(bf16, FB_BF16, FETCH)
FIRST_TILES(bf16_first, FB_BF16, FETCH | KEEP)
TILES(f16, FB_F16, FETCH)
FIRST_TILES(f16_first, FB_F16, FETCH | KEEP)

typedef tile_fn *const (*tile_table)[TILE_ROWS];

/* [type][whether other tiles follow] */
static const tile_table first_tiles[FB_NUM_DTYPES][2] = {
    {tiles_f32, tiles_f32_first},
    {tiles_bf16, tiles_bf16_first},
    {tiles_f16, tiles_f16_first},
};

/* What row tile number `tile` prefetches of the four blocks in `ahead`: of f32 blocks each of the
 * first two tiles takes two, of 16-bit blocks, which are half as long, the first tile takes all. If
 * there is one tile of f32 the hardware reads ahead faster by itself. */
INLINE void choose_next(fb_dtype dtype, size_t tile, const char *const *ahead, tile_job *job) {
    for (size_t i = 0; i < 2; i++) {
        const char *first = ahead[dtype == FB_F32 ? tile * 2 + i : i * 2];
        job->next[i][0] = first;
        job->next[i][1] = dtype == FB_F32 ? first + 8 * CACHE_LINE : ahead[i * 2 + 1];
    }
}

/* Multiplies all row tiles of a call with the blocks of a job, which is the first tile's. */
INLINE void multiply_rows(fb_dtype dtype, row_tiles tiles, size_t blocks, const char *const *ahead,
                          tile_job *job) {
    const bool several = tiles.count > 1;
    for (size_t tile = 0; tile < tiles.count; tile++) {
        size_t rows = tiles.base + (tile >= tiles.count - tiles.longer);
        tile_table table = tile == 0 ? first_tiles[dtype][several] : tiles_f32;
        if (dtype == FB_F32 && several && tile < FETCH_TILES)
            table = tiles_f32_first;
        if (table != tiles_f32)
            choose_next(dtype, tile, ahead, job);
        table[blocks / 2][rows - 1](job);
        if (tile == 0 && dtype != FB_F32)
            for (size_t i = 0; i < blocks; i++)
                job->b[i] = job->wide[i];
        job->a += rows * FB_SEGMENT;
        job->sums += rows * job->stride;
        job->o += job->o ? rows * job->o_stride : 0;
        job->alpha += rows;
    }
}

/* How many blocks are taken side by side: 4, 2 or 1. */
INLINE size_t blocks_at_once(size_t left) {
    return left >= 4 ? 4 : left >= 2 ? 2 : 1;
}

/* Chain number `chain` of the groups from number `group` on. */
INLINE void scores_chain(fb_dtype dtype, const fb_scores_call *call, row_tiles tiles, size_t group,
                         size_t blocks, size_t chain, float (*wide)[BLOCK]) {
    const size_t left = call->head_dim - chain * FB_SEGMENT, bytes = block_bytes(dtype);
    const size_t panels = fb_padded_dim(call->head_dim) / FB_PANEL_DIMS;
    tile_job job = {
        .a = call->q + chain * FB_ROWS_BLOCK,
        .wide = wide,
        .lines = left < FB_SEGMENT ? left : FB_SEGMENT,
        .sums = call->s + group * FB_GROUP_KEYS,
        .stride = FB_SCORE_STRIDE,
        .add = chain > 0,
        .scale = left <= FB_SEGMENT ? &call->scale : NULL,
        .alpha = &call->scale, /* not used */
    };
    /* The values are read panels by panels, of each four the blocks of all groups. */
    const char *ahead[TILE_BLOCKS], *next = call->next;
    next += (chain % TILE_BLOCKS * panels + chain / TILE_BLOCKS * TILE_BLOCKS) * bytes;
    for (size_t i = 0; i < TILE_BLOCKS; i++) {
        if (i < blocks)
            job.b[i] = (const char *)call->groups[group + i] + chain * bytes;
        ahead[i] = next + i * bytes;
    }
    multiply_rows(dtype, tiles, blocks, ahead, &job);
}

/* The kernels of AVX2, for calls of several streams: these have few rows and wait for memory, and
 * AVX2's order of blocks reads more places at once. Set before any call. */
static fb_scores_fn *streamed_scores[FB_NUM_DTYPES];
static fb_values_fn *streamed_values[FB_NUM_DTYPES];

static void scores(fb_dtype dtype, const fb_scores_call *call) {
    if (call->streams > 1) {
        streamed_scores[dtype](call);
        return;
    }
    _Alignas(CACHE_LINE) float wide[TILE_BLOCKS][BLOCK];
    const row_tiles tiles = cut_rows(call->rows, TILE_ROWS);
    for (size_t group = 0, blocks; group < call->num_groups; group += blocks) {
        blocks = blocks_at_once(call->num_groups - group);
        for (size_t chain = 0; chain * FB_SEGMENT < call->head_dim; chain++)
            scores_chain(dtype, call, tiles, group, blocks, chain, wide);
    }
}

FB_BY_DTYPE(scores)

/* A call of the values kernel, and the memory that it works with. */
typedef struct values_job {
    const fb_values_call *call;
    row_tiles tiles;
    size_t num_groups, panels;
    float (*wide)[BLOCK]; /* [TILE_BLOCKS] */
    float *sums;          /* [rows][TILE_COLUMNS] */
} values_job;

/* The chain of a group, for the panels from number `panel` on. */
INLINE void values_chain(fb_dtype dtype, const values_job *values, size_t panel, size_t blocks,
                         size_t group) {
    const fb_values_call *call = values->call;
    const size_t left = call->num_keys - group * FB_GROUP_KEYS, bytes = block_bytes(dtype);
    const bool is_last = left <= FB_GROUP_KEYS;
    tile_job job = {
        .a = call->p + group * FB_ROWS_BLOCK,
        .wide = values->wide,
        .lines = is_last ? left : FB_GROUP_KEYS,
        .sums = values->sums,
        .stride = TILE_COLUMNS,
        .add = group > 0,
        .o = is_last ? call->o + panel * FB_PANEL_DIMS : NULL,
        .o_stride = values->panels * FB_PANEL_DIMS,
        .alpha = call->alpha,
    };
    /* The keys are read chain by chain, of each the blocks of four groups. */
    const char *ahead[TILE_BLOCKS], *next = call->next;
    next += (panel + group % TILE_BLOCKS) * bytes;
    for (size_t i = 0; i < TILE_BLOCKS; i++) {
        if (i < blocks)
            job.b[i] = (const char *)call->groups[group] + (panel + i) * bytes;
        ahead[i] = next + i * values->panels * bytes;
    }
    multiply_rows(dtype, values->tiles, blocks, ahead, &job);
}

static void values(fb_dtype dtype, const fb_values_call *call) {
    if (call->streams > 1) {
        streamed_values[dtype](call);
        return;
    }
    _Alignas(CACHE_LINE) float wide[TILE_BLOCKS][BLOCK];
    _Alignas(CACHE_LINE) float sums[FB_MAX_ROWS * TILE_COLUMNS];
    const values_job job = {
        .call = call,
        .tiles = cut_rows(call->rows, TILE_ROWS),
        .num_groups = (call->num_keys + FB_GROUP_KEYS - 1) / FB_GROUP_KEYS,
        .panels = fb_padded_dim(call->head_dim) / FB_PANEL_DIMS,
        .wide = wide,
        .sums = sums,
    };
    for (size_t panel = 0, blocks; panel < job.panels; panel += blocks) {
        blocks = blocks_at_once(job.panels - panel);
        for (size_t group = 0; group < job.num_groups; group++)
            values_chain(dtype, &job, panel, blocks, group);
    }
}

FB_BY_DTYPE(values)

#endif
