/* Mutations of safetensors that leave header and data in agreement, most of the time. */
#include "tests/fuzz/fuzz.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LENGTH_BYTES = 8, MAX_ENTRIES = 512, MAX_DIMS = 8, MAX_NUMBER = 24 };

static size_t read_length(const uint8_t *data) {
    uint64_t length = 0;
    for (int i = LENGTH_BYTES - 1; i >= 0; i--)
        length = length << 8 | data[i];
    return (size_t)length;
}

static void write_length(uint8_t *data, size_t length) {
    for (size_t i = 0; i < LENGTH_BYTES; i++)
        data[i] = (uint8_t)((uint64_t)length >> 8 * i);
}

/* The header's length, cut to the file. */
static size_t header_length(const uint8_t *data, size_t size) {
    size_t length = read_length(data);
    return length < size - LENGTH_BYTES ? length : size - LENGTH_BYTES;
}

/* Puts another header before the data, with its right length. */
static size_t replace_header(uint8_t *data, size_t size, size_t max, const uint8_t *header,
                             size_t length) {
    size_t before = header_length(data, size), left = size - LENGTH_BYTES - before;
    if (length > max || left + LENGTH_BYTES > max - length)
        return size;
    memmove(data + LENGTH_BYTES + length, data + LENGTH_BYTES + before, left);
    memcpy(data + LENGTH_BYTES, header, length);
    write_length(data, length);
    return LENGTH_BYTES + length + left;
}

static size_t mutate_header(uint8_t *data, size_t size, size_t max) {
    size_t length = header_length(data, size), room = 2 * length + 8192;
    uint8_t *header = malloc(room);
    if (!header)
        abort();
    memcpy(header, data + LENGTH_BYTES, length);
    length = fuzz_mutate_json(header, length, room);
    size = replace_header(data, size, max, header, length);
    free(header);
    return size;
}

/* --- data ------------------------------------------------------------------------------------- */

static const uint64_t elements[] = {
    0,
    1,
    0x80000000,
    0x7f800000,
    0xff800000,
    0x7fc00000,
    0x7f7fffff,
    0xff7fffff,
    0x00000001,
    0x807fffff,
    0x3f800000,
    0xbf800000,
    0x42b17218,
    0xc2cff1b5,
    0x7fffffff,
    0xffffffff,
    0x7f80,
    0xff80,
    0x7fc0,
    0x7f7f,
    0x7c00,
    0xfc00,
    0x7e00,
    0x7bff,
    0x0001,
    0x8000,
    100,
    0xfffe,
    0x7ff0000000000000,
    0x7ff8000000000000,
    0x7fefffffffffffff,
    0x8000000000000000,
    0x7fffffffffffffff,
    0xffffffffffffffff,
};

static void change_elements(uint8_t *data, size_t size) {
    size_t width = (size_t)1 << fuzz_random(4), count = size / width;
    if (count == 0)
        return;
    size_t first = fuzz_random(count), run = fuzz_random(8) == 0 ? fuzz_random(count - first) : 0;
    uint64_t element = elements[fuzz_random(sizeof elements / sizeof *elements)];
    for (size_t i = first; i <= first + run; i++)
        memcpy(data + i * width, &element, width);
}

static void mutate_data(uint8_t *data, size_t size) {
    size_t start = LENGTH_BYTES + header_length(data, size), left = size - start;
    if (left == 0)
        return;
    if (fuzz_random(4) > 0) {
        change_elements(data + start, left);
        return;
    }
    size_t first = fuzz_random(left), window = left - first < 64 ? left - first : 64;
    LLVMFuzzerMutate(data + start + first, window, window);
}

/* --- shapes ----------------------------------------------------------------------------------- */

/* A tensor of the header. The places are those of the numbers within [ and ]. */
typedef struct entry {
    size_t width, ndim, dims[MAX_DIMS];
    size_t shape_begin, shape_end, offsets_begin, offsets_end;
    size_t begin, end, new_begin, new_end;
} entry;

typedef struct entry_list {
    size_t count;
    entry entries[MAX_ENTRIES];
} entry_list;

static size_t find_text(const uint8_t *text, size_t from, size_t end, const char *words) {
    size_t count = strlen(words);
    for (size_t i = from; i + count <= end; i++)
        if (memcmp(text + i, words, count) == 0)
            return i + count;
    return end;
}

