/* What porters get wrong about a denoising sequence: which external part, which rows of it, and how
 * parts are merged. */
#ifndef FB_ORACLE_SCRIPT_MISTAKES_H
#define FB_ORACLE_SCRIPT_MISTAKES_H

#include "oracle/claim.h"
#include "oracle/script.h"

/* A result of a sequence: the context of a claim about it. */
typedef struct fb_script_result {
    const fb_script *sequence; /* truths are there */
    size_t pass;
    bool external; /* the stored external part, not the merged result */
    bool lse;
} fb_script_result;

extern const fb_mistake fb_script_mistakes[];
extern const size_t fb_num_script_mistakes;

/* The two parts of a pass and what becomes of them, in one line: `explain` of a claim. */
fb_status fb_script_explain(const void *result, size_t index, char *text, size_t size);

/* What a plain implementation computes in `precision`: `plain` of a claim. */
fb_status fb_script_plain(const void *result, fb_dtype precision, float *out);

#endif
