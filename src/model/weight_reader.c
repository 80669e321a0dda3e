#include "model/weight_reader.h"

#include "base/error.h"
#include "base/memory.h"
#include "base/parallel.h"
#include "model/quantized.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

enum { MAX_NAME = 160, WORD = 4 /* bytes of an int32 */, ROWS_AT_ONCE = 16 };

/* --- tensors ---------------------------------------------------------------------------------- */

static fb_status note_used(fb_weight_reader *reader, const fb_tensor_view *tensor) {
    reader->num_bytes += tensor->bytes;
    return fb_buffer_append(&reader->used, &tensor, sizeof tensor);
}

static fb_status fail_missing(const fb_weight_reader *reader, const char *name) {
    const char *other = fb_checkpoint_similar(reader->checkpoint, name);
    return fb_fail(FB_ERROR_FORMAT, "no tensor called %s%s%s", name,
                   other ? ", but one called " : "", other ? other : "");
}

fb_status fb_weight_find(fb_weight_reader *reader, const char *name, size_t ndim,
                         const size_t *shape, const fb_tensor_view **tensor) {
    const fb_tensor_view *found = fb_checkpoint_find(reader->checkpoint, name);
    fb_dtype dtype = FB_F32;
    if (!found)
        return fail_missing(reader, name);
    FB_TRY(fb_tensor_check_shape(found, ndim, shape));
    FB_TRY(fb_tensor_storage(found, &dtype));
    reader->num_parameters += found->count;
    *tensor = found;
    return note_used(reader, found);
}

/* LAYER.NAME, or NULL. */
static const fb_tensor_view *find_part(const fb_weight_reader *reader, const char *layer,
                                       const char *name) {
    char full[MAX_NAME];
    snprintf(full, sizeof full, "%s.%s", layer, name);
    return fb_checkpoint_find(reader->checkpoint, full);
}

static fb_status get_part(fb_weight_reader *reader, const char *layer, const char *name,
                          const fb_tensor_view **tensor) {
    char full[MAX_NAME];
    *tensor = find_part(reader, layer, name);
    if (*tensor)
        return note_used(reader, *tensor);
    snprintf(full, sizeof full, "%s.%s", layer, name);
    return fail_missing(reader, full);
}

static fb_status check_type(const fb_tensor_view *tensor, fb_tensor_dtype dtype) {
    return tensor->dtype == dtype ? FB_OK
                                  : fb_fail(FB_ERROR_FORMAT, "%s is %s, expected %s", tensor->name,
                                            tensor->dtype_name, fb_tensor_dtype_name(dtype));
}

/* Of integers that are packed into int32. */
static fb_status check_packed(const fb_tensor_view *tensor, size_t rows, size_t columns) {
    FB_TRY(check_type(tensor, FB_TENSOR_I32));
    return fb_tensor_check_shape(tensor, 2, (size_t[]){rows, columns});
}

