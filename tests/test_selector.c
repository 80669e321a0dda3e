/* Selectors: each against its reference, planted keys, ties, state, and the same on every
 * instruction set. */
#include "cache/selector_family.h"
#include "tests/numbers.h"
#include "tests/selector_reference.h"

#include <flashblock/experimental/selector.h>
#include <flashblock/flashblock.h>

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OK(call) cr_assert_eq((call), FB_OK, "%s", fb_error_message())

static void expect_message(const char *part) {
    cr_assert_not_null(strstr(fb_error_message(), part), "\"%s\" does not say \"%s\"",
                       fb_error_message(), part);
}

/* The selectors that need only an input. */
static const char *const names[] = {"sparsed", "mage",   "quest",     "moba",
                                    "bfla",    "ba_att", "multipole", "sink_window"};
enum { NUM_NAMES = sizeof names / sizeof names[0] };

/* --- cases ------------------------------------------------------------------------------------ */

typedef struct sizes {
    size_t num_queries, num_heads, num_kv_heads, head_dim, num_keys, block_keys, prompt_length;
} sizes;

typedef struct problem {
    sizes n;
    float *q, *k, *v;
    fb_kv kv;
    fb_queries queries;
} problem;

static size_t kv_row(const sizes *n) {
    return n->num_kv_heads * n->head_dim;
}

static problem problem_new(random_stream *random, sizes n) {
    problem p = {.n = n};
    p.q = random_floats(random, n.num_queries * n.num_heads * n.head_dim, 1.0f);
    p.k = random_floats(random, n.num_keys * kv_row(&n), 1.0f);
    p.v = random_floats(random, n.num_keys * kv_row(&n), 1.0f);
    p.kv = fb_kv_rows(FB_F32, p.k, p.v, n.num_keys, n.num_kv_heads, n.head_dim);
    p.queries = fb_queries_rows(p.q, n.num_queries, n.num_heads, n.head_dim);
    return p;
}

static void problem_free(problem *p) {
    free(p->q), free(p->k), free(p->v);
}

/* At a step at which none of the selectors is dense. */
static fb_selector_input input_of(const problem *p, double density) {
    return (fb_selector_input){.queries = &p->queries,
                               .kv = &p->kv,
                               .context_length = p->n.num_keys,
                               .prompt_length = p->n.prompt_length,
                               .denoising_step = 1,
                               .denoising_steps = 4,
                               .density = density};
}

static fb_selector_options options_of(const sizes *n) {
    fb_selector_options options;
    fb_selector_options_init(&options);
    options.num_layers = 2;
    options.block_keys = n->block_keys;
    options.cluster_window = 48;
    options.cluster_keys = 5;
    return options;
}

static selector_case case_of(const problem *p, double density) {
    return (selector_case){.num_queries = p->n.num_queries,
                           .num_heads = p->n.num_heads,
                           .num_kv_heads = p->n.num_kv_heads,
                           .head_dim = p->n.head_dim,
                           .num_keys = p->n.num_keys,
                           .prompt_length = p->n.prompt_length,
                           .q = p->q,
                           .k = p->k,
                           .v = p->v,
                           .scale = 1.0 / sqrt((double)p->n.head_dim),
                           .density = density};
}

static fb_selector *selector_new(const char *name, const fb_selector_options *options) {
    fb_selector *selector = NULL;
    OK(fb_selector_create(name, options, &selector));
    return selector;
}

/* The selection of a new selector. */
static void select_once(const char *name, const fb_selector_options *options,
                        const fb_selector_input *input, fb_selection *selection) {
    fb_selector *selector = selector_new(name, options);
    OK(fb_selector_select(selector, input, selection));
    fb_selector_destroy(selector);
}

static void expect_chosen(const char *what, const fb_selection *s, const unsigned char *chosen,
                          size_t num_lists) {
    cr_assert_eq(s->num_lists, num_lists, "%s: %zu lists, expected %zu", what, s->num_lists,
                 num_lists);
    for (size_t list = 0; list < num_lists; list++)
        for (size_t block = 0, next = 0; block < s->num_blocks; block++) {
            bool selected =
                next < s->counts[list] && s->blocks[list * s->num_blocks + next] == block;
            next += selected;
            cr_assert_eq(selected, chosen[list * s->num_blocks + block],
                         "%s, seed %llu: list %zu, block %zu is %sselected", what,
                         (unsigned long long)test_seed(), list, block, selected ? "" : "not ");
        }
}

static void expect_reference(const char *name, const problem *p, const fb_selector_options *options,
                             double density, const fb_selection *selection) {
    selector_case c = case_of(p, density);
    unsigned char *chosen =
        calloc(p->n.num_heads * reference_num_blocks(&c, options) + 1, sizeof *chosen);
    size_t lists = reference_select(name, &c, options, chosen);
    char what[200];
    snprintf(what, sizeof what,
             "%s: %zu x %zu queries, %zu KV heads, head_dim %zu, %zu keys in "
             "blocks of %zu, prompt %zu, density %g",
             name, p->n.num_queries, p->n.num_heads, p->n.num_kv_heads, p->n.head_dim,
             p->n.num_keys, p->n.block_keys, p->n.prompt_length, density);
    expect_chosen(what, selection, chosen, lists);
    free(chosen);
}

static const sizes shapes[] = {
    {4, 4, 2, 16, 200, 16, 120}, {8, 6, 3, 20, 165, 32, 60}, {1, 2, 2, 64, 192, 64, 192},
    {5, 8, 1, 8, 150, 16, 0},    {3, 4, 4, 32, 97, 16, 50},  {2, 2, 1, 17, 11, 16, 4},
    {2, 4, 2, 16, 0, 64, 0},     {4, 4, 2, 16, 64, 64, 10},
};
enum { NUM_SHAPES = sizeof shapes / sizeof shapes[0] };
static const double densities[] = {0.0, 0.01, 0.1, 0.25, 0.5, 0.8, 1.0};
enum { NUM_DENSITIES = sizeof densities / sizeof densities[0] };

/* --- against the references ------------------------------------------------------------------- */

