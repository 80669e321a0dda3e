/* The tree that a JSON text becomes: its memory, its values, the index of a large object. */
#include "base/error.h"
#include "base/memory.h"
#include "io/json_internal.h"

#include <langinfo.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

enum { FIRST_CHUNK = 1 << 10, LAST_CHUNK = 1 << 20 };

/* An object of more members has a table to find them by. */
enum { SMALL_OBJECT = 8 };

/* --- memory ----------------------------------------------------------------------------------- */

static fb_status add_chunk(fb_json_document *document, size_t size) {
    size_t wanted = document->chunks ? 2 * document->chunks->capacity : FIRST_CHUNK;
    size_t capacity = wanted > LAST_CHUNK ? LAST_CHUNK : wanted, bytes = 0;
    fb_json_chunk *chunk = NULL;
    capacity = size > capacity ? size : capacity;
    if (!fb_size_add(capacity, sizeof *chunk, &bytes))
        return fb_fail(FB_ERROR_MEMORY, "JSON: %zu bytes", size);
    FB_TRY(fb_alloc(bytes, 1, "JSON", &chunk));
    *chunk = (fb_json_chunk){.next = document->chunks, .capacity = capacity};
    document->chunks = chunk;
    return FB_OK;
}

fb_status fb_json_reserve(fb_json_document *document, size_t size, void *result) {
    size_t rounded = (size + 7) / 8 * 8;
    if (!document->chunks || document->chunks->capacity - document->chunks->used < rounded)
        FB_TRY(add_chunk(document, rounded));
    unsigned char *memory = (unsigned char *)document->chunks->bytes + document->chunks->used;
    document->chunks->used += rounded;
    memcpy(result, &memory, sizeof memory);
    return FB_OK;
}

void fb_json_free(const fb_json *root) {
    if (!root)
        return;
    fb_json_document *document = (fb_json_document *)(uintptr_t)root;
    for (fb_json_chunk *chunk = document->chunks, *next; chunk; chunk = next) {
        next = chunk->next;
        fb_free(chunk);
    }
    fb_free(document);
}

/* --- values ----------------------------------------------------------------------------------- */

fb_status fb_json_copy_text(fb_json_document *document, fb_json_type type, const char *text,
                            size_t size, fb_json *value) {
    char *copy = NULL;
    FB_TRY(fb_json_reserve(document, size + 1, &copy));
    if (size > 0)
        memcpy(copy, text, size);
    copy[size] = '\0';
    *value = (fb_json){.type = type, .size = (uint32_t)size, .of.text = copy};
    return FB_OK;
}

fb_status fb_json_copy_array(fb_json_document *document, const fb_json *items, size_t count,
                             fb_json *value) {
    fb_json *copy = NULL;
    if (count > 0) {
        FB_TRY(fb_json_reserve(document, count * sizeof *items, &copy));
        memcpy(copy, items, count * sizeof *items);
    }
    *value = (fb_json){.type = FB_JSON_ARRAY, .size = (uint32_t)count, .of.items = copy};
    return FB_OK;
}

/* Twice the members or more, and a power of two. */
static size_t table_size(size_t count) {
    size_t size = 4 * SMALL_OBJECT;
    while (size < 2 * count)
        size *= 2;
    return size;
}

/* Where the table has `key`, or would have it: a slot holds 1 + the number of a member, or 0. The
 * address of the members differs from run to run, so that no file can be made of keys that all
 * begin at one slot. */
static size_t find_slot(const fb_json_member *members, const uint32_t *table, size_t size,
                        const char *key) {
    uint64_t seed = (uint64_t)(uintptr_t)members;
    size_t slot = (size_t)XXH3_64bits_withSeed(key, strlen(key), seed) & (size - 1);
    while (table[slot] != 0 && strcmp(members[table[slot] - 1].key, key) != 0)
        slot = (slot + 1) & (size - 1);
    return slot;
}

static void fill_table(const fb_json_member *members, size_t count, uint32_t *table,
                       const char **twice) {
    size_t size = table_size(count);
    memset(table, 0, size * sizeof *table);
    for (size_t i = 0; i < count; i++) {
        uint32_t *slot = &table[find_slot(members, table, size, members[i].key)];
        if (*slot != 0)
            *twice = members[i].key;
        *slot = (uint32_t)i + 1;
    }
}

