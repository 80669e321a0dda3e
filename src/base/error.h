/* Errors are values. fb_fail keeps a message for the calling thread and returns the status, so a
 * check is one line: `return fb_fail(FB_ERROR_ARGUMENT, "head_dim is %zu, ...", n);`
 *
 * The functions here and in memory.h are exported only for libflashblock-lm. The headers are not
 * installed. */
#ifndef FB_BASE_ERROR_H
#define FB_BASE_ERROR_H

#include <flashblock/status.h>

#if defined(__GNUC__)
#define FB_PRINTF(format_index, first) __attribute__((format(printf, format_index, first)))
#else
#define FB_PRINTF(format_index, first)
#endif

FB_API fb_status fb_fail(fb_status status, const char *format, ...) FB_PRINTF(2, 3);

/* Puts "CONTEXT: " (such as the name of a file) in front of the message that fb_fail kept, and
 * returns status. */
FB_API fb_status fb_fail_in(fb_status status, const char *format, ...) FB_PRINTF(2, 3);

/* Returns from the calling function when `call` fails. */
#define FB_TRY(call)                                                                               \
    do {                                                                                           \
        fb_status try_status_ = (call);                                                            \
        if (try_status_ != FB_OK)                                                                  \
            return try_status_;                                                                    \
    } while (0)

#endif
