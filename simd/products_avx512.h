/* Scores and values on AVX-512; avx512.c includes this.
 *
 * Both are the same product (kernels.h): rows of A against blocks of 16 lines of 16 elements. A
 * line of a block is one register, so blocks are taken in pairs: those of two groups of keys, or of
 * two panels of values. The register tile is 7 rows x 32 columns:
 *
 *               first block    second block    For each line of the pair: load two registers,
 *     row 0   [  acc[0][0]  |  acc[0][1]   ]   broadcast an element of each row, 14 fma. 9 loads
 *      ...         ...           ...           feed them; two loads and two fma a cycle are
 *     row 6   [  acc[6][0]  |  acc[6][1]   ]   possible, and 8 independent chains would do.
 *
 * Every 16 lines a chain is complete. Its first line multiplies instead of adding to zero, and its
 * end is added to the totals, which are registers as well: 14 for the chains, 14 for the totals, 2
 * for the lines, 1 broadcast element. So a tile takes all its chains in one go, head_dim / 16 of
 * them or up to four, and nothing but its result goes to memory.
 *
 * A pair of blocks of all chains (16 KiB of 128 dimensions) is in the L1 cache while one row tile
 * after the other is multiplied with it. The first tile widens 16-bit elements in registers; if
 * there are others, it leaves them the floats.
 */
#ifndef FB_SIMD_PRODUCTS_AVX512_H
#define FB_SIMD_PRODUCTS_AVX512_H

enum {
    TILE_ROWS = 7,
    TILE_BLOCKS = 2,
    TILE_CHAINS = 8,   /* at once: 128 dimensions */
    PERMUTED_ROWS = 6, /* rows at most, to widen bf16 by permutations: they take two registers */
};

/* A row tile and the blocks it is multiplied with, chain by chain. */
typedef struct tile_job {
    const float *a; /* [num_chains][FB_MAX_ROWS][16], from the tile's first row on */
    const void *b[TILE_CHAINS][TILE_BLOCKS]; /* each [16][16] elements */
    float (*wide)[TILE_BLOCKS][BLOCK];       /* [TILE_CHAINS]: to keep them in */
    const char *next[TILE_CHAINS][2];        /* of each, 8 cache lines to prefetch */
    size_t num_chains;
    size_t last_lines; /* of the last chain: 1 to 16 */
    float *to;         /* [rows][16 or 32] at this stride */
    size_t stride;
    /* scores */
    bool add;           /* the totals begin with what is there */
    const float *scale; /* NULL: they are not complete yet */
    /* values */
    const float *alpha; /* [rows] */
} tile_job;

/* HOW a tile is multiplied; a constant wherever these functions are inlined. */
enum {
    KEEP = 1,   /* leaves the widened blocks for the tiles after it */
    VALUES = 2, /* ends as the values kernel does, otherwise as the scores kernel */
};

#define EACH_ROW_AND_BLOCK                                                                         \
    UNROLLED for (size_t row = 0; row < ROWS; row++)                                               \
        UNROLLED for (size_t block = 0; block < BLOCKS; block++)

/* A line of a block, widened. Where the line's neighbour can be read as well, one permutation of
 * both puts the bf16 elements into the upper halves of words; it takes two registers. */
