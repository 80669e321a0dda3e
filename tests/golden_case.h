/* One golden file: a .safetensors file under golden/paper. It holds the tensors of a case, and its
 * metadata says how they were made. Anything missing or malformed fails the running test.
 *
 *   golden_case *c = golden_open("rope/rmsnorm_0_d64.safetensors");
 *   const float *x = golden_f32(c, "x");                           [S, D]
 *   size_t rows = golden_size(c, "S");                             of its `params`
 *   golden_close(c); */
#ifndef FB_TESTS_GOLDEN_CASE_H
#define FB_TESTS_GOLDEN_CASE_H

#include "io/json.h"
#include "io/safetensors.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct golden_case golden_case;

/* The folder of the golden files: golden/paper, or another that FLASHBLOCK_GOLDEN_PAPER names. */
const char *golden_folder(void);

/* `name` is relative to that folder. */
golden_case *golden_open(const char *name);
void golden_close(golden_case *c);

/* The name that golden_open got, for messages. */
const char *golden_name(const golden_case *c);

/* The path of `name` under the root of the source tree. The next call overwrites it. */
const char *golden_source_path(const char *name);

/* Tensor names below are printf formats, because names like "step0.tokens" are often composed. */
#define GOLDEN_PRINTF __attribute__((format(printf, 2, 3)))

bool golden_has(const golden_case *c, const char *format, ...) GOLDEN_PRINTF;

/* The tensor as the file describes it. */
const fb_tensor_view *golden_tensor(const golden_case *c, const char *format, ...) GOLDEN_PRINTF;

/* All elements in C order, converted as fb_tensor_read_* convert; they belong to the case. */
const float *golden_f32(golden_case *c, const char *format, ...) GOLDEN_PRINTF;
const double *golden_f64(golden_case *c, const char *format, ...) GOLDEN_PRINTF;
const int32_t *golden_i32(golden_case *c, const char *format, ...) GOLDEN_PRINTF;

/* The metadata value `key`: text, or parsed as JSON (then it belongs to the case). */
const char *golden_text(const golden_case *c, const char *key);
const fb_json *golden_json(golden_case *c, const char *key);

/* Fields of the metadata object `params`. */
const fb_json *golden_param(golden_case *c, const char *key);
size_t golden_size(golden_case *c, const char *key);
double golden_real(golden_case *c, const char *key);

/* Fails the test unless |got - want| <= tolerance for all `count` values; the message names `what`
 * and the first bad element. NaN is never close. Returns the largest difference. */
double golden_expect_close(const char *what, const float *got, const float *want, size_t count,
                           double tolerance);

#endif
