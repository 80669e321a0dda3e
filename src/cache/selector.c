/* The selector object, which passes calls on, and the selectors that have a name. */
#include "attention/check.h"
#include "base/error.h"
#include "base/memory.h"
#include "base/sized.h"
#include "cache/selector_family.h"

#include <string.h>

struct fb_selector {
    fb_selector_ops ops;
    void *state;
    size_t num_layers; /* 0: not known, a selector of the caller's */
    size_t dense_layers, block_keys;
    fb_selection scratch; /* what ops.select writes; the caller's is exchanged for it */
};

/* --- names ------------------------------------------------------------------------------------ */

typedef struct named_selector {
    const char *name, *summary;
    fb_selector_maker *make;
} named_selector;

static const named_selector named[] = {
    {"sparsed", "mean attention of each head, taken once and kept (SparseD)", fb_make_sparsed},
    {"mage", "exact attention of the block's first step, kept (MAGE)", fb_make_mage},
    {"quest", "upper bounds from each key block's smallest and largest keys (Quest)",
     fb_make_quest},
    {"moba", "mean queries against mean keys, top-k gating (MoBA)", fb_make_moba},
    {"bfla", "softmax mass of mean queries and keys, with sink and latest blocks (BFLA)",
     fb_make_bfla},
    {"ba_att", "softmax mass of mean queries and keys, corrected by variances (BA-Att)",
     fb_make_ba_att},
    {"multipole", "clusters of keys, whose centroids also stand for far keys (Multipole)",
     fb_make_multipole},
    {"sink_window", "the first key blocks and the latest ones (StreamingLLM)", fb_make_sink_window},
    {"given", "a list of the caller's", fb_make_given},
};

enum { NUM_NAMED = sizeof named / sizeof named[0] };

const char *fb_selector_known_name(size_t index) {
    return index < NUM_NAMED ? named[index].name : NULL;
}

const char *fb_selector_known_summary(size_t index) {
    return index < NUM_NAMED ? named[index].summary : NULL;
}

/* --- life ------------------------------------------------------------------------------------- */

fb_status fb_selector_wrap(const fb_selector_ops *ops, void *state, fb_selector **selector) {
    if (!ops || !selector)
        return fb_fail(FB_ERROR_ARGUMENT, "%s is NULL", ops ? "selector" : "ops");
    if (!ops->name || !ops->select)
        return fb_fail(FB_ERROR_ARGUMENT, "ops.%s is NULL", ops->name ? "select" : "name");
    fb_selector *created = NULL;
    FB_TRY(fb_alloc_zeroed(1, sizeof *created, "selector", &created));
    created->ops = *ops;
    created->state = state;
    *selector = created;
    return FB_OK;
}

void fb_selector_options_init_sized(fb_selector_options *options, size_t size) {
    const fb_selector_options defaults = {
        .block_keys = 64,
        .sink_blocks = 1,
        .local_blocks = 1,
        .dense_share = 0.2,
        .mass_threshold = 0.99,
        .cluster_window = 512,
        .cluster_keys = 16,
        .kmeans_iterations = 10,
    };
    fb_sized_init(options, size, &defaults, sizeof defaults);
}

static fb_status check_options(const fb_selector_options *options) {
    if (!options)
        return fb_fail(FB_ERROR_ARGUMENT, "options is NULL");
    FB_TRY(fb_sized_same(options->struct_size, sizeof *options, "options"));
    if (options->block_keys == 0 || options->block_keys % 16 != 0)
        return fb_fail(FB_ERROR_ARGUMENT,
                       "options.block_keys is %zu, expected a multiple of 16, at least 16",
                       options->block_keys);
    if (options->num_layers == 0)
        return fb_fail(FB_ERROR_ARGUMENT, "options.num_layers is 0, expected at least 1");
    if (!(options->dense_share >= 0.0 && options->dense_share <= 1.0))
        return fb_fail(FB_ERROR_ARGUMENT, "options.dense_share is %g, expected 0 to 1",
                       options->dense_share);
    if (options->sparsed_scaling != FB_SPARSED_BY_HEAD_DIM &&
        options->sparsed_scaling != FB_SPARSED_BY_NUM_HEADS)
        return fb_fail(FB_ERROR_ARGUMENT, "options.sparsed_scaling is %d, expected 0 or 1",
                       (int)options->sparsed_scaling);
    if (!(options->mass_threshold > 0.0 && options->mass_threshold <= 1.0))
        return fb_fail(FB_ERROR_ARGUMENT,
                       "options.mass_threshold is %g, expected above 0 and at most 1",
                       options->mass_threshold);
    if (options->cluster_window == 0 || options->cluster_window % 16 != 0)
        return fb_fail(FB_ERROR_ARGUMENT,
                       "options.cluster_window is %zu, expected a multiple of 16, at least 16",
                       options->cluster_window);
    if (options->cluster_keys == 0 || options->kmeans_iterations == 0)
        return fb_fail(FB_ERROR_ARGUMENT, "options.%s is 0, expected at least 1",
                       options->cluster_keys ? "kmeans_iterations" : "cluster_keys");
    return FB_OK;
}