Test(selector, equal_their_references) {
    random_stream random = random_named(710);
    fb_selection selection = {0};
    for (size_t i = 0; i < NUM_SHAPES; i++) {
        problem p = problem_new(&random, shapes[i]);
        fb_selector_options options = options_of(&p.n);
        for (size_t d = 0; d < NUM_DENSITIES; d++)
            for (size_t name = 0; name < NUM_NAMES; name++) {
                fb_selector_input input = input_of(&p, densities[d]);
                select_once(names[name], &options, &input, &selection);
                expect_reference(names[name], &p, &options, densities[d], &selection);
            }
        problem_free(&p);
    }
    fb_selection_release(&selection);
}

Test(selector, options_equal_their_references) {
    random_stream random = random_named(711);
    fb_selection selection = {0};
    problem p = problem_new(&random, (sizes){4, 9, 3, 16, 180, 16, 90});
    for (size_t i = 0; i < p.n.num_queries * p.n.num_heads * p.n.head_dim; i++)
        p.q[i] *= 4.0f; /* masses that differ */
    fb_selector_options options = options_of(&p.n);
    fb_selector_input input = input_of(&p, 0.4);
    options.sparsed_scaling = FB_SPARSED_BY_NUM_HEADS;
    select_once("sparsed", &options, &input, &selection);
    expect_reference("sparsed", &p, &options, 0.4, &selection);
    for (double mass = 0.2; mass <= 1.0; mass += 0.2)
        for (size_t rescued = 0; rescued < 4; rescued++)
            for (size_t name = 4; name <= 5; name++) {
                options.mass_threshold = mass;
                options.sink_blocks = rescued, options.local_blocks = 3 - rescued;
                input.density = rescued == 3 ? 0.5 : 1.0;
                select_once(names[name], &options, &input, &selection);
                expect_reference(names[name], &p, &options, input.density, &selection);
            }
    options.kmeans_iterations = 1, options.cluster_keys = 16, options.cluster_window = 64;
    select_once("multipole", &options, &input, &selection);
    expect_reference("multipole", &p, &options, input.density, &selection);
    problem_free(&p);
    fb_selection_release(&selection);
}

/* A mass threshold may decide the number of blocks instead of the budget: fewer blocks for a
 * smaller mass. */
Test(selector, mass_thresholds_select_less) {
    random_stream random = random_named(712);
    fb_selection few = {0}, many = {0};
    problem p = problem_new(&random, (sizes){4, 4, 2, 16, 320, 16, 320});
    for (size_t i = 0; i < 4 * 4 * 16; i++)
        p.q[i] *= 4.0f;
    fb_selector_options options = options_of(&p.n);
    fb_selector_input input = input_of(&p, 1.0);
    for (size_t name = 4; name <= 5; name++) {
        options.mass_threshold = 0.3;
        select_once(names[name], &options, &input, &few);
        options.mass_threshold = 0.9;
        select_once(names[name], &options, &input, &many);
        for (size_t list = 0; list < few.num_lists; list++)
            cr_assert(few.counts[list] < many.counts[list], "%s, list %zu: %zu and %zu blocks",
                      names[name], list, few.counts[list], many.counts[list]);
    }
    problem_free(&p);
    fb_selection_release(&few);
    fb_selection_release(&many);
}

/* The integers of a KV cache of 8 bits: the lists of what it gives back. */
Test(selector, read_integers) {
    random_stream random = random_named(714);
    fb_selection rows = {0}, stored = {0};
    sizes n = {4, 4, 2, 20, 300, 32, 200};
    problem p = problem_new(&random, n);
    fb_kv_cache_config config = {1, n.num_kv_heads, n.head_dim, FB_INT8};
    fb_kv_cache *cache = NULL;
    fb_kv paged;
    OK(fb_kv_cache_create(&config, &cache));
    OK(fb_kv_cache_write(cache, 0, 0, n.num_keys, p.k, p.v));
    OK(fb_kv_cache_layer(cache, 0, &paged));
    OK(fb_kv_cache_read(cache, 0, 0, n.num_keys, p.k, p.v));
    fb_kv read = fb_kv_rows(FB_F32, p.k, p.v, n.num_keys, n.num_kv_heads, n.head_dim);
    fb_selector_options options = options_of(&n);
    for (size_t name = 0; name < NUM_NAMES; name++) {
        fb_selector_input input = input_of(&p, 0.3);
        input.context_length = 290;
        input.kv = &read;
        select_once(names[name], &options, &input, &rows);
        input.kv = &paged;
        select_once(names[name], &options, &input, &stored);
        cr_assert(fb_selection_equal(&rows, &stored), "%s", names[name]);
    }
    fb_kv_cache_destroy(cache);
    problem_free(&p);
    fb_selection_release(&rows), fb_selection_release(&stored);
}

/* Keys and values as the KV cache and callers store them: the same lists as from float32 rows. */
Test(selector, read_every_storage) {
    random_stream random = random_named(713);
    fb_selection rows = {0}, stored = {0};
    sizes n = {4, 4, 2, 20, 300, 32, 200};
    for (fb_dtype dtype = FB_F32; dtype <= FB_F16; dtype++) {
        problem p = problem_new(&random, n);
        size_t count = n.num_keys * kv_row(&n);
        char *k = malloc(count * 4), *v = malloc(count * 4);
        OK(fb_from_f32(dtype, p.k, k, count));
        OK(fb_from_f32(dtype, p.v, v, count));
        OK(fb_to_f32(dtype, k, p.k, count));
        OK(fb_to_f32(dtype, v, p.v, count));
        fb_kv_cache_config config = {1, n.num_kv_heads, n.head_dim, dtype};
        fb_kv_cache *cache = NULL;
        OK(fb_kv_cache_create(&config, &cache));
        OK(fb_kv_cache_write(cache, 0, 0, n.num_keys, p.k, p.v));
        fb_kv kinds[2] = {fb_kv_rows(dtype, k, v, n.num_keys, n.num_kv_heads, n.head_dim)};
        OK(fb_kv_cache_layer(cache, 0, &kinds[1]));
        fb_selector_options options = options_of(&n);
        for (size_t name = 0; name < NUM_NAMES; name++) {
            fb_selector_input input = input_of(&p, 0.3);
            input.context_length = 290; /* the others are the current block's */
            select_once(names[name], &options, &input, &rows);
            for (size_t kind = 0; kind < 2; kind++) {
                input.kv = &kinds[kind];
                select_once(names[name], &options, &input, &stored);
                cr_assert(fb_selection_equal(&rows, &stored), "%s, %s, %s", names[name],
                          fb_dtype_name(dtype), kind ? "pages" : "rows");
            }
        }
        fb_kv_cache_destroy(cache);
        free(k), free(v);
        problem_free(&p);
    }
    fb_selection_release(&rows);
    fb_selection_release(&stored);
}

