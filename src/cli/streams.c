#define _GNU_SOURCE /* fopencookie */
#include "cli/streams.h"

#include "io/file_outputs.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

static bool dropped; /* output that nobody reads */

/* write() that waits. 0, or an errno. */
static int write_all(int fd, const char *data, size_t size) {
    while (size > 0) {
        ssize_t written = write(fd, data, size);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0 && errno == EAGAIN) {
            poll(&(struct pollfd){.fd = fd, .events = POLLOUT}, 1, -1);
            continue;
        }
        if (written < 0)
            return errno;
        data += written;
        size -= (size_t)written;
    }
    return 0;
}

/* The same without the signal of a pipe that nobody reads. */
static int write_quietly(int fd, const char *data, size_t size) {
    sigset_t pipe, pending, before;
    sigemptyset(&pipe);
    sigaddset(&pipe, SIGPIPE);
    sigpending(&pending);
    pthread_sigmask(SIG_BLOCK, &pipe, &before);
    int code = write_all(fd, data, size);
    if (code == EPIPE && !sigismember(&pending, SIGPIPE)) {
        const struct timespec now = {0};
        sigtimedwait(&pipe, NULL, &now);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return code;
}

static bool is_ignored(int number) {
    struct sigaction now;
    return sigaction(number, NULL, &now) == 0 && now.sa_handler == SIG_IGN;
}

static ssize_t put(void *descriptor, const char *data, size_t size) {
    int code = write_quietly(*(const int *)descriptor, data, size);
    if (code == EPIPE && !is_ignored(SIGPIPE)) {
        if (!fb_file_outputs_expected())
            raise(SIGPIPE);
        dropped = true;
        return (ssize_t)size;
    }
    errno = code;
    return code == 0 ? (ssize_t)size : 0;
}

#ifdef __GLIBC__
static FILE *open_stream(int *descriptor) {
    const cookie_io_functions_t functions = {.write = put};
    return fopencookie(descriptor, "w", functions);
}

void fb_streams_open(void) {
    static int out = STDOUT_FILENO, error = STDERR_FILENO;
    FILE *stream = open_stream(&out);
    if (stream) {
        setvbuf(stream, NULL, isatty(out) ? _IOLBF : _IOFBF, BUFSIZ);
        stdout = stream;
    }
    stream = open_stream(&error);
    if (stream) {
        setvbuf(stream, NULL, _IONBF, 0);
        stderr = stream;
    }
}
#else
void fb_streams_open(void) {
    (void)put; /* another C library's streams cannot be replaced */
}
#endif

void fb_streams_close(void) {
    if (!dropped)
        return;
    signal(SIGPIPE, SIG_DFL);
    raise(SIGPIPE);
}
