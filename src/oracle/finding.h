/* A finding says how far one tensor is from what it should be, and whether that is allowed. */
#ifndef FB_ORACLE_FINDING_H
#define FB_ORACLE_FINDING_H

#include "oracle/claim.h"
#include "oracle/errors.h"

typedef struct fb_finding {
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
} fb_finding;

#endif
