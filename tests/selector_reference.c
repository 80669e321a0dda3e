#include "tests/selector_reference.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static double *doubles(size_t count) {
    double *values = calloc(count ? count : 1, sizeof *values);
    cr_assert_not_null(values);
    return values;
}

static double q_at(const selector_case *c, size_t query, size_t head, size_t d) {
    return (double)c->q[(query * c->num_heads + head) * c->head_dim + d];
}

static double k_at(const selector_case *c, size_t key, size_t head, size_t d) {
    size_t kv_head = head / (c->num_heads / c->num_kv_heads);
    return (double)c->k[(key * c->num_kv_heads + kv_head) * c->head_dim + d];
}

static double v_at(const selector_case *c, size_t key, size_t head, size_t d) {
    size_t kv_head = head / (c->num_heads / c->num_kv_heads);
    return (double)c->v[(key * c->num_kv_heads + kv_head) * c->head_dim + d];
}

size_t reference_num_blocks(const selector_case *c, const fb_selector_options *options) {
    return (c->num_keys + options->block_keys - 1) / options->block_keys;
}

static size_t block_begin(const fb_selector_options *options, size_t block) {
    return block * options->block_keys;
}

static size_t block_end(const selector_case *c, const fb_selector_options *options, size_t block) {
    size_t end = (block + 1) * options->block_keys;
    return end < c->num_keys ? end : c->num_keys;
}

static size_t budget_of(size_t num_blocks, double density) {
    return (size_t)floor(density * (double)num_blocks + 0.5);
}

/* Marks the `count` largest of scores[0 .. num), one after the other. */
static void mark_largest(const double *scores, size_t num, size_t count, unsigned char *chosen) {
    memset(chosen, 0, num);
    for (size_t i = 0; i < count; i++) {
        size_t best = num;
        for (size_t block = 0; block < num; block++)
            if (!chosen[block] && (best == num || scores[block] > scores[best]))
                best = block;
        chosen[best] = 1;
    }
}

/* --- exact attention -------------------------------------------------------------------------- */

/* Adds, block by block, the softmax over keys first .. num_keys - 1 of one query. */
static void add_attention(const selector_case *c, const fb_selector_options *options, size_t query,
                          size_t head, size_t first, double scale, double *masses) {
    double *p = doubles(c->num_keys), max = (double)-INFINITY, sum = 0.0;
    for (size_t key = first; key < c->num_keys; key++) {
        for (size_t d = 0; d < c->head_dim; d++)
            p[key] += q_at(c, query, head, d) * k_at(c, key, head, d);
        p[key] *= scale;
        max = fmax(max, p[key]);
    }
    for (size_t key = first; key < c->num_keys; key++)
        sum += p[key] = exp(p[key] - max);
    for (size_t key = first; key < c->num_keys; key++)
        masses[key / options->block_keys] += p[key] / sum;
    free(p);
}

static size_t mage(const selector_case *c, const fb_selector_options *options,
                   unsigned char *chosen) {
    size_t blocks = reference_num_blocks(c, options), group = c->num_heads / c->num_kv_heads;
    for (size_t kv_head = 0; kv_head < c->num_kv_heads; kv_head++) {
        double *masses = doubles(blocks);
        for (size_t head = kv_head * group; head < (kv_head + 1) * group; head++)
            for (size_t query = 0; query < c->num_queries; query++)
                add_attention(c, options, query, head, 0, c->scale, masses);
        mark_largest(masses, blocks, budget_of(blocks, c->density), chosen + kv_head * blocks);
        free(masses);
    }
    return c->num_kv_heads;
}

