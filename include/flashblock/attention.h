/* Attention as parts.
 *
 * Attention of a query row over any set of keys is a *part*: an output O and a log-sum-exp L,
 *
 *     s_j = scale * (q . k_j)      L = ln sum_j exp(s_j)      O = sum_j exp(s_j - L) v_j
 *
 * Parts over disjoint sets of keys *merge* into the part over their union (FlashBlock,
 * arXiv 2602.05305, the log-space merge; also FlashAttention's and split-KV's):
 *
 *     m = max(L1, L2)    L = m + ln(e^(L1-m) + e^(L2-m))
 *     O = (e^(L1-m) O1 + e^(L2-m) O2) / (e^(L1-m) + e^(L2-m))
 *
 * The empty part is O = 0, L = -inf. Everything else in this library is one of these two
 * operations over a *view*: an ordered list of token ranges.
 *
 * Conventions of every function here
 *   shapes     [tokens, heads, head_dim]; query head h reads KV head h / (num_heads/num_kv_heads)
 *   strides    in elements, not bytes; the head_dim axis is contiguous (stride 1)
 *   LSE        natural logarithm, of the *scaled* scores, as in the paper's code
 *   dtype      float32 for queries and results; float32, bf16 or f16 for keys and values, widened
 *              exactly; results are bitwise the same on every instruction set, for any number of
 *              threads, and for a row whatever other rows are in the call
 *   emptiness  a row that sees no key (empty view, every key masked, or every score -inf) gives
 *              O = 0, L = -inf; never NaN
 *   NaN, inf   a NaN, or a score of +inf, makes exactly the rows that see it NaN (0x7fc00000)
 *   aliasing   results must not overlap inputs, except where a function says so
 *   errors     sizes, strides and pointers are checked before anything is written
 *   threads    calls may run concurrently on different results
 *
 * "Bitwise" refers to one order of operations, the numeric contract: numbered rules, installed as
 * share/doc/flashblock/contract.md. Headers cite them, "contract C3" say. In short: C2 cuts dot
 * products into chains of 16; C3 cuts ranges into chunks of 1024 keys and these into tiles of 64;
 * C4 merges parts from left to right; C5 is the exponential and the logarithm; C6 is emptiness and
 * NaN; C7 lists what changes no bit.
 */
#ifndef FLASHBLOCK_ATTENTION_H
#define FLASHBLOCK_ATTENTION_H

#include <flashblock/status.h>
#include <flashblock/types.h>

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Keys of one tile, and of one chunk: contract C3.5, C3.6. */
enum { FB_TILE_KEYS = 64, FB_CHUNK_KEYS = 1024 };

struct fb_kv_pages; /* packed pages of a KV cache; see kv_cache.h */

/* Where keys and values of one layer are. Either rows, at any strides, filled in by the caller
 * (fb_kv_rows does it for dense tensors), or the pages of a KV cache, filled in by
 * fb_kv_cache_layer. Borrowed: the memory must outlive the calls that use it. */
typedef struct fb_kv {
    fb_dtype dtype;
    size_t num_tokens, num_kv_heads, head_dim;
    const void *k, *v;                       /* element [0, 0, 0]; NULL with pages */
    ptrdiff_t k_token_stride, k_head_stride; /* in elements */
    ptrdiff_t v_token_stride, v_head_stride;
    const struct fb_kv_pages *pages; /* NULL with rows */
    size_t first_kv_head;            /* of the pages' heads, the one that is head 0 here */
} fb_kv;

/* Dense tensors k, v  [num_tokens, num_kv_heads, head_dim]. */
FB_API fb_kv fb_kv_rows(fb_dtype dtype, const void *k, const void *v, size_t num_tokens,
                        size_t num_kv_heads, size_t head_dim);

/* Only the KV heads first .. first + count - 1 of `kv`, rows or pages. Nothing is copied. The
 * caller sees to it that they are there. */
FB_API fb_kv fb_kv_heads(const fb_kv *kv, size_t first, size_t count);

/* Tokens begin <= t < end. */
typedef struct fb_range {
    size_t begin, end;
} fb_range;

/* The keys of a call, in this order. Ranges may be empty and must not overlap; the order matters
 * to the last bit, not to the meaning. num_ranges = 0 is the empty view. */
typedef struct fb_view {
    const fb_kv *kv;
    const fb_range *ranges;
    size_t num_ranges;
} fb_view;

/* Query rows  q [num_queries, num_heads, head_dim]. num_heads is a multiple of num_kv_heads. */
typedef struct fb_queries {
    const float *q; /* element [0, 0, 0]; may be NULL when num_queries is 0 */
    size_t num_queries, num_heads, head_dim;
    ptrdiff_t token_stride, head_stride; /* in elements */
} fb_queries;

/* Dense queries  [num_queries, num_heads, head_dim]. */
FB_API fb_queries fb_queries_rows(const float *q, size_t num_queries, size_t num_heads,
                                  size_t head_dim);

