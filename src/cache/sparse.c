/* A sequence's sparse attention: when the selector is asked, and where the residual comes from. */
#include "base/error.h"
#include "base/memory.h"
#include "base/sized.h"
#include "cache/block.h"

#include <stdint.h>
#include <string.h>

/* One layer's latest selection, and the state of the KV cache that it was made for. */
typedef struct layer_selection {
    fb_selection selection;
    uint64_t epoch; /* 0: none yet */
} layer_selection;

struct fb_sparse {
    fb_selector *selector;
    double density;
    fb_residual residual;
    bool select_every_step;
    size_t num_layers;
    layer_selection *layers;  /* [num_layers] */
    fb_part_cache *residuals; /* NULL unless residual is FB_RESIDUAL_CACHED */
    fb_selection candidate;   /* the selector's latest answer */
    fb_sparse_step step;
    fb_sparse_counts counts;
};

static const char *const residual_names[] = {
    [FB_RESIDUAL_NONE] = "none",
    [FB_RESIDUAL_CACHED] = "cached",
    [FB_RESIDUAL_CENTROIDS] = "centroids",
};

enum { NUM_RESIDUALS = sizeof residual_names / sizeof *residual_names };

const char *fb_residual_name(fb_residual residual) {
    return (unsigned)residual < NUM_RESIDUALS ? residual_names[residual] : "unknown";
}

fb_status fb_residual_parse(const char *name, fb_residual *residual) {
    for (unsigned i = 0; name && i < NUM_RESIDUALS; i++)
        if (strcmp(name, residual_names[i]) == 0) {
            *residual = (fb_residual)i;
            return FB_OK;
        }
    return fb_fail(FB_ERROR_ARGUMENT, "residual is \"%s\", not none, cached or centroids",
                   name ? name : "(null)");
}

/* --- life ------------------------------------------------------------------------------------- */

void fb_sparse_options_init_sized(fb_sparse_options *options, size_t size) {
    fb_sparse_options defaults = {.density = 0.2};
    fb_selector_options_init(&defaults.choosing);
    fb_sized_init(options, size, &defaults, sizeof defaults);
}

static fb_status check_options(const fb_sparse_options *options) {
    if (!options)
        return fb_fail(FB_ERROR_ARGUMENT, "options is NULL");
    FB_TRY(fb_sized_same(options->struct_size, sizeof *options, "options"));
    if (!options->selector)
        return fb_fail(FB_ERROR_ARGUMENT, "options.selector is NULL");
    if (!(options->density >= 0.0 && options->density <= 1.0))
        return fb_fail(FB_ERROR_ARGUMENT, "density is %g, expected 0 to 1", options->density);
    if ((unsigned)options->residual >= NUM_RESIDUALS)
        return fb_fail(FB_ERROR_ARGUMENT, "residual is %d, expected none, cached or centroids",
                       (int)options->residual);
    return FB_OK;
}

static fb_status set_up(fb_sparse *sparse, const fb_sparse_options *options, size_t block_size,
                        size_t num_heads, size_t head_dim) {
    fb_selector_options choosing = options->choosing;
    choosing.num_layers = sparse->num_layers;
    FB_TRY(fb_selector_create(options->selector, &choosing, &sparse->selector));
    if (options->residual == FB_RESIDUAL_CENTROIDS &&
        !fb_selector_can_approximate(sparse->selector))
        return fb_fail(FB_ERROR_ARGUMENT, "residual is centroids, but the selector '%s' keeps none",
                       options->selector);
    FB_TRY(
        fb_alloc_zeroed(sparse->num_layers, sizeof *sparse->layers, "selections", &sparse->layers));
    if (options->residual != FB_RESIDUAL_CACHED)
        return FB_OK;
    return fb_part_cache_create(sparse->num_layers, block_size, num_heads, head_dim,
                                &sparse->residuals);
}

fb_status fb_sparse_create(const fb_sparse_options *options, size_t num_layers, size_t block_size,
                           size_t num_heads, size_t head_dim, fb_sparse **sparse) {
    FB_TRY(check_options(options));
    if (!sparse)
        return fb_fail(FB_ERROR_ARGUMENT, "sparse is NULL");
    fb_sparse *created = NULL;
    FB_TRY(fb_alloc_zeroed(1, sizeof *created, "sparse attention", &created));
    created->density = options->density;
    created->residual = options->residual;
    created->select_every_step = options->select_every_step;
    created->num_layers = num_layers;
    fb_status status = set_up(created, options, block_size, num_heads, head_dim);
    if (status != FB_OK) {
        fb_sparse_destroy(created);
        return status;
    }
    *sparse = created;
    return FB_OK;
}

void fb_sparse_destroy(fb_sparse *sparse) {
    if (!sparse)
        return;
    for (size_t layer = 0; sparse->layers && layer < sparse->num_layers; layer++)
        fb_selection_release(&sparse->layers[layer].selection);
    fb_free(sparse->layers);
    fb_selection_release(&sparse->candidate);
    fb_part_cache_destroy(sparse->residuals);
    fb_selector_destroy(sparse->selector);
    fb_free(sparse);
}

void fb_sparse_reset(fb_sparse *sparse) {
    fb_selector_reset(sparse->selector);
    for (size_t layer = 0; layer < sparse->num_layers; layer++)
        sparse->layers[layer].epoch = 0;
    if (sparse->residuals)
        fb_part_cache_invalidate(sparse->residuals);
}

