/* Numbers of JSON that jansson refuses. Shared by the json*.c files. */
#ifndef FB_IO_JSON_INTERNAL_H
#define FB_IO_JSON_INTERNAL_H

#include "io/buffer.h"

#include <jansson.h>
#include <stdbool.h>

/* Appends a document in which jansson can read every number. transformers writes 10^30 as an
 * integer, and Python writes NaN and Infinity; a field that nobody uses may hold them. An integer
 * beyond int64 becomes a double. A number that is not a double becomes the object {"": "NUMBER"},
 * which is not of any type that a field can have. Lines stay as they are. */
fb_status fb_json_rewrite_numbers(const char *text, size_t size, fb_buffer *out);

#endif
