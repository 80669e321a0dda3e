/* Options and arguments of a command, declared as one table: parsing, range checks, defaults and
 * --help all come from it.
 *
 * Accepted forms: --name VALUE, --name=VALUE, --flag, -n VALUE, -nVALUE. A value may begin with a
 * dash. Of an option given twice the last counts, except where its kind is a list. Other arguments
 * are errors, unless the table declares them; then "--" ends the options. */
#ifndef FB_CLI_OPTIONS_H
#define FB_CLI_OPTIONS_H

#include <flashblock/status.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum fb_option_kind {
    FB_OPTION_GROUP = 0, /* no option: a heading in --help; only `help` is used */
    FB_OPTION_FLAG,      /* bool: true */
    FB_OPTION_STRING,    /* const char *, borrowed from argv; never empty */
    FB_OPTION_LIST,      /* fb_option_list: every value, in the order given */
    FB_OPTION_FILE,      /* const char *, a file to write, which is checked before anything is done;
                            without a value "-", which stands for standard output */
    FB_OPTION_SIZE,      /* size_t in [min, max], decimal digits */
    FB_OPTION_UINT64,    /* uint64_t, decimal digits */
    FB_OPTION_DOUBLE,    /* double in [min, max], finite */
    FB_OPTION_PARSED,    /* what `parse` makes of the value */
} fb_option_kind;

typedef struct fb_option {
    fb_option_kind kind;
    const char *name;      /* without the dashes */
    char letter;           /* of the short form; 0: none */
    const char *argument;  /* what --help calls the value; NULL for a flag */
    size_t target;         /* offset of the variable in the structure given to fb_options_parse */
    double min, max;       /* of FB_OPTION_SIZE and FB_OPTION_DOUBLE; max 0: no upper limit */
    const char *otherwise; /* default, read as if it were given and shown in --help; or NULL */
    fb_status (*parse)(const char *text, void *target); /* of FB_OPTION_PARSED */
    const char *ending; /* of FB_OPTION_FILE: a value that is an argument of its own ends in it,
                           others are the command's arguments; NULL: any value */
    bool in_new_folder; /* of FB_OPTION_FILE: not checked, the command creates the folder */
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

void fb_option_list_free(fb_option_list *list);

/* Arguments that are no options: at least `min` of them, at most `max` (0: no limit). */
typedef struct fb_arguments {
    const char *name; /* what messages call one: "PATH" */
    size_t min, max;
    size_t target; /* offset of an fb_option_list */
} fb_arguments;

/* Options that several commands have. `structure` has the members `model`, `json` (const char *,
 * NULL: not given) and `threads` (size_t, 0: not given); of the others the command says which
 * `member` it is. */
#define FB_JSON_OPTION(structure, text)                                                            \
    {                                                                                              \
        .kind = FB_OPTION_FILE, .name = "json", .argument = "FILE",                                \
        .target = offsetof(structure, json), .help = (text)                                        \
    }
#define FB_THREADS_OPTION(structure, text)                                                         \
    {                                                                                              \
        .kind = FB_OPTION_SIZE, .name = "threads", .argument = "N",                                \
        .target = offsetof(structure, threads), .min = 1, .max = 1024, .help = (text)              \
    }
#define FB_MODEL_OPTION(structure, text)                                                           \
    {                                                                                              \
        .kind = FB_OPTION_STRING, .name = "model", .letter = 'm', .argument = "DIR",               \
        .target = offsetof(structure, model), .help = (text)                                       \
    }
#define FB_BLOCK_SIZE_OPTION(structure, member)                                                    \
    {                                                                                              \
        .kind = FB_OPTION_SIZE, .name = "block-size", .letter = 'b', .argument = "B",              \
        .target = offsetof(structure, member), .min = 1, .max = 1 << 16,                           \
        .help = "tokens of a block (default: the model's, 4 if it names none)"                     \
    }
#define FB_DENOISING_STEPS_OPTION(structure, member)                                               \
    {                                                                                              \
        .kind = FB_OPTION_SIZE, .name = "denoising-steps", .letter = 's', .argument = "S",         \
        .target = offsetof(structure, member), .min = 1, .max = 1 << 16,                           \
        .help = "denoising steps of a block (default: one for each of its tokens)"                 \
    }
#define FB_REMASKING_OPTION(structure, member, text)                                               \
    {                                                                                              \
        .kind = FB_OPTION_PARSED, .name = "remasking", .argument = "NAME",                         \
        .target = offsetof(structure, member), .parse = fb_option_parse_remasking,                 \
        .otherwise = "low_confidence_dynamic", .help = (text)                                      \
    }
#define FB_CONFIDENCE_OPTION(structure, member)                                                    \
    {                                                                                              \
        .kind = FB_OPTION_DOUBLE, .name = "confidence-threshold", .argument = "C",                 \
        .target = offsetof(structure, member), .max = 1, .otherwise = "0.9",                       \
        .help = "low_confidence_dynamic accepts every token of a higher probability than C"        \
    }
#define FB_COMPAT_OPTION(structure, member, text)                                                  \
    {                                                                                              \
        .kind = FB_OPTION_PARSED, .name = "compat", .argument = "NAME",                            \
        .target = offsetof(structure, member), .parse = fb_option_parse_compat,                    \
        .otherwise = "paper", .help = (text)                                                       \
    }
#define FB_KV_DTYPE_OPTION(structure, member)                                                      \
    {                                                                                              \
        .kind = FB_OPTION_PARSED, .name = "kv-dtype", .argument = "TYPE",                          \
        .target = offsetof(structure, member), .parse = fb_option_parse_dtype, .otherwise = "f32", \
        .help = "storage of keys and values: f32, bf16 or f16"                                     \
    }

/* `parse` of an option whose target is an fb_dtype. */
fb_status fb_option_parse_dtype(const char *text, void *dtype);

/* The same for fb_reuse_policy.rows: "tau" is false, "rows" is true. */
fb_status fb_option_parse_reuse(const char *text, void *rows);

/* The same for an fb_compat: "paper", "released". */
fb_status fb_option_parse_compat(const char *text, void *compat);

/* The same for an fb_remasking. */
fb_status fb_option_parse_remasking(const char *text, void *remasking);

/* A command line. `usage` follows "Usage: flashblock " and `summary` stands below it. */
typedef struct fb_option_table {
    const char *usage, *summary;
    const fb_option *shared; /* of several commands, before its own; NULL: none. The structure
                                whose offsets they hold begins the one given to fb_options_parse */
    size_t num_shared;
    const fb_option *options;
    size_t num_options;
    const fb_arguments *arguments; /* NULL: none */
} fb_option_table;

/* Reads argv[1] .. argv[argc - 1] into `target`: first every default, then what is given. --help
 * (-h) is understood for every table and need not be listed. Returns whether the command goes on;
 * if not, help or one line of error has been printed and *exit_status is the program's. Lists are
 * the caller's to free in both cases. */
bool fb_options_parse(const fb_option_table *table, int argc, char **argv, void *target,
                      int *exit_status);

#endif
