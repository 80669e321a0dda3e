/* Options and arguments of a command, declared as one table: parsing, range checks, defaults and
 * --help all come from it. */
#ifndef FB_CLI_OPTIONS_OPTION_TABLE_H
#define FB_CLI_OPTIONS_OPTION_TABLE_H

#include <flashblock/status.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum fb_option_kind {
    FB_OPTION_GROUP = 0, /* not an option: a heading in --help; only `help` is used */
    FB_OPTION_FLAG,      /* bool: true */
    FB_OPTION_STRING,    /* const char *, borrowed from argv; never empty */
    FB_OPTION_LIST,      /* fb_option_list: every value, in the order given */
    FB_OPTION_FILE,      /* const char *, a file to write, which is checked before anything is done;
                            without a value "-", which stands for standard output */
    FB_OPTION_OUTPUT,    /* the same, with a value always; "-" is standard output, too */
    FB_OPTION_SIZE,      /* size_t in [min, max]: decimal digits, also as 4k (4096) or 1m */
    FB_OPTION_UINT64,    /* uint64_t, decimal digits */
    FB_OPTION_DOUBLE,    /* double in [min, max], finite */
    FB_OPTION_PARSED,    /* the value as `parse` reads it */
} fb_option_kind;

typedef struct fb_option {
    fb_option_kind kind;
    const char *name;      /* without the dashes */
    char letter;           /* of the short form; 0: none */
    const char *argument;  /* name of the value in --help; NULL for a flag */
    size_t target;         /* offset of the variable in the structure given to fb_options_parse */
    size_t given;          /* offset of a bool: whether the command line has the option; 0: none */
    double min, max;       /* of FB_OPTION_SIZE and FB_OPTION_DOUBLE; max 0: no upper limit */
    const char *otherwise; /* default, read as if it were given and shown in --help; or NULL */
    fb_status (*parse)(const char *text, void *target); /* of FB_OPTION_PARSED */
    const char *ending; /* of FB_OPTION_FILE: the value has this ending where it is an argument of
                           its own, other arguments are the command's; NULL: any value */
    bool in_new_folder; /* of FB_OPTION_FILE: not checked, the command creates the folder */
    bool required;      /* of a string or an output: an error when it is not given */
    const char *needs;  /* other options, without which it means nothing, or that exclude it:
                           option_rules.h; NULL: none */
    const char *help;
} fb_option;

/* Values of options of kind FB_OPTION_LIST; several options may share a list. Also arguments. */
typedef struct fb_option_value {
    const fb_option *option; /* NULL: an argument */
    const char *text;        /* borrowed from argv */
} fb_option_value;

typedef struct fb_option_list {
    fb_option_value *values;
    size_t count;
} fb_option_list;

/* Appends to a list that has room. `option`: NULL for an argument. */
void fb_option_list_add(fb_option_list *list, const fb_option *option, const char *text);
void fb_option_list_free(fb_option_list *list);

/* Arguments that are not options: at least `min` of them, at most `max` (0: no limit). */
typedef struct fb_arguments {
    const char *name; /* in messages: "PATH" */
    size_t min, max;
    size_t target; /* offset of an fb_option_list */
} fb_arguments;

/* A command line. `usage` follows "Usage: flashblock " and `summary` stands below it. */
typedef struct fb_option_table {
    const char *usage, *summary;
    const struct fb_option_table *shared; /* its options come first; NULL: none. The structure given
                                             to fb_options_parse then begins with theirs */
    const char *left_out; /* names of shared options that this command does not have, a space after
                             each; NULL: none */
    const fb_option *options;
    size_t num_options;
    const fb_arguments *arguments; /* NULL: none */
} fb_option_table;

/* The members `options` and `num_options` of a table, from an array. */
#define FB_TABLE_OPTIONS(array) .options = (array), .num_options = sizeof(array) / sizeof(array)[0]

/* The options of a table, the shared ones first. */
size_t fb_option_table_count(const fb_option_table *table);
const fb_option *fb_option_table_at(const fb_option_table *table, size_t i);

#endif
