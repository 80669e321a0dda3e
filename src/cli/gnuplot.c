#define _GNU_SOURCE /* memfd_create, pipe2, environ */
#include "cli/gnuplot.h"

#include "base/error.h"
#include "io/buffer.h"
#include "io/file.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static bool ends_in(const char *path, const char *ending) {
    size_t length = strlen(path), tail = strlen(ending);
    return length > tail && strcmp(path + length - tail, ending) == 0;
}

/* A gnuplot that is running, and what it writes. */
typedef struct child {
    pid_t id;
    int output;
} child;

/* Its standard input is `script`, its errors go nowhere. */
static int start(const char *argument, int script, child *made) {
    const char *arguments[] = {"gnuplot", argument, NULL};
    posix_spawn_file_actions_t actions;
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0)
        return errno;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, script, STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
    posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
    int code = posix_spawnp(&made->id, "gnuplot", &actions, NULL, (char **)arguments, environ);
    posix_spawn_file_actions_destroy(&actions);
    close(ends[1]);
    made->output = ends[0];
    if (code != 0)
        close(ends[0]);
    return code;
}

static fb_status read_output(const child *gnuplot, fb_buffer *bytes) {
    for (;;) {
        FB_TRY(fb_buffer_reserve(bytes, 65536));
        ssize_t got = read(gnuplot->output, bytes->data + bytes->size, 65536);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return got < 0 ? fb_fail(FB_ERROR_IO, "gnuplot: %s", strerror(errno)) : FB_OK;
        bytes->size += (size_t)got;
    }
}

/* Runs it to its end. */
static fb_status run(const char *argument, int script, const char *option, fb_buffer *bytes) {
    child gnuplot;
    int result = 0, code = start(argument, script, &gnuplot);
    fb_status status = code == 0 ? read_output(&gnuplot, bytes) : FB_OK;
    if (code == 0)
        close(gnuplot.output);
    while (code == 0 && waitpid(gnuplot.id, &result, 0) < 0 && errno == EINTR) {
    }
    if (code == ENOENT || code == EACCES || (WIFEXITED(result) && WEXITSTATUS(result) == 127))
        return fb_fail(FB_ERROR_UNSUPPORTED, "%s: there is no gnuplot to draw with", option);
    if (code != 0)
        return fb_fail(FB_ERROR_IO, "%s: cannot run gnuplot: %s", option, strerror(code));
    if (status == FB_OK && (!WIFEXITED(result) || WEXITSTATUS(result) != 0))
        return fb_fail(FB_ERROR_IO, "%s: gnuplot cannot draw it", option);
    return status;
}

fb_status fb_gnuplot_check(const char *path, const char *option) {
    if (!ends_in(path, ".svg") && !ends_in(path, ".png"))
        return fb_fail(FB_ERROR_ARGUMENT, "%s: '%s' ends neither in .png nor in .svg", option,
                       path);
    fb_buffer version = {0};
    fb_status status = run("--version", STDIN_FILENO, option, &version);
    fb_buffer_free(&version);
    return status;
}

/* Gnuplot reads the script from a file in memory, so that its picture can come through the pipe. */
static fb_status make_script(const fb_picture *picture, fb_gnuplot_script *script, const void *user,
                             int *descriptor) {
    int fd = memfd_create("script", MFD_CLOEXEC);
    FILE *stream = fd >= 0 ? fdopen(dup(fd), "w") : NULL;
    if (stream) {
        fprintf(stream, "set terminal %s size %zu,%zu",
                ends_in(picture->path, ".svg") ? "svg background rgb 'white'" : "pngcairo",
                picture->width, picture->height);
        if (picture->font)
            fprintf(stream, " font '%s'", picture->font);
        fputc('\n', stream);
        script(stream, user);
        bool failed = ferror(stream) != 0;
        if (fclose(stream) == 0 && !failed && lseek(fd, 0, SEEK_SET) == 0) {
            *descriptor = fd;
            return FB_OK;
        }
    }
    fb_status status = fb_fail(FB_ERROR_IO, "gnuplot's script: %s", strerror(errno));
    if (fd >= 0)
        close(fd);
    return status;
}

fb_status fb_gnuplot_draw(const fb_picture *picture, const char *option, fb_gnuplot_script *script,
                          const void *user) {
    int fd = -1;
    fb_buffer bytes = {0};
    FB_TRY(make_script(picture, script, user, &fd));
    fb_status status = run(NULL, fd, option, &bytes);
    close(fd);
    if (status == FB_OK)
        status = fb_file_write(picture->path, bytes.data, bytes.size);
    fb_buffer_free(&bytes);
    return status;
}
