/* Errors are values: every call that can fail returns a status.
 *
 * A call that fails leaves its outputs untouched, and leaves one line for people in a buffer of
 * the calling thread: it names the offending argument, file or field, and its value. Nothing in
 * the library exits, aborts or prints. Every allocation may fail: FB_ERROR_MEMORY; the call can be
 * made again. Threads that cannot be created are no error (runtime.h).
 */
#ifndef FLASHBLOCK_STATUS_H
#define FLASHBLOCK_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif

/* Symbols that the shared library exports. */
#if defined(__GNUC__)
#define FB_API __attribute__((visibility("default")))
#else
#define FB_API
#endif

typedef enum fb_status {
    FB_OK = 0,
    FB_ERROR_ARGUMENT,    /* an argument is outside its documented range */
    FB_ERROR_MEMORY,      /* an allocation failed, or its size does not fit size_t */
    FB_ERROR_STALE,       /* a cached part belongs to another state of the KV cache */
    FB_ERROR_IO,          /* a file cannot be opened, read, mapped or written */
    FB_ERROR_FORMAT,      /* a file's content is malformed or contradicts itself */
    FB_ERROR_UNSUPPORTED, /* well-formed, but not something that this build or CPU can do */
} fb_status;

/* The status in words ("ok", "invalid argument", ...). Never NULL. Thread-safe. */
FB_API const char *fb_status_name(fb_status status);

/* One line about the last call that failed on the calling thread; "" when none has. The string
 * belongs to the library and changes with the thread's next failure. Thread-safe. */
FB_API const char *fb_error_message(void);

#ifdef __cplusplus
}
#endif

#endif
