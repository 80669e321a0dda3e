/* The .npy reader: it reads every dtype and rank as NumPy writes them, and refuses malformed files.
 */
#include "io/npy.h"
#include "tests/temporary.h"
#include "tests/write_npy.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A version 1 file, exactly as long as it must be; freed by the caller. */
static unsigned char *make_file(const char *header, const void *data, size_t data_size,
                                size_t *size) {
    size_t length = strlen(header);
    *size = 10 + length + data_size;
    unsigned char *file = malloc(*size);
    cr_assert(file);
    memcpy(file, "\x93NUMPY\1\0", 8);
    file[8] = (unsigned char)(length & 0xff);
    file[9] = (unsigned char)(length >> 8);
    memcpy(file + 10, header, length);
    if (data_size > 0)
        memcpy(file + 10 + length, data, data_size);
    return file;
}

static void expect_refused(const char *header, size_t data_size, fb_status wanted,
                           const char *words) {
    static const char zeros[64];
    size_t size = 0;
    unsigned char *data = make_file(header, zeros, data_size, &size);
    fb_npy *file = NULL;
    cr_expect_eq(fb_npy_parse(data, size, "x.npy", &file), wanted, "%s: %s", header,
                 fb_error_message());
    cr_expect(strstr(fb_error_message(), words), "%s: '%s' does not say '%s'", header,
              fb_error_message(), words);
    cr_expect_null(file);
    free(data);
}

Test(npy, reads_what_numpy_writes) {
    /* numpy.save of numpy.array([[1, 2, 3], [4, 5, 6]], dtype='<f4') */
    static const char header[] = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }"
                                 "                                                          \n";
    const float values[] = {1, 2, 3, 4, 5, 6};
    size_t size = 0;
    unsigned char *data = make_file(header, values, sizeof values, &size);
    fb_npy *file = NULL;
    cr_assert_eq(fb_npy_parse(data, size, "x.npy", &file), FB_OK, "%s", fb_error_message());
    const fb_tensor_view *t = fb_npy_tensor(file);
    cr_expect_eq(t->dtype, FB_TENSOR_F32);
    cr_expect_eq(fb_tensor_check_shape(t, 2, (size_t[]){2, 3}), FB_OK);
    float read[6];
    cr_expect_eq(fb_tensor_read_f32(t, 0, 6, read), FB_OK);
    cr_expect_arr_eq(read, values, sizeof values);
    fb_npy_close(file);
    free(data);
}

Test(npy, accepts_version_2_scalars_and_empty_arrays) {
    static const char version_2[] = "\x93NUMPY\2\0\x3a\0\0\0"
                                    "{'shape':(),\"descr\":\"|u1\",'fortran_order':False}"
                                    "         \n*";
    fb_npy *file = NULL;
    cr_assert_eq(fb_npy_parse(version_2, sizeof version_2 - 1, "x", &file), FB_OK, "%s",
                 fb_error_message());
    cr_expect_eq(fb_npy_tensor(file)->ndim, 0u);
    int64_t value = 0;
    cr_expect_eq(fb_tensor_read_i64(fb_npy_tensor(file), 0, 1, &value), FB_OK);
    cr_expect_eq(value, 42);
    fb_npy_close(file);

    size_t size = 0;
    unsigned char *data =
        make_file("{'descr': '<i8', 'fortran_order': False, 'shape': (0, 3), }", NULL, 0, &size);
    cr_assert_eq(fb_npy_parse(data, size, "x", &file), FB_OK, "%s", fb_error_message());
    cr_expect_eq(fb_npy_tensor(file)->count, 0u);
    fb_npy_close(file);
    free(data);
}

/* As other programs write them: version 3, Fortran order that is C order, Python 2's numbers, types
 * of one byte with a byte order. */
