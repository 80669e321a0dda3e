/* The tree that a JSON text becomes. Shared by the json*.c files. */
#ifndef FB_IO_JSON_INTERNAL_H
#define FB_IO_JSON_INTERNAL_H

#include "io/json.h"

#include <stdint.h>

typedef enum fb_json_type {
    FB_JSON_NULL,
    FB_JSON_FALSE,
    FB_JSON_TRUE,
    FB_JSON_UNSIGNED, /* an integer of [0, 2^64) */
    FB_JSON_NEGATIVE, /* an integer of [-2^63, 0) */
    FB_JSON_REAL,     /* any other number that a finite double holds */
    FB_JSON_OUTSIDE,  /* any other number, NaN, Infinity: its text */
    FB_JSON_STRING,
    FB_JSON_ARRAY,
    FB_JSON_OBJECT,
} fb_json_type;

typedef struct fb_json_member fb_json_member;

/* 16 bytes: a file of 100 MB may hold ten million values. */
struct fb_json {
    fb_json_type type;
    uint32_t size; /* characters of a text, items of an array, members of an object */
    union {
        uint64_t whole;
        int64_t negative;
        double real;
        const char *text; /* ends with a NUL */
        const fb_json *items;
        const fb_json_member *members; /* in the order of the text; then comes the index */
    } of;
};

struct fb_json_member {
    const char *key;
    fb_json value;
};

/* Memory that is freed all at once. */
typedef struct fb_json_chunk {
    struct fb_json_chunk *next;
    size_t used, capacity;
    max_align_t bytes[];
} fb_json_chunk;

/* The root is the first member: a pointer to it frees the document. */
typedef struct fb_json_document {
    fb_json root;
    fb_json_chunk *chunks;
} fb_json_document;

/* size > 0 bytes that live as long as the document; aligned for any type of the tree. */
fb_status fb_json_reserve(fb_json_document *document, size_t size, void *result);

/* A value of type FB_JSON_STRING or FB_JSON_OUTSIDE: a copy of text[0 .. size). */
fb_status fb_json_copy_text(fb_json_document *document, fb_json_type type, const char *text,
                            size_t size, fb_json *value);

/* An array, or an object, of copies of the values. *twice is a key that occurs two times, or NULL.
 */
fb_status fb_json_copy_array(fb_json_document *document, const fb_json *items, size_t count,
                             fb_json *value);
fb_status fb_json_copy_object(fb_json_document *document, const fb_json_member *members,
                              size_t count, fb_json *value, const char **twice);

/* The number that text[0 .. size) spells, by JSON's grammar. */
fb_status fb_json_copy_number(fb_json_document *document, const char *text, size_t size,
                              fb_json *value);

/* strtod with a decimal point, whatever the program's locale writes. `copy` has room for the text,
 * the locale's point and a NUL. */
double fb_json_read_double(const char *text, size_t size, char *copy);

#endif
