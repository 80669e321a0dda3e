/* A list of the caller's, the same at every step: for experiments, for tests, and for patterns that
 * somebody else has found. */
#include "base/error.h"
#include "base/memory.h"
#include "cache/selector_family.h"

typedef struct given {
    fb_selection *selections; /* [num_selections] */
    size_t num_selections;    /* one for each layer, or one for all */
} given;

static void destroy_given(void *state) {
    given *g = state;
    for (size_t i = 0; g->selections && i < g->num_selections; i++)
        fb_selection_release(&g->selections[i]);
    fb_free(g->selections);
    fb_free(g);
}

static fb_status select_given(void *state, const fb_selector_input *input,
                              fb_selection *selection) {
    const given *g = state;
    const fb_selection *from = &g->selections[g->num_selections == 1 ? 0 : input->layer];
    FB_TRY(fb_selection_begin(selection, from->block_keys, input->context_length, from->num_lists));
    for (size_t list = 0; list < from->num_lists; list++) {
        const size_t *blocks = from->blocks + list * from->num_blocks;
        size_t count = from->counts[list];
        while (count > 0 && blocks[count - 1] >= selection->num_blocks)
            count--;
        FB_TRY(fb_selection_set(selection, list, blocks, count));
    }
    return FB_OK;
}

fb_status fb_make_given(const fb_selector_options *options, fb_selector_ops *ops, void **state) {
    if (!options->given)
        return fb_fail(FB_ERROR_ARGUMENT, "options.given is NULL");
    if (options->num_given != 1 && options->num_given != options->num_layers)
        return fb_fail(FB_ERROR_ARGUMENT, "options.num_given is %zu, expected 1 or num_layers, %zu",
                       options->num_given, options->num_layers);
    for (size_t i = 0; i < options->num_given; i++)
        if (options->given[i].num_lists == 0)
            return fb_fail(FB_ERROR_ARGUMENT, "options.given[%zu] has no lists", i);
    given *g = NULL;
    FB_TRY(fb_alloc_zeroed(1, sizeof *g, "given selections", &g));
    g->num_selections = options->num_given;
    fb_status status = fb_alloc_zeroed(g->num_selections, sizeof *g->selections, "given selections",
                                       &g->selections);
    for (size_t i = 0; status == FB_OK && i < g->num_selections; i++)
        status = fb_selection_copy(&options->given[i], &g->selections[i]);
    if (status != FB_OK) {
        destroy_given(g);
        return status;
    }
    *ops = (fb_selector_ops){.name = "given", .select = select_given, .destroy = destroy_given};
    *state = g;
    return FB_OK;
}
