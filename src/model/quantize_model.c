#include "model/quantize_model.h"

#include "base/error.h"
#include "base/memory.h"
#include "base/parallel.h"
#include "io/buffer.h"
#include "io/checkpoint.h"
#include "io/file.h"
#include "io/folder_writer.h"
#include "io/safetensors.h"
#include "model/architectures.h"
#include "model/model_config.h"
#include "model/quantization.h"
#include "model/quantized_config.h"

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAX_NAME = 192,
    BLOCK_BYTES = 16 << 20, /* of integers that are made at a time */
    ALIGNMENT = 64,         /* of the file's first tensor */
    MAX_FILE = 64 << 20,    /* that is copied */
    MAX_PARTS = 4,          /* tensors that one matrix becomes */
};

/* What a tensor of the checkpoint is. */
typedef enum module_role { ROLE_OTHER, ROLE_LINEAR, ROLE_EMBEDDING, ROLE_HEAD } module_role;

/* A tensor of the checkpoint, and how its weights are rounded. */
typedef struct source {
    const fb_tensor_view *tensor;
    char module[MAX_NAME]; /* its name without ".weight" */
    fb_rounding rounding;  /* bits 0: it is copied */
    size_t group_size, groups;
    bool as_bytes;    /* int-quantized: NAME.weight as int8 */
    fb_scale *scales; /* [rows, groups], once the integers are written */
} source;

typedef enum target_part {
    PART_COPY,
    PART_INTEGERS,
    PART_SCALES,
    PART_ZEROS,
    PART_SHAPE
} target_part;

/* A tensor of the new file. */
typedef struct target {
    source *from;
    target_part part;
    char name[MAX_NAME + 32];
} target;

typedef struct job {
    const fb_quantize_options *options;
    const char *directory;
    fb_model_config config;
    const fb_tensor_names *names;
    fb_checkpoint *checkpoint;
    source *sources;
    size_t num_sources;
    target *targets;
    fb_tensor_view *views; /* of the targets */
    size_t num_targets;
    fb_folder_writer *writer;
    fb_quantize_result *result;
    double squares, errors; /* of all weights that are rounded */
    bool unties;            /* the embedding is written a second time, as the head */
} job;

/* --- which tensors are quantised -------------------------------------------------------------- */

/* The name without ".weight"; false where it has another ending. */
static bool module_of(const char *name, char module[MAX_NAME]) {
    static const char ending[] = ".weight";
    size_t length = strlen(name), size = strlen(ending);
    if (length <= size || length - size >= MAX_NAME || strcmp(name + length - size, ending) != 0)
        return false;
    snprintf(module, MAX_NAME, "%.*s", (int)(length - size), name);
    return true;
}

/* "model.layers.N.REST": REST, or NULL. */
static const char *in_layer(const char *module, size_t *layer) {
    static const char prefix[] = "model.layers.";
    char *end = NULL;
    if (strncmp(module, prefix, strlen(prefix)) != 0)
        return NULL;
    *layer = strtoul(module + strlen(prefix), &end, 10);
    return *end == '.' ? end + 1 : NULL;
}

static module_role role_of(const job *j, const fb_tensor_view *tensor, const char *module,
                           size_t *layer) {
    bool is_float = tensor->dtype == FB_TENSOR_F32 || tensor->dtype == FB_TENSOR_BF16 ||
                    tensor->dtype == FB_TENSOR_F16;
    if (tensor->ndim != 2 || !is_float)
        return ROLE_OTHER;
    if (strcmp(module, j->names->embedding) == 0)
        return ROLE_EMBEDDING;
    if (strcmp(module, j->names->head) == 0)
        return ROLE_HEAD;
    const char *rest = in_layer(module, layer);
    bool is_router = rest && j->names->router && strcmp(rest, j->names->router) == 0;
    return rest && !is_router ? ROLE_LINEAR : ROLE_OTHER;
}

static bool layer_is_chosen(const fb_quantize_options *options, size_t layer) {
    return !options->layers || (layer < options->num_layers && options->layers[layer]);
}

static fb_dtype scale_dtype_of(const fb_tensor_view *tensor) {
    return tensor->dtype == FB_TENSOR_BF16  ? FB_BF16
           : tensor->dtype == FB_TENSOR_F16 ? FB_F16
                                            : FB_F32;
}

