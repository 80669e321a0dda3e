/* Multipole Attention (Hooper, Zhao et al., "Multipole Attention for Efficient Long Context
 * Reasoning", NeurIPS 2025, arXiv 2506.13059; code github.com/SqueezeAILab/MultipoleAttention).
 *
 * Keys are clustered by k-means. With the centroids Kc, Vc (means of a cluster's keys and values)
 * and its size N, a query estimates the attention to each key of cluster i as
 *
 *     S_i = exp(s_i) / sum over j of N_j exp(s_j)        s_i = scale * q . Kc_i
 *
 * Near clusters (large S) are attended to exactly, key by key; a far one is approximated by its
 * centroid: N_i exp(s_i) in the sum of exponentials, N_i exp(s_i) Vc_i in the output.
 *
 * From the paper (its abstract, formula 1 as reviews of it quote it) and its code: the above; one
 * cluster for 16 keys; the context is clustered in windows (8192 tokens there), of which only the
 * last changes as tokens come; importance is aggregated over the heads that share keys.
 *
 * Different here:
 *   - clusters are not contiguous, but a selection is of key blocks. A key block's score is the sum
 *     of its keys' S, over the queries of the block and the heads of the KV head: near is a block,
 *     by what the clusters of its keys say. The far part is then, cluster by cluster, that of the
 *     keys in unselected blocks: their own mean and number, which is the cluster's sum less what
 *     its selected keys add to it. Exact and approximate part cover each key once;
 *   - windows of 512 keys, so that the last one can be clustered anew whenever it has grown;
 *   - k-means starts from keys at even distances and has no random numbers; an empty cluster keeps
 *     its centroid for the search and has no part in anything else;
 *   - keys carry their positions already; the paper clusters them before the rotary embedding;
 *   - one level of clusters; the paper's hierarchy of levels is not here. */
#include "base/error.h"
#include "base/memory.h"
#include "base/parallel.h"
#include "cache/selector_family.h"

#include <math.h>
#include <string.h>

/* The clusters of one layer. Cluster c of window w is number w * per_window + c. */
typedef struct layer_clusters {
    uint64_t history;
    size_t num_keys; /* clustered so far */
    size_t num_kv_heads, head_dim;
    size_t capacity;               /* windows */
    double *key_sums, *value_sums; /* [clusters, num_kv_heads, head_dim] */
    size_t *sizes;                 /* [clusters, num_kv_heads] */
    uint32_t *labels;              /* [tokens, num_kv_heads], within the window */
} layer_clusters;

typedef struct multipole {
    fb_selector_options options;
    size_t per_window; /* clusters of a full window */
    layer_clusters *layers;
} multipole;

static size_t divide_up(size_t a, size_t b) {
    return a / b + (a % b != 0);
}

/* Clusters of a context; only the last window may have fewer than per_window. */
static size_t num_clusters(const multipole *m, size_t num_keys) {
    size_t window = m->options.cluster_window;
    return num_keys / window * m->per_window +
           divide_up(num_keys % window, m->options.cluster_keys);
}

/* --- k-means ---------------------------------------------------------------------------------- */

/* One window of one KV head. */
typedef struct window_scratch {
    double *tiles;     /* [window / 16][head_dim][16] keys */
    double *centroids; /* [clusters, head_dim] */
    double *values;    /* [16, head_dim] */
    double *offsets;   /* [clusters]: |centroid|^2 / 2 */
    size_t *sizes;     /* [clusters] */
    uint32_t *labels;  /* [window] */
} window_scratch;

/* Label of each key: the nearest centroid, the lower number if two are. The nearest is where
 * k . c - |c|^2 / 2 is largest. Returns how many labels have changed. */