static const char *find_twice(const fb_json_member *members, size_t count) {
    for (size_t i = 1; i < count; i++)
        for (size_t j = 0; j < i; j++)
            if (strcmp(members[i].key, members[j].key) == 0)
                return members[i].key;
    return NULL;
}

fb_status fb_json_copy_object(fb_json_document *document, const fb_json_member *members,
                              size_t count, fb_json *value, const char **twice) {
    fb_json_member *copy = NULL;
    size_t bytes = count * sizeof *members;
    bool large = count > SMALL_OBJECT;
    *twice = NULL;
    if (count > 0) {
        size_t index = large ? table_size(count) * sizeof(uint32_t) : 0;
        FB_TRY(fb_json_reserve(document, bytes + index, &copy));
        memcpy(copy, members, bytes);
    }
    if (large)
        fill_table(copy, count, (uint32_t *)(copy + count), twice);
    else
        *twice = find_twice(members, count);
    *value = (fb_json){.type = FB_JSON_OBJECT, .size = (uint32_t)count, .of.members = copy};
    return FB_OK;
}

const fb_json *fb_json_object_get(const fb_json *object, const char *key) {
    if (!object || object->type != FB_JSON_OBJECT)
        return NULL;
    const fb_json_member *members = object->of.members;
    if (object->size > SMALL_OBJECT) {
        const uint32_t *table = (const uint32_t *)(members + object->size);
        uint32_t found = table[find_slot(members, table, table_size(object->size), key)];
        return found ? &members[found - 1].value : NULL;
    }
    for (size_t i = 0; i < object->size; i++)
        if (strcmp(members[i].key, key) == 0)
            return &members[i].value;
    return NULL;
}

/* --- numbers ---------------------------------------------------------------------------------- */

/* false when the integer fits neither uint64 nor int64. */
static bool read_integer(const char *text, size_t size, fb_json *value) {
    bool negative = text[0] == '-';
    uint64_t number = 0;
    for (size_t i = negative; i < size; i++) {
        unsigned digit = (unsigned)(text[i] - '0');
        if (number > (UINT64_MAX - digit) / 10)
            return false;
        number = 10 * number + digit;
    }
    if (negative && number > (uint64_t)INT64_MAX + 1)
        return false;
    if (negative && number > 0)
        *value = (fb_json){.type = FB_JSON_NEGATIVE, .of.negative = -(int64_t)(number - 1) - 1};
    else
        *value = (fb_json){.type = FB_JSON_UNSIGNED, .of.whole = number};
    return true;
}

double fb_json_read_double(const char *text, size_t size, char *copy) {
    const char *own = nl_langinfo(RADIXCHAR), *point = memchr(text, '.', size);
    size_t before = point ? (size_t)(point - text) : size, used = before;
    memcpy(copy, text, before);
    if (point) {
        memcpy(copy + used, own, strlen(own));
        used += strlen(own);
        memcpy(copy + used, point + 1, size - before - 1);
        used += size - before - 1;
    }
    copy[used] = '\0';
    return strtod(copy, NULL);
}

fb_status fb_json_copy_number(fb_json_document *document, const char *text, size_t size,
                              fb_json *value) {
    char small[64], *copy = small;
    bool integer = true;
    for (size_t i = 0; i < size; i++)
        integer = integer && text[i] != '.' && text[i] != 'e' && text[i] != 'E';
    if (integer && read_integer(text, size, value))
        return FB_OK;
    size_t room = size + strlen(nl_langinfo(RADIXCHAR)) + 1;
    if (room > sizeof small)
        FB_TRY(fb_alloc(room, 1, "JSON number", &copy));
    double number = fb_json_read_double(text, size, copy);
    if (copy != small)
        fb_free(copy);
    if (!isfinite(number))
        return fb_json_copy_text(document, FB_JSON_OUTSIDE, text, size, value);
    *value = (fb_json){.type = FB_JSON_REAL, .of.real = number};
    return FB_OK;
}
