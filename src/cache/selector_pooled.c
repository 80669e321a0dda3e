/* Selectors that compare pooled queries with pooled keys: MoBA, BFLA and BA-Att. Sums of each key
 * block's keys are kept and extended as tokens come; the block's queries are averaged at each call.
 * Softmaxes are over the key blocks of the external context.
 *
 * MoBA (Lu et al., "MoBA: Mixture of Block Attention for Long-Context LLMs", arXiv 2502.13189). The
 * affinity of a query to a key block is q . mean(keys of the block); the k blocks of the largest
 * affinities are attended to, and the query's own block always.
 *
 * Different here:
 *   - the paper gates each query token by itself. A query block shares its list: the affinity is
 *     the mean over its queries, which is that of the mean query;
 *   - the own block needs no place in the list, as it is attended in any case;
 *   - the paper's models are trained with the gate.
 *
 * BFLA (Wu et al., "BFLA: Block-Filtered Long-Context Attention Mechanism", arXiv 2605.12193; code
 * github.com/Alicewithrabbit/BFLA). Pooled queries score pooled keys, a softmax over the key blocks
 * gives each its mass, and a head keeps the fewest blocks whose mass reaches the threshold; what
 * any head of a KV head keeps is kept. Sink and local blocks are kept in any case ("rescue").
 *
 * From the code:
 *   - threshold 0.99 (0.90 and 0.95 are named too); coarse blocks of 256 tokens; the first block is
 *     kept, and a band of local ones (8 attention tiles);
 *   - pooling by "mean", or by "flat64", which it recommends: the i-th query times the i-th key of
 *     groups of 64 tokens. Of a query block of 4 tokens that sees 4 keys in 64, so that the mean is
 *     used here.
 *
 * Different here:
 *   - a partial block is the mean over the keys that it has (code: padded with zeros);
 *   - no more blocks than the budget are kept: sinks, then the latest, then those of the largest
 *     mass in any head that keeps them;
 *   - one local block by default: contexts of a few blocks would be all sink and window else.
 *
 * BA-Att (Zhang et al., "Efficient Long-Context Modeling in Diffusion Language Models via Block
 * Approximate Sparse Attention", CVPR 2026 Findings, arXiv 2605.19726). The importance of blocks is
 * computed after averaging queries and keys over blocks, and what averaging loses is put back by
 * "a covariance-compensated correction that approximates full covariance using diagonal QK
 * variances". Norm sorting moves tokens between blocks, so that a block's norms are alike.
 *
 * That is from its abstract; formulas and threshold were not available. Here:
 *   - with the mean m and the variance v of each dimension, over the queries (q) and the block's
 *     keys (k),
 *
 *         score = scale sum m_q m_k + scale^2 / 2 sum (v_q m_k^2 + m_q^2 v_k + v_q v_k)
 *
 *     which is ln mean exp(scale q . k) over the pairs to the second cumulant, were dimensions
 *     independent;
 *   - a softmax over the key blocks, each weighed by the keys that it has, gives each its mass; a
 *     head keeps the fewest that reach the threshold (BFLA's 0.99), and no more than the budget;
 *   - no norm sorting: a selection is of blocks of consecutive tokens. */
#include "base/error.h"
#include "base/memory.h"
#include "cache/selector_family.h"

#include <math.h>
#include <string.h>

/* Work space of a call. One allocation, which `mean` begins. */
typedef struct pooled_scratch {
    double *mean, *variance; /* of a head's queries, [head_dim] each */
    double *scores;          /* [group, num_blocks] */
    double *best;            /* [num_blocks] */
    size_t *order;           /* [num_blocks] */
} pooled_scratch;

static fb_status begin(fb_stats_selector *pooled, const fb_selector_input *input,
                       const fb_selector_shape *shape, pooled_scratch *s) {
    FB_TRY(fb_block_stats_update(&pooled->layers[input->layer], FB_STATS_MOMENTS, input, shape));
    size_t doubles = 0;
    if (!fb_size_mul(shape->group + 2, shape->num_blocks, &doubles) ||
        !fb_size_add(doubles, 2 * shape->head_dim, &doubles))
        return fb_fail(FB_ERROR_MEMORY, "scores of %zu heads and %zu key blocks overflow",
                       shape->num_heads, shape->num_blocks);
    _Static_assert(sizeof(size_t) <= sizeof(double), "order fits where doubles do");
    FB_TRY(fb_alloc(doubles, sizeof *s->mean, "block scores", &s->mean));
    s->variance = s->mean + shape->head_dim;
    s->scores = s->variance + shape->head_dim;
    s->best = s->scores + shape->group * shape->num_blocks;
    s->order = (size_t *)(void *)(s->best + shape->num_blocks);
    return FB_OK;
}

