#include "study/trace.h"

#include "base/error.h"
#include "base/memory.h"

#include <math.h>

/* --- memory ----------------------------------------------------------------------------------- */

static size_t layer_rows(const fb_trace *trace) {
    return trace->block_size * trace->num_heads;
}

static size_t num_heads_of_step(const fb_trace *trace) {
    return trace->num_layers * trace->num_heads;
}

fb_status fb_trace_init(const fb_model_config *config, size_t block_size, size_t num_sequences,
                        fb_trace *trace) {
    *trace = (fb_trace){
        .num_layers = config->num_hidden_layers,
        .num_heads = config->num_attention_heads,
        .head_dim = config->head_dim,
        .block_size = block_size,
        .num_sequences = num_sequences,
    };
    size_t floats;
    if (!fb_size_mul(block_size, trace->num_heads, &floats) ||
        !fb_size_mul(floats, trace->head_dim + 1, &floats))
        return fb_fail(FB_ERROR_ARGUMENT, "block_size is %zu, more than fits memory", block_size);
    FB_TRY(fb_alloc_zeroed(num_sequences, sizeof *trace->sequences, "trace", &trace->sequences));
    return fb_alloc(floats, sizeof *trace->dense, "trace", &trace->dense);
}

static void free_parts(fb_trace_parts *parts) {
    fb_free(parts->external_out);
    fb_free(parts->external_lse);
    fb_free(parts->internal_out);
    fb_free(parts->internal_lse);
}

static void free_sequence(fb_trace_sequence *sequence) {
    free_parts(&sequence->parts[0]);
    free_parts(&sequence->parts[1]);
    fb_free(sequence->changed);
    fb_free(sequence->heads);
    *sequence = (fb_trace_sequence){0};
}

void fb_trace_free(fb_trace *trace) {
    for (size_t i = 0; trace->sequences && i < trace->num_sequences; i++)
        free_sequence(&trace->sequences[i]);
    fb_free(trace->sequences);
    fb_free(trace->dense);
    fb_buffer_free(&trace->steps);
    fb_buffer_free(&trace->heads);
    *trace = (fb_trace){0};
}

static fb_status allocate_parts(const fb_trace *trace, fb_trace_parts *parts) {
    size_t rows = trace->num_layers * layer_rows(trace), row = trace->head_dim * sizeof(float);
    FB_TRY(fb_alloc(rows, row, "traced parts", &parts->external_out));
    FB_TRY(fb_alloc(rows, sizeof(float), "traced parts", &parts->external_lse));
    FB_TRY(fb_alloc(rows, row, "traced parts", &parts->internal_out));
    return fb_alloc(rows, sizeof(float), "traced parts", &parts->internal_lse);
}

static fb_status allocate_sequence(const fb_trace *trace, fb_trace_sequence *sequence) {
    FB_TRY(allocate_parts(trace, &sequence->parts[0]));
    FB_TRY(allocate_parts(trace, &sequence->parts[1]));
    FB_TRY(fb_alloc_zeroed(trace->block_size, sizeof(bool), "trace", &sequence->changed));
    return fb_alloc(num_heads_of_step(trace), sizeof *sequence->heads, "trace", &sequence->heads);
}

/* --- one layer of one step -------------------------------------------------------------------- */

/* Layer `layer` of some parts. */
typedef struct layer_parts {
    fb_part external, internal;
} layer_parts;

static layer_parts parts_of_layer(const fb_trace *trace, const fb_trace_parts *parts,
                                  size_t layer) {
    size_t rows = layer * layer_rows(trace), values = rows * trace->head_dim;
    size_t heads = trace->num_heads, head_dim = trace->head_dim;
    return (layer_parts){
        fb_part_rows(parts->external_out + values, parts->external_lse + rows, heads, head_dim),
        fb_part_rows(parts->internal_out + values, parts->internal_lse + rows, heads, head_dim),
    };
}

/* Row `row` of head `head`: head_dim values, and their LSE. */
static const float *out_at(const fb_part *part, size_t row, size_t head) {
    return part->out + (ptrdiff_t)row * part->out_token_stride +
           (ptrdiff_t)head * part->out_head_stride;
}