static size_t assign(const window_scratch *s, size_t keys, size_t clusters, size_t head_dim) {
    size_t changed = 0;
    for (size_t c = 0; c < clusters; c++) {
        const double *centroid = s->centroids + c * head_dim;
        s->offsets[c] = 0.0;
        for (size_t d = 0; d < head_dim; d++)
            s->offsets[c] += 0.5 * centroid[d] * centroid[d];
    }
    for (size_t first = 0; first < keys; first += FB_TILE_LANES) {
        const double *tile = s->tiles + first * head_dim;
        double best[FB_TILE_LANES], dots[FB_TILE_LANES];
        uint32_t nearest[FB_TILE_LANES] = {0};
        for (size_t c = 0; c < clusters; c++) {
            fb_tile_dots(s->centroids + c * head_dim, tile, head_dim, dots);
            for (size_t lane = 0; lane < FB_TILE_LANES; lane++)
                if (c == 0 || dots[lane] - s->offsets[c] > best[lane]) {
                    best[lane] = dots[lane] - s->offsets[c];
                    nearest[lane] = (uint32_t)c;
                }
        }
        for (size_t lane = 0; lane < FB_TILE_LANES && first + lane < keys; lane++) {
            changed += s->labels[first + lane] != nearest[lane];
            s->labels[first + lane] = nearest[lane];
        }
    }
    return changed;
}

static double key_of(const window_scratch *s, size_t key, size_t d, size_t head_dim) {
    size_t tile = key / FB_TILE_LANES, lane = key % FB_TILE_LANES;
    return s->tiles[(tile * head_dim + d) * FB_TILE_LANES + lane];
}

/* Means of the keys of each label, in order of the keys; an empty cluster stays where it is. */
static void move_centroids(const window_scratch *s, size_t keys, size_t clusters, size_t head_dim) {
    memset(s->sizes, 0, clusters * sizeof *s->sizes);
    for (size_t key = 0; key < keys; key++) {
        double *centroid = s->centroids + s->labels[key] * head_dim;
        bool first = s->sizes[s->labels[key]]++ == 0;
        for (size_t d = 0; d < head_dim; d++)
            centroid[d] = (first ? 0.0 : centroid[d]) + key_of(s, key, d, head_dim);
    }
    for (size_t c = 0; c < clusters; c++)
        for (size_t d = 0; s->sizes[c] > 0 && d < head_dim; d++)
            s->centroids[c * head_dim + d] /= (double)s->sizes[c];
}

/* s->labels of the window's keys. */
static void cluster_keys(const window_scratch *s, size_t keys, size_t clusters, size_t head_dim,
                         size_t iterations) {
    for (size_t c = 0; c < clusters; c++)
        for (size_t d = 0; d < head_dim; d++)
            s->centroids[c * head_dim + d] = key_of(s, c * keys / clusters, d, head_dim);
    for (size_t key = 0; key < keys; key++)
        s->labels[key] = UINT32_MAX;
    for (size_t i = 0; i < iterations && assign(s, keys, clusters, head_dim) > 0; i++)
        move_centroids(s, keys, clusters, head_dim);
}

/* --- clusters of a layer ---------------------------------------------------------------------- */

static double *sums_of(double *sums, const layer_clusters *layer, size_t cluster, size_t kv_head) {
    return sums + (cluster * layer->num_kv_heads + kv_head) * layer->head_dim;
}

/* Clusters one window of one KV head and stores labels, sizes and sums. */
static void cluster_window(const multipole *m, layer_clusters *layer,
                           const fb_selector_input *input, size_t window, size_t kv_head,
                           const window_scratch *s) {
    size_t begin = window * m->options.cluster_window, head_dim = layer->head_dim;
    size_t rest = input->context_length - begin;
    size_t keys = rest < m->options.cluster_window ? rest : m->options.cluster_window;
    size_t clusters = divide_up(keys, m->options.cluster_keys);
    for (size_t first = 0; first < keys; first += FB_TILE_LANES)
        fb_read_key_tile(input->kv, kv_head, begin + first,
                         keys - first < FB_TILE_LANES ? keys - first : FB_TILE_LANES,
                         s->tiles + first * head_dim);
    cluster_keys(s, keys, clusters, head_dim, m->options.kmeans_iterations);
    for (size_t c = 0; c < clusters; c++) {
        size_t cluster = window * m->per_window + c;
        memset(sums_of(layer->key_sums, layer, cluster, kv_head), 0, head_dim * sizeof(double));
        memset(sums_of(layer->value_sums, layer, cluster, kv_head), 0, head_dim * sizeof(double));
        layer->sizes[cluster * layer->num_kv_heads + kv_head] = 0;
    }
    for (size_t key = 0; key < keys; key++) {
        size_t cluster = window * m->per_window + s->labels[key];
        double *key_sum = sums_of(layer->key_sums, layer, cluster, kv_head);
        double *value_sum = sums_of(layer->value_sums, layer, cluster, kv_head);
        fb_read_value_rows(input->kv, kv_head, begin + key, 1, s->values);
        for (size_t d = 0; d < head_dim; d++) {
            key_sum[d] += key_of(s, key, d, head_dim);
            value_sum[d] += s->values[d];
        }
        layer->sizes[cluster * layer->num_kv_heads + kv_head]++;
        layer->labels[(begin + key) * layer->num_kv_heads + kv_head] = s->labels[key];
    }
}

