/* JSON fields and their errors, and files: maps, bounded reads, atomic writes. */
#include "base/memory.h"
#include "io/file.h"
#include "io/json.h"
#include "io/safetensors.h"
#include "tests/temporary.h"

#include <criterion/criterion.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void expect_message(const char *wanted) {
    cr_expect_str_eq(fb_error_message(), wanted, "message is '%s', not '%s'", fb_error_message(),
                     wanted);
}

static const fb_json *parse(const char *text) {
    const fb_json *object = NULL;
    cr_assert_eq(fb_json_parse(text, strlen(text), "config.json", &object), FB_OK, "%s",
                 fb_error_message());
    return object;
}

Test(json, gives_typed_fields) {
    const fb_json *o = parse("{\"n\":7,\"x\":1e-6,\"whole\":10000,\"b\":true,\"s\":\"silu\","
                             "\"a\":[1],\"o\":{},\"none\":null,\"big\":9223372036854775807}");
    size_t n = 0;
    double x = 0;
    bool b = false;
    const char *s = NULL;
    const fb_json *item = NULL;
    cr_expect_eq(fb_json_get_size(o, "c", "n", 1, 7, &n), FB_OK);
    cr_expect_eq(n, 7u);
    cr_expect_eq(fb_json_get_size(o, "c", "big", 0, SIZE_MAX, &n), FB_OK);
    cr_expect_eq(n, (size_t)INT64_MAX);
    cr_expect_eq(fb_json_get_double(o, "c", "x", &x), FB_OK);
    cr_expect_eq(x, 1e-6);
    cr_expect_eq(fb_json_get_double(o, "c", "whole", &x), FB_OK);
    cr_expect_eq(x, 10000.0);
    cr_expect_eq(fb_json_get_bool(o, "c", "b", &b), FB_OK);
    cr_expect(b);
    cr_expect_eq(fb_json_get_string(o, "c", "s", &s), FB_OK);
    cr_expect_str_eq(s, "silu");
    cr_expect_eq(fb_json_get_array(o, "c", "a", &item), FB_OK);
    cr_expect_eq(fb_json_array_size(item), 1u);
    cr_expect_eq(fb_json_get_object(o, "c", "o", &item), FB_OK);
    cr_expect(fb_json_is_object(item));
    cr_expect(fb_json_has(o, "n") && !fb_json_has(o, "none") && !fb_json_has(o, "m"));
    fb_json_free(o);
}

Test(json, fills_in_what_is_missing_or_null) {
    const fb_json *o = parse("{\"none\":null,\"n\":3}");
    const char *keys[] = {"none", "missing"};
    for (int i = 0; i < 2; i++) {
        size_t n = 0;
        double x = 0;
        bool b = false;
        const char *s = NULL;
        cr_expect_eq(fb_json_get_size_or(o, "c", keys[i], 1, 9, SIZE_MAX, &n), FB_OK);
        cr_expect_eq(n, SIZE_MAX);
        cr_expect_eq(fb_json_get_double_or(o, "c", keys[i], 0.5, &x), FB_OK);
        cr_expect_eq(x, 0.5);
        cr_expect_eq(fb_json_get_bool_or(o, "c", keys[i], true, &b), FB_OK);
        cr_expect(b);
        cr_expect_eq(fb_json_get_string_or(o, "c", keys[i], "else", &s), FB_OK);
        cr_expect_str_eq(s, "else");
    }
    size_t n = 0;
    cr_expect_eq(fb_json_get_size_or(o, "c", "n", 1, 9, 5, &n), FB_OK);
    cr_expect_eq(n, 3u);
    cr_expect_eq(fb_json_get_size_or(o, "c", "n", 4, 9, 5, &n), FB_ERROR_FORMAT);
    fb_json_free(o);
}

Test(json, names_file_field_and_value_in_errors) {
    const fb_json *o = parse("{\"n\":-3,\"x\":1.5,\"s\":\"a\\nb\",\"none\":null,\"l\":[1,2]}");
    size_t n = 42;
    cr_expect_eq(fb_json_get_size(o, "config.json", "n", 1, 64, &n), FB_ERROR_FORMAT);
    expect_message("config.json: n is -3, not in [1, 64]");
    cr_expect_eq(fb_json_get_size(o, "config.json", "x", 1, 64, &n), FB_ERROR_FORMAT);
    expect_message("config.json: x is 1.5, not a whole number");
    cr_expect_eq(fb_json_get_size(o, "config.json", "m", 1, 64, &n), FB_ERROR_FORMAT);
    expect_message("config.json: m is missing");
    cr_expect_eq(fb_json_get_size(o, "config.json", "none", 1, 64, &n), FB_ERROR_FORMAT);
    expect_message("config.json: none is null, not a whole number");
    cr_expect_eq(n, 42u);
    double x = 0;
    cr_expect_eq(fb_json_get_double(o, "config.json", "s", &x), FB_ERROR_FORMAT);
    expect_message("config.json: s is \"a\\nb\", not a number");
    bool b = true;
    cr_expect_eq(fb_json_get_bool(o, "config.json", "n", &b), FB_ERROR_FORMAT);
    expect_message("config.json: n is -3, not true or false");
    const char *s = "unchanged";
    cr_expect_eq(fb_json_get_string(o, "config.json", "l", &s), FB_ERROR_FORMAT);
    expect_message("config.json: l is [1,2], not a string");
    cr_expect_str_eq(s, "unchanged");
    const fb_json *item = o;
    cr_expect_eq(fb_json_get_array(o, "config.json", "s", &item), FB_ERROR_FORMAT);
    cr_expect_eq(fb_json_get_object(o, "config.json", "l", &item), FB_ERROR_FORMAT);
    cr_expect_eq(item, o);
    fb_json_free(o);
}

