/* The report on a case: for each tensor, how far a result is from the truth, how far it may be, and
 * whether it is within that.
 *
 * A kind (kinds.h) recomputes a case and makes claims: "tensor T should be `truth`; this build
 * computes `ours`; the file has `file`". The report turns each claim into a finding. A finding
 * fails if this build is too far from the truth. It also fails if the file's own result is: a wrong
 * file must not widen the bound. If a candidate has a result of that name (candidate.h), the
 * candidate is judged instead of both. */
#ifndef FB_ORACLE_REPORT_H
#define FB_ORACLE_REPORT_H

#include "io/buffer.h"
#include "oracle/candidate.h"
#include "oracle/finding.h"

struct fb_report {
    char kind[64], name[256], path[512];
    const char *isa;    /* the instruction set that was current */
    fb_outcome outcome; /* FB_FAILED as soon as one finding fails */
    char reason[1000];  /* of skipping, or of a failure that has no finding */
    fb_finding *findings;
    size_t num_findings;
    bool verbose;              /* set by the caller: fill in `detail` */
    fb_candidate *candidate;   /* set by the caller, or NULL */
    bool of_candidate;         /* there was one */
    char candidate_path[1200]; /* "": it was in memory */
    char **unjudged;           /* names of its tensors that no claim asked for */
    size_t num_unjudged;
    char **missing; /* results that are required, and that it does not have */
    size_t num_missing;
    bool partial;                  /* set by the caller: that is allowed */
    struct fb_truth_cache *truths; /* set by the caller, who closes it; or NULL */
    char *words;                   /* of a trajectory: the text; free() */
    fb_buffer members;             /* of a trajectory: more of the JSON, an object */
    char *text;                    /* what fb_report_text gave; free() */
    char *json;                    /* what fb_report_json gave; fb_free */
};

/* Frees what the report holds, not the report. */
void fb_report_release(fb_report *report);

/* Adds the finding of a claim. */
fb_status fb_report_claim(fb_report *report, const fb_claim *claim);

/* Adds a finding; fills in its verdict. */
fb_status fb_report_add(fb_report *report, const fb_finding *finding);

/* Notes that the candidate lacks a result that is required. */
fb_status fb_report_missing(fb_report *report, const char *tensor);

/* Adds the finding of decisions (token ids, actions, counts). It passes if all are equal. */
fb_status fb_report_decisions(fb_report *report, const char *tensor, fb_dims shape,
                              const int32_t *ours, const int32_t *file);

/* After the last claim: notes which of the candidate's tensors were not asked for. The report then
 * no longer needs the candidate. */
fb_status fb_report_end_candidate(fb_report *report);

/* Says that the case is left out, and why. */
void fb_report_skip(fb_report *report, const char *format, ...) FB_PRINTF(2, 3);

#endif