static void free_layer(layer_clusters *layer) {
    fb_free(layer->key_sums);
    fb_free(layer->value_sums);
    fb_free(layer->sizes);
    fb_free(layer->labels);
    *layer = (layer_clusters){0};
}

/* `count` elements, the first `kept` of *array among them. */
static fb_status grow(void *array, size_t kept, size_t count, size_t size) {
    void *old = NULL, *grown = NULL;
    memcpy(&old, array, sizeof old);
    FB_TRY(fb_alloc(count, size, "clusters", &grown));
    if (kept > 0)
        memcpy(grown, old, kept * size);
    fb_free(old);
    memcpy(array, &grown, sizeof grown);
    return FB_OK;
}

static fb_status reserve_windows(const multipole *m, layer_clusters *layer, size_t windows) {
    if (windows <= layer->capacity)
        return FB_OK;
    size_t had = layer->capacity, now = windows > 2 * had ? windows : 2 * had;
    size_t heads = layer->num_kv_heads, sums = 0, labels = 0, all = 0;
    if (!fb_size_mul(heads, m->per_window, &sums) || !fb_size_mul(sums, layer->head_dim, &sums) ||
        !fb_size_mul(heads, m->options.cluster_window, &labels) || !fb_size_mul(sums, now, &all) ||
        !fb_size_mul(labels, now, &all))
        return fb_fail(FB_ERROR_MEMORY, "clusters of %zu windows overflow", now);
    size_t sizes = heads * m->per_window;
    FB_TRY(grow(&layer->key_sums, had * sums, now * sums, sizeof *layer->key_sums));
    FB_TRY(grow(&layer->value_sums, had * sums, now * sums, sizeof *layer->value_sums));
    FB_TRY(grow(&layer->sizes, had * sizes, now * sizes, sizeof *layer->sizes));
    FB_TRY(grow(&layer->labels, had * labels, now * labels, sizeof *layer->labels));
    layer->capacity = now;
    return FB_OK;
}

static size_t scratch_bytes(const multipole *m, size_t head_dim) {
    size_t window = m->options.cluster_window;
    return (window * head_dim + m->per_window * (head_dim + 1) + FB_TILE_LANES * head_dim) *
               sizeof(double) +
           m->per_window * sizeof(size_t) + window * sizeof(uint32_t) + FB_ALIGNMENT;
}

static window_scratch window_scratch_at(void *memory, const multipole *m, size_t head_dim) {
    window_scratch s = {.tiles = memory};
    s.centroids = s.tiles + m->options.cluster_window * head_dim;
    s.values = s.centroids + m->per_window * head_dim;
    s.offsets = s.values + FB_TILE_LANES * head_dim;
    s.sizes = (size_t *)(void *)(s.offsets + m->per_window);
    s.labels = (uint32_t *)(void *)(s.sizes + m->per_window);
    return s;
}

typedef struct window_call {
    const multipole *m;
    layer_clusters *layer;
    const fb_selector_input *input;
    size_t begin, end; /* windows */
    char *memory;      /* [heads, bytes] */
    size_t bytes;
} window_call;

