/* The options of fb_generate for a model: zeros replaced, ranges checked. */
#ifndef FB_DECODE_GENERATE_OPTIONS_H
#define FB_DECODE_GENERATE_OPTIONS_H

#include "decode/sampler.h"
#include "decode/schedule.h"

#include <flashblock/generate.h>
#include <flashblock/model.h>

#include <stddef.h>

/* Replaces zeros (and -1, and NULL) by what they stand for and checks everything. Options that are
 * resolved stay as they are. Stop tokens of the model are borrowed from `config`. On error the
 * options are half replaced. */
fb_status fb_generate_options_resolve(const fb_model_config *config, fb_generate_options *options);

/* Checks the prompts. *checked are copies of their descriptions, cut where the engine cuts them.
 * The caller frees *checked; the tokens stay borrowed. */
fb_status fb_generate_prompts(const fb_model_config *config, const fb_generate_options *options,
                              const fb_prompt *prompts, size_t num_prompts, fb_prompt **checked);

/* Checks options->kv_caches for prompts that fb_generate_prompts accepted. */
fb_status fb_generate_kv_caches(const fb_model_config *config, const fb_generate_options *options,
                                const fb_prompt *prompts, size_t num_prompts);

/* The parts of resolved options that schedule.h and sampler.h take. */
fb_schedule fb_generate_schedule(const fb_model_config *config, const fb_generate_options *options);
fb_sampler fb_generate_sampler(const fb_generate_options *options);

#endif
