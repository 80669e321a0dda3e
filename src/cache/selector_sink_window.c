/* Attention sinks and a window, as StreamingLLM keeps them (Xiao et al., "Efficient Streaming
 * Language Models with Attention Sinks", arXiv 2309.17453): the first tokens of the sequence, which
 * softmax leans on, and the latest ones. The paper keeps 4 sink tokens and a window counted in
 * tokens; here both are counted in key blocks, and the budget fixes the window. No scores, no
 * state: every head gets the same list. */
#include "base/error.h"
#include "base/memory.h"
#include "cache/selector_family.h"

static fb_status select_sink_window(void *state, const fb_selector_input *input,
                                    fb_selection *selection) {
    const fb_selector_options *options = state;
    FB_TRY(fb_selection_begin(selection, options->block_keys, input->context_length,
                              input->kv->num_kv_heads));
    size_t num_blocks = selection->num_blocks;
    size_t budget = fb_selection_budget(num_blocks, input->density);
    size_t sinks = options->sink_blocks < budget ? options->sink_blocks : budget;
    for (size_t list = 0; list < selection->num_lists; list++) {
        size_t *blocks = selection->blocks + list * num_blocks;
        for (size_t i = 0; i < budget; i++)
            blocks[i] = i < sinks ? i : num_blocks - budget + i;
        selection->counts[list] = budget;
    }
    return FB_OK;
}

fb_status fb_make_sink_window(const fb_selector_options *options, fb_selector_ops *ops,
                              void **state) {
    fb_selector_options *kept = NULL;
    FB_TRY(fb_alloc(1, sizeof *kept, "sink_window", &kept));
    *kept = *options;
    *ops =
        (fb_selector_ops){.name = "sink_window", .select = select_sink_window, .destroy = fb_free};
    *state = kept;
    return FB_OK;
}