static void cluster_kv_heads(void *context, size_t first, size_t end, size_t worker) {
    const window_call *c = context;
    (void)worker;
    for (size_t kv_head = first; kv_head < end; kv_head++) {
        window_scratch s =
            window_scratch_at(c->memory + kv_head * c->bytes, c->m, c->layer->head_dim);
        for (size_t w = c->begin; w < c->end; w++)
            cluster_window(c->m, c->layer, c->input, w, kv_head, &s);
    }
}

/* Makes `layer` that of the input's context: windows that were full stay as they are. */
static fb_status update_clusters(const multipole *m, layer_clusters *layer,
                                 const fb_selector_input *input) {
    size_t heads = input->kv->num_kv_heads, head_dim = input->kv->head_dim;
    if (layer->num_kv_heads != heads || layer->head_dim != head_dim) {
        free_layer(layer);
        layer->num_kv_heads = heads;
        layer->head_dim = head_dim;
    }
    if (input->history == 0 || layer->history != input->history ||
        layer->num_keys > input->context_length)
        layer->num_keys = 0;
    if (layer->num_keys == input->context_length && layer->history == input->history)
        return FB_OK;
    size_t window = m->options.cluster_window, begin = layer->num_keys / window;
    size_t end = divide_up(input->context_length, window), bytes = scratch_bytes(m, head_dim);
    layer->num_keys = 0; /* until all is well */
    FB_TRY(reserve_windows(m, layer, end));
    window_call call = {m, layer, input, begin, end, NULL, bytes};
    FB_TRY(fb_alloc(heads, bytes, "k-means", &call.memory));
    fb_parallel_for(heads, 0, fb_parallel_threads(), cluster_kv_heads, &call);
    fb_free(call.memory);
    layer->num_keys = input->context_length;
    layer->history = input->history;
    return FB_OK;
}

/* --- selecting -------------------------------------------------------------------------------- */

/* Rows of a KV head are the queries of its heads, head by head. Rows first .. as the columns of a
 * tile [head_dim][16]; the other columns are 0. Returns how many there are. */
static size_t pack_rows(const fb_selector_input *input, const fb_selector_shape *shape,
                        size_t kv_head, size_t first, double *tile) {
    size_t rest = shape->group * shape->num_queries - first;
    size_t count = rest < FB_TILE_LANES ? rest : FB_TILE_LANES;
    memset(tile, 0, shape->head_dim * FB_TILE_LANES * sizeof *tile);
    for (size_t lane = 0; lane < count; lane++) {
        size_t row = first + lane, head = kv_head * shape->group + row / shape->num_queries;
        const float *q = fb_query_of(input->queries, row % shape->num_queries, head);
        for (size_t d = 0; d < shape->head_dim; d++)
            tile[d * FB_TILE_LANES + lane] = (double)q[d];
    }
    return count;
}

/* scores[lane] of one cluster, from the sum of its keys; -inf without any. */
static void score_centroid(const double *key_sum, size_t size, const double *tile, size_t head_dim,
                           double scale, double *scores) {
    fb_tile_dots(key_sum, tile, head_dim, scores);
    for (size_t lane = 0; lane < FB_TILE_LANES; lane++)
        scores[lane] = size > 0 ? scale * (scores[lane] / (double)size) : (double)-INFINITY;
}

/* Adds the S of one row to weights [clusters]; its scores are at scores[16 * cluster]. */
static void add_weights(const layer_clusters *layer, size_t kv_head, size_t clusters,
                        double *scores, double *weights) {
    double max = (double)-INFINITY, total = 0.0;
    for (size_t c = 0; c < clusters; c++)
        max = scores[c * FB_TILE_LANES] > max ? scores[c * FB_TILE_LANES] : max;
    for (size_t c = 0; c < clusters; c++) {
        double *score = &scores[c * FB_TILE_LANES];
        *score = *score == (double)-INFINITY ? 0.0 : fb_exp_weight(*score - max);
        total += (double)layer->sizes[c * layer->num_kv_heads + kv_head] * *score;
    }
    for (size_t c = 0; total > 0.0 && c < clusters; c++)
        weights[c] += scores[c * FB_TILE_LANES] / total;
}

