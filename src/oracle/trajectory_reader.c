#include "oracle/trajectory_reader.h"

#include "base/error.h"
#include "base/memory.h"

#include <math.h>
#include <string.h>

/* A line that lacks something that every line should have. */
void fb_trajectory_note_missing(const fb_trajectory_reader *r, const char *what) {
    fb_trajectory *record = r->record;
    if (record->num_missing++ == 0) {
        record->missing_line = r->line;
        record->missing = what;
    }
}

/* An array of `size` items; NULL where the line has none. */
fb_status fb_trajectory_items(const fb_trajectory_reader *r, const fb_json *line, const char *key,
                              size_t size, const fb_json **items) {
    *items = NULL;
    if (!fb_json_has(line, key))
        return FB_OK;
    FB_TRY(fb_json_get_array(line, r->where, key, items));
    if (fb_json_array_size(*items) != size)
        return fb_fail(FB_ERROR_FORMAT, "%s: %s has %zu items, expected %zu: one for each %s",
                       r->where, key, fb_json_array_size(*items), size,
                       strcmp(key, "tokens") == 0 ? "accepted position" : "position of the block");
    return FB_OK;
}

fb_status fb_trajectory_read_id(const fb_trajectory_reader *r, const char *key, const fb_json *item,
                                int32_t *id) {
    int64_t number = 0;
    char text[FB_JSON_SHOW_SIZE];
    if (!fb_json_is_int64(item, &number) || number < 0 || (uint64_t)number >= r->config->vocab_size)
        return fb_fail(FB_ERROR_FORMAT, "%s: %s: %s is not a token id, which are 0 to %zu",
                       r->where, key, fb_json_show(item, text), r->config->vocab_size - 1);
    *id = (int32_t)number;
    return FB_OK;
}

/* Ids of an array of any length. */
fb_status fb_trajectory_read_ids(const fb_trajectory_reader *r, const fb_json *object,
                                 const char *key, size_t limit, int32_t **ids, size_t *count) {
    const fb_json *items = NULL;
    FB_TRY(fb_json_get_array(object, r->where, key, &items));
    *count = fb_json_array_size(items);
    if (*count > limit)
        return fb_fail(FB_ERROR_FORMAT, "%s: %s has %zu items, more than %zu", r->where, key,
                       *count, limit);
    FB_TRY(fb_alloc(*count, sizeof **ids, key, ids));
    for (size_t i = 0; i < *count; i++)
        FB_TRY(fb_trajectory_read_id(r, key, fb_json_array_get(items, i), &(*ids)[i]));
    return FB_OK;
}

/* A number of each masked position, null where the record does not know it: NaN. */
fb_status fb_trajectory_read_number(const fb_trajectory_reader *r, const char *key, size_t position,
                                    const fb_json *item, double *number) {
    char text[FB_JSON_SHOW_SIZE];
    *number = NAN;
    if (!item || fb_json_is_null(item))
        return FB_OK;
    if (!fb_json_is_number(item))
        return fb_fail(FB_ERROR_FORMAT, "%s: %s of position %zu is %s, not a finite number",
                       r->where, key, position, fb_json_show(item, text));
    return fb_json_double(item, r->where, key, number);
}