void fb_sparse_begin(fb_sparse *sparse, const fb_sparse_step *step) {
    sparse->step = *step;
}

const fb_selection *fb_sparse_selection(const fb_sparse *sparse, size_t layer) {
    bool there = layer < sparse->num_layers && sparse->layers[layer].epoch != 0;
    return there ? &sparse->layers[layer].selection : NULL;
}

const fb_sparse_counts *fb_sparse_counts_of(const fb_sparse *sparse) {
    return &sparse->counts;
}

/* --- selecting -------------------------------------------------------------------------------- */

/* One layer of one pass. */
typedef struct layer_call {
    fb_sparse *sparse;
    fb_selector_input input;
    const fb_kv_cache *kv;
    fb_reuse_action action;
} layer_call;

static bool selects_all(const fb_selection *selection) {
    for (size_t list = 0; list < selection->num_lists; list++)
        if (selection->counts[list] < selection->num_blocks)
            return false;
    return true;
}

/* Asks the selector; its answer is the candidate. */
static fb_status ask(layer_call *call) {
    fb_sparse *sparse = call->sparse;
    sparse->counts.selections++;
    FB_TRY(fb_selector_select(sparse->selector, &call->input, &sparse->candidate));
    bool refreshes = sparse->residuals && call->action != FB_REUSE;
    if (!refreshes || !selects_all(&sparse->candidate) ||
        call->input.denoising_step + 1 >= call->input.denoising_steps)
        return FB_OK;
    fb_selector_input next = call->input;
    next.denoising_step++;
    return fb_selector_select(sparse->selector, &next, &sparse->candidate);
}

static bool asks(const layer_call *call) {
    const fb_sparse *sparse = call->sparse;
    return !sparse->residuals || call->action != FB_REUSE || sparse->select_every_step;
}

/* Brings the layer's selection up to date; a change makes a reuse a refresh that is kept. */
static fb_status select_blocks(layer_call *call) {
    fb_sparse *sparse = call->sparse;
    layer_selection *own = &sparse->layers[call->input.layer];
    uint64_t epoch = fb_kv_cache_epoch(call->kv);
    if (!asks(call)) {
        if (own->epoch != epoch)
            return fb_fail(FB_ERROR_STALE,
                           "layer %zu: a reuse, but the last selection belongs to epoch %llu, the "
                           "KV cache is at %llu",
                           call->input.layer, (unsigned long long)own->epoch,
                           (unsigned long long)epoch);
        return FB_OK;
    }
    FB_TRY(ask(call));
    bool changed = own->epoch != epoch || !fb_selection_equal(&own->selection, &sparse->candidate);
    fb_selection selected = sparse->candidate;
    sparse->candidate = own->selection;
    own->selection = selected;
    own->epoch = epoch;
    if (changed && sparse->residuals && call->action == FB_REUSE) {
        call->action = FB_REFRESH_AND_STORE;
        sparse->counts.forced_refreshes++;
    }
    return FB_OK;
}

/* --- attending -------------------------------------------------------------------------------- */

static fb_status approximate(void *user, const fb_part *residual) {
    layer_call *call = user;
    fb_sparse *sparse = call->sparse;
    return fb_selector_approximate(sparse->selector, &call->input,
                                   &sparse->layers[call->input.layer].selection, residual);
}

static void count(const layer_call *call) {
    fb_sparse *sparse = call->sparse;
    const fb_selection *selection = &sparse->layers[call->input.layer].selection;
    double selected = 0.0;
    for (size_t list = 0; list < selection->num_lists; list++)
        selected += (double)fb_selection_tokens(selection, list) / (double)selection->num_lists;
    sparse->counts.layers++;
    sparse->counts.keys += (double)selection->num_keys;
    sparse->counts.keys_selected += selected;
    if (sparse->residuals && call->action != FB_REUSE)
        sparse->counts.keys_residual += (double)selection->num_keys - selected;
}

fb_status fb_block_attend_sparse(const fb_block_call *block, const fb_part *result) {
    fb_sparse *sparse = block->sparse;
    if (block->layer >= sparse->num_layers)
        return fb_fail(FB_ERROR_ARGUMENT, "layer is %zu, expected below %zu", block->layer,
                       sparse->num_layers);
    fb_kv kv;
    FB_TRY(fb_kv_cache_layer(block->kv, block->layer, &kv));
    layer_call call = {
        .sparse = sparse,
        .input = {.layer = block->layer,
                  .queries = block->queries,
                  .kv = &kv,
                  .context_length = fb_kv_cache_length(block->kv),
                  .history = fb_kv_cache_history(block->kv),
                  .prompt_length = sparse->step.prompt_length,
                  .block = sparse->step.block,
                  .denoising_step = sparse->step.denoising_step,
                  .denoising_steps = sparse->step.denoising_steps,
                  .density = sparse->density,
                  .scale = block->scale},
        .kv = block->kv,
        .action = block->action,
    };
    FB_TRY(select_blocks(&call));
    fb_block_call selected = *block;
    selected.sparse = NULL;
    selected.selection = &sparse->layers[block->layer].selection;
    selected.parts = sparse->residuals;
    selected.action = call.action;
    bool centroids = sparse->residual == FB_RESIDUAL_CENTROIDS;
    FB_TRY(fb_block_attend_selected(&selected, centroids ? approximate : NULL, &call, result));
    count(&call);
    return FB_OK;
}
