/* A finding says how far one tensor is from what it should be, and whether that is allowed. */
#ifndef FB_ORACLE_FINDING_H
#define FB_ORACLE_FINDING_H

#include "oracle/claim.h"
#include "oracle/errors.h"

#include <flashblock/experimental/oracle.h>

#include <stdio.h>

struct fb_finding {
    char tensor[96];
    fb_dims shape;
    bool decisions; /* whole numbers that must agree: only `differing` and `errors.worst` count */
    size_t differing;
    fb_errors errors;
    bool has_file;
    fb_errors file_errors;
    fb_bound_rule rule;
    double bound;
    double file_bound;   /* of FB_BOUND_FILE, without the plain implementation's share */
    double value, truth; /* at errors.worst; value is this build's, or the candidate's */
    bool of_candidate;
    fb_dtype precision; /* that the result is judged in: the candidate's, or the file's */
    double plain_error; /* of a plain implementation in that precision */
    double ratio;       /* of the judged result's error to plain_error */
    bool file_failed;   /* the file's own result is wrong; this build's may be right */
    char note[512];     /* what explains the difference, if anything known does */
    char detail[1024];  /* of --verbose */
    bool passed;
    char verdict[1400]; /* all of it in words; fb_finding_say */
};

/* Makes it the finding on a tensor that has another number of elements. */
void fb_finding_other_size(fb_finding *finding, size_t count, size_t expected);

/* Fills in the verdict from everything else. FB_ERROR_MEMORY. */
fb_status fb_finding_say(fb_finding *finding);

/* " at [1,0]: 0.5, expected 0.25", the worst element; nothing if there is none. */
void fb_finding_write_worst(FILE *file, const fb_finding *finding);

/* Text that a file may hold, as one line: a control character becomes '?'. */
void fb_finding_write_text(FILE *file, const char *text);
const char *fb_finding_printable(const char *text, char *copy, size_t size);

#endif
