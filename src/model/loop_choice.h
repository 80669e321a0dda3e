/* Which of two loops decodes a model whose configuration does not say. */
#ifndef FB_MODEL_LOOP_CHOICE_H
#define FB_MODEL_LOOP_CHOICE_H

#include "io/json.h"
#include "io/warnings.h"

#include <flashblock/model.h>

/* LLaDA2.0 and LLaDA2.1 have the same config.json. The Python file of their class, which auto_map
 * names and which is in the same directory, has the loop: that of 2.1 knows editing_threshold. A
 * directory without that file is taken for 2.0, and a warning says so. */
fb_status fb_loop_choose_llada2(const char *directory, const fb_json *config,
                                fb_decoding_loop *loop, fb_warnings *warnings);

#endif