fb_status fb_selector_create(const char *name, const fb_selector_options *options,
                             fb_selector **selector) {
    if (!name || !selector)
        return fb_fail(FB_ERROR_ARGUMENT, "%s is NULL", name ? "selector" : "name");
    FB_TRY(check_options(options));
    for (size_t i = 0; i < NUM_NAMED; i++) {
        if (strcmp(name, named[i].name) != 0)
            continue;
        fb_selector_ops ops;
        void *state = NULL;
        FB_TRY(named[i].make(options, &ops, &state));
        fb_status status = fb_selector_wrap(&ops, state, selector);
        if (status != FB_OK) {
            ops.destroy(state);
            return status;
        }
        (*selector)->num_layers = options->num_layers;
        (*selector)->dense_layers = options->dense_layers;
        (*selector)->block_keys = options->block_keys;
        return FB_OK;
    }
    return fb_fail(FB_ERROR_ARGUMENT, "selector is '%s', which is none of the known ones", name);
}

void fb_selector_destroy(fb_selector *selector) {
    if (!selector)
        return;
    if (selector->ops.destroy)
        selector->ops.destroy(selector->state);
    fb_selection_release(&selector->scratch);
    fb_free(selector);
}

void fb_selector_reset(fb_selector *selector) {
    if (selector->ops.reset)
        selector->ops.reset(selector->state);
}

const char *fb_selector_name(const fb_selector *selector) {
    return selector->ops.name;
}

/* --- selecting -------------------------------------------------------------------------------- */

static fb_status check_input(const fb_selector *selector, const fb_selector_input *input) {
    if (!selector || !input)
        return fb_fail(FB_ERROR_ARGUMENT, "%s is NULL", selector ? "input" : "selector");
    if (selector->num_layers > 0 && input->layer >= selector->num_layers)
        return fb_fail(FB_ERROR_ARGUMENT, "layer is %zu, expected below the selector's %zu",
                       input->layer, selector->num_layers);
    fb_range context = {0, input->context_length};
    fb_view view = {input->kv, &context, 1};
    size_t num_keys = 0;
    FB_TRY(fb_check_view(&view, &num_keys));
    FB_TRY(fb_check_queries(input->queries, &view));
    if (input->queries->num_queries == 0)
        return fb_fail(FB_ERROR_ARGUMENT, "queries.num_queries is 0, expected at least 1");
    if (!(input->density >= 0.0 && input->density <= 1.0))
        return fb_fail(FB_ERROR_ARGUMENT, "density is %g, expected 0 to 1", input->density);
    return FB_OK;
}

/* A selector of the caller's may have set lists by hand. */
static fb_status check_selection(const fb_selection *selection, const fb_selector_input *input,
                                 const char *name) {
    if (selection->num_keys != input->context_length)
        return fb_fail(FB_ERROR_ARGUMENT, "%s: selection of %zu keys for a context of %zu", name,
                       selection->num_keys, input->context_length);
    if (selection->num_lists != input->kv->num_kv_heads &&
        selection->num_lists != input->queries->num_heads)
        return fb_fail(FB_ERROR_ARGUMENT,
                       "%s: selection of %zu lists, expected one for each of %zu KV heads or %zu "
                       "heads",
                       name, selection->num_lists, input->kv->num_kv_heads,
                       input->queries->num_heads);
    for (size_t list = 0; list < selection->num_lists; list++) {
        const size_t *blocks = selection->blocks + list * selection->num_blocks;
        size_t count = selection->counts[list];
        bool sound = count <= selection->num_blocks;
        for (size_t i = 0; sound && i < count; i++)
            sound = blocks[i] < selection->num_blocks && (i == 0 || blocks[i] > blocks[i - 1]);
        if (!sound)
            return fb_fail(FB_ERROR_ARGUMENT,
                           "%s: list %zu is not an ascending list of blocks below %zu", name, list,
                           selection->num_blocks);
    }
    return FB_OK;
}

static fb_status select_all(const fb_selector *selector, const fb_selector_input *input,
                            fb_selection *selection) {
    FB_TRY(fb_selection_begin(selection, selector->block_keys, input->context_length,
                              input->kv->num_kv_heads));
    for (size_t list = 0; list < selection->num_lists; list++)
        FB_TRY(fb_selection_set_all(selection, list));
    return FB_OK;
}

fb_status fb_selector_select(fb_selector *selector, const fb_selector_input *input,
                             fb_selection *selection) {
    FB_TRY(check_input(selector, input));
    if (!selection)
        return fb_fail(FB_ERROR_ARGUMENT, "selection is NULL");
    selector->scratch.num_lists = 0; /* one that is not begun is found out */
    if (input->layer < selector->dense_layers)
        FB_TRY(select_all(selector, input, &selector->scratch));
    else
        FB_TRY(selector->ops.select(selector->state, input, &selector->scratch));
    FB_TRY(check_selection(&selector->scratch, input, selector->ops.name));
    fb_selection selected = selector->scratch;
    selector->scratch = *selection;
    *selection = selected;
    return FB_OK;
}

bool fb_selector_can_approximate(const fb_selector *selector) {
    return selector && selector->ops.approximate;
}

fb_status fb_selector_approximate(fb_selector *selector, const fb_selector_input *input,
                                  const fb_selection *selection, const fb_part *part) {
    FB_TRY(check_input(selector, input));
    if (!selector->ops.approximate)
        return fb_fail(FB_ERROR_UNSUPPORTED, "selector %s keeps nothing to approximate with",
                       selector->ops.name);
    if (!selection)
        return fb_fail(FB_ERROR_ARGUMENT, "selection is NULL");
    FB_TRY(check_selection(selection, input, selector->ops.name));
    FB_TRY(fb_check_part(part, "part", input->queries->num_queries, input->queries->num_heads,
                         input->queries->head_dim));
    return selector->ops.approximate(selector->state, input, selection, part);
}