/* --- structure -------------------------------------------------------------------------------- */

/* Sets key `key` of every KV head to `factor` times the query of the group's first head. */
static void plant(problem *p, size_t key, size_t query, float factor) {
    size_t group = p->n.num_heads / p->n.num_kv_heads;
    for (size_t head = 0; head < p->n.num_kv_heads; head++)
        for (size_t d = 0; d < p->n.head_dim; d++)
            p->k[(key * p->n.num_kv_heads + head) * p->n.head_dim + d] =
                factor * p->q[(query * p->n.num_heads + head * group) * p->n.head_dim + d];
}

/* Each head has two blocks of heavy keys. Selectors that look at single keys find a single heavy
 * key; selectors that look at means find whole blocks. */
Test(selector, find_planted_keys) {
    random_stream random = random_named(714);
    fb_selection selection = {0};
    for (size_t name = 0; name < NUM_NAMES - 1; name++) {
        bool single = strcmp(names[name], "sparsed") == 0 || strcmp(names[name], "mage") == 0 ||
                      strcmp(names[name], "quest") == 0 || strcmp(names[name], "multipole") == 0;
        problem p = problem_new(&random, (sizes){2, 2, 2, 64, 640, 64, 640});
        for (size_t i = 0; i < 640 * 2 * 64; i++)
            p.k[i] *= 0.25f;
        if (single) {
            plant(&p, 3 * 64 + 17, 0, 1.5f);
            plant(&p, 8 * 64 + 1, 1, 1.5f);
        } else {
            for (size_t i = 0; i < 64; i += 2)
                plant(&p, 3 * 64 + i, 0, 1.0f), plant(&p, 8 * 64 + i, 1, 1.0f);
        }
        fb_selector_options options;
        fb_selector_options_init(&options);
        options.num_layers = 1;
        options.sink_blocks = options.local_blocks = 0;
        fb_selector_input input = input_of(&p, 0.2);
        select_once(names[name], &options, &input, &selection);
        for (size_t list = 0; list < selection.num_lists; list++)
            cr_assert(selection.counts[list] == 2 && selection.blocks[list * 10] == 3 &&
                          selection.blocks[list * 10 + 1] == 8,
                      "%s, list %zu: %zu blocks, from %zu on", names[name], list,
                      selection.counts[list], selection.blocks[list * 10]);
        problem_free(&p);
    }
    fb_selection_release(&selection);
}

Test(selector, equal_keys_select_the_first_blocks) {
    random_stream random = random_named(715);
    fb_selection selection = {0};
    problem p = problem_new(&random, (sizes){3, 4, 2, 16, 160, 16, 160});
    for (size_t i = kv_row(&p.n); i < 160 * kv_row(&p.n); i++)
        p.k[i] = p.k[i - kv_row(&p.n)];
    fb_selector_options options = options_of(&p.n);
    options.sink_blocks = options.local_blocks = 0;
    options.cluster_window = 160;
    fb_selector_input input = input_of(&p, 0.3);
    for (size_t name = 0; name < NUM_NAMES - 1; name++) {
        select_once(names[name], &options, &input, &selection);
        for (size_t list = 0; list < selection.num_lists; list++)
            for (size_t i = 0; i < 3; i++)
                cr_assert(selection.counts[list] == 3 && selection.blocks[list * 10 + i] == i,
                          "%s, list %zu: %zu blocks, place %zu is %zu", names[name], list,
                          selection.counts[list], i, selection.blocks[list * 10 + i]);
    }
    problem_free(&p);
    fb_selection_release(&selection);
}

Test(selector, densities_that_round_to_nothing_or_all) {
    random_stream random = random_named(716);
    fb_selection selection = {0};
    problem p = problem_new(&random, (sizes){4, 4, 2, 16, 70, 16, 70});
    fb_selector_options options = options_of(&p.n);
    options.mass_threshold = 1.0;
    for (size_t name = 0; name < NUM_NAMES; name++) {
        fb_selector_input none = input_of(&p, 0.09), all = input_of(&p, 0.9);
        select_once(names[name], &options, &none, &selection); /* 0.45 of a block */
        for (size_t list = 0; list < selection.num_lists; list++)
            cr_assert_eq(selection.counts[list], 0, "%s, list %zu", names[name], list);
        select_once(names[name], &options, &all, &selection); /* 4.5 of 5 */
        for (size_t list = 0; list < selection.num_lists; list++)
            cr_assert_eq(selection.counts[list], 5, "%s, list %zu", names[name], list);
    }
    problem_free(&p);
    fb_selection_release(&selection);
}

/* --- state ------------------------------------------------------------------------------------ */

typedef struct sequence {
    fb_kv_cache *cache;
    problem p;
    fb_selector_input input;
} sequence;

/* Commits the next tokens of p.k and p.v, from `from` on. */
static void commit(sequence *s, size_t from, size_t count) {
    const float *k = s->p.k + from * kv_row(&s->p.n), *v = s->p.v + from * kv_row(&s->p.n);
    OK(fb_kv_cache_write(s->cache, 0, fb_kv_cache_length(s->cache), count, k, v));
    OK(fb_kv_cache_commit(s->cache, count));
}

static void look(sequence *s) {
    OK(fb_kv_cache_layer(s->cache, 0, &s->p.kv));
    s->input.kv = &s->p.kv;
    s->input.queries = &s->p.queries;
    s->input.context_length = fb_kv_cache_length(s->cache);
    s->input.history = fb_kv_cache_history(s->cache);
}

