/* Inputs that are several files, and the choice of a mutation. */
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>
#include <string.h>

enum { LENGTH_BYTES = 4 };

static uint64_t state;

void fuzz_seed(unsigned seed) {
    state = seed * 0x9e3779b97f4a7c15u + 1;
}

/* xorshift64* */
size_t fuzz_random(size_t below) {
    state ^= state >> 12, state ^= state << 25, state ^= state >> 27;
    return below == 0 ? 0 : (size_t)((state * 0x2545f4914f6cdd1du) >> 33) % below;
}

static size_t read_length(const uint8_t *at) {
    return (size_t)at[0] | (size_t)at[1] << 8 | (size_t)at[2] << 16 | (size_t)at[3] << 24;
}

void fuzz_split(const uint8_t *data, size_t size, fuzz_part *parts, size_t count) {
    for (size_t i = 0; i < count; i++) {
        parts[i] = (fuzz_part){data, 0};
        if (size < LENGTH_BYTES) {
            size = 0;
            continue;
        }
        size_t length = read_length(data), left = size - LENGTH_BYTES;
        parts[i] = (fuzz_part){data + LENGTH_BYTES, length < left ? length : left};
        data += LENGTH_BYTES + parts[i].size;
        size = left - parts[i].size;
    }
}

static bool is_safetensors(const uint8_t *data, size_t size) {
    return size > 9 && data[8] == '{' && data[6] == 0 && data[7] == 0;
}

static bool is_json(const uint8_t *data, size_t size) {
    return size > 1 && (data[0] == '{' || data[0] == '[');
}

size_t fuzz_mutate_file(uint8_t *data, size_t size, size_t max) {
    if (fuzz_random(32) == 0)
        return LLVMFuzzerMutate(data, size, max);
    if (is_safetensors(data, size))
        return fuzz_mutate_safetensors(data, size, max);
    if (is_json(data, size))
        return fuzz_mutate_json(data, size, max);
    return LLVMFuzzerMutate(data, size, max);
}

size_t fuzz_mutate_one(uint8_t *data, size_t size, size_t max, unsigned seed) {
    fuzz_seed(seed);
    size_t count = 1 + fuzz_random(3);
    while (count-- > 0)
        size = fuzz_mutate_file(data, size, max);
    return size;
}

/* A copy of a part, with room to grow. */
typedef struct copied_part {
    uint8_t *data;
    size_t size;
} copied_part;

static size_t rescale(copied_part *part, size_t room, size_t from, size_t to) {
    if (is_safetensors(part->data, part->size))
        return fuzz_rescale_safetensors(part->data, part->size, room, from, to);
    if (is_json(part->data, part->size))
        return fuzz_rescale_json(part->data, part->size, room, from, to);
    return part->size;
}

static void rescale_all(copied_part *parts, size_t count, size_t room) {
    const copied_part *chosen = &parts[fuzz_random(count)];
    size_t from = fuzz_pick_number(chosen->data, chosen->size);
    size_t to = from;
    switch (fuzz_random(4)) {
    case 0:
        to = from + 1;
        break;
    case 1:
        to = from > 0 ? from - 1 : 0;
        break;
    case 2:
        to = fuzz_random(9);
        break;
    default:
        to = from * 2;
        break;
    }
    for (size_t i = 0; i < count; i++)
        parts[i].size = rescale(&parts[i], room, from, to);
}

/* Writes the parts back, the later ones cut to what fits. */
static size_t join(const copied_part *parts, size_t count, uint8_t *data, size_t max) {
    size_t used = 0;
    for (size_t i = 0; i < count && max - used >= LENGTH_BYTES; i++) {
        size_t room = max - used - LENGTH_BYTES;
        size_t size = parts[i].size < room ? parts[i].size : room;
        for (size_t j = 0; j < LENGTH_BYTES; j++)
            data[used + j] = (uint8_t)(size >> 8 * j);
        memcpy(data + used + LENGTH_BYTES, parts[i].data, size);
        used += LENGTH_BYTES + size;
    }
    return used;
}

static void mutate_copies(copied_part *parts, size_t count, size_t room) {
    if (fuzz_random(4) == 0) {
        rescale_all(parts, count, room);
        return;
    }
    copied_part *part = &parts[fuzz_random(count)];
    switch (fuzz_random(64)) {
    case 0:
        part->size = 0;
        break;
    case 1:
        part->size = fuzz_random(part->size + 1);
        break;
    default:
        part->size = fuzz_mutate_file(part->data, part->size, room);
        break;
    }
}

size_t fuzz_mutate_parts(uint8_t *data, size_t size, size_t max, unsigned seed, size_t count) {
    fuzz_seed(seed);
    fuzz_part parts[FUZZ_MAX_PARTS];
    copied_part copies[FUZZ_MAX_PARTS];
    fuzz_split(data, size, parts, count);
    for (size_t i = 0; i < count; i++) {
        copies[i] = (copied_part){malloc(max + 1), parts[i].size};
        if (!copies[i].data)
            abort();
        memcpy(copies[i].data, parts[i].data, parts[i].size);
    }
    size_t mutations = 1 + fuzz_random(3);
    while (mutations-- > 0)
        mutate_copies(copies, count, max);
    size = join(copies, count, data, max);
    for (size_t i = 0; i < count; i++)
        free(copies[i].data);
    return size;
}
