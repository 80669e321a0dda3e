/* A selector of your own: it says which key blocks a query block attends to. This one scores a
 * block by its mean key, and is compared with two of the library. Only a quarter of the context is
 * read. */
#include <flashblock/experimental/selector.h>
#include <flashblock/flashblock.h>

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

enum { QUERIES = 4, HEADS = 4, HEAD_DIM = 64, KEYS = 1024, BLOCK_KEYS = 64 };
enum { ROWS = QUERIES * HEADS, BLOCKS = KEYS / BLOCK_KEYS };

static void check(fb_status status) {
    if (status == FB_OK)
        return;
    fprintf(stderr, "%s\n", fb_error_message());
    exit(1);
}

/* Numbers between -2 and 2 that are the same everywhere. */
static void fill(float *values, size_t count, uint32_t seed) {
    for (size_t i = 0; i < count; i++) {
        seed = seed * 1664525u + 1013904223u;
        values[i] = (float)(int32_t)seed * 0x1p-30f;
    }
}

/* The sum of q . mean(keys of the block) over all queries and heads: one KV head serves them. */
static double score(const fb_selector_input *input, size_t block) {
    const float *q = input->queries->q, *k = input->kv->k; /* dense, [.., HEAD_DIM] */
    double sum = 0.0;
    for (size_t row = 0; row < ROWS; row++)
        for (size_t token = block * BLOCK_KEYS; token < (block + 1) * BLOCK_KEYS; token++)
            for (size_t d = 0; d < HEAD_DIM; d++)
                sum += (double)q[row * HEAD_DIM + d] * (double)k[token * HEAD_DIM + d];
    return sum / BLOCK_KEYS;
}

/* What fb_selector_ops asks for: begin the selection, set the list of each KV head. */
static fb_status by_mean_key(void *state, const fb_selector_input *input, fb_selection *selection) {
    double scores[BLOCKS];
    (void)state; /* nothing is remembered from call to call */
    fb_status status = fb_selection_begin(selection, BLOCK_KEYS, input->context_length, 1);
    if (status != FB_OK)
        return status;
    for (size_t block = 0; block < BLOCKS; block++)
        scores[block] = score(input, block);
    return fb_selection_set_top(selection, 0, scores, fb_selection_budget(BLOCKS, input->density));
}

/* The part over the selected keys, compared with the part over all of them. */
static void show(fb_selector *selector, const fb_selector_input *input) {
    static float out[ROWS * HEAD_DIM], lse[2][ROWS];
    fb_selection selection = {0};
    check(fb_selector_select(selector, input, &selection));
    fb_range ranges[BLOCKS], all = {0, KEYS};
    size_t num_ranges = fb_selection_ranges(&selection, 0, ranges);
    const fb_view views[2] = {{input->kv, ranges, num_ranges}, {input->kv, &all, 1}};
    for (int i = 0; i < 2; i++) {
        fb_part part = fb_part_rows(out, lse[i], HEADS, HEAD_DIM);
        check(fb_attend(input->queries, &views[i], NULL, 0, &part));
    }
    double mass = 0.0;
    for (int row = 0; row < ROWS; row++)
        mass += exp((double)(lse[0][row] - lse[1][row])) / ROWS;
    printf("%-12s reads %3zu of %d keys, %5.1f %% of the softmax mass: blocks",
           fb_selector_name(selector), fb_selection_tokens(&selection, 0), KEYS, 100.0 * mass);
    for (size_t i = 0; i < selection.counts[0]; i++)
        printf(" %zu", selection.blocks[i]);
    puts("");
    fb_selection_release(&selection);
    fb_selector_destroy(selector);
}

int main(void) {
    static float q[ROWS * HEAD_DIM], k[KEYS * HEAD_DIM], v[KEYS * HEAD_DIM], topic[HEAD_DIM];
    fill(q, ROWS * HEAD_DIM, 1), fill(topic, HEAD_DIM, 2);
    fill(k, KEYS * HEAD_DIM, 3), fill(v, KEYS * HEAD_DIM, 4);
    for (size_t i = 0; i < ROWS * HEAD_DIM; i++) /* all queries ask for something ... */
        q[i] += topic[i % HEAD_DIM];
    for (size_t i = 400 * HEAD_DIM; i < 500 * HEAD_DIM; i++) /* that tokens 400 to 499 have */
        k[i] += 0.5f * topic[i % HEAD_DIM];
    puts("Tokens 400 to 499, in blocks 6 and 7, are what the queries ask for.");
    const fb_queries queries = fb_queries_rows(q, QUERIES, HEADS, HEAD_DIM);
    const fb_kv kv = fb_kv_rows(FB_F32, k, v, KEYS, 1, HEAD_DIM);
    const fb_selector_input input = {
        .queries = &queries, .kv = &kv, .context_length = KEYS, .density = 0.25};
    const fb_selector_ops ops = {.name = "by_mean_key", .select = by_mean_key};
    fb_selector *mine, *sink_window, *quest;
    fb_selector_options options;
    fb_selector_options_init(&options), options.num_layers = 1;
    check(fb_selector_wrap(&ops, NULL, &mine));
    check(fb_selector_create("sink_window", &options, &sink_window));
    check(fb_selector_create("quest", &options, &quest));
    show(mine, &input), show(sink_window, &input), show(quest, &input);
    return 0;
}
