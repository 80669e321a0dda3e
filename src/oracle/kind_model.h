/* The model that a case was made with. */
#ifndef FB_ORACLE_KIND_MODEL_H
#define FB_ORACLE_KIND_MODEL_H

#include "oracle/case.h"

#include <flashblock/model.h>

/* Loads the directory that the metadata `model` names, relative to the file's folder or to the one
 * above it. The caller's, fb_model_destroy. */
fb_status fb_case_load_model(fb_case *c, fb_model **model);

#endif