/* Reads numbers up to the bracket; returns how many, or more than MAX_DIMS. */
static size_t read_numbers(const uint8_t *text, size_t *at, size_t end, size_t *numbers) {
    size_t count = 0;
    while (*at < end && text[*at] != ']') {
        if (!isdigit(text[*at])) {
            ++*at;
            continue;
        }
        if (count == MAX_DIMS)
            return MAX_DIMS + 1;
        for (numbers[count] = 0; *at < end && isdigit(text[*at]); ++*at)
            numbers[count] = 10 * numbers[count] + (size_t)(text[*at] - '0');
        count++;
    }
    return count;
}

static size_t width_of(const uint8_t *name) {
    switch (name[0]) {
    case 'F':
    case 'I':
    case 'U':
        return name[1] == '6' ? 8 : name[1] == '3' ? 4 : name[1] == '1' ? 2 : 1;
    case 'B':
        return name[1] == 'F' ? 2 : 1;
    default:
        return 1;
    }
}

/* Reads entries as writers of safetensors have them: dtype, shape, data_offsets. */
static void read_entries(const uint8_t *text, size_t size, entry_list *list) {
    list->count = 0;
    for (size_t at = 0; list->count < MAX_ENTRIES;) {
        entry *e = &list->entries[list->count];
        size_t offsets[MAX_DIMS];
        at = find_text(text, at, size, "\"dtype\"");
        at = find_text(text, at, size, "\"");
        if (at + 4 > size)
            return;
        e->width = width_of(text + at);
        at = find_text(text, at, size, "\"shape\"");
        e->shape_begin = at = find_text(text, at, size, "[");
        e->ndim = read_numbers(text, &at, size, e->dims);
        e->shape_end = at;
        at = find_text(text, at, size, "\"data_offsets\"");
        e->offsets_begin = at = find_text(text, at, size, "[");
        if (read_numbers(text, &at, size, offsets) != 2 || e->ndim > MAX_DIMS)
            return;
        e->offsets_end = at;
        e->begin = offsets[0];
        e->end = offsets[1];
        list->count++;
    }
}

/* SIZE_MAX if it is more than `limit`. */
static size_t bytes_of(const entry *e, size_t limit) {
    size_t bytes = e->width;
    for (size_t i = 0; i < e->ndim; i++) {
        if (e->dims[i] > 0 && bytes > limit / e->dims[i])
            return SIZE_MAX;
        bytes *= e->dims[i];
    }
    return bytes;
}

/* New places in the order of the old ones. */
static bool place(entry_list *list, size_t limit, size_t *total) {
    bool placed[MAX_ENTRIES] = {false};
    *total = 0;
    for (size_t n = 0; n < list->count; n++) {
        entry *next = NULL;
        for (size_t i = 0; i < list->count; i++) {
            entry *e = &list->entries[i];
            if (!placed[i] && (!next || e->begin < next->begin ||
                               (e->begin == next->begin && e->end < next->end)))
                next = e;
        }
        if (!next)
            return false;
        placed[next - list->entries] = true;
        size_t bytes = bytes_of(next, limit);
        if (bytes > limit - *total)
            return false;
        next->new_begin = *total;
        next->new_end = *total += bytes;
    }
    return true;
}

static size_t put_text(uint8_t *out, size_t used, const uint8_t *text, size_t begin, size_t end) {
    if (end > begin)
        memcpy(out + used, text + begin, end - begin);
    return used + (end > begin ? end - begin : 0);
}

static size_t put_numbers(uint8_t *out, size_t used, const size_t *numbers, size_t count) {
    for (size_t i = 0; i < count; i++)
        used += (size_t)snprintf((char *)out + used, MAX_NUMBER, "%s%zu", i ? "," : "", numbers[i]);
    return used;
}

static size_t write_header(uint8_t *out, const uint8_t *text, size_t size, const entry_list *list) {
    size_t used = 0, at = 0;
    for (size_t i = 0; i < list->count; i++) {
        const entry *e = &list->entries[i];
        used = put_text(out, used, text, at, e->shape_begin);
        used = put_numbers(out, used, e->dims, e->ndim);
        used = put_text(out, used, text, e->shape_end, e->offsets_begin);
        used = put_numbers(out, used, (size_t[]){e->new_begin, e->new_end}, 2);
        at = e->offsets_end;
    }
    return put_text(out, used, text, at, size);
}

