/* The microkernels: one table of functions for each instruction set. All tables give the same bits.
 *
 * The scalar table (scalar.c) is complete and readable. It defines the result of each kernel, and
 * tests/checkasm.c compares every other table with it, bit for bit. Kernels do not allocate, start
 * no threads and do no I/O. They trust their arguments, which their callers have checked.
 *
 * docs/kernels.md says how to add a kernel and how to add an instruction set.
 *
 * Packed keys and values. `rows` are query rows. A *group* is 16 keys, packed so that a vector
 * register holds 16 neighbours without any shuffle:
 *
 *     its keys    [head_dim][16 keys]                 one line a dimension
 *     its values  [panels][16 keys][16 dimensions]    panels = ceil(head_dim / 16), the last padded
 *
 * In this form both products of attention are the same operation: rows of A (queries, or weights p)
 * against blocks of 16 lines of 16 elements. A tile is up to 64 keys.
 *
 * A is stored in blocks too, [blocks][FB_MAX_ROWS][16]. For a block of lines a kernel reads one
 * cache line of each row of A, and rows are a constant number of bytes apart.
 *
 * Storage: there is a kernel for each type that keys and values are stored as. Kernels take blocks
 * in the order in which they lie in memory. They multiply all rows with a block before they take
 * the next block, so the 16-bit kernels widen each block once, into a buffer of their own.
 *
 * Prefetching: while kernels work on a group (or two groups) they fetch the next group (or two),
 * evenly spread. While they work on the last group they fetch as many bytes from `next`, which is
 * the memory that will be read after this call. They never read from `next`: if there is nothing to
 * fetch, any address will do. A kernel may assume that after its scores the values of a tile are
 * read, whose first group is at `next` and the others behind it, and after values the next keys.
 *
 * Streams: a call of few rows waits for memory, and a CPU reads ahead faster in several places at
 * once than in one place. So a call may multiply the same rows with several tiles, each in its own
 * place. It takes blocks from all of them in turn, and leaves fetching to the hardware.
 */
#ifndef FB_SIMD_KERNELS_H
#define FB_SIMD_KERNELS_H

#include <flashblock/runtime.h>
#include <flashblock/types.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    FB_MAX_ROWS = 48, /* rows of a call, at most */
    FB_GROUP_KEYS = 16,
    FB_PANEL_DIMS = 16,
    /* Both products are cut into chains of 16: docs/contract.md C2. */
    FB_SEGMENT = 16,
    /* A tile that does not start at a group's start touches five groups. */
    FB_TILE_GROUPS = 5,
    FB_SCORE_STRIDE = FB_TILE_GROUPS * FB_GROUP_KEYS,
    FB_STREAMS = 4,             /* streams of a call, at most */
    FB_STREAM_ROWS = 8,         /* rows of a call of several streams, at most */
    FB_NUM_DTYPES = FB_F16 + 1, /* of elements: FB_INT8 has kernels of its own */
};

/* head_dim, rounded up to whole panels. */
static inline size_t fb_padded_dim(size_t head_dim) {
    return (head_dim + FB_PANEL_DIMS - 1) / FB_PANEL_DIMS * FB_PANEL_DIMS;
}

/* Floats from a block of A to the next. */
enum { FB_ROWS_BLOCK = FB_MAX_ROWS * FB_SEGMENT };

/* Each product, and the softmax between them, takes its parameters as one struct. A kernel reads
 * the struct and does not keep it. */

/* Scores of `rows` query rows against the groups of keys of each stream (contract C2, C3.3):
 *   s = scale * ((c_0 + c_1) + ...)
 * where c_i is a chain over d = 16 i .. 16 i + 15: the product of the first d, rounded, then one
 * fma for each of the others. */
typedef struct fb_scores_call {
    const float *q;            /* [ceil(head_dim / 16)][FB_MAX_ROWS][16] */
    size_t rows;               /* 1 to FB_MAX_ROWS; to FB_STREAM_ROWS with several streams */
    size_t head_dim;           /* 1 and more */
    size_t streams;            /* 1 to FB_STREAMS */
    const void *const *groups; /* [streams][num_groups], each [head_dim][16] */
    size_t num_groups;         /* of a stream, 1 to FB_TILE_GROUPS */
    float scale;
    const void *next; /* see "Prefetching" above */
    float *s;         /* out: [streams][rows] at stride FB_SCORE_STRIDE, 16 * num_groups of each */
} fb_scores_call;

