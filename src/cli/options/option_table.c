#include "cli/options/option_table.h"

#include "base/memory.h"

#include <string.h>

void fb_option_list_add(fb_option_list *list, const fb_option *option, const char *text) {
    list->values[list->count++] = (fb_option_value){option, text};
}

void fb_option_list_free(fb_option_list *list) {
    fb_free(list->values);
    *list = (fb_option_list){0};
}

/* Whether the table leaves out this shared option. */
static bool is_left_out(const fb_option_table *table, const fb_option *option) {
    if (!table->left_out || option->kind == FB_OPTION_GROUP)
        return false;
    size_t length = strlen(option->name);
    for (const char *at = table->left_out; *at; at += strcspn(at, " ") + 1)
        if (strncmp(at, option->name, length) == 0 && at[length] == ' ')
            return true;
    return false;
}

/* The i-th of the shared options that are not left out; NULL beyond the last. */
static const fb_option *shared_at(const fb_option_table *table, size_t i) {
    size_t num_shared = table->shared ? table->shared->num_options : 0;
    for (size_t j = 0; j < num_shared; j++) {
        const fb_option *option = &table->shared->options[j];
        if (!is_left_out(table, option) && i-- == 0)
            return option;
    }
    return NULL;
}

static size_t count_shared(const fb_option_table *table) {
    size_t count = 0;
    while (shared_at(table, count))
        count++;
    return count;
}

size_t fb_option_table_count(const fb_option_table *table) {
    return table->num_options + count_shared(table);
}

const fb_option *fb_option_table_at(const fb_option_table *table, size_t i) {
    const fb_option *shared = shared_at(table, i);
    return shared ? shared : &table->options[i - count_shared(table)];
}
