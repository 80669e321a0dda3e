/* Where a path leads: through links to a file, or to a descriptor of this process. */
#ifndef FB_IO_FILE_PLACE_H
#define FB_IO_FILE_PLACE_H

#include <flashblock/status.h>

#include <stdbool.h>
#include <sys/stat.h>

typedef struct fb_file_place {
    int descriptor; /* of this process, where the path leads to one: borrowed; else -1 */
    char *path;     /* the file itself: an absolute path without links; NULL for a descriptor */
    bool exists;
    struct stat status; /* if it exists */
} fb_file_place;

/* Follows every link, also chains of them and those that lead to nothing, which are places where a
 * file can be made. FB_ERROR_IO when a folder on the way is missing or cannot be searched, and for
 * a circle of links. The caller calls fb_file_place_free on success. */
fb_status fb_file_place_find(const char *path, fb_file_place *place);
void fb_file_place_free(fb_file_place *place);

/* The descriptor that `path` leads to, or -1; errors count as -1. */
int fb_file_place_descriptor(const char *path);

#endif