typedef void fb_scores_fn(const fb_scores_call *call);

/* Keys and values of 8 bits (contract C14). A group of 16 keys, or of 16 values, is its integers
 * and then the 16 scales, as floats:
 *
 *     its keys    [ceil(head_dim / 4)][16 keys][4 dimensions]    dimensions from head_dim on are 0
 *     its values  [panels][4][16 dimensions][4 keys]             the same
 *
 * The instructions that add integer products by fours multiply four dimensions of a key, or four
 * keys of a dimension, at once. */
enum { FB_INT_QUAD = 4 };

static inline size_t fb_int_keys_bytes(size_t head_dim) {
    return (head_dim + FB_INT_QUAD - 1) / FB_INT_QUAD * FB_INT_QUAD * FB_GROUP_KEYS;
}

static inline size_t fb_int_values_bytes(size_t head_dim) {
    return fb_padded_dim(head_dim) * FB_GROUP_KEYS;
}

/* Where dimension d of key number `key` of a group is: among its keys, among its values. */
static inline size_t fb_int_key_index(size_t d, size_t key) {
    return (d / FB_INT_QUAD * FB_GROUP_KEYS + key) * FB_INT_QUAD + d % FB_INT_QUAD;
}

static inline size_t fb_int_value_index(size_t d, size_t key) {
    size_t line = d / FB_PANEL_DIMS * (FB_GROUP_KEYS / FB_INT_QUAD) + key / FB_INT_QUAD;
    return (line * FB_PANEL_DIMS + d % FB_PANEL_DIMS) * FB_INT_QUAD + key % FB_INT_QUAD;
}

/* Scores of `rows` query rows against the groups of keys of each stream (contract C14.3):
 *   s = ((float)N * a) * b
 * N is the sum of integer products, a the key's scale, b the row's factor. */
typedef struct fb_int_scores_call {
    const int8_t *q;      /* [rows][fb_padded_dim(head_dim)], -127 to 127, 0 from head_dim on */
    const float *factors; /* [rows] */
    const int32_t *sums;  /* [rows] of each row's integers: for products with keys + 128 */
    size_t rows, head_dim, streams;
    const void *const *groups; /* [streams][num_groups], each fb_int_keys_bytes, then 16 scales */
    size_t num_groups;
    const void *next;
    float *s; /* out; all as those of fb_scores_call */
} fb_int_scores_call;

typedef void fb_int_scores_fn(const fb_int_scores_call *call);

/* One tile of the online softmax, for `rows` rows (contract C3.6, steps 1 to 5). */
typedef struct fb_softmax_call {
    const float *s;       /* [rows] at stride FB_SCORE_STRIDE, 64 readable */
    size_t rows;          /* 1 to FB_MAX_ROWS */
    const size_t *counts; /* [rows] of a row's scores the first counts[row] (<= 64) are of keys */
    float *max;           /* [rows] in, out: running maximum, -inf at first */
    float *sums;          /* [rows][16] in, out: running row sums, +0 at first */
    float *p;             /* out: [4][FB_MAX_ROWS][16] exp(s - max), +0 from counts[row] on */
    float *alpha;         /* out: [rows] exp(old max - new max), 1 where the maximum stays */
} fb_softmax_call;

typedef void fb_softmax_fn(const fb_softmax_call *call);

/* Adds the keys of one tile, or of one tile in each stream, to the outputs (contract C3.6, step 6):
 *   o = fma(o, alpha, ((c_0 + c_1) + c_2) + c_3)
 * where c_i is the chain (as above) over p_j v_j, j = 16 i .. 16 i + 15. */
