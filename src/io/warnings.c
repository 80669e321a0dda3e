#include "io/warnings.h"

#include "base/memory.h"
#include "base/point.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Files of strangers may have as many odd fields as they like. */
enum { TEXT_SIZE = 512, MAX_WARNINGS = 64 };

/* Text of hostile files reaches warnings. A warning stays one line. */
static void keep_one_line(char *text) {
    for (char *c = text; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            *c = '?';
}

static fb_status append(fb_warnings *warnings, const char *text) {
    char **texts = NULL, *copy = NULL;
    size_t size = strlen(text) + 1;
    FB_TRY(fb_alloc(warnings->count + 1, sizeof *texts, "warnings", &texts));
    fb_status status = fb_alloc(size, 1, "warning", &copy);
    if (status != FB_OK) {
        fb_free(texts);
        return status;
    }
    memcpy(copy, text, size);
    if (warnings->count > 0)
        memcpy(texts, warnings->texts, warnings->count * sizeof *texts);
    texts[warnings->count++] = copy;
    fb_free(warnings->texts);
    warnings->texts = texts;
    return FB_OK;
}

fb_status fb_warn(fb_warnings *warnings, const char *format, ...) {
    char text[TEXT_SIZE];
    if (!warnings)
        return FB_OK;
    va_list arguments;
    va_start(arguments, format);
    fb_point before = fb_point_begin();
    vsnprintf(text, sizeof text, format, arguments);
    fb_point_end(before);
    va_end(arguments);
    keep_one_line(text);
    if (warnings->count >= MAX_WARNINGS)
        return FB_OK;
    return append(warnings,
                  warnings->count + 1 < MAX_WARNINGS ? text : "more warnings are left out");
}

const char *fb_warnings_at(const fb_warnings *warnings, size_t index) {
    return index < warnings->count ? warnings->texts[index] : NULL;
}

void fb_warnings_free(fb_warnings *warnings) {
    for (size_t i = 0; i < warnings->count; i++)
        fb_free(warnings->texts[i]);
    fb_free(warnings->texts);
    *warnings = (fb_warnings){0};
}
