/* What config.json says of a mixture of experts. */
#ifndef FB_MODEL_MIXTURE_CONFIG_H
#define FB_MODEL_MIXTURE_CONFIG_H

#include "io/json.h"
#include "model/architectures.h"

/* Reads the fields of a mixture into `config`, whose sizes are known already, and checks them
 * against each other. Nothing to do where the architecture is dense, or num_experts is 0. */
fb_status fb_mixture_config_read(const fb_json *root, const char *where,
                                 const fb_architecture *architecture, fb_model_config *config);

#endif
