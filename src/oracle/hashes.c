#include "oracle/hashes.h"

#include "base/error.h"
#include "base/half.h"
#include "base/memory.h"
#include "io/file.h"
#include "oracle/hash_cases.h"
#include "oracle/inputs.h"
#include "oracle/script.h"

#include <flashblock/kv_cache.h>

#include <math.h>
#include <stdio.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

static const char *const builtin_lines[] = {
#include "oracle/hash_lines.inc"
};

/* Every case draws its inputs from streams under a seed of its own. */
static uint64_t seed_of(const fb_hash_case *c) {
    return fb_input_stream(c->name);
}

size_t fb_hash_case_count(void) {
    return fb_num_hash_cases;
}

const char *fb_hash_case_name(size_t index) {
    return fb_hash_cases[index].name;
}

void fb_hash_result_free(fb_hash_result *result) {
    fb_free(result->out);
    fb_free(result->lse);
    *result = (fb_hash_result){0};
}

fb_status fb_hash_result_alloc(fb_hash_result *result, size_t num_out, size_t num_lse) {
    *result = (fb_hash_result){.num_out = num_out, .num_lse = num_lse};
    FB_TRY(fb_alloc_zeroed(num_out, sizeof *result->out, "selftest", &result->out));
    return fb_alloc_zeroed(num_lse, sizeof *result->lse, "selftest", &result->lse);
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

/* What queries and keys, and values, are multiplied by. */
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

/* What is unusual beyond a factor. */
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

/* Pass by pass: the result, and behind it the external part where it was stored. */
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

fb_status fb_hash_case_compute(size_t index, fb_hash_result *result) {
    const fb_hash_case *c = &fb_hash_cases[index];
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

static void digest(const float *values, size_t count, char text[FB_HASH_TEXT]) {
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits(values, count * sizeof *values));
    for (size_t i = 0; i < sizeof canonical.digest; i++)
        snprintf(text + 2 * i, 3, "%02x", canonical.digest[i]);
}

void fb_hash_result_digest(const fb_hash_result *result, fb_hashes *hashes) {
    digest(result->out, result->num_out, hashes->out);
    digest(result->lse, result->num_lse, hashes->lse);
}

/* --- lists ------------------------------------------------------------------------------------ */

static fb_status list_alloc(fb_hash_list *list) {
    return fb_alloc_zeroed(fb_num_hash_cases, sizeof *list->entries, "hashes", &list->entries);
}

void fb_hash_list_free(fb_hash_list *list) {
    fb_free(list->entries);
    list->entries = NULL;
}

/* The next word of a line: its length; *text moves behind it. */
static size_t next_word(const char **text, const char **word) {
    *word = *text + strspn(*text, " \t\r");
    size_t length = strcspn(*word, " \t\r");
    *text = *word + length;
    return length;
}

static bool take_hash(const char **text, char hash[FB_HASH_TEXT]) {
    const char *word = NULL;
    if (next_word(text, &word) != FB_HASH_TEXT - 1 ||
        strspn(word, "0123456789abcdef") < FB_HASH_TEXT - 1)
        return false;
    memcpy(hash, word, FB_HASH_TEXT - 1);
    hash[FB_HASH_TEXT - 1] = '\0';
    return true;
}

static fb_status read_line(const char *line, const char *where, size_t number, fb_hash_list *list) {
    const char *name = NULL, *rest = line, *end = NULL;
    size_t length = next_word(&rest, &name), index = 0;
    fb_hashes hashes = {{0}, {0}};
    if (length == 0 || *name == '#')
        return FB_OK;
    while (index < fb_num_hash_cases && (strlen(fb_hash_cases[index].name) != length ||
                                         strncmp(fb_hash_cases[index].name, name, length) != 0))
        index++;
    if (index == fb_num_hash_cases)
        return fb_fail(FB_ERROR_FORMAT, "%s: line %zu: '%.*s' is no case of this build", where,
                       number, length < 80 ? (int)length : 80, name);
    if (!take_hash(&rest, hashes.out) || !take_hash(&rest, hashes.lse) ||
        next_word(&rest, &end) != 0)
        return fb_fail(FB_ERROR_FORMAT,
                       "%s: line %zu: expected a name and two hashes of 32 hexadecimal digits",
                       where, number);
    if (*list->entries[index].out)
        return fb_fail(FB_ERROR_FORMAT, "%s: line %zu: %s comes twice", where, number,
                       fb_hash_cases[index].name);
    list->entries[index] = hashes;
    return FB_OK;
}

fb_status fb_hash_list_builtin(fb_hash_list *list) {
    FB_TRY(list_alloc(list));
    fb_status status = FB_OK;
    for (size_t i = 0; i < sizeof builtin_lines / sizeof builtin_lines[0] && status == FB_OK; i++)
        status = read_line(builtin_lines[i], "golden/hashes.txt", i + 1, list);
    if (status != FB_OK)
        fb_hash_list_free(list);
    return status;
}

/* Reads the lines of `text`, which are cut into strings in place. */
static fb_status read_lines(char *text, const char *where, fb_hash_list *list) {
    size_t number = 1;
    while (text) {
        char *end = strchr(text, '\n');
        if (end)
            *end = '\0';
        FB_TRY(read_line(text, where, number++, list));
        text = end ? end + 1 : NULL;
    }
    return FB_OK;
}

fb_status fb_hash_list_load(const char *path, fb_hash_list *list) {
    char *text = NULL;
    size_t size = 0;
    FB_TRY(fb_file_read(path, 1 << 20, &text, &size));
    fb_status status = list_alloc(list);
    if (status == FB_OK && strlen(text) != size)
        status = fb_fail(FB_ERROR_FORMAT, "%s: it holds a NUL", path);
    if (status == FB_OK)
        status = read_lines(text, path, list);
    fb_free(text);
    if (status != FB_OK)
        fb_hash_list_free(list);
    return status;
}

static const char list_header[] =
    "# Golden hashes: NAME, XXH3-128 of the outputs' bytes, XXH3-128 of the LSEs' bytes (float32,\n"
    "# little-endian). The cases are those of src/oracle/hash_cases.c; `flashblock selftest`\n"
    "# recomputes them. They are the same on every instruction set and for any number of threads.\n"
    "# A case that has been published keeps its hashes.\n";

static fb_status write_cases(fb_file_writer *writer) {
    FB_TRY(fb_file_writer_put(writer, list_header, sizeof list_header - 1));
    for (size_t i = 0; i < fb_num_hash_cases; i++) {
        fb_hash_result result;
        fb_hashes hashes;
        char line[256];
        FB_TRY(fb_hash_case_compute(i, &result));
        fb_hash_result_digest(&result, &hashes);
        fb_hash_result_free(&result);
        int length = snprintf(line, sizeof line, "%s %s %s\n", fb_hash_cases[i].name, hashes.out,
                              hashes.lse);
        FB_TRY(fb_file_writer_put(writer, line, (size_t)length));
    }
    return FB_OK;
}

fb_status fb_hash_list_write(const char *path) {
    fb_file_writer *writer = NULL;
    FB_TRY(fb_file_writer_open(path, &writer));
    fb_status status = write_cases(writer);
    if (status == FB_OK)
        return fb_file_writer_commit(writer);
    fb_file_writer_abandon(writer);
    return status;
}

/* --- checking --------------------------------------------------------------------------------- */

static bool first_difference(const char *tensor, const float *found, const float *scalar,
                             size_t count, char *text, size_t size) {
    for (size_t i = 0; i < count; i++) {
        uint32_t bits = fb_f32_to_bits(found[i]), scalar_bits = fb_f32_to_bits(scalar[i]);
        if (bits == scalar_bits)
            continue;
        snprintf(text, size, "%s[%zu] is %.9g (0x%08x), the scalar path's %.9g (0x%08x)", tensor, i,
                 (double)found[i], bits, (double)scalar[i], scalar_bits);
        return true;
    }
    return false;
}

bool fb_hash_first_difference(const fb_hash_result *found, const fb_hash_result *scalar, char *text,
                              size_t size) {
    return first_difference("out", found->out, scalar->out, found->num_out, text, size) ||
           first_difference("lse", found->lse, scalar->lse, found->num_lse, text, size);
}

/* The case on the scalar path, on one thread; what was set before is set again. */
static fb_status compute_scalar(size_t index, fb_hash_result *result) {
    fb_isa isa;
    int threads = fb_num_threads();
    FB_TRY(fb_isa_current(&isa));
    FB_TRY(fb_isa_select(FB_ISA_SCALAR));
    fb_status status = fb_set_num_threads(1);
    if (status == FB_OK)
        status = fb_hash_case_compute(index, result);
    FB_TRY(fb_set_num_threads(threads));
    FB_TRY(fb_isa_select(isa));
    return status;
}

static fb_status explain(size_t index, const fb_hash_result *found, fb_hash_finding *finding) {
    fb_hash_result scalar;
    FB_TRY(compute_scalar(index, &scalar));
    if (!fb_hash_first_difference(found, &scalar, finding->detail, sizeof finding->detail))
        snprintf(
            finding->detail, sizeof finding->detail, "%s",
            *finding->expected.out
                ? "the scalar path on one thread gives the same bits: the list has other hashes"
                : "the list has no such case");
    fb_hash_result_free(&scalar);
    return FB_OK;
}

fb_status fb_hash_case_check(size_t index, const fb_hash_list *list, fb_hash_finding *finding) {
    fb_hash_result result;
    FB_TRY(fb_hash_case_compute(index, &result));
    *finding = (fb_hash_finding){.expected = list->entries[index]};
    fb_hash_result_digest(&result, &finding->found);
    finding->out_differs = strcmp(finding->expected.out, finding->found.out) != 0;
    finding->lse_differs = strcmp(finding->expected.lse, finding->found.lse) != 0;
    fb_status status = FB_OK;
    if (finding->out_differs || finding->lse_differs)
        status = explain(index, &result, finding);
    fb_hash_result_free(&result);
    return status;
}