static fb_status check_columns(const source *s) {
    size_t columns = s->tensor->shape[1], bits = s->rounding.bits;
    if (columns % s->group_size != 0)
        return fb_fail(FB_ERROR_ARGUMENT, "%s has %zu columns, no multiple of the group size %zu",
                       s->tensor->name, columns, s->group_size);
    if (!s->as_bytes && columns % (32 / bits) != 0)
        return fb_fail(FB_ERROR_ARGUMENT,
                       "%s has %zu columns, no multiple of the %zu that an int32 holds",
                       s->tensor->name, columns, 32 / bits);
    return FB_OK;
}

/* The embedding and the head have one scale a row, and no zero points: so other programs read
 * them. */
static fb_status plan_source(const job *j, source *s) {
    const fb_quantize_options *o = j->options;
    size_t layer = 0, bits = 0;
    if (!module_of(s->tensor->name, s->module))
        return FB_OK;
    module_role what = role_of(j, s->tensor, s->module, &layer);
    if (what == ROLE_LINEAR)
        bits = layer_is_chosen(o, layer) ? o->bits : 0;
    else if (what != ROLE_OTHER)
        bits = what == ROLE_EMBEDDING ? o->embedding_bits : o->head_bits;
    if (bits == 0 || bits == FB_BITS_AS_STORED)
        return FB_OK;
    bool linear = what == ROLE_LINEAR;
    s->rounding = (fb_rounding){.bits = bits,
                                .symmetric = linear ? o->symmetric : true,
                                .method = o->method,
                                .scale_dtype = scale_dtype_of(s->tensor)};
    s->group_size = linear && o->group_size ? o->group_size : s->tensor->shape[1];
    s->groups = s->tensor->shape[1] / s->group_size;
    s->as_bytes = linear && bits == 8 && o->group_size == 0 && o->symmetric;
    return check_columns(s);
}

static fb_status plan_sources(job *j) {
    size_t count = fb_checkpoint_count(j->checkpoint);
    FB_TRY(fb_alloc_zeroed(count + 1, sizeof *j->sources, "tensors", &j->sources));
    for (size_t i = 0; i < count; i++) {
        source *s = &j->sources[j->num_sources++];
        s->tensor = fb_checkpoint_at(j->checkpoint, i);
        if (s->tensor->dtype == FB_TENSOR_OTHER)
            return fb_fail(FB_ERROR_UNSUPPORTED, "%s is %s", s->tensor->name,
                           s->tensor->dtype_name);
        FB_TRY(plan_source(j, s));
        j->result->bytes_before += s->tensor->bytes;
    }
    return FB_OK;
}

static source *source_of(job *j, const char *module) {
    for (size_t i = 0; i < j->num_sources; i++)
        if (strcmp(j->sources[i].module, module) == 0)
            return &j->sources[i];
    return NULL;
}

/* A tied head is the embedding. Where the two are to have different bits it is written twice. */
static fb_status plan_tied(job *j) {
    const fb_quantize_options *o = j->options;
    source *embedding = source_of(j, j->names->embedding);
    if (!j->config.tie_word_embeddings || source_of(j, j->names->head) || !embedding ||
        o->embedding_bits == o->head_bits)
        return FB_OK;
    source *head = &j->sources[j->num_sources++];
    *head = (source){.tensor = embedding->tensor};
    snprintf(head->module, MAX_NAME, "%s", j->names->head);
    j->unties = true;
    if (o->head_bits == FB_BITS_AS_STORED)
        return FB_OK;
    head->rounding = (fb_rounding){.bits = o->head_bits,
                                   .symmetric = true,
                                   .method = o->method,
                                   .scale_dtype = scale_dtype_of(head->tensor)};
    head->group_size = head->tensor->shape[1];
    head->groups = 1;
    return check_columns(head);
}

/* --- the tensors of the new file -------------------------------------------------------------- */

static fb_tensor_dtype scale_type(const source *s) {
    return s->rounding.scale_dtype == FB_BF16  ? FB_TENSOR_BF16
           : s->rounding.scale_dtype == FB_F16 ? FB_TENSOR_F16
                                               : FB_TENSOR_F32;
}