INLINE __m512 load_line(const fb_dtype DTYPE, const bool PERMUTED, const void *block, size_t line) {
    if (DTYPE == FB_F32)
        return _mm512_loadu_ps((const float *)block + line * LANES);
    const uint16_t *halves = (const uint16_t *)block + line * LANES;
    if (DTYPE == FB_BF16 && PERMUTED) {
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
                          float (*wide)[BLOCK], const char *const *next, size_t line, bool first,
                          __m512 acc[TILE_ROWS][TILE_BLOCKS]) {
    const bool PERMUTED = WHOLE && ROWS <= PERMUTED_ROWS;
    __m512 b_x16[TILE_BLOCKS];
    if (WHOLE)
        _mm_prefetch(next[line / 8] + line % 8 * CACHE_LINE, _MM_HINT_T1);
    UNROLLED
    for (size_t block = 0; block < BLOCKS; block++) {
        b_x16[block] = load_line(DTYPE, PERMUTED, b[block], line);
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
            acc[row][block] = first ? _mm512_mul_ps(a_x16, b_x16[block])
                                    : _mm512_fmadd_ps(a_x16, b_x16[block], acc[row][block]);
    }
}

/* acc = a . b, one chain: over all 16 lines of the blocks, or over the first ones. */
INLINE void multiply_chain(const size_t ROWS, const size_t BLOCKS, const fb_dtype DTYPE,
                           const int HOW, const float *a, const void *const *blocks,
                           float (*wide)[BLOCK], const char *const *next, size_t lines,
                           __m512 acc[TILE_ROWS][TILE_BLOCKS]) {
    const void *b[TILE_BLOCKS] = {blocks[0], blocks[1]};
    if (lines == FB_SEGMENT) {
        UNROLLED
        for (size_t line = 0; line < FB_SEGMENT; line++)
            multiply_line(ROWS, BLOCKS, DTYPE, HOW, true, a, b, wide, next, line, line == 0, acc);
    } else {
        multiply_line(ROWS, BLOCKS, DTYPE, HOW, false, a, b, wide, next, 0, true, acc);
        for (size_t line = 1; line < lines; line++)
            multiply_line(ROWS, BLOCKS, DTYPE, HOW, false, a, b, wide, next, line, false, acc);
    }
}

INLINE void product_tile(const size_t ROWS, const size_t BLOCKS, const fb_dtype DTYPE,
                         const int HOW, const tile_job *job) {
    __m512 acc[TILE_ROWS][TILE_BLOCKS], total[TILE_ROWS][TILE_BLOCKS];
    const float *a = job->a;
    float *to = job->to;
    const size_t stride = job->stride, num_chains = job->num_chains;
    size_t lines = num_chains == 1 ? job->last_lines : FB_SEGMENT;
    multiply_chain(ROWS, BLOCKS, DTYPE, HOW, a, job->b[0], job->wide[0], job->next[0], lines,
                   total);
    if (!(HOW & VALUES) && job->add)
        EACH_ROW_AND_BLOCK total[row][block] =
            _mm512_add_ps(_mm512_loadu_ps(to + row * stride + block * LANES), total[row][block]);
    for (size_t chain = 1; chain < num_chains; chain++) {
        lines = chain + 1 == num_chains ? job->last_lines : FB_SEGMENT;
        a += FB_ROWS_BLOCK;
        multiply_chain(ROWS, BLOCKS, DTYPE, HOW, a, job->b[chain], job->wide[chain],
                       job->next[chain], lines, acc);
        EACH_ROW_AND_BLOCK total[row][block] = _mm512_add_ps(total[row][block], acc[row][block]);
    }
    if (HOW & VALUES)
        EACH_ROW_AND_BLOCK total[row][block] =
            _mm512_fmadd_ps(_mm512_loadu_ps(to + row * stride + block * LANES),
                            _mm512_set1_ps(job->alpha[row]), total[row][block]);
    else if (job->scale)
        EACH_ROW_AND_BLOCK total[row][block] =
            _mm512_mul_ps(_mm512_set1_ps(*job->scale), total[row][block]);
    EACH_ROW_AND_BLOCK _mm512_storeu_ps(to + row * stride + block * LANES, total[row][block]);
}

typedef void tile_fn(const tile_job *job);

/* tiles_NAME[blocks - 1][rows - 1] */
#define TILE(NAME, ROWS, DTYPE, HOW)                                                               \
    static void NAME##_##ROWS##x1(const tile_job *job) {                                           \
        product_tile(ROWS, 1, DTYPE, HOW, job);                                                    \
    }                                                                                              \
    static void NAME##_##ROWS##x2(const tile_job *job) {                                           \
        product_tile(ROWS, 2, DTYPE, HOW, job);                                                    \
    }
