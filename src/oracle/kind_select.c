/* select_transfer: the training code's choice of positions. sampler_filters: top-k and top-p. */
#include "decode/remask.h"
#include "decode/sampler.h"
#include "oracle/kinds.h"

#include <stdio.h>
#include <string.h>

enum { MAX_BLOCK = 4096, MAX_VOCAB = 1 << 20, MAX_CALLS = 1 << 20 };

/* Probabilities of two float32 implementations. */
static const double confidence_tolerance = 1e-6, filter_tolerance = 2e-7;

/* --- select_transfer -------------------------------------------------------------------------- */

typedef struct selection {
    fb_case *c;
    fb_remask_step step;
    size_t batch, vocab, steps, calls;
    const float *logits, *p;     /* [N, B, L, V], [N, B, L] */
    const int32_t *mask, *index; /* [N, B, L], [N] into the budget */
    int32_t *x0, *transfer;      /* this build's, [N, B, L] */
    float *confidence;
} selection;

static fb_status open_selection(fb_case *c, selection *s) {
    const char *name = NULL;
    const fb_tensor_view *index = NULL;
    s->c = c;
    s->step.rule = FB_BUDGET_CAP;
    FB_TRY(fb_case_size(c, "L", 1, MAX_BLOCK, &s->step.block_size));
    FB_TRY(fb_case_size(c, "B", 1, MAX_CALLS, &s->batch));
    FB_TRY(fb_case_size(c, "V", 1, MAX_VOCAB, &s->vocab));
    FB_TRY(fb_case_size(c, "steps", 1, MAX_BLOCK, &s->steps));
    FB_TRY(fb_case_real(c, "threshold", &s->step.confidence_threshold));
    FB_TRY(fb_case_string(c, "remasking", &name));
    FB_TRY(fb_remasking_parse(name, &s->step.strategy));
    FB_TRY(fb_safetensors_get(fb_case_file(c), "step", &index));
    s->calls = index->count;
    fb_dims rows = FB_DIMS(s->calls, s->batch, s->step.block_size);
    FB_TRY(fb_case_i32(c, &s->index, FB_DIMS(s->calls), "step"));
    FB_TRY(fb_case_f32(c, &s->logits, FB_DIMS(s->calls, s->batch, s->step.block_size, s->vocab),
                       "logits"));
    FB_TRY(fb_case_f32(c, &s->p, rows, "p"));
    FB_TRY(fb_case_i32(c, &s->mask, rows, "mask"));
    FB_TRY(fb_case_alloc(c, fb_dims_count(&rows), sizeof(int32_t), &s->x0));
    FB_TRY(fb_case_alloc(c, fb_dims_count(&rows), sizeof(int32_t), &s->transfer));
    return fb_case_alloc(c, fb_dims_count(&rows), sizeof(float), &s->confidence);
}

/* Greedy proposals of every position. */
static fb_status propose(selection *s) {
    fb_sampler sampler = {.greedy = true, .temperature = 1.0, .top_p = 1.0, .banned_token = -1};
    float *probabilities = NULL;
    uint32_t *order = NULL;
    FB_TRY(fb_case_alloc(s->c, s->vocab, sizeof *probabilities, &probabilities));
    FB_TRY(fb_case_alloc(s->c, s->vocab, sizeof *order, &order));
    for (size_t i = 0; i < s->calls * s->batch * s->step.block_size; i++) {
        fb_proposal proposal;
        FB_TRY(fb_sampler_propose(&sampler, s->logits + i * s->vocab, s->vocab, 0.0, order,
                                  probabilities, &proposal));
        s->x0[i] = proposal.token;
        s->confidence[i] = proposal.confidence;
    }
    return FB_OK;
}

/* The chosen positions, from the recorded confidences. */
static fb_status transfer(selection *s, const int32_t *budget) {
    size_t block = s->step.block_size, *accepted = NULL;
    bool *masked = NULL;
    FB_TRY(fb_case_alloc(s->c, block, sizeof *accepted, &accepted));
    FB_TRY(fb_case_alloc(s->c, block, sizeof *masked, &masked));
    s->step.masked = masked;
    for (size_t row = 0; row < s->calls * s->batch; row++) {
        int32_t step = s->index[row / s->batch];
        if (step < 0 || (size_t)step >= s->steps || budget[step] < 0 ||
            (size_t)budget[step] > block)
            return fb_fail(FB_ERROR_FORMAT, "%s: step %d is out of range", fb_case_path(s->c),
                           (int)step);
        for (size_t i = 0; i < block; i++)
            masked[i] = s->mask[row * block + i] != 0;
        s->step.confidence = s->p + row * block;
        s->step.budget = (size_t)budget[step];
        size_t count = fb_remask(&s->step, accepted);
        for (size_t i = 0; i < count; i++)
            s->transfer[row * block + accepted[i]] = 1;
    }
    return FB_OK;
}