static fb_status add_target(job *j, source *s, target_part part, const char *ending,
                            fb_tensor_dtype dtype, size_t ndim, size_t rows, size_t columns) {
    target *t = &j->targets[j->num_targets];
    fb_tensor_view *view = &j->views[j->num_targets++];
    size_t count = 0, bytes = 0;
    *t = (target){.from = s, .part = part};
    if (part == PART_COPY && s->module[0] == '\0')
        snprintf(t->name, sizeof t->name, "%.*s", MAX_NAME, s->tensor->name);
    else
        snprintf(t->name, sizeof t->name, "%s.%s", s->module, ending);
    *view = (fb_tensor_view){.name = t->name, .dtype = dtype, .ndim = ndim};
    view->shape[0] = rows;
    view->shape[1] = columns;
    if (part == PART_COPY) {
        *view = *s->tensor;
        view->name = t->name;
    }
    FB_TRY(fb_tensor_sizes(view->dtype, view->ndim, view->shape, &count, &bytes));
    j->result->bytes_after += bytes;
    return FB_OK;
}

static fb_status add_quantized(job *j, source *s) {
    size_t rows = s->tensor->shape[0], columns = s->tensor->shape[1], each = 32 / s->rounding.bits;
    if (s->as_bytes)
        FB_TRY(add_target(j, s, PART_INTEGERS, "weight", FB_TENSOR_I8, 2, rows, columns));
    else
        FB_TRY(add_target(j, s, PART_INTEGERS, "weight_packed", FB_TENSOR_I32, 2, rows,
                          columns / each));
    FB_TRY(add_target(j, s, PART_SCALES, "weight_scale", scale_type(s), 2, rows, s->groups));
    if (s->rounding.symmetric)
        return FB_OK;
    return add_target(j, s, PART_ZEROS, "weight_zero_point", FB_TENSOR_I32, 2,
                      (rows + each - 1) / each, s->groups);
}

/* First the large ones, whose sizes are multiples of a cache line in models of usual shapes: so
 * they begin at cache lines. */
static fb_status plan_targets(job *j) {
    size_t room = MAX_PARTS * j->num_sources;
    FB_TRY(fb_alloc_zeroed(room, sizeof *j->targets, "tensors", &j->targets));
    FB_TRY(fb_alloc_zeroed(room, sizeof *j->views, "tensors", &j->views));
    for (size_t i = 0; i < j->num_sources; i++)
        if (j->sources[i].rounding.bits != 0)
            FB_TRY(add_quantized(j, &j->sources[i]));
    for (size_t i = 0; i < j->num_sources; i++)
        if (j->sources[i].rounding.bits == 0)
            FB_TRY(add_target(j, &j->sources[i], PART_COPY, "weight", FB_TENSOR_OTHER, 0, 0, 0));
    for (size_t i = 0; i < j->num_sources; i++)
        if (j->sources[i].rounding.bits != 0 && !j->sources[i].as_bytes)
            FB_TRY(
                add_target(j, &j->sources[i], PART_SHAPE, "weight_shape", FB_TENSOR_I64, 1, 2, 0));
    return FB_OK;
}

/* --- rounding --------------------------------------------------------------------------------- */

/* Rows of a matrix that are rounded together. */
typedef struct block {
    const source *source;
    size_t first;             /* row */
    unsigned char *integers;  /* of the block */
    float *weights;           /* [threads, columns] */
    double *squares, *errors; /* [rows of the block] */
    fb_status *statuses;      /* [rows of the block] */
} block;

static bool all_finite(const float *values, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (!isfinite(values[i]))
            return false;
    return true;
}

static void put_integer(const source *s, unsigned char *row, size_t column, unsigned integer) {
    if (s->as_bytes)
        row[column] = (unsigned char)(integer ^ 0x80u);
    else if (s->rounding.bits == 8)
        row[column] = (unsigned char)integer;
    else
        row[column / 2] = (unsigned char)(row[column / 2] | integer << (column % 2 * 4));
}

static void round_row(const block *b, size_t index, const float *weights) {
    const source *s = b->source;
    size_t columns = s->tensor->shape[1], row_bytes = columns * s->rounding.bits / 8;
    unsigned char *to = b->integers + index * row_bytes;
    fb_scale *scales = s->scales + (b->first + index) * s->groups;
    memset(to, 0, row_bytes);
    for (size_t g = 0; g < s->groups; g++) {
        const float *group = weights + g * s->group_size;
        scales[g] = fb_rounding_scale(&s->rounding, group, s->group_size);
        for (size_t i = 0; i < s->group_size; i++) {
            unsigned integer = fb_rounding_integer(&s->rounding, scales[g], group[i]);
            double error = (double)group[i] - (double)fb_scale_value(scales[g], integer);
            b->squares[index] += (double)group[i] * (double)group[i];
            b->errors[index] += error * error;
            put_integer(s, to, g * s->group_size + i, integer);
        }
    }
}

