#include "cli/options/option_table.h"

#include "base/memory.h"

void fb_option_list_add(fb_option_list *list, const fb_option *option, const char *text) {
    list->values[list->count++] = (fb_option_value){option, text};
}

void fb_option_list_free(fb_option_list *list) {
    fb_free(list->values);
    *list = (fb_option_list){0};
}

size_t fb_option_table_count(const fb_option_table *table) {
    return table->num_options + (table->shared ? table->shared->num_options : 0);
}

const fb_option *fb_option_table_at(const fb_option_table *table, size_t i) {
    size_t num_shared = fb_option_table_count(table) - table->num_options;
    return i < num_shared ? &table->shared->options[i] : &table->options[i - num_shared];
}
