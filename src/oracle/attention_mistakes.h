/* Mistakes of ports in plain attention. */
#ifndef FB_ORACLE_ATTENTION_MISTAKES_H
#define FB_ORACLE_ATTENTION_MISTAKES_H

#include "oracle/attention_problem.h"
#include "oracle/claim.h"

/* A result of a problem. It is the context of a claim about it. */
typedef struct fb_attention_result {
    const fb_attention_problem *problem;
    bool lse; /* not the output */
} fb_attention_result;

extern const fb_mistake fb_attention_mistakes[];
extern const size_t fb_num_attention_mistakes;

/* `plain` of a claim: a plain implementation in `precision`. */
fb_status fb_attention_plain(const void *result, fb_dtype precision, float *out);

/* `explain` of a claim: the first scores of the element's row, the largest one, the sum of
 * exponentials. */
fb_status fb_attention_explain(const void *result, size_t index, char *text, size_t size);

#endif
