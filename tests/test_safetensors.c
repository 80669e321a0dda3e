/* The safetensors reader, writer and checkpoints: every promise of safetensors.h, and files that
 * other loaders accepted by mistake. */
#include "base/half.h"
#include "io/checkpoint.h"
#include "io/safetensors.h"
#include "tests/temporary.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A file of `header` and data_size bytes 0, 1, 2, ...; exactly as long as it must be, so that a
 * sanitizer sees a read beyond it. Freed by the caller. */
static unsigned char *make_file(const char *header, size_t data_size, size_t *size) {
    size_t length = strlen(header);
    *size = 8 + length + data_size;
    unsigned char *file = malloc(*size);
    cr_assert(file);
    for (size_t i = 0; i < 8; i++)
        file[i] = (unsigned char)((uint64_t)length >> (8 * i));
    memcpy(file + 8, header, length);
    for (size_t i = 0; i < data_size; i++)
        file[8 + length + i] = (unsigned char)i;
    return file;
}

static void expect_refused(const char *header, size_t data_size, fb_status wanted,
                           const char *words) {
    size_t size = 0;
    unsigned char *data = make_file(header, data_size, &size);
    fb_safetensors *file = NULL;
    fb_status status = fb_safetensors_parse(data, size, "test.safetensors", &file);
    cr_expect_eq(status, wanted, "%s: status %d, not %d (%s)", header, status, wanted,
                 fb_error_message());
    cr_expect(file == NULL, "%s: the output was touched", header);
    cr_expect(strstr(fb_error_message(), words), "%s: '%s' does not say '%s'", header,
              fb_error_message(), words);
    cr_expect(strncmp(fb_error_message(), "test.safetensors: ", 18) == 0, "%s: '%s' names no file",
              header, fb_error_message());
    fb_safetensors_close(file);
    free(data);
}

static fb_safetensors *expect_accepted(const char *header, size_t data_size, unsigned char **data) {
    size_t size = 0;
    *data = make_file(header, data_size, &size);
    fb_safetensors *file = NULL;
    fb_status status = fb_safetensors_parse(*data, size, "test.safetensors", &file);
    cr_assert_eq(status, FB_OK, "%s: %s", header, fb_error_message());
    return file;
}

Test(safetensors, refuses_shapes_and_sizes_that_lie) {
    static const struct {
        const char *header, *words;
        size_t data_size;
    } cases[] = {
        /* The product wraps to 4. */
        {"{\"t\":{\"dtype\":\"U8\",\"shape\":[4194305,4194305,211106198978564],"
         "\"data_offsets\":[0,4]}}",
         "product of its shape", 4},
        {"{\"t\":{\"dtype\":\"F32\",\"shape\":[4611686018427387905],\"data_offsets\":[0,4]}}",
         "do not fit", 4},
        {"{\"t\":{\"dtype\":\"F32\",\"shape\":[4398046511105],\"data_offsets\":[0,4]}}",
         "its offsets say 4", 4},
        {"{\"t\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}", "its offsets say 4",
         4},
        {"{\"t\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,8]}}", "its offsets say 8", 8},
        {"{\"t\":{\"dtype\":\"F32\",\"shape\":[9223372036854775807,9,0],\"data_offsets\":[0,0]}}",
         "product of its shape", 0},
        {"{\"t\":{\"dtype\":\"U8\",\"shape\":[-1],\"data_offsets\":[0,4]}}", "shape is -1", 4},
        {"{\"t\":{\"dtype\":\"U8\",\"shape\":[4.0],\"data_offsets\":[0,4]}}", "shape is 4.0", 4},
        {"{\"t\":{\"dtype\":\"U8\",\"shape\":[18446744073709551616],\"data_offsets\":[0,4]}}",
         "shape is 1.8446744073709552e+19, not in", 4},
        {"{\"t\":{\"dtype\":\"U8\",\"shape\":4,\"data_offsets\":[0,4]}}", "shape is 4, not", 4},
        {"{\"t\":{\"dtype\":\"U8\",\"data_offsets\":[0,4]}}", "shape is missing", 4},
        {"{\"t\":{\"shape\":[4],\"data_offsets\":[0,4]}}", "dtype is missing", 4},
        {"{\"t\":{\"dtype\":8,\"shape\":[4],\"data_offsets\":[0,4]}}", "dtype is 8", 4},
        {"{\"t\":[]}", "not an object", 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        expect_refused(cases[i].header, cases[i].data_size, FB_ERROR_FORMAT, cases[i].words);
    expect_refused(
        "{\"t\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,1]}}", 1,
        FB_ERROR_UNSUPPORTED, "9 dimensions");
}

Test(safetensors, refuses_offsets_holes_and_overlaps) {
    static const struct {
        const char *header, *words;
        size_t data_size;
    } cases[] = {
        {"{\"t\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[-4,0]}}", "is -4", 4},
        {"{\"t\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,-1]}}", "is -1", 4},
        {"{\"t\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[4,0]}}",
         "[4, 0], which ends before", 4},
        {"{\"t\":{\"dtype\":\"U8\",\"shape\":[5],\"data_offsets\":[0,5]}}", "it is cut short", 4},
        {"{\"t\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[9223372036854775800,4]}}",
         "[9223372036854775800, 4], which ends before", 4},
        {"{\"t\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0]}}", "1 values", 4},
        {"{\"t\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,2,4]}}", "3 values", 4},
        {"{\"t\":{\"dtype\":\"U8\",\"shape\":[4]}}", "data_offsets is missing", 4},
        {"{\"t\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}", "cover 4", 5},
        {"{}", "cover 0", 1},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
         "\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[3,4]}}",
         "hole", 4},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[1,4]}}", "hole", 4},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]},"
         "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[2,4]}}",
         "inside", 4},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
         "\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}",
         "inside", 4},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
         "\"b\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[2,2]}}",
         "inside", 4},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        expect_refused(cases[i].header, cases[i].data_size, FB_ERROR_FORMAT, cases[i].words);
}

