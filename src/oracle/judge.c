#include "oracle/judge.h"

#include "base/error.h"
#include "base/memory.h"
#include "oracle/plain.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* A result that is judged, and how far it may be from the truth. */
typedef struct judgement {
    const fb_claim *claim;
    size_t count;
    const float *values;
    double *scratch; /* [count] */
    double allowed, error;
    double largest; /* of the truth */
} judgement;

/* The error of a plain implementation in this precision. */
static fb_status plain_error(const fb_claim *claim, fb_dtype precision, size_t count,
                             double *error) {
    float *plain = NULL;
    FB_TRY(fb_alloc(count, sizeof *plain, "plain result", &plain));
    fb_status status = FB_OK;
    if (claim->plain) {
        status = claim->plain(claim->context, precision, plain);
    } else {
        memcpy(plain, claim->ours, count * sizeof *plain);
        fb_plain_round(precision, plain, count);
    }
    if (status == FB_OK)
        *error = fb_errors_measure(plain, claim->truth, count).max_abs;
    fb_free(plain);
    return status;
}

/* Whether the values are the results of a mistake, `wrong`. They must be as near to them as an
 * implementation of that mistake is (its numbers may be larger than the right ones), and much
 * nearer than to the truth. *error is the distance, by which explanations are compared. */
static bool agrees(const judgement *j, const float *values, const double *wrong, double *error) {
    double larger = j->largest > 0.0 ? fb_largest_finite(wrong, j->count) / j->largest : 1.0;
    *error = fb_errors_measure(values, wrong, j->count).max_abs;
    return *error <= 16.0 * j->allowed * fmax(larger, 1.0) && *error <= j->error / 3.0;
}

/* Whether the claim says which of its axes are tokens and heads. */
static bool has_layout(const fb_claim *claim) {
    size_t a = claim->token_axis, b = claim->head_axis;
    return a + 1 == b || b + 1 == a;
}

/* Swaps the axes of tokens and heads back. */
static void transpose(const fb_claim *claim, const float *from, float *to) {
    const size_t *sizes = claim->shape.sizes;
    size_t first = claim->token_axis < claim->head_axis ? claim->token_axis : claim->head_axis;
    size_t rows = sizes[first], columns = sizes[first + 1], inner = 1;
    for (size_t i = first + 2; i < claim->shape.ndim; i++)
        inner *= sizes[i];
    size_t plane = rows * columns * inner, count = fb_dims_count(&claim->shape);
    for (size_t at = 0; at < count; at += plane)
        for (size_t r = 0; r < rows; r++)
            for (size_t c = 0; c < columns; c++)
                memcpy(to + at + (r * columns + c) * inner, from + at + (c * rows + r) * inner,
                       inner * sizeof *to);
}

static const double log2_of_e = 1.4426950408889634;

/* Tries a wrong layout, for an LSE also base 2, and both together. */
static fb_status explain_layout(const judgement *j, char *note, size_t size, bool *found) {
    float *turned = NULL;
    double error;
    bool lse = j->claim->is_lse;
    const char *words = j->claim->head_axis > j->claim->token_axis
                            ? "[heads, rows] where [rows, heads] is expected"
                            : "[rows, heads] where [heads, rows] is expected";
    FB_TRY(fb_alloc(j->count, sizeof *turned, "transposed result", &turned));
    for (size_t i = 0; i < j->count; i++)
        j->scratch[i] = j->claim->truth[i] * log2_of_e;
    *found = true;
    if (has_layout(j->claim))
        transpose(j->claim, j->values, turned);
    if (lse && agrees(j, j->values, j->scratch, &error))
        snprintf(note, size,
                 "the LSE is in base 2 (log2 of the sum of exponentials): multiply by ln 2 = "
                 "0.693147 before any merge in base e");
    else if (has_layout(j->claim) && agrees(j, turned, j->claim->truth, &error))
        snprintf(note, size, "the %s is transposed: it is %s", lse ? "LSE" : "output", words);
    else if (lse && has_layout(j->claim) && agrees(j, turned, j->scratch, &error))
        snprintf(note, size,
                 "the LSE is in base 2 (log2 of the sum of exponentials), and transposed: it is %s",
                 words);
    else
        *found = false;
    fb_free(turned);
    return FB_OK;
}

/* An LSE whose infinities are in the wrong place: that says more than any error. */
static bool explain_infinities(const judgement *j, char *note, size_t size) {
    size_t plus = 0, lost = 0, gained = 0;
    for (size_t i = 0; i < j->count; i++) {
        bool empty = j->claim->truth[i] == -INFINITY;
        plus += empty && j->values[i] == INFINITY;
        lost += empty && isfinite(j->values[i]);
        gained += !empty && j->values[i] == -INFINITY;
    }
    if (plus)
        snprintf(note, size,
                 "%zu empty rows have an LSE of +inf: the empty part is O = 0, L = -inf", plus);
    else if (lost && gained)
        snprintf(note, size,
                 "-inf is in the wrong slot: %zu rows that see no key have a finite LSE, %zu that "
                 "see keys have -inf",
                 lost, gained);
    else if (lost)
        snprintf(note, size, "%zu rows that see no key have a finite LSE: it should be -inf", lost);
    else if (gained)
        snprintf(note, size,
                 "-inf is in the wrong slot: %zu rows that see keys have an LSE of -inf", gained);
    return plus || lost || gained;
}

