/* Reports as text. */
#ifndef FB_ORACLE_REPORT_TEXT_H
#define FB_ORACLE_REPORT_TEXT_H

#include "oracle/report.h"

#include <stdio.h>

typedef struct fb_report_style {
    bool isa;     /* a column for the instruction set */
    bool verbose; /* a line for each tensor, and its worst element */
} fb_report_style;

/* The heading of the lines that fb_report_write_case writes. */
void fb_report_write_heading(FILE *file, const fb_report_style *style);

/* A line on the case with its worst tensor: the one that uses most of its bound. Below it stands
 * every tensor that fails, and why. */
void fb_report_write_case(FILE *file, const fb_report_style *style, const fb_report *report);

/* A trajectory: how many decisions agree, the first difference, the verdict. */
void fb_report_write_trajectory(FILE *file, const fb_report *report);

/* A candidate: each of its tensors, and its verdict. */
void fb_report_write_candidate(FILE *file, const fb_report_style *style, const fb_report *report);

#endif