static double lse_at(const fb_part *part, size_t row, size_t head) {
    return (double)part
        ->lse[(ptrdiff_t)row * part->lse_token_stride + (ptrdiff_t)head * part->lse_head_stride];
}

/* The external and the internal part of a step's queries, from scratch. */
static fb_status compute_parts(const fb_attention_event *event, const layer_parts *parts) {
    fb_kv kv;
    FB_TRY(fb_kv_cache_layer(event->kv, event->layer, &kv));
    size_t length = fb_kv_cache_length(event->kv);
    fb_range external = {0, length}, internal = {length, length + event->queries->num_queries};
    fb_view outside = {&kv, &external, 1}, inside = {&kv, &internal, 1};
    FB_TRY(fb_attend(event->queries, &outside, NULL, 0.0f, &parts->external));
    return fb_attend(event->queries, &inside, NULL, 0.0f, &parts->internal);
}

static double cosine(const float *a, const float *b, size_t count) {
    double ab = 0, aa = 0, bb = 0;
    for (size_t i = 0; i < count; i++) {
        ab += (double)a[i] * (double)b[i];
        aa += (double)a[i] * (double)a[i];
        bb += (double)b[i] * (double)b[i];
    }
    return ab / sqrt(aa * bb); /* NaN where one of them is zero */
}

/* Mean cosine similarity of a head's rows, of all or of kept ones. */
static double mean_cosine(const fb_trace *trace, const fb_part *now, const fb_part *before,
                          size_t rows, size_t head, const bool *changed, bool kept_only) {
    double sum = 0;
    size_t count = 0;
    for (size_t row = 0; row < rows; row++) {
        if (kept_only && changed[row])
            continue;
        sum += cosine(out_at(now, row, head), out_at(before, row, head), trace->head_dim);
        count++;
    }
    return count ? sum / (double)count : NAN;
}

static double mean_lse_change(const fb_part *now, const fb_part *before, size_t rows, size_t head) {
    double sum = 0;
    for (size_t row = 0; row < rows; row++)
        sum += fabs(lse_at(now, row, head) - lse_at(before, row, head));
    return sum / (double)rows; /* NaN without a context: -inf minus -inf */
}

/* exp(external LSE) / (exp(external LSE) + exp(internal LSE)), mean over the rows. */
static double mean_mass(const layer_parts *parts, size_t rows, size_t head) {
    double sum = 0;
    for (size_t row = 0; row < rows; row++)
        sum +=
            1.0 /
            (1.0 + exp(lse_at(&parts->internal, row, head) - lse_at(&parts->external, row, head)));
    return sum / (double)rows;
}

static void compare_results(const fb_trace *trace, const fb_part *result, const fb_part *dense,
                            size_t rows, size_t head, fb_trace_head *record) {
    double difference = 0, norm = 0, largest = 0;
    for (size_t row = 0; row < rows; row++) {
        const float *a = out_at(result, row, head), *b = out_at(dense, row, head);
        for (size_t d = 0; d < trace->head_dim; d++) {
            double delta = (double)a[d] - (double)b[d];
            difference += delta * delta;
            norm += (double)b[d] * (double)b[d];
            largest = fmax(largest, fabs(delta));
        }
    }
    record->error = difference == 0 ? 0 : sqrt(difference / norm);
    record->max_error = largest;
}

static void compare_steps(const fb_trace *trace, const layer_parts *now, const layer_parts *before,
                          size_t rows, size_t head, const bool *changed, fb_trace_head *record) {
    const fb_part *outside = &now->external, *outside_before = &before->external;
    const fb_part *inside = &now->internal, *inside_before = &before->internal;
    record->external_cosine =
        mean_cosine(trace, outside, outside_before, rows, head, changed, false);
    record->internal_cosine = mean_cosine(trace, inside, inside_before, rows, head, changed, false);
    record->external_cosine_kept =
        mean_cosine(trace, outside, outside_before, rows, head, changed, true);
    record->internal_cosine_kept =
        mean_cosine(trace, inside, inside_before, rows, head, changed, true);
    record->external_lse_change = mean_lse_change(outside, outside_before, rows, head);
}

