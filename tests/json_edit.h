/* JSON objects with other fields, for tests. */
#ifndef FB_TESTS_JSON_EDIT_H
#define FB_TESTS_JSON_EDIT_H

#include "io/json.h"
#include "io/json_write.h"

#include <string.h>

/* Puts the members of `object`, except the one called `key`. */
static inline void put_other_members(fb_json_writer *w, const fb_json *object, const char *key) {
    for (size_t i = 0; i < fb_json_object_size(object); i++)
        if (strcmp(fb_json_object_key(object, i), key) != 0)
            fb_json_put_value(w, fb_json_object_key(object, i), fb_json_object_at(object, i));
}

#endif
