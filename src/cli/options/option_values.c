#include "cli/options/option_values.h"

#include "base/error.h"
#include "cli/options/number_list.h"
#include "cli/output.h"

#include <errno.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static bool parse_uint64(const char *text, uint64_t *value) {
    if (text[0] < '0' || text[0] > '9') /* strtoull would take spaces and signs */
        return false;
    char *end = NULL;
    errno = 0;
    unsigned long long number = strtoull(text, &end, 10);
    if (errno != 0 || *end != '\0' || number > UINT64_MAX)
        return false;
    *value = number;
    return true;
}

static bool parse_double(const char *text, double *value) {
    if (text[0] == '\0' || strspn(text, "0123456789+-.eE") != strlen(text))
        return false;
    char *end = NULL;
    double number = strtod(text, &end);
    if (*end != '\0' || !isfinite(number))
        return false;
    *value = number;
    return true;
}

static bool in_range(const fb_option *option, double value) {
    return value >= option->min && (option->max == 0 || value <= option->max);
}

static bool wrong_number(const fb_option *option, const char *text, const char *kind) {
    if (option->max != 0)
        fb_print_error("--%s: '%s' is not %s from %g to %.15g", option->name, text, kind,
                       option->min, option->max);
    else if (option->min != 0)
        fb_print_error("--%s: '%s' is not %s of at least %g", option->name, text, kind,
                       option->min);
    else
        fb_print_error("--%s: '%s' is not %s", option->name, text, kind);
    return false;
}

static bool set_size(const fb_option *option, const char *text, void *target) {
    size_t number = 0;
    if (!fb_number_parse(text, SIZE_MAX, &number) || !in_range(option, (double)number))
        return wrong_number(option, text, "a whole number");
    *(size_t *)target = number;
    return true;
}

static bool set_double(const fb_option *option, const char *text, void *target) {
    double number = 0;
    if (!parse_double(text, &number) || !in_range(option, number))
        return wrong_number(option, text, "a number");
    *(double *)target = number;
    return true;
}

bool fb_option_set(const fb_option *option, const char *text, void *target) {
    switch (option->kind) {
    case FB_OPTION_GROUP:
    case FB_OPTION_FLAG:
        *(bool *)target = true;
        return true;
    case FB_OPTION_STRING:
    case FB_OPTION_FILE:
    case FB_OPTION_OUTPUT:
        if (text[0] == '\0') {
            fb_print_error("--%s: the %s is empty", option->name, option->argument);
            return false;
        }
        *(const char **)target = text;
        return true;
    case FB_OPTION_LIST:
        fb_option_list_add(target, option, text);
        return true;
    case FB_OPTION_SIZE:
        return set_size(option, text, target);
    case FB_OPTION_UINT64:
        if (!parse_uint64(text, target))
            return wrong_number(option, text, "a whole number below 2^64");
        return true;
    case FB_OPTION_DOUBLE:
        return set_double(option, text, target);
    case FB_OPTION_PARSED:
        if (option->parse(text, target) == FB_OK)
            return true;
        fb_print_error("--%s: %s", option->name, fb_error_message());
        return false;
    }
    return false;
}