/* The cluster that a token of a KV head is in. */
static size_t cluster_of(const multipole *m, const layer_clusters *layer, size_t token,
                         size_t kv_head) {
    return token / m->options.cluster_window * m->per_window +
           layer->labels[token * layer->num_kv_heads + kv_head];
}

/* Work space of selecting for one KV head. One allocation, which `weights` begins. */
typedef struct select_scratch {
    double *weights; /* [clusters] */
    double *scores;  /* [clusters][16] */
    double *blocks;  /* [num_blocks] */
    double *tile;    /* [head_dim][16] queries */
} select_scratch;

static fb_status allocate_select(size_t clusters, const fb_selector_shape *shape,
                                 select_scratch *s) {
    size_t doubles = 0;
    if (!fb_size_mul(clusters, FB_TILE_LANES + 1, &doubles) ||
        !fb_size_add(doubles, shape->num_blocks + shape->head_dim * FB_TILE_LANES, &doubles))
        return fb_fail(FB_ERROR_MEMORY, "scores of %zu clusters overflow", clusters);
    FB_TRY(fb_alloc(doubles, sizeof *s->weights, "cluster scores", &s->weights));
    s->scores = s->weights + clusters;
    s->blocks = s->scores + clusters * FB_TILE_LANES;
    s->tile = s->blocks + shape->num_blocks;
    return FB_OK;
}

static fb_status select_head(const multipole *m, const layer_clusters *layer,
                             const fb_selector_input *input, const fb_selector_shape *shape,
                             size_t kv_head, const select_scratch *s, fb_selection *selection) {
    size_t clusters = num_clusters(m, shape->num_keys), rows = shape->group * shape->num_queries;
    memset(s->weights, 0, clusters * sizeof *s->weights);
    for (size_t row = 0; row < rows; row += FB_TILE_LANES) {
        size_t count = pack_rows(input, shape, kv_head, row, s->tile);
        for (size_t c = 0; c < clusters; c++)
            score_centroid(sums_of(layer->key_sums, layer, c, kv_head),
                           layer->sizes[c * layer->num_kv_heads + kv_head], s->tile,
                           shape->head_dim, shape->scale, s->scores + c * FB_TILE_LANES);
        for (size_t lane = 0; lane < count; lane++)
            add_weights(layer, kv_head, clusters, s->scores + lane, s->weights);
    }
    memset(s->blocks, 0, shape->num_blocks * sizeof *s->blocks);
    for (size_t key = 0; key < shape->num_keys; key++)
        s->blocks[key / shape->block_keys] += s->weights[cluster_of(m, layer, key, kv_head)];
    return fb_selection_set_top(selection, kv_head, s->blocks,
                                fb_selection_budget(shape->num_blocks, input->density));
}

static fb_status select_multipole(void *state, const fb_selector_input *input,
                                  fb_selection *selection) {
    multipole *m = state;
    layer_clusters *layer = &m->layers[input->layer];
    fb_selector_shape shape = fb_selector_shape_of(input, m->options.block_keys);
    FB_TRY(fb_selection_begin(selection, shape.block_keys, shape.num_keys, shape.num_kv_heads));
    FB_TRY(update_clusters(m, layer, input));
    select_scratch scratch;
    FB_TRY(allocate_select(num_clusters(m, shape.num_keys), &shape, &scratch));
    fb_status status = FB_OK;
    for (size_t head = 0; status == FB_OK && head < shape.num_kv_heads; head++)
        status = select_head(m, layer, input, &shape, head, &scratch, selection);
    fb_free(scratch.weights);
    return status;
}

/* --- the far part ----------------------------------------------------------------------------- */

/* The clusters of one KV head without the selected keys. One allocation, which
 * `keys` begins. */
