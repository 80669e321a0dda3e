#include "io/npy.h"

#include "base/error.h"
#include "base/memory.h"
#include "io/file.h"
#include "io/file_kind.h"

#include <stdbool.h>
#include <string.h>

static const char magic[] = "\x93NUMPY";
enum { MAGIC_SIZE = 6, PREFIX_V1 = 10, PREFIX_V2 = 12 };

struct fb_npy {
    char *name;
    fb_file_map map; /* empty when the bytes are the caller's */
    fb_tensor_view tensor;
};

static const struct {
    const char *descr;
    fb_tensor_dtype dtype;
} descriptions[] = {
    {"<f8", FB_TENSOR_F64}, {"<f4", FB_TENSOR_F32}, {"<f2", FB_TENSOR_F16},
    {"<i8", FB_TENSOR_I64}, {"<i4", FB_TENSOR_I32}, {"<i2", FB_TENSOR_I16},
    {"|i1", FB_TENSOR_I8},  {"<u8", FB_TENSOR_U64}, {"<u4", FB_TENSOR_U32},
    {"<u2", FB_TENSOR_U16}, {"|u1", FB_TENSOR_U8},  {"|b1", FB_TENSOR_BOOL},
    {"<i1", FB_TENSOR_I8},  {"<u1", FB_TENSOR_U8},  {"<b1", FB_TENSOR_BOOL},
};

enum { DESCRIPTIONS = sizeof descriptions / sizeof descriptions[0] };

/* Reads the header, a Python dictionary with three known keys, from `at` to `end`. */
typedef struct reader {
    const char *at, *end;
} reader;

static void skip_spaces(reader *r) {
    while (r->at < r->end && (*r->at == ' ' || *r->at == '\n' || *r->at == '\t'))
        r->at++;
}

/* Skips spaces, and `text` if it comes next. */
static bool accept(reader *r, const char *text) {
    skip_spaces(r);
    size_t length = strlen(text);
    if ((size_t)(r->end - r->at) < length || memcmp(r->at, text, length) != 0)
        return false;
    r->at += length;
    return true;
}

static fb_status malformed(const char *what) {
    return fb_fail(FB_ERROR_FORMAT, "header: %s", what);
}

/* 'text' or "text" */
static fb_status read_string(reader *r, char *text, size_t size) {
    char quote = accept(r, "'") ? '\'' : '"';
    if (quote == '"' && !accept(r, "\""))
        return malformed("a string is missing");
    size_t length = 0;
    for (; r->at < r->end && *r->at != quote; r->at++) {
        if (length + 1 == size)
            return malformed("a string is too long");
        text[length++] = *r->at;
    }
    text[length] = '\0';
    char end[2] = {quote, '\0'};
    return accept(r, end) ? FB_OK : malformed("a string does not end");
}

static fb_status read_size(reader *r, size_t *value) {
    skip_spaces(r);
    const char *begin = r->at;
    size_t number = 0;
    for (; r->at < r->end && *r->at >= '0' && *r->at <= '9'; r->at++)
        if (!fb_size_mul(number, 10, &number) ||
            !fb_size_add(number, (size_t)(*r->at - '0'), &number))
            return malformed("a dimension does not fit size_t");
    if (r->at == begin)
        return malformed("shape is not a tuple of sizes");
    (void)accept(r, "L"); /* Python 2 wrote such numbers */
    *value = number;
    return FB_OK;
}

static fb_status read_shape(reader *r, fb_tensor_view *tensor) {
    if (!accept(r, "("))
        return malformed("shape is not a tuple of sizes");
    tensor->ndim = 0;
    while (!accept(r, ")")) {
        if (tensor->ndim == FB_TENSOR_MAX_DIMS)
            return fb_fail(FB_ERROR_UNSUPPORTED, "shape has more than %d dimensions",
                           FB_TENSOR_MAX_DIMS);
        FB_TRY(read_size(r, &tensor->shape[tensor->ndim++]));
        if (accept(r, ","))
            continue;
        return accept(r, ")") ? FB_OK : malformed("shape is not a tuple of sizes");
    }
    return FB_OK;
}

/* What to do about a type that is not in the list. */
static const char *advice(const char *descr) {
    switch (descr[0] == '>' ? '>' : descr[0] ? descr[1] : '\0') {
    case '>':
        return ", big-endian: save it with .astype(array.dtype.newbyteorder('<'))";
    case 'V':
        return ", a type that NumPy does not know, such as bfloat16 of ml_dtypes: save it as "
               "float32, or as safetensors";
    case 'O':
        return ", Python objects: save an array of numbers";
    case 'c':
        return ", complex numbers: save real ones";
    default:
        return ": save it as float32";
    }
}

static fb_status read_dtype(reader *r, fb_tensor_view *tensor) {
    char descr[32];
    if (accept(r, "["))
        return fb_fail(FB_ERROR_UNSUPPORTED, "header: the elements have fields (a structured "
                                             "type); save one field as an array of its own");
    FB_TRY(read_string(r, descr, sizeof descr));
    for (size_t i = 0; i < DESCRIPTIONS; i++)
        if (strcmp(descr, descriptions[i].descr) == 0) {
            tensor->dtype = descriptions[i].dtype;
            tensor->dtype_name = fb_tensor_dtype_name(tensor->dtype);
            return FB_OK;
        }
    return fb_fail(FB_ERROR_UNSUPPORTED, "header: descr is '%s'%s", descr, advice(descr));
}