Test(json, refuses_what_is_not_json) {
    static const char *const texts[] = {
        "",
        " ",
        "{",
        "[]",
        "1",
        "null",
        "{\"a\":1,\"a\":2}",
        "{\"a\":{\"b\":1,\"b\":1}}",
        "{\"a\":\"\xff\"}",
        "{\"a\":\"\\ud800\"}",
        "{\"a\":\"\\u0000\"}",
        "{\"a\":1e999,}",
        "{\"a\":NaN,}",
        "{\"a\":NAN}",
        "{\"a\":-NaN}",
        "{\"a\":+Infinity}",
        "{\"a\":Infinityx}",
        "{NaN:1}",
        "{\"a\":0999999999999999999999}",
        "{\"a\":99999999999999999999.}",
        "{\"a\":1.e999}",
        "{\"a\":\"NaN}",
        "{} {}",
        "{\"a\":01}",
        "{'a':1}",
        "{\"a\":1,}",
        "\xef\xbb\xbf{}",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        const fb_json *object = NULL;
        cr_expect_eq(fb_json_parse(texts[i], strlen(texts[i]), "x.json", &object), FB_ERROR_FORMAT,
                     "'%s' was accepted", texts[i]);
        cr_expect(strncmp(fb_error_message(), "x.json: ", 8) == 0, "%s", fb_error_message());
        cr_expect_null(object);
    }
}

/* Python writes the length of a tokenizer without one as 10^30, and writes NaN and Infinity. They
 * do no harm in fields that nobody reads, and are named where somebody does. */
Test(json, accepts_any_number_that_nobody_uses) {
    const fb_json *o = parse(
        "{\"model_max_length\": 1000000000000000019884624838656, \"n\": 7,\n"
        "\"s\": \"NaN, 1e999 \\\" Infinity\", \"least\": -99999999999999999999,\n"
        "\"real\": -1e999, \"list\": [NaN,Infinity,-Infinity], \"next\": 18446744073709551616}");
    size_t n = 0;
    double x = 0;
    const char *s = NULL;
    const fb_json *item = NULL;
    cr_expect_eq(fb_json_get_size(o, "c", "n", 0, 9, &n), FB_OK);
    cr_expect_eq(n, 7u);
    cr_expect_eq(fb_json_get_string(o, "c", "s", &s), FB_OK);
    cr_expect_str_eq(s, "NaN, 1e999 \" Infinity");
    cr_expect_eq(fb_json_get_double(o, "c", "model_max_length", &x), FB_OK);
    cr_expect_eq(x, 1e30);
    cr_expect_eq(fb_json_get_size(o, "c", "model_max_length", 0, 9, &n), FB_ERROR_FORMAT);
    expect_message("c: model_max_length is 1e+30, not in [0, 9]");
    cr_expect_eq(fb_json_get_size(o, "c", "next", 0, SIZE_MAX, &n), FB_ERROR_FORMAT);
    cr_expect_eq(fb_json_get_size(o, "c", "least", 0, 9, &n), FB_ERROR_FORMAT);
    cr_expect_eq(fb_json_get_double(o, "c", "real", &x), FB_ERROR_FORMAT);
    expect_message("c: real is -1e999, not a number");
    cr_expect_eq(fb_json_get_string(o, "c", "real", &s), FB_ERROR_FORMAT);
    cr_expect_eq(fb_json_get_object(o, "c", "real", &item), FB_ERROR_FORMAT);
    cr_expect_eq(fb_json_get_array(o, "c", "list", &item), FB_OK);
    cr_expect_eq(fb_json_array_size(item), 3u);
    cr_expect_eq(fb_json_size(fb_json_array_get(item, 2), "c", "list", 0, 9, &n), FB_ERROR_FORMAT);
    expect_message("c: list is -Infinity, not a whole number");
    fb_json_free(o);
}