/* Mean attention of block x block tiles, padded with zeros. Generated tokens are kept separate. */
static size_t sparsed(const selector_case *c, const fb_selector_options *options,
                      unsigned char *chosen) {
    size_t blocks = reference_num_blocks(c, options), prompt = 0;
    while (prompt < blocks && block_begin(options, prompt) < c->prompt_length)
        prompt++;
    double scale = options->sparsed_scaling == FB_SPARSED_BY_NUM_HEADS
                       ? 1.0 / sqrt((double)c->num_heads)
                       : c->scale;
    for (size_t head = 0; head < c->num_heads; head++) {
        double *whole = doubles(blocks), *generated = doubles(blocks);
        for (size_t query = 0; query < c->num_queries; query++) {
            add_attention(c, options, query, head, 0, scale, whole);
            if (prompt < blocks)
                add_attention(c, options, query, head, block_begin(options, prompt), scale,
                              generated);
        }
        double tile = (double)(options->block_keys * c->num_queries);
        for (size_t block = 0; block < blocks; block++)
            whole[block] /= tile, generated[block] /= tile;
        unsigned char *to = chosen + head * blocks;
        mark_largest(whole, prompt, budget_of(prompt, c->density), to);
        size_t latest = budget_of(blocks - prompt, c->density);
        if (prompt < blocks && c->density > 0.0 && latest == 0)
            latest = 1;
        mark_largest(generated + prompt, blocks - prompt, latest, to + prompt);
        free(whole), free(generated);
    }
    return c->num_heads;
}

/* --- bounds and pools ------------------------------------------------------------------------- */

static double page_bound(const selector_case *c, const fb_selector_options *options, size_t query,
                         size_t head, size_t block) {
    double bound = 0.0;
    for (size_t d = 0; d < c->head_dim; d++) {
        double low = (double)INFINITY, high = (double)-INFINITY, q = q_at(c, query, head, d);
        for (size_t key = block_begin(options, block); key < block_end(c, options, block); key++) {
            double k = k_at(c, key, head, d);
            low = k < low ? k : low;
            high = k > high ? k : high;
        }
        bound += fmax(q * low, q * high);
    }
    return c->scale * bound;
}

static size_t quest(const selector_case *c, const fb_selector_options *options,
                    unsigned char *chosen) {
    size_t blocks = reference_num_blocks(c, options), group = c->num_heads / c->num_kv_heads;
    double *scores = doubles(blocks);
    for (size_t kv_head = 0; kv_head < c->num_kv_heads; kv_head++) {
        for (size_t block = 0; block < blocks; block++) {
            scores[block] = (double)-INFINITY;
            for (size_t head = kv_head * group; head < (kv_head + 1) * group; head++)
                for (size_t query = 0; query < c->num_queries; query++) {
                    double bound = page_bound(c, options, query, head, block);
                    scores[block] = bound > scores[block] ? bound : scores[block];
                }
        }
        if (c->num_keys % options->block_keys != 0)
            scores[blocks - 1] = (double)INFINITY;
        mark_largest(scores, blocks, budget_of(blocks, c->density), chosen + kv_head * blocks);
    }
    free(scores);
    return c->num_kv_heads;
}

/* Mean over all pairs of a query and a key of the block: scale * q . k. */
static double mean_affinity(const selector_case *c, const fb_selector_options *options, size_t head,
                            size_t block) {
    double sum = 0.0;
    size_t begin = block_begin(options, block), end = block_end(c, options, block);
    for (size_t query = 0; query < c->num_queries; query++)
        for (size_t key = begin; key < end; key++)
            for (size_t d = 0; d < c->head_dim; d++)
                sum += q_at(c, query, head, d) * k_at(c, key, head, d);
    return c->scale * sum / (double)(c->num_queries * (end - begin));
}

static size_t moba(const selector_case *c, const fb_selector_options *options,
                   unsigned char *chosen) {
    size_t blocks = reference_num_blocks(c, options);
    double *scores = doubles(blocks);
    for (size_t head = 0; head < c->num_heads; head++) {
        for (size_t block = 0; block < blocks; block++)
            scores[block] = mean_affinity(c, options, head, block);
        mark_largest(scores, blocks, budget_of(blocks, c->density), chosen + head * blocks);
    }
    free(scores);
    return c->num_heads;
}

