#include "oracle/hash_cases.h"

#define ATTEND(text, q, h, hk, d, n)                                                               \
    .name = text, .queries = q, .heads = h, .kv_heads = hk, .head_dim = d, .keys = n
#define MERGE(text, q, h, d, what)                                                                 \
    {                                                                                              \
        .name = text, .kind = FB_HASH_MERGE, .queries = q, .heads = h, .kv_heads = h,              \
        .head_dim = d, .content = what                                                             \
    }
#define SEQUENCE(text, b, h, hk, d, n, t, s)                                                       \
    .name = text, .kind = FB_HASH_SEQUENCE, .queries = b, .heads = h, .kv_heads = hk,              \
    .head_dim = d, .keys = n, .tau = t, .steps = s
#define ROWS(text, b, h, hk, d, n, s)                                                              \
    .name = text, .kind = FB_HASH_ROWS, .queries = b, .heads = h, .kv_heads = hk, .head_dim = d,   \
    .keys = n, .steps = s
#define PRODUCT(text, x_rows, outputs, inputs)                                                     \
    .name = text, .kind = FB_HASH_PRODUCT, .queries = x_rows, .features = outputs, .columns = inputs
#define GROUPS(num_bits, size) .bits = num_bits, .group_size = size
#define RANGES(count, ...)     .num_ranges = count, .ranges = {__VA_ARGS__}
#define CAUSAL(block, first_query, first_key)                                                      \
    .mask = {FB_MASK_BLOCK_CAUSAL, block, first_query, first_key}