Test(safetensors, refuses_headers_that_are_not_objects_of_tensors) {
    static const struct {
        const char *header, *words;
    } cases[] = {
        {" {}", "begins with byte 0x20"},
        {"[]", "begins with byte 0x5b"},
        {"{", "not JSON"},
        {"{}x", "not JSON"},
        {"{\"t\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]},"
         "\"t\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}",
         "duplicate"},
        {"{\"t\":{\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}",
         "duplicate"},
        {"{\"__metadata__\":[]}", "__metadata__ is not an object"},
        {"{\"__metadata__\":{\"k\":1}}", "__metadata__: k is not a string"},
        {"{\"__metadata__\":{\"k\":null}}", "__metadata__: k is not a string"},
        {"{\"\xff\":{}}", "not JSON"},
        {"{\"a\\u0000b\":{}}", "not JSON"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        expect_refused(cases[i].header, 0, FB_ERROR_FORMAT, cases[i].words);
}

static void expect_length_refused(const void *data, size_t size, const char *words) {
    fb_safetensors *file = NULL;
    cr_expect_eq(fb_safetensors_parse(data, size, "test", &file), FB_ERROR_FORMAT);
    cr_expect(strstr(fb_error_message(), words), "'%s' does not say '%s'", fb_error_message(),
              words);
}

Test(safetensors, refuses_header_lengths) {
    expect_length_refused("", 0, "an empty file");
    expect_length_refused("\1\0\0", 3, "3 bytes are too few");
    expect_length_refused("\2\0\0\0\0\0\0", 7, "7 bytes are too few");
    expect_length_refused("\0\0\0\0\0\0\0\0{}", 10, "header length is 0");
    expect_length_refused("\3\0\0\0\0\0\0\0{}", 10, "header length is 3, but only 2");
    expect_length_refused("\x01\xe1\xf5\x05\0\0\0\0{}", 10, "header length is 100000001");
    expect_length_refused("\xff\xff\xff\xff\xff\xff\xff\xff{}", 10,
                          "header length is 18446744073709551615");
    expect_length_refused("\xfa\xff\xff\xff\xff\xff\xff\xff{}", 10, "header length is 1844");
}

Test(safetensors, refuses_depth_bombs) {
    enum { DEPTH = 1000000 };
    char *header = malloc(6 + DEPTH + 1);
    cr_assert(header);
    memcpy(header, "{\"a\":", 5);
    memset(header + 5, '[', DEPTH);
    header[5 + DEPTH] = '\0';
    expect_refused(header, 0, FB_ERROR_FORMAT, "depth");
    free(header);
}

Test(safetensors, accepts_empty_tensors_padding_and_unknown_types) {
    unsigned char *data = NULL;
    fb_safetensors *file = expect_accepted(
        "{\"__metadata__\":{\"k\":\"v\",\"empty\":\"\"},"
        "\"b\":{\"dtype\":\"F32\",\"shape\":[0,7],\"data_offsets\":[4,4]},"
        "\"a\":{\"dtype\":\"F9\",\"shape\":[3],\"data_offsets\":[0,4],\"later\":[]},"
        "\"c\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[4,4]},"
        "\"d\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[4,5]}}     ",
        5, &data);
    cr_expect_eq(fb_safetensors_count(file), 4u);
    cr_expect_str_eq(fb_safetensors_at(file, 0)->name, "a");
    cr_expect_str_eq(fb_safetensors_at(file, 3)->name, "d");
    const fb_tensor_view *unknown = fb_safetensors_find(file, "a");
    cr_expect_eq(unknown->dtype, FB_TENSOR_OTHER);
    cr_expect_str_eq(unknown->dtype_name, "F9");
    cr_expect_eq(unknown->bytes, 4u);
    float number = 5;
    cr_expect_eq(fb_tensor_read_f32(unknown, 0, 1, &number), FB_ERROR_UNSUPPORTED);
    cr_expect_eq(number, 5.0f);
    cr_expect_eq(fb_safetensors_find(file, "b")->count, 0u);
    cr_expect_eq(fb_tensor_read_f32(fb_safetensors_find(file, "b"), 0, 0, &number), FB_OK);
    cr_expect_eq(fb_safetensors_find(file, "d")->count, 1u);
    cr_expect_str_eq(fb_safetensors_metadata(file, "k"), "v");
    cr_expect_str_eq(fb_safetensors_metadata(file, "empty"), "");
    cr_expect_null(fb_safetensors_metadata(file, "nothing"));
    cr_expect_null(fb_safetensors_find(file, "__metadata__"));
    const fb_tensor_view *missing = unknown;
    cr_expect_eq(fb_safetensors_get(file, "nothing", &missing), FB_ERROR_FORMAT);
    cr_expect_str_eq(fb_error_message(), "test.safetensors: no tensor called nothing");
    cr_expect_eq(missing, unknown);
    fb_safetensors_close(file);
    free(data);

    file = expect_accepted("{\"__metadata__\":null}", 0, &data);
    cr_expect_eq(fb_safetensors_count(file), 0u);
    cr_expect_null(fb_safetensors_metadata(file, "k"));
    fb_safetensors_close(file);
    free(data);

    file = expect_accepted("{}", 0, &data);
    cr_expect_eq(fb_safetensors_count(file), 0u);
    cr_expect_null(fb_safetensors_find(file, "a"));
    cr_expect_null(fb_safetensors_metadata(file, "a"));
    fb_safetensors_close(file);
    free(data);
}

/* One tensor called "t" of `count` elements that begins at an odd address. */
static fb_tensor_view odd_tensor(const char *dtype, const void *elements, size_t count,
                                 size_t bytes, unsigned char **memory) {
    *memory = malloc(bytes + 1);
    cr_assert(*memory);
    memcpy(*memory + 1, elements, bytes);
    fb_tensor_dtype parsed = fb_tensor_dtype_parse(dtype);
    cr_assert_eq(bytes, count * fb_tensor_dtype_size(parsed), "%s", dtype);
    return (fb_tensor_view){.name = "t",
                            .dtype = parsed,
                            .dtype_name = dtype,
                            .ndim = 1,
                            .shape = {count},
                            .count = count,
                            .data = *memory + 1,
                            .bytes = bytes};
}

Test(safetensors, converts_floats_from_any_address) {
    const double f64[] = {0.1, -0.0, 1e300, 3.0};
    const float f32[] = {0.1f, -0.0f, INFINITY, 3.0f};
    const uint16_t bf16[] = {0x3dcd, 0x8000, 0x7f80, 0x4040};
    const uint16_t f16[] = {0x2e66, 0x8000, 0x7c00, 0x4200};
    const struct {
        const char *dtype;
        const void *data;
        size_t size;
        double first;
    } cases[] = {{"F64", f64, sizeof f64, 0.1},
                 {"F32", f32, sizeof f32, (double)0.1f},
                 {"BF16", bf16, sizeof bf16, (double)fb_bf16_to_f32(0x3dcd)},
                 {"F16", f16, sizeof f16, (double)fb_f16_to_f32(0x2e66)}};
    for (size_t i = 0; i < 4; i++) {
        unsigned char *memory = NULL;
        fb_tensor_view t = odd_tensor(cases[i].dtype, cases[i].data, 4, cases[i].size, &memory);
        float narrow[4] = {0};
        double wide[4] = {0};
        cr_assert_eq(fb_tensor_read_f32(&t, 0, 4, narrow), FB_OK);
        cr_assert_eq(fb_tensor_read_f64(&t, 0, 4, wide), FB_OK);
        cr_expect_eq(wide[0], cases[i].first, "%s", cases[i].dtype);
        cr_expect_eq(narrow[0], (float)cases[i].first, "%s", cases[i].dtype);
        cr_expect(signbit(narrow[1]) && signbit(wide[1]), "%s", cases[i].dtype);
        cr_expect(isinf(narrow[2]), "%s", cases[i].dtype);
        cr_expect(narrow[3] == 3.0f && wide[3] == 3.0, "%s", cases[i].dtype);
        cr_expect_eq(fb_tensor_read_f32(&t, 3, 1, narrow), FB_OK);
        cr_expect_eq(narrow[0], 3.0f);
        cr_expect_eq(fb_tensor_read_f32(&t, 3, 2, narrow), FB_ERROR_ARGUMENT);
        cr_expect_eq(fb_tensor_read_f32(&t, 5, 0, narrow), FB_ERROR_ARGUMENT);
        cr_expect_eq(fb_tensor_read_f64(&t, 1, SIZE_MAX, wide), FB_ERROR_ARGUMENT);
        int64_t integer = 0;
        cr_expect_eq(fb_tensor_read_i64(&t, 0, 1, &integer), FB_ERROR_UNSUPPORTED);
        free(memory);
    }
}

Test(safetensors, converts_integers_from_any_address) {
    const uint64_t u64[] = {1, UINT64_MAX};
    const int64_t i64[] = {-1, INT64_MIN};
    const uint32_t u32[] = {1, UINT32_MAX};
    const int32_t i32[] = {-1, INT32_MIN};
    const int16_t i16[] = {-1, INT16_MIN};
    const uint16_t u16[] = {1, UINT16_MAX};
    const int8_t i8[] = {-1, INT8_MIN};
    const uint8_t u8[] = {1, UINT8_MAX};
    const struct {
        const char *dtype;
        const void *data;
        size_t size;
        int64_t first, second;
        fb_status wide, narrow; /* of reading both elements */
    } cases[] = {
        {"U64", u64, sizeof u64, 1, 0, FB_ERROR_FORMAT, FB_ERROR_FORMAT},
        {"I64", i64, sizeof i64, -1, INT64_MIN, FB_OK, FB_ERROR_FORMAT},
        {"U32", u32, sizeof u32, 1, UINT32_MAX, FB_OK, FB_ERROR_FORMAT},
        {"I32", i32, sizeof i32, -1, INT32_MIN, FB_OK, FB_OK},
        {"I16", i16, sizeof i16, -1, INT16_MIN, FB_OK, FB_OK},
        {"U16", u16, sizeof u16, 1, UINT16_MAX, FB_OK, FB_OK},
        {"I8", i8, sizeof i8, -1, INT8_MIN, FB_OK, FB_OK},
        {"U8", u8, sizeof u8, 1, UINT8_MAX, FB_OK, FB_OK},
        {"BOOL", u8, sizeof u8, 1, UINT8_MAX, FB_OK, FB_OK},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        unsigned char *memory = NULL;
        fb_tensor_view t = odd_tensor(cases[i].dtype, cases[i].data, 2, cases[i].size, &memory);
        int64_t wide[2] = {7, 7};
        int32_t narrow[2] = {7, 7};
        cr_expect_eq(fb_tensor_read_i64(&t, 0, 2, wide), cases[i].wide, "%s", cases[i].dtype);
        cr_expect_eq(wide[0], cases[i].wide == FB_OK ? cases[i].first : 7, "%s", cases[i].dtype);
        cr_expect_eq(wide[1], cases[i].wide == FB_OK ? cases[i].second : 7, "%s", cases[i].dtype);
        cr_expect_eq(fb_tensor_read_i32(&t, 0, 2, narrow), cases[i].narrow, "%s", cases[i].dtype);
        cr_expect_eq(narrow[0], cases[i].narrow == FB_OK ? (int32_t)cases[i].first : 7);
        cr_expect_eq(narrow[1], cases[i].narrow == FB_OK ? (int32_t)cases[i].second : 7);
        float number = 0;
        cr_expect_eq(fb_tensor_read_f32(&t, 0, 1, &number), FB_ERROR_UNSUPPORTED);
        fb_dtype storage = FB_F16;
        cr_expect_eq(fb_tensor_storage(&t, &storage), FB_ERROR_UNSUPPORTED);
        free(memory);
    }
}

Test(safetensors, checks_shapes) {
    fb_tensor_view t = {.name = "w", .ndim = 2, .shape = {3, 4}};
    cr_expect_eq(fb_tensor_check_shape(&t, 2, (size_t[]){3, 4}), FB_OK);
    cr_expect_eq(fb_tensor_check_shape(&t, 2, (size_t[]){4, 3}), FB_ERROR_FORMAT);
    cr_expect_str_eq(fb_error_message(), "tensor w has shape [3, 4], expected [4, 3]");
    cr_expect_eq(fb_tensor_check_shape(&t, 1, (size_t[]){3}), FB_ERROR_FORMAT);
    cr_expect_str_eq(fb_error_message(), "tensor w has shape [3, 4], expected [3]");
    fb_tensor_view scalar = {.name = "s"};
    cr_expect_eq(fb_tensor_check_shape(&scalar, 0, NULL), FB_OK);
}

static const float written[6] = {1, 2, 3, 4, 5, 6};
static const uint16_t written_half[3] = {0x3c00, 0x4000, 0x4200};

static const fb_tensor_view written_tensors[] = {
    {.name = "z", .dtype = FB_TENSOR_F32, .ndim = 2, .shape = {2, 3}, .data = written},
    {.name = "a.\"b\"\n", .dtype = FB_TENSOR_F16, .ndim = 1, .shape = {3}, .data = written_half},
    {.name = "empty", .dtype = FB_TENSOR_F64, .ndim = 2, .shape = {0, 5}, .data = NULL},
    {.name = "one", .dtype = FB_TENSOR_U8, .ndim = 0, .data = "\x2a"},
};
static const fb_metadata_entry written_metadata[] = {{"format", "pt"}, {"note", "\"x\"\n\u00e9"}};

Test(safetensors, reads_what_it_writes, .init = (void (*)(void))temporary_make,
     .fini = temporary_remove) {
    const char *path = temporary_path("w.safetensors");
    cr_assert_eq(fb_safetensors_write(path, written_tensors, 4, written_metadata, 2), FB_OK, "%s",
                 fb_error_message());
    fb_safetensors *file = NULL;
    cr_assert_eq(fb_safetensors_open(path, &file), FB_OK, "%s", fb_error_message());
    cr_expect_eq(fb_safetensors_count(file), 4u);
    cr_expect_str_eq(fb_safetensors_metadata(file, "format"), "pt");
    cr_expect_str_eq(fb_safetensors_metadata(file, "note"), "\"x\"\n\u00e9");
    const fb_tensor_view *z = fb_safetensors_find(file, "z");
    cr_assert_not_null(z);
    cr_expect_eq(fb_tensor_check_shape(z, 2, (size_t[]){2, 3}), FB_OK);
    cr_expect_arr_eq(z->data, written, sizeof written);
    cr_expect_eq((uintptr_t)z->data % 8, 0u, "data is not aligned");
    float half[3];
    cr_expect_eq(fb_tensor_read_f32(fb_safetensors_find(file, "a.\"b\"\n"), 0, 3, half), FB_OK);
    cr_expect(half[0] == 1 && half[1] == 2 && half[2] == 3);
    cr_expect_eq(*(const unsigned char *)fb_safetensors_find(file, "one")->data, 42u);
    cr_expect_eq(fb_safetensors_find(file, "empty")->count, 0u);
    fb_safetensors_close(file);
}

Test(safetensors, writes_the_same_bytes_again, .init = (void (*)(void))temporary_make,
     .fini = temporary_remove) {
    const char *first = temporary_path("1"), *second = temporary_path("2");
    cr_assert_eq(fb_safetensors_write(first, written_tensors, 4, written_metadata, 2), FB_OK);
    cr_assert_eq(fb_safetensors_write(second, written_tensors, 4, written_metadata, 2), FB_OK);
    cr_assert_eq(fb_safetensors_write(second, written_tensors, 4, written_metadata, 2), FB_OK,
                 "over a file that is there: %s", fb_error_message());
    size_t first_size = 0, second_size = 0;
    char *a = read_whole(first, &first_size), *b = read_whole(second, &second_size);
    cr_expect_eq(first_size, second_size);
    cr_expect_arr_eq(a, b, first_size);
    /* The header as the writer of the format writes it, with keys in the given order. */
    cr_expect_not_null(strstr(a + 8, "{\"__metadata__\":{\"format\":\"pt\","));
    cr_expect_not_null(strstr(a + 8, "\"z\":{\"dtype\":\"F32\",\"shape\":[2,3],"
                                     "\"data_offsets\":[0,24]}"));
    free(a);
    free(b);
}

Test(safetensors, refuses_to_write_nonsense, .init = (void (*)(void))temporary_make,
     .fini = temporary_remove) {
    const char *path = temporary_path("w");
    fb_tensor_view twice[2] = {written_tensors[0], written_tensors[0]};
    cr_expect_eq(fb_safetensors_write(path, twice, 2, NULL, 0), FB_ERROR_ARGUMENT);
    fb_tensor_view bad = written_tensors[0];
    bad.name = "__metadata__";
    cr_expect_eq(fb_safetensors_write(path, &bad, 1, NULL, 0), FB_ERROR_ARGUMENT);
    bad.name = "\xff";
    cr_expect_eq(fb_safetensors_write(path, &bad, 1, NULL, 0), FB_ERROR_ARGUMENT);
    bad.name = "t";
    bad.dtype = FB_TENSOR_OTHER;
    cr_expect_eq(fb_safetensors_write(path, &bad, 1, NULL, 0), FB_ERROR_ARGUMENT);
    bad.dtype = FB_TENSOR_F32;
    bad.shape[0] = SIZE_MAX / 2;
    cr_expect_eq(fb_safetensors_write(path, &bad, 1, NULL, 0), FB_ERROR_ARGUMENT);
    fb_metadata_entry keys[2] = {{"k", "1"}, {"k", "2"}};
    cr_expect_eq(fb_safetensors_write(path, NULL, 0, keys, 2), FB_ERROR_ARGUMENT);
    keys[1] = (fb_metadata_entry){"l", "\xc3"};
    cr_expect_eq(fb_safetensors_write(path, NULL, 0, keys, 2), FB_ERROR_ARGUMENT);
    cr_expect_eq(fb_safetensors_write(temporary_path("no/where"), written_tensors, 1, NULL, 0),
                 FB_ERROR_IO);
    FILE *file = fopen(path, "rb");
    cr_expect_null(file, "a file was left behind");
}

/* Reads everything that an accepted file offers. */
static int use_file(const void *data, size_t size, void *context) {
    (void)context;
    fb_safetensors *file = NULL;
    if (fb_safetensors_parse(data, size, "variant", &file) != FB_OK)
        return 0;
    for (size_t i = 0; i < fb_safetensors_count(file); i++) {
        const fb_tensor_view *t = fb_safetensors_at(file, i);
        cr_assert_eq(fb_safetensors_find(file, t->name), t);
        double last = 0;
        int64_t integer = 0;
        if (t->count > 0 && t->dtype != FB_TENSOR_OTHER) {
            fb_tensor_read_f64(t, t->count - 1, 1, &last);
            fb_tensor_read_i64(t, t->count - 1, 1, &integer);
        }
    }
    fb_safetensors_close(file);
    return 1;
}

Test(safetensors, survives_malformed_variants, .init = (void (*)(void))temporary_make,
     .fini = temporary_remove) {
    const char *path = temporary_path("w.safetensors");
    cr_assert_eq(fb_safetensors_write(path, written_tensors, 4, written_metadata, 2), FB_OK);
    size_t size = 0;
    char *data = read_whole(path, &size);
    size_t accepted = try_variants(data, size, 20000, use_file, NULL);
    cr_log_info("%zu of %zu malformed variants were still well-formed", accepted, size + 20000);
    cr_expect(accepted > 0 && accepted < 10000);
    cr_expect_eq(use_file(data, size, NULL), 1);
    free(data);
}

Test(safetensors, finds_tensors_among_many) {
    enum { MANY = 20000 };
    size_t capacity = MANY * 80 + 16, used = 0;
    char *header = malloc(capacity);
    cr_assert(header);
    header[used++] = '{';
    for (int i = 0; i < MANY; i++)
        used += (size_t)snprintf(header + used, capacity - used,
                                 "%s\"t%d\":{\"dtype\":\"U8\",\"shape\":[1],"
                                 "\"data_offsets\":[%d,%d]}",
                                 i ? "," : "", i, i, i + 1);
    snprintf(header + used, capacity - used, "}");
    unsigned char *data = NULL;
    fb_safetensors *file = expect_accepted(header, MANY, &data);
    for (int i = 0; i < MANY; i++) {
        char name[16];
        snprintf(name, sizeof name, "t%d", i);
        const fb_tensor_view *t = fb_safetensors_find(file, name);
        cr_assert(t && *(const unsigned char *)t->data == (unsigned char)i, "%s", name);
    }
    fb_safetensors_close(file);
    free(data);
    free(header);
}

/* What people have under the name of a safetensors file. */
Test(safetensors, says_what_another_file_is) {
    static const struct {
        const char *bytes;
        size_t size;
        const char *words;
    } files[] = {
#define BYTES(text) text, sizeof text - 1
        {BYTES("<!DOCTYPE html>\n<html class=\"\">"), "a web page (HTML)"},
        {BYTES("\n\n  <html><head>"), "a web page (HTML)"},
        {BYTES("GGUF\3\0\0\0\x23\1\0\0"), "a GGUF file"},
        {BYTES("PK\3\4\0\0\0\0\0\0\0\0"), "a zip archive"},
        {BYTES("\x80\2\x8a\nl\xfc\x9c\x46\xf9 j\xa8P\x19.\x80\2M"), "a pickle of Python"},
        {BYTES("\x1f\x8b\x08\0\0\0\0\0\0\3"), "a compressed file"},
        {BYTES("{\"error\":\"Repository not found\"}"), "JSON text"},
        {BYTES("Entry not found"), "plain text"},
        {BYTES("Invalid username or password."), "plain text"},
        {BYTES("<?xml version=\"1.0\"?><Error>"), "XML"},
        {BYTES("\x93NUMPY\1\0\x76\0{'descr"), "a .npy file of NumPy"},
        {BYTES("\0\0\0\0\0\0\0\0\0\0\0\0"), "begins with zeros"},
        {BYTES("\x89HDF\r\n\x1a\n\0\0\0\0"), "an HDF5 file"},
        {BYTES("version https://git-lfs.github.com/spec/v1\noid"), "a Git LFS pointer"},
        {BYTES(""), "an empty file"},
#undef BYTES
    };
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++)
        expect_length_refused(files[i].bytes, files[i].size, files[i].words);
}

static const char single[] = "model.safetensors";
static const char sharded[] = "model.safetensors.index.json";

static void write_shard(const char *file, const char *tensor, const float *value) {
    fb_tensor_view view = {
        .name = tensor, .dtype = FB_TENSOR_F32, .ndim = 1, .shape = {1}, .data = value};
    cr_assert_eq(fb_safetensors_write(temporary_path(file), &view, 1, NULL, 0), FB_OK);
}

static void expect_checkpoint_refused(const char *directory, fb_status wanted, const char *words) {
    fb_checkpoint *checkpoint = NULL;
    fb_status status = fb_checkpoint_open(directory, false, NULL, &checkpoint);
    cr_expect_eq(status, wanted, "%s: status %d", words, status);
    cr_expect(strstr(fb_error_message(), words), "'%s' does not say '%s'", fb_error_message(),
              words);
    cr_expect_null(checkpoint);
}

Test(checkpoint, opens_one_file_or_shards) {
    const char *directory = temporary_make();
    expect_checkpoint_refused(directory, FB_ERROR_IO, "holds neither");
    write_shard(single, "x", &written[0]);
    fb_checkpoint *checkpoint = NULL;
    cr_assert_eq(fb_checkpoint_open(directory, false, NULL, &checkpoint), FB_OK, "%s",
                 fb_error_message());
    cr_expect(fb_checkpoint_find(checkpoint, "x"));
    fb_checkpoint_close(checkpoint);

    temporary_write_text(sharded, "{\"metadata\":{\"total_size\":1},\"weight_map\":{"
                                  "\"c\":\"2.safetensors\",\"a\":\"1.safetensors\"}}");
    fb_warnings warnings = {0}; /* the single file goes first, as in transformers */
    cr_assert_eq(fb_checkpoint_open(directory, false, &warnings, &checkpoint), FB_OK, "%s",
                 fb_error_message());
    cr_expect(fb_checkpoint_find(checkpoint, "x"));
    cr_expect_null(fb_checkpoint_find(checkpoint, "a"));
    fb_checkpoint_close(checkpoint);
    cr_assert_eq(warnings.count, 1u);
    cr_expect(strstr(warnings.texts[0], "model.safetensors is used, and not the files"), "%s",
              warnings.texts[0]);
    fb_warnings_free(&warnings);
    cr_assert_eq(remove(temporary_path(single)), 0);
    expect_checkpoint_refused(directory, FB_ERROR_IO, "1.safetensors: cannot open");
    write_shard("1.safetensors", "a", &written[0]);
    write_shard("2.safetensors", "b", &written[1]);
    warnings = (fb_warnings){0}; /* nobody may need c; other loaders read what the files hold */
    cr_assert_eq(fb_checkpoint_open(directory, false, &warnings, &checkpoint), FB_OK, "%s",
                 fb_error_message());
    cr_expect(fb_checkpoint_find(checkpoint, "a") && fb_checkpoint_find(checkpoint, "b"));
    cr_expect_null(fb_checkpoint_find(checkpoint, "c"));
    fb_checkpoint_close(checkpoint);
    cr_assert_eq(warnings.count, 1u);
    cr_expect(strstr(warnings.texts[0], "index.json places 1 tensor in files that do not have it: "
                                        "c in 2.safetensors"),
              "%s", warnings.texts[0]);
    fb_warnings_free(&warnings);
    write_shard("2.safetensors", "c", &written[2]);
    checkpoint = NULL;
    cr_assert_eq(fb_checkpoint_open(directory, false, NULL, &checkpoint), FB_OK, "%s",
                 fb_error_message());
    const fb_tensor_view *found = fb_checkpoint_find(checkpoint, "c");
    float value = 0;
    cr_assert(found);
    cr_expect_eq(fb_tensor_read_f32(found, 0, 1, &value), FB_OK);
    cr_expect_eq(value, 3.0f);
    cr_expect(fb_checkpoint_find(checkpoint, "a"));
    cr_expect_null(fb_checkpoint_find(checkpoint, "b"));
    fb_checkpoint_close(checkpoint);
    temporary_remove();
}

static void expect_value(const fb_checkpoint *checkpoint, const char *name, float wanted) {
    const fb_tensor_view *found = fb_checkpoint_find(checkpoint, name);
    float value = 0;
    cr_assert(found, "%s", name);
    cr_expect_eq(fb_tensor_read_f32(found, 0, 1, &value), FB_OK);
    cr_expect_eq(value, wanted, "%s is %g", name, (double)value);
}

static fb_checkpoint *open_checkpoint(const char *directory) {
    fb_checkpoint *checkpoint = NULL;
    cr_assert_eq(fb_checkpoint_open(directory, false, NULL, &checkpoint), FB_OK, "%s",
                 fb_error_message());
    return checkpoint;
}

static void write_two(const char *file, const char *first, float a, const char *second, float b) {
    fb_tensor_view views[] = {
        {.name = first, .dtype = FB_TENSOR_F32, .ndim = 1, .shape = {1}, .data = &a},
        {.name = second, .dtype = FB_TENSOR_F32, .ndim = 1, .shape = {1}, .data = &b},
    };
    cr_assert_eq(fb_safetensors_write(temporary_path(file), views, 2, NULL, 0), FB_OK);
}

Test(checkpoint, takes_paths_within_the_directory) {
    const char *directory = temporary_make();
    write_shard("1.safetensors", "a", &written[0]);
    temporary_write_text(sharded, "{\"weight_map\":{\"a\":\"./1.safetensors\"}}");
    fb_checkpoint *checkpoint = open_checkpoint(directory);
    expect_value(checkpoint, "a", written[0]);
    cr_expect_str_eq(fb_checkpoint_similar(checkpoint, "model.a"), "a");
    cr_expect_null(fb_checkpoint_similar(checkpoint, "b"));
    fb_checkpoint_close(checkpoint);
    static const char *const out[] = {"../1.safetensors", "a/../../b", "a//b", "/a", "a/", ""};
    for (size_t i = 0; i < sizeof out / sizeof out[0]; i++) {
        char text[256];
        snprintf(text, sizeof text, "{\"weight_map\":{\"a\":\"%s\"}}", out[i]);
        temporary_write_text(sharded, text);
        expect_checkpoint_refused(directory, FB_ERROR_FORMAT, "is not a file in the model's");
    }
    temporary_remove();
}

Test(checkpoint, says_what_is_there_instead) {
    static const struct {
        const char *name, *words;
    } files[] = {
        {"pytorch_model.bin", "it holds pytorch_model.bin: save the weights with safetensors"},
        {"model.gguf", "it holds model.gguf"},
        {"consolidated.safetensors", "must be called model.safetensors"},
        {"model.safetensors.incomplete", "did not finish"},
    };
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        const char *directory = temporary_make();
        temporary_write_text(files[i].name, "x");
        expect_checkpoint_refused(directory, FB_ERROR_IO, files[i].words);
        temporary_remove();
    }
}