static bool explain_nan(const judgement *j, char *note, size_t size) {
    const fb_claim *claim = j->claim;
    size_t nan = 0, lost = 0;
    for (size_t i = 0; i < j->count; i++) {
        nan += isnan(j->values[i]) && !isnan(claim->truth[i]);
        lost += !isnan(j->values[i]) && isnan(claim->truth[i]);
    }
    if (nan > 0 && claim->say_nan)
        claim->say_nan(claim->context, j->values, claim->truth, note, size);
    else if (nan > 0)
        snprintf(note, size, "%zu values are NaN; no known mistake explains the others", nan);
    else if (lost > 0)
        snprintf(note, size, "%zu values should be NaN: NaN of the inputs is lost", lost);
    return nan > 0 || lost > 0;
}

/* The known mistake that the values are nearest to. If several are, the first of them. */
static fb_status explain_mistakes(const judgement *j, char *note, size_t size, bool *found) {
    const fb_claim *claim = j->claim;
    double nearest = INFINITY;
    for (size_t i = 0; i < claim->num_mistakes; i++) {
        double error;
        fb_status status = claim->mistakes[i].compute(claim->context, j->scratch, j->count);
        if (status == FB_ERROR_UNSUPPORTED)
            continue;
        FB_TRY(status);
        if (agrees(j, j->values, j->scratch, &error) && error < nearest) {
            snprintf(note, size, "%s", claim->mistakes[i].words);
            nearest = error;
            *found = true;
        }
    }
    return FB_OK;
}

/* A claim that names mistakes itself. */
static fb_status explain_by_name(const judgement *j, fb_finding *finding) {
    size_t size = sizeof finding->note;
    finding->note[0] = '\0';
    snprintf(finding->tensor, sizeof finding->tensor, "%s", j->claim->tensor);
    finding->shape = j->claim->shape;
    FB_TRY(j->claim->name(j->claim->context, j->values, finding, finding->note, size));
    if (!finding->note[0])
        snprintf(finding->note, size, "no known mistake explains the difference");
    return FB_OK;
}

static fb_status explain(const judgement *j, char *note, size_t size) {
    bool found = false;
    if (j->claim->is_lse || has_layout(j->claim))
        FB_TRY(explain_layout(j, note, size, &found));
    if (!found && j->claim->is_lse)
        found = explain_infinities(j, note, size);
    if (!found)
        FB_TRY(explain_mistakes(j, note, size, &found));
    if (!found && !explain_nan(j, note, size))
        snprintf(note, size, "no known mistake explains the difference");
    return FB_OK;
}

/* A right LSE: its base and layout in words. */
static void confirm_lse(const fb_claim *claim, char *note, size_t size) {
    snprintf(note, size, "base e%s",
             !has_layout(claim)                     ? ""
             : claim->head_axis > claim->token_axis ? ", [rows, heads]"
                                                    : ", [heads, rows]");
}

/* Twice the error of the plain implementation; if there is none, eight times this build's. Nobody
 * is asked for more than the spacing of the precision at the largest value. The plain error is one
 * draw among many, so in float32 two such spacings are added. */
static double allowed_error(const judgement *j, const fb_finding *finding) {
    const fb_claim *claim = j->claim;
    double spacing = 2.0 * fb_plain_roundoff(finding->precision) * j->largest;
    double bound = (claim->plain ? 2.0 : 8.0) * finding->plain_error;
    if (!isfinite(bound))
        bound = 0.0;
    if (finding->precision == FB_F32)
        bound += 2.0 * spacing;
    bound = fmax(fmax(bound, spacing), claim->score_effect);
    return claim->rule == FB_BOUND_ABSOLUTE ? fmax(bound, claim->tolerance) : bound;
}

static fb_status judge(judgement *j, fb_finding *finding) {
    const fb_claim *claim = j->claim;
    FB_TRY(plain_error(claim, finding->precision, j->count, &finding->plain_error));
    finding->errors = fb_errors_measure(j->values, claim->truth, j->count);
    j->largest = fb_largest_finite(claim->truth, j->count);
    j->error = finding->errors.max_abs;
    j->allowed = finding->bound = allowed_error(j, finding);
    finding->ratio = finding->plain_error > 0.0 ? j->error / finding->plain_error
                     : j->error > 0.0           ? (double)INFINITY
                                                : 0.0;
    finding->passed = j->error <= j->allowed;
    if (finding->errors.worst < j->count)
        finding->value = (double)j->values[finding->errors.worst];
    if (!finding->passed)
        return claim->name ? explain_by_name(j, finding)
                           : explain(j, finding->note, sizeof finding->note);
    if (claim->is_lse)
        confirm_lse(claim, finding->note, sizeof finding->note);
    return FB_OK;
}

fb_status fb_judge_values(const fb_claim *claim, const float *values, fb_finding *finding) {
    judgement j = {.claim = claim, .count = fb_dims_count(&claim->shape), .values = values};
    FB_TRY(fb_alloc(j.count, sizeof *j.scratch, "judgement", &j.scratch));
    fb_status status = judge(&j, finding);
    fb_free(j.scratch);
    return status;
}

fb_status fb_judge_tensor(const fb_claim *claim, const fb_tensor_view *tensor,
                          fb_finding *finding) {
    size_t count = fb_dims_count(&claim->shape);
    if (tensor->count != count) {
        fb_finding_other_size(finding, tensor->count, count);
        return FB_OK;
    }
    float *values = NULL;
    FB_TRY(fb_alloc(count, sizeof *values, "candidate", &values));
    fb_status status = fb_tensor_read_f32(tensor, 0, count, values);
    if (status == FB_OK)
        status = fb_judge_values(claim, values, finding);
    fb_free(values);
    return status;
}