fb_status fb_recompute_select_transfer(fb_case *c, fb_report *report) {
    selection s = {0};
    const int32_t *budget = NULL, *x0 = NULL, *chosen = NULL;
    int32_t *own_budget = NULL;
    FB_TRY(open_selection(c, &s));
    fb_dims rows = FB_DIMS(s.calls, s.batch, s.step.block_size);
    FB_TRY(fb_case_i32(c, &budget, FB_DIMS(s.steps), "budget"));
    FB_TRY(fb_case_i32(c, &x0, rows, "x0"));
    FB_TRY(fb_case_i32(c, &chosen, rows, "transfer"));
    FB_TRY(fb_case_alloc(c, s.steps, sizeof *own_budget, &own_budget));
    for (size_t i = 0; i < s.steps; i++)
        own_budget[i] = (int32_t)fb_remask_budget(s.step.block_size, s.steps, i);
    FB_TRY(propose(&s));
    FB_TRY(transfer(&s, budget));
    fb_claim confidence = {.tensor = "p",
                           .shape = rows,
                           .ours = s.confidence,
                           .file = s.p,
                           .rule = FB_BOUND_ABSOLUTE,
                           .tolerance = confidence_tolerance};
    FB_TRY(fb_report_decisions(report, "budget", FB_DIMS(s.steps), own_budget, budget));
    FB_TRY(fb_report_decisions(report, "x0", rows, s.x0, x0));
    FB_TRY(fb_report_claim(report, &confidence));
    return fb_report_decisions(report, "transfer", rows, s.transfer, chosen);
}

/* --- sampler_filters -------------------------------------------------------------------------- */

/* `tensor` [N, V]: probabilities after the filter, of logits [N, V]. */
static fb_status check_filter(fb_case *c, fb_report *report, const char *tensor,
                              const fb_sampler *sampler) {
    const fb_tensor_view *view = NULL;
    const float *logits = NULL, *file = NULL;
    float *ours = NULL;
    uint32_t *order = NULL;
    FB_TRY(fb_safetensors_get(fb_case_file(c), "logits", &view));
    fb_dims shape =
        FB_DIMS(view->ndim == 2 ? view->shape[0] : 0, view->ndim == 2 ? view->shape[1] : 0);
    size_t rows = shape.sizes[0], vocab = shape.sizes[1];
    FB_TRY(fb_case_f32(c, &logits, shape, "logits"));
    FB_TRY(fb_case_f32(c, &file, shape, "%s", tensor));
    FB_TRY(fb_case_alloc(c, rows * vocab, sizeof *ours, &ours));
    FB_TRY(fb_case_alloc(c, vocab, sizeof *order, &order));
    for (size_t row = 0; row < rows; row++)
        FB_TRY(fb_sampler_probabilities(sampler, logits + row * vocab, vocab, order,
                                        ours + row * vocab));
    fb_claim claim = {.tensor = tensor,
                      .shape = shape,
                      .ours = ours,
                      .file = file,
                      .rule = FB_BOUND_ABSOLUTE,
                      .tolerance = filter_tolerance};
    return fb_report_claim(report, &claim);
}

/* Tensors topkK and toppP: the number in the name is the filter's. */
fb_status fb_recompute_sampler_filters(fb_case *c, fb_report *report) {
    const fb_safetensors *file = fb_case_file(c);
    for (size_t i = 0; i < fb_safetensors_count(file); i++) {
        const char *name = fb_safetensors_at(file, i)->name;
        fb_sampler sampler = {.temperature = 1.0, .top_p = 1.0, .banned_token = -1};
        size_t top_k = 0;
        double top_p = 0.0;
        if (sscanf(name, "topk%zu", &top_k) == 1 && top_k > 0)
            sampler.top_k = top_k;
        else if (sscanf(name, "topp%lf", &top_p) == 1 && top_p > 0.0 && top_p <= 1.0)
            sampler.top_p = top_p;
        else
            continue;
        FB_TRY(check_filter(c, report, name, &sampler));
    }
    return FB_OK;
}
