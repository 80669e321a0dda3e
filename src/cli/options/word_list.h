/* Lists of words on the command line: "quest,mage". */
#ifndef FB_CLI_OPTIONS_WORD_LIST_H
#define FB_CLI_OPTIONS_WORD_LIST_H

#include <flashblock/status.h>

#include <stddef.h>

/* Calls `parse` for each word, with its place in items [max] of item_size bytes each. Fails where
 * `parse` fails, and where there are more than `max` words. */
fb_status fb_word_list_parse(const char *text, fb_status (*parse)(const char *word, void *item),
                             void *items, size_t item_size, size_t max, size_t *count);

#endif
