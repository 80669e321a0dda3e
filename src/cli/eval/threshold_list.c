#include "cli/eval/threshold_list.h"

#include "base/error.h"

#include <stdbool.h>
#include <stdlib.h>

/* A number, and the character after it. */
static bool take_number(const char **text, char after, double *number) {
    char *end = NULL;
    *number = strtod(*text, &end);
    if (end == *text || *end != after)
        return false;
    *text = end;
    return true;
}

static bool take_thresholds(const char **text, fb_thresholds *value) {
    if (!take_number(text, ':', &value->similarity))
        return false;
    ++*text;
    return take_number(text, ',', &value->lse) || take_number(text, '\0', &value->lse);
}

fb_status fb_threshold_list_parse(const char *text, void *target) {
    fb_threshold_list list = {0};
    for (const char *at = text;; at++) {
        if (list.count == FB_THRESHOLD_LIST_MAX)
            return fb_fail(FB_ERROR_ARGUMENT, "'%s' holds more than %d pairs", text,
                           FB_THRESHOLD_LIST_MAX);
        fb_thresholds *value = &list.values[list.count++];
        if (!take_thresholds(&at, value))
            return fb_fail(FB_ERROR_ARGUMENT,
                           "'%s' is not a list of pairs SIMILARITY:LSE such as 0.85:0.05,-1:inf",
                           text);
        if (!(value->similarity >= -1.0 && value->similarity <= 1.0 && value->lse >= 0.0))
            return fb_fail(FB_ERROR_ARGUMENT,
                           "%g:%g: expected a similarity from -1 to 1, and an LSE change of at "
                           "least 0",
                           value->similarity, value->lse);
        if (*at == '\0')
            break;
    }
    *(fb_threshold_list *)target = list;
    return FB_OK;
}