/* The selector gives the same answer as a new selector. */
static void expect_fresh(const char *name, fb_selector *selector,
                         const fb_selector_options *options, const sequence *s, const char *when) {
    fb_selection with = {0}, without = {0};
    OK(fb_selector_select(selector, &s->input, &with));
    select_once(name, options, &s->input, &without);
    cr_assert(fb_selection_equal(&with, &without), "%s, %s, %zu tokens", name, when,
              s->input.context_length);
    fb_selection_release(&with);
    fb_selection_release(&without);
}

/* Statistics and clusters that grew with the context equal those of a new selector. A truncated or
 * overwritten context is noticed, and so is another cache. */
Test(selector, what_is_kept_follows_the_context) {
    random_stream random = random_named(720);
    for (size_t name = 0; name < NUM_NAMES; name++) {
        sequence s = {.p = problem_new(&random, (sizes){4, 4, 2, 16, 400, 32, 100})};
        fb_selector_options options = options_of(&s.p.n);
        fb_selector *selector = selector_new(names[name], &options);
        fb_kv_cache_config config = {1, 2, 16, FB_F32};
        OK(fb_kv_cache_create(&config, &s.cache));
        s.input = input_of(&s.p, 0.3);
        for (size_t length = 0; length < 300;) {
            size_t count = random_between(&random, 1, 40);
            commit(&s, length, count);
            length += count;
            look(&s);
            s.input.block++;
            expect_fresh(names[name], selector, &options, &s, "grown");
        }
        OK(fb_kv_cache_truncate(s.cache, 130));
        commit(&s, 0, 170); /* other tokens, the same length or a greater one */
        look(&s);
        expect_fresh(names[name], selector, &options, &s, "truncated and refilled");
        OK(fb_kv_cache_write(s.cache, 0, 5, 60, s.p.k + 300 * 32, s.p.v));
        look(&s);
        expect_fresh(names[name], selector, &options, &s, "overwritten");
        fb_kv_cache_destroy(s.cache);
        OK(fb_kv_cache_create(&config, &s.cache));
        commit(&s, 40, s.input.context_length);
        look(&s);
        expect_fresh(names[name], selector, &options, &s, "another cache");
        fb_selector_reset(selector);
        expect_fresh(names[name], selector, &options, &s, "reset");
        s.input.history = 0;
        s.input.context_length -= 50;
        expect_fresh(names[name], selector, &options, &s, "shorter, history unknown");
        fb_selector_destroy(selector);
        fb_kv_cache_destroy(s.cache);
        problem_free(&s.p);
    }
}

/* The problem with the queries of another step. */
static problem other_step(random_stream *random, const problem *p) {
    problem other = *p;
    other.q = random_floats(random, p->n.num_queries * p->n.num_heads * p->n.head_dim, 1.0f);
    other.queries = fb_queries_rows(other.q, p->n.num_queries, p->n.num_heads, p->n.head_dim);
    return other;
}

Test(selector, mage_keeps_the_set_of_the_first_step) {
    random_stream random = random_named(721);
    fb_selection first = {0}, later = {0};
    problem p = problem_new(&random, (sizes){4, 4, 2, 16, 330, 16, 330});
    problem changed = other_step(&random, &p);
    fb_selector_options options = options_of(&p.n);
    fb_selector *mage = selector_new("mage", &options);
    fb_selector_input input = input_of(&p, 0.3), next = input_of(&changed, 0.3);
    input.denoising_step = 0;
    OK(fb_selector_select(mage, &input, &first));
    expect_reference("mage", &p, &options, 0.3, &first);
    for (size_t step = 1; step < 6; step++) {
        next.denoising_step = step;
        OK(fb_selector_select(mage, &next, &later));
        cr_assert(fb_selection_equal(&first, &later), "step %zu", step);
    }
    next.layer = 1; /* that layer has seen nothing */
    OK(fb_selector_select(mage, &next, &later));
    expect_reference("mage", &changed, &options, 0.3, &later);
    next.layer = 0, next.block = 1; /* another query block */
    OK(fb_selector_select(mage, &next, &later));
    expect_reference("mage", &changed, &options, 0.3, &later);
    OK(fb_selector_select(mage, &input, &first)); /* a first step always looks */
    expect_reference("mage", &p, &options, 0.3, &first);
    next.block = 0, next.density = 0.5; /* another density */
    OK(fb_selector_select(mage, &next, &later));
    expect_reference("mage", &changed, &options, 0.5, &later);
    fb_selector_destroy(mage);
    free(changed.q);
    problem_free(&p);
    fb_selection_release(&first);
    fb_selection_release(&later);
}

Test(selector, sparsed_is_dense_then_keeps_its_pattern) {
    random_stream random = random_named(722);
    fb_selection selection = {0};
    problem p = problem_new(&random, (sizes){4, 4, 2, 16, 330, 16, 200});
    problem steps[8];
    for (size_t step = 0; step < 8; step++)
        steps[step] = other_step(&random, &p);
    fb_selector_options options = options_of(&p.n);
    options.dense_share = 0.4; /* 3.2 of 8 steps */
    for (fb_sparsed_scaling scaling = FB_SPARSED_BY_HEAD_DIM; scaling <= FB_SPARSED_BY_NUM_HEADS;
         scaling++) {
        options.sparsed_scaling = scaling;
        fb_selector *sparsed = selector_new("sparsed", &options);
        for (size_t step = 0; step < 8; step++) {
            fb_selector_input input = input_of(&steps[step], 0.2);
            input.denoising_step = step, input.denoising_steps = 8;
            OK(fb_selector_select(sparsed, &input, &selection));
            for (size_t list = 0; step < 3 && list < 4; list++)
                cr_assert_eq(selection.counts[list], selection.num_blocks, "step %zu", step);
            if (step >= 3) /* of the last dense step's queries */
                expect_reference("sparsed", &steps[2], &options, 0.2, &selection);
        }
        fb_selector_destroy(sparsed);
    }
    for (size_t step = 0; step < 8; step++)
        free(steps[step].q);
    problem_free(&p);
    fb_selection_release(&selection);
}

