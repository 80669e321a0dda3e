/* What a claim about a result of attention asks for: a yardstick, names of mistakes, details. */
#ifndef FB_ORACLE_ATTENTION_RESULT_H
#define FB_ORACLE_ATTENTION_RESULT_H

#include "oracle/attention_problem.h"
#include "oracle/finding.h"

/* A result of a problem. It is the context of a claim about it. */
typedef struct fb_attention_result {
    const fb_attention_problem *problem;
    bool lse; /* not the output */
} fb_attention_result;

/* `name` of a claim: what the judge of candidates says of this result alone. Of a large one, the
 * tokens from the worst one on are judged. */
fb_status fb_attention_name(const void *result, const float *values, const fb_finding *finding,
                            char *words, size_t size);

/* `plain` of a claim: a plain implementation in `precision`. */
fb_status fb_attention_plain(const void *result, fb_dtype precision, float *out);

/* `explain` of a claim: the first scores of the element's row, the largest one, the sum of
 * exponentials. */
fb_status fb_attention_explain(const void *result, size_t index, char *text, size_t size);

#endif
