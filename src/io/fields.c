#include "io/fields.h"

#include <stdio.h>
#include <string.h>

enum { NEUTRAL_SIZE = 128 };

typedef struct check {
    const char *where;
    const fb_field *table, *more;
    fb_warnings *warnings;
    char unknown[256]; /* "a (1), b (true)" */
    size_t unknown_length, num_unknown, num_shown;
} check;

const fb_field *fb_fields_find(const fb_field *table, const char *name) {
    for (const fb_field *field = table; field && field->name; field++)
        if (strcmp(field->name, name) == 0)
            return field;
    return NULL;
}

static bool is_neutral(const fb_field *field, const fb_json *value) {
    for (const char *text = field->neutral; text;) {
        size_t length = strcspn(text, "|");
        if (fb_json_is(value, text, length))
            return true;
        text = text[length] ? text + length + 1 : NULL;
    }
    return false;
}

/* "a or b" of "a|b"; "null" of NULL. */
static const char *show_neutral(const char *neutral, char text[NEUTRAL_SIZE]) {
    const char *bar = neutral ? strchr(neutral, '|') : NULL;
    if (bar)
        snprintf(text, NEUTRAL_SIZE, "%.*s or %s", (int)(bar - neutral), neutral, bar + 1);
    else
        snprintf(text, NEUTRAL_SIZE, "%s", neutral ? neutral : "null");
    return text;
}

/* Names that do not fit are counted by the "..." at the end. */
static void note_unknown(check *job, const char *key, const fb_json *value) {
    char text[FB_JSON_SHOW_SIZE];
    size_t left = sizeof job->unknown - job->unknown_length;
    int length = snprintf(job->unknown + job->unknown_length, left, "%s%.60s (%s)",
                          job->num_unknown ? ", " : "", key, fb_json_show(value, text));
    bool fits = job->num_shown == job->num_unknown++ && length >= 0 && (size_t)length < left;
    job->num_shown += fits;
    if (fits)
        job->unknown_length += (size_t)length;
    else
        job->unknown[job->unknown_length] = '\0';
}

static fb_status check_field(void *user, const char *key, const fb_json *value) {
    check *job = user;
    char text[FB_JSON_SHOW_SIZE], neutral[NEUTRAL_SIZE];
    if (fb_json_is(value, "null", 4))
        return FB_OK;
    const fb_field *field = fb_fields_find(job->table, key);
    if (!field)
        field = fb_fields_find(job->more, key);
    if (!field) {
        note_unknown(job, key, value);
        return FB_OK;
    }
    if (field->use == FB_FIELD_USED || field->use == FB_FIELD_UNUSED || is_neutral(field, value))
        return FB_OK;
    if (field->use == FB_FIELD_WARNED)
        return fb_warn(job->warnings, "%s: %s is %s: %s", job->where, key,
                       fb_json_show(value, text), field->note);
    return fb_fail(FB_ERROR_UNSUPPORTED, "%s: %s is %s, expected %s (%s)", job->where, key,
                   fb_json_show(value, text), show_neutral(field->neutral, neutral), field->note);
}

fb_status fb_fields_check(const fb_json *object, const char *where, const fb_field *table,
                          const fb_field *more, fb_warnings *warnings) {
    check job = {.where = where, .table = table, .more = more, .warnings = warnings};
    FB_TRY(fb_json_each(object, check_field, &job));
    if (job.num_unknown == 0)
        return FB_OK;
    bool one = job.num_unknown == 1;
    return fb_warn(warnings, "%s: %zu field%s not known, and not used: %s%s", where,
                   job.num_unknown, one ? " is" : "s are", job.unknown,
                   job.num_shown == job.num_unknown ? "" : ", ...");
}