typedef struct fb_values_call {
    /* [4][FB_MAX_ROWS][16], the rows of a stream after those of the stream before. It may begin at
     * any row of such an array. */
    const float *p;
    size_t rows;     /* 1 to FB_MAX_ROWS; to FB_STREAM_ROWS with several streams */
    size_t num_keys; /* of a stream, 1 to 64 */
    size_t streams;  /* 1 to FB_STREAMS */
    /* [streams][ceil(num_keys / 16)], each [panels][16][16]. In the last group of a stream the
     * lines after the last key are not read. */
    const void *const *groups;
    size_t head_dim;    /* 1 and more */
    const float *alpha; /* [streams][rows] */
    const void *next;   /* see "Prefetching" above */
    float *o;           /* in, out: [streams][rows][fb_padded_dim(head_dim)] */
} fb_values_call;

typedef void fb_values_fn(const fb_values_call *call);

/* Adds the keys of one tile, whose values are of 8 bits (contract C14.4). The call is the same, but
 * for
 *   groups  each fb_int_values_bytes, then 16 scales. All of the last group is read; what it holds
 *           after the last key changes nothing.
 *   p       not negative, or NaN. So are the scales. */
typedef void fb_int_values_fn(const fb_values_call *call);

/* Transposes a group of keys into a group of values, widened. Where mean keys are wanted, they are
 * what the values kernels make of these. */
typedef struct fb_transpose_call {
    const void *keys; /* [head_dim][16 keys] */
    size_t head_dim;  /* 1 and more */
    float *to;        /* out: [panels][16 keys][16 dimensions], +0 from head_dim on */
} fb_transpose_call;

typedef void fb_transpose_fn(const fb_transpose_call *call);

/* Linear layers multiply rows of x with rows of weights. Both are stored in the order of the
 * columns, so vectors run over the columns and nothing is packed. A call is for one segment of the
 * columns and for a few rows of weights, the features of the output. */
enum {
    FB_DOT_COLUMNS = 512, /* of a segment, at most */
    FB_DOT_STEP = 32,     /* divides the columns of every call */
    FB_DOT_OUTPUTS = 6,   /* rows of weights, at most */
    FB_DOT_ROWS = 64,     /* rows of x, at most */
    FB_FEW_ROWS = 4,      /* rows of x that a table may have other kernels for */
};

/* Floats from one output's sums to the next output's. */
static inline size_t fb_dot_stride(size_t rows) {
    return (rows + 3) / 4 * 4;
}

/* Adds the dot products of `rows` rows of x with `outputs` rows of weights (contract C9.1):
 *   sums[output][row] += ((c_0 + c_4) + (c_2 + c_6)) + ((c_1 + c_5) + (c_3 + c_7))
 * where c_i is a chain over the columns i, i + 8, i + 16, ...: one fma for each, the first one
 * added to +0. */
typedef struct fb_dots_call {
    const float *x;             /* [rows][FB_DOT_COLUMNS], of each the first `columns` */
    size_t rows;                /* 1 to FB_DOT_ROWS */
    const void *const *weights; /* [outputs] pointers to `columns` elements each */
    size_t outputs;             /* a multiple of the table's dot_outputs, at most FB_DOT_OUTPUTS */
    size_t columns;             /* a multiple of FB_DOT_STEP, at most FB_DOT_COLUMNS */
    float *wide;                /* scratch: [outputs][FB_DOT_COLUMNS] */
    const void *const *next;    /* [outputs] where to fetch `columns` elements; NULL: nowhere */
    float *sums;                /* in, out: [outputs][fb_dot_stride(rows)] */
} fb_dots_call;

typedef void fb_dots_fn(const fb_dots_call *call);

/* Products with weights of 8 and 4 bits (contract C13). A row of x is quantised first, a segment at
 * a time; then its integers are multiplied with those of a few rows of weights. */
enum {
    FB_INT_COLUMNS = 2048, /* of a segment, at most */
    FB_INT_STEP = 128,     /* divides the columns of every call of int_dots */
    FB_INT_GROUPS = FB_INT_COLUMNS / 32,
    FB_INT_LANES = 8,   /* sums that a product is made of */
    FB_INT_OUTPUTS = 8, /* rows of weights, at most */
    FB_INT_ROWS = 64,   /* rows of x, at most */
};

