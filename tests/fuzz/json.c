/* JSON in memory: read, asked for every type, written, and read again. What is written stays the
 * same from then on. */
#include "io/json_write.h"
#include "tests/fuzz/fuzz.h"

#include <string.h>

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
    return fuzz_mutate_one(data, size, max_size, seed);
}

static void check(bool holds) {
    if (!holds)
        __builtin_trap();
}

/* Every getter takes a value of any type. */
static void ask(const fb_json *value) {
    size_t size = 0;
    int64_t number = 0;
    double real = 0;
    const char *text = NULL;
    fb_json_size(value, "fuzz", "key", 1, 1000, &size);
    fb_json_int64(value, "fuzz", "key", -5, 5, &number);
    if (fb_json_double(value, "fuzz", "key", &real) == FB_OK)
        check(real - real == 0);
    if (fb_json_text(value, "fuzz", "key", &text) == FB_OK)
        check(strlen(text) < SIZE_MAX);
    for (size_t i = 0; i < fb_json_array_size(value); i++)
        ask(fb_json_array_get(value, i));
    for (size_t i = 0; i < fb_json_object_size(value); i++) {
        const fb_json *member = fb_json_object_at(value, i);
        check(fb_json_object_get(value, fb_json_object_key(value, i)) == member);
        ask(member);
    }
}

static fb_status write(const fb_json *value, fb_json_style style, fb_buffer *text) {
    fb_json_writer writer = fb_json_writer_to(text, style);
    fb_json_put_value(&writer, NULL, value);
    return fb_json_finish(&writer);
}

static void check_written(const fb_json *value, fb_json_style style) {
    fb_buffer first = {0}, second = {0};
    const fb_json *again = NULL;
    check(write(value, style, &first) == FB_OK);
    check(fb_json_parse_value((const char *)first.data, first.size, "written", &again) == FB_OK);
    check(write(again, style, &second) == FB_OK);
    check(first.size == second.size && memcmp(first.data, second.data, first.size) == 0);
    fb_json_free(again);
    fb_buffer_free(&first);
    fb_buffer_free(&second);
}

/* Any bytes become a string, and one that can be read if there is no NUL in it. */
static void check_bytes(const uint8_t *data, size_t size) {
    fb_buffer text = {0};
    const fb_json *read = NULL;
    fb_json_writer writer = fb_json_writer_to(&text, FB_JSON_COMPACT);
    fb_json_put_bytes(&writer, NULL, (const char *)data, size);
    check(fb_json_finish(&writer) == FB_OK);
    fb_status status = fb_json_parse_value((const char *)text.data, text.size, "bytes", &read);
    check((status == FB_OK) == !memchr(data, 0, size));
    if (status == FB_OK)
        check(fb_json_is_string(read));
    fb_json_free(read);
    fb_buffer_free(&text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const fb_json *value = NULL;
    if (fb_json_parse((const char *)data, size, "fuzz", &value) == FB_OK) {
        check(fb_json_is_object(value));
        fb_json_free(value);
    }
    value = NULL;
    if (fb_json_parse_value((const char *)data, size, "fuzz", &value) == FB_OK) {
        ask(value);
        check_written(value, FB_JSON_COMPACT);
        check_written(value, FB_JSON_INDENTED);
        fb_json_free(value);
    }
    check_bytes(data, size);
    return 0;
}
