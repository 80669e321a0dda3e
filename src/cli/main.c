/* flashblock COMMAND [OPTION]...: finds the command and runs it. */
#include "cli/command.h"
#include "cli/output.h"

#include <flashblock/runtime.h>

#include <stdio.h>
#include <string.h>

typedef struct command {
    const char *name, *summary;
    int (*run)(int argc, char **argv);
} command;

static const command commands[] = {
    {"bench", "measure speed beside the limits of this machine", fb_command_bench},
    {"calibrate", "find out which heads of a video model may reuse, at which steps",
     fb_command_calibrate},
    {"eval", "measure what reuse does to what a model writes", fb_command_eval},
    {"generate", "write text with a block-diffusion language model", fb_command_generate},
    {"golden", "write a case file: a scripted denoising sequence with its float64 truth",
     fb_command_golden},
    {"info", "what this build and this machine have", fb_command_info},
    {"selftest", "check this build against the golden hashes", fb_command_selftest},
    {"trace", "record what attention does at each denoising step, and draw it", fb_command_trace},
    {"verify", "check case files, or another implementation's results of one", fb_command_verify},
    {"video", "make clips with a video diffusion model", fb_command_video},
};

enum { NUM_COMMANDS = sizeof commands / sizeof commands[0] };

static void print_usage(void) {
    puts("Usage: flashblock COMMAND [OPTION]...\n"
         "\n"
         "Block diffusion on CPUs with FlashBlock attention caching (arXiv 2602.05305).\n"
         "\n"
         "Commands:");
    for (int i = 0; i < NUM_COMMANDS; i++)
        printf("  %-12s%s\n", commands[i].name, commands[i].summary);
    puts("\n"
         "  --version   print the version\n"
         "  --help      show this text; flashblock COMMAND --help describes a command\n"
         "\n"
         "Exit status: 0 done, 1 failed, 2 wrong usage. Errors are one line on standard error.");
}

static int run(int argc, char **argv) {
    const char *name = argc > 1 ? argv[1] : NULL;
    if (!name) {
        fb_print_error("no command given; see flashblock --help");
        return FB_EXIT_USAGE;
    }
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) {
        print_usage();
        return FB_EXIT_OK;
    }
    if (strcmp(name, "--version") == 0) {
        printf("flashblock %s\n", fb_version());
        return FB_EXIT_OK;
    }
    for (int i = 0; i < NUM_COMMANDS; i++)
        if (strcmp(name, commands[i].name) == 0)
            return commands[i].run(argc - 1, argv + 1);
    fb_print_error("unknown command '%s'; see flashblock --help", name);
    return FB_EXIT_USAGE;
}

int main(int argc, char **argv) {
    int status = run(argc, argv);
    return status == FB_EXIT_OK ? fb_finish_stdout() : status;
}