typedef struct far_clusters {
    double *keys, *values; /* [clusters, head_dim]: sums */
    double *scores;        /* [clusters][16] */
    double *tile;          /* [head_dim][16] keys, then queries */
    double *value_rows;    /* [16, head_dim] */
    double *sums;          /* [head_dim] */
    size_t *sizes;         /* [clusters] */
    size_t count;
} far_clusters;

/* Takes the keys of one selected block out of the sums. */
static void take_out(const multipole *m, const layer_clusters *layer,
                     const fb_selector_input *input, size_t kv_head, size_t begin, size_t end,
                     far_clusters *far) {
    size_t head_dim = layer->head_dim;
    for (size_t first = begin; first < end; first += FB_TILE_LANES) {
        size_t count = end - first < FB_TILE_LANES ? end - first : FB_TILE_LANES;
        fb_read_key_tile(input->kv, kv_head, first, count, far->tile);
        fb_read_value_rows(input->kv, kv_head, first, count, far->value_rows);
        for (size_t i = 0; i < count; i++) {
            size_t cluster = cluster_of(m, layer, first + i, kv_head);
            far->sizes[cluster]--;
            for (size_t d = 0; d < head_dim; d++) {
                far->keys[cluster * head_dim + d] -= far->tile[d * FB_TILE_LANES + i];
                far->values[cluster * head_dim + d] -= far->value_rows[i * head_dim + d];
            }
        }
    }
}

static void find_far_clusters(const multipole *m, layer_clusters *layer,
                              const fb_selector_input *input, const fb_selection *selection,
                              size_t kv_head, far_clusters *far) {
    size_t head_dim = layer->head_dim;
    for (size_t c = 0; c < far->count; c++) {
        far->sizes[c] = layer->sizes[c * layer->num_kv_heads + kv_head];
        memcpy(far->keys + c * head_dim, sums_of(layer->key_sums, layer, c, kv_head),
               head_dim * sizeof(double));
        memcpy(far->values + c * head_dim, sums_of(layer->value_sums, layer, c, kv_head),
               head_dim * sizeof(double));
    }
    for (size_t i = 0; i < selection->counts[kv_head]; i++) {
        size_t block = selection->blocks[kv_head * selection->num_blocks + i];
        size_t begin = block * selection->block_keys, end = begin + selection->block_keys;
        take_out(m, layer, input, kv_head, begin,
                 end < selection->num_keys ? end : selection->num_keys, far);
    }
}

/* One row of the part, its scores at scores[16 * cluster]: N exp(s) Vc is exp(s) times the sum of
 * values. out [head_dim] */
static void far_row(const far_clusters *far, const double *scores, size_t head_dim, float *out,
                    float *lse) {
    double max = (double)-INFINITY, total = 0.0;
    for (size_t c = 0; c < far->count; c++)
        max = scores[c * FB_TILE_LANES] <= max ? max : scores[c * FB_TILE_LANES];
    memset(far->sums, 0, head_dim * sizeof *far->sums);
    for (size_t c = 0; c < far->count; c++) {
        if (scores[c * FB_TILE_LANES] == (double)-INFINITY)
            continue;
        double weight = fb_exp_weight(scores[c * FB_TILE_LANES] - max);
        total += (double)far->sizes[c] * weight;
        for (size_t d = 0; d < head_dim; d++)
            far->sums[d] += weight * far->values[c * head_dim + d];
    }
    bool empty = total == 0.0;
    for (size_t d = 0; d < head_dim; d++)
        out[d] = empty ? 0.0f : (float)(far->sums[d] / total);
    *lse = empty ? -INFINITY : (float)(max + log(total));
}

