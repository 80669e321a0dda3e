#include "oracle/hashes.h"

#include "base/error.h"
#include "base/memory.h"
#include "base/point.h"
#include "oracle/hash_compute.h"

#include <flashblock/runtime.h>

#include <stdio.h>
#include <string.h>

size_t fb_hash_case_count(void) {
    return fb_num_hash_cases;
}

const char *fb_hash_case_name(size_t index) {
    return index < fb_num_hash_cases ? fb_hash_cases[index].name : NULL;
}

/* The case on the scalar path, on one thread; what was set before is set again. */
static fb_status compute_scalar(size_t index, fb_hash_result *result) {
    fb_isa isa;
    int threads = fb_num_threads();
    FB_TRY(fb_isa_current(&isa));
    FB_TRY(fb_isa_select(FB_ISA_SCALAR));
    fb_status status = fb_set_num_threads(1);
    if (status == FB_OK)
        status = fb_hash_compute(&fb_hash_cases[index], result);
    FB_TRY(fb_set_num_threads(threads));
    FB_TRY(fb_isa_select(isa));
    return status;
}

static fb_status explain(size_t index, const fb_hash_result *found, fb_hash_finding *finding) {
    fb_hash_result scalar;
    FB_TRY(compute_scalar(index, &scalar));
    if (!fb_hash_result_difference(found, &scalar, finding->detail, sizeof finding->detail))
        snprintf(
            finding->detail, sizeof finding->detail, "%s",
            *finding->expected.out
                ? "the scalar path on one thread gives the same bits: the list has other hashes"
                : "the list has no such case");
    fb_hash_result_free(&scalar);
    return FB_OK;
}

static fb_status compare(size_t index, const fb_hash_list *list, fb_hash_finding *finding) {
    fb_hash_result result;
    FB_TRY(fb_hash_compute(&fb_hash_cases[index], &result));
    finding->expected = list->entries[index];
    fb_hash_result_digest(&result, &finding->found);
    finding->out_differs = strcmp(finding->expected.out, finding->found.out) != 0;
    finding->lse_differs = strcmp(finding->expected.lse, finding->found.lse) != 0;
    fb_status status = FB_OK;
    if (!fb_hash_finding_passed(finding))
        status = explain(index, &result, finding);
    fb_hash_result_free(&result);
    return status;
}

static fb_status check_case(size_t index, const fb_hash_list *list, fb_hash_finding **finding) {
    if (index >= fb_num_hash_cases)
        return fb_fail(FB_ERROR_ARGUMENT, "index is %zu, there are %zu golden hashes", index,
                       fb_num_hash_cases);
    fb_hash_finding *made = NULL;
    FB_TRY(fb_alloc_zeroed(1, sizeof *made, "golden hash", &made));
    fb_status status = compare(index, list, made);
    if (status != FB_OK) {
        fb_hash_finding_destroy(made);
        return status;
    }
    *finding = made;
    return FB_OK;
}

fb_status fb_hash_case_check(size_t index, const fb_hash_list *list, fb_hash_finding **finding) {
    fb_point before = fb_point_begin();
    fb_status status = check_case(index, list, finding);
    fb_point_end(before);
    return status;
}

void fb_hash_finding_destroy(fb_hash_finding *finding) {
    fb_free(finding);
}

bool fb_hash_finding_passed(const fb_hash_finding *finding) {
    return !finding->out_differs && !finding->lse_differs;
}

const char *fb_hash_finding_out(const fb_hash_finding *finding) {
    return finding->found.out;
}

const char *fb_hash_finding_lse(const fb_hash_finding *finding) {
    return finding->found.lse;
}

const char *fb_hash_finding_expected_out(const fb_hash_finding *finding) {
    return finding->expected.out;
}

const char *fb_hash_finding_expected_lse(const fb_hash_finding *finding) {
    return finding->expected.lse;
}

const char *fb_hash_finding_detail(const fb_hash_finding *finding) {
    return finding->detail;
}