Test(json, refuses_depth_bombs_and_large_files) {
    temporary_make();
    enum { DEPTH = 3000000 };
    char *text = malloc(DEPTH + 5);
    cr_assert(text);
    memcpy(text, "{\"a\":", 5);
    memset(text + 5, '[', DEPTH);
    const char *path = temporary_write("bomb.json", text, DEPTH + 5);
    const fb_json *object = NULL;
    cr_expect_eq(fb_json_load(path, SIZE_MAX, &object), FB_ERROR_FORMAT);
    cr_expect(strstr(fb_error_message(), "depth"), "%s", fb_error_message());
    for (size_t i = 5; i + 5 <= DEPTH; i += 5)
        memcpy(text + i, "{\"a\":", 5);
    path = temporary_write("bomb.json", text, DEPTH);
    cr_expect_eq(fb_json_load(path, SIZE_MAX, &object), FB_ERROR_FORMAT);
    cr_expect_eq(fb_json_load(path, DEPTH - 1, &object), FB_ERROR_FORMAT);
    cr_expect(strstr(fb_error_message(), "more than 2999999 bytes"), "%s", fb_error_message());
    cr_expect_null(object);
    free(text);
    temporary_remove();
}

static int use_json(const void *data, size_t size, void *context) {
    (void)context;
    const fb_json *object = NULL;
    if (fb_json_parse(data, size, "variant", &object) != FB_OK)
        return 0;
    size_t n = 0;
    double x = 0;
    bool b = false;
    const char *s = NULL;
    fb_json_get_size(object, "variant", "hidden_size", 1, 1 << 20, &n);
    fb_json_get_double(object, "variant", "rope_theta", &x);
    fb_json_get_bool(object, "variant", "tie_word_embeddings", &b);
    fb_json_get_string(object, "variant", "architectures", &s);
    fb_json_free(object);
    return 1;
}

Test(json, survives_malformed_variants) {
    static const char text[] =
        "{\"architectures\":[\"SDARForCausalLM\"],\"hidden_size\":128,\"rope_theta\":1e4,"
        "\"tie_word_embeddings\":true,\"rope_scaling\":null,\"text\":\"\\u00e9\\n\xc3\xa9\"}";
    size_t accepted = try_variants(text, sizeof text - 1, 20000, use_json, NULL);
    cr_log_info("%zu of %zu malformed variants were still JSON", accepted, sizeof text + 19999);
    cr_expect(accepted > 0 && accepted < 18000);
}

Test(file, maps_and_reads) {
    temporary_make();
    fb_file_map map = {0};
    const char *path = temporary_write("x", "hello", 5);
    cr_assert_eq(fb_file_map_open(path, &map), FB_OK);
    cr_expect_eq(map.size, 5u);
    cr_expect_arr_eq(map.data, "hello", 5);
    fb_file_map_close(&map);
    fb_file_map_close(&map);
    cr_assert_eq(fb_file_map_open(temporary_write("empty", "", 0), &map), FB_OK);
    cr_expect(map.size == 0 && map.data != NULL);
    fb_file_map_close(&map);
    char *data = NULL;
    size_t size = 0;
    cr_expect_eq(fb_file_read(path, 5, &data, &size), FB_OK);
    cr_expect_eq(size, 5u);
    cr_expect_str_eq(data, "hello");
    fb_free(data);
    data = NULL;
    cr_expect_eq(fb_file_read(path, 4, &data, &size), FB_ERROR_FORMAT);
    cr_expect_null(data);
    temporary_remove();
}

Test(file, reads_more_than_one_buffer) {
    temporary_make();
    enum { SIZE = 1000003 };
    char *text = malloc(SIZE), *data = NULL;
    cr_assert(text);
    for (size_t i = 0; i < SIZE; i++)
        text[i] = (char)(i * 31);
    size_t size = 0;
    cr_assert_eq(fb_file_read(temporary_write("x", text, SIZE), SIZE, &data, &size), FB_OK);
    cr_expect_eq(size, (size_t)SIZE);
    cr_expect(memcmp(data, text, SIZE) == 0);
    fb_free(data);
    free(text);
    temporary_remove();
}

Test(file, refuses_what_is_not_a_file) {
    const char *directory = temporary_make();
    fb_file_map map = {0};
    char *data = NULL;
    size_t size = 0;
    const char *missing = temporary_path("missing");
    cr_expect_eq(fb_file_map_open(missing, &map), FB_ERROR_IO);
    cr_expect(strstr(fb_error_message(), "missing: cannot open: No such file"), "%s",
              fb_error_message());
    cr_expect_eq(fb_file_read(missing, 9, &data, &size), FB_ERROR_IO);
    cr_expect_eq(fb_file_map_open(directory, &map), FB_ERROR_IO);
    cr_expect_eq(fb_file_read(directory, 9, &data, &size), FB_ERROR_IO);
    cr_expect_null(map.data);
    const char *pipe = temporary_path("pipe");
    cr_assert_eq(mkfifo(pipe, 0600), 0);
    cr_expect(fb_file_exists(directory) && fb_file_is_directory(directory));
    cr_expect(fb_file_exists(pipe) && !fb_file_is_directory(pipe));
    cr_expect(!fb_file_exists(missing) && !fb_file_is_directory(missing));
    temporary_remove();
}