/* All rows of one KV head. */
static void far_part(const far_clusters *far, const fb_selector_input *input,
                     const fb_selector_shape *shape, size_t kv_head, const fb_part *part) {
    for (size_t first = 0; first < shape->group * shape->num_queries; first += FB_TILE_LANES) {
        size_t count = pack_rows(input, shape, kv_head, first, far->tile);
        for (size_t c = 0; c < far->count; c++)
            score_centroid(far->keys + c * shape->head_dim, far->sizes[c], far->tile,
                           shape->head_dim, shape->scale, far->scores + c * FB_TILE_LANES);
        for (size_t lane = 0; lane < count; lane++) {
            size_t row = first + lane;
            ptrdiff_t query = (ptrdiff_t)(row % shape->num_queries);
            ptrdiff_t head = (ptrdiff_t)(kv_head * shape->group + row / shape->num_queries);
            far_row(far, far->scores + lane, shape->head_dim,
                    part->out + query * part->out_token_stride + head * part->out_head_stride,
                    part->lse + query * part->lse_token_stride + head * part->lse_head_stride);
        }
    }
}

static fb_status allocate_far(far_clusters *far, size_t head_dim) {
    size_t doubles = 0;
    if (!fb_size_mul(far->count, 2 * head_dim + FB_TILE_LANES + 1, &doubles) ||
        !fb_size_add(doubles, (2 * FB_TILE_LANES + 1) * head_dim, &doubles))
        return fb_fail(FB_ERROR_MEMORY, "%zu far clusters overflow", far->count);
    FB_TRY(fb_alloc(doubles, sizeof *far->keys, "far clusters", &far->keys));
    far->values = far->keys + far->count * head_dim;
    far->scores = far->values + far->count * head_dim;
    far->tile = far->scores + far->count * FB_TILE_LANES;
    far->value_rows = far->tile + FB_TILE_LANES * head_dim;
    far->sums = far->value_rows + FB_TILE_LANES * head_dim;
    far->sizes = (size_t *)(void *)(far->sums + head_dim); /* no larger than doubles */
    return FB_OK;
}

static fb_status approximate(void *state, const fb_selector_input *input,
                             const fb_selection *selection, const fb_part *part) {
    multipole *m = state;
    layer_clusters *layer = &m->layers[input->layer];
    fb_selector_shape shape = fb_selector_shape_of(input, selection->block_keys);
    if (selection->num_lists != shape.num_kv_heads)
        return fb_fail(FB_ERROR_ARGUMENT, "selection has %zu lists, expected one a KV head, %zu",
                       selection->num_lists, shape.num_kv_heads);
    FB_TRY(update_clusters(m, layer, input));
    far_clusters far = {.count = num_clusters(m, shape.num_keys)};
    FB_TRY(allocate_far(&far, shape.head_dim));
    for (size_t kv_head = 0; kv_head < shape.num_kv_heads; kv_head++) {
        find_far_clusters(m, layer, input, selection, kv_head, &far);
        far_part(&far, input, &shape, kv_head, part);
    }
    fb_free(far.keys);
    return FB_OK;
}

/* --- making it -------------------------------------------------------------------------------- */

static void reset_multipole(void *state) {
    multipole *m = state;
    for (size_t layer = 0; layer < m->options.num_layers; layer++)
        m->layers[layer].num_keys = 0;
}

static void destroy_multipole(void *state) {
    multipole *m = state;
    for (size_t layer = 0; layer < m->options.num_layers; layer++)
        free_layer(&m->layers[layer]);
    fb_free(m->layers);
    fb_free(m);
}

fb_status fb_make_multipole(const fb_selector_options *options, fb_selector_ops *ops,
                            void **state) {
    if (options->cluster_window > UINT32_MAX)
        return fb_fail(FB_ERROR_ARGUMENT, "options.cluster_window is %zu, expected below 2^32",
                       options->cluster_window);
    multipole *m = NULL;
    FB_TRY(fb_alloc_zeroed(1, sizeof *m, "selector", &m));
    m->options = *options;
    m->per_window = divide_up(options->cluster_window, options->cluster_keys);
    fb_status status =
        fb_alloc_zeroed(options->num_layers, sizeof *m->layers, "clusters of layers", &m->layers);
    if (status != FB_OK) {
        fb_free(m);
        return status;
    }
    *ops = (fb_selector_ops){.name = "multipole",
                             .select = select_multipole,
                             .approximate = approximate,
                             .reset = reset_multipole,
                             .destroy = destroy_multipole};
    *state = m;
    return FB_OK;
}
