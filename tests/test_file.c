/* Writers, batches of files, and the places that paths lead to. */
#include "base/memory.h"
#include "io/file.h"
#include "io/file_place.h"
#include "tests/temporary.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static void expect_content(const char *path, const char *expected) {
    char *data = NULL;
    size_t size = 0;
    cr_assert_eq(fb_file_read(path, 1 << 20, &data, &size), FB_OK, "%s", fb_error_message());
    cr_expect_str_eq(data, expected, "%s", path);
    fb_free(data);
}

static void write_text(const char *path, const char *text) {
    cr_assert_eq(fb_file_write(path, text, strlen(text)), FB_OK, "%s", fb_error_message());
}

/* Where the message says that content is kept; it is removed. */
static void expect_kept(const char *content) {
    const char *at = strstr(fb_error_message(), "its content is in ");
    char path[512];
    cr_assert_not_null(at, "%s", fb_error_message());
    at += strlen("its content is in ");
    snprintf(path, sizeof path, "%.*s", (int)strcspn(at, ";"), at);
    expect_content(path, content);
    unlink(path);
}

/* Files in the folder: temporary ones would be among them. */
static void expect_files(const char *folder, size_t expected) {
    size_t count = 0;
    DIR *listing = opendir(folder);
    cr_assert_not_null(listing);
    for (const struct dirent *entry = readdir(listing); entry; entry = readdir(listing))
        count += entry->d_name[0] != '.';
    closedir(listing);
    cr_expect_eq(count, expected, "%zu files", count);
}

/* Files can grow no more: what the disk says when it is full. */
static void fill_disk(void) {
    const struct rlimit none = {0, 0};
    signal(SIGXFSZ, SIG_IGN);
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &none), 0);
}

Test(place, descriptors_and_links) {
    temporary_make();
    cr_expect_eq(fb_file_place_descriptor("/dev/stdin"), 0);
    cr_expect_eq(fb_file_place_descriptor("/dev/stdout"), 1);
    cr_expect_eq(fb_file_place_descriptor("/dev/fd/12"), 12);
    cr_expect_eq(fb_file_place_descriptor("/proc/self/fd/3"), 3);
    cr_expect_eq(fb_file_place_descriptor("/dev/../dev/./fd/7"), 7);
    cr_expect_eq(fb_file_place_descriptor("/dev/null"), -1);
    cr_expect_eq(fb_file_place_descriptor("/dev/fd/x"), -1);
    cr_expect_eq(fb_file_place_descriptor("/dev/fd/"), -1);
    cr_expect_eq(fb_file_place_descriptor(""), -1);
    char own[64];
    snprintf(own, sizeof own, "/proc/%ld/fd/5", (long)getpid());
    cr_expect_eq(fb_file_place_descriptor(own), 5);
    const char *link = temporary_path("link"), *chain = temporary_path("chain");
    cr_assert_eq(symlink("/dev/fd/9", link), 0);
    cr_assert_eq(symlink("link", chain), 0);
    cr_expect_eq(fb_file_place_descriptor(chain), 9);

    fb_file_place place;
    const char *dangling = temporary_path("dangling");
    cr_assert_eq(symlink("new", dangling), 0);
    cr_assert_eq(fb_file_place_find(dangling, &place), FB_OK);
    cr_expect(!place.exists);
    cr_expect(strstr(place.path, "/new") && place.path[0] == '/', "%s", place.path);
    fb_file_place_free(&place);
    const char *circle = temporary_path("circle");
    cr_assert_eq(symlink("circle", circle), 0);
    cr_expect_eq(fb_file_place_find(circle, &place), FB_ERROR_IO);
    cr_expect_eq(fb_file_place_find(temporary_path("no/file"), &place), FB_ERROR_IO);
    cr_expect_eq(fb_file_place_find("", &place), FB_ERROR_IO);
    cr_expect_eq(fb_file_place_find(temporary_path("link/"), &place), FB_ERROR_IO);
    const char *const links[] = {link, chain, dangling, circle};
    for (int i = 0; i < 4; i++)
        unlink(links[i]);
    temporary_remove();
}