Test(npy, accepts_what_other_programs_write) {
    static const char *const headers[] = {
        "{'descr': '<f4', 'fortran_order': True, 'shape': (2,), }",
        "{'descr': '<f4', 'fortran_order': True, 'shape': (1, 2, 1), }",
        "{'descr': '<f4', 'fortran_order': True, 'shape': (), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1L, 2L), }",
        "{'descr': '<u1', 'fortran_order': False, 'shape': (8,), }",
        "{'descr': '<b1', 'fortran_order': False, 'shape': (8,), }",
    };
    for (size_t i = 0; i < sizeof headers / sizeof headers[0]; i++) {
        static const unsigned char bytes[8];
        size_t size = 0;
        unsigned char *data = make_file(headers[i], bytes, i == 2 ? 4 : 8, &size);
        fb_npy *file = NULL;
        cr_expect_eq(fb_npy_parse(data, size, "x", &file), FB_OK, "%s: %s", headers[i],
                     fb_error_message());
        fb_npy_close(file);
        free(data);
    }
    static const char version_3[] = "\x93NUMPY\3\0\x3a\0\0\0"
                                    "{'shape':(),'descr':'<u1','fortran_order':False}"
                                    "         \n*";
    fb_npy *file = NULL;
    cr_expect_eq(fb_npy_parse(version_3, sizeof version_3 - 1, "x", &file), FB_OK, "%s",
                 fb_error_message());
    fb_npy_close(file);
}

Test(npy, refuses_malformed_headers) {
    static const struct {
        const char *header, *words;
        size_t data_size;
        fb_status status;
    } cases[] = {
        {"{'descr': '<f4', 'fortran_order': True, 'shape': (1, 2, 2), }", "Fortran order", 16,
         FB_ERROR_UNSUPPORTED},
        {"{'descr': '<V2', 'fortran_order': False, 'shape': (2,), }", "bfloat16", 4,
         FB_ERROR_UNSUPPORTED},
        {"{'descr': '<c8', 'fortran_order': False, 'shape': (2,), }", "complex", 16,
         FB_ERROR_UNSUPPORTED},
        {"{'descr': '>f4', 'fortran_order': False, 'shape': (2,), }", "descr is '>f4', big-endian",
         8, FB_ERROR_UNSUPPORTED},
        {"{'descr': '|O', 'fortran_order': False, 'shape': (2,), }", "descr is '|O'", 8,
         FB_ERROR_UNSUPPORTED},
        {"{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2,), }", "structured type", 8,
         FB_ERROR_UNSUPPORTED},
        {"{'descr': 4, 'fortran_order': False, 'shape': (2,), }", "string is missing", 8,
         FB_ERROR_FORMAT},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1,1,1)}", "more than 8", 4,
         FB_ERROR_UNSUPPORTED},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", "the file holds 7", 7,
         FB_ERROR_FORMAT},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", "the file holds 9", 9,
         FB_ERROR_FORMAT},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (-2,), }", "tuple of sizes", 8,
         FB_ERROR_FORMAT},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (2 2), }", "tuple of sizes", 16,
         FB_ERROR_FORMAT},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (2,,), }", "tuple of sizes", 8,
         FB_ERROR_FORMAT},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': 2, }", "tuple of sizes", 8,
         FB_ERROR_FORMAT},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (4194305, 4194305, 211106198978564)}",
         "product of its shape", 4, FB_ERROR_FORMAT},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (36893488147419103233,)}",
         "does not fit", 4, FB_ERROR_FORMAT},
        {"{'descr': '<f4', 'fortran_order': None, 'shape': (2,), }", "neither True nor False", 8,
         FB_ERROR_FORMAT},
        {"{'descr': '<f4', 'shape': (2,), }", "is missing", 8, FB_ERROR_FORMAT},
        {"{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (2,), }",
         "key 'descr' is unknown or there twice", 8, FB_ERROR_FORMAT},
        {"{'x': 1, 'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", "key 'x'", 8,
         FB_ERROR_FORMAT},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (2,), } x", "follows the }", 8,
         FB_ERROR_FORMAT},
        {"{'descr': '<f4' 'fortran_order': False, 'shape': (2,)}", "no , between", 8,
         FB_ERROR_FORMAT},
        {"{'descr' '<f4'}", "a key without a value", 8, FB_ERROR_FORMAT},
        {"{'descr': '<f4", "does not end", 0, FB_ERROR_FORMAT},
        {"", "does not begin with {", 0, FB_ERROR_FORMAT},
        {"{", "a string is missing", 0, FB_ERROR_FORMAT},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        expect_refused(cases[i].header, cases[i].data_size, cases[i].status, cases[i].words);
}

