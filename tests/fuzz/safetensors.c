/* safetensors in memory: every tensor of an accepted file is read, as each type. */
#include "io/safetensors.h"

#include "tests/fuzz/fuzz.h"

#include <string.h>

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
    return fuzz_mutate_one(data, size, max_size, seed);
}

enum { AT_ONCE = 64 };

static void read_all(const fb_tensor_view *tensor) {
    float f32[AT_ONCE];
    double f64[AT_ONCE];
    int32_t i32[AT_ONCE];
    int64_t i64[AT_ONCE];
    for (size_t first = 0; first < tensor->count && first < tensor->bytes; first += AT_ONCE) {
        size_t left = tensor->count - first, count = left < AT_ONCE ? left : AT_ONCE;
        fb_tensor_read_f32(tensor, first, count, f32);
        fb_tensor_read_f64(tensor, first, count, f64);
        fb_tensor_read_i32(tensor, first, count, i32);
        fb_tensor_read_i64(tensor, first, count, i64);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fb_safetensors *file = NULL;
    if (fb_safetensors_parse(data, size, "fuzz", &file) != FB_OK)
        return 0;
    for (size_t i = 0; i < fb_safetensors_count(file); i++) {
        const fb_tensor_view *tensor = fb_safetensors_at(file, i);
        if (fb_safetensors_find(file, tensor->name) != tensor)
            __builtin_trap();
        read_all(tensor);
    }
    fb_safetensors_metadata(file, "params");
    fb_safetensors_close(file);
    return 0;
}
