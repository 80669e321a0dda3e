/* Options of a command: its command line read, and its --help, both from the table. */
#include "cli/options.h"

#include "base/error.h"
#include "base/memory.h"
#include "cli/output.h"
#include "io/file.h"

#include <flashblock/generate.h>
#include <flashblock/reuse.h>
#include <flashblock/types.h>

#include <errno.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* --help: where the descriptions begin, and how far they go. */
enum { HELP_COLUMN = 30, HELP_WIDTH = 96 };

typedef enum fb_options_result {
    FB_OPTIONS_READY, /* the targets are set */
    FB_OPTIONS_HELP,  /* --help: it has been printed to standard output */
    FB_OPTIONS_WRONG, /* one line has been printed to standard error */
} fb_options_result;

static const char help_text[] = "show this text";

void fb_option_list_free(fb_option_list *list) {
    fb_free(list->values);
    *list = (fb_option_list){0};
}

fb_status fb_option_parse_dtype(const char *text, void *dtype) {
    return fb_dtype_parse(text, dtype);
}

fb_status fb_option_parse_compat(const char *text, void *compat) {
    bool released = strcmp(text, "released") == 0;
    if (!released && strcmp(text, "paper") != 0)
        return fb_fail(FB_ERROR_ARGUMENT, "'%s' is neither paper nor released", text);
    *(fb_compat *)compat = released ? FB_COMPAT_RELEASED : FB_COMPAT_PAPER;
    return FB_OK;
}

fb_status fb_option_parse_reuse(const char *text, void *rows) {
    bool is_rows = strcmp(text, "rows") == 0;
    if (!is_rows && strcmp(text, "tau") != 0)
        return fb_fail(FB_ERROR_ARGUMENT, "'%s' is neither tau nor rows", text);
    *(bool *)rows = is_rows;
    return FB_OK;
}

fb_status fb_option_parse_remasking(const char *text, void *remasking) {
    return fb_remasking_parse(text, remasking);
}

/* --- values ----------------------------------------------------------------------------------- */

static bool parse_uint64(const char *text, uint64_t *value) {
    if (text[0] < '0' || text[0] > '9') /* strtoull would take spaces and signs */
        return false;
    char *end = NULL;
    errno = 0;
    unsigned long long number = strtoull(text, &end, 10);
    if (errno != 0 || *end != '\0' || number > UINT64_MAX)
        return false;
    *value = number;
    return true;
}

static bool parse_double(const char *text, double *value) {
    if (text[0] == '\0' || strspn(text, "0123456789+-.eE") != strlen(text))
        return false;
    char *end = NULL;
    double number = strtod(text, &end);
    if (*end != '\0' || !isfinite(number))
        return false;
    *value = number;
    return true;
}

static bool in_range(const fb_option *option, double value) {
    return value >= option->min && (option->max == 0 || value <= option->max);
}

static fb_options_result wrong_number(const fb_option *option, const char *text, const char *kind) {
    if (option->max != 0)
        fb_print_error("--%s: '%s' is not %s from %g to %.15g", option->name, text, kind,
                       option->min, option->max);
    else if (option->min != 0)
        fb_print_error("--%s: '%s' is not %s of at least %g", option->name, text, kind,
                       option->min);
    else
        fb_print_error("--%s: '%s' is not %s", option->name, text, kind);
    return FB_OPTIONS_WRONG;
}

static fb_options_result set_size(const fb_option *option, const char *text, void *target) {
    uint64_t number = 0;
    if (!parse_uint64(text, &number) || number > SIZE_MAX || !in_range(option, (double)number))
        return wrong_number(option, text, "a whole number");
    *(size_t *)target = (size_t)number;
    return FB_OPTIONS_READY;
}

static fb_options_result set_double(const fb_option *option, const char *text, void *target) {
    double number = 0;
    if (!parse_double(text, &number) || !in_range(option, number))
        return wrong_number(option, text, "a number");
    *(double *)target = number;
    return FB_OPTIONS_READY;
}

/* The list has room for every argument there can be: fb_options_parse saw to that. */
static void append(fb_option_list *list, const fb_option *option, const char *text) {
    list->values[list->count++] = (fb_option_value){option, text};
}

static fb_options_result set_value(const fb_option *option, const char *text, void *target) {
    switch (option->kind) {
    case FB_OPTION_GROUP:
    case FB_OPTION_FLAG:
        *(bool *)target = true;
        return FB_OPTIONS_READY;
    case FB_OPTION_STRING:
    case FB_OPTION_FILE:
        if (text[0] == '\0') {
            fb_print_error("--%s: the %s is empty", option->name, option->argument);
            return FB_OPTIONS_WRONG;
        }
        *(const char **)target = text;
        return FB_OPTIONS_READY;
    case FB_OPTION_LIST:
        append(target, option, text);
        return FB_OPTIONS_READY;
    case FB_OPTION_SIZE:
        return set_size(option, text, target);
    case FB_OPTION_UINT64:
        if (!parse_uint64(text, target))
            return wrong_number(option, text, "a whole number below 2^64");
        return FB_OPTIONS_READY;
    case FB_OPTION_DOUBLE:
        return set_double(option, text, target);
    case FB_OPTION_PARSED:
        if (option->parse(text, target) == FB_OK)
            return FB_OPTIONS_READY;
        fb_print_error("--%s: %s", option->name, fb_error_message());
        return FB_OPTIONS_WRONG;
    }
    return FB_OPTIONS_WRONG;
}