Test(npy, refuses_other_files) {
    fb_npy *file = NULL;
    cr_expect_eq(fb_npy_parse("", 0, "x", &file), FB_ERROR_FORMAT);
    cr_expect_eq(fb_npy_parse("PK\3\4 a zip file", 15, "x", &file), FB_ERROR_FORMAT);
    cr_expect_eq(fb_npy_parse("\x93NUMPY\4\0\0\0", 10, "x", &file), FB_ERROR_UNSUPPORTED);
    cr_expect_eq(fb_npy_parse("\x93NUMPY\2\0\0\0", 10, "x", &file), FB_ERROR_FORMAT);
    cr_expect_eq(fb_npy_parse("\x93NUMPY\1\0\1\0", 10, "x", &file), FB_ERROR_FORMAT);
    cr_expect_null(file);
}

static void expect_read_back(fb_tensor_dtype dtype, size_t ndim, const size_t *shape) {
    fb_tensor_view t = {.name = "t", .dtype = dtype, .ndim = ndim};
    if (ndim > 0)
        memcpy(t.shape, shape, ndim * sizeof *shape);
    cr_assert_eq(fb_tensor_sizes(dtype, ndim, shape, &t.count, &t.bytes), FB_OK);
    unsigned char *bytes = malloc(t.bytes + 1);
    cr_assert(bytes);
    for (size_t i = 0; i < t.bytes; i++)
        bytes[i] = (unsigned char)(i * 37 + 11);
    t.data = bytes;
    const char *path = temporary_path("t.npy");
    write_npy(path, &t);
    fb_npy *file = NULL;
    cr_assert_eq(fb_npy_open(path, &file), FB_OK, "%s", fb_error_message());
    const fb_tensor_view *back = fb_npy_tensor(file);
    cr_expect_eq(back->dtype, dtype);
    cr_expect_eq(fb_tensor_check_shape(back, ndim, shape), FB_OK, "%s", fb_error_message());
    cr_expect_eq(back->bytes, t.bytes);
    cr_expect(t.bytes == 0 || memcmp(back->data, bytes, t.bytes) == 0);
    fb_npy_close(file);
    free(bytes);
}

Test(npy, reads_every_dtype_and_rank) {
    temporary_make();
    const size_t shape[] = {3, 1, 2, 1, 1, 1, 1, 2};
    for (unsigned i = FB_TENSOR_OTHER; i < FB_TENSOR_DTYPE_COUNT; i++) {
        fb_tensor_dtype dtype = (fb_tensor_dtype)i;
        for (size_t ndim = 0; npy_has_dtype(dtype) && ndim <= 8; ndim++)
            expect_read_back(dtype, ndim, shape);
    }
    expect_read_back(FB_TENSOR_F64, 2, (size_t[]){0, 1000000});
    temporary_remove();
}

static int use_file(const void *data, size_t size, void *context) {
    (void)context;
    fb_npy *file = NULL;
    if (fb_npy_parse(data, size, "variant", &file) != FB_OK)
        return 0;
    double last = 0;
    int64_t integer = 0;
    const fb_tensor_view *t = fb_npy_tensor(file);
    if (t->count > 0) {
        fb_tensor_read_f64(t, t->count - 1, 1, &last);
        fb_tensor_read_i64(t, t->count - 1, 1, &integer);
    }
    fb_npy_close(file);
    return 1;
}

Test(npy, survives_malformed_variants) {
    temporary_make();
    expect_read_back(FB_TENSOR_F32, 3, (size_t[]){2, 1, 3});
    size_t size = 0;
    char *data = read_whole(temporary_path("t.npy"), &size);
    size_t accepted = try_variants(data, size, 20000, use_file, NULL);
    cr_log_info("%zu of %zu malformed variants were still well-formed", accepted, size + 20000);
    cr_expect(accepted > 0 && accepted < 12000);
    free(data);
    temporary_remove();
}