/* 16 heads of head_dim 4: the scaling of the code is half that of the paper. A block with one large
 * score and a block with many medium scores change places. */
Test(selector, sparsed_scalings_differ) {
    fb_selection paper = {0}, code = {0};
    enum { HEADS = 16, KEYS = 64 };
    static float q[HEADS * 4], k[KEYS * 4];
    for (size_t head = 0; head < HEADS; head++)
        q[head * 4] = 1.0f;
    k[20 * 4] = 9.0f; /* block 1: once 4.5 by the paper, 2.25 by the code */
    for (size_t key = 48; key < KEYS; key++)
        k[key * 4] = 2.0f; /* block 3: 16 times 1, or 0.5 */
    fb_kv kv = fb_kv_rows(FB_F32, k, k, KEYS, 1, 4);
    fb_queries queries = fb_queries_rows(q, 1, HEADS, 4);
    fb_selector_input input = {.queries = &queries,
                               .kv = &kv,
                               .context_length = KEYS,
                               .prompt_length = KEYS,
                               .denoising_step = 1,
                               .density = 0.25};
    fb_selector_options options;
    fb_selector_options_init(&options);
    options.num_layers = 1;
    options.block_keys = 16;
    select_once("sparsed", &options, &input, &paper);
    options.sparsed_scaling = FB_SPARSED_BY_NUM_HEADS;
    select_once("sparsed", &options, &input, &code);
    cr_assert(paper.counts[0] == 1 && paper.blocks[0] == 1, "the one great score");
    cr_assert(code.counts[0] == 1 && code.blocks[0] == 3, "the many middling ones");
    fb_selection_release(&paper);
    fb_selection_release(&code);
}

/* The latest page may have any number of keys. If it has few, their bound is tight, and a whole
 * page of random keys has a larger bound, although the queries ask for the latest page. A whole
 * page is represented by its own bound. */
Test(selector, quest_takes_the_page_under_construction) {
    random_stream random = random_named(725);
    fb_selection selection = {0};
    for (size_t last = 1; last <= 16; last++) {
        problem p = problem_new(&random, (sizes){1, 2, 2, 64, 160 + last, 16, 160 + last});
        for (size_t key = 160; key < 160 + last; key++)
            plant(&p, key, 0, 0.25f);
        fb_selector_options options = options_of(&p.n);
        fb_selector_input input = input_of(&p, 0.1); /* 1 of 11 */
        select_once("quest", &options, &input, &selection);
        for (size_t list = 0; list < selection.num_lists; list++) {
            size_t page = selection.blocks[list * selection.num_blocks];
            cr_assert_eq(selection.counts[list], 1);
            cr_assert_eq(page == 10, last < 16, "seed %llu, %zu keys in page 10: list %zu is %zu",
                         (unsigned long long)test_seed(), last, list, page);
        }
        problem_free(&p);
    }
    fb_selection_release(&selection);
}

Test(selector, dense_layers_select_all) {
    random_stream random = random_named(723);
    fb_selection selection = {0};
    problem p = problem_new(&random, (sizes){4, 4, 2, 16, 100, 16, 100});
    fb_selector_options options = options_of(&p.n);
    options.dense_layers = 1;
    fb_selector *quest = selector_new("quest", &options);
    fb_selector_input input = input_of(&p, 0.3);
    OK(fb_selector_select(quest, &input, &selection));
    cr_assert(selection.num_lists == 2 && selection.counts[1] == 7);
    input.layer = 1;
    OK(fb_selector_select(quest, &input, &selection));
    expect_reference("quest", &p, &options, 0.3, &selection);
    fb_selector_destroy(quest);
    problem_free(&p);
    fb_selection_release(&selection);
}

Test(selector, given_lists) {
    fb_selection lists[2] = {{0}, {0}}, selection = {0};
    size_t blocks[3] = {0, 2, 5};
    for (size_t layer = 0; layer < 2; layer++) {
        OK(fb_selection_begin(&lists[layer], 16, 160, 2));
        OK(fb_selection_set(&lists[layer], layer, blocks, 3));
    }
    random_stream random = random_named(724);
    problem p = problem_new(&random, (sizes){1, 2, 2, 8, 64, 64, 64});
    fb_selector_options options;
    fb_selector_options_init(&options);
    options.num_layers = 2;
    options.given = lists, options.num_given = 2;
    fb_selector *given = selector_new("given", &options);
    fb_selection_release(&lists[0]); /* they were copied */
    fb_selection_release(&lists[1]);
    fb_selector_input input = input_of(&p, 0.1);
    input.layer = 1;
    OK(fb_selector_select(given, &input, &selection));
    cr_assert(selection.num_keys == 64 && selection.block_keys == 16 && selection.num_blocks == 4);
    cr_assert_eq(selection.counts[0], 0);
    cr_assert(selection.counts[1] == 2 && selection.blocks[4] == 0 && selection.blocks[5] == 2,
              "block 5 is behind the context's end");
    fb_selector_destroy(given);
    problem_free(&p);
    fb_selection_release(&selection);
}

/* --- the far part ----------------------------------------------------------------------------- */

static void expect_close(const char *what, const float *got, const double *expected, size_t count,
                         double tolerance) {
    for (size_t i = 0; i < count; i++)
        cr_assert(fabs((double)got[i] - expected[i]) <= tolerance || (double)got[i] == expected[i],
                  "%s, seed %llu, element %zu: %.9g, expected %.9g", what,
                  (unsigned long long)test_seed(), i, (double)got[i], expected[i]);
}

/* out and lse are rounded to float32 once: half an ulp of numbers below 8. */
static const double ROUNDING = 0x1p-22;

