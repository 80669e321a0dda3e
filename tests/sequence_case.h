/* Denoising sequences for tests: making, writing, changing and verifying them. A failure fails the
 * running test. */
#ifndef FB_TESTS_SEQUENCE_CASE_H
#define FB_TESTS_SEQUENCE_CASE_H

#include "oracle/kinds.h"
#include "oracle/script.h"

#include <criterion/criterion.h>

#define OK(call) cr_assert_eq((call), FB_OK, "%s", fb_error_message())

/* Inputs, results and truths. */
fb_script *generated(const fb_script_config *config);

/* Verifies a file or, if candidate_path is not NULL, a candidate for it. */
fb_report *verify(const char *path, const char *candidate_path);

/* Fails unless every finding passed and there are that many; frees the report. */
void expect_passed(const char *what, fb_report *report, size_t findings);

/* A copy of a file in which the bytes of one tensor, or one metadata value, are different. */
typedef struct change {
    const char *tensor;
    void (*edit)(void *data, size_t bytes);
    const char *drop; /* a tensor that is left out */
    const char *key, *value;
} change;

void write_changed(const char *from, const char *to, const change *c);

#endif