/* A batch writes nothing before its end. */
Test(batch, brings_all_files_at_its_end) {
    const char *folder = temporary_make();
    const char *one = temporary_write("one", "old", 3), *two = temporary_path("two");
    const char *three = temporary_write("three", "gone", 4);
    fb_file_batch_begin();
    write_text(one, "1");
    write_text(two, "2");
    cr_assert_eq(fb_file_batch_remove(one), FB_OK);
    cr_assert_eq(fb_file_batch_remove(three), FB_OK);
    cr_assert_eq(fb_file_batch_remove(temporary_path("none")), FB_OK);
    expect_content(one, "old");
    cr_expect(!fb_file_exists(two));
    cr_expect_eq(fb_file_batch_end(), FB_OK);
    expect_content(one, "1");
    expect_content(two, "2");
    cr_expect(!fb_file_exists(three));
    expect_files(folder, 2);
    cr_expect_eq(fb_file_batch_end(), FB_OK, "none is begun");
    unlink(one);
    unlink(two);
    temporary_remove();
}

/* Of each kind of file one that is there already when another of the batch fails. */
Test(batch, brings_none_where_one_fails) {
    temporary_make();
    const char *plain = temporary_write("plain", "old plain", 9);
    const char *hard = temporary_write("hard", "old hard", 8), *other = temporary_path("other");
    const char *new = temporary_path("new"), *folder = temporary_path("folder");
    const char *last = temporary_path("folder/last");
    cr_assert_eq(link(hard, other), 0);
    cr_assert_eq(mkdir(folder, 0700), 0);
    fb_file_batch_begin();
    write_text(plain, "1");
    write_text(hard, "a longer text than the old one");
    write_text(new, "3");
    write_text(last, "4");
    cr_assert_eq(fb_file_batch_remove(plain), FB_OK);
    char command[600];
    snprintf(command, sizeof command, "rm %s.tmp-*", last); /* so that the folder is empty */
    cr_assert_eq(system(command), 0);
    cr_assert_eq(rmdir(folder), 0);
    setenv("TMPDIR", "/tmp", 1);
    cr_expect_eq(fb_file_batch_end(), FB_ERROR_IO);
    cr_expect(strstr(fb_error_message(), "folder/last: cannot write"), "%s", fb_error_message());
    cr_expect(strstr(fb_error_message(), "not written either"), "%s", fb_error_message());
    expect_kept("4");
    expect_content(plain, "old plain");
    expect_content(hard, "old hard");
    expect_content(other, "old hard");
    cr_expect(!fb_file_exists(new));
    temporary_remove();
}

/* The target has no room: nothing there is changed, and all is kept in memory until it is brought
 * to standard output. */
