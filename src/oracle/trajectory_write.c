#include "oracle/trajectory_write.h"

#include "base/error.h"
#include "base/memory.h"
#include "io/file.h"
#include "io/json_write.h"

#include <stdio.h>
#include <stdlib.h>

struct fb_trajectory_writer {
    fb_file_writer *file;
    fb_buffer line;
};

/* Digits that read back as the same number. */
enum { F32_DIGITS = 9, F64_DIGITS = 17 };

/* --- lines ------------------------------------------------------------------------------------ */

static fb_json_writer begin_line(fb_trajectory_writer *writer) {
    writer->line.size = 0;
    fb_json_writer w = fb_json_writer_to(&writer->line, FB_JSON_COMPACT);
    fb_json_open_object(&w, NULL);
    return w;
}

static fb_status end_line(fb_trajectory_writer *writer, fb_json_writer *w) {
    fb_json_close_object(w);
    FB_TRY(fb_json_finish(w));
    FB_TRY(fb_buffer_append(&writer->line, "\n", 1));
    return fb_file_writer_put(writer->file, writer->line.data, writer->line.size);
}

static void put_ids(fb_json_writer *w, const char *key, const int32_t *ids, size_t count) {
    fb_json_open_array(w, key);
    for (size_t i = 0; i < count; i++)
        fb_json_put_int64(w, NULL, ids[i]);
    fb_json_close_array(w);
}

/* A number of the command line, as short as it reads back. */
static void put_setting(fb_json_writer *w, const char *key, double value) {
    char text[40];
    for (w->digits = 1; w->digits < F64_DIGITS; w->digits++) {
        snprintf(text, sizeof text, "%.*g", w->digits, value);
        double read = strtod(text, NULL);
        if (read >= value && read <= value)
            break;
    }
    fb_json_put_double(w, key, value);
    w->digits = F64_DIGITS;
}

/* --- the first line --------------------------------------------------------------------------- */

static void put_reuse(fb_json_writer *w, const fb_reuse_policy *reuse) {
    fb_json_put_size(w, "tau", reuse->tau);
    fb_json_put_string(w, "reuse", reuse->rows ? "rows" : "tau");
    if (reuse->rows) {
        fb_json_put_size(w, "refresh_every", reuse->refresh_every);
        fb_json_put_size(w, "refresh_dirty", reuse->refresh_dirty);
        fb_json_put_bool(w, "refresh_commit", reuse->refresh_commit);
    }
    fb_json_put_bool(w, "correction", reuse->correction);
    fb_json_put_bool(w, "reuse_always", reuse->reuse_always);
    fb_json_put_bool(w, "reuse_at_commit", reuse->reuse_at_commit);
}

static void put_sampling(fb_json_writer *w, const fb_generate_options *o) {
    put_setting(w, "temperature", o->temperature);
    fb_json_put_bool(w, "greedy", o->greedy);
    fb_json_put_size(w, "top_k", o->top_k);
    put_setting(w, "top_p", o->top_p);
}

static void put_options(fb_json_writer *w, const fb_generate_options *o) {
    fb_json_open_object(w, "options");
    fb_json_put_size(w, "block_size", o->block_size);
    fb_json_put_size(w, "denoising_steps", o->denoising_steps);
    fb_json_put_size(w, "max_tokens", o->max_tokens);
    fb_json_put_string(w, "remasking", fb_remasking_name(o->remasking));
    put_setting(w, "confidence_threshold", o->confidence_threshold);
    put_setting(w, "entropy_bound", o->entropy_bound);
    put_reuse(w, &o->reuse);
    put_sampling(w, o);
    fb_json_put_string(w, "compat", o->compat == FB_COMPAT_PAPER ? "paper" : "released");
    fb_json_put_string(w, "kv_dtype", fb_dtype_name(o->kv_dtype));
    fb_json_put_int64(w, "mask_token", o->mask_token_id);
    put_ids(w, "stop_tokens", o->stop_tokens, o->num_stop_tokens);
    fb_json_put_bool(w, "ignore_stop", o->ignore_stop);
    fb_json_close_object(w);
}

static fb_status put_header(fb_trajectory_writer *writer, const char *model,
                            const fb_generate_options *options, const fb_prompt *prompt) {
    fb_json_writer w = begin_line(writer);
    fb_json_put_size(&w, "trajectory", FB_TRAJECTORY_VERSION);
    fb_json_put_text(&w, "model", model);
    fb_json_put_string(&w, "precision", "f32");
    put_ids(&w, "prompt", prompt->tokens, prompt->num_tokens);
    put_options(&w, options);
    return end_line(writer, &w);
}

