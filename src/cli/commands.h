/* The commands of the `flashblock` program. main.c has the tables of commands; each command is a
 * file in the folder of its family, called as the command is. A command gets its own name as
 * argv[0] and returns the program's exit status. */
#ifndef FB_CLI_COMMANDS_H
#define FB_CLI_COMMANDS_H

#include <stddef.h>

typedef int fb_command_run(int argc, char **argv);

/* A command does its work, or has commands of its own: one of `run` and `group` is NULL. */
typedef struct fb_command {
    const char *name, *summary;
    fb_command_run *run;
    const struct fb_command_group *group;
} fb_command;

/* Commands that begin with the same words. */
typedef struct fb_command_group {
    const char *words;       /* these words: "flashblock bench" */
    const char *noun;        /* a command of the group in messages: "benchmark" */
    const char *description; /* the line of --help above the commands */
    const char *options;     /* lines of --help for other options than --help; NULL: none */
    const char *closing;     /* lines of --help below the options; NULL: none */
    const fb_command *commands;
    size_t num_commands;
} fb_command_group;

/* Runs the command that argv[1] names, or shows the group's --help. Without a name, and for an
 * unknown one, it prints one line of error. */
int fb_command_group_run(const fb_command_group *group, int argc, char **argv);

fb_command_run fb_command_bench_attention, fb_command_bench_decode, fb_command_bench_isa,
    fb_command_bench_limits, fb_command_bench_merge, fb_command_bench_video;
fb_command_run fb_command_calibrate;
fb_command_run fb_command_chat;
fb_command_run fb_command_eval_reuse, fb_command_eval_sparse, fb_command_eval_tasks,
    fb_command_eval_video;
fb_command_run fb_command_generate;
fb_command_run fb_command_golden, fb_command_selftest, fb_command_verify;
fb_command_run fb_command_info;
fb_command_run fb_command_quantize;
fb_command_run fb_command_serve;
fb_command_run fb_command_trace;
fb_command_run fb_command_video;

#endif
