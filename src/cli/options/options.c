/* The command line of a command, read into its structure. */
#include "cli/options/options.h"

#include "base/error.h"
#include "base/memory.h"
#include "cli/options/option_rules.h"
#include "cli/options/option_values.h"
#include "cli/options/options_help.h"
#include "cli/output.h"
#include "io/file.h"
#include "io/file_outputs.h"
#include "io/file_place.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef enum fb_options_result {
    FB_OPTIONS_READY,  /* the targets are set */
    FB_OPTIONS_HELP,   /* --help: it has been printed to standard output */
    FB_OPTIONS_WRONG,  /* one line has been printed to standard error */
    FB_OPTIONS_FAILED, /* the same; the user did nothing wrong */
} fb_options_result;

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

static const fb_option *find(const fb_option_table *table, const spelling *given, size_t *index) {
    for (size_t i = 0; i < fb_option_table_count(table); i++) {
        const fb_option *option = fb_option_table_at(table, i);
        *index = i;
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

/* Whether the argument after a FB_OPTION_FILE is its value. An option is not, and where the value
 * has to have an ending, an argument of the command without it is not. */
static bool is_file_value(const fb_option *option, const char *next) {
    if (next[0] == '-')
        return next[1] == '\0';
    size_t length = strlen(next), tail = option->ending ? strlen(option->ending) : 0;
    return length >= tail && (tail == 0 || strcmp(next + length - tail, option->ending) == 0);
}

/* The value of `option` written at argv[*index], which moves on when the value is an argument of
 * its own. NULL, with *result set, when a value is missing, or when a flag has one. */
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

/* An argument that is not an option. */
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
    fb_option_list_add(list, NULL, argument);
    return FB_OPTIONS_READY;
}

static fb_options_result read_argument(const fb_option_table *table, int argc, char **argv,
                                       int *index, char *target, fb_option_texts *texts) {
    const char *argument = argv[*index];
    size_t number = 0;
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
        fb_options_print_help(table);
        return FB_OPTIONS_HELP;
    }
    const fb_option *option = find(table, &given, &number);
    if (!option) {
        fb_print_error("unknown option '%s'; see flashblock %s --help", argument,
                       command_name(table));
        return FB_OPTIONS_WRONG;
    }
    fb_options_result result;
    const char *value = value_of(option, &given, argc, argv, index, &result);
    if (value && !fb_option_set(option, value, target + option->target))
        return FB_OPTIONS_WRONG;
    texts->given[number] = value;
    return result;
}

/* Room for every argument that there can be. */
static fb_options_result reserve_list(char *target, int argc, const char *name) {
    fb_option_list *list = (fb_option_list *)(void *)target;
    if (list->values || fb_alloc((size_t)argc, sizeof *list->values, name, &list->values) == FB_OK)
        return FB_OPTIONS_READY;
    fb_print_error("%s", fb_error_message());
    return FB_OPTIONS_FAILED;
}

