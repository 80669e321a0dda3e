#include "cli/options/number_list.h"

#include "base/error.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const size_t largest = (size_t)1 << 30;

/* One number, and where it ends; false when there is none or it is too large. */
static bool parse_number(const char *text, size_t max, size_t *value, const char **end) {
    if (*text < '0' || *text > '9') /* strtoull would take spaces and signs */
        return false;
    char *rest = NULL;
    errno = 0;
    unsigned long long number = strtoull(text, &rest, 10);
    unsigned long long unit = *rest == 'k' ? 1 << 10 : *rest == 'm' ? 1 << 20 : 1;
    if (errno != 0 || number > max / unit)
        return false;
    *value = (size_t)(number * unit);
    *end = unit > 1 ? rest + 1 : rest;
    return true;
}

bool fb_number_parse(const char *text, size_t max, size_t *value) {
    const char *end = text;
    return parse_number(text, max, value, &end) && *end == '\0';
}

fb_status fb_number_list_parse(const char *text, void *target) {
    fb_number_list list = {0};
    for (const char *at = text;; at++) {
        if (list.count == FB_NUMBER_LIST_MAX)
            return fb_fail(FB_ERROR_ARGUMENT, "'%s' holds more than %d numbers", text,
                           FB_NUMBER_LIST_MAX);
        if (!parse_number(at, largest, &list.values[list.count++], &at) ||
            (*at != ',' && *at != '\0'))
            return fb_fail(FB_ERROR_ARGUMENT,
                           "'%s' is not a list of whole numbers such as 4096 or 4k,16k", text);
        if (*at == '\0')
            break;
    }
    *(fb_number_list *)target = list;
    return FB_OK;
}

fb_status fb_number_list_check(const fb_number_list *list, const char *option, size_t min,
                               size_t max) {
    for (size_t i = 0; i < list->count; i++)
        if (list->values[i] < min || list->values[i] > max)
            return fb_fail(FB_ERROR_ARGUMENT, "--%s: %zu is not from %zu to %zu", option,
                           list->values[i], min, max);
    return FB_OK;
}
