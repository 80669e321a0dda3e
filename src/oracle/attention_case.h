/* Generated cases of the kind "attention": short, batched, masked, and with another number of keys
 * in each entry of the batch. docs/case-files.md says what the file holds. */
#ifndef FB_ORACLE_ATTENTION_CASE_H
#define FB_ORACLE_ATTENTION_CASE_H

#include "io/json_write.h"
#include "oracle/attention_problem.h"

typedef struct fb_attention_case {
    const char *preset;           /* where the heads are from */
    fb_attention_problem problem; /* sizes, scale, mask; q, k, v are not used */
    fb_dtype dtype;               /* of queries, keys and values */
    uint64_t seed;
} fb_attention_case;

/* Makes the inputs, this build's results and the truth, and writes the file. Equal cases give equal
 * bytes on every machine. problem.key_lengths are at most problem.keys. FB_ERROR_ARGUMENT where
 * the tensors would be too large. */
fb_status fb_attention_case_write(const fb_attention_case *made, const char *path);

/* Puts the params of the case file into the object that is open. */
void fb_attention_case_put_params(const fb_attention_case *made, fb_json_writer *w);

#endif