/* Defaults, and empty lists. */
static fb_options_result set_defaults(const fb_option_table *table, int argc, char *target) {
    fb_options_result result = FB_OPTIONS_READY;
    for (size_t i = 0; i < fb_option_table_count(table) && result == FB_OPTIONS_READY; i++) {
        const fb_option *option = fb_option_table_at(table, i);
        if (option->kind == FB_OPTION_LIST)
            result = reserve_list(target + option->target, argc, option->name);
        if (option->otherwise && result == FB_OPTIONS_READY &&
            !fb_option_set(option, option->otherwise, target + option->target))
            result = FB_OPTIONS_WRONG;
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

/* The string that an option of the kinds STRING and FILE has set; NULL: it was not given. */
static const char *string_of(const fb_option *option, const void *target) {
    return *(const char *const *)(const void *)((const char *)target + option->target);
}

static fb_options_result check_required(const fb_option_table *table, const void *target) {
    for (size_t i = 0; i < fb_option_table_count(table); i++) {
        const fb_option *option = fb_option_table_at(table, i);
        if (!option->required || string_of(option, target))
            continue;
        fb_print_error("--%s %s is missing; see flashblock %s --help", option->name,
                       option->argument, command_name(table));
        return FB_OPTIONS_WRONG;
    }
    return FB_OPTIONS_READY;
}

static fb_options_result check_rules(const fb_option_table *table, const fb_option_texts *texts) {
    char wrong[256];
    if (fb_option_rules_hold(table, texts, wrong, sizeof wrong))
        return FB_OPTIONS_READY;
    fb_print_error("%s; see flashblock %s --help", wrong, command_name(table));
    return FB_OPTIONS_WRONG;
}

static bool is_output(const fb_option *option) {
    return option->kind == FB_OPTION_FILE || option->kind == FB_OPTION_OUTPUT;
}

/* Whether both lead to one file; errors are found elsewhere. */
static bool is_same_place(const char *one, const char *other) {
    fb_file_place a = {0}, b = {0};
    if (fb_file_place_find(one, &a) != FB_OK)
        return false;
    bool same = fb_file_place_find(other, &b) == FB_OK;
    if (same && (a.descriptor >= 0 || b.descriptor >= 0))
        same = a.descriptor == b.descriptor;
    else if (same && a.exists && b.exists)
        same = S_ISREG(a.status.st_mode) && a.status.st_dev == b.status.st_dev &&
               a.status.st_ino == b.status.st_ino;
    else if (same)
        same = strcmp(a.path, b.path) == 0;
    fb_file_place_free(&a);
    fb_file_place_free(&b);
    return same;
}

static fb_status check_others(const fb_option_table *table, const void *target, size_t i,
                              const char *path) {
    for (size_t j = 0; j < i; j++) {
        const fb_option *other = fb_option_table_at(table, j);
        const char *second = is_output(other) ? string_of(other, target) : NULL;
        if (second && is_same_place(fb_output_path(second), path))
            return fb_fail(FB_ERROR_ARGUMENT, "--%s and --%s would both write %s", other->name,
                           fb_option_table_at(table, i)->name,
                           strcmp(path, FB_STDOUT_PATH) == 0 ? "standard output" : path);
    }
    return FB_OK;
}

/* Fails now instead of after minutes of work. */
static fb_status check_files(const fb_option_table *table, const void *target) {
    for (size_t i = 0; i < fb_option_table_count(table); i++) {
        const fb_option *option = fb_option_table_at(table, i);
        const char *path = is_output(option) ? string_of(option, target) : NULL;
        if (!path)
            continue;
        FB_TRY(check_others(table, target, i, fb_output_path(path)));
        if (fb_file_place_descriptor(fb_output_path(path)) != STDOUT_FILENO)
            fb_file_outputs_expect();
        if (!option->in_new_folder)
            FB_TRY(fb_file_check_writable(fb_output_path(path)));
    }
    return FB_OK;
}

static void note_given(const fb_option_table *table, const fb_option_texts *texts, void *target) {
    for (size_t i = 0; i < fb_option_table_count(table); i++) {
        const fb_option *option = fb_option_table_at(table, i);
        if (option->given)
            *(bool *)((char *)target + option->given) = texts->given[i] != NULL;
    }
}

bool fb_options_parse(const fb_option_table *table, int argc, char **argv, void *target,
                      int *exit_status) {
    fb_option_texts texts = {0};
    fb_options_result result = set_defaults(table, argc, target);
    for (int i = 1; i < argc && result == FB_OPTIONS_READY; i++)
        result = read_argument(table, argc, argv, &i, target, &texts);
    if (result == FB_OPTIONS_READY)
        result = check_arguments(table, target);
    if (result == FB_OPTIONS_READY)
        result = check_required(table, target);
    if (result == FB_OPTIONS_READY)
        result = check_rules(table, &texts);
    note_given(table, &texts, target);
    *exit_status = result == FB_OPTIONS_WRONG    ? FB_EXIT_USAGE
                   : result == FB_OPTIONS_FAILED ? FB_EXIT_FAILED
                                                 : FB_EXIT_OK;
    if (result == FB_OPTIONS_READY)
        *exit_status = fb_report_status(check_files(table, target));
    return result == FB_OPTIONS_READY && *exit_status == FB_EXIT_OK;
}
