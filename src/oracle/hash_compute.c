#include "oracle/hash_compute.h"

#include "base/error.h"
#include "base/half.h"
#include "base/memory.h"
#include "oracle/hash_product.h"
#include "oracle/hash_rows.h"
#include "oracle/inputs.h"
#include "oracle/script.h"

#include <flashblock/kv_cache.h>

#include <math.h>
#include <string.h>

/* Every case draws its inputs from streams under a seed of its own. */
static uint64_t seed_of(const fb_hash_case *c) {
    return fb_input_stream(c->name);
}

/* --- inputs of an attention case -------------------------------------------------------------- */

typedef struct attend_inputs {
    float *q, *k, *v;      /* [queries, heads, D], [keys, kv_heads, D] */
    void *k_half, *v_half; /* the same in a type of two bytes */
    fb_kv_cache *cache;
} attend_inputs;

static void free_inputs(attend_inputs *in) {
    fb_free(in->q);
    fb_free(in->k);
    fb_free(in->v);
    fb_free(in->k_half);
    fb_free(in->v_half);
    fb_kv_cache_destroy(in->cache);
}

/* The factor of queries and keys; that of values. */
static float qk_scale(const fb_hash_case *c) {
    switch (c->content) {
    case FB_HASH_LARGE:
        return 100.0f;
    case FB_HASH_PEAKED:
        return 5.5f;
    case FB_HASH_SUBNORMAL:
        return 0x1p-130f;
    default:
        return 1.0f;
    }
}

static float value_scale(const fb_hash_case *c) {
    return c->content == FB_HASH_SUBNORMAL     ? 0x1p-130f
           : c->content == FB_HASH_HUGE_VALUES ? 0x1p123f
                                               : 1.0f;
}

/* Element 0 of every query, where infinite scores are wanted: their sign is its sign. */
static void set_first_of_queries(const fb_hash_case *c, float *q, bool alternate) {
    for (size_t row = 0; row < c->queries * c->heads; row++)
        q[row * c->head_dim] = alternate && row % 3 == 0 ? -1.0f : 1.0f;
}

static void set_first_of_keys(const fb_hash_case *c, float *k, size_t begin, size_t end,
                              float value) {
    for (size_t row = begin * c->kv_heads; row < end * c->kv_heads; row++)
        k[row * c->head_dim] = value;
}

/* Makes the inputs unusual where a factor is not enough. */
static void set_special(const fb_hash_case *c, attend_inputs *in) {
    const float nan = fb_bits_to_f32(0x7fc00000u), inf = INFINITY;
    size_t middle = c->keys / 2;
    switch (c->content) {
    case FB_HASH_ZERO:
        memset(in->q, 0, c->queries * c->heads * c->head_dim * sizeof *in->q);
        break;
    case FB_HASH_NAN_QUERY:
        in->q[(2 * c->heads + 3) * c->head_dim + 5] = nan;
        break;
    case FB_HASH_NAN_KEY:
        in->k[(c->keys - 10) * c->kv_heads * c->head_dim + 1] = nan;
        break;
    case FB_HASH_NAN_VALUE:
        in->v[middle * c->kv_heads * c->head_dim + 3] = nan;
        break;
    case FB_HASH_INF_KEY:
        set_first_of_queries(c, in->q, true);
        set_first_of_keys(c, in->k, middle, middle + 1, inf);
        break;
    case FB_HASH_ALL_MINUS:
        set_first_of_queries(c, in->q, false);
        set_first_of_keys(c, in->k, 0, c->keys, -inf);
        break;
    case FB_HASH_FIRST_MINUS:
        set_first_of_queries(c, in->q, false);
        set_first_of_keys(c, in->k, 0, 100, -inf);
        break;
    default:
        break;
    }
}

