/* --isa: one instruction set or, in the commands that check results, all that this machine has. */
#ifndef FB_CLI_OPTIONS_ISA_CHOICE_H
#define FB_CLI_OPTIONS_ISA_CHOICE_H

#include "cli/options/option_table.h"

#include <flashblock/runtime.h>

#include <stdbool.h>
#include <stddef.h>

/* --isa chooses an int: an fb_isa, or one of these. */
enum { FB_ISA_CHOICE_CURRENT = -1, FB_ISA_CHOICE_ALL = -2 };

/* `parse` of an option whose target is such an int; the second does not accept "all". */
fb_status fb_isa_choice_parse(const char *text, void *choice);
fb_status fb_isa_choice_parse_one(const char *text, void *choice);

/* The option of a `structure` whose `member` is such an int. */
#define FB_ISA_OPTION(structure, member, parser, text)                                             \
    {                                                                                              \
        .kind = FB_OPTION_PARSED, .name = "isa", .argument = "NAME",                               \
        .target = offsetof(structure, member), .parse = (parser), .help = (text)                   \
    }
#define FB_ONE_ISA_OPTION(structure, member)                                                       \
    FB_ISA_OPTION(structure, member, fb_isa_choice_parse_one, "the instruction set")

/* Sets the number of threads unless `threads` is 0, and the instruction set where `choice` names
 * one. */
fb_status fb_isa_choice_set(size_t threads, int choice);

/* Whether `isa` is among those chosen; `current` is what the library uses by itself. */
bool fb_isa_choice_has(int choice, fb_isa current, fb_isa isa);

#endif
