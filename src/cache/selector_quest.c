/* Quest: page bounds (Tang et al., "Quest: Query-Aware Sparsity for Efficient Long-Context LLM
 * Inference", ICML 2024, arXiv 2406.10774).
 *
 * For each page of keys the smallest and the largest value of every dimension are kept. With them,
 *
 *     bound(q, page) = scale * sum over d of max(q_d min_d, q_d max_d)
 *
 * is at least q . k for every key k of the page; the pages of the largest bounds are attended to.
 *
 * As in the paper and its code: the bound; bounds are kept and extended as tokens come. A partial
 * last page, to which the query block's tokens will be added, is attended to before all others and
 * counts in the budget: so do the released kernels (github.com/mit-han-lab/Quest, quest/utils),
 * while the code of its evaluation ranks that page too, by a bound over the keys that it has. The
 * fewer these are, the tighter is the bound: on the first demo model a last page of 4 keys, of 16,
 * has 29 % of the softmax mass, and would be among the best 20 % of the pages in 22 % of the cases.
 *
 * Different here:
 *   - a page is a key block (the paper: 16 tokens);
 *   - the paper selects for one query and one head. A query block shares its pages here, and so do
 *     the heads of a KV head, which would load them anyway: a page's score is the largest bound of
 *     any of them;
 *   - the paper leaves the first two layers dense: options.dense_layers, 0 unless it is set.
 *
 * How loose the bound is: on the first demo model (head_dim 64, pages of 16 tokens) it is above the
 * largest score of its page by 10.6 on average, with a standard deviation of 1.1 between pages,
 * where the largest scores differ by 1.7. 20 % of the pages hold 69 % of the softmax mass; by the
 * largest scores themselves it would be 73 %, by mean keys 74 %, by exact mass 77 %. */
#include "base/error.h"
#include "base/memory.h"
#include "cache/selector_family.h"

#include <math.h>

/* bounds: smallest [head_dim], largest [head_dim] */
static double bound_of(const float *q, const double *bounds, size_t head_dim) {
    double sum = 0.0;
    for (size_t d = 0; d < head_dim; d++) {
        double low = (double)q[d] * bounds[d], high = (double)q[d] * bounds[head_dim + d];
        sum += low > high ? low : high;
    }
    return sum;
}

/* The largest bound of any query of the block and any head of the group. */
static double score_page(const fb_selector_input *input, const fb_selector_shape *shape,
                         const double *bounds, size_t kv_head) {
    double best = (double)-INFINITY;
    for (size_t i = 0; i < shape->group; i++)
        for (size_t query = 0; query < shape->num_queries; query++) {
            const float *q = fb_query_of(input->queries, query, kv_head * shape->group + i);
            double bound = shape->scale * bound_of(q, bounds, shape->head_dim);
            best = bound > best ? bound : best;
        }
    return best;
}

static fb_status select_quest(void *state, const fb_selector_input *input,
                              fb_selection *selection) {
    fb_stats_selector *quest = state;
    fb_block_stats *stats = &quest->layers[input->layer];
    fb_selector_shape shape = fb_selector_shape_of(input, quest->options.block_keys);
    FB_TRY(fb_selection_begin(selection, shape.block_keys, shape.num_keys, shape.num_kv_heads));
    FB_TRY(fb_block_stats_update(stats, FB_STATS_BOUNDS, input, &shape));
    double *scores = NULL;
    FB_TRY(fb_alloc(shape.num_blocks, sizeof *scores, "page bounds", &scores));
    size_t budget = fb_selection_budget(shape.num_blocks, input->density);
    fb_status status = FB_OK;
    for (size_t head = 0; status == FB_OK && head < shape.num_kv_heads; head++) {
        for (size_t page = 0; page < shape.num_blocks; page++)
            scores[page] = score_page(input, &shape, fb_block_stats_of(stats, page, head), head);
        if (shape.num_keys % shape.block_keys != 0) /* its bound does not compare with the others */
            scores[shape.num_blocks - 1] = (double)INFINITY;
        status = fb_selection_set_top(selection, head, scores, budget);
    }
    fb_free(scores);
    return status;
}

fb_status fb_make_quest(const fb_selector_options *options, fb_selector_ops *ops, void **state) {
    fb_stats_selector *created = NULL;
    FB_TRY(fb_stats_selector_create(options, &created));
    *ops = (fb_selector_ops){.name = "quest",
                             .select = select_quest,
                             .reset = fb_stats_selector_reset,
                             .destroy = fb_stats_selector_destroy};
    *state = created;
    return FB_OK;
}