Test(selector, multipole_far_part_equals_its_reference) {
    random_stream random = random_named(730);
    for (size_t i = 0; i < NUM_SHAPES; i++) {
        problem p = problem_new(&random, shapes[i]);
        fb_selector_options options = options_of(&p.n);
        size_t rows = p.n.num_queries * p.n.num_heads, values = rows * p.n.head_dim;
        float *out = calloc(values, sizeof *out), *lse = calloc(rows, sizeof *lse);
        double *true_out = calloc(values, sizeof *true_out), *true_lse = calloc(rows, 8);
        fb_part part = fb_part_rows(out, lse, p.n.num_heads, p.n.head_dim);
        for (size_t d = 0; d < NUM_DENSITIES; d += 3) { /* none, some, all */
            fb_selector_input input = input_of(&p, densities[d]);
            selector_case c = case_of(&p, densities[d]);
            fb_selection selection = {0};
            unsigned char *chosen =
                calloc(p.n.num_heads * reference_num_blocks(&c, &options) + 1, 1);
            fb_selector *multipole = selector_new("multipole", &options);
            cr_assert(fb_selector_can_approximate(multipole));
            OK(fb_selector_select(multipole, &input, &selection));
            OK(fb_selector_approximate(multipole, &input, &selection, &part));
            (void)reference_select("multipole", &c, &options, chosen);
            reference_far_part(&c, &options, chosen, true_out, true_lse);
            expect_close("out", out, true_out, values, ROUNDING);
            expect_close("lse", lse, true_lse, rows, ROUNDING);
            fb_selector_destroy(multipole);
            fb_selection_release(&selection);
            free(chosen);
        }
        free(out), free(lse), free(true_out), free(true_lse);
        problem_free(&p);
    }
}

/* With one key in each cluster the approximation equals the attention to the unselected keys. */
Test(selector, multipole_with_a_cluster_for_each_key_is_exact) {
    random_stream random = random_named(731);
    problem p = problem_new(&random, (sizes){3, 4, 2, 16, 100, 16, 100});
    fb_selector_options options = options_of(&p.n);
    options.cluster_keys = 1;
    fb_selector *multipole = selector_new("multipole", &options);
    fb_selector_input input = input_of(&p, 0.4);
    fb_selection selection = {0}, rest = {0}, all = {0};
    float out[3 * 4 * 16], lse[3 * 4];
    double true_out[3 * 4 * 16], true_lse[3 * 4];
    fb_part part = fb_part_rows(out, lse, 4, 16);
    OK(fb_selector_select(multipole, &input, &selection));
    OK(fb_selector_approximate(multipole, &input, &selection, &part));
    OK(fb_selection_complement(&selection, &rest));
    for (size_t kv_head = 0; kv_head < 2;
         kv_head++) { /* a list at a time: other heads thrown away */
        fb_range ranges[7];
        fb_view view = {&p.kv, ranges, fb_selection_ranges(&rest, kv_head, ranges)};
        OK(fb_attend_reference(&p.queries, &view, NULL, 0.25, true_out, true_lse));
        for (size_t query = 0; query < 3; query++)
            for (size_t head = 2 * kv_head; head < 2 * kv_head + 2; head++) {
                size_t row = query * 4 + head;
                expect_close("out", out + row * 16, true_out + row * 16, 16, ROUNDING);
                expect_close("lse", lse + row, true_lse + row, 1, ROUNDING);
            }
    }
    OK(fb_selection_begin(&all, 16, 100, 2));
    OK(fb_selection_set_all(&all, 0));
    OK(fb_selection_set_all(&all, 1));
    OK(fb_selector_approximate(multipole, &input, &all, &part));
    for (size_t i = 0; i < 3 * 4; i++)
        cr_assert(isinf(lse[i]) && lse[i] < 0 && out[i * 16] == 0.0f, "the empty part, row %zu", i);
    fb_selector_destroy(multipole);
    fb_selection_release(&selection);
    fb_selection_release(&rest);
    fb_selection_release(&all);
    problem_free(&p);
}

/* With NaN, infinities, huge and tiny numbers, the lists are still as long as the budget says. (The
 * library checks that they are valid lists.) */
Test(selector, survive_unusual_numbers) {
    random_stream random = random_named(732);
    fb_selection selection = {0};
    static const float special[] = {NAN, INFINITY, -INFINITY, 3e38f, -3e38f, 1e-45f};
    for (size_t round = 0; round < 12; round++) {
        problem p = problem_new(&random, (sizes){3, 4, 2, 16, 150, 16, 90});
        for (size_t i = 0; i < 20; i++) {
            size_t which = random_between(&random, 0, 2), value = random_between(&random, 0, 5);
            size_t count = which == 0 ? 3 * 4 * 16 : 150 * 2 * 16;
            float *to = which == 0 ? p.q : which == 1 ? p.k : p.v;
            to[random_between(&random, 0, count - 1)] = special[value];
        }
        fb_selector_options options = options_of(&p.n);
        options.mass_threshold = 1.0;
        fb_selector_input input = input_of(&p, 0.4);
        for (size_t name = 0; name < NUM_NAMES; name++) {
            fb_selector *selector = selector_new(names[name], &options);
            float out[3 * 4 * 16], lse[3 * 4];
            fb_part part = fb_part_rows(out, lse, 4, 16);
            OK(fb_selector_select(selector, &input, &selection));
            for (size_t list = 0; list < selection.num_lists; list++)
                cr_assert_eq(selection.counts[list], 4, "%s", names[name]); /* of 10 blocks */
            if (fb_selector_can_approximate(selector))
                OK(fb_selector_approximate(selector, &input, &selection, &part));
            fb_selector_destroy(selector);
        }
        problem_free(&p);
    }
    fb_selection_release(&selection);
}

/* --- everywhere the same ---------------------------------------------------------------------- */