/* A part: out [num_queries, num_heads, head_dim], lse [num_queries, num_heads], and where the
 * caller wants it, mean_key [num_queries, num_heads, head_dim] at the strides of out: the mean of
 * the keys under the part's softmax,
 *     k = sum_j exp(s_j - L) k_j,
 * which is the gradient of L by the query: dL/dq = scale * k. It is to keys what O is to values,
 * and has the bits that O would have if the values were the keys; parts merge alike. */
typedef struct fb_part {
    float *out;
    ptrdiff_t out_token_stride, out_head_stride; /* in elements */
    float *lse;
    ptrdiff_t lse_token_stride, lse_head_stride; /* in elements; flash-attn's [heads, tokens]
                                                    layout is (1, num_queries) */
    float *mean_key;                             /* NULL: none */
} fb_part;

/* A dense part: out [num_queries, num_heads, head_dim], lse [num_queries, num_heads]; no mean
 * keys. */
FB_API fb_part fb_part_rows(float *out, float *lse, size_t num_heads, size_t head_dim);

typedef enum fb_mask_kind {
    FB_MASK_NONE = 0,
    /* A query at position p sees the keys of blocks up to its own: keys at positions below
     * (p / block_size + 1) * block_size. Blocks are counted from position 0. (The "staircase"
     * under which the paper's engine prefills.) */
    FB_MASK_BLOCK_CAUSAL,
} fb_mask_kind;

/* Positions: query row i is at first_query + i; the view's j-th key, counted over its ranges in
 * order, is at first_key + j. {0} means no mask. */
typedef struct fb_mask {
    fb_mask_kind kind;
    size_t block_size; /* at least 1 */
    size_t first_query, first_key;
} fb_mask;

/* part(view): the attention of every query row over the keys of `view`.
 *
 *   queries  q [num_queries, num_heads, head_dim]
 *   view     keys and values; view->kv->head_dim and the heads must fit the queries'
 *   mask     NULL: none
 *   scale    factor of the scores; 0 means 1/sqrt(head_dim)
 *   result   num_queries x num_heads rows, written whole; untouched on error. Mean keys cost half
 *            as much again as the part itself, and read nothing more: a tile's keys are at hand
 *
 * head_dim: any from 1 to 65536; multiples of 16 are fastest. Keys and values in a KV cache are
 * read as they are; rows of the caller's are packed anew for every 48 query rows of a KV head.
 * Memory: a fixed scratch per thread, whatever the length of the view. */
FB_API fb_status fb_attend(const fb_queries *queries, const fb_view *view, const fb_mask *mask,
                           float scale, const fb_part *result);

/* part(view), its ranges read as *one* sequence of keys: chunks of 1024 and tiles of 64 are cut
 * over all of them, as if they stood side by side (contract C3.5). Bitwise what fb_attend gives for
 * one range over a copy of these keys. A list of key blocks (sparse attention) costs no merges, and
 * the list of all is dense attention.
 *
 * Arguments, emptiness and errors as fb_attend; fb_attend_reference is the truth of both. Fastest
 * in a KV cache where every range begins at a multiple of 16 tokens and holds a multiple of 16, the
 * last one any number: keys and values are then read as they are. Otherwise they are packed anew.
 * Memory: also one number for every 16 keys, or for every key where they are packed. */
FB_API fb_status fb_attend_gathered(const fb_queries *queries, const fb_view *view,
                                    const fb_mask *mask, float scale, const fb_part *result);

/* merge(a, b), row by row, over num_queries x num_heads rows of head_dim values (contract C4).
 *
 * Bitwise commutative, and (0, -inf) is its identity, bitwise and on both sides: a row whose LSE
 * is -inf contributes nothing, whatever its output holds. Two such rows give O = 0, L = -inf.
 * An LSE of +inf or NaN makes its row NaN.
 * Mean keys are merged if result->mean_key is not NULL; a and b must then have some.
 * `result` may be a or b themselves (same pointers and strides); otherwise no overlap. */
FB_API fb_status fb_merge(const fb_part *a, const fb_part *b, size_t num_queries, size_t num_heads,
                          size_t head_dim, const fb_part *result);

/* The same two operations in double precision, as plainly as they can be written: the truth that
 * errors are stated against. Inputs as above; results are dense,
 *   out [num_queries, num_heads, head_dim], lse [num_queries, num_heads].
 * Emptiness as above; NaN and infinities go where IEEE arithmetic takes them. Single-threaded. */
FB_API fb_status fb_attend_reference(const fb_queries *queries, const fb_view *view,
                                     const fb_mask *mask, double scale, double *out, double *lse);
FB_API void fb_merge_reference(const double *out_a, const double *lse_a, const double *out_b,
                               const double *lse_b, size_t num_rows, size_t head_dim, double *out,
                               double *lse);

/* The exponential and the logarithm of the kernels, value by value (contract C5). Their largest
 * errors, measured over every float32 of the domain:
 *   fb_exp  0.892 ulp, for x <= 0 (and NaN); subnormal results included; fb_exp(0) = 1
 *   fb_log  0.501 ulp, for x >= 1 (and NaN, +inf) */
FB_API float fb_exp(float x);
FB_API float fb_log(float x);

#ifdef __cplusplus
}
#endif

#endif