fb_status fb_trajectory_writer_open(const char *path, const char *model,
                                    const fb_generate_options *options, const fb_prompt *prompt,
                                    fb_trajectory_writer **writer) {
    fb_trajectory_writer *made = NULL;
    if (options->loop != FB_LOOP_MODEL && options->loop != FB_LOOP_SDAR)
        return fb_fail(FB_ERROR_UNSUPPORTED, "%s: a record is of the loop sdar, and this one is %s",
                       path, fb_decoding_loop_name(options->loop));
    FB_TRY(fb_alloc_zeroed(1, sizeof *made, "record", &made));
    fb_status status = fb_file_writer_open(path, &made->file);
    if (status == FB_OK)
        status = put_header(made, model, options, prompt);
    if (status != FB_OK) {
        fb_trajectory_writer_abandon(made);
        return status;
    }
    *writer = made;
    return FB_OK;
}

/* --- passes ----------------------------------------------------------------------------------- */

/* Numbers of masked positions; null elsewhere. */
static void put_floats(fb_json_writer *w, const char *key, const fb_step_event *event,
                       const float *values) {
    w->digits = F32_DIGITS;
    fb_json_open_array(w, key);
    for (size_t i = 0; i < event->block_size; i++) {
        if (event->masked_before[i])
            fb_json_put_double(w, NULL, (double)values[i]);
        else
            fb_json_put_null(w, NULL);
    }
    fb_json_close_array(w);
    w->digits = F64_DIGITS;
}

static void put_uniform(fb_json_writer *w, const fb_step_event *event) {
    fb_json_open_array(w, "uniform");
    for (size_t i = 0; i < event->block_size; i++) {
        if (event->masked_before[i])
            fb_json_put_double(w, NULL, event->uniform[i]);
        else
            fb_json_put_null(w, NULL);
    }
    fb_json_close_array(w);
}

static void put_proposed(fb_json_writer *w, const fb_step_event *event) {
    fb_json_open_array(w, "proposed");
    for (size_t i = 0; i < event->block_size; i++) {
        if (event->masked_before[i])
            fb_json_put_int64(w, NULL, event->proposed[i]);
        else
            fb_json_put_null(w, NULL);
    }
    fb_json_close_array(w);
}

/* Positions in the block, then the tokens that they hold now. */
static void put_accepted(fb_json_writer *w, const fb_step_event *event) {
    fb_json_open_array(w, "accepted");
    for (size_t i = 0; i < event->block_size; i++)
        if (event->accepted[i])
            fb_json_put_size(w, NULL, i);
    fb_json_close_array(w);
    fb_json_open_array(w, "tokens");
    for (size_t i = 0; i < event->block_size; i++)
        if (event->accepted[i])
            fb_json_put_int64(w, NULL, event->after[i]);
    fb_json_close_array(w);
}

static void put_step(fb_json_writer *w, const fb_step_event *event) {
    put_proposed(w, event);
    put_floats(w, "confidence", event, event->confidence);
    if (event->entropy)
        put_floats(w, "entropy", event, event->entropy);
    if (event->uniform)
        put_uniform(w, event);
    put_accepted(w, event);
}

static fb_status put_end(fb_trajectory_writer *writer, const fb_step_event *event) {
    fb_json_writer w = begin_line(writer);
    fb_json_put_string(&w, "end", fb_finish_reason_name(event->finish_reason));
    put_ids(&w, "tokens", event->completion, event->num_completion);
    return end_line(writer, &w);
}

fb_status fb_trajectory_writer_step(fb_trajectory_writer *writer, const fb_step_event *event) {
    fb_json_writer w = begin_line(writer);
    fb_json_put_size(&w, "block", event->block);
    if (event->commit)
        fb_json_put_string(&w, "step", "commit");
    else
        fb_json_put_size(&w, "step", event->denoising_step);
    fb_json_put_string(&w, "action", fb_reuse_action_name(event->action));
    put_ids(&w, "before", event->before, event->block_size);
    if (!event->commit)
        put_step(&w, event);
    FB_TRY(end_line(writer, &w));
    return event->finished ? put_end(writer, event) : FB_OK;
}

fb_status fb_trajectory_writer_commit(fb_trajectory_writer *writer) {
    fb_status status = fb_file_writer_commit(writer->file);
    writer->file = NULL;
    fb_trajectory_writer_abandon(writer);
    return status;
}

void fb_trajectory_writer_abandon(fb_trajectory_writer *writer) {
    if (!writer)
        return;
    fb_file_writer_abandon(writer->file);
    fb_buffer_free(&writer->line);
    fb_free(writer);
}