static void softmax(double *scores, size_t count) {
    double max = (double)-INFINITY, sum = 0.0;
    for (size_t i = 0; i < count; i++)
        max = fmax(max, scores[i]);
    for (size_t i = 0; i < count; i++)
        sum += scores[i] = exp(scores[i] - max);
    for (size_t i = 0; i < count; i++)
        scores[i] /= sum;
}

/* Marks the fewest blocks whose mass reaches the threshold. Returns their number. */
static size_t mark_mass(const double *masses, size_t num, double threshold, unsigned char *chosen) {
    for (size_t count = 1; count <= num; count++) {
        mark_largest(masses, num, count, chosen);
        double sum = 0.0;
        for (size_t block = 0; block < num; block++)
            sum += chosen[block] ? masses[block] : 0.0;
        if (threshold < 1.0 && sum >= threshold)
            return count;
    }
    return num;
}

static size_t bfla(const selector_case *c, const fb_selector_options *options,
                   unsigned char *chosen) {
    size_t blocks = reference_num_blocks(c, options), group = c->num_heads / c->num_kv_heads;
    for (size_t kv_head = 0; kv_head < c->num_kv_heads; kv_head++) {
        double *rank = doubles(blocks), *masses = doubles(blocks);
        unsigned char *kept = calloc(blocks + 1, 1);
        for (size_t block = 0; block < blocks; block++)
            rank[block] = -1.0; /* no head keeps it */
        for (size_t head = kv_head * group; head < (kv_head + 1) * group; head++) {
            for (size_t block = 0; block < blocks; block++)
                masses[block] = mean_affinity(c, options, head, block);
            softmax(masses, blocks);
            mark_mass(masses, blocks, options->mass_threshold, kept);
            for (size_t block = 0; block < blocks; block++)
                if (kept[block])
                    rank[block] = fmax(rank[block], masses[block]);
        }
        size_t count = 0;
        for (size_t block = 0; block < blocks; block++) {
            if (block + options->local_blocks >= blocks)
                rank[block] = 10.0 + (double)block;
            if (block < options->sink_blocks)
                rank[block] = 1e9 - (double)block;
            count += rank[block] >= 0.0;
        }
        size_t budget = budget_of(blocks, c->density);
        mark_largest(rank, blocks, count < budget ? count : budget, chosen + kv_head * blocks);
        free(rank), free(masses), free(kept);
    }
    return c->num_kv_heads;
}

/* ln mean exp over the pairs, to the second cumulant, dimension by dimension. */
static double compensated(const selector_case *c, const fb_selector_options *options, size_t head,
                          size_t block) {
    size_t begin = block_begin(options, block), end = block_end(c, options, block);
    double pairs = (double)(c->num_queries * (end - begin)), score = 0.0;
    for (size_t d = 0; d < c->head_dim; d++) {
        double mean = 0.0, variance = 0.0;
        for (size_t query = 0; query < c->num_queries; query++)
            for (size_t key = begin; key < end; key++)
                mean += c->scale * q_at(c, query, head, d) * k_at(c, key, head, d) / pairs;
        for (size_t query = 0; query < c->num_queries; query++)
            for (size_t key = begin; key < end; key++) {
                double off = c->scale * q_at(c, query, head, d) * k_at(c, key, head, d) - mean;
                variance += off * off / pairs;
            }
        score += mean + variance / 2.0;
    }
    return score;
}