bool fb_weight_exists(const fb_weight_reader *reader, const char *layer) {
    static const char *const names[] = {"weight", "weight_packed", "qweight"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (find_part(reader, layer, names[i]))
            return true;
    return false;
}

/* --- memory ----------------------------------------------------------------------------------- */

/* Memory that lives as long as the weights. */
static fb_status allocate(fb_weight_reader *reader, size_t count, size_t size, const char *what,
                          void *result) {
    void *memory = NULL;
    FB_TRY(fb_buffer_reserve(&reader->memory, sizeof memory));
    FB_TRY(fb_alloc(count, size, what, &memory));
    memcpy(result, &memory, sizeof memory);
    return fb_buffer_append(&reader->memory, &memory, sizeof memory);
}

void fb_weight_memory_free(fb_buffer *memory) {
    void **pointers = (void **)(void *)memory->data;
    for (size_t i = 0; i < memory->size / sizeof *pointers; i++)
        fb_free(pointers[i]);
    fb_buffer_free(memory);
}

static const char *and_more(size_t count) {
    return count > 1 ? ", ..." : "";
}

fb_status fb_weight_reader_warn(const fb_weight_reader *reader, const char *directory,
                                fb_warnings *warnings) {
    if (reader->num_widened > 0)
        FB_TRY(fb_warn(
            warnings, "%s: no kernel takes %zu of the weights, which become float32: %s%s",
            directory, reader->num_widened, reader->first_widened, and_more(reader->num_widened)));
    if (reader->num_wrapped > 0)
        FB_TRY(fb_warn(warnings, "%s: zero points that other readers may take for another: %s%s",
                       directory, reader->first_wrapped, and_more(reader->num_wrapped)));
    return FB_OK;
}

void fb_weight_reader_free(fb_weight_reader *reader) {
    fb_buffer_free(&reader->used);
}

/* --- quantised weights as the files have them ------------------------------------------------- */

/* The weight in row r and column c is scales[r, g] * (integer[r, c] - zero[r, g]), where integers
 * are 0 to 2^bits - 1 and g is the column's group. */
typedef struct stored_weight {
    const char *name; /* of the tensor with the integers */
    fb_weight_layout layout;
    size_t bits, rows, columns;
    const unsigned char *data;
    size_t bytes;       /* of all data */
    size_t row_bytes;   /* of data; GPTQ: of a row of int32, which has all features */
    size_t group_size;  /* columns, unless group_of says it */
    size_t groups;      /* scales of a row */
    float *scales;      /* [rows, groups] */
    uint8_t *zeros;     /* [rows, groups]; NULL: 2^(bits - 1) */
    uint32_t *group_of; /* [columns], or NULL; belongs to the call */
} stored_weight;

static size_t divide_up(size_t a, size_t b) {
    return (a + b - 1) / b;
}

/* Integer number `index` of a row of int32 that are `stride` bytes apart. */
static unsigned packed_at(const unsigned char *words, size_t stride, size_t index, size_t bits) {
    size_t bit = index * bits;
    unsigned byte = words[bit / 32 * stride + bit % 32 / 8];
    return bits == 8 ? byte : (byte >> (bit % 8)) & 15u;
}

static unsigned integer_at(const stored_weight *w, size_t row, size_t column) {
    switch (w->layout) {
    case FB_WEIGHT_INT8:
        return w->data[row * w->row_bytes + column] ^ 0x80u;
    case FB_WEIGHT_GPTQ:
        return packed_at(w->data + row * WORD, w->row_bytes, column, w->bits);
    case FB_WEIGHT_PACKED:
    case FB_WEIGHT_PLAIN:
        break;
    }
    return packed_at(w->data + row * w->row_bytes, WORD, column, w->bits);
}

/* --- scales ----------------------------------------------------------------------------------- */

static fb_status check_scales(const fb_tensor_view *tensor, const float *scales) {
    for (size_t i = 0; i < tensor->count; i++)
        if (!isfinite(scales[i]))
            return fb_fail(FB_ERROR_FORMAT, "%s: element %zu is %g, and no scale", tensor->name, i,
                           (double)scales[i]);
    return FB_OK;
}

/* One scale for all, for each row, or for each group of a row. */
static fb_status check_span(const fb_tensor_view *tensor, const stored_weight *w,
                            fb_scale_span span) {
    static const size_t one = 1;
    if (span == FB_SCALE_OF_TENSOR)
        return tensor->count == 1 ? FB_OK : fb_tensor_check_shape(tensor, 1, &one);
    if (span == FB_SCALE_OF_ROW && tensor->ndim == 1)
        return fb_tensor_check_shape(tensor, 1, &w->rows);
    return fb_tensor_check_shape(tensor, 2, (size_t[]){w->rows, w->groups});
}

/* Makes [rows, groups] of the one element that `values` begins with. */
static void spread(void *values, size_t size, size_t count) {
    for (size_t i = 1; i < count; i++)
        memcpy((char *)values + i * size, values, size);
}

static fb_status read_scales(fb_weight_reader *reader, const fb_tensor_view *tensor,
                             fb_scale_span span, stored_weight *w) {
    fb_dtype dtype = FB_F32;
    FB_TRY(check_span(tensor, w, span));
    FB_TRY(fb_tensor_storage(tensor, &dtype));
    FB_TRY(allocate(reader, w->rows * w->groups, sizeof *w->scales, tensor->name, &w->scales));
    FB_TRY(fb_tensor_read_f32(tensor, 0, tensor->count, w->scales));
    fb_checkpoint_release(reader->checkpoint, tensor->data, tensor->bytes);
    FB_TRY(check_scales(tensor, w->scales));
    if (span == FB_SCALE_OF_TENSOR)
        spread(w->scales, sizeof *w->scales, w->rows * w->groups);
    return FB_OK;
}

/* --- zero points ------------------------------------------------------------------------------ */

/* Leaves w->zeros NULL where all of them are the middle. */
static void drop_middle(stored_weight *w) {
    for (size_t i = 0; i < w->rows * w->groups; i++)
        if (w->zeros[i] != 1u << (w->bits - 1))
            return;
    w->zeros = NULL;
}

static fb_status allocate_zeros(fb_weight_reader *reader, stored_weight *w) {
    return allocate(reader, w->rows * w->groups, sizeof *w->zeros, "zero points", &w->zeros);
}

/* Signed integers, which the middle is added to. */
static fb_status read_plain_zeros(const fb_tensor_view *tensor, fb_scale_span span,
                                  stored_weight *w) {
    int32_t middle = (int32_t)1 << (w->bits - 1), *values = NULL;
    FB_TRY(check_span(tensor, w, span));
    FB_TRY(fb_alloc(tensor->count, sizeof *values, tensor->name, &values));
    fb_status status = fb_tensor_read_i32(tensor, 0, tensor->count, values);
    for (size_t i = 0; status == FB_OK && i < tensor->count; i++) {
        if (values[i] < -middle || values[i] >= middle)
            status = fb_fail(FB_ERROR_FORMAT, "%s: element %zu is %ld, expected %ld to %ld",
                             tensor->name, i, (long)values[i], (long)-middle, (long)middle - 1);
        else
            w->zeros[i] = (uint8_t)(values[i] + middle);
    }
    fb_free(values);
    if (status == FB_OK && span == FB_SCALE_OF_TENSOR)
        spread(w->zeros, sizeof *w->zeros, w->rows * w->groups);
    return status;
}

/* pack-quantized packs along the rows: int32 of several rows. */
static fb_status read_packed_zeros(const fb_tensor_view *tensor, stored_weight *w) {
    FB_TRY(check_packed(tensor, divide_up(w->rows * w->bits, 32), w->groups));
    const unsigned char *data = tensor->data;
    for (size_t row = 0; row < w->rows; row++)
        for (size_t g = 0; g < w->groups; g++)
            w->zeros[row * w->groups + g] =
                (uint8_t)packed_at(data + g * WORD, w->groups * WORD, row, w->bits);
    return FB_OK;
}

/* Symmetric weights may have zero points, too, which are then 0. */
static fb_status read_zeros(fb_weight_reader *reader, const char *layer,
                            const fb_weight_scheme *scheme, stored_weight *w) {
    static const char name[] = "weight_zero_point";
    const fb_tensor_view *tensor = find_part(reader, layer, name);
    if (!tensor && scheme->symmetric)
        return FB_OK;
    FB_TRY(get_part(reader, layer, name, &tensor));
    FB_TRY(allocate_zeros(reader, w));
    bool packed = scheme->layout == FB_WEIGHT_PACKED && tensor->dtype == FB_TENSOR_I32 &&
                  scheme->span != FB_SCALE_OF_TENSOR;
    FB_TRY(packed ? read_packed_zeros(tensor, w) : read_plain_zeros(tensor, scheme->span, w));
    drop_middle(w);
    if (w->zeros && scheme->symmetric)
        return fb_fail(FB_ERROR_FORMAT, "%s is not 0, but the weights are symmetric", tensor->name);
    return FB_OK;
}

/* --- groups that are not neighbours ----------------------------------------------------------- */

/* The group of every column, if the tensor says any. -1 is what compressed-tensors writes where
 * there is none. */
static fb_status read_groups(const fb_tensor_view *tensor, stored_weight *w) {
    int32_t *values = NULL;
    bool trivial = true, none = false;
    FB_TRY(fb_tensor_check_shape(tensor, 1, &w->columns));
    FB_TRY(fb_alloc(w->columns, sizeof *values, tensor->name, &values));
    fb_status status = fb_tensor_read_i32(tensor, 0, w->columns, values);
    for (size_t i = 0; status == FB_OK && i < w->columns && !none; i++) {
        none = values[i] == -1;
        trivial = trivial && values[i] >= 0 && (size_t)values[i] == i / w->group_size;
        if (!none && (values[i] < 0 || (size_t)values[i] >= w->groups))
            status = fb_fail(FB_ERROR_FORMAT, "%s: element %zu is %ld, but there are %zu groups",
                             tensor->name, i, (long)values[i], w->groups);
    }
    if (status != FB_OK || trivial || none)
        fb_free(values);
    else
        w->group_of = (uint32_t *)values;
    return status;
}

/* --- the layouts ------------------------------------------------------------------------------ */

static fb_status set_groups(const fb_tensor_view *tensor, size_t group_size, stored_weight *w) {
    w->name = tensor->name;
    w->data = tensor->data;
    w->bytes = tensor->bytes;
    w->group_size = group_size && group_size < w->columns ? group_size : w->columns;
    w->groups = divide_up(w->columns, w->group_size);
    return FB_OK;
}

/* compressed-tensors writes the shape of a weight beside its packed form. */
static fb_status check_stated_shape(fb_weight_reader *reader, const char *layer,
                                    const stored_weight *w) {
    const fb_tensor_view *tensor = NULL;
    int64_t shape[2];
    size_t two = 2;
    FB_TRY(get_part(reader, layer, "weight_shape", &tensor));
    FB_TRY(fb_tensor_check_shape(tensor, 1, &two));
    FB_TRY(fb_tensor_read_i64(tensor, 0, 2, shape));
    if (shape[0] != (int64_t)w->rows || shape[1] != (int64_t)w->columns)
        return fb_fail(FB_ERROR_FORMAT, "%s is [%lld, %lld], expected [%zu, %zu]", tensor->name,
                       (long long)shape[0], (long long)shape[1], w->rows, w->columns);
    return FB_OK;
}

static fb_status find_compressed(fb_weight_reader *reader, const char *layer,
                                 const fb_weight_scheme *scheme, stored_weight *w) {
    const fb_tensor_view *tensor = NULL;
    bool packed = scheme->layout == FB_WEIGHT_PACKED;
    w->bits = packed ? scheme->bits : 8; /* int-quantized has bytes, also for fewer bits */
    FB_TRY(get_part(reader, layer, packed ? "weight_packed" : "weight", &tensor));
    if (packed) {
        size_t words = divide_up(w->columns * w->bits, 32);
        FB_TRY(check_packed(tensor, w->rows, words));
        FB_TRY(check_stated_shape(reader, layer, w));
        w->row_bytes = words * WORD;
    } else {
        FB_TRY(check_type(tensor, FB_TENSOR_I8));
        FB_TRY(fb_tensor_check_shape(tensor, 2, (size_t[]){w->rows, w->columns}));
        w->row_bytes = w->columns;
    }
    FB_TRY(set_groups(tensor, scheme->group_size, w));
    FB_TRY(get_part(reader, layer, "weight_scale", &tensor));
    FB_TRY(read_scales(reader, tensor, scheme->span, w));
    FB_TRY(read_zeros(reader, layer, scheme, w));
    tensor = find_part(reader, layer, "weight_g_idx");
    if (!tensor && !scheme->ordered)
        return FB_OK;
    FB_TRY(get_part(reader, layer, "weight_g_idx", &tensor));
    return read_groups(tensor, w);
}

/* The bits of the scheme, or those that the shape has. */
static fb_status find_gptq_integers(fb_weight_reader *reader, const char *layer,
                                    const fb_weight_scheme *scheme, stored_weight *w,
                                    const fb_tensor_view **tensor) {
    FB_TRY(get_part(reader, layer, "qweight", tensor));
    size_t bits = scheme->bits;
    if (bits == 0)
        bits = (*tensor)->ndim == 2 && (*tensor)->shape[0] * 4 == w->columns ? 8 : 4;
    w->bits = bits;
    w->row_bytes = w->rows * WORD;
    return check_packed(*tensor, divide_up(w->columns * bits, 32), w->rows);
}

/* scales [groups, rows] */
static fb_status read_gptq_scales(fb_weight_reader *reader, const fb_tensor_view *tensor,
                                  stored_weight *w) {
    float *values = NULL;
    FB_TRY(fb_tensor_check_shape(tensor, 2, (size_t[]){w->groups, w->rows}));
    FB_TRY(allocate(reader, tensor->count, sizeof *w->scales, tensor->name, &w->scales));
    FB_TRY(fb_alloc(tensor->count, sizeof *values, tensor->name, &values));
    fb_status status = fb_tensor_read_f32(tensor, 0, tensor->count, values);
    if (status == FB_OK)
        status = check_scales(tensor, values);
    for (size_t g = 0; status == FB_OK && g < w->groups; g++)
        for (size_t row = 0; row < w->rows; row++)
            w->scales[row * w->groups + g] = values[g * w->rows + row];
    fb_free(values);
    return status;
}

/* qzeros [groups, rows / 8 or 4]. Without `whole`, the file has 1 less, modulo 2^bits. */
static fb_status read_gptq_zeros(fb_weight_reader *reader, const fb_tensor_view *tensor, bool whole,
                                 stored_weight *w) {
    size_t words = divide_up(w->rows * w->bits, 32);
    unsigned last = (1u << w->bits) - 1;
    bool wraps = false;
    FB_TRY(check_packed(tensor, w->groups, words));
    FB_TRY(allocate_zeros(reader, w));
    const unsigned char *data = tensor->data;
    for (size_t g = 0; g < w->groups; g++)
        for (size_t row = 0; row < w->rows; row++) {
            unsigned stored = packed_at(data + g * words * WORD, WORD, row, w->bits);
            wraps = wraps || (!whole && stored == last);
            w->zeros[row * w->groups + g] = (uint8_t)(whole ? stored : (stored + 1) & last);
        }
    drop_middle(w);
    if (wraps && reader->num_wrapped++ == 0)
        snprintf(reader->first_wrapped, sizeof reader->first_wrapped,
                 "%s holds %u, read as 0 and not as %u", tensor->name, last, last + 1);
    return FB_OK;
}

static fb_status find_gptq(fb_weight_reader *reader, const char *layer,
                           const fb_weight_scheme *scheme, stored_weight *w) {
    const fb_tensor_view *tensor = NULL, *scales = NULL;
    FB_TRY(find_gptq_integers(reader, layer, scheme, w, &tensor));
    FB_TRY(get_part(reader, layer, "scales", &scales));
    size_t group_size = scheme->group_size;
    if (scheme->bits == 0 && scales->ndim == 2 && scales->shape[0] > 0)
        group_size = divide_up(w->columns, scales->shape[0]);
    FB_TRY(set_groups(tensor, group_size, w));
    FB_TRY(read_gptq_scales(reader, scales, w));
    FB_TRY(get_part(reader, layer, "qzeros", &tensor));
    FB_TRY(read_gptq_zeros(reader, tensor, scheme->whole_zeros, w));
    tensor = find_part(reader, layer, "g_idx");
    if (!tensor)
        return FB_OK;
    FB_TRY(note_used(reader, tensor));
    return read_groups(tensor, w);
}

/* --- quantised weights as kernels take them --------------------------------------------------- */

/* The columns in the order of their groups. False where a group but the last is not whole. */
static bool order_columns(const stored_weight *w, uint32_t *order) {
    size_t place = 0;
    for (size_t g = 0; g < w->groups; g++) {
        size_t first = place;
        for (size_t i = 0; i < w->columns; i++)
            if (w->group_of[i] == g)
                order[place++] = (uint32_t)i;
        if (place - first != w->group_size && (g + 1 < w->groups || place != w->columns))
            return false;
    }
    return true;
}

static bool kernels_take(const stored_weight *w) {
    size_t size = w->group_size;
    bool known = size == w->columns || (size >= 32 && size <= 2048 && (size & (size - 1)) == 0);
    return known && (w->bits == 8 ? !w->zeros : w->columns % 2 == 0);
}

/* pack-quantized bytes are the integer plus 128. Products do not take that, rows do. */
static bool is_excess(const fb_weight_reader *reader, const stored_weight *w,
                      const uint32_t *order) {
    return reader->only_rows && !order && w->layout == FB_WEIGHT_PACKED && w->bits == 8 &&
           w->row_bytes == w->columns;
}

/* Whether the file has the bytes that kernels read. */
static bool is_in_place(const stored_weight *w, const uint32_t *order) {
    if (order)
        return false;
    return w->layout == FB_WEIGHT_INT8 ||
           (w->layout == FB_WEIGHT_PACKED && w->bits == 4 && w->row_bytes == w->columns / 2);
}

typedef struct copying {
    const stored_weight *weight;
    const uint32_t *order; /* NULL: columns stay where they are */
    void *to;
} copying;

/* Rows in the order of kernels: one byte or half a byte for each column. */
static void copy_rows(void *context, size_t first, size_t end, size_t worker) {
    (void)worker;
    const copying *job = context;
    const stored_weight *w = job->weight;
    size_t row_bytes = w->columns * w->bits / 8;
    for (size_t row = first; row < end; row++) {
        unsigned char *to = (unsigned char *)job->to + row * row_bytes;
        memset(to, 0, row_bytes);
        for (size_t i = 0; i < w->columns; i++) {
            unsigned u = integer_at(w, row, job->order ? job->order[i] : i);
            if (w->bits == 8)
                to[i] = (unsigned char)(u ^ 0x80u);
            else
                to[i / 2] = (unsigned char)(to[i / 2] | u << (i % 2 * 4));
        }
    }
}

/* GPTQ's int32 of several columns, a row of them for all features, to rows of features. What an
 * int32 holds stays as it is, so far as the columns do. */
static void transpose_words(void *context, size_t first, size_t end, size_t worker) {
    (void)worker;
    const copying *job = context;
    const stored_weight *w = job->weight;
    size_t words = w->columns * w->bits / 32;
    uint32_t flip = w->bits == 8 ? 0x80808080u : 0;
    for (size_t block = first * ROWS_AT_ONCE; block < end * ROWS_AT_ONCE && block < w->rows;
         block += ROWS_AT_ONCE)
        for (size_t k = 0; k < words; k++)
            for (size_t row = block; row < block + ROWS_AT_ONCE && row < w->rows; row++) {
                uint32_t word;
                memcpy(&word, w->data + k * w->row_bytes + row * WORD, sizeof word);
                word ^= flip;
                memcpy((char *)job->to + (row * words + k) * WORD, &word, sizeof word);
            }
}

static void flip_rows(void *context, size_t first, size_t end, size_t worker) {
    (void)worker;
    const copying *job = context;
    const stored_weight *w = job->weight;
    for (size_t row = first; row < end; row++) {
        const unsigned char *from = w->data + row * w->row_bytes;
        unsigned char *to = (unsigned char *)job->to + row * w->columns;
        for (size_t i = 0; i < w->columns; i++)
            to[i] = from[i] ^ 0x80u;
    }
}

static void copy_integers(copying *job) {
    const stored_weight *w = job->weight;
    size_t threads = fb_parallel_threads();
    if (job->order || w->columns * w->bits % 32 != 0)
        fb_parallel_for(w->rows, 0, threads, copy_rows, job);
    else if (w->layout == FB_WEIGHT_GPTQ)
        fb_parallel_for(divide_up(w->rows, ROWS_AT_ONCE), 0, threads, transpose_words, job);
    else
        fb_parallel_for(w->rows, 0, threads, flip_rows, job);
}

static fb_status make_quantized(fb_weight_reader *reader, const stored_weight *w, uint32_t *order,
                                fb_matrix *matrix) {
    fb_quantized *quantized = NULL;
    FB_TRY(allocate(reader, 1, sizeof *quantized, "quantised weights", &quantized));
    *quantized = (fb_quantized){.bits = (int)w->bits,
                                .group_size = w->group_size,
                                .scales = w->scales,
                                .zero_points = w->zeros,
                                .column_order = order,
                                .excess = is_excess(reader, w, order),
                                .float_activations = reader->float_activations};
    *matrix = (fb_matrix){
        .data = w->data, .rows = w->rows, .columns = w->columns, .quantized = quantized};
    if (quantized->excess || is_in_place(w, order))
        return FB_OK;
    copying job = {.weight = w, .order = order};
    FB_TRY(allocate(reader, w->rows, w->columns * w->bits / 8, w->name, &job.to));
    copy_integers(&job);
    fb_checkpoint_release(reader->checkpoint, w->data, w->bytes);
    matrix->data = job.to;
    return FB_OK;
}

/* --- quantised weights as float32 ------------------------------------------------------------- */

static void widen_rows(void *context, size_t first, size_t end, size_t worker) {
    (void)worker;
    const copying *job = context;
    const stored_weight *w = job->weight;
    int middle = 1 << (w->bits - 1);
    for (size_t row = first; row < end; row++)
        for (size_t i = 0; i < w->columns; i++) {
            size_t g = row * w->groups + (w->group_of ? w->group_of[i] : i / w->group_size);
            int zero = w->zeros ? w->zeros[g] : middle;
            ((float *)job->to)[row * w->columns + i] =
                w->scales[g] * (float)((int)integer_at(w, row, i) - zero);
        }
}

static fb_status make_wide(fb_weight_reader *reader, const stored_weight *w, fb_matrix *matrix) {
    size_t count = 0;
    copying job = {.weight = w};
    if (!fb_size_mul(w->rows, w->columns, &count))
        return fb_fail(FB_ERROR_FORMAT, "%s is too large", w->name);
    FB_TRY(allocate(reader, count, sizeof(float), w->name, &job.to));
    fb_parallel_for(w->rows, 0, fb_parallel_threads(), widen_rows, &job);
    fb_checkpoint_release(reader->checkpoint, w->data, w->bytes);
    *matrix = (fb_matrix){.data = job.to, .dtype = FB_F32, .rows = w->rows, .columns = w->columns};
    if (reader->num_widened++ == 0)
        snprintf(reader->first_widened, sizeof reader->first_widened,
                 "%.120s of %zu bits in %sgroups of %zu columns%s", w->name, w->bits,
                 w->group_of ? "uneven " : "", w->group_size, w->zeros ? " with zero points" : "");
    return FB_OK;
}

static fb_status make_matrix(fb_weight_reader *reader, const stored_weight *w, fb_matrix *matrix) {
    uint32_t *order = NULL;
    bool taken = kernels_take(w);
    if (taken && w->group_of) {
        FB_TRY(allocate(reader, w->columns, sizeof *order, "the order of columns", &order));
        taken = order_columns(w, order);
    }
    return taken ? make_quantized(reader, w, order, matrix) : make_wide(reader, w, matrix);
}

/* --- the weight of a layer -------------------------------------------------------------------- */

static fb_status find_plain(fb_weight_reader *reader, const char *layer, size_t rows,
                            size_t columns, fb_matrix *matrix) {
    const fb_tensor_view *tensor = NULL;
    char full[MAX_NAME];
    snprintf(full, sizeof full, "%s.weight", layer);
    FB_TRY(fb_weight_find(reader, full, 2, (size_t[]){rows, columns}, &tensor));
    *matrix = (fb_matrix){.data = tensor->data, .rows = rows, .columns = columns};
    return fb_tensor_storage(tensor, &matrix->dtype);
}

/* Scales of activations, which some writers leave beside the weights. */
static fb_status note_activation_scales(fb_weight_reader *reader, const char *layer) {
    static const char *const names[] = {"input_scale", "input_zero_point", "output_scale",
                                        "output_zero_point", "input_global_scale"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        const fb_tensor_view *tensor = find_part(reader, layer, names[i]);
        if (tensor)
            FB_TRY(note_used(reader, tensor));
    }
    return FB_OK;
}

static fb_status find_quantized(fb_weight_reader *reader, const char *layer,
                                const fb_weight_scheme *scheme, stored_weight *w,
                                fb_matrix *matrix) {
    FB_TRY(scheme->layout == FB_WEIGHT_GPTQ ? find_gptq(reader, layer, scheme, w)
                                            : find_compressed(reader, layer, scheme, w));
    FB_TRY(note_activation_scales(reader, layer));
    reader->num_parameters += w->rows * w->columns;
    return make_matrix(reader, w, matrix);
}

fb_status fb_weight_find_matrix(fb_weight_reader *reader, const char *layer, const char *class_name,
                                size_t rows, size_t columns, fb_matrix *matrix) {
    fb_weight_scheme scheme;
    stored_weight w = {.rows = rows, .columns = columns};
    FB_TRY(fb_quantization_scheme(reader->quantization, layer, class_name, &scheme));
    w.layout = scheme.layout;
    if (scheme.layout == FB_WEIGHT_PLAIN ||
        (scheme.layout == FB_WEIGHT_GPTQ && !find_part(reader, layer, "qweight")))
        return find_plain(reader, layer, rows, columns, matrix);
    fb_status status = find_quantized(reader, layer, &scheme, &w, matrix);
    fb_free(w.group_of);
    return status;
}

fb_status fb_weight_rows(fb_weight_reader *reader, const fb_matrix *matrix, size_t first,
                         size_t count, fb_matrix *rows) {
    fb_matrix part = *matrix;
    part.data = (const char *)matrix->data + fb_matrix_bytes(matrix) / matrix->rows * first;
    part.rows = count;
    part.bias = matrix->bias ? matrix->bias + first : NULL;
    if (matrix->quantized) {
        fb_quantized *own = NULL;
        FB_TRY(allocate(reader, 1, sizeof *own, "quantised weights", &own));
        *own = *matrix->quantized;
        size_t groups = divide_up(matrix->columns, own->group_size);
        own->scales += first * groups;
        own->zero_points = own->zero_points ? own->zero_points + first * groups : NULL;
        part.quantized = own;
    }
    *rows = part;
    return FB_OK;
}
