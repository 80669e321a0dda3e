/* Mistakes of ports in a denoising sequence: the wrong external part, wrong rows of it, a wrong
 * merge. */
#ifndef FB_ORACLE_SCRIPT_MISTAKES_H
#define FB_ORACLE_SCRIPT_MISTAKES_H

#include "oracle/claim.h"
#include "oracle/script.h"

/* A result of a sequence. It is the context of a claim about it. */
typedef struct fb_script_result {
    const fb_script *sequence; /* with truths */
    size_t pass;
    bool external; /* the stored external part, not the merged result */
    bool lse;
} fb_script_result;

extern const fb_mistake fb_script_mistakes[];
extern const size_t fb_num_script_mistakes;

/* `explain` of a claim: the two parts of a pass and their merge, in one line. */
fb_status fb_script_explain(const void *result, size_t index, char *text, size_t size);

/* `plain` of a claim: a plain implementation in `precision`. */
fb_status fb_script_plain(const void *result, fb_dtype precision, float *out);

#endif
