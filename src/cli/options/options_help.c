#include "cli/options/options_help.h"

#include "cli/options/option_rules.h"

#include <stdio.h>
#include <string.h>

/* Columns in which the descriptions begin and end. */
enum { HELP_COLUMN = 30, HELP_WIDTH = 96 };

/* Prints `text` from HELP_COLUMN on, broken at spaces; `column` is where the cursor is. */
static void print_wrapped(const char *text, int column) {
    if (column >= HELP_COLUMN) {
        putchar('\n');
        column = 0;
    }
    while (*text) {
        int length = (int)strcspn(text, " ");
        if (column > HELP_COLUMN && column + 1 + length > HELP_WIDTH) {
            putchar('\n');
            column = 0;
        }
        if (column > HELP_COLUMN)
            column += printf(" ");
        column += printf("%*s", column < HELP_COLUMN ? HELP_COLUMN - column : 0, "");
        column += printf("%.*s", length, text);
        text += length;
        text += strspn(text, " ");
    }
    putchar('\n');
}

static void print_option(const fb_option *option) {
    char letter[] = "    ";
    if (option->letter)
        snprintf(letter, sizeof letter, "-%c, ", option->letter);
    int column = printf("  %s--%s", letter, option->name);
    if (option->argument)
        column += printf(option->kind == FB_OPTION_FILE ? " [%s]" : " %s", option->argument);
    char text[768], rules[256] = "";
    if (option->otherwise)
        snprintf(rules, sizeof rules, "default: %s%s", option->otherwise,
                 option->needs ? "; " : "");
    fb_option_rules_describe(option, rules, sizeof rules);
    snprintf(text, sizeof text, rules[0] ? "%s (%s)" : "%s", option->help, rules);
    print_wrapped(text, column);
}

void fb_options_print_help(const fb_option_table *table) {
    printf("Usage: flashblock %s\n\n%s\n", table->usage, table->summary);
    if (fb_option_table_at(table, 0)->kind != FB_OPTION_GROUP)
        putchar('\n');
    for (size_t i = 0; i < fb_option_table_count(table); i++) {
        const fb_option *option = fb_option_table_at(table, i);
        if (option->kind == FB_OPTION_GROUP)
            printf("\n%s:\n", option->help);
        else
            print_option(option);
    }
    const fb_option help = {
        .kind = FB_OPTION_FLAG, .name = "help", .letter = 'h', .help = "show this text"};
    print_option(&help);
}