static fb_status record_layer(fb_trace *trace, const fb_generate_attention_event *event) {
    const fb_attention_event *attention = event->attention;
    fb_trace_sequence *sequence = &trace->sequences[event->sequence];
    if (!sequence->heads)
        FB_TRY(allocate_sequence(trace, sequence));
    if (event->denoising_step == 0)
        sequence->has_before = false;
    size_t rows = attention->queries->num_queries, layer = attention->layer;
    layer_parts now = parts_of_layer(trace, &sequence->parts[sequence->current], layer);
    layer_parts before = parts_of_layer(trace, &sequence->parts[1 - sequence->current], layer);
    fb_part dense = fb_part_rows(trace->dense, trace->dense + layer_rows(trace) * trace->head_dim,
                                 trace->num_heads, trace->head_dim);
    FB_TRY(compute_parts(attention, &now));
    FB_TRY(fb_merge(&now.external, &now.internal, rows, trace->num_heads, trace->head_dim, &dense));
    for (size_t head = 0; head < trace->num_heads; head++) {
        fb_trace_head record = {NAN, NAN, NAN, NAN, NAN, NAN, NAN, NAN};
        if (sequence->has_before)
            compare_steps(trace, &now, &before, rows, head, sequence->changed, &record);
        record.external_mass = mean_mass(&now, rows, head);
        compare_results(trace, attention->result, &dense, rows, head, &record);
        sequence->heads[layer * trace->num_heads + head] = record;
    }
    return FB_OK;
}

void fb_trace_attention(fb_trace *trace, const fb_generate_attention_event *event) {
    if (trace->status == FB_OK && !event->commit)
        trace->status = record_layer(trace, event);
}

/* --- steps ------------------------------------------------------------------------------------ */

static size_t count_masked(const fb_step_event *event) {
    size_t count = 0;
    for (size_t i = 0; i < event->block_size; i++)
        count += event->masked_before[i];
    return count;
}

static fb_status record_step(fb_trace *trace, const fb_step_event *event) {
    if (event->num_rows < event->block_size)
        return fb_fail(FB_ERROR_UNSUPPORTED,
                       "a pass over %zu tokens of a block of %zu is not traced", event->num_rows,
                       event->block_size);
    fb_trace_sequence *sequence = &trace->sequences[event->sequence];
    fb_trace_step step = {
        .sequence = event->sequence,
        .block = event->block,
        .context_length = event->context_length,
        .denoising_step = event->denoising_step,
        .action = event->action,
        .dirty = event->dirty_before,
        .masked = count_masked(event),
        .accepted = event->num_accepted,
        .edited = event->num_edited,
    };
    FB_TRY(fb_buffer_append(&trace->steps, &step, sizeof step));
    FB_TRY(fb_buffer_append(&trace->heads, sequence->heads,
                            num_heads_of_step(trace) * sizeof *sequence->heads));
    trace->num_steps++;
    for (size_t i = 0; i < event->block_size; i++)
        sequence->changed[i] = event->accepted[i] || event->edited[i];
    sequence->current = 1 - sequence->current;
    sequence->has_before = true;
    return FB_OK;
}

bool fb_trace_on_step(fb_trace *trace, const fb_step_event *event) {
    if (trace->status == FB_OK && !event->commit)
        trace->status = record_step(trace, event);
    if (trace->status == FB_OK && event->finished)
        free_sequence(&trace->sequences[event->sequence]);
    return trace->status == FB_OK;
}

const fb_trace_step *fb_trace_step_at(const fb_trace *trace, size_t i) {
    return (const fb_trace_step *)(const void *)trace->steps.data + i;
}

const fb_trace_head *fb_trace_heads_at(const fb_trace *trace, size_t i) {
    return (const fb_trace_head *)(const void *)trace->heads.data + i * num_heads_of_step(trace);
}
