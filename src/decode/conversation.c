#include "decode/conversation.h"

#include "base/error.h"
#include "base/memory.h"

#include <string.h>

struct fb_conversation {
    fb_model *model;
    fb_kv_cache *kv;
    int32_t *tokens; /* [num_tokens] that the cache was written with; it may hold fewer, or some
                        more that are behind the last completion's end */
    size_t num_tokens;
    size_t block_size; /* that it was written with */
    fb_decoding_loop loop;
};

fb_status fb_conversation_create(fb_model *model, fb_dtype kv_dtype,
                                 fb_conversation **conversation) {
    fb_conversation *created;
    FB_TRY(fb_alloc_zeroed(1, sizeof *created, "conversation", &created));
    created->model = model;
    fb_status status = fb_model_new_kv_cache(model, kv_dtype, &created->kv);
    if (status != FB_OK) {
        fb_free(created);
        return status;
    }
    *conversation = created;
    return FB_OK;
}

void fb_conversation_destroy(fb_conversation *conversation) {
    if (conversation == NULL)
        return;
    fb_kv_cache_destroy(conversation->kv);
    fb_free(conversation->tokens);
    fb_free(conversation);
}

size_t fb_conversation_bytes(const fb_conversation *conversation) {
    return fb_kv_cache_bytes(conversation->kv);
}

fb_status fb_conversation_forget(fb_conversation *conversation) {
    conversation->num_tokens = 0;
    return fb_kv_cache_truncate(conversation->kv, 0);
}

/* --- what is kept ----------------------------------------------------------------------------- */

/* bd3lm's blocks begin where the prompt's length says. */
static bool can_keep(const fb_generate_options *options) {
    return options->loop != FB_LOOP_BD3LM && options->compat == FB_COMPAT_PAPER;
}

static bool fits(const fb_conversation *conversation, const fb_generate_options *options) {
    return can_keep(options) && options->loop == conversation->loop &&
           options->block_size == conversation->block_size;
}

/* fast-dllm-v2 takes the next token from the last block of a prompt of whole blocks. */
static size_t most_kept(const fb_prompt *prompt, const fb_generate_options *options) {
    size_t count = prompt->num_tokens;
    return options->loop == FB_LOOP_FAST_DLLM_V2 && count > 0 ? count - 1 : count;
}

size_t fb_conversation_kept(const fb_conversation *conversation, const fb_prompt *prompt,
                            const fb_generate_options *options) {
    if (!fits(conversation, options))
        return 0;
    size_t most = most_kept(prompt, options), length = fb_kv_cache_length(conversation->kv);
    most = most < length ? most : length;
    most = most < conversation->num_tokens ? most : conversation->num_tokens;
    size_t common = 0;
    while (common < most && conversation->tokens[common] == prompt->tokens[common])
        common++;
    return common - common % options->block_size;
}

/* --- generation ------------------------------------------------------------------------------- */

fb_status fb_conversation_begin(fb_conversation *conversation, const fb_prompt *prompt,
                                const fb_generate_options *options, size_t *kept,
                                fb_kv_cache **kv) {
    *kept = fb_conversation_kept(conversation, prompt, options);
    conversation->num_tokens = 0;
    FB_TRY(fb_kv_cache_truncate(conversation->kv, *kept));
    *kv = can_keep(options) ? conversation->kv : NULL;
    return FB_OK;
}

fb_status fb_conversation_end(fb_conversation *conversation, const fb_prompt *prompt,
                              const fb_generate_options *options, const int32_t *completion,
                              size_t num_completion) {
    size_t count = prompt->num_tokens + num_completion;
    int32_t *tokens;
    FB_TRY(fb_alloc(count, sizeof *tokens, "conversation", &tokens));
    if (prompt->num_tokens > 0)
        memcpy(tokens, prompt->tokens, prompt->num_tokens * sizeof *tokens);
    if (num_completion > 0)
        memcpy(tokens + prompt->num_tokens, completion, num_completion * sizeof *tokens);
    fb_free(conversation->tokens);
    conversation->tokens = tokens;
    conversation->num_tokens = count;
    conversation->block_size = options->block_size;
    conversation->loop = options->loop;
    return FB_OK;
}

static fb_status generate(fb_conversation *conversation, const fb_prompt *prompt,
                          const fb_generate_options *options, size_t *kept,
                          fb_generation **generation) {
    fb_generate_options with = *options;
    fb_kv_cache *kv = NULL;
    FB_TRY(fb_conversation_begin(conversation, prompt, options, kept, &kv));
    if (kv != NULL)
        with.kv_caches = &kv;
    FB_TRY(fb_generate(conversation->model, prompt, 1, &with, generation));
    const fb_generate_result *result = fb_generation_result(*generation, 0);
    return fb_conversation_end(conversation, prompt, options, result->tokens, result->num_tokens);
}

fb_status fb_conversation_generate(fb_conversation *conversation, const fb_prompt *prompt,
                                   const fb_generate_options *options, size_t *kept,
                                   fb_generation **generation) {
    fb_generation *made = NULL;
    fb_status status = generate(conversation, prompt, options, kept, &made);
    if (status == FB_OK)
        *generation = made;
    else
        fb_generation_destroy(made);
    return status;
}
