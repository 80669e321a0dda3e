/* The model that a case was made with. */
#ifndef FB_ORACLE_CASE_MODEL_H
#define FB_ORACLE_CASE_MODEL_H

#include "oracle/case.h"

#include <flashblock/model.h>

/* Loads the Hugging Face directory that the metadata `model` names. The name is relative to the
 * case file's folder, or, if there is nothing, to the folder above it. The caller frees the model
 * with fb_model_destroy. */
fb_status fb_case_load_model(fb_case *c, fb_model **model);

#endif
