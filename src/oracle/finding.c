#include "oracle/finding.h"

#include "base/error.h"

#include <math.h>
#include <stdio.h>

const char *fb_finding_printable(const char *text, char *copy, size_t size) {
    snprintf(copy, size, "%s", text);
    for (char *c = copy; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            *c = '?';
    return copy;
}

void fb_finding_write_text(FILE *file, const char *text) {
    char copy[1200];
    fputs(fb_finding_printable(text, copy, sizeof copy), file);
}

void fb_finding_write_worst(FILE *file, const fb_finding *finding) {
    char index[160];
    if (finding->errors.worst >= fb_dims_count(&finding->shape))
        return;
    fb_dims_index(&finding->shape, finding->errors.worst, index, sizeof index);
    fprintf(file, " at [%s]: %.9g, expected %.17g", index, finding->value, finding->truth);
}

static void write_verdict(FILE *file, const fb_finding *f) {
    if (!f->passed && f->errors.worst >= fb_dims_count(&f->shape)) { /* of another size */
        fb_finding_write_text(file, f->note);
        return;
    }
    if (f->decisions && f->passed)
        fprintf(file, "all are equal");
    else if (f->decisions)
        fprintf(file, "%zu of %zu differ, the first", f->differing, fb_dims_count(&f->shape));
    else if (f->rule == FB_BOUND_BITS && !f->of_candidate)
        fprintf(file, "%s", f->passed ? "the same bits" : "other bits");
    else
        fprintf(file, "error %.3g, at most %.3g is allowed", f->errors.max_abs, f->bound);
    if (!f->passed && !f->file_failed) {
        fputs(f->decisions ? "" : ", worst", file);
        fb_finding_write_worst(file, f);
    }
    if (f->note[0]) {
        fprintf(file, ": ");
        fb_finding_write_text(file, f->note);
    }
}

void fb_finding_other_size(fb_finding *finding, size_t count, size_t expected) {
    snprintf(finding->note, sizeof finding->note,
             "the candidate's tensor has %zu elements, expected %zu", count, expected);
    finding->errors.max_abs = finding->errors.max_rel = INFINITY;
    finding->errors.max_ulp = finding->errors.mean_ulp = INFINITY;
    finding->errors.worst = expected; /* none */
    finding->ratio = INFINITY;
}

fb_status fb_finding_say(fb_finding *finding) {
    FILE *file = fmemopen(finding->verdict, sizeof finding->verdict, "w");
    if (!file)
        return fb_fail(FB_ERROR_MEMORY, "there is no memory for a verdict in words");
    write_verdict(file, finding);
    if (fclose(file) != 0)
        return fb_fail(FB_ERROR_MEMORY, "there is no memory for a verdict in words");
    return FB_OK;
}

/* --- accessors -------------------------------------------------------------------------------- */

const char *fb_finding_tensor(const fb_finding *finding) {
    return finding->tensor;
}

size_t fb_finding_ndim(const fb_finding *finding) {
    return finding->shape.ndim;
}

size_t fb_finding_size(const fb_finding *finding, size_t dimension) {
    return dimension < finding->shape.ndim ? finding->shape.sizes[dimension] : 0;
}

bool fb_finding_passed(const fb_finding *finding) {
    return finding->passed;
}

const char *fb_finding_verdict(const fb_finding *finding) {
    return finding->verdict;
}

const char *fb_finding_note(const fb_finding *finding) {
    return finding->note;
}

double fb_finding_error(const fb_finding *finding) {
    return finding->errors.max_abs;
}

double fb_finding_bound(const fb_finding *finding) {
    return finding->bound;
}

double fb_finding_plain_error(const fb_finding *finding) {
    return finding->plain_error;
}

double fb_finding_ratio(const fb_finding *finding) {
    return finding->ratio;
}

size_t fb_finding_worst(const fb_finding *finding) {
    return finding->errors.worst;
}

double fb_finding_value(const fb_finding *finding) {
    return finding->value;
}

double fb_finding_truth(const fb_finding *finding) {
    return finding->truth;
}

fb_dtype fb_finding_precision(const fb_finding *finding) {
    return finding->precision;
}