/* Some writers add an index to a single file (mlx_lm does). */
Test(checkpoint, takes_an_index_beside_its_only_file) {
    const char *directory = temporary_make();
    write_two(single, "x", 1.0f, "y", 2.0f);
    static const char *const indexes[] = {
        "{\"weight_map\":{\"x\":\"model.safetensors\",\"y\":\"model.safetensors\"}}",
        "{\"weight_map\":{\"x\":\"model.safetensors\"}}",
        "{\"weight_map\":{}}",
    };
    for (size_t i = 0; i < sizeof indexes / sizeof *indexes; i++) {
        temporary_write_text(sharded, indexes[i]);
        fb_checkpoint *checkpoint = open_checkpoint(directory);
        expect_value(checkpoint, "x", 1.0f);
        expect_value(checkpoint, "y", 2.0f);
        fb_checkpoint_close(checkpoint);
    }
    temporary_write_text(sharded, "{\"weight_map\":{\"z\":\"model.safetensors\"}}");
    fb_checkpoint *checkpoint = open_checkpoint(directory);
    expect_value(checkpoint, "x", 1.0f);
    cr_expect_null(fb_checkpoint_find(checkpoint, "z"));
    fb_checkpoint_close(checkpoint);
    temporary_remove();
}

/* A file that does not have what the index says it has does not hide another one that does. */
Test(checkpoint, finds_misplaced_tensors) {
    const char *directory = temporary_make();
    write_two("1.safetensors", "a", 1.0f, "b", 2.0f);
    write_two("2.safetensors", "c", 3.0f, "d", 4.0f);
    temporary_write_text(sharded,
                         "{\"weight_map\":{\"a\":\"2.safetensors\",\"b\":\"1.safetensors\"}}");
    fb_checkpoint *checkpoint = open_checkpoint(directory);
    expect_value(checkpoint, "a", 1.0f);
    expect_value(checkpoint, "d", 4.0f);
    fb_checkpoint_close(checkpoint);
    write_two("2.safetensors", "b", 3.0f, "d", 4.0f); /* in both, and the index says which */
    checkpoint = open_checkpoint(directory);
    expect_value(checkpoint, "b", 2.0f);
    fb_checkpoint_close(checkpoint);
    temporary_write_text(sharded,
                         "{\"weight_map\":{\"b\":\"1.safetensors\",\"d\":\"2.safetensors\","
                         "\"e\":\"2.safetensors\"}}");
    write_two("2.safetensors", "a", 3.0f, "d", 4.0f); /* a: in both, and nobody says which */
    expect_checkpoint_refused(directory, FB_ERROR_FORMAT, "more than one tensor is called a");
    temporary_remove();
}