Test(selector, same_on_every_instruction_set_and_with_any_threads) {
    random_stream random = random_named(740);
    problem p = problem_new(&random, (sizes){4, 8, 4, 24, 500, 32, 300});
    fb_selector_options options = options_of(&p.n);
    fb_selector_input input = input_of(&p, 0.3);
    fb_selection first = {0}, other = {0};
    float out[2][4 * 8 * 24], lse[2][4 * 8];
    int threads = fb_num_threads();
    fb_isa before;
    OK(fb_isa_current(&before));
    for (size_t name = 0; name < NUM_NAMES; name++)
        for (fb_isa isa = FB_ISA_SCALAR; isa < FB_ISA_COUNT; isa++)
            for (int count = 1; fb_isa_supported(isa) && count <= 2; count++) {
                bool reference = isa == FB_ISA_SCALAR && count == 1;
                OK(fb_isa_select(isa));
                OK(fb_set_num_threads(count));
                fb_selector *selector = selector_new(names[name], &options);
                OK(fb_selector_select(selector, &input, reference ? &first : &other));
                cr_assert(reference || fb_selection_id(&first) == fb_selection_id(&other),
                          "%s, %s, %d threads", names[name], fb_isa_name(isa), count);
                if (fb_selector_can_approximate(selector)) {
                    fb_part part = fb_part_rows(out[!reference], lse[!reference], 8, 24);
                    OK(fb_selector_approximate(selector, &input, &first, &part));
                    if (!reference) {
                        expect_same_bits("out", out[0], out[1], 4 * 8 * 24);
                        expect_same_bits("lse", lse[0], lse[1], 4 * 8);
                    }
                }
                fb_selector_destroy(selector);
            }
    OK(fb_isa_select(before));
    OK(fb_set_num_threads(threads));
    problem_free(&p);
    fb_selection_release(&first);
    fb_selection_release(&other);
}

/* Less than 2 ulp from the exponential of libm, which is within 1 ulp of the truth. */
Test(selector, exponential) {
    random_stream random = random_named(741);
    for (size_t i = 0; i < 200000; i++) {
        double x = -708.0 * pow(random_uniform(&random), 4.0), truth = exp(x);
        double error = fabs(fb_exp_weight(x) - truth) / (truth * 0x1p-52);
        cr_assert(error <= 2.0, "exp(%.17g) is off by %g", x, error);
    }
    cr_assert_eq(fb_exp_weight(0.0), 1.0);
    cr_assert_eq(fb_exp_weight(-0.0), 1.0);
    cr_assert_eq(fb_exp_weight((double)-INFINITY), 0.0);
    cr_assert_eq(fb_exp_weight(-708.1), 0.0);
    cr_assert(isnan(fb_exp_weight((double)NAN)));
}

/* --- selectors of the caller's ---------------------------------------------------------------- */

/* The latest key block, for every KV head; counts its calls, and can misbehave. */
typedef struct latest {
    size_t calls, resets;
    bool *destroyed;
    int mistake;
} latest;

static fb_status select_latest(void *state, const fb_selector_input *input,
                               fb_selection *selection) {
    latest *l = state;
    l->calls++;
    if (l->mistake == 6)
        return FB_OK;
    size_t lists = input->kv->num_kv_heads + (l->mistake == 1);
    fb_status status = fb_selection_begin(
        selection, 16, input->context_length + 16 * (size_t)(l->mistake == 2), lists);
    for (size_t list = 0; status == FB_OK && list < lists; list++) {
        size_t last = selection->num_blocks - 1;
        status = fb_selection_set(selection, list, &last, 1);
    }
    if (l->mistake == 3)
        selection->blocks[0] = selection->num_blocks;
    if (l->mistake == 4)
        selection->counts[0] = selection->num_blocks + 1;
    return l->mistake == 5 ? FB_ERROR_UNSUPPORTED : status;
}

static void reset_latest(void *state) {
    ((latest *)state)->resets++;
}

static void destroy_latest(void *state) {
    *((latest *)state)->destroyed = true;
}

Test(selector, of_the_callers_own) {
    bool destroyed = false;
    latest state = {.destroyed = &destroyed};
    fb_selector_ops ops = {.name = "latest",
                           .select = select_latest,
                           .reset = reset_latest,
                           .destroy = destroy_latest};
    fb_selector *selector = NULL;
    OK(fb_selector_wrap(&ops, &state, &selector));
    cr_assert_str_eq(fb_selector_name(selector), "latest");
    cr_assert(!fb_selector_can_approximate(selector));
    random_stream random = random_named(742);
    problem p = problem_new(&random, (sizes){1, 5, 3, 8, 40, 16, 40});
    p.queries = fb_queries_rows(p.q, 1, 3, 8);
    fb_selector_input input = input_of(&p, 0.1);
    fb_selection selection = {0};
    OK(fb_selector_select(selector, &input, &selection));
    cr_assert(selection.num_lists == 3 && selection.counts[2] == 1 && selection.blocks[6] == 2);
    uint64_t id = fb_selection_id(&selection);
    for (state.mistake = 1; state.mistake <= 6; state.mistake++) {
        fb_status status = fb_selector_select(selector, &input, &selection);
        cr_assert_eq(status, state.mistake == 5 ? FB_ERROR_UNSUPPORTED : FB_ERROR_ARGUMENT,
                     "mistake %d", state.mistake);
        if (state.mistake != 5)
            expect_message("latest");
        cr_assert_eq(fb_selection_id(&selection), id, "untouched after mistake %d", state.mistake);
    }
    fb_part part = {0};
    cr_assert_eq(fb_selector_approximate(selector, &input, &selection, &part),
                 FB_ERROR_UNSUPPORTED);
    fb_selector_reset(selector);
    cr_assert(state.calls == 7 && state.resets == 1 && !destroyed);
    fb_selector_destroy(selector);
    cr_assert(destroyed);
    problem_free(&p);
    fb_selection_release(&selection);
}

/* --- errors ----------------------------------------------------------------------------------- */