/* --- the command line ------------------------------------------------------------------------- */

/* One argument that begins with a dash, taken apart. */
typedef struct spelling {
    const char *name; /* after the dashes */
    size_t length;
    char letter;       /* of a short option, else 0 */
    const char *value; /* attached to it, or NULL */
} spelling;

static spelling take_apart(const char *argument) {
    if (argument[1] != '-')
        return (spelling){
            .name = argument + 1,
            .length = 1,
            .letter = argument[1],
            .value = argument[2] ? argument + 2 : NULL,
        };
    const char *name = argument + 2;
    size_t length = strcspn(name, "=");
    return (spelling){
        .name = name,
        .length = length,
        .value = name[length] == '=' ? name + length + 1 : NULL,
    };
}

static bool is_named(const spelling *given, const char *name, char letter) {
    if (given->letter)
        return given->letter == letter;
    return strlen(name) == given->length && strncmp(name, given->name, given->length) == 0;
}

static size_t count_options(const fb_option_table *table) {
    return table->num_shared + table->num_options;
}

/* Option i of a table, the shared ones first. */
static const fb_option *option_at(const fb_option_table *table, size_t i) {
    return i < table->num_shared ? &table->shared[i] : &table->options[i - table->num_shared];
}

static const fb_option *find(const fb_option_table *table, const spelling *given) {
    for (size_t i = 0; i < count_options(table); i++) {
        const fb_option *option = option_at(table, i);
        if (option->kind != FB_OPTION_GROUP && is_named(given, option->name, option->letter))
            return option;
    }
    return NULL;
}

/* The words that `usage` begins with: "bench limits" of "bench limits [OPTION]...". */
static const char *command_name(const fb_option_table *table) {
    static char name[32];
    size_t length = 0;
    while (table->usage[length] >= 'a' && table->usage[length] <= 'z')
        length += strcspn(table->usage + length, " ") + 1;
    snprintf(name, sizeof name, "%.*s", (int)length - 1, table->usage);
    return name;
}

/* Whether the argument behind a FB_OPTION_FILE is its value: neither an option nor, where it has to
 * have an ending, an argument of the command. */
static bool is_file_value(const fb_option *option, const char *next) {
    if (next[0] == '-')
        return next[1] == '\0';
    size_t length = strlen(next), tail = option->ending ? strlen(option->ending) : 0;
    return length >= tail && (tail == 0 || strcmp(next + length - tail, option->ending) == 0);
}

/* The value of `option` written at argv[*index], which moves on when the value is an argument of
 * its own. NULL with *result set when it has to be there and is not, or must not be and is. */
static const char *value_of(const fb_option *option, const spelling *given, int argc, char **argv,
                            int *index, fb_options_result *result) {
    *result = FB_OPTIONS_READY;
    if (option->kind == FB_OPTION_FLAG) {
        if (!given->value)
            return "";
        fb_print_error("--%s takes no value, it is given '%s'", option->name, given->value);
        *result = FB_OPTIONS_WRONG;
        return NULL;
    }
    if (given->value)
        return given->value;
    const char *next = *index + 1 < argc ? argv[*index + 1] : NULL;
    if (option->kind == FB_OPTION_FILE && (!next || !is_file_value(option, next)))
        return "-";
    if (next) {
        ++*index;
        return next;
    }
    fb_print_error("--%s needs a value: %s", option->name, option->argument);
    *result = FB_OPTIONS_WRONG;
    return NULL;
}

static void print_help(const fb_option_table *table);

/* An argument that is no option. */
static fb_options_result take_argument(const fb_option_table *table, const char *argument,
                                       char *target) {
    const fb_arguments *arguments = table->arguments;
    fb_option_list *list =
        arguments ? (fb_option_list *)(void *)(target + arguments->target) : NULL;
    if (!list || (arguments->max != 0 && list->count == arguments->max)) {
        fb_print_error("unexpected argument '%s'; see flashblock %s --help", argument,
                       command_name(table));
        return FB_OPTIONS_WRONG;
    }
    append(list, NULL, argument);
    return FB_OPTIONS_READY;
}