/* Keys and values as the case stores them. */
static fb_status store_kv(const fb_hash_case *c, attend_inputs *in, fb_kv *kv) {
    size_t count = c->keys * c->kv_heads * c->head_dim;
    if (c->paged) {
        const fb_kv_cache_config config = {1, c->kv_heads, c->head_dim, c->dtype};
        FB_TRY(fb_kv_cache_create(&config, &in->cache));
        FB_TRY(fb_kv_cache_write(in->cache, 0, 0, c->keys, in->k, in->v));
        return fb_kv_cache_layer(in->cache, 0, kv);
    }
    *kv = fb_kv_rows(c->dtype, in->k, in->v, c->keys, c->kv_heads, c->head_dim);
    if (c->dtype == FB_F32)
        return FB_OK;
    FB_TRY(fb_alloc(count, 2, "selftest", &in->k_half));
    FB_TRY(fb_alloc(count, 2, "selftest", &in->v_half));
    FB_TRY(fb_from_f32(c->dtype, in->k, in->k_half, count));
    FB_TRY(fb_from_f32(c->dtype, in->v, in->v_half, count));
    kv->k = in->k_half;
    kv->v = in->v_half;
    return FB_OK;
}

static fb_status make_inputs(const fb_hash_case *c, attend_inputs *in, fb_kv *kv) {
    size_t q_count = c->queries * c->heads * c->head_dim;
    size_t kv_count = c->keys * c->kv_heads * c->head_dim;
    uint64_t seed = seed_of(c);
    FB_TRY(fb_alloc(q_count, sizeof *in->q, "selftest", &in->q));
    FB_TRY(fb_alloc(kv_count, sizeof *in->k, "selftest", &in->k));
    FB_TRY(fb_alloc(kv_count, sizeof *in->v, "selftest", &in->v));
    fb_input_normals(seed, "q", qk_scale(c), in->q, q_count);
    fb_input_normals(seed, "k", qk_scale(c), in->k, kv_count);
    fb_input_normals(seed, "v", value_scale(c), in->v, kv_count);
    set_special(c, in);
    return store_kv(c, in, kv);
}

static fb_status attend(const fb_hash_case *c, attend_inputs *in, fb_hash_result *result) {
    fb_kv kv;
    FB_TRY(make_inputs(c, in, &kv));
    fb_range all = {0, c->keys};
    fb_view view = {&kv, c->num_ranges ? c->ranges : &all, c->num_ranges ? c->num_ranges : 1};
    fb_queries queries = fb_queries_rows(in->q, c->queries, c->heads, c->head_dim);
    fb_part part = fb_part_rows(result->out, result->lse, c->heads, c->head_dim);
    if (c->heads_first) {
        part.lse_token_stride = 1;
        part.lse_head_stride = (ptrdiff_t)c->queries;
    }
    if (c->mean_key)
        part.mean_key = result->out + c->queries * c->heads * c->head_dim;
    return fb_attend(&queries, &view, &c->mask, c->scale, &part);
}

static fb_status compute_attend(const fb_hash_case *c, fb_hash_result *result) {
    attend_inputs in = {0};
    size_t rows = c->queries * c->heads;
    fb_status status =
        fb_hash_result_alloc(result, (c->mean_key ? 2 : 1) * rows * c->head_dim, rows);
    if (status == FB_OK)
        status = attend(c, &in, result);
    free_inputs(&in);
    return status;
}

/* --- merges ----------------------------------------------------------------------------------- */

/* Makes row `row` of a part empty: its output may then hold anything. */
static void make_empty(const fb_hash_case *c, float *out, float *lse, size_t row) {
    lse[row] = -INFINITY;
    for (size_t d = 0; d < c->head_dim; d++)
        out[row * c->head_dim + d] = fb_bits_to_f32(0x7fc00000u);
}

static void set_lse_extremes(float *lse, size_t rows, size_t step) {
    const float extremes[] = {INFINITY, fb_bits_to_f32(0x7fc00000u), -INFINITY, 88.0f, -104.0f};
    for (size_t row = 0; row < rows; row += step)
        lse[row] = extremes[row / step % 5];
}