static fb_status read_order(reader *r, bool *fortran) {
    *fortran = accept(r, "True");
    if (*fortran)
        return FB_OK;
    return accept(r, "False") ? FB_OK : malformed("fortran_order is neither True nor False");
}

static fb_status read_field(reader *r, fb_tensor_view *tensor, bool *fortran, unsigned *seen) {
    char key[16];
    FB_TRY(read_string(r, key, sizeof key));
    if (!accept(r, ":"))
        return malformed("a key without a value");
    static const char *const keys[] = {"descr", "fortran_order", "shape"};
    unsigned field = 0;
    while (field < 3 && strcmp(key, keys[field]) != 0)
        field++;
    if (field == 3 || (*seen & 1u << field))
        return fb_fail(FB_ERROR_FORMAT, "header: key '%s' is unknown or there twice", key);
    *seen |= 1u << field;
    return field == 0   ? read_dtype(r, tensor)
           : field == 1 ? read_order(r, fortran)
                        : read_shape(r, tensor);
}

/* Fortran order is the same order where at most one dimension is not 1. */
static fb_status check_fortran(const fb_tensor_view *tensor) {
    size_t wide = 0;
    for (size_t i = 0; i < tensor->ndim; i++)
        wide += tensor->shape[i] > 1;
    if (wide > 1)
        return fb_fail(FB_ERROR_UNSUPPORTED, "the array is in Fortran order; write it with "
                                             "numpy.ascontiguousarray");
    return FB_OK;
}

static fb_status read_header(reader r, fb_tensor_view *tensor) {
    unsigned seen = 0;
    bool fortran = false;
    if (!accept(&r, "{"))
        return malformed("does not begin with {");
    while (!accept(&r, "}")) {
        FB_TRY(read_field(&r, tensor, &fortran, &seen));
        if (!accept(&r, ",")) {
            if (!accept(&r, "}"))
                return malformed("no , between fields");
            break;
        }
    }
    skip_spaces(&r);
    if (r.at != r.end)
        return malformed("something follows the }");
    if (seen != 7)
        return malformed("descr, fortran_order or shape is missing");
    return fortran ? check_fortran(tensor) : FB_OK;
}

static fb_status find_header(const unsigned char *bytes, size_t size, size_t *start,
                             size_t *length) {
    if (size < PREFIX_V1 || memcmp(bytes, magic, MAGIC_SIZE) != 0) {
        FB_TRY(fb_file_kind_check(bytes, size, "a .npy file"));
        return fb_fail(FB_ERROR_FORMAT, "not a .npy file");
    }
    unsigned version =
        bytes[6]; /* 3 is 2 with a header in UTF-8, which only names of fields need */
    if (version < 1 || version > 3 || bytes[7] != 0)
        return fb_fail(FB_ERROR_UNSUPPORTED, ".npy version %u.%u", version, (unsigned)bytes[7]);
    size_t prefix = version == 1 ? PREFIX_V1 : PREFIX_V2;
    if (size < prefix)
        return fb_fail(FB_ERROR_FORMAT, "%zu bytes are too few for a header", size);
    uint32_t stated = bytes[8] | (uint32_t)bytes[9] << 8;
    if (version > 1)
        stated |= (uint32_t)bytes[10] << 16 | (uint32_t)bytes[11] << 24;
    if (stated > size - prefix)
        return fb_fail(FB_ERROR_FORMAT, "header length is %u, but only %zu bytes follow",
                       (unsigned)stated, size - prefix);
    *start = prefix;
    *length = stated;
    return FB_OK;
}

static fb_status parse_into(fb_tensor_view *tensor, const unsigned char *bytes, size_t size) {
    size_t start = 0, length = 0;
    FB_TRY(find_header(bytes, size, &start, &length));
    const char *header = (const char *)bytes + start;
    FB_TRY(read_header((reader){header, header + length}, tensor));
    FB_TRY(fb_tensor_sizes(tensor->dtype, tensor->ndim, tensor->shape, &tensor->count,
                           &tensor->bytes));
    size_t present = size - start - length;
    if (tensor->bytes != present)
        return fb_fail(FB_ERROR_FORMAT, "%zu elements of %s are %zu bytes, the file holds %zu",
                       tensor->count, tensor->dtype_name, tensor->bytes, present);
    tensor->data = bytes + start + length;
    return FB_OK;
}

fb_status fb_npy_parse(const void *data, size_t size, const char *name, fb_npy **file) {
    fb_npy *made = NULL;
    FB_TRY(fb_alloc_zeroed(1, sizeof *made, ".npy file", &made));
    fb_status status = fb_path_join("", name, &made->name);
    if (status == FB_OK) {
        made->tensor.name = made->name;
        status = parse_into(&made->tensor, data, size);
        if (status != FB_OK)
            fb_fail_in(status, "%s", name);
    }
    if (status != FB_OK) {
        fb_npy_close(made);
        return status;
    }
    *file = made;
    return FB_OK;
}

fb_status fb_npy_open(const char *path, fb_npy **file) {
    fb_file_map map = {0};
    FB_TRY(fb_file_map_open(path, &map));
    fb_npy *made = NULL;
    fb_status status = fb_npy_parse(map.data, map.size, path, &made);
    if (status != FB_OK) {
        fb_file_map_close(&map);
        return status;
    }
    made->map = map;
    *file = made;
    return FB_OK;
}

void fb_npy_close(fb_npy *file) {
    if (!file)
        return;
    fb_file_map_close(&file->map);
    fb_free(file->name);
    fb_free(file);
}

const fb_tensor_view *fb_npy_tensor(const fb_npy *file) {
    return &file->tensor;
}
