#include "base/error.h"

#include "base/point.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { MESSAGE_SIZE = 2048 }; /* paths may be long */

static _Thread_local char message[MESSAGE_SIZE];

const char *fb_status_name(fb_status status) {
    switch (status) {
    case FB_OK:
        return "ok";
    case FB_ERROR_ARGUMENT:
        return "invalid argument";
    case FB_ERROR_MEMORY:
        return "out of memory";
    case FB_ERROR_STALE:
        return "stale cached part";
    case FB_ERROR_IO:
        return "input/output error";
    case FB_ERROR_FORMAT:
        return "malformed file";
    case FB_ERROR_UNSUPPORTED:
        return "unsupported";
    }
    return "unknown status";
}

const char *fb_error_message(void) {
    return message;
}

/* Text of hostile files reaches messages (a name of a tensor, for example). A message stays one
 * line. */
static void keep_one_line(void) {
    for (char *c = message; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            *c = '?';
}

static int print(char *text, size_t size, const char *format, va_list arguments) {
    fb_point before = fb_point_begin();
    int length = vsnprintf(text, size, format, arguments);
    fb_point_end(before);
    return length;
}

fb_status fb_fail(fb_status status, const char *format, ...) {
    /* An argument may be the kept message itself, so the text is formatted in another buffer. */
    char text[MESSAGE_SIZE];
    va_list arguments;
    va_start(arguments, format);
    print(text, sizeof text, format, arguments);
    va_end(arguments);
    memcpy(message, text, sizeof text);
    keep_one_line();
    return status;
}

fb_status fb_fail_in(fb_status status, const char *format, ...) {
    char text[MESSAGE_SIZE];
    va_list arguments;
    va_start(arguments, format);
    int length = print(text, sizeof text, format, arguments);
    va_end(arguments);
    if (length < 0)
        return status;
    size_t used = (size_t)length < sizeof text ? (size_t)length : sizeof text - 1;
    snprintf(text + used, sizeof text - used, ": %.*s", (int)(sizeof text - used - 1), message);
    memcpy(message, text, sizeof text);
    keep_one_line();
    return status;
}