#define TILES(NAME, DTYPE, HOW)                                                                    \
    TILE(NAME, 1, DTYPE, HOW)                                                                      \
    TILE(NAME, 2, DTYPE, HOW)                                                                      \
    TILE(NAME, 3, DTYPE, HOW)                                                                      \
    TILE(NAME, 4, DTYPE, HOW)                                                                      \
    TILE(NAME, 5, DTYPE, HOW)                                                                      \
    TILE(NAME, 6, DTYPE, HOW)                                                                      \
    TILE(NAME, 7, DTYPE, HOW)                                                                      \
    static tile_fn *const tiles_##NAME[TILE_BLOCKS][TILE_ROWS] = {                                 \
        {NAME##_1x1, NAME##_2x1, NAME##_3x1, NAME##_4x1, NAME##_5x1, NAME##_6x1, NAME##_7x1},      \
        {NAME##_1x2, NAME##_2x2, NAME##_3x2, NAME##_4x2, NAME##_5x2, NAME##_6x2, NAME##_7x2},      \
    };
/* The first one of several tiles has 4 rows and more. */
#define KEPT_TILES(NAME, DTYPE, HOW)                                                               \
    TILE(NAME, 4, DTYPE, HOW)                                                                      \
    TILE(NAME, 5, DTYPE, HOW)                                                                      \
    TILE(NAME, 6, DTYPE, HOW)                                                                      \
    TILE(NAME, 7, DTYPE, HOW)                                                                      \
    static tile_fn *const tiles_##NAME[TILE_BLOCKS][TILE_ROWS] = {                                 \
        {NULL, NULL, NULL, NAME##_4x1, NAME##_5x1, NAME##_6x1, NAME##_7x1},                        \
        {NULL, NULL, NULL, NAME##_4x2, NAME##_5x2, NAME##_6x2, NAME##_7x2},                        \
    };
TILES(scores_f32, FB_F32, 0)
TILES(scores_bf16, FB_BF16, 0)
KEPT_TILES(scores_bf16_kept, FB_BF16, KEEP)
TILES(scores_f16, FB_F16, 0)
KEPT_TILES(scores_f16_kept, FB_F16, KEEP)
TILES(values_f32, FB_F32, VALUES)
TILES(values_bf16, FB_BF16, VALUES)
KEPT_TILES(values_bf16_kept, FB_BF16, VALUES | KEEP)
TILES(values_f16, FB_F16, VALUES)
KEPT_TILES(values_f16_kept, FB_F16, VALUES | KEEP)

typedef tile_fn *const (*tile_table)[TILE_ROWS];

/* [type][whether other tiles follow] */
static const tile_table scores_tiles[FB_NUM_DTYPES][2] = {
    {tiles_scores_f32, tiles_scores_f32},
    {tiles_scores_bf16, tiles_scores_bf16_kept},
    {tiles_scores_f16, tiles_scores_f16_kept},
};
static const tile_table values_tiles[FB_NUM_DTYPES][2] = {
    {tiles_values_f32, tiles_values_f32},
    {tiles_values_bf16, tiles_values_bf16_kept},
    {tiles_values_f16, tiles_values_f16_kept},
};

/* The blocks that a call reads next, chain by chain as the present ones. */
typedef const char *next_blocks[TILE_CHAINS][TILE_BLOCKS];

/* What row tile number `tile` prefetches: of f32 blocks the first two tiles one each, of 16-bit
 * blocks, which are half as long, the first tile both. If there is one tile of f32 the hardware
 * reads ahead faster by itself. All others get an address that is in the cache. */
INLINE void choose_next(fb_dtype dtype, size_t num_tiles, size_t tile, next_blocks ahead,
                        tile_job *job) {
    const bool is_f32 = dtype == FB_F32;
    const bool fetches = is_f32 ? num_tiles > 1 && tile < 2 : tile == 0;
    for (size_t chain = 0; chain < job->num_chains; chain++) {
        const char *first = fetches ? ahead[chain][is_f32 ? tile : 0] : (const char *)job->a;
        job->next[chain][0] = first;
        job->next[chain][1] = !fetches ? first : is_f32 ? first + 8 * CACHE_LINE : ahead[chain][1];
    }
}

/* Multiplies all row tiles of a call with the blocks of a job, which is the first tile's. */
INLINE void multiply_rows(const tile_table tables[FB_NUM_DTYPES][2], fb_dtype dtype,
                          row_tiles tiles, size_t blocks, next_blocks ahead, tile_job *job) {
    for (size_t tile = 0; tile < tiles.count; tile++) {
        size_t rows = tiles.base + (tile >= tiles.count - tiles.longer);
        if (tile < 3)
            choose_next(dtype, tiles.count, tile, ahead, job);
        tables[tile == 0 ? dtype : FB_F32][tiles.count > 1][blocks - 1][rows - 1](job);
        if (tile == 0 && dtype != FB_F32)
            for (size_t chain = 0; chain < job->num_chains; chain++)
                for (size_t i = 0; i < blocks; i++)
                    job->b[chain][i] = job->wide[chain][i];
        job->a += rows * FB_SEGMENT;
        job->to += rows * job->stride;
        job->alpha += rows;
    }
}

INLINE size_t at_most(size_t limit, size_t count) {
    return count < limit ? count : limit;
}

/* The chains `first` .. first + TILE_CHAINS - 1, or those that are left, of one or two groups. */
INLINE void scores_chains(fb_dtype dtype, const fb_scores_call *call, row_tiles tiles, size_t group,
                          size_t first, float (*wide)[TILE_BLOCKS][BLOCK]) {
    size_t left = call->head_dim - first * FB_SEGMENT;
    size_t lines = at_most(TILE_CHAINS * FB_SEGMENT, left);
    size_t blocks = at_most(TILE_BLOCKS, call->num_groups - group);
    const void *const *groups = call->groups + group;
    tile_job job = {
        .a = call->q + first * FB_ROWS_BLOCK,
        .wide = wide,
        .num_chains = (lines + FB_SEGMENT - 1) / FB_SEGMENT,
        .last_lines = (lines - 1) % FB_SEGMENT + 1,
        .to = call->s + group * FB_GROUP_KEYS,
        .stride = FB_SCORE_STRIDE,
        .add = first > 0,
        .scale = lines == left ? &call->scale : NULL,
        .alpha = &call->scale, /* not used */
    };
    next_blocks ahead;
    const bool is_last = group + 2 * TILE_BLOCKS > call->num_groups;
    const size_t bytes = block_bytes(dtype), panels = fb_padded_dim(call->head_dim) / FB_PANEL_DIMS;
    for (size_t chain = 0; chain < job.num_chains; chain++)
        for (size_t i = 0; i < TILE_BLOCKS; i++) {
            if (i < blocks)
                job.b[chain][i] = (const char *)groups[i] + (first + chain) * bytes;
            /* values: first come two pairs of panels, of all four groups */
            ahead[chain][i] = is_last
                                  ? (const char *)call->next +
                                        (chain / 2 * panels + chain % 2 * TILE_BLOCKS + i) * bytes
                                  : (const char *)groups[TILE_BLOCKS + i] + (first + chain) * bytes;
        }
    multiply_rows(scores_tiles, dtype, tiles, blocks, ahead, &job);
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
    _Alignas(CACHE_LINE) float wide[TILE_CHAINS][TILE_BLOCKS][BLOCK];
    const row_tiles tiles = cut_rows(call->rows, TILE_ROWS);
    for (size_t group = 0; group < call->num_groups; group += TILE_BLOCKS)
        for (size_t first = 0; first * FB_SEGMENT < call->head_dim; first += TILE_CHAINS)
            scores_chains(dtype, call, tiles, group, first, wide);
}

FB_BY_DTYPE(scores)

static void values(fb_dtype dtype, const fb_values_call *call) {
    if (call->streams > 1) {
        streamed_values[dtype](call);
        return;
    }
    _Alignas(CACHE_LINE) float wide[TILE_CHAINS][TILE_BLOCKS][BLOCK];
    const row_tiles tiles = cut_rows(call->rows, TILE_ROWS);
    const size_t stride = fb_padded_dim(call->head_dim), panels = stride / FB_PANEL_DIMS;
    const size_t num_groups = (call->num_keys + FB_GROUP_KEYS - 1) / FB_GROUP_KEYS;
    for (size_t panel = 0; panel < panels; panel += TILE_BLOCKS) {
        size_t blocks = at_most(TILE_BLOCKS, panels - panel);
        tile_job job = {
            .a = call->p,
            .wide = wide,
            .num_chains = num_groups,
            .last_lines = (call->num_keys - 1) % FB_SEGMENT + 1,
            .to = call->o + panel * FB_PANEL_DIMS,
            .stride = stride,
            .alpha = call->alpha,
        };
        next_blocks ahead;
        const size_t bytes = block_bytes(dtype), later = panel + 2 * TILE_BLOCKS;
        for (size_t chain = 0; chain < num_groups; chain++)
            for (size_t i = 0; i < TILE_BLOCKS; i++) {
                const char *group = call->groups[chain];
                if (i < blocks)
                    job.b[chain][i] = group + (panel + i) * bytes;
                /* keys: first comes a pair of groups, all of their chains */
                size_t key_block = i * panels + (later - panels) * 2 + chain;
                ahead[chain][i] = later < panels ? group + (later + i) * bytes
                                                 : (const char *)call->next + key_block * bytes;
            }
        multiply_rows(values_tiles, dtype, tiles, blocks, ahead, &job);
    }
}

FB_BY_DTYPE(values)

#endif
