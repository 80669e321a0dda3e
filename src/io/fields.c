#include "io/fields.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

enum { NEUTRAL_SIZE = 128, MAX_NEAR = 64 };

typedef struct check {
    const char *where;
    const fb_field *tables[3]; /* the first that has a name decides; may be NULL */
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

/* --- misspelt names --------------------------------------------------------------------------- */

static char lower(char c) {
    return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c == '-' ? '_' : c;
}

static size_t min3(size_t a, size_t b, size_t c) {
    size_t least = a < b ? a : b;
    return least < c ? least : c;
}

/* The number of letters to insert, leave out or replace (Levenshtein), but for capitals, and - for
 * _. SIZE_MAX for long names. */
static size_t distance(const char *a, const char *b) {
    size_t length = strlen(b), row[MAX_NEAR + 1];
    if (length > MAX_NEAR || strlen(a) > MAX_NEAR)
        return SIZE_MAX;
    for (size_t j = 0; j <= length; j++)
        row[j] = j;
    for (size_t i = 0; a[i]; i++) {
        size_t diagonal = row[0];
        row[0] = i + 1;
        for (size_t j = 0; j < length; j++) {
            size_t replaced = diagonal + (lower(a[i]) != lower(b[j]));
            diagonal = row[j + 1];
            row[j + 1] = min3(replaced, row[j] + 1, row[j + 1] + 1);
        }
    }
    return row[length];
}

/* "scale" is near to "softmax_scale". */
static bool contains(const char *long_name, const char *name) {
    size_t length = strlen(name);
    for (const char *at = long_name; length > 2 && *at; at++)
        if (strncasecmp(at, name, length) == 0)
            return true;
    return false;
}

const char *fb_fields_nearest(const fb_field *table, const char *name) {
    const char *nearest = NULL;
    size_t length = strlen(name), least = length < 3 ? length : length / 3 + 2; /* nearer than it */
    for (const fb_field *field = table; field && field->name; field++) {
        size_t away = distance(name, field->name);
        if (contains(field->name, name) || contains(name, field->name))
            away = away < 1 ? away : 1;
        if (away < least) {
            nearest = field->name;
            least = away;
        }
    }
    return nearest;
}

/* --- checks ----------------------------------------------------------------------------------- */

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

/* The used field whose name is one or two letters away. */
static const char *misspelt(const check *job, const char *key) {
    for (size_t i = 0; i < 3 && strlen(key) > 4; i++)
        for (const fb_field *field = job->tables[i]; field && field->name; field++)
            if (field->use == FB_FIELD_USED && distance(key, field->name) <= 2)
                return field->name;
    return NULL;
}

/* Names that do not fit are counted by the "..." at the end. */
static void note_unknown(check *job, const char *key, const fb_json *value) {
    char text[FB_JSON_SHOW_SIZE];
    size_t left = sizeof job->unknown - job->unknown_length;
    const char *meant = misspelt(job, key);
    int length = snprintf(job->unknown + job->unknown_length, left, "%s%.60s (%s%s%s%s)",
                          job->num_unknown ? ", " : "", key, fb_json_show(value, text),
                          meant ? "; did you mean " : "", meant ? meant : "", meant ? "?" : "");
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
    const fb_field *field = NULL;
    for (size_t i = 0; i < 3 && !field; i++)
        field = fb_fields_find(job->tables[i], key);
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
    return fb_fields_check_three(object, where, NULL, table, more, warnings);
}

fb_status fb_fields_check_three(const fb_json *object, const char *where, const fb_field *first,
                                const fb_field *table, const fb_field *more,
                                fb_warnings *warnings) {
    check job = {.where = where, .tables = {first, table, more}, .warnings = warnings};
    FB_TRY(fb_json_each(object, check_field, &job));
    if (job.num_unknown == 0)
        return FB_OK;
    bool one = job.num_unknown == 1;
    return fb_warn(warnings, "%s: %zu field%s not known, and not used: %s%s", where,
                   job.num_unknown, one ? " is" : "s are", job.unknown,
                   job.num_shown == job.num_unknown ? "" : ", ...");
}

typedef struct strict_check {
    const char *where;
    const fb_field *table;
} strict_check;

static fb_status check_known(void *user, const char *key, const fb_json *value) {
    (void)value;
    const strict_check *job = user;
    if (fb_fields_find(job->table, key))
        return FB_OK;
    const char *nearest = fb_fields_nearest(job->table, key);
    return fb_fail(FB_ERROR_FORMAT, "%s: '%.60s' is not known%s%s%s", job->where, key,
                   nearest ? "; did you mean '" : "", nearest ? nearest : "", nearest ? "'?" : "");
}

fb_status fb_fields_check_all(const fb_json *object, const char *where, const fb_field *table) {
    strict_check job = {where, table};
    FB_TRY(fb_json_each(object, check_known, &job));
    return fb_fields_check(object, where, table, NULL, NULL);
}
