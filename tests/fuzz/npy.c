/* .npy arrays in memory: an accepted one is read. */
#include "io/npy.h"

#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fb_npy *file = NULL;
    if (fb_npy_parse(data, size, "fuzz", &file) != FB_OK)
        return 0;
    const fb_tensor_view *tensor = fb_npy_tensor(file);
    for (size_t i = 0; i < tensor->count && i < tensor->bytes; i++) {
        double real = 0;
        int64_t whole = 0;
        fb_tensor_read_f64(tensor, i, 1, &real);
        fb_tensor_read_i64(tensor, i, 1, &whole);
    }
    fb_npy_close(file);
    return 0;
}
