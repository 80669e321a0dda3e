/* What a tokenizer's post-processor puts before and after a text. */
#ifndef FB_IO_POST_PROCESSOR_H
#define FB_IO_POST_PROCESSOR_H

#include "io/buffer.h"
#include "io/json.h"

/* Ids, int32_t each. Starts as {0}. */
typedef struct fb_post_processor {
    fb_buffer before, after;
} fb_post_processor;

/* Loads post_processor of a tokenizer.json: TemplateProcessing (its `single`), RobertaProcessing,
 * BertProcessing, ByteLevel (which changes no id), or a Sequence of these. FB_ERROR_UNSUPPORTED for
 * another type, and for a template in which the text does not stand exactly once. Free it after a
 * failure, too. */
fb_status fb_post_processor_load(const fb_json *config, const char *where,
                                 fb_post_processor *processor);
void fb_post_processor_free(fb_post_processor *processor);

#endif