/* A segment of one row of x. The integers and what belongs to them are in an order of the table's
 * own: they are read by no other table's kernels. */
typedef struct fb_int_row {
    _Alignas(64) int8_t values[2 * FB_INT_COLUMNS];
    int32_t sums[FB_INT_GROUPS][FB_INT_LANES];
    float scales[FB_INT_GROUPS]; /* of each group; 0 in groups that only continue the segment */
} fb_int_row;

/* Quantises a segment of a row of x (contract C13.3), and continues it with zeros to a multiple of
 * FB_INT_STEP. */
typedef struct fb_quantize_call {
    const float *x;
    size_t columns; /* 1 to FB_INT_COLUMNS */
    size_t group;   /* columns that share a scale: 32, 64 or 128 */
    int bits;       /* of the weights that it will be multiplied with: 8 or 4 */
    fb_int_row *to;
} fb_quantize_call;

typedef void fb_quantize_fn(const fb_quantize_call *call);

/* Adds the products of a segment (contract C13.4 and C13.5):  sums[output][row] += ... */
typedef struct fb_int_dots_call {
    const fb_int_row *x;        /* [rows] of the same columns, group and bits */
    size_t rows;                /* 1 to FB_INT_ROWS */
    const void *const *weights; /* [outputs] pointers to `columns` integers of `bits` bits */
    int bits;                   /* 8 or 4 */
    size_t outputs;             /* a multiple of the table's int_outputs, at most FB_INT_OUTPUTS */
    size_t columns;             /* a multiple of FB_INT_STEP, at most FB_INT_COLUMNS */
    size_t group;               /* of x: 32, 64 or 128 */
    /* [outputs] pointers to scales; that of group g is number g >> scale_shift */
    const float *const *scales;
    const uint8_t *const *zero_points; /* [outputs], as scales; NULL: 8. For 4 bits only */
    unsigned scale_shift;
    const void *const *next; /* [outputs] where to fetch as many weights; NULL: nowhere */
    float *sums;             /* in, out: [outputs][fb_dot_stride(rows)] */
} fb_int_dots_call;

typedef void fb_int_dots_fn(const fb_int_dots_call *call);

/* Merges one row (contract C4.1): o = fma(weight, small, big) / (1 + weight). Each NaN becomes the
 * library's, FB_NAN_BITS. o may be small or big. */
typedef void fb_merge_row_fn(const float *big, const float *small, float weight, size_t head_dim,
                             float *o);

/* Finishes one row (contract C3.7): o = o / sum. Each NaN becomes the library's. */
typedef void fb_divide_row_fn(float sum, size_t head_dim, float *o);

/* Widens `count` elements, exactly. */
typedef void fb_widen_fn(const uint16_t *from, float *to, size_t count);

/* out = exp(x) for x <= 0 and NaN (contract C5.1): the exponential that the softmax kernel uses. */
typedef void fb_exp_values_fn(const float *x, float *out, size_t count);

/* The kernels of an instruction set. Arrays are by storage type: of keys and values, of weights. */
typedef struct fb_kernels {
    fb_scores_fn *scores[FB_NUM_DTYPES];
    fb_values_fn *values[FB_NUM_DTYPES];
    fb_int_scores_fn *int_scores;
    fb_int_values_fn *int_values;
    fb_dots_fn *dots[FB_NUM_DTYPES]; /* all three of one instruction set, for dot_outputs */
    size_t dot_outputs;              /* 1, 3 or 6 */
    /* dots for calls of FB_FEW_ROWS rows and fewer, which wait for memory: those of the set, or of
     * a narrower one whose dot_outputs divide these */
    fb_dots_fn *few_dots[FB_NUM_DTYPES];
    fb_quantize_fn *quantize; /* with int_dots and int_outputs from one set */
    fb_int_dots_fn *int_dots;
    size_t int_outputs; /* 1, 2, 4 or 8 */
    fb_transpose_fn *transpose[FB_NUM_DTYPES];
    fb_softmax_fn *softmax;
    fb_merge_row_fn *merge_row;
    fb_divide_row_fn *divide_row;
    fb_widen_fn *widen_bf16;
    fb_widen_fn *widen_f16;
    fb_exp_values_fn *exp;
} fb_kernels;

