/* What is done with each field of a model's configuration files. These tables are the list that
 * docs/models.md shows; a test compares the two. */
#ifndef FB_MODEL_CONFIG_FIELDS_H
#define FB_MODEL_CONFIG_FIELDS_H

#include "io/fields.h"

/* config.json of a language model. It may also have the fields of generation_config.json, as
 * versions of transformers before 4.26 wrote them. */
extern const fb_field fb_config_fields[];

/* Fields of config.json that mean something else in one architecture: they go before
 * fb_config_fields. */
extern const fb_field fb_sdar_moe_fields[], fb_llada2_fields[], fb_fast_dllm_fields[];

/* generation_config.json */
extern const fb_field fb_generation_fields[];

/* rope_scaling and rope_parameters, and their objects by type of layer. */
extern const fb_field fb_rope_fields[];

/* The same where the type is one that scales, and the factor is 1: nothing is scaled. */
extern const fb_field fb_unscaled_rope_fields[];

/* config.json of a video model. */
extern const fb_field fb_video_fields[];

#endif