Test(file, says_that_a_link_leads_to_nothing) {
    const char *directory = temporary_make();
    fb_file_map map = {0};
    char *data = NULL;
    size_t size = 0;
    const char *link = temporary_path("link"), *chain = temporary_path("chain");
    cr_assert_eq(symlink("../blobs/1234", link), 0);
    cr_assert_eq(symlink("link", chain), 0);
    cr_expect(fb_file_exists(link), "opening it is what says that it leads to nothing");
    cr_expect_eq(fb_file_map_open(link, &map), FB_ERROR_IO);
    cr_expect(strstr(fb_error_message(), "link: is a link to ../blobs/1234, and nothing is there"),
              "%s", fb_error_message());
    cr_expect_eq(fb_file_read(chain, 9, &data, &size), FB_ERROR_IO);
    cr_expect(strstr(fb_error_message(), "chain: is a link to link, and nothing is there"), "%s",
              fb_error_message());
    cr_expect_eq(fb_file_read(temporary_path("link/config.json"), 9, &data, &size), FB_ERROR_IO);
    cr_expect(strstr(fb_error_message(), "/link is a link to ../blobs/1234"), "%s",
              fb_error_message());
    cr_expect_eq(fb_file_read(temporary_path("missing/x"), 9, &data, &size), FB_ERROR_IO);
    cr_expect(strstr(fb_error_message(), "cannot open: No such file"), "%s", fb_error_message());
    cr_expect_eq(fb_file_read("", 9, &data, &size), FB_ERROR_IO);
    cr_assert_eq(unlink(link), 0);
    cr_assert_eq(unlink(chain), 0);
    cr_expect(fb_file_is_directory(directory));
    temporary_remove();
}

Test(file, says_that_a_file_is_a_pointer_of_git_lfs) {
    temporary_make();
    static const char pointer[] =
        "version https://git-lfs.github.com/spec/v1\n"
        "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n"
        "size 12345\n";
    const char *path = temporary_write_text("model.safetensors", pointer);
    fb_safetensors *file = NULL;
    const fb_json *object = NULL;
    char *data = NULL;
    size_t size = 0;
    cr_expect_eq(fb_safetensors_open(path, &file), FB_ERROR_FORMAT);
    cr_expect(strstr(fb_error_message(), "model.safetensors: not a safetensors file but a Git LFS"),
              "%s", fb_error_message());
    cr_expect_null(file);
    cr_expect_eq(fb_json_load(path, 1000, &object), FB_ERROR_FORMAT);
    cr_expect(strstr(fb_error_message(), "model.safetensors: not JSON but a Git LFS pointer"), "%s",
              fb_error_message());
    cr_expect_eq(fb_file_read(path, 1000, &data, &size), FB_OK, "as text it is a text");
    fb_free(data);
    temporary_remove();
}

Test(file, writes_whole_files_or_none) {
    temporary_make();
    const char *path = temporary_write("x", "old", 3);
    fb_file_writer *writer = NULL;
    cr_assert_eq(fb_file_writer_open(path, &writer), FB_OK);
    cr_assert_eq(fb_file_writer_put(writer, "new text", 8), FB_OK);
    size_t size = 0;
    char *data = read_whole(path, &size);
    cr_expect_str_eq(data, "old", "the file changed before the commit");
    free(data);
    fb_file_writer_abandon(writer);
    fb_file_writer_abandon(NULL);
    cr_assert_eq(fb_file_write(path, "new", 3), FB_OK);
    data = read_whole(path, &size);
    cr_expect_str_eq(data, "new");
    free(data);
    cr_expect_eq(fb_file_write("/dev/full", "x", 1), FB_ERROR_IO);
    cr_expect_eq(fb_file_write(temporary_path("no/where"), "x", 1), FB_ERROR_IO);
    temporary_remove();
}

Test(file, joins_paths) {
    char *path = NULL;
    cr_assert_eq(fb_path_join("a", "b", &path), FB_OK);
    cr_expect_str_eq(path, "a/b");
    fb_free(path);
    cr_assert_eq(fb_path_join("a/", "b", &path), FB_OK);
    cr_expect_str_eq(path, "a/b");
    fb_free(path);
    cr_assert_eq(fb_path_join("", "b", &path), FB_OK);
    cr_expect_str_eq(path, "b");
    fb_free(path);
}
