#include "cli/commands.h"

#include "cli/output.h"

#include <stdio.h>
#include <string.h>

static void print_help(const fb_command_group *group) {
    printf("Usage: %s COMMAND [OPTION]...\n\n%s\n\nCommands:\n", group->words, group->description);
    for (size_t i = 0; i < group->num_commands; i++)
        printf("  %-12s%s\n", group->commands[i].name, group->commands[i].summary);
    printf("\n%s  --help      show this text; %s COMMAND --help describes a command\n%s",
           group->options ? group->options : "", group->words,
           group->closing ? group->closing : "");
}

int fb_command_group_run(const fb_command_group *group, int argc, char **argv) {
    const char *name = argc > 1 ? argv[1] : NULL;
    if (!name) {
        fb_print_error("no %s given; see %s --help", group->noun, group->words);
        return FB_EXIT_USAGE;
    }
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) {
        print_help(group);
        return FB_EXIT_OK;
    }
    for (size_t i = 0; i < group->num_commands; i++) {
        const fb_command *command = &group->commands[i];
        if (strcmp(name, command->name) == 0)
            return command->run ? command->run(argc - 1, argv + 1)
                                : fb_command_group_run(command->group, argc - 1, argv + 1);
    }
    fb_print_error("unknown %s '%s'; see %s --help", group->noun, name, group->words);
    return FB_EXIT_USAGE;
}