static void round_rows(void *context, size_t first, size_t end, size_t worker) {
    const block *b = context;
    size_t columns = b->source->tensor->shape[1];
    float *weights = b->weights + worker * columns;
    for (size_t index = first; index < end; index++) {
        b->squares[index] = b->errors[index] = 0.0;
        fb_status status =
            fb_tensor_read_f32(b->source->tensor, (b->first + index) * columns, columns, weights);
        if (status == FB_OK && !all_finite(weights, columns))
            status = FB_ERROR_FORMAT;
        b->statuses[index] = status;
        if (status == FB_OK)
            round_row(b, index, weights);
    }
}

static fb_status allocate_block(const source *s, size_t rows, size_t threads, block *b) {
    size_t columns = s->tensor->shape[1];
    *b = (block){.source = s};
    FB_TRY(fb_alloc(rows, columns, "integers", &b->integers));
    FB_TRY(fb_alloc(threads, columns * sizeof *b->weights, "weights", &b->weights));
    FB_TRY(fb_alloc(rows, sizeof *b->squares, "squares", &b->squares));
    FB_TRY(fb_alloc(rows, sizeof *b->errors, "errors", &b->errors));
    return fb_alloc(rows, sizeof *b->statuses, "statuses", &b->statuses);
}

static void free_block(block *b) {
    fb_free(b->integers);
    fb_free(b->weights);
    fb_free(b->squares);
    fb_free(b->errors);
    fb_free(b->statuses);
}

static void note_error(job *j, const source *s, double squares, double errors) {
    double error = squares > 0.0 ? sqrt(errors / squares) : 0.0;
    j->squares += squares;
    j->errors += errors;
    j->result->num_quantized++;
    if (error > j->result->worst_error) {
        j->result->worst_error = error;
        snprintf(j->result->worst, sizeof j->result->worst, "%s", s->module);
    }
}

/* Sums go in the order of rows. */
static fb_status write_block(job *j, block *b, size_t rows, double *squares, double *errors) {
    const source *s = b->source;
    size_t row_bytes = s->tensor->shape[1] * s->rounding.bits / 8;
    fb_parallel_for(rows, 1, fb_parallel_threads(), round_rows, b);
    for (size_t i = 0; i < rows; i++) {
        if (b->statuses[i] != FB_OK)
            return fb_fail(b->statuses[i], "%s: row %zu has a weight that is not finite",
                           s->tensor->name, b->first + i);
        *squares += b->squares[i];
        *errors += b->errors[i];
    }
    const fb_tensor_view *tensor = s->tensor;
    size_t of_row = tensor->shape[0] ? tensor->bytes / tensor->shape[0] : 0;
    fb_checkpoint_release(j->checkpoint, (const char *)tensor->data + b->first * of_row,
                          rows * of_row);
    return fb_folder_writer_put(j->writer, b->integers, rows * row_bytes);
}

static fb_status write_integers(job *j, source *s) {
    size_t rows = s->tensor->shape[0], columns = s->tensor->shape[1];
    size_t at_once = columns ? BLOCK_BYTES / columns + 1 : 1;
    double squares = 0.0, errors = 0.0;
    block b = {0};
    if (at_once > rows)
        at_once = rows;
    FB_TRY(fb_alloc(rows * s->groups, sizeof *s->scales, "scales", &s->scales));
    fb_status status = allocate_block(s, at_once, fb_parallel_threads(), &b);
    for (size_t first = 0; status == FB_OK && first < rows; first += at_once) {
        b.first = first;
        status =
            write_block(j, &b, rows - first < at_once ? rows - first : at_once, &squares, &errors);
    }
    free_block(&b);
    note_error(j, s, squares, errors);
    return status;
}