static size_t ba_att(const selector_case *c, const fb_selector_options *options,
                     unsigned char *chosen) {
    size_t blocks = reference_num_blocks(c, options);
    for (size_t head = 0; head < c->num_heads; head++) {
        double *masses = doubles(blocks);
        for (size_t block = 0; block < blocks; block++)
            masses[block] =
                compensated(c, options, head, block) +
                log((double)(block_end(c, options, block) - block_begin(options, block)));
        softmax(masses, blocks);
        unsigned char *to = chosen + head * blocks;
        size_t count = blocks ? mark_mass(masses, blocks, options->mass_threshold, to) : 0;
        size_t budget = budget_of(blocks, c->density);
        mark_largest(masses, blocks, count < budget ? count : budget, to);
        free(masses);
    }
    return c->num_heads;
}

/* --- clusters --------------------------------------------------------------------------------- */

/* Label of each key of one KV head, its window's clusters numbered from `window * 1000000` on. */
static void cluster(const selector_case *c, const fb_selector_options *options, size_t kv_head,
                    size_t *labels) {
    size_t head = kv_head * (c->num_heads / c->num_kv_heads), dim = c->head_dim;
    for (size_t begin = 0; begin < c->num_keys; begin += options->cluster_window) {
        size_t keys = c->num_keys - begin;
        keys = keys < options->cluster_window ? keys : options->cluster_window;
        size_t clusters = (keys + options->cluster_keys - 1) / options->cluster_keys;
        double *centroids = doubles(clusters * dim);
        size_t *label = calloc(keys, sizeof *label);
        for (size_t i = 0; i < clusters * dim; i++)
            centroids[i] = k_at(c, begin + i / dim * keys / clusters, head, i % dim);
        for (size_t iteration = 0; iteration < options->kmeans_iterations; iteration++) {
            for (size_t key = 0; key < keys; key++) {
                double least = (double)INFINITY;
                for (size_t i = 0; i < clusters; i++) {
                    double distance = 0.0;
                    for (size_t d = 0; d < dim; d++) {
                        double off = k_at(c, begin + key, head, d) - centroids[i * dim + d];
                        distance += off * off;
                    }
                    if (distance < least)
                        least = distance, label[key] = i;
                }
            }
            for (size_t i = 0; i < clusters; i++)
                for (size_t d = 0; d < dim; d++) {
                    double sum = 0.0;
                    size_t size = 0;
                    for (size_t key = 0; key < keys; key++)
                        if (label[key] == i)
                            sum += k_at(c, begin + key, head, d), size++;
                    if (size > 0)
                        centroids[i * dim + d] = sum / (double)size;
                }
        }
        for (size_t key = 0; key < keys; key++)
            labels[begin + key] = begin / options->cluster_window * 1000000 + label[key];
        free(centroids), free(label);
    }
}

/* scale * q . mean of the keys of one label that are not left out. *size is the number of these
 * keys. */
static double centroid_score(const selector_case *c, const size_t *labels,
                             const unsigned char *left_out, size_t label, size_t query, size_t head,
                             size_t *size) {
    double sum = 0.0;
    *size = 0;
    for (size_t key = 0; key < c->num_keys; key++) {
        if (labels[key] != label || (left_out && left_out[key]))
            continue;
        (*size)++;
        for (size_t d = 0; d < c->head_dim; d++)
            sum += q_at(c, query, head, d) * k_at(c, key, head, d);
    }
    return c->scale * sum / (double)*size;
}

static size_t multipole(const selector_case *c, const fb_selector_options *options,
                        unsigned char *chosen) {
    size_t blocks = reference_num_blocks(c, options), group = c->num_heads / c->num_kv_heads;
    size_t *labels = calloc(c->num_keys + 1, sizeof *labels);
    for (size_t kv_head = 0; kv_head < c->num_kv_heads; kv_head++) {
        double *scores = doubles(blocks), *s = doubles(c->num_keys);
        cluster(c, options, kv_head, labels);
        for (size_t head = kv_head * group; head < (kv_head + 1) * group; head++)
            for (size_t query = 0; query < c->num_queries; query++) {
                /* the s of a key is that of its cluster: the sum over j of N_j exp(s_j) is a sum
                 * over keys */
                double max = (double)-INFINITY, sum = 0.0;
                for (size_t key = 0; key < c->num_keys; key++) {
                    size_t size = 0;
                    s[key] = centroid_score(c, labels, NULL, labels[key], query, head, &size);
                    max = fmax(max, s[key]);
                }
                for (size_t key = 0; key < c->num_keys; key++)
                    sum += exp(s[key] - max);
                for (size_t key = 0; key < c->num_keys; key++)
                    scores[key / options->block_keys] += exp(s[key] - max) / sum;
            }
        mark_largest(scores, blocks, budget_of(blocks, c->density), chosen + kv_head * blocks);
        free(scores), free(s);
    }
    free(labels);
    return c->num_kv_heads;
}