/* Data for the new sizes: the old bytes, over and over. */
static void write_data(uint8_t *out, const uint8_t *old, size_t size, const entry_list *list) {
    for (size_t i = 0; i < list->count; i++) {
        const entry *e = &list->entries[i];
        size_t count = e->end <= size && e->begin < e->end ? e->end - e->begin : 0;
        for (size_t j = 0; j < e->new_end - e->new_begin; j++)
            out[e->new_begin + j] = count > 0 ? old[e->begin + j % count] : 0;
    }
}

/* Writes the file anew with the shapes of the list. */
static size_t rebuild(uint8_t *data, size_t size, size_t max, entry_list *list) {
    size_t length = header_length(data, size), total = 0;
    const uint8_t *text = data + LENGTH_BYTES;
    if (list->count == 0 || !place(list, max, &total))
        return size;
    uint8_t *out = calloc(1, LENGTH_BYTES + length + 10 * MAX_NUMBER * list->count + total);
    if (!out)
        abort();
    size_t used = write_header(out + LENGTH_BYTES, text, length, list);
    write_length(out, used);
    used += LENGTH_BYTES;
    write_data(out + used, text + length, size - LENGTH_BYTES - length, list);
    if (used + total <= max) {
        size = used + total;
        memcpy(data, out, size);
    }
    free(out);
    return size;
}

static entry_list *entries_of(const uint8_t *data, size_t size) {
    static entry_list list;
    read_entries(data + LENGTH_BYTES, header_length(data, size), &list);
    return &list;
}

static size_t reshape(uint8_t *data, size_t size, size_t max) {
    entry_list *list = entries_of(data, size);
    if (list->count == 0)
        return size;
    entry *e = &list->entries[fuzz_random(list->count)];
    switch (fuzz_random(4)) {
    case 0:
        if (e->ndim < MAX_DIMS)
            e->dims[e->ndim++] = fuzz_random(3);
        break;
    case 1:
        e->ndim -= e->ndim > 0;
        break;
    default:
        if (e->ndim > 0)
            e->dims[fuzz_random(e->ndim)] = fuzz_random(fuzz_random(2) ? 4 : 130);
        break;
    }
    return rebuild(data, size, max, list);
}

/* The metadata `params`: a string of JSON. Its place in the header; empty if there is none. */
static void find_params(const uint8_t *header, size_t length, size_t *begin, size_t *end) {
    size_t at = find_text(header, 0, length, "\"params\"");
    *begin = *end = at = find_text(header, at, length, "\"");
    for (; at < length && header[at] != '"'; at++)
        at += header[at] == '\\';
    if (at < length)
        *end = at;
}

static size_t rescale_params(uint8_t *data, size_t size, size_t max, size_t from, size_t to) {
    size_t length = header_length(data, size), begin = 0, end = 0;
    find_params(data + LENGTH_BYTES, length, &begin, &end);
    uint8_t *header = malloc(2 * length + 1), *params = malloc(2 * (end - begin) + 1);
    if (!header || !params)
        abort();
    memcpy(params, data + LENGTH_BYTES + begin, end - begin);
    size_t count = fuzz_rescale_json(params, end - begin, 2 * (end - begin), from, to);
    memcpy(header, data + LENGTH_BYTES, begin);
    memcpy(header + begin, params, count);
    memcpy(header + begin + count, data + LENGTH_BYTES + end, length - end);
    size = replace_header(data, size, max, header, begin + count + length - end);
    free(header);
    free(params);
    return size;
}

size_t fuzz_rescale_safetensors(uint8_t *data, size_t size, size_t max, size_t from, size_t to) {
    entry_list *list = entries_of(data, size);
    for (size_t i = 0; i < list->count; i++)
        for (size_t j = 0; j < list->entries[i].ndim; j++)
            if (list->entries[i].dims[j] == from)
                list->entries[i].dims[j] = to;
    size = rebuild(data, size, max, list);
    return rescale_params(data, size, max, from, to);
}

size_t fuzz_mutate_safetensors(uint8_t *data, size_t size, size_t max) {
    switch (fuzz_random(16)) {
    case 0:
        return LLVMFuzzerMutate(data, size, max);
    case 1:
        return size - fuzz_random(size - LENGTH_BYTES);
    case 2:
    case 3:
    case 4:
        return reshape(data, size, max);
    case 5:
    case 6:
    case 7:
    case 8:
        mutate_data(data, size);
        return size;
    case 9:
    case 10: {
        size_t from = fuzz_pick_number(data, size);
        return fuzz_rescale_safetensors(data, size, max, from,
                                        fuzz_random(2) ? from + 1 : fuzz_random(17));
    }
    default:
        return mutate_header(data, size, max);
    }
}