/* a, b: out, then lse */
static void make_parts(const fb_hash_case *c, float *a, float *b) {
    size_t rows = c->queries * c->heads, values = rows * c->head_dim;
    float lse_scale = c->content == FB_HASH_FAR ? 60.0f : 2.0f;
    fb_hash_content content = c->content;
    uint64_t seed = seed_of(c);
    fb_input_normals(seed, "a out", 1.0f, a, values);
    fb_input_normals(seed, "a lse", lse_scale, a + values, rows);
    fb_input_normals(seed, "b out", 1.0f, b, values);
    fb_input_normals(seed, "b lse", lse_scale, b + values, rows);
    if (content == FB_HASH_LSE_EXTREMES) {
        set_lse_extremes(a + values, rows, 2);
        set_lse_extremes(b + values, rows, 3);
    }
    bool some = content == FB_HASH_SOME_EMPTY, both = content == FB_HASH_BOTH_EMPTY;
    for (size_t row = 0; row < rows; row++) {
        if (content == FB_HASH_A_EMPTY || both || (some && row % 3 == 0))
            make_empty(c, a, a + values, row);
        if (content == FB_HASH_B_EMPTY || both || (some && row % 5 == 0))
            make_empty(c, b, b + values, row);
    }
}

static fb_status compute_merge(const fb_hash_case *c, fb_hash_result *result) {
    size_t rows = c->queries * c->heads, values = rows * c->head_dim;
    float *memory = NULL;
    FB_TRY(fb_hash_result_alloc(result, values, rows));
    FB_TRY(fb_alloc(2 * (values + rows), sizeof *memory, "selftest", &memory));
    float *a = memory, *b = memory + values + rows;
    make_parts(c, a, b);
    fb_part part_a = fb_part_rows(a, a + values, c->heads, c->head_dim);
    fb_part part_b = fb_part_rows(b, b + values, c->heads, c->head_dim);
    fb_part part = fb_part_rows(result->out, result->lse, c->heads, c->head_dim);
    fb_status status = fb_merge(&part_a, &part_b, c->queries, c->heads, c->head_dim, &part);
    fb_free(memory);
    return status;
}

/* --- denoising sequences ---------------------------------------------------------------------- */

/* For each pass: the result, and after it the external part, if the pass stored it. */
static fb_status gather(const fb_script *s, fb_hash_result *result) {
    size_t values = fb_script_values(s), rows = fb_script_rows(s), parts = 0;
    for (size_t i = 0; i < s->num_passes; i++)
        parts += s->passes[i].external_out ? 2 : 1;
    FB_TRY(fb_hash_result_alloc(result, parts * values, parts * rows));
    size_t part = 0;
    for (size_t i = 0; i < s->num_passes; i++) {
        const fb_script_pass *pass = &s->passes[i];
        memcpy(result->out + part * values, pass->out, values * sizeof *pass->out);
        memcpy(result->lse + part++ * rows, pass->lse, rows * sizeof *pass->lse);
        if (!pass->external_out)
            continue;
        memcpy(result->out + part * values, pass->external_out, values * sizeof *pass->out);
        memcpy(result->lse + part++ * rows, pass->external_lse, rows * sizeof *pass->lse);
    }
    return FB_OK;
}

static fb_status compute_sequence(const fb_hash_case *c, fb_hash_result *result) {
    const fb_script_config config = {
        .preset = c->name,
        .num_heads = c->heads,
        .num_kv_heads = c->kv_heads,
        .head_dim = c->head_dim,
        .block_size = c->queries,
        .context_length = c->keys,
        .tau = c->tau,
        .steps = c->steps,
        .dtype = c->dtype,
        .seed = seed_of(c),
    };
    fb_script *s = NULL;
    FB_TRY(fb_script_create(&config, &s));
    fb_status status = fb_script_generate(s);
    if (status == FB_OK)
        status = fb_script_run(s);
    if (status == FB_OK)
        status = gather(s, result);
    fb_script_free(s);
    return status;
}

fb_status fb_hash_compute(const fb_hash_case *c, fb_hash_result *result) {
    *result = (fb_hash_result){0};
    fb_status status = FB_OK;
    switch (c->kind) {
    case FB_HASH_ATTEND:
        status = compute_attend(c, result);
        break;
    case FB_HASH_MERGE:
        status = compute_merge(c, result);
        break;
    case FB_HASH_ROWS:
        status = fb_hash_rows_compute(c, seed_of(c), result);
        break;
    case FB_HASH_PRODUCT:
        status = fb_hash_product_compute(c, seed_of(c), result);
        break;
    case FB_HASH_SEQUENCE:
        status = compute_sequence(c, result);
        break;
    }
    if (status != FB_OK) {
        fb_hash_result_free(result);
        return fb_fail_in(status, "case %s", c->name);
    }
    return FB_OK;
}