void reference_far_part(const selector_case *c, const fb_selector_options *options,
                        const unsigned char *chosen, double *out, double *lse) {
    size_t blocks = reference_num_blocks(c, options), group = c->num_heads / c->num_kv_heads;
    size_t *labels = calloc(c->num_keys + 1, sizeof *labels);
    unsigned char *near = calloc(c->num_keys + 1, 1);
    double *s = doubles(c->num_keys);
    for (size_t head = 0; head < c->num_heads; head++) {
        cluster(c, options, head / group, labels);
        for (size_t key = 0; key < c->num_keys; key++)
            near[key] = chosen[head / group * blocks + key / options->block_keys];
        for (size_t query = 0; query < c->num_queries; query++) {
            /* N exp(s) and N exp(s) Vc, as sums over the cluster's keys */
            size_t row = query * c->num_heads + head;
            double max = (double)-INFINITY, sum = 0.0;
            for (size_t key = 0; key < c->num_keys; key++) {
                size_t size = 0;
                if (!near[key]) {
                    s[key] = centroid_score(c, labels, near, labels[key], query, head, &size);
                    max = fmax(max, s[key]);
                }
            }
            memset(out + row * c->head_dim, 0, c->head_dim * sizeof *out);
            for (size_t key = 0; key < c->num_keys; key++) {
                if (near[key])
                    continue;
                sum += exp(s[key] - max);
                for (size_t d = 0; d < c->head_dim; d++)
                    out[row * c->head_dim + d] += exp(s[key] - max) * v_at(c, key, head, d);
            }
            for (size_t d = 0; sum > 0.0 && d < c->head_dim; d++)
                out[row * c->head_dim + d] /= sum;
            lse[row] = sum > 0.0 ? max + log(sum) : (double)-INFINITY;
        }
    }
    free(labels), free(near), free(s);
}

/* --- by name ---------------------------------------------------------------------------------- */

static size_t sink_window(const selector_case *c, const fb_selector_options *options,
                          unsigned char *chosen) {
    size_t blocks = reference_num_blocks(c, options), budget = budget_of(blocks, c->density);
    for (size_t head = 0; head < c->num_kv_heads; head++) {
        unsigned char *to = chosen + head * blocks;
        size_t sinks = options->sink_blocks < budget ? options->sink_blocks : budget;
        memset(to, 0, blocks);
        memset(to, 1, sinks);
        memset(to + blocks - (budget - sinks), 1, budget - sinks);
    }
    return c->num_kv_heads;
}

size_t reference_select(const char *name, const selector_case *c,
                        const fb_selector_options *options, unsigned char *chosen) {
    static const struct {
        const char *name;
        size_t (*select)(const selector_case *, const fb_selector_options *, unsigned char *);
    } known[] = {{"sparsed", sparsed},     {"mage", mage},
                 {"quest", quest},         {"moba", moba},
                 {"bfla", bfla},           {"ba_att", ba_att},
                 {"multipole", multipole}, {"sink_window", sink_window}};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (strcmp(name, known[i].name) == 0)
            return known[i].select(c, options, chosen);
    cr_assert_fail("no reference of selector %s", name);
    return 0;
}