/* Other loaders read every tensor of every file. */
Test(checkpoint, holds_tensors_that_the_index_does_not_name) {
    const char *directory = temporary_make();
    write_two("1.safetensors", "a", 1.0f, "both", 2.0f);
    write_two("2.safetensors", "both", 3.0f, "c", 4.0f);
    temporary_write_text(sharded,
                         "{\"weight_map\":{\"a\":\"1.safetensors\",\"both\":\"2.safetensors\"}}");
    fb_checkpoint *checkpoint = open_checkpoint(directory);
    expect_value(checkpoint, "a", 1.0f);
    expect_value(checkpoint, "both", 3.0f);
    expect_value(checkpoint, "c", 4.0f);
    fb_checkpoint_close(checkpoint);
    temporary_write_text(sharded,
                         "{\"weight_map\":{\"a\":\"1.safetensors\",\"c\":\"2.safetensors\"}}");
    expect_checkpoint_refused(directory, FB_ERROR_FORMAT, "more than one tensor is called both");
    temporary_remove();
}

Test(checkpoint, refuses_bad_indexes) {
    const char *directory = temporary_make();
    static const struct {
        const char *index, *words;
        fb_status status;
    } cases[] = {
        {"{\"weight_map\":{\"a\":\"../1.safetensors\"}}", "'../1.safetensors' is not a file in",
         FB_ERROR_FORMAT},
        {"{\"weight_map\":{\"a\":\"/etc/passwd\"}}", "'/etc/passwd' is not a file in",
         FB_ERROR_FORMAT},
        {"{\"weight_map\":{\"a\":\"..\"}}", "'..' is not a file in", FB_ERROR_FORMAT},
        {"{\"weight_map\":{\"a\":\".\"}}", "'.' is not a file in", FB_ERROR_FORMAT},
        {"{\"weight_map\":{\"a\":\"\"}}", "'' is not a file in", FB_ERROR_FORMAT},
        {"{\"weight_map\":{\"a\":1}}", "a is 1, not a string", FB_ERROR_FORMAT},
        {"{\"weight_map\":[]}", "weight_map is [], not an object", FB_ERROR_FORMAT},
        {"{}", "weight_map is missing", FB_ERROR_FORMAT},
        {"[]", "not a JSON object", FB_ERROR_FORMAT},
        {"", "not JSON", FB_ERROR_FORMAT},
        {"{\"weight_map\":{\"a\":\"model.safetensors.index.json\"}}", "not a safetensors file",
         FB_ERROR_FORMAT},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        temporary_write_text(sharded, cases[i].index);
        expect_checkpoint_refused(directory, cases[i].status, cases[i].words);
    }
    temporary_remove();
    expect_checkpoint_refused("/nonexistent", FB_ERROR_IO, "/nonexistent: holds neither");
}
