/* The index of a checkpoint and its shards. Parts: the index, two shards, model.safetensors. */
#include "io/checkpoint.h"
#include "tests/fuzz/fuzz.h"

enum { PARTS = 4 };

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
    return fuzz_mutate_parts(data, size, max_size, seed, PARTS);
}

static const char *const names[PARTS] = {
    "index/model.safetensors.index.json",
    "index/model-00001-of-00002.safetensors",
    "index/model-00002-of-00002.safetensors",
    "index/model.safetensors",
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz_part parts[PARTS];
    fb_checkpoint *checkpoint = NULL;
    fb_warnings warnings = {0};
    fuzz_split(data, size, parts, PARTS);
    for (size_t i = 0; i < PARTS; i++)
        fuzz_write(names[i], parts[i]);
    if (fb_checkpoint_open(fuzz_path("index"), false, &warnings, &checkpoint) == FB_OK) {
        const fb_tensor_view *tensor = fb_checkpoint_find(checkpoint, "a");
        float value = 0;
        if (tensor && tensor->count > 0)
            fb_tensor_read_f32(tensor, tensor->count - 1, 1, &value);
        fb_checkpoint_close(checkpoint);
    }
    fb_warnings_free(&warnings);
    return 0;
}
