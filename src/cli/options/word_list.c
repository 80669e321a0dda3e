#include "cli/options/word_list.h"

#include "base/error.h"

#include <stdio.h>
#include <string.h>

fb_status fb_word_list_parse(const char *text, fb_status (*parse)(const char *word, void *item),
                             void *items, size_t item_size, size_t max, size_t *count) {
    *count = 0;
    for (const char *at = text;; at++) {
        char word[32];
        size_t length = strcspn(at, ",");
        if (*count == max)
            return fb_fail(FB_ERROR_ARGUMENT, "'%s' names more than %zu", text, max);
        snprintf(word, sizeof word, "%.*s", (int)(length < 31 ? length : 31), at);
        FB_TRY(parse(word, (char *)items + (*count)++ * item_size));
        at += length;
        if (*at == '\0')
            return FB_OK;
    }
}
