#include "cli/options/selector_names.h"

#include "base/error.h"
#include "cli/options/word_list.h"

#include <flashblock/experimental/selector.h>

#include <stdio.h>
#include <string.h>

const char *fb_selector_name_at(size_t i) {
    const char *name;
    for (size_t index = 0; (name = fb_selector_known_name(index)); index++)
        if (strcmp(name, "given") != 0 && i-- == 0)
            return name;
    return NULL;
}

fb_status fb_selector_name_parse(const char *text, void *target) {
    char names[256] = "";
    const char *name;
    for (size_t i = 0; (name = fb_selector_name_at(i)); i++) {
        if (strcmp(text, name) == 0) {
            *(const char **)target = name;
            return FB_OK;
        }
        size_t used = strlen(names);
        snprintf(names + used, sizeof names - used, "%s%s", i ? ", " : "", name);
    }
    return fb_fail(FB_ERROR_ARGUMENT, "'%s' is none of %s", text, names);
}

fb_status fb_selector_list_parse(const char *text, void *target) {
    fb_selector_list *list = target;
    return fb_word_list_parse(text, fb_selector_name_parse, list->names, sizeof list->names[0],
                              FB_SELECTOR_LIST_MAX, &list->count);
}
