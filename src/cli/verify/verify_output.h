/* What `flashblock verify` shows: a line a case, a line a tensor, JSON. */
#ifndef FB_CLI_VERIFY_VERIFY_OUTPUT_H
#define FB_CLI_VERIFY_VERIFY_OUTPUT_H

#include "oracle/candidate.h"
#include "oracle/report.h"

#include <jansson.h>

typedef struct fb_verify_style {
    bool isa;     /* a column for the instruction set */
    bool verbose; /* a line for each tensor, and its worst element */
} fb_verify_style;

/* The heading of the lines below it. */
void fb_verify_print_heading(const fb_verify_style *style);

/* The case by its worst tensor, the one of the largest error in terms of its bound; below it every
 * tensor that fails, and why. */
void fb_verify_print_case(const fb_verify_style *style, const fb_report *report, const char *isa);

/* A candidate: each of its tensors, and what is to be said about it. */
void fb_verify_print_candidate(const fb_verify_style *style, const fb_report *report,
                               const char *path);

/* One element of `cases`. NULL only when memory is short. */
json_t *fb_verify_case_json(const fb_report *report, const char *isa);

/* Text that may hold anything, for JSON. */
json_t *fb_verify_json_text(const char *text);

#endif