static fb_options_result read_argument(const fb_option_table *table, int argc, char **argv,
                                       int *index, char *target) {
    const char *argument = argv[*index];
    if (table->arguments && strcmp(argument, "--") == 0) {
        fb_options_result result = FB_OPTIONS_READY;
        while (++*index < argc && result == FB_OPTIONS_READY)
            result = take_argument(table, argv[*index], target);
        return result;
    }
    if (argument[0] != '-' || argument[1] == '\0' || strcmp(argument, "--") == 0)
        return take_argument(table, argument, target);
    spelling given = take_apart(argument);
    if (is_named(&given, "help", 'h') && !given.value) {
        print_help(table);
        return FB_OPTIONS_HELP;
    }
    const fb_option *option = find(table, &given);
    if (!option) {
        fb_print_error("unknown option '%s'; see flashblock %s --help", argument,
                       command_name(table));
        return FB_OPTIONS_WRONG;
    }
    fb_options_result result;
    const char *value = value_of(option, &given, argc, argv, index, &result);
    return value ? set_value(option, value, target + option->target) : result;
}

/* Room for every argument that there can be. */
static fb_options_result reserve_list(char *target, int argc, const char *name) {
    fb_option_list *list = (fb_option_list *)(void *)target;
    if (list->values || fb_alloc((size_t)argc, sizeof *list->values, name, &list->values) == FB_OK)
        return FB_OPTIONS_READY;
    fb_print_error("%s", fb_error_message());
    return FB_OPTIONS_WRONG;
}

/* Defaults, and empty lists. */
static fb_options_result set_defaults(const fb_option_table *table, int argc, char *target) {
    fb_options_result result = FB_OPTIONS_READY;
    for (size_t i = 0; i < count_options(table) && result == FB_OPTIONS_READY; i++) {
        const fb_option *option = option_at(table, i);
        if (option->kind == FB_OPTION_LIST)
            result = reserve_list(target + option->target, argc, option->name);
        if (option->otherwise && result == FB_OPTIONS_READY)
            result = set_value(option, option->otherwise, target + option->target);
    }
    if (table->arguments && result == FB_OPTIONS_READY)
        result = reserve_list(target + table->arguments->target, argc, table->arguments->name);
    return result;
}

static fb_options_result check_arguments(const fb_option_table *table, const char *target) {
    const fb_arguments *arguments = table->arguments;
    if (!arguments)
        return FB_OPTIONS_READY;
    const fb_option_list *list = (const fb_option_list *)(const void *)(target + arguments->target);
    if (list->count >= arguments->min)
        return FB_OPTIONS_READY;
    fb_print_error("no %s given; see flashblock %s --help", arguments->name, command_name(table));
    return FB_OPTIONS_WRONG;
}

/* Says now what would otherwise be said after minutes. Of a pipe only the reader would notice. */
static fb_status check_writable(const char *path) {
    fb_file_writer *writer = NULL;
    struct stat found;
    if (!path || fb_is_stdout(path) || (stat(path, &found) == 0 && !S_ISREG(found.st_mode)))
        return FB_OK;
    FB_TRY(fb_file_writer_open(path, &writer));
    fb_file_writer_abandon(writer);
    return FB_OK;
}

static fb_status check_files(const fb_option_table *table, const void *target) {
    for (size_t i = 0; i < count_options(table); i++) {
        const fb_option *option = option_at(table, i);
        if (option->kind == FB_OPTION_FILE && !option->in_new_folder)
            FB_TRY(check_writable(*(const char *const *)((const char *)target + option->target)));
    }
    return FB_OK;
}

bool fb_options_parse(const fb_option_table *table, int argc, char **argv, void *target,
                      int *exit_status) {
    fb_options_result result = set_defaults(table, argc, target);
    for (int i = 1; i < argc && result == FB_OPTIONS_READY; i++)
        result = read_argument(table, argc, argv, &i, target);
    if (result == FB_OPTIONS_READY)
        result = check_arguments(table, target);
    *exit_status = result == FB_OPTIONS_WRONG ? FB_EXIT_USAGE : FB_EXIT_OK;
    if (result == FB_OPTIONS_READY)
        *exit_status = fb_report_status(check_files(table, target));
    return result == FB_OPTIONS_READY && *exit_status == FB_EXIT_OK;
}

/* --- help ------------------------------------------------------------------------------------- */

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
    char text[512];
    if (option->otherwise)
        snprintf(text, sizeof text, "%s (default: %s)", option->help, option->otherwise);
    else
        snprintf(text, sizeof text, "%s", option->help);
    print_wrapped(text, column);
}

static void print_help(const fb_option_table *table) {
    printf("Usage: flashblock %s\n\n%s\n", table->usage, table->summary);
    if (option_at(table, 0)->kind != FB_OPTION_GROUP)
        putchar('\n');
    for (size_t i = 0; i < count_options(table); i++) {
        const fb_option *option = option_at(table, i);
        if (option->kind == FB_OPTION_GROUP)
            printf("\n%s:\n", option->help);
        else
            print_option(option);
    }
    const fb_option help = {
        .kind = FB_OPTION_FLAG, .name = "help", .letter = 'h', .help = help_text};
    print_option(&help);
}
