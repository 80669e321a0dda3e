#include "oracle/wrong.h"

#include "base/memory.h"

#include <math.h>
#include <string.h>

fb_status fb_wrong_create(fb_trial *trial, fb_wrong **made) {
    fb_wrong *w = NULL;
    size_t one = trial->rows * (trial->dim + 1);
    FB_TRY(fb_trial_take(trial, 1, sizeof *w, &w));
    w->trial = trial;
    double ***parts[] = {&w->out, &w->lse, &w->part_memory};
    for (size_t i = 0; i < 3; i++)
        FB_TRY(fb_trial_take(trial, trial->num_parts, sizeof **parts[i], parts[i]));
    FB_TRY(fb_trial_take(trial, trial->num_tensors, sizeof *w->result, &w->result));
    FB_TRY(fb_trial_take(trial, trial->num_tensors, sizeof *w->tensor_memory, &w->tensor_memory));
    for (size_t i = 0; i < trial->num_parts; i++)
        FB_TRY(fb_trial_take(trial, one, sizeof(double), &w->part_memory[i]));
    for (size_t i = 0; i < trial->num_tensors; i++)
        FB_TRY(fb_trial_take(trial, trial->tensors[i].value ? trial->tensors[i].count : 1,
                             sizeof(double), &w->tensor_memory[i]));
    *made = w;
    return FB_OK;
}

void fb_wrong_reset(fb_wrong *w) {
    w->everywhere = w->found_there = false;
    memset(w->out, 0, w->trial->num_parts * sizeof *w->out);
    memset(w->lse, 0, w->trial->num_parts * sizeof *w->lse);
    memset(w->result, 0, w->trial->num_tensors * sizeof *w->result);
}

fb_status fb_wrong_need(fb_wrong *w, size_t part) {
    if (w->cheap && !w->trial->parts[part].known)
        return FB_ERROR_UNSUPPORTED;
    return fb_trial_know(w->trial, part);
}

const double *fb_wrong_out(const fb_wrong *w, size_t part) {
    return w->out[part] ? w->out[part] : w->trial->parts[part].m.out;
}

const double *fb_wrong_lse(const fb_wrong *w, size_t part) {
    return w->lse[part] ? w->lse[part] : w->trial->parts[part].m.lse;
}

fb_status fb_wrong_part(fb_wrong *w, size_t part, double **out, double **lse) {
    size_t rows = w->trial->rows, values = rows * w->trial->dim;
    FB_TRY(fb_wrong_need(w, part));
    if (!w->out[part]) {
        double *own = w->part_memory[part];
        memcpy(own, fb_wrong_out(w, part), values * sizeof *own);
        memcpy(own + values, fb_wrong_lse(w, part), rows * sizeof *own);
        w->out[part] = own;
        w->lse[part] = own + values;
    }
    *out = w->out[part];
    *lse = w->lse[part];
    return FB_OK;
}

bool fb_wrong_is_merge(const fb_wrong *w, size_t tensor) {
    const fb_trial_tensor *t = &w->trial->tensors[tensor];
    return t->value && t->internal != FB_NO_PART;
}

void fb_wrong_merge(fb_wrong *w, size_t tensor, const double *out_a, const double *lse_a,
                    const double *out_b, const double *lse_b) {
    const fb_trial_tensor *t = &w->trial->tensors[tensor];
    double *result = w->result[tensor] = w->tensor_memory[tensor];
    size_t dim = w->trial->dim;
    for (size_t row = 0; row < w->trial->rows; row++) {
        double a = lse_a[row] + (t->shift ? t->shift[row] : 0.0), b = lse_b[row];
        double weight = fb_merge_weight(a, b), max = fmax(a, b);
        bool empty = max == -(double)INFINITY;
        if (t->lse) {
            result[row] = empty ? max : max + log1p(exp(fmin(a, b) - max));
            continue;
        }
        for (size_t i = row * dim; i < (row + 1) * dim; i++)
            result[i] = empty ? 0.0 : weight * out_a[i] + (1.0 - weight) * out_b[i];
    }
}

void fb_wrong_finish(fb_wrong *w) {
    for (size_t i = 0; i < w->trial->num_tensors; i++) {
        const fb_trial_tensor *t = &w->trial->tensors[i];
        bool merge = t->internal != FB_NO_PART;
        if (!t->value || (!w->out[t->external] && !(merge && w->out[t->internal])))
            continue;
        if (merge)
            fb_wrong_merge(w, i, fb_wrong_out(w, t->external), fb_wrong_lse(w, t->external),
                           fb_wrong_out(w, t->internal), fb_wrong_lse(w, t->internal));
        else
            w->result[i] = t->lse ? w->lse[t->external] : w->out[t->external];
    }
}

double *fb_wrong_result(fb_wrong *w, size_t tensor) {
    const fb_trial_tensor *t = &w->trial->tensors[tensor];
    double *own = w->tensor_memory[tensor];
    if (w->result[tensor] != own)
        memcpy(own, w->result[tensor] ? w->result[tensor] : t->truth, t->count * sizeof *own);
    w->result[tensor] = own;
    return own;
}
