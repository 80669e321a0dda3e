/* A case file: inputs and results of one computation. An implementation is checked against it.
 * docs/case-files.md specifies the format: safetensors, with metadata that says the kind, the
 * parameters, the layout of each tensor, and the producer.
 *
 * Files are hostile. A kind therefore asks for each tensor with the shape that its parameters
 * imply, and for each parameter with its range. Everything that a case hands out, and all memory
 * that is taken from it, belongs to the case and is freed with it.
 */
#ifndef FB_ORACLE_CASE_H
#define FB_ORACLE_CASE_H

#include "base/error.h"
#include "io/fields.h"
#include "io/json.h"
#include "io/safetensors.h"
#include "oracle/dims.h"

#include <flashblock/types.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct fb_case fb_case;

fb_status fb_case_open(const char *path, fb_case **opened);
void fb_case_close(fb_case *c); /* NULL is allowed */

/* The path it was opened with; its metadata `kind` and `case` (the file's name without one). */
const char *fb_case_path(const fb_case *c);
const char *fb_case_kind(const fb_case *c);
const char *fb_case_name(const fb_case *c);

const fb_safetensors *fb_case_file(const fb_case *c);

/* A metadata value as text (NULL when there is none), or parsed as JSON. */
const char *fb_case_text(const fb_case *c, const char *key);
fb_status fb_case_json(fb_case *c, const char *key, const fb_json **value);

/* Checks the names in the metadata object `params`, if there is one, by the table: an unknown one
 * is FB_ERROR_FORMAT. From then on only names of the table can be asked for. */
fb_status fb_case_check_params(fb_case *c, const fb_field *table);

/* The same for the names of the tensors. In the table, NN stands for two digits, and N for a whole
 * number. */
fb_status fb_case_check_tensors(fb_case *c, const fb_field *table);

/* Fields of the metadata object `params`: whole numbers within [min, max], numbers, text. The _or
 * form gives `otherwise` where the field is missing or null. */
fb_status fb_case_size(fb_case *c, const char *key, size_t min, size_t max, size_t *value);
fb_status fb_case_size_or(fb_case *c, const char *key, size_t min, size_t max, size_t otherwise,
                          size_t *value);
fb_status fb_case_real(fb_case *c, const char *key, double *value);
fb_status fb_case_real_or(fb_case *c, const char *key, double otherwise, double *value);
/* A number that is used as a float32, which has to be finite and above 0. */
fb_status fb_case_positive(fb_case *c, const char *key, double *value);
fb_status fb_case_bool(fb_case *c, const char *key, bool *value);
fb_status fb_case_bool_or(fb_case *c, const char *key, bool otherwise, bool *value);
fb_status fb_case_string(fb_case *c, const char *key, const char **value);
/* Of any type. The _or_null form gives NULL where the field is missing. */
fb_status fb_case_param(fb_case *c, const char *key, const fb_json **value);
fb_status fb_case_param_or_null(fb_case *c, const char *key, const fb_json **value);
fb_status fb_case_array(fb_case *c, const char *key, const fb_json **value);

/* A parameter that others imply: if it is there, it must be `expected`. */
fb_status fb_case_expect_size(fb_case *c, const char *key, size_t expected);
fb_status fb_case_expect_scale(fb_case *c, const char *key, size_t head_dim); /* 1/sqrt(head_dim) */

#define FB_CASE_PRINTF __attribute__((format(printf, 4, 5)))

/* Whether the case has the tensor (a printf format). */
bool fb_case_has(const fb_case *c, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The tensor's elements in C order, converted exactly (f64 to f32: rounded). FB_ERROR_FORMAT when
 * it is missing or has another shape. */
fb_status fb_case_f32(fb_case *c, const float **values, fb_dims shape, const char *format,
                      ...) FB_CASE_PRINTF;
fb_status fb_case_f64(fb_case *c, const double **values, fb_dims shape, const char *format,
                      ...) FB_CASE_PRINTF;
fb_status fb_case_i32(fb_case *c, const int32_t **values, fb_dims shape, const char *format,
                      ...) FB_CASE_PRINTF;

/* The tensor as the file holds it, its shape checked. */
fb_status fb_case_tensor(fb_case *c, const fb_tensor_view **tensor, fb_dims shape,
                         const char *format, ...) FB_CASE_PRINTF;

/* fb_errors_check_truth of a tensor of this file. */
fb_status fb_case_check_truth(const fb_case *c, const double *stated, const double *truth,
                              size_t count, const char *name);

/* The precision that a tensor is stored in: bf16, f16, or float32 for every other type and for NULL
 * (no tensor). */
fb_dtype fb_tensor_precision(const fb_tensor_view *tensor);
fb_dtype fb_case_precision(const fb_case *c, const char *name);

/* Zeroed memory of `count` elements of `size` bytes. */
fb_status fb_case_alloc(fb_case *c, size_t count, size_t size, void *result);

/* Another case file beside this one (`inputs_file`, say): opened, and closed with this one. `name`
 * is a plain file name. */
fb_status fb_case_open_beside(fb_case *c, const char *name, fb_case **opened);

#endif
