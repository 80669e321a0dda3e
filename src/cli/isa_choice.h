/* --isa of the commands that check results: one instruction set, or all that this machine has. */
#ifndef FB_CLI_ISA_CHOICE_H
#define FB_CLI_ISA_CHOICE_H

#include <flashblock/runtime.h>

#include <stdbool.h>

/* An fb_isa, or: */
enum { FB_ISA_CHOICE_CURRENT = -1, FB_ISA_CHOICE_ALL = -2 };

/* `parse` of an option whose target is such an int. */
fb_status fb_isa_choice_parse(const char *text, void *choice);

/* Whether `isa` is among those chosen; `current` is what the library uses by itself. */
bool fb_isa_is_chosen(int choice, fb_isa current, fb_isa isa);

#endif