static fb_status write_scales(job *j, const source *s) {
    size_t count = s->tensor->shape[0] * s->groups;
    fb_dtype dtype = s->rounding.scale_dtype;
    float *values = NULL; /* and then as they are stored */
    FB_TRY(fb_alloc(count, 2 * sizeof *values, "scales", &values));
    for (size_t i = 0; i < count; i++)
        values[i] = s->scales[i].scale;
    fb_status status = fb_from_f32(dtype, values, values + count, count);
    if (status == FB_OK)
        status = fb_folder_writer_put(j->writer, values + count, count * fb_dtype_size(dtype));
    fb_free(values);
    return status;
}

/* int32 of the zero points of several rows. */
static fb_status write_zeros(job *j, const source *s) {
    size_t rows = s->tensor->shape[0], each = 32 / s->rounding.bits;
    size_t words = (rows + each - 1) / each;
    uint32_t *values = NULL;
    FB_TRY(fb_alloc_zeroed(words * s->groups, sizeof *values, "zero points", &values));
    for (size_t row = 0; row < rows; row++)
        for (size_t g = 0; g < s->groups; g++)
            values[row / each * s->groups + g] |= (uint32_t)s->scales[row * s->groups + g].zero
                                                  << (row % each * s->rounding.bits);
    fb_status status = fb_folder_writer_put(j->writer, values, words * s->groups * sizeof *values);
    fb_free(values);
    return status;
}

/* --- the file of the weights ------------------------------------------------------------------ */

static fb_status write_target(job *j, const target *t) {
    source *s = t->from;
    const int64_t shape[2] = {(int64_t)s->tensor->shape[0], (int64_t)s->tensor->shape[1]};
    switch (t->part) {
    case PART_COPY:
        return fb_folder_writer_put(j->writer, s->tensor->data, s->tensor->bytes);
    case PART_INTEGERS:
        return write_integers(j, s);
    case PART_SCALES:
        return write_scales(j, s);
    case PART_ZEROS:
        return write_zeros(j, s);
    case PART_SHAPE:
        return fb_folder_writer_put(j->writer, shape, sizeof shape);
    }
    return FB_OK;
}

static fb_status write_weights(job *j) {
    static const fb_metadata_entry format = {"format", "pt"};
    fb_buffer header = {0};
    fb_status status =
        fb_safetensors_header(j->views, j->num_targets, &format, 1, ALIGNMENT, &header);
    if (status == FB_OK)
        status = fb_folder_writer_begin(j->writer, "model.safetensors");
    if (status == FB_OK)
        status = fb_folder_writer_put(j->writer, header.data, header.size);
    fb_buffer_free(&header);
    for (size_t i = 0; status == FB_OK && i < j->num_targets; i++) {
        const target *t = &j->targets[i];
        if (j->options->on_tensor && t->part != PART_SHAPE)
            j->options->on_tensor(j->options->user, i, j->num_targets, t->name);
        status = write_target(j, t);
        if (i + 1 == j->num_targets || j->targets[i + 1].from != t->from) {
            fb_free(t->from->scales);
            t->from->scales = NULL;
        }
    }
    return status;
}

/* --- the other files -------------------------------------------------------------------------- */

static bool ends_with(const char *name, const char *ending) {
    size_t length = strlen(name), size = strlen(ending);
    return length >= size && strcmp(name + length - size, ending) == 0;
}

/* Configurations, tokenizers, templates, the model's classes and licence. */
static bool is_copied(const char *name) {
    static const char *const endings[] = {".json", ".jinja", ".txt",    ".model", ".tiktoken",
                                          ".py",   ".md",    "LICENSE", "NOTICE"};
    if (name[0] == '.' || strcmp(name, "config.json") == 0 ||
        ends_with(name, ".safetensors.index.json") || ends_with(name, ".bin.index.json"))
        return false;
    for (size_t i = 0; i < sizeof endings / sizeof endings[0]; i++)
        if (ends_with(name, endings[i]))
            return true;
    return false;
}

static fb_status copy_file(job *j, const char *name) {
    char *path = NULL, *data = NULL;
    size_t size = 0;
    FB_TRY(fb_path_join(j->directory, name, &path));
    fb_status status = FB_OK;
    if (fb_file_is_file(path)) {
        status = fb_file_read(path, MAX_FILE, &data, &size);
        if (status == FB_OK)
            status = fb_folder_writer_file(j->writer, name, data, size);
    }
    fb_free(data);
    fb_free(path);
    return status;
}

