/* Files and directories of the command line, as a list of files. */
#ifndef FB_CLI_VERIFY_FOUND_PATHS_H
#define FB_CLI_VERIFY_FOUND_PATHS_H

#include "cli/options/options.h"

#include <stdbool.h>

typedef struct fb_found_path {
    char *text;
    bool named; /* on the command line, not found in a directory */
} fb_found_path;

typedef struct fb_found_paths {
    fb_found_path *paths;
    size_t count, capacity;
} fb_found_paths;

/* Appends to a zeroed list: a file as it is given, whether it exists or not; of a directory, and of
 * all below it, the files whose names end in ".safetensors", sorted bytewise. Links to directories
 * are not followed. What was found so far is in the list also after an error. */
fb_status fb_found_paths_find(fb_found_paths *list, const fb_option_list *arguments);

void fb_found_paths_free(fb_found_paths *list);

#endif
