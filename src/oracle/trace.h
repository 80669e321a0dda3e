/* Traces of the engine, step by step: what a file recorded, and what this build decides in its
 * place. Fields are [T, Bmax] or [T, Bmax, L] whole numbers, -1 where a row holds no sequence. */
#ifndef FB_ORACLE_TRACE_H
#define FB_ORACLE_TRACE_H

#include "oracle/report.h"

#include <flashblock/generate.h>

enum { FB_TRACE_MAX_PROMPTS = 1024, FB_TRACE_MAX_STEPS = 1 << 20 };

typedef enum fb_trace_field {
    FB_TRACE_SEQ = 0,
    FB_TRACE_STATUS,
    FB_TRACE_STEP,
    FB_TRACE_CTX_TRUE,
    FB_TRACE_CTX_KERNEL,
    FB_TRACE_UPDATE,
    FB_TRACE_REUSE,
    FB_TRACE_STORE,
    FB_TRACE_DIRTY,
    FB_TRACE_DMASK,
    FB_TRACE_DIRTY_AFTER,
    FB_TRACE_DMASK_AFTER,
    FB_TRACE_STATUS_AFTER,
    FB_TRACE_NTR,
    FB_TRACE_NTOK_AFTER,
    FB_TRACE_NUM_ROW_FIELDS,
    FB_TRACE_BEFORE = FB_TRACE_NUM_ROW_FIELDS,
    FB_TRACE_ACC,
    FB_TRACE_AFTER,
    FB_TRACE_X0,
    FB_TRACE_NUM_FIELDS,
} fb_trace_field;

typedef struct fb_trace {
    fb_case *c;
    size_t steps, rows, block;                    /* T, Bmax, L */
    const int32_t *recorded[FB_TRACE_NUM_FIELDS]; /* of the file */
    int32_t *decided[FB_TRACE_NUM_FIELDS];        /* of this build, -1 at first */
    fb_prompt prompts[FB_TRACE_MAX_PROMPTS];
    size_t num_prompts;
    int32_t *stop_tokens; /* eos_id, then stop_words */
    size_t num_stop_tokens;
} fb_trace;

/* Reads the fields, the prompts and the stop tokens; params block_length and n_prompts. */
fb_status fb_trace_open(fb_case *c, fb_trace *trace);

/* What this build decided at step t, row r: a number, or L of them. */
void fb_trace_set(fb_trace *trace, fb_trace_field field, size_t t, size_t row, size_t value);
void fb_trace_set_block(fb_trace *trace, fb_trace_field field, size_t t, size_t row,
                        const int32_t *values);

/* L recorded numbers of step t, row r. */
const int32_t *fb_trace_block(const fb_trace *trace, fb_trace_field field, size_t t, size_t row);

/* Decisions on every field but those in `left_out` (a bit for each field). */
fb_status fb_trace_report(const fb_trace *trace, fb_report *report, unsigned left_out);

/* Decisions on output.I and unmask_step.I: what prompt I became. */
fb_status fb_trace_report_output(const fb_trace *trace, fb_report *report, size_t prompt,
                                 const int32_t *tokens, const int32_t *unmask_step, size_t count);

#endif
