/* Tables that say, for each field of a JSON file, what is done with it. No field is skipped
 * silently: it is used, or has a value that changes nothing, or is refused, or is warned of. */
#ifndef FB_IO_FIELDS_H
#define FB_IO_FIELDS_H

#include "io/json.h"
#include "io/warnings.h"

typedef enum fb_field_use {
    FB_FIELD_USED,    /* the code of this file's reader uses it, or checks it in its own way */
    FB_FIELD_UNUSED,  /* no value of it changes a result of this library */
    FB_FIELD_REFUSED, /* FB_ERROR_UNSUPPORTED unless its value is one of `neutral` */
    FB_FIELD_WARNED,  /* a warning unless its value is one of `neutral` */
} fb_field_use;

typedef struct fb_field {
    const char *name; /* NULL ends a table */
    fb_field_use use;
    const char *neutral; /* values that change nothing, as JSON: "0|false"; NULL: only null does */
    const char *note;    /* what the field is, or why it changes nothing */
} fb_field;

/* Checks every field of an object by the tables; `more` may be NULL. A field that is null is as one
 * that is missing. A field that no table has gives a warning (one for all of an object).
 * `where` begins messages. */
fb_status fb_fields_check(const fb_json *object, const char *where, const fb_field *table,
                          const fb_field *more, fb_warnings *warnings);

/* The same with three tables; `first` goes before the others, and may be NULL. */
fb_status fb_fields_check_three(const fb_json *object, const char *where, const fb_field *first,
                                const fb_field *table, const fb_field *more, fb_warnings *warnings);

/* The same for a file that nobody but this project defines: a field that the table does not have is
 * FB_ERROR_FORMAT. The message names it, and the nearest name of the table. */
fb_status fb_fields_check_all(const fb_json *object, const char *where, const fb_field *table);

/* The name of the table that a misspelt name most likely stands for; NULL when none is near. */
const char *fb_fields_nearest(const fb_field *table, const char *name);

/* The entry of a name; NULL when there is none. */
const fb_field *fb_fields_find(const fb_field *table, const char *name);

#endif