/* The table of an instruction set: the scalar entries, overridden by those of the sets that it
 * includes, then by its own. NULL where this build does not hold the set or this CPU lacks it.
 * Tables are built once and never change. */
const fb_kernels *fb_kernels_of(fb_isa isa);

/* What can be taken from one set or from another by itself. */
typedef enum fb_kernel {
    FB_KERNEL_SCORES, /* then by type, as the next two */
    FB_KERNEL_VALUES = FB_KERNEL_SCORES + FB_NUM_DTYPES,
    FB_KERNEL_TRANSPOSE = FB_KERNEL_VALUES + FB_NUM_DTYPES,
    FB_KERNEL_DOTS = FB_KERNEL_TRANSPOSE + FB_NUM_DTYPES,    /* all types, and dot_outputs */
    FB_KERNEL_FEW_DOTS,                                      /* then by type */
    FB_KERNEL_INT_DOTS = FB_KERNEL_FEW_DOTS + FB_NUM_DTYPES, /* and quantize, int_outputs */
    FB_KERNEL_INT_SCORES,
    FB_KERNEL_INT_VALUES,
    FB_KERNEL_SOFTMAX,
    FB_KERNEL_MERGE_ROW,
    FB_KERNEL_DIVIDE_ROW,
    FB_KERNEL_WIDEN_BF16,
    FB_KERNEL_WIDEN_F16,
    FB_KERNEL_EXP,
    FB_NUM_KERNELS,
} fb_kernel;

/* "scores f32", "softmax" */
const char *fb_kernel_name(fb_kernel kernel);

/* Whether two tables have the same function in this place. */
bool fb_kernel_is_same(fb_kernel kernel, const fb_kernels *a, const fb_kernels *b);

/* The table that is used unless somebody asks for a set: of each kernel the one that is fastest on
 * this CPU, as far as it has been measured (dispatch.c). */
const fb_kernels *fb_kernels_fastest(void);

/* The set that it has a kernel from. */
fb_isa fb_kernel_choice(fb_kernel kernel);

/* What it was chosen for: "AMD Zen 4". */
const char *fb_kernels_cpu(void);

/* fb_kernels_of(the set that somebody has asked for), or fb_kernels_fastest(). */
FB_API fb_status fb_kernels_current(const fb_kernels **kernels);

/* ---- for the files of the instruction sets ---- */

/* Complete. Other sets take its entries for the tails of theirs. */
extern const fb_kernels fb_kernels_scalar;

/* Each overrides the entries that its set has. They are compiled for their sets: only where the CPU
 * has the set may they be called. */
void fb_kernels_init_avx2(fb_kernels *kernels);
void fb_kernels_init_avx512(fb_kernels *kernels);
void fb_kernels_init_avxvnni(fb_kernels *kernels);
void fb_kernels_init_avx512vnni(fb_kernels *kernels);
void fb_kernels_init_neon(fb_kernels *kernels);
void fb_kernels_init_neondotprod(fb_kernels *kernels);

/* simd/avxvnni.c once more, for tests (checkasm.c). */
void fb_kernels_init_evex(fb_kernels *kernels);

/* KERNEL_f32, KERNEL_bf16 and KERNEL_f16, from a KERNEL(dtype, call) that is for all types: in each
 * of them the type is a constant. */
#define FB_BY_DTYPE(KERNEL)                                                                        \
    static void KERNEL##_f32(const fb_##KERNEL##_call *call) {                                     \
        KERNEL(FB_F32, call);                                                                      \
    }                                                                                              \
    static void KERNEL##_bf16(const fb_##KERNEL##_call *call) {                                    \
        KERNEL(FB_BF16, call);                                                                     \
    }                                                                                              \
    static void KERNEL##_f16(const fb_##KERNEL##_call *call) {                                     \
        KERNEL(FB_F16, call);                                                                      \
    }

#endif