/* Final: a case may be added at the end, never changed. */
const fb_hash_case fb_hash_cases[] = {
    /* the attention of published models, at moderate contexts */
    {ATTEND("trado_8b_context_1024", 4, 32, 8, 128, 1024)},
    {ATTEND("trado_8b_context_5000_paged", 4, 32, 8, 128, 5000), .paged = true},
    {ATTEND("trado_8b_internal", 4, 32, 8, 128, 4)},
    {ATTEND("trado_8b_bf16_context_3000_paged", 4, 32, 8, 128, 3000), .paged = true,
     .dtype = FB_BF16},
    {ATTEND("sdar_1b7_context_3000", 4, 16, 8, 128, 3000)},
    {ATTEND("sdar_1b7_f16_context_1025_paged", 4, 16, 8, 128, 1025), .paged = true,
     .dtype = FB_F16},
    {ATTEND("longlive_1b3_queries_52_context_1560", 52, 12, 12, 128, 1560)},
    {ATTEND("longlive_1b3_bf16_queries_16_context_3120_paged", 16, 12, 12, 128, 3120),
     .paged = true, .dtype = FB_BF16},
    {ATTEND("longlive_1b3_sink_and_window", 20, 12, 12, 128, 2500),
     RANGES(2, {0, 300}, {1700, 2500})},
    {ATTEND("tiny_context_100", 4, 4, 1, 32, 100)},
    /* numbers of keys around tiles and chunks */
    {ATTEND("keys_0", 3, 4, 2, 64, 0)},
    {ATTEND("keys_1", 3, 4, 2, 64, 1)},
    {ATTEND("keys_15", 3, 4, 2, 64, 15)},
    {ATTEND("keys_63", 3, 4, 2, 64, 63)},
    {ATTEND("keys_64", 3, 4, 2, 64, 64)},
    {ATTEND("keys_65", 3, 4, 2, 64, 65)},
    {ATTEND("keys_1000_paged", 3, 4, 2, 64, 1000), .paged = true},
    {ATTEND("keys_1023", 3, 4, 2, 64, 1023)},
    {ATTEND("keys_1024_paged", 3, 4, 2, 64, 1024), .paged = true},
    {ATTEND("keys_1025", 3, 4, 2, 64, 1025)},
    {ATTEND("keys_1025_bf16", 3, 4, 2, 64, 1025), .dtype = FB_BF16},
    {ATTEND("keys_5000_f16", 3, 4, 2, 64, 5000), .dtype = FB_F16},
    /* sizes of heads */
    {ATTEND("head_dim_7", 5, 6, 3, 7, 300)},
    {ATTEND("head_dim_8", 5, 6, 3, 8, 300)},
    {ATTEND("head_dim_16_bf16", 5, 6, 3, 16, 300), .dtype = FB_BF16},
    {ATTEND("head_dim_20", 5, 6, 3, 20, 300)},
    {ATTEND("head_dim_24_paged", 5, 6, 3, 24, 300), .paged = true},
    {ATTEND("head_dim_80", 5, 6, 3, 80, 300)},
    {ATTEND("head_dim_96_f16", 5, 6, 3, 96, 300), .dtype = FB_F16},
    {ATTEND("head_dim_136_paged", 5, 6, 3, 136, 300), .paged = true},
    {ATTEND("head_dim_256", 5, 4, 1, 256, 300)},
    {ATTEND("head_dim_512", 2, 3, 1, 512, 300)},
    {ATTEND("head_dim_1", 5, 2, 1, 1, 70)},
    /* numbers of rows: none, one, around a register tile of 6 and a unit of 48 */
    {ATTEND("queries_0", 0, 4, 2, 64, 10)},
    {ATTEND("rows_1", 1, 1, 1, 64, 200)},
    {ATTEND("rows_5", 5, 1, 1, 64, 200)},
    {ATTEND("rows_7", 7, 1, 1, 64, 200)},
    {ATTEND("rows_49", 49, 1, 1, 64, 200)},
    {ATTEND("rows_97_bf16_paged", 97, 2, 1, 64, 200), .paged = true, .dtype = FB_BF16},
    {ATTEND("heads_16_to_1", 3, 16, 1, 64, 200), .heads_first = true},
    /* ranges: unaligned, several, empty ones, more than a chunk */
    {ATTEND("range_unaligned", 4, 8, 2, 64, 500), RANGES(1, {13, 490})},
    {ATTEND("range_unaligned_paged", 4, 8, 2, 64, 1500), .paged = true, RANGES(1, {37, 1399})},
    {ATTEND("ranges_3_with_empty", 4, 8, 2, 64, 700), RANGES(3, {5, 100}, {100, 100}, {333, 700})},
    {ATTEND("ranges_4_bf16_paged", 4, 8, 2, 128, 3000), .paged = true, .dtype = FB_BF16,
     RANGES(4, {0, 17}, {250, 270}, {300, 1701}, {2999, 3000})},
    {ATTEND("ranges_backwards", 4, 8, 2, 64, 600), RANGES(2, {300, 600}, {0, 300})},
    /* masks: staircases, rows that see nothing */
    {ATTEND("block_causal_4", 40, 8, 2, 64, 40), CAUSAL(4, 0, 0)},
    {ATTEND("block_causal_4_behind_context", 16, 8, 2, 64, 1300), CAUSAL(4, 1284, 0)},
    {ATTEND("block_causal_8_f16_paged", 30, 8, 2, 128, 300), .paged = true, .dtype = FB_F16,
     CAUSAL(8, 101, 0)},
    {ATTEND("block_causal_1_bf16", 70, 4, 4, 64, 70), .dtype = FB_BF16, CAUSAL(1, 0, 0)},
    {ATTEND("fully_masked_rows", 20, 4, 2, 64, 30), CAUSAL(4, 0, 10)},
    {ATTEND("fully_masked", 6, 4, 2, 64, 30), CAUSAL(2, 0, 100)},
    {ATTEND("masked_across_chunks", 40, 2, 1, 64, 2100), CAUSAL(32, 1000, 0)},
    /* extremes */
    {ATTEND("logits_1e4", 4, 8, 2, 128, 700), .content = FB_HASH_LARGE},
    {ATTEND("logits_1e4_paged_f16", 4, 8, 2, 128, 1100), .paged = true, .dtype = FB_F16,
     .content = FB_HASH_LARGE},
    {ATTEND("logits_30", 4, 8, 2, 64, 2000), .content = FB_HASH_PEAKED},
    {ATTEND("subnormal_inputs", 4, 8, 2, 64, 200), .content = FB_HASH_SUBNORMAL},
    {ATTEND("zero_queries", 4, 8, 2, 64, 1100), .content = FB_HASH_ZERO},
    {ATTEND("huge_values", 4, 8, 2, 64, 200), .content = FB_HASH_HUGE_VALUES},
    {ATTEND("nan_query", 5, 8, 2, 64, 200), .content = FB_HASH_NAN_QUERY},
    {ATTEND("nan_key_seen_by_some", 40, 4, 2, 64, 40), .content = FB_HASH_NAN_KEY, CAUSAL(4, 0, 0)},
    {ATTEND("nan_value", 4, 8, 2, 64, 200), .content = FB_HASH_NAN_VALUE},
    {ATTEND("inf_key", 6, 8, 2, 64, 200), .content = FB_HASH_INF_KEY},
    {ATTEND("inf_key_bf16_paged", 6, 8, 2, 64, 200), .paged = true, .dtype = FB_BF16,
     .content = FB_HASH_INF_KEY},
    {ATTEND("every_score_minus_inf", 4, 4, 2, 64, 150), .content = FB_HASH_ALL_MINUS},
    {ATTEND("first_tiles_minus_inf", 4, 4, 2, 64, 1200), .content = FB_HASH_FIRST_MINUS},
    {ATTEND("scale_1", 4, 4, 2, 64, 200), .scale = 1.0f},
    {ATTEND("scale_negative", 4, 4, 2, 64, 200), .scale = -0.25f},
    /* merges */
    MERGE("merge", 4, 32, 128, FB_HASH_NORMAL),
    MERGE("merge_head_dim_7", 5, 3, 7, FB_HASH_NORMAL),
    MERGE("merge_far_apart", 40, 8, 64, FB_HASH_FAR),
    MERGE("merge_a_empty", 4, 8, 64, FB_HASH_A_EMPTY),
    MERGE("merge_b_empty", 4, 8, 64, FB_HASH_B_EMPTY),
    MERGE("merge_both_empty", 4, 8, 64, FB_HASH_BOTH_EMPTY),
    MERGE("merge_some_empty", 10, 8, 24, FB_HASH_SOME_EMPTY),
    MERGE("merge_lse_extremes", 10, 8, 64, FB_HASH_LSE_EXTREMES),
    /* refresh and reuse, through KV cache and part cache */
    {SEQUENCE("sequence_dense", 4, 8, 2, 64, 500, 0, 4)},
    {SEQUENCE("sequence_tau_1", 4, 8, 2, 64, 500, 1, 4)},
    {SEQUENCE("sequence_tau_2", 4, 8, 2, 64, 500, 2, 4)},
    {SEQUENCE("sequence_tau_3_bf16", 8, 8, 2, 64, 1100, 3, 6), .dtype = FB_BF16},
    {SEQUENCE("sequence_always_reuse_f16", 4, 8, 2, 64, 300, 100, 4), .dtype = FB_F16},
    {SEQUENCE("sequence_trado_8b_tau_2", 4, 32, 8, 128, 1100, 2, 4)},
    {SEQUENCE("sequence_longlive_1b3", 40, 12, 12, 128, 320, 20, 4)},
    {SEQUENCE("sequence_tiny_block_16", 16, 4, 1, 32, 77, 4, 8)},
    {SEQUENCE("sequence_empty_context", 4, 8, 2, 64, 0, 2, 3)},
    /* mean keys */
    {ATTEND("mean_key", 4, 8, 2, 64, 1500), .mean_key = true},
    {ATTEND("mean_key_bf16_paged_ranges", 4, 8, 2, 128, 2500), .mean_key = true, .paged = true,
     .dtype = FB_BF16, RANGES(3, {5, 100}, {133, 1300}, {1301, 2500})},
    {ATTEND("mean_key_head_dim_20_masked", 12, 6, 3, 20, 70), .mean_key = true, CAUSAL(4, 55, 3)},
    {ATTEND("mean_key_nan_key", 40, 4, 2, 64, 40), .mean_key = true, .content = FB_HASH_NAN_KEY,
     CAUSAL(4, 0, 0)},
    {ATTEND("mean_key_nothing", 3, 4, 2, 64, 0), .mean_key = true},
    /* refresh by rows, through KV cache and part cache */
    {ROWS("rows", 4, 8, 2, 64, 500, 5)},
    {ROWS("rows_corrected", 4, 8, 2, 64, 500, 5), .corrected = true},
    {ROWS("rows_corrected_bf16", 8, 32, 8, 128, 1100, 4), .corrected = true, .dtype = FB_BF16},
    {ROWS("rows_corrected_block_16_f16", 16, 4, 1, 32, 77, 8), .corrected = true, .dtype = FB_F16},
    {ROWS("rows_corrected_head_dim_7", 5, 6, 3, 7, 300, 4), .corrected = true},
    /* linear layers: segments that end early, rows around a register tile and a block of 64 */
    {PRODUCT("product_f32", 4, 40, 600)},
    {PRODUCT("product_bf16_columns_1031", 13, 21, 1031), .dtype = FB_BF16},
    {PRODUCT("product_f16_rows_70", 70, 9, 512), .dtype = FB_F16},
    {PRODUCT("product_w8", 4, 40, 4100), GROUPS(8, 4100)},
    {PRODUCT("product_w8_group_128", 5, 33, 640), GROUPS(8, 128)},
    {PRODUCT("product_w8_group_64", 1, 16, 512), GROUPS(8, 64)},
    {PRODUCT("product_w8_group_32_columns_1001", 7, 19, 1001), GROUPS(8, 32)},
    {PRODUCT("product_w8_group_2048", 3, 10, 4500), GROUPS(8, 2048)},
    {PRODUCT("product_w8_rows_70", 70, 9, 384), GROUPS(8, 384)},
    {PRODUCT("product_w8_columns_5", 2, 3, 5), GROUPS(8, 5)},
    {PRODUCT("product_w8_ordered", 3, 12, 300), GROUPS(8, 32), .ordered = true},
    {PRODUCT("product_w8_threads", 32, 300, 1024), GROUPS(8, 1024)},
    {PRODUCT("product_w8_row_sizes", 6, 17, 900), GROUPS(8, 900), .content = FB_HASH_ROW_SIZES},
    {PRODUCT("product_w8_ties", 6, 17, 900), GROUPS(8, 900), .content = FB_HASH_TIES},
    {PRODUCT("product_w4_group_128", 4, 40, 4096), GROUPS(4, 128)},
    {PRODUCT("product_w4_group_64_columns_1302", 5, 33, 1302), GROUPS(4, 64)},
    {PRODUCT("product_w4_group_32", 7, 19, 1000), GROUPS(4, 32)},
    {PRODUCT("product_w4_group_32_zero_points", 7, 19, 1000), GROUPS(4, 32), .zero_points = true},
    {PRODUCT("product_w4_group_128_zero_points", 1, 16, 640), GROUPS(4, 128), .zero_points = true},
    {PRODUCT("product_w4_group_512", 3, 10, 2600), GROUPS(4, 512)},
    {PRODUCT("product_w4_columns_6", 2, 3, 6), GROUPS(4, 6)},
    {PRODUCT("product_w4_rows_70", 70, 9, 384), GROUPS(4, 384)},
    {PRODUCT("product_w4_ordered_zero_points", 3, 12, 300), GROUPS(4, 32), .zero_points = true,
     .ordered = true},
    {PRODUCT("product_w4_threads", 32, 300, 1024), GROUPS(4, 128)},
    {PRODUCT("product_w4_ties", 6, 17, 900), GROUPS(4, 64), .content = FB_HASH_TIES},
    {PRODUCT("product_w8_float_activations", 5, 12, 1001), GROUPS(8, 1001),
     .float_activations = true},
    {PRODUCT("product_w4_float_activations", 5, 12, 1000), GROUPS(4, 32), .zero_points = true,
     .float_activations = true},
    /* keys and values of 8 bits */
    {ATTEND("int8_trado_8b", 4, 32, 8, 128, 4400), .paged = true, .dtype = FB_INT8},
    {ATTEND("int8_rows_97", 97, 2, 1, 64, 200), .paged = true, .dtype = FB_INT8},
    {ATTEND("int8_head_dim_7", 5, 6, 3, 7, 300), .paged = true, .dtype = FB_INT8},
    {ATTEND("int8_head_dim_1", 5, 2, 1, 1, 70), .paged = true, .dtype = FB_INT8},
    {ATTEND("int8_ranges_4", 4, 8, 2, 128, 3000), .paged = true, .dtype = FB_INT8,
     RANGES(4, {0, 17}, {250, 270}, {300, 1701}, {2999, 3000})},
    {ATTEND("int8_nan_key_seen_by_some", 40, 4, 2, 64, 40), .paged = true, .dtype = FB_INT8,
     .content = FB_HASH_NAN_KEY, CAUSAL(4, 0, 0)},
    {ATTEND("int8_nan_value", 4, 8, 2, 64, 200), .paged = true, .dtype = FB_INT8,
     .content = FB_HASH_NAN_VALUE},
    {ATTEND("int8_mean_key_ranges", 4, 8, 2, 128, 2500), .mean_key = true, .paged = true,
     .dtype = FB_INT8, RANGES(3, {5, 100}, {133, 1300}, {1301, 2500})},
    {ROWS("int8_rows_corrected", 8, 32, 8, 128, 1100, 4), .corrected = true, .dtype = FB_INT8},
};
const size_t fb_num_hash_cases = sizeof fb_hash_cases / sizeof fb_hash_cases[0];
