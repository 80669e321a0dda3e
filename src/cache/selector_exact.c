/* Selectors that look once, exactly, and keep what they saw: SparseD and MAGE. Both rank a key
 * block by the softmax probability that the queries give to its keys (fb_block_masses). The
 * softmax is over the external context: the query block's own keys are attended in any case and
 * have no part in the choice. What is kept belongs to one query block, context, history and
 * density. Where one of them has changed, or where nothing is kept at a later step, the set is
 * taken anew from the current queries.
 *
 * SparseD (Wang et al., "SparseD: Sparse Attention for Diffusion Language Models", ICLR 2026,
 * arXiv 2509.24014; code github.com/INV-WZQ/SparseD). The attention patterns of a head differ from
 * those of other heads and stay much the same over the steps. The first share of the steps is
 * dense, the last of these takes each head's pattern, the other steps keep it. A pattern is the top
 * share of key blocks by mean attention over block x block tiles.
 *
 * From the code:
 *   - skip 0.2; select 0.3 (block size 128, long prompts) or 0.5 (32, short ones);
 *   - key blocks that begin at or after the prompt's end are chosen in a pass of their own, whose
 *     softmax is over the keys from the first of them on;
 *   - tiles are padded with zeros, so that a partial block ranks by its mass, not by the mean over
 *     the keys that it has;
 *   - scores are scaled by 1/sqrt(num_heads), where the paper writes 1/sqrt(head_dim):
 *     FB_SPARSED_BY_NUM_HEADS.
 *
 * Different here:
 *   - the code's sequence has a fixed length, and its steps are those of the generation. Here a
 *     query block sees only the tokens before it, so that its steps are counted, and its pattern is
 *     taken, anew for each query block;
 *   - dense steps: dense_share x steps, rounded to nearest, at least 1 (code: the integer part of
 *     the share of as many steps as tokens are generated, plus 2);
 *   - each of the two passes chooses fb_selection_budget of its own blocks, the one of generated
 *     tokens at least 1 at any density but 0, since the few latest tokens would be lost otherwise.
 *     The code chooses one more than the integer part of the share in both passes; its first one
 *     ranks the blocks of generated tokens too before it throws them away, so that fewer of the
 *     prompt's are left.
 *
 * MAGE (Kwon et al., "MAGE: All-[MASK] Block Already Knows Where to Look in Block Diffusion LLM",
 * arXiv 2602.14209). The attention of a query block at its first step, when all its tokens are
 * masks, shows where it will look at its other steps: one exact pass, and its top-k set is shared
 * by the block's tokens and kept. So far the abstracts of its two versions; the first gives each
 * layer a budget of its own (here: the density, which may differ from layer to layer), the second
 * evaluates a common k of 512 tokens.
 *
 * Different here:
 *   - the set is of key blocks, ranked by the sum of their tokens' probabilities over the queries
 *     of the block and the heads of a KV head; the paper ranks tokens;
 *   - the first step gets the new set already. The paper attends exactly there, having all scores:
 *     a caller who wants that refreshes at step 0. */
#include "base/error.h"
#include "base/memory.h"
#include "cache/selector_family.h"

#include <math.h>

static fb_status allocate_masses(const fb_selector_shape *shape, double **masses) {
    size_t count = 0;
    if (!fb_size_mul(shape->num_heads, shape->num_blocks, &count))
        return fb_fail(FB_ERROR_MEMORY, "scores of %zu heads and %zu key blocks overflow",
                       shape->num_heads, shape->num_blocks);
    return fb_alloc(count, sizeof **masses, "attention masses", masses);
}

/* --- SparseD ---------------------------------------------------------------------------------- */

/* Key blocks below this number belong to the prompt. */
static size_t first_generated_block(const fb_selector_input *input,
                                    const fb_selector_shape *shape) {
    size_t block =
        input->prompt_length / shape->block_keys + (input->prompt_length % shape->block_keys != 0);
    return block < shape->num_blocks ? block : shape->num_blocks;
}

/* Prompt and generated blocks, each by a budget of its own. order [num_blocks] is scratch. */
static fb_status set_pattern(fb_selection *selection, size_t head, const double *masses,
                             size_t first_generated, double density, size_t *order) {
    size_t num_generated = selection->num_blocks - first_generated;
    size_t prompt = fb_selection_budget(first_generated, density);
    size_t generated = fb_selection_budget(num_generated, density);
    if (generated == 0 && num_generated > 0 && density > 0.0)
        generated = 1;
    fb_order_blocks(masses, first_generated, order, prompt);
    fb_order_blocks(masses + first_generated, num_generated, order + prompt, generated);
    for (size_t i = prompt; i < prompt + generated; i++)
        order[i] += first_generated;
    fb_sort_blocks(order, prompt + generated);
    return fb_selection_set(selection, head, order, prompt + generated);
}

