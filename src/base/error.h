/* How a call fails: fb_fail keeps the message of the calling thread and returns the status, so
 * that a check is one line: `return fb_fail(FB_ERROR_ARGUMENT, "head_dim is %zu, ...", n);`
 *
 * Exported, here and in memory.h, for libflashblock-lm alone: the header is not installed. */
#ifndef FB_BASE_ERROR_H
#define FB_BASE_ERROR_H

#include <flashblock/status.h>

#if defined(__GNUC__)
#define FB_PRINTF(format_index, first) __attribute__((format(printf, format_index, first)))
#else
#define FB_PRINTF(format_index, first)
#endif

FB_API fb_status fb_fail(fb_status status, const char *format, ...) FB_PRINTF(2, 3);

/* Puts "CONTEXT: " in front of the message already kept (a file's name, say); returns status. */
FB_API fb_status fb_fail_in(fb_status status, const char *format, ...) FB_PRINTF(2, 3);

/* Returns from the calling function when `call` fails. */
#define FB_TRY(call)                                                                               \
    do {                                                                                           \
        fb_status try_status_ = (call);                                                            \
        if (try_status_ != FB_OK)                                                                  \
            return try_status_;                                                                    \
    } while (0)

#endif