static void pool_queries(const fb_selector_input *input, size_t head, const pooled_scratch *s) {
    const fb_queries *queries = input->queries;
    fb_mean_query(input, head, s->mean);
    memset(s->variance, 0, queries->head_dim * sizeof *s->variance);
    for (size_t query = 0; query < queries->num_queries; query++) {
        const float *q = fb_query_of(queries, query, head);
        for (size_t d = 0; d < queries->head_dim; d++)
            s->variance[d] += ((double)q[d] - s->mean[d]) * ((double)q[d] - s->mean[d]);
    }
    for (size_t d = 0; d < queries->head_dim; d++)
        s->variance[d] /= (double)queries->num_queries;
}

/* scale * mean query . mean key;  moments: sums of keys, of squares, [head_dim] each */
static double mean_score(const fb_selector_shape *shape, const pooled_scratch *s,
                         const double *moments, size_t keys) {
    double sum = 0.0;
    for (size_t d = 0; d < shape->head_dim; d++)
        sum += s->mean[d] * (moments[d] / (double)keys);
    return shape->scale * sum;
}

/* Half the variance of scale * q . k over the block's pairs. */
static double compensation(const fb_selector_shape *shape, const pooled_scratch *s,
                           const double *moments, size_t keys) {
    double sum = 0.0;
    for (size_t d = 0; d < shape->head_dim; d++) {
        double mean = moments[d] / (double)keys;
        double variance = moments[shape->head_dim + d] / (double)keys - mean * mean;
        variance = variance > 0.0 ? variance : 0.0; /* rounding */
        sum += s->variance[d] * mean * mean + s->mean[d] * s->mean[d] * variance +
               s->variance[d] * variance;
    }
    return 0.5 * shape->scale * shape->scale * sum;
}

/* --- MoBA ------------------------------------------------------------------------------------- */

static fb_status select_moba(void *state, const fb_selector_input *input, fb_selection *selection) {
    fb_stats_selector *moba = state;
    fb_selector_shape shape = fb_selector_shape_of(input, moba->options.block_keys);
    FB_TRY(fb_selection_begin(selection, shape.block_keys, shape.num_keys, shape.num_heads));
    pooled_scratch s;
    FB_TRY(begin(moba, input, &shape, &s));
    size_t budget = fb_selection_budget(shape.num_blocks, input->density);
    fb_status status = FB_OK;
    for (size_t head = 0; status == FB_OK && head < shape.num_heads; head++) {
        pool_queries(input, head, &s);
        for (size_t block = 0; block < shape.num_blocks; block++)
            s.scores[block] = mean_score(
                &shape, &s,
                fb_block_stats_of(&moba->layers[input->layer], block, head / shape.group),
                fb_block_size_of(&shape, block));
        status = fb_selection_set_top(selection, head, s.scores, budget);
    }
    fb_free(s.mean);
    return status;
}

/* --- mass thresholds -------------------------------------------------------------------------- */

/* The fewest blocks, by falling mass, that reach the threshold: order [num_blocks] in that order.
 * Returns their number. */
static size_t reach_mass(const double *masses, size_t num_blocks, double threshold, size_t *order) {
    fb_order_blocks(masses, num_blocks, order, num_blocks);
    if (threshold >= 1.0)
        return num_blocks;
    double sum = 0.0;
    for (size_t i = 0; i < num_blocks; i++) {
        sum += masses[order[i]];
        if (sum >= threshold)
            return i + 1;
    }
    return num_blocks;
}

/* --- BFLA ------------------------------------------------------------------------------------- */

/* best [num_blocks]: the block's largest mass in a head that keeps it; -inf where none does. */
static void keep_by_any_head(const fb_stats_selector *bfla, const fb_selector_input *input,
                             const fb_selector_shape *shape, size_t kv_head,
                             const pooled_scratch *s) {
    for (size_t block = 0; block < shape->num_blocks; block++)
        s->best[block] = (double)-INFINITY;
    for (size_t i = 0; i < shape->group; i++) {
        pool_queries(input, kv_head * shape->group + i, s);
        for (size_t block = 0; block < shape->num_blocks; block++)
            s->scores[block] =
                mean_score(shape, s, fb_block_stats_of(&bfla->layers[input->layer], block, kv_head),
                           fb_block_size_of(shape, block));
        fb_softmax_double(s->scores, shape->num_blocks);
        size_t kept =
            reach_mass(s->scores, shape->num_blocks, bfla->options.mass_threshold, s->order);
        for (size_t rank = 0; rank < kept; rank++) {
            size_t block = s->order[rank];
            if (!(s->best[block] >= s->scores[block]))
                s->best[block] = s->scores[block];
        }
    }
}