static fb_status take_pattern(const fb_keeping_selector *sparsed, const fb_selector_input *input,
                              const fb_selector_shape *shape, fb_selection *selection) {
    double scale = sparsed->options.sparsed_scaling == FB_SPARSED_BY_NUM_HEADS
                       ? 1.0 / sqrt((double)shape->num_heads)
                       : shape->scale;
    size_t generated = first_generated_block(input, shape);
    double *masses = NULL;
    size_t *order = NULL;
    FB_TRY(allocate_masses(shape, &masses));
    fb_status status = fb_alloc(shape->num_blocks, sizeof *order, "pattern", &order);
    if (status == FB_OK)
        status = fb_block_masses(input, shape, 0, scale, masses);
    if (status == FB_OK && generated > 0) /* generated tokens' blocks again, among themselves */
        status = fb_block_masses(input, shape, generated, scale, masses);
    for (size_t head = 0; status == FB_OK && head < shape->num_heads; head++)
        status = set_pattern(selection, head, masses + head * shape->num_blocks, generated,
                             input->density, order);
    fb_free(order);
    fb_free(masses);
    return status;
}

static size_t dense_steps(const fb_keeping_selector *sparsed, const fb_selector_input *input) {
    size_t steps = fb_selection_budget(input->denoising_steps, sparsed->options.dense_share);
    return steps > 0 ? steps : 1;
}

static fb_status select_sparsed(void *state, const fb_selector_input *input,
                                fb_selection *selection) {
    fb_keeping_selector *sparsed = state;
    fb_kept_selection *kept = &sparsed->layers[input->layer];
    fb_selector_shape shape = fb_selector_shape_of(input, sparsed->options.block_keys);
    FB_TRY(fb_selection_begin(selection, shape.block_keys, shape.num_keys, shape.num_heads));
    size_t dense = dense_steps(sparsed, input);
    bool take = input->denoising_step + 1 == dense;
    if (!take && input->denoising_step >= dense)
        take = !fb_kept_is_of(kept, input, shape.num_heads);
    if (take) {
        FB_TRY(take_pattern(sparsed, input, &shape, selection));
        FB_TRY(fb_keep_selection(kept, input, selection));
    }
    if (input->denoising_step >= dense)
        return fb_selection_copy(&kept->selection, selection);
    for (size_t head = 0; head < shape.num_heads; head++)
        FB_TRY(fb_selection_set_all(selection, head));
    return FB_OK;
}

/* --- MAGE ------------------------------------------------------------------------------------- */

static fb_status take_top_set(const fb_selector_input *input, const fb_selector_shape *shape,
                              fb_selection *selection) {
    double *masses = NULL;
    FB_TRY(allocate_masses(shape, &masses));
    fb_status status = fb_block_masses(input, shape, 0, shape->scale, masses);
    size_t budget = fb_selection_budget(shape->num_blocks, input->density);
    for (size_t head = 0; status == FB_OK && head < shape->num_kv_heads; head++) {
        double *sums = masses + head * shape->group * shape->num_blocks;
        for (size_t i = 1; i < shape->group; i++)
            for (size_t block = 0; block < shape->num_blocks; block++)
                sums[block] += sums[i * shape->num_blocks + block];
        status = fb_selection_set_top(selection, head, sums, budget);
    }
    fb_free(masses);
    return status;
}

static fb_status select_mage(void *state, const fb_selector_input *input, fb_selection *selection) {
    fb_keeping_selector *mage = state;
    fb_kept_selection *kept = &mage->layers[input->layer];
    fb_selector_shape shape = fb_selector_shape_of(input, mage->options.block_keys);
    if (input->denoising_step > 0 && fb_kept_is_of(kept, input, shape.num_kv_heads))
        return fb_selection_copy(&kept->selection, selection);
    FB_TRY(fb_selection_begin(selection, shape.block_keys, shape.num_keys, shape.num_kv_heads));
    FB_TRY(take_top_set(input, &shape, selection));
    return fb_keep_selection(kept, input, selection);
}

/* --- making them ------------------------------------------------------------------------------ */

static fb_status make(const char *name, const fb_selector_options *options,
                      fb_status (*select)(void *, const fb_selector_input *, fb_selection *),
                      fb_selector_ops *ops, void **state) {
    fb_keeping_selector *created = NULL;
    FB_TRY(fb_keeping_selector_create(options, &created));
    *ops = (fb_selector_ops){.name = name,
                             .select = select,
                             .reset = fb_keeping_selector_reset,
                             .destroy = fb_keeping_selector_destroy};
    *state = created;
    return FB_OK;
}

fb_status fb_make_sparsed(const fb_selector_options *options, fb_selector_ops *ops, void **state) {
    return make("sparsed", options, select_sparsed, ops, state);
}

fb_status fb_make_mage(const fb_selector_options *options, fb_selector_ops *ops, void **state) {
    return make("mage", options, select_mage, ops, state);
}
