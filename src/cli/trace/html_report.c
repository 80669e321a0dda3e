#include "cli/trace/html_report.h"

#include "base/error.h"
#include "cli/page/page.h"

#include <flashblock/version.h>

enum { DIGITS = 3 };

/* What the page draws, of the values of a head. */
static const fb_trace_value values[] = {FB_TRACE_EXTERNAL_MASS, FB_TRACE_EXTERNAL_COSINE,
                                        FB_TRACE_INTERNAL_COSINE, FB_TRACE_ERROR};

static void put_prompts(fb_json_writer *w, const fb_session *session) {
    fb_json_open_array(w, "prompts");
    for (size_t i = 0; i < session->num_prompts; i++) {
        const fb_prompt *prompt = &session->prompts[i];
        char *text = NULL;
        size_t size = 0;
        fb_status status = fb_tokenizer_decode(session->tokenizer, prompt->tokens,
                                               prompt->num_tokens, false, &text, &size);
        fb_json_fail(w, status);
        if (status == FB_OK)
            fb_json_put_bytes(w, NULL, text, size);
        fb_text_free(text);
    }
    fb_json_close_array(w);
}

void fb_html_report_begin(fb_html_report *report, const fb_session *session) {
    const fb_model_config *config = fb_model_config_of(session->model);
    report->session = session;
    report->json = fb_json_writer_to(&report->text, FB_JSON_COMPACT);
    fb_json_writer *w = &report->json;
    w->digits = DIGITS;
    fb_json_open_object(w, NULL);
    fb_json_put_string(w, "version", fb_version());
    char name[256];
    fb_json_put_text(w, "model", fb_session_model_name(session, name, sizeof name));
    fb_json_put_size(w, "block_size", session->options.block_size);
    fb_json_put_size(w, "num_layers", config->num_hidden_layers);
    fb_json_put_size(w, "num_heads", config->num_attention_heads);
    put_prompts(w, session);
    fb_json_open_array(w, "runs");
}

void fb_html_report_begin_run(fb_html_report *report, size_t tau) {
    fb_json_open_object(&report->json, NULL);
    fb_json_put_size(&report->json, "tau", tau);
    fb_json_open_array(&report->json, "passes");
}

/* [num_layers][num_heads] of each value, of the step that was recorded last. */
static void put_heads(fb_json_writer *w, const fb_trace *trace) {
    fb_json_open_object(w, "heads");
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        const fb_trace_head *record = fb_trace_heads_at(trace, trace->num_steps - 1);
        fb_json_open_array(w, fb_trace_value_name(values[i]));
        for (size_t layer = 0; layer < trace->num_layers; layer++) {
            fb_json_open_array(w, NULL);
            for (size_t head = 0; head < trace->num_heads; head++, record++)
                fb_json_put_double(w, NULL, fb_trace_get(record, values[i]));
            fb_json_close_array(w);
        }
        fb_json_close_array(w);
    }
    fb_json_close_object(w);
}

void fb_html_report_put_pass(fb_html_report *report, const fb_trace *trace,
                             const fb_step_event *event) {
    fb_json_writer *w = &report->json;
    const fb_session *session = report->session;
    fb_json_open_object(w, NULL);
    fb_json_put_size(w, "sequence", event->sequence);
    fb_page_put_pass(w, session->tokenizer, session->prompts[event->sequence].num_tokens, event);
    if (!event->commit)
        put_heads(w, trace);
    fb_json_close_object(w);
}

void fb_html_report_end_run(fb_html_report *report) {
    fb_json_close_array(&report->json);
    fb_json_close_object(&report->json);
}

fb_status fb_html_report_write(fb_html_report *report, const char *path) {
    fb_json_close_array(&report->json);
    fb_json_close_object(&report->json);
    FB_TRY(fb_json_finish(&report->json));
    return fb_page_write(&report->text, path);
}

void fb_html_report_free(fb_html_report *report) {
    fb_buffer_free(&report->text);
}
