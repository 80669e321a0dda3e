/* Traces of the paper's engine, step by step: the decisions that a file recorded, and the decisions
 * that this build makes in its place. A field is [T, Bmax] or [T, Bmax, L] whole numbers; -1 for a
 * row that holds no sequence. */
#ifndef FB_ORACLE_ENGINE_TRACE_H
#define FB_ORACLE_ENGINE_TRACE_H

#include "oracle/report.h"

#include <flashblock/generate.h>

enum { FB_ENGINE_TRACE_MAX_PROMPTS = 1024, FB_ENGINE_TRACE_MAX_STEPS = 1 << 20 };

typedef enum fb_engine_trace_field {
    FB_ENGINE_TRACE_SEQ = 0,
    FB_ENGINE_TRACE_STATUS,
    FB_ENGINE_TRACE_STEP,
    FB_ENGINE_TRACE_CTX_TRUE,
    FB_ENGINE_TRACE_CTX_KERNEL,
    FB_ENGINE_TRACE_UPDATE,
    FB_ENGINE_TRACE_REUSE,
    FB_ENGINE_TRACE_STORE,
    FB_ENGINE_TRACE_DIRTY,
    FB_ENGINE_TRACE_DMASK,
    FB_ENGINE_TRACE_DIRTY_AFTER,
    FB_ENGINE_TRACE_DMASK_AFTER,
    FB_ENGINE_TRACE_STATUS_AFTER,
    FB_ENGINE_TRACE_NTR,
    FB_ENGINE_TRACE_NTOK_AFTER,
    FB_ENGINE_TRACE_NUM_ROW_FIELDS,
    FB_ENGINE_TRACE_BEFORE = FB_ENGINE_TRACE_NUM_ROW_FIELDS,
    FB_ENGINE_TRACE_ACC,
    FB_ENGINE_TRACE_AFTER,
    FB_ENGINE_TRACE_X0,
    FB_ENGINE_TRACE_NUM_FIELDS,
} fb_engine_trace_field;

typedef struct fb_engine_trace {
    fb_case *c;
    size_t steps, rows, block;                           /* T, Bmax, L */
    const int32_t *recorded[FB_ENGINE_TRACE_NUM_FIELDS]; /* of the file */
    int32_t *decided[FB_ENGINE_TRACE_NUM_FIELDS];        /* of this build, -1 at first */
    fb_prompt prompts[FB_ENGINE_TRACE_MAX_PROMPTS];
    size_t num_prompts;
    int32_t *stop_tokens; /* eos_id, then stop_words */
    size_t num_stop_tokens;
} fb_engine_trace;

/* Reads the fields, the prompts and the stop tokens; params block_length and n_prompts. */
fb_status fb_engine_trace_open(fb_case *c, fb_engine_trace *trace);

/* Sets the decision of this build at step t, row r: one number, or L numbers. */
void fb_engine_trace_set(fb_engine_trace *trace, fb_engine_trace_field field, size_t t, size_t row,
                         size_t value);
void fb_engine_trace_set_block(fb_engine_trace *trace, fb_engine_trace_field field, size_t t,
                               size_t row, const int32_t *values);

/* The L recorded numbers of step t, row r. */
const int32_t *fb_engine_trace_block(const fb_engine_trace *trace, fb_engine_trace_field field,
                                     size_t t, size_t row);

/* Reports the decisions of every field, except the fields in `left_out` (a bit for each). */
fb_status fb_engine_trace_report(const fb_engine_trace *trace, fb_report *report,
                                 unsigned left_out);

/* Reports the decisions of output.I and unmask_step.I: the result of prompt I. */
fb_status fb_engine_trace_report_output(const fb_engine_trace *trace, fb_report *report,
                                        size_t prompt, const int32_t *tokens,
                                        const int32_t *unmask_step, size_t count);

#endif