Test(batch, keeps_everything_where_no_disk_has_room) {
    temporary_make();
    const char *hard = temporary_write("hard", "old hard", 8), *other = temporary_path("other");
    int ends[2];
    cr_assert_eq(link(hard, other), 0);
    cr_assert_eq(pipe(ends), 0);
    pid_t child = fork();
    if (child == 0) {
        char text[4096];
        memset(text, 'x', sizeof text);
        dup2(ends[1], STDOUT_FILENO);
        fill_disk();
        fb_file_batch_begin();
        if (fb_file_write(hard, text, sizeof text) != FB_OK || fb_file_batch_end() != FB_ERROR_IO ||
            !strstr(fb_error_message(), "its content is on standard output"))
            _exit(1);
        _exit(0);
    }
    close(ends[1]);
    char got[8192];
    size_t size = 0;
    for (ssize_t more; (more = read(ends[0], got + size, sizeof got - size)) > 0;)
        size += (size_t)more;
    int status = 0;
    waitpid(child, &status, 0);
    cr_expect(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    cr_expect_eq(size, 4096);
    expect_content(hard, "old hard");
    unlink(hard);
    unlink(other);
    temporary_remove();
}

/* What a command had finished when it failed. */
Test(batch, keeps_what_was_finished) {
    temporary_make();
    const char *path = temporary_write("x", "old", 3);
    fb_file_batch_begin();
    cr_expect_eq(fb_file_batch_end(), FB_OK);
    fb_file_batch_begin();
    fb_file_batch_fail();
    cr_expect_eq(fb_file_batch_end(), FB_OK, "nothing was finished");
    fb_file_batch_begin();
    write_text(path, "new");
    fb_file_batch_fail();
    cr_expect_eq(fb_file_batch_end(), FB_ERROR_IO);
    expect_kept("new");
    expect_content(path, "old");
    unlink(path);
    temporary_remove();
}

/* A library keeps nothing anywhere. */
Test(writer, a_failure_leaves_nothing_behind) {
    const char *folder = temporary_make();
    const char *path = temporary_write("x", "old", 3);
    const struct rlimit limit = {2, RLIM_INFINITY};
    signal(SIGXFSZ, SIG_IGN);
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
    cr_expect_eq(fb_file_write(path, "new text", 8), FB_ERROR_IO);
    cr_expect(strstr(fb_error_message(), "cannot write"), "%s", fb_error_message());
    cr_expect_null(strstr(fb_error_message(), "content"), "%s", fb_error_message());
    expect_content(path, "old");
    expect_files(folder, 1);
    temporary_remove();
}

/* Much more than is kept in memory, in pieces; and many small ones. */
Test(writer, writes_what_was_put) {
    enum { PIECES = 300000 };
    temporary_make();
    const char *path = temporary_path("x");
    fb_file_writer *writer = NULL;
    cr_assert_eq(fb_file_writer_open(path, &writer), FB_OK);
    for (int i = 0; i < PIECES; i++) {
        char piece[16];
        snprintf(piece, sizeof piece, "%08d\n", i);
        cr_assert_eq(fb_file_writer_put(writer, piece, 9), FB_OK);
    }
    cr_assert_eq(fb_file_writer_commit(writer), FB_OK);
    char *data = NULL;
    size_t size = 0;
    cr_assert_eq(fb_file_read(path, 1 << 24, &data, &size), FB_OK);
    cr_assert_eq(size, 9 * PIECES);
    for (int i = 0; i < PIECES; i++)
        cr_assert_eq(strtol(data + 9 * i, NULL, 10), i);
    fb_free(data);
    unlink(path);
    temporary_remove();
}

/* Whether the file is mapped or read, and whatever is released: beyond its ends, too. */
Test(map, bytes_that_were_released_are_the_same) {
    enum { SIZE = 5 << 12 };
    static char content[SIZE];
    for (int i = 0; i < SIZE; i++)
        content[i] = (char)(1 + i % 251);
    temporary_make();
    const char *path = temporary_write("x", content, SIZE);
    fb_file_map maps[2] = {0};
    cr_assert_eq(fb_file_map_open(path, &maps[0]), FB_OK);
    cr_assert_eq(fb_file_map_by_reading(path, &maps[1]), FB_OK);
    for (int i = 0; i < 2; i++) {
        fb_file_map_release(&maps[i], maps[i].data + 100, SIZE - 200);
        fb_file_map_release(&maps[i], maps[i].data + 100, SIZE);
        fb_file_map_release(&maps[i], content, SIZE);
        cr_expect_eq(memcmp(maps[i].data, content, SIZE), 0, "%d", i);
        fb_file_map_close(&maps[i]);
    }
    cr_expect_eq(content[SIZE / 2], (char)(1 + SIZE / 2 % 251));
    unlink(path);
    temporary_remove();
}

/* The file is whole when another one is written over it that is shorter, in place. */
Test(writer, in_place_nothing_of_the_old_bytes_stays) {
    temporary_make();
    const char *path = temporary_write("x", "much longer", 11), *other = temporary_path("other");
    cr_assert_eq(link(path, other), 0);
    write_text(path, "short");
    expect_content(other, "short");
    write_text(path, "");
    expect_content(other, "");
    unlink(path);
    unlink(other);
    temporary_remove();
}

Test(writer, says_at_once_what_cannot_be_written) {
    const char *directory = temporary_make();
    const char *path = temporary_path("x");
    cr_expect_eq(fb_file_check_writable(path), FB_OK);
    cr_expect(!fb_file_exists(path));
    cr_expect_eq(fb_file_check_writable(directory), FB_ERROR_IO);
    cr_expect_eq(fb_file_check_writable(temporary_path("no/x")), FB_ERROR_IO);
    cr_expect_eq(fb_file_check_writable("/dev/null"), FB_OK);
    cr_expect_eq(fb_file_check_writable("/dev/fd/999"), FB_ERROR_IO);
    int fd = open("/dev/null", O_RDONLY);
    char name[32];
    snprintf(name, sizeof name, "/dev/fd/%d", fd);
    cr_expect_eq(fb_file_check_writable(name), FB_ERROR_IO);
    close(fd);
    fb_file_batch_begin(); /* a check is a check there, too */
    cr_expect_eq(fb_file_check_writable(temporary_path("no/x")), FB_ERROR_IO);
    cr_expect_eq(fb_file_batch_end(), FB_OK);
    temporary_remove();
}
