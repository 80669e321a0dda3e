/* flashblock eval: finds the command. */
#include "cli/eval/eval.h"

#include "cli/command.h"
#include "cli/output.h"

#include <stdio.h>
#include <string.h>

typedef struct eval_command {
    const char *name, *summary;
    int (*run)(int argc, char **argv);
} eval_command;

static const eval_command commands[] = {
    {"sparse", "what sparse attention and residual reuse change, on known text", fb_eval_sparse},
    {"reuse", "what policies of reuse cost and save, in real decoding", fb_eval_reuse},
};

enum { NUM_COMMANDS = sizeof commands / sizeof commands[0] };

static void print_usage(void) {
    puts("Usage: flashblock eval COMMAND [OPTION]...\n"
         "\n"
         "Measures the quality of what a model writes, against dense attention and a true text.\n"
         "\n"
         "Commands:");
    for (int i = 0; i < NUM_COMMANDS; i++)
        printf("  %-12s%s\n", commands[i].name, commands[i].summary);
    puts("\n"
         "  --help      show this text; flashblock eval COMMAND --help describes a command");
}

int fb_command_eval(int argc, char **argv) {
    const char *name = argc > 1 ? argv[1] : NULL;
    if (!name) {
        fb_print_error("no evaluation given; see flashblock eval --help");
        return FB_EXIT_USAGE;
    }
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) {
        print_usage();
        return FB_EXIT_OK;
    }
    for (int i = 0; i < NUM_COMMANDS; i++)
        if (strcmp(name, commands[i].name) == 0)
            return commands[i].run(argc - 1, argv + 1);
    fb_print_error("unknown evaluation '%s'; see flashblock eval --help", name);
    return FB_EXIT_USAGE;
}