static fb_status copy_files(job *j) {
    fb_status status = FB_OK;
    DIR *entries = opendir(j->directory);
    if (!entries)
        return fb_fail(FB_ERROR_IO, "%s: cannot be listed", j->directory);
    for (struct dirent *entry; status == FB_OK && (entry = readdir(entries));)
        if (is_copied(entry->d_name))
            status = copy_file(j, entry->d_name);
    closedir(entries);
    return status;
}

/* Which layers of a kind config.json must name as not quantised. */
static fb_status list_ignored(job *j, const char ***names, size_t *count) {
    *count = 0;
    FB_TRY(fb_alloc(j->num_sources + 1, sizeof **names, "names of layers", names));
    for (size_t i = 0; i < j->num_sources; i++) {
        const source *s = &j->sources[i];
        size_t layer = 0;
        bool matrix = s->rounding.bits == 0 && s->tensor->ndim == 2 && s->module[0];
        if (matrix && (in_layer(s->module, &layer) || strcmp(s->module, j->names->head) == 0))
            (*names)[(*count)++] = s->module;
    }
    return FB_OK;
}

static fb_status write_config(job *j) {
    const fb_quantize_options *o = j->options;
    const char **ignored = NULL;
    fb_buffer text = {0};
    fb_quantized_config what = {.bits = o->bits,
                                .group_size = o->group_size,
                                .symmetric = o->symmetric,
                                .embedding_bits = o->embedding_bits,
                                .head_bits = o->head_bits,
                                .unties = j->unties};
    FB_TRY(list_ignored(j, &ignored, &what.num_ignored));
    what.ignored = ignored;
    fb_status status = fb_quantized_config_make(j->directory, &what, &text);
    if (status == FB_OK)
        status = fb_folder_writer_file(j->writer, "config.json", text.data, text.size);
    fb_buffer_free(&text);
    fb_free(ignored);
    return status;
}

/* --- the whole -------------------------------------------------------------------------------- */

static fb_status check_model(job *j, fb_warnings *warnings) {
    fb_quantization *quantization = NULL;
    FB_TRY(fb_model_config_read(j->directory, &j->config, warnings));
    FB_TRY(fb_quantization_read(j->directory, NULL, &quantization));
    bool quantized = quantization != NULL;
    fb_quantization_free(quantization);
    if (quantized)
        return fb_fail(FB_ERROR_UNSUPPORTED, "%s: is quantised already", j->directory);
    j->names = fb_architecture_named(j->config.architecture)->tensors;
    j->result->num_layers = j->config.num_hidden_layers;
    if (j->options->layers && j->options->num_layers > j->config.num_hidden_layers)
        return fb_fail(FB_ERROR_ARGUMENT, "layer %zu is named, but the model has %zu",
                       j->options->num_layers - 1, j->config.num_hidden_layers);
    return fb_checkpoint_open(j->directory, false, warnings, &j->checkpoint);
}

/* config.json comes last: without it nothing loads. */
static fb_status write_all(job *j, const char *output) {
    FB_TRY(fb_folder_writer_open(output, &j->writer));
    FB_TRY(write_weights(j));
    FB_TRY(copy_files(j));
    FB_TRY(write_config(j));
    fb_folder_writer *writer = j->writer;
    j->writer = NULL;
    return fb_folder_writer_commit(writer);
}

static fb_status run(job *j, const char *output, fb_warnings *warnings) {
    FB_TRY(check_model(j, warnings));
    FB_TRY(plan_sources(j));
    FB_TRY(plan_tied(j));
    FB_TRY(plan_targets(j));
    FB_TRY(write_all(j, output));
    j->result->error = j->squares > 0.0 ? sqrt(j->errors / j->squares) : 0.0;
    return FB_OK;
}

fb_status fb_quantize_model(const char *directory, const char *output,
                            const fb_quantize_options *options, fb_quantize_result *result,
                            fb_warnings *warnings) {
    job j = {.options = options, .directory = directory, .result = result};
    *result = (fb_quantize_result){0};
    fb_status status = run(&j, output, warnings);
    fb_folder_writer_abandon(j.writer);
    for (size_t i = 0; i < j.num_sources; i++)
        fb_free(j.sources[i].scales);
    fb_free(j.sources);
    fb_free(j.targets);
    fb_free(j.views);
    fb_checkpoint_close(j.checkpoint);
    return status;
}
