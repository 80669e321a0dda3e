#include "oracle/engine_trace.h"

#include <stdio.h>
#include <string.h>

static const char *const field_names[FB_ENGINE_TRACE_NUM_FIELDS] = {
    "seq",        "status", "step",  "ctx_true",    "ctx_kernel",  "update",       "reuse",
    "store",      "dirty",  "dmask", "dirty_after", "dmask_after", "status_after", "ntr",
    "ntok_after", "before", "acc",   "after",       "x0",
};

static fb_dims field_shape(const fb_engine_trace *trace, fb_engine_trace_field field) {
    return field < FB_ENGINE_TRACE_NUM_ROW_FIELDS
               ? FB_DIMS(trace->steps, trace->rows)
               : FB_DIMS(trace->steps, trace->rows, trace->block);
}

static fb_status read_fields(fb_engine_trace *trace) {
    const fb_tensor_view *seq = NULL;
    FB_TRY(fb_safetensors_get(fb_case_file(trace->c), "trace.seq", &seq));
    if (seq->ndim != 2 || seq->shape[0] > FB_ENGINE_TRACE_MAX_STEPS)
        return fb_fail(FB_ERROR_FORMAT, "%s: trace.seq is not [T, Bmax]", fb_case_path(trace->c));
    trace->steps = seq->shape[0];
    trace->rows = seq->shape[1];
    for (fb_engine_trace_field field = FB_ENGINE_TRACE_SEQ; field < FB_ENGINE_TRACE_NUM_FIELDS;
         field++) {
        fb_dims shape = field_shape(trace, field);
        size_t count = 0;
        FB_TRY(
            fb_case_i32(trace->c, &trace->recorded[field], shape, "trace.%s", field_names[field]));
        count = fb_dims_count(&shape);
        FB_TRY(fb_case_alloc(trace->c, count, sizeof(int32_t), &trace->decided[field]));
        for (size_t i = 0; i < count; i++)
            trace->decided[field][i] = -1;
    }
    return FB_OK;
}

static fb_status read_prompts(fb_engine_trace *trace) {
    FB_TRY(
        fb_case_size(trace->c, "n_prompts", 1, FB_ENGINE_TRACE_MAX_PROMPTS, &trace->num_prompts));
    for (size_t i = 0; i < trace->num_prompts; i++) {
        char name[32];
        const fb_tensor_view *view = NULL;
        snprintf(name, sizeof name, "prompt.%zu", i);
        FB_TRY(fb_safetensors_get(fb_case_file(trace->c), name, &view));
        trace->prompts[i].num_tokens = view->count;
        FB_TRY(fb_case_i32(trace->c, &trace->prompts[i].tokens, FB_DIMS(view->count), "%s", name));
    }
    return FB_OK;
}

static fb_status read_stop_tokens(fb_engine_trace *trace) {
    const fb_json *eos = NULL, *words = NULL;
    FB_TRY(fb_case_param(trace->c, "eos_id", &eos));
    FB_TRY(fb_case_array(trace->c, "stop_words", &words));
    trace->num_stop_tokens = 1 + fb_json_array_size(words);
    FB_TRY(fb_case_alloc(trace->c, trace->num_stop_tokens, sizeof(int32_t), &trace->stop_tokens));
    for (size_t i = 0; i < trace->num_stop_tokens; i++) {
        const fb_json *item = i == 0 ? eos : fb_json_array_get(words, i - 1);
        int64_t token = 0;
        FB_TRY(fb_json_int64(item, fb_case_path(trace->c), i == 0 ? "eos_id" : "stop_words",
                             INT32_MIN, INT32_MAX, &token));
        trace->stop_tokens[i] = (int32_t)token;
    }
    return FB_OK;
}

fb_status fb_engine_trace_open(fb_case *c, fb_engine_trace *trace) {
    trace->c = c;
    FB_TRY(fb_case_size(c, "block_length", 1, 4096, &trace->block));
    FB_TRY(read_fields(trace));
    FB_TRY(read_prompts(trace));
    return read_stop_tokens(trace);
}

void fb_engine_trace_set(fb_engine_trace *trace, fb_engine_trace_field field, size_t t, size_t row,
                         size_t value) {
    trace->decided[field][t * trace->rows + row] = (int32_t)value;
}

void fb_engine_trace_set_block(fb_engine_trace *trace, fb_engine_trace_field field, size_t t,
                               size_t row, const int32_t *values) {
    memcpy(trace->decided[field] + (t * trace->rows + row) * trace->block, values,
           trace->block * sizeof *values);
}

const int32_t *fb_engine_trace_block(const fb_engine_trace *trace, fb_engine_trace_field field,
                                     size_t t, size_t row) {
    return trace->recorded[field] + (t * trace->rows + row) * trace->block;
}

fb_status fb_engine_trace_report(const fb_engine_trace *trace, fb_report *report,
                                 unsigned left_out) {
    for (fb_engine_trace_field field = FB_ENGINE_TRACE_SEQ; field < FB_ENGINE_TRACE_NUM_FIELDS;
         field++) {
        char name[64];
        if (left_out & (1u << field))
            continue;
        snprintf(name, sizeof name, "trace.%s", field_names[field]);
        FB_TRY(fb_report_decisions(report, name, field_shape(trace, field), trace->decided[field],
                                   trace->recorded[field]));
    }
    return FB_OK;
}

/* If the lengths differ, the length is the decision that differs. */
fb_status fb_engine_trace_report_output(const fb_engine_trace *trace, fb_report *report,
                                        size_t prompt, const int32_t *tokens,
                                        const int32_t *unmask_step, size_t count) {
    char name[64], steps_name[64];
    const fb_tensor_view *view = NULL;
    const int32_t *output = NULL, *steps = NULL;
    snprintf(name, sizeof name, "output.%zu", prompt);
    snprintf(steps_name, sizeof steps_name, "unmask_step.%zu", prompt);
    FB_TRY(fb_safetensors_get(fb_case_file(trace->c), name, &view));
    fb_dims shape = FB_DIMS(view->count);
    FB_TRY(fb_case_i32(trace->c, &output, shape, "%s", name));
    FB_TRY(fb_case_i32(trace->c, &steps, shape, "%s", steps_name));
    if (view->count != count) {
        int32_t ours = (int32_t)count, file = (int32_t)view->count;
        snprintf(name, sizeof name, "length of output.%zu", prompt);
        return fb_report_decisions(report, name, FB_DIMS(1), &ours, &file);
    }
    FB_TRY(fb_report_decisions(report, name, shape, tokens, output));
    return fb_report_decisions(report, steps_name, shape, unmask_step, steps);
}