/* Masses are at most 1: sinks and the latest blocks get more, so that they come first. */
static size_t rescue(const fb_selector_options *options, const fb_selector_shape *shape,
                     double *best) {
    size_t kept = 0;
    for (size_t block = 0; block < shape->num_blocks; block++) {
        if (block < options->sink_blocks)
            best[block] = 3.0;
        else if (shape->num_blocks - block <= options->local_blocks) /* the latest of them first */
            best[block] = 1.0 + (double)(block + 1) / (double)shape->num_blocks;
        kept += best[block] != (double)-INFINITY;
    }
    return kept;
}

static fb_status select_bfla(void *state, const fb_selector_input *input, fb_selection *selection) {
    fb_stats_selector *bfla = state;
    fb_selector_shape shape = fb_selector_shape_of(input, bfla->options.block_keys);
    FB_TRY(fb_selection_begin(selection, shape.block_keys, shape.num_keys, shape.num_kv_heads));
    pooled_scratch s;
    FB_TRY(begin(bfla, input, &shape, &s));
    size_t budget = fb_selection_budget(shape.num_blocks, input->density);
    fb_status status = FB_OK;
    for (size_t head = 0; status == FB_OK && head < shape.num_kv_heads; head++) {
        keep_by_any_head(bfla, input, &shape, head, &s);
        size_t kept = rescue(&bfla->options, &shape, s.best);
        status = fb_selection_set_top(selection, head, s.best, kept < budget ? kept : budget);
    }
    fb_free(s.mean);
    return status;
}

/* --- BA-Att ----------------------------------------------------------------------------------- */

/* The last block's mass counts by the share of its keys that are there. */
static void weigh_partial_block(const fb_selector_shape *shape, double *masses) {
    if (shape->num_keys % shape->block_keys == 0)
        return;
    size_t last = shape->num_blocks - 1;
    double sum = 0.0;
    masses[last] *= (double)(shape->num_keys % shape->block_keys) / (double)shape->block_keys;
    for (size_t block = 0; block < shape->num_blocks; block++)
        sum += masses[block];
    for (size_t block = 0; block < shape->num_blocks; block++)
        masses[block] /= sum;
}

static fb_status select_ba_att(void *state, const fb_selector_input *input,
                               fb_selection *selection) {
    fb_stats_selector *ba_att = state;
    fb_selector_shape shape = fb_selector_shape_of(input, ba_att->options.block_keys);
    FB_TRY(fb_selection_begin(selection, shape.block_keys, shape.num_keys, shape.num_heads));
    pooled_scratch s;
    FB_TRY(begin(ba_att, input, &shape, &s));
    size_t budget = fb_selection_budget(shape.num_blocks, input->density);
    fb_status status = FB_OK;
    for (size_t head = 0; status == FB_OK && head < shape.num_heads; head++) {
        pool_queries(input, head, &s);
        for (size_t block = 0; block < shape.num_blocks; block++) {
            const double *moments =
                fb_block_stats_of(&ba_att->layers[input->layer], block, head / shape.group);
            size_t keys = fb_block_size_of(&shape, block);
            s.scores[block] =
                mean_score(&shape, &s, moments, keys) + compensation(&shape, &s, moments, keys);
        }
        fb_softmax_double(s.scores, shape.num_blocks);
        weigh_partial_block(&shape, s.scores);
        size_t kept =
            reach_mass(s.scores, shape.num_blocks, ba_att->options.mass_threshold, s.order);
        status = fb_selection_set_top(selection, head, s.scores, kept < budget ? kept : budget);
    }
    fb_free(s.mean);
    return status;
}

/* --- making them ------------------------------------------------------------------------------ */

static fb_status make(const char *name, const fb_selector_options *options,
                      fb_status (*select)(void *, const fb_selector_input *, fb_selection *),
                      fb_selector_ops *ops, void **state) {
    fb_stats_selector *created = NULL;
    FB_TRY(fb_stats_selector_create(options, &created));
    *ops = (fb_selector_ops){.name = name,
                             .select = select,
                             .reset = fb_stats_selector_reset,
                             .destroy = fb_stats_selector_destroy};
    *state = created;
    return FB_OK;
}

fb_status fb_make_moba(const fb_selector_options *options, fb_selector_ops *ops, void **state) {
    return make("moba", options, select_moba, ops, state);
}

fb_status fb_make_bfla(const fb_selector_options *options, fb_selector_ops *ops, void **state) {
    return make("bfla", options, select_bfla, ops, state);
}

fb_status fb_make_ba_att(const fb_selector_options *options, fb_selector_ops *ops, void **state) {
    return make("ba_att", options, select_ba_att, ops, state);
}
