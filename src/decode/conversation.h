/* Keys and values that are kept from one generation to the next, for prompts that begin alike: the
 * turns of a conversation. Only tokens behind the common beginning are prefilled.
 *
 * Whole blocks are kept, as the blocks of a prompt are. A block of a completion is kept as its
 * commit pass left it. With the defaults of reuse these are the bits that a prefill of the same
 * tokens gives, so that a text does not depend on what was kept. They are not with reuse_at_commit,
 * with rows unless refresh_commit, and with sparse attention, where a commit is an approximation.
 */
#ifndef FB_DECODE_CONVERSATION_H
#define FB_DECODE_CONVERSATION_H

#include <flashblock/generate.h>
#include <flashblock/kv_cache.h>
#include <flashblock/model.h>
#include <flashblock/status.h>

#include <stddef.h>
#include <stdint.h>

typedef struct fb_conversation fb_conversation;

/* Nothing is kept yet. The model must outlive it. */
fb_status fb_conversation_create(fb_model *model, fb_dtype kv_dtype,
                                 fb_conversation **conversation);

/* NULL is allowed. */
void fb_conversation_destroy(fb_conversation *conversation);

/* Prompt tokens that a generation with these resolved options (fb_generate_options_resolve) would
 * not have to prefill. */
size_t fb_conversation_kept(const fb_conversation *conversation, const fb_prompt *prompt,
                            const fb_generate_options *options);

/* fb_generate for one prompt, with resolved options whose kv_dtype is the conversation's and whose
 * kv_caches is not set. *kept is fb_conversation_kept, also where it fails. Afterwards the prompt
 * and its completion are kept, also of a generation that was cancelled; nothing is where it
 * failed. */
fb_status fb_conversation_generate(fb_conversation *conversation, const fb_prompt *prompt,
                                   const fb_generate_options *options, size_t *kept,
                                   fb_generation **generation);

/* The same around a sequence of a batch (batch.h): before it joins, *kv is the cache that it goes
 * on with, NULL where the loop can keep nothing; after it has left, what it wrote is kept. Nothing
 * is kept in between, and if the second call is left out. The cache is the conversation's. */
fb_status fb_conversation_begin(fb_conversation *conversation, const fb_prompt *prompt,
                                const fb_generate_options *options, size_t *kept, fb_kv_cache **kv);
fb_status fb_conversation_end(fb_conversation *conversation, const fb_prompt *prompt,
                              const fb_generate_options *options, const int32_t *completion,
                              size_t num_completion);

/* Forgets everything. */
fb_status fb_conversation_forget(fb_conversation *conversation);

/* Bytes of keys and values. */
size_t fb_conversation_bytes(const fb_conversation *conversation);

#endif
