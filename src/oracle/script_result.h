/* What a claim about a result of a denoising sequence asks for: a yardstick, names of mistakes,
 * details. */
#ifndef FB_ORACLE_SCRIPT_RESULT_H
#define FB_ORACLE_SCRIPT_RESULT_H

#include "oracle/finding.h"
#include "oracle/script.h"

/* A result of a sequence. It is the context of a claim about it. */
typedef struct fb_script_result {
    const fb_script *sequence; /* with truths */
    size_t pass;
    bool external; /* the stored external part, not the merged result */
    bool lse;
} fb_script_result;

/* `name` of a claim: what the judge of candidates says of this result alone. Of a large one, its
 * first tokens are judged. */
fb_status fb_script_name(const void *result, const float *values, const fb_finding *finding,
                         char *words, size_t size);

/* `explain` of a claim: the two parts of a pass and their merge, in one line. */
fb_status fb_script_explain(const void *result, size_t index, char *text, size_t size);

/* `plain` of a claim: a plain implementation in `precision`. */
fb_status fb_script_plain(const void *result, fb_dtype precision, float *out);

#endif