Test(selector, creation_names_what_is_wrong) {
    fb_selector *selector = NULL;
    fb_selector_options options;
    fb_selector_options_init(&options);
    options.num_layers = 2;
    cr_assert_eq(fb_selector_create("quests", &options, &selector), FB_ERROR_ARGUMENT);
    expect_message("quests");
    cr_assert_eq(fb_selector_create(NULL, &options, &selector), FB_ERROR_ARGUMENT);
    cr_assert_eq(fb_selector_create("quest", NULL, &selector), FB_ERROR_ARGUMENT);
    cr_assert_eq(fb_selector_create("quest", &options, NULL), FB_ERROR_ARGUMENT);
    cr_assert_eq(fb_selector_create("given", &options, &selector), FB_ERROR_ARGUMENT);
    expect_message("options.given is NULL");
    fb_selection lists[3] = {{0}, {0}, {0}};
    options.given = lists, options.num_given = 3;
    cr_assert_eq(fb_selector_create("given", &options, &selector), FB_ERROR_ARGUMENT);
    expect_message("num_given is 3");
    options.num_given = 1;
    cr_assert_eq(fb_selector_create("given", &options, &selector), FB_ERROR_ARGUMENT);
    expect_message("options.given[0] has no lists");
    struct {
        const char *message;
        fb_selector_options options;
    } wrong[10];
    for (size_t i = 0; i < 10; i++) {
        fb_selector_options_init(&wrong[i].options);
        wrong[i].options.num_layers = 2;
    }
    wrong[0].message = "block_keys is 20", wrong[0].options.block_keys = 20;
    wrong[1].message = "block_keys is 0", wrong[1].options.block_keys = 0;
    wrong[2].message = "num_layers is 0", wrong[2].options.num_layers = 0;
    wrong[3].message = "dense_share is 1.5", wrong[3].options.dense_share = 1.5;
    wrong[4].message = "sparsed_scaling is 7",
    wrong[4].options.sparsed_scaling = (fb_sparsed_scaling)7;
    wrong[5].message = "mass_threshold is 0,", wrong[5].options.mass_threshold = 0.0;
    wrong[6].message = "mass_threshold is nan", wrong[6].options.mass_threshold = (double)NAN;
    wrong[7].message = "cluster_window is 40", wrong[7].options.cluster_window = 40;
    wrong[8].message = "cluster_keys is 0", wrong[8].options.cluster_keys = 0;
    wrong[9].message = "kmeans_iterations is 0", wrong[9].options.kmeans_iterations = 0;
    for (size_t i = 0; i < 10; i++) {
        cr_assert_eq(fb_selector_create("multipole", &wrong[i].options, &selector),
                     FB_ERROR_ARGUMENT, "%s", wrong[i].message);
        expect_message(wrong[i].message);
    }
    cr_assert_null(selector);
    cr_assert_eq(fb_selector_wrap(NULL, NULL, &selector), FB_ERROR_ARGUMENT);
    fb_selector_ops ops = {.name = "nothing"};
    cr_assert_eq(fb_selector_wrap(&ops, NULL, &selector), FB_ERROR_ARGUMENT);
    expect_message("ops.select is NULL");
    fb_selector_destroy(NULL);
}

Test(selector, inputs_name_what_is_wrong) {
    random_stream random = random_named(743);
    problem p = problem_new(&random, (sizes){2, 4, 2, 16, 100, 16, 100});
    fb_selector_options options = options_of(&p.n);
    fb_selector *selector = selector_new("multipole", &options);
    fb_selection selection = {0};
    fb_selector_input good = input_of(&p, 0.5), input = good;
    OK(fb_selector_select(selector, &good, &selection));
    uint64_t id = fb_selection_id(&selection);
#define EXPECT_WRONG(text)                                                                         \
    do {                                                                                           \
        cr_assert_eq(fb_selector_select(selector, &input, &selection), FB_ERROR_ARGUMENT, text);   \
        expect_message(text);                                                                      \
        cr_assert_eq(fb_selection_id(&selection), id, "untouched: " text);                         \
        input = good;                                                                              \
    } while (0)
    input.density = 1.25;
    EXPECT_WRONG("density is 1.25");
    input.density = (double)NAN;
    EXPECT_WRONG("density is nan");
    input.layer = 2;
    EXPECT_WRONG("layer is 2");
    input.context_length = 101;
    EXPECT_WRONG("101");
    input.kv = NULL;
    EXPECT_WRONG("kv is NULL");
    input.queries = NULL;
    EXPECT_WRONG("queries is NULL");
    fb_queries none = p.queries, odd = p.queries;
    none.num_queries = 0, input.queries = &none;
    EXPECT_WRONG("num_queries is 0");
    odd.num_heads = 3, input.queries = &odd;
    EXPECT_WRONG("num_heads is 3");
    cr_assert_eq(fb_selector_select(selector, NULL, &selection), FB_ERROR_ARGUMENT);
    cr_assert_eq(fb_selector_select(NULL, &good, &selection), FB_ERROR_ARGUMENT);
    cr_assert_eq(fb_selector_select(selector, &good, NULL), FB_ERROR_ARGUMENT);
    float out[2 * 4 * 16], lse[2 * 4];
    fb_part part = fb_part_rows(out, lse, 4, 16), nowhere = {0};
    cr_assert_eq(fb_selector_approximate(selector, &good, &selection, &nowhere), FB_ERROR_ARGUMENT);
    cr_assert_eq(fb_selector_approximate(selector, &good, NULL, &part), FB_ERROR_ARGUMENT);
    fb_selection other = {0};
    OK(fb_selection_begin(&other, 16, 90, 2));
    cr_assert_eq(fb_selector_approximate(selector, &good, &other, &part), FB_ERROR_ARGUMENT);
    expect_message("selection of 90 keys for a context of 100");
    OK(fb_selection_begin(&other, 16, 100, 4));
    cr_assert_eq(fb_selector_approximate(selector, &good, &other, &part), FB_ERROR_ARGUMENT);
    expect_message("4 lists");
    fb_selection_release(&other);
    fb_selection_release(&selection);
    fb_selector_destroy(selector);
    problem_free(&p);
}

/* Every name makes a selector of that name, and has a summary. */
Test(selector, names) {
    size_t count = 0;
    fb_selection list = {0};
    OK(fb_selection_begin(&list, 16, 16, 1));
    fb_selector_options options;
    fb_selector_options_init(&options);
    options.num_layers = 1;
    options.given = &list, options.num_given = 1;
    for (; fb_selector_known_name(count); count++) {
        fb_selector *selector = selector_new(fb_selector_known_name(count), &options);
        cr_assert_str_eq(fb_selector_name(selector), fb_selector_known_name(count));
        cr_assert(strlen(fb_selector_known_summary(count)) > 10);
        fb_selector_destroy(selector);
    }
    cr_assert_eq(count, NUM_NAMES + 1);
    cr_assert_null(fb_selector_known_summary(count));
    fb_selection_release(&list);
}
