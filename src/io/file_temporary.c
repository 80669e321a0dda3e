#define _GNU_SOURCE /* flock */
#include "io/file_temporary.h"

#include "base/memory.h"
#include "io/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

/* A name in a folder is at most NAME_MAX long: of longer ones the beginning is taken. */
enum { MAX_OPEN = 64, MAX_TRIES = 100, SUFFIX = 48, LONGEST_BASE = NAME_MAX - SUFFIX };

/* What a signal handler removes. */
typedef _Atomic(const char *) name_list[MAX_OPEN];
static name_list open_names, open_folders;

static void note(name_list names, const char *name) {
    for (int i = 0; i < MAX_OPEN; i++) {
        const char *none = NULL;
        if (atomic_compare_exchange_strong(&names[i], &none, name))
            return;
    }
}

static void forget(name_list names, char *name) {
    fb_file_hold_signals(); /* the handler reads the name */
    for (int i = 0; name && i < MAX_OPEN; i++) {
        const char *noted = name;
        if (atomic_compare_exchange_strong(&names[i], &noted, NULL))
            break;
    }
    fb_free(name);
    fb_file_release_signals();
}

void fb_file_temporary_note(const char *name) {
    note(open_names, name);
}

void fb_file_temporary_note_folder(const char *name) {
    note(open_folders, name);
}

void fb_file_temporary_forget(char *name) {
    forget(open_names, name);
}

void fb_file_temporary_forget_folder(char *name) {
    forget(open_folders, name);
}

void fb_file_temporary_remove(char *name) {
    if (name)
        unlink(name);
    fb_file_temporary_forget(name);
}

/* Either the handler sees that files are being changed, or who changes them sees that the process
 * ends, and waits for that. */
static atomic_int held, ending, waiting;

bool fb_file_end_by_signal(int number) {
    atomic_store(&ending, 1);
    if (atomic_load(&held) > 0) {
        atomic_store(&waiting, number);
        atomic_store(&ending, 0);
        return false;
    }
    for (int i = 0; i < MAX_OPEN; i++) {
        const char *name = atomic_load(&open_names[i]);
        if (name)
            unlink(name);
    }
    for (int i = 0; i < MAX_OPEN; i++) {
        const char *name = atomic_load(&open_folders[i]);
        if (name)
            rmdir(name);
    }
    return true;
}

void fb_file_hold_signals(void) {
    atomic_fetch_add(&held, 1);
    while (atomic_load(&ending))
        sched_yield();
}

void fb_file_release_signals(void) {
    if (atomic_fetch_sub(&held, 1) > 1)
        return;
    int number = atomic_exchange(&waiting, 0);
    if (number != 0)
        raise(number);
}

static atomic_uint counter; /* of this process's names */

/* In a container, processes have the same few ids again and again. A number that was not given yet
 * is of one that had ours. */
static bool has_ended(long pid, unsigned long number) {
    if (pid == (long)getpid())
        return number >= atomic_load(&counter);
    return kill((pid_t)pid, 0) != 0 && errno == ESRCH;
}

/* Whether `name`, of `length` bytes of a base and "PID-N", is of a process that has ended. */
static bool is_left_over(const char *name, const char *base, size_t length) {
    static const char middle[] = ".tmp-";
    char *end = NULL;
    if (strncmp(name, base, length) != 0 || strncmp(name + length, middle, strlen(middle)) != 0)
        return false;
    const char *numbers = name + length + strlen(middle);
    long pid = strtol(numbers, &end, 10);
    if (numbers[0] < '1' || numbers[0] > '9' || pid <= 0 || pid > INT_MAX || *end != '-' ||
        end[1] == '\0' || end[1 + strspn(end + 1, "0123456789")] != '\0')
        return false;
    return has_ended(pid, strtoul(end + 1, NULL, 10));
}

/* The lock says that no process holds it, also none that has other process ids (of a container). */
static void remove_unlocked(int folder, const char *name) {
    int fd = openat(folder, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    struct stat status;
    if (fd < 0)
        return;
    if (fstat(fd, &status) == 0 && S_ISREG(status.st_mode) && flock(fd, LOCK_EX | LOCK_NB) == 0)
        unlinkat(folder, name, 0);
    close(fd);
}

static void remove_left_over(const char *folder, const char *base, size_t length) {
    DIR *entries = opendir(folder);
    if (!entries)
        return;
    const struct dirent *entry;
    while ((entry = readdir(entries)) != NULL)
        if (is_left_over(entry->d_name, base, length))
            remove_unlocked(dirfd(entries), entry->d_name);
    closedir(entries);
}

/* The umask decides about 0666, as for a file that is written in place. */
static int open_noted(const char *name, int *code) {
    fb_file_hold_signals();
    int fd = open(name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    *code = errno;
    if (fd >= 0)
        note(open_names, name);
    fb_file_release_signals();
    return fd;
}

int fb_file_temporary_open(const char *path, char **name) {
    const char *slash = strrchr(path, '/');
    const char *base = slash ? slash + 1 : path;
    size_t folder = (size_t)(base - path), length = strlen(base);
    if (length > LONGEST_BASE)
        length = LONGEST_BASE;
    size_t size = folder + length + SUFFIX;
    char *made = NULL;
    if (fb_alloc(size, 1, "path", &made) != FB_OK) {
        errno = ENOMEM;
        return -1;
    }
    snprintf(made, size, "%.*s", (int)folder, path);
    remove_left_over(folder > 0 ? made : ".", base, length);
    int fd = -1, code = EEXIST;
    for (int tries = 0; tries < MAX_TRIES && fd < 0 && code == EEXIST; tries++) {
        snprintf(made, size, "%.*s.tmp-%ld-%u", (int)(folder + length), path, (long)getpid(),
                 atomic_fetch_add(&counter, 1));
        fd = open_noted(made, &code);
    }
    if (fd < 0) {
        fb_free(made);
        errno = code;
        return -1;
    }
    flock(fd, LOCK_EX | LOCK_NB);
    *name = made;
    return fd;
}
