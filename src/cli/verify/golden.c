/* flashblock golden: a scripted denoising sequence, or one attention, as a case file. */
#include "base/error.h"
#include "cli/commands.h"
#include "cli/options/common_options.h"
#include "cli/options/isa_choice.h"
#include "cli/options/number_list.h"
#include "cli/options/options.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "oracle/attention_case.h"
#include "oracle/script.h"

#include <flashblock/runtime.h>

#include <math.h>
#include <stdio.h>
#include <string.h>

/* The command line; NO_SIZE stands for the preset's value. */
typedef struct settings {
    const char *output, *json;
    fb_script_config preset;
    size_t context, block_size, tau, steps, threads;
    fb_dtype dtype;
    uint64_t seed;
    bool rows, correction;
    bool attention; /* the kind */
    size_t queries, keys, batch, mask_block, first_query, first_key;
    fb_number_list key_lengths;
} settings;

#define NO_SIZE SIZE_MAX

static fb_status parse_kind(const char *text, void *target) {
    bool *attention = target;
    *attention = strcmp(text, "attention") == 0;
    if (*attention || strcmp(text, "denoising_sequence") == 0)
        return FB_OK;
    return fb_fail(FB_ERROR_ARGUMENT, "'%s', expected denoising_sequence or attention", text);
}

static fb_status parse_preset(const char *text, void *target) {
    return fb_script_preset(text, target);
}

#define TARGET(field) .target = offsetof(settings, field)

static const fb_option options[] = {
    {.kind = FB_OPTION_OUTPUT,
     .name = "output",
     .letter = 'o',
     .argument = "FILE",
     TARGET(output),
     .required = true,
     .help = "the case file to write (.safetensors)"},
    {.kind = FB_OPTION_PARSED,
     .name = "kind",
     .argument = "KIND",
     TARGET(attention),
     .otherwise = "denoising_sequence",
     .parse = parse_kind,
     .help = "the kind of case: denoising_sequence, or attention: one attention over keys"},
    {.kind = FB_OPTION_PARSED,
     .name = "preset",
     .argument = "NAME",
     TARGET(preset),
     .otherwise = "tiny",
     .parse = parse_preset,
     .help = "whose attention: trado-8b, sdar-8b (32 heads, 8 KV heads of 128), sdar-1.7b (16, 8), "
             "longlive-1.3b (12, 12; a block of 3 frames of 1560 tokens), tiny (6, 2 of 32)"},
    {.kind = FB_OPTION_SIZE,
     .name = "context",
     .needs = "kind!=attention",
     .argument = "N",
     TARGET(context),
     .max = 1 << 24,
     .help = "committed tokens before the block; the preset's is 4096 (longlive-1.3b: 14040, "
             "tiny: 100)"},
    {.kind = FB_OPTION_SIZE,
     .name = "block-size",
     .needs = "kind!=attention",
     .argument = "N",
     TARGET(block_size),
     .min = 1,
     .max = 1 << 20,
     .help = "tokens of the block; the preset's is 4 (longlive-1.3b: 4680)"},
    {.kind = FB_OPTION_SIZE,
     .name = "tau",
     .needs = "kind!=attention",
     .argument = "N",
     TARGET(tau),
     .max = 1 << 24,
     .help = "reuse while fewer tokens than this were accepted since the last refresh; 0: dense; "
             "the preset's is 2 (longlive-1.3b: 2340), with --reuse rows 1"},
    {.kind = FB_OPTION_PARSED,
     .name = "reuse",
     .needs = "reuse=tau|tau!=0 kind!=attention",
     .argument = "NAME",
     TARGET(rows),
     .otherwise = "tau",
     .parse = fb_option_parse_reuse,
     .help = "what is computed when it is time to: \"tau\": all rows; \"rows\": those whose token "
             "was accepted since they were computed"},
    {.kind = FB_OPTION_FLAG,
     .name = "correction",
     .needs = "tau!=0 kind!=attention",
     TARGET(correction),
     .help = "the LSEs of rows that are taken from the cache are corrected to first order"},
    {.kind = FB_OPTION_SIZE,
     .name = "steps",
     .needs = "kind!=attention",
     .argument = "N",
     TARGET(steps),
     .min = 1,
     .max = FB_SCRIPT_MAX_STEPS,
     .help = "denoising steps, at most the block's tokens; the preset's is 4. The commit pass "
             "follows them"},
    {.kind = FB_OPTION_SIZE,
     .name = "queries",
     .needs = "kind=attention",
     .argument = "N",
     TARGET(queries),
     .min = 1,
     .max = 1 << 20,
     .otherwise = "4",
     .help = "queries of each sequence"},
    {.kind = FB_OPTION_SIZE,
     .name = "keys",
     .needs = "kind=attention",
     .argument = "N",
     TARGET(keys),
     .max = 1 << 24,
     .help = "keys of each sequence: 40, or the most of --key-lengths"},
    {.kind = FB_OPTION_SIZE,
     .name = "batch",
     .needs = "kind=attention !key-lengths",
     .argument = "N",
     TARGET(batch),
     .min = 1,
     .max = 1 << 16,
     .help = "sequences of the batch; 1, or as many as --key-lengths has numbers"},
    {.kind = FB_OPTION_PARSED,
     .name = "key-lengths",
     .needs = "kind=attention",
     .argument = "N,N...",
     TARGET(key_lengths),
     .parse = fb_number_list_parse,
     .help =
         "for each sequence of the batch, how many keys it has, also 0; the tensors have --keys, "
         "and those after its own must not be read"},
    {.kind = FB_OPTION_SIZE,
     .name = "mask-block",
     .needs = "kind=attention",
     .argument = "N",
     TARGET(mask_block),
     .min = 1,
     .max = 1 << 24,
     .help = "a block-causal mask: a query sees the keys of its block of N tokens, and of those "
             "before it"},
    {.kind = FB_OPTION_SIZE,
     .name = "first-query",
     .needs = "mask-block",
     .argument = "N",
     TARGET(first_query),
     .max = 1 << 24,
     .help = "position of the first query, for the mask; by default the last query stands where "
             "the last key does"},
    {.kind = FB_OPTION_SIZE,
     .name = "first-key",
     .needs = "mask-block",
     .argument = "N",
     TARGET(first_key),
     .max = 1 << 24,
     .otherwise = "0",
     .help = "position of the first key, for the mask"},
    {.kind = FB_OPTION_PARSED,
     .name = "dtype",
     .argument = "TYPE",
     TARGET(dtype),
     .otherwise = "f32",
     .parse = fb_option_parse_dtype,
     .help = "the type of queries, keys and values: f32, bf16 or f16"},
    FB_SEED_OPTION(settings, seed, "1", "another seed, other numbers"),
    FB_THREADS_OPTION(settings, threads, "threads; they change no bit of the file"),
    FB_JSON_OPTION(settings, json, "write what the case is as JSON to FILE, or to standard output"),
};

static const fb_option_table table = {
    .usage = "golden --output FILE [OPTION]...",
    .summary =
        "Writes a scripted denoising sequence: inputs, reuse decisions, this build's outputs and\n"
        "stored parts, and the float64 truth; or a case of one attention, which may be short,\n"
        "batched, masked, with sequences of several lengths. The same options give the same bytes\n"
        "on every machine. `flashblock verify FILE --candidate RESULTS` then judges a port's "
        "results.",
    FB_TABLE_OPTIONS(options),
};

static fb_script_config config_of(const settings *chosen) {
    fb_script_config config = chosen->preset;
    config.dtype = chosen->dtype;
    config.seed = chosen->seed;
    if (chosen->context != NO_SIZE)
        config.context_length = chosen->context;
    if (chosen->block_size != NO_SIZE)
        config.block_size = chosen->block_size;
    config.rows = chosen->rows;
    config.correction = chosen->correction;
    if (chosen->rows)
        config.tau = 1;
    if (chosen->tau != NO_SIZE)
        config.tau = chosen->tau;
    if (chosen->steps != NO_SIZE)
        config.steps = chosen->steps;
    return config;
}

/* Shown where the float64 products of one pass take more than some seconds. */
static void show_progress(void *context, size_t done, size_t total) {
    const fb_script_config *c = context;
    double products = 2.0 * (double)c->block_size * (double)c->num_heads * (double)c->head_dim *
                      (double)(c->context_length + c->block_size);
    if (products > 4e9)
        fb_progress("truth of %zu of %zu passes", done, total);
}

static void put_pass(fb_json_writer *w, const fb_script *s, size_t index) {
    const fb_script_config *c = &s->config;
    const fb_script_pass *pass = &s->passes[index];
    fb_json_open_object(w, NULL);
    fb_json_put_bool(w, "commit", index == c->steps);
    fb_json_put_string(w, "action", fb_reuse_action_name((fb_reuse_action)pass->action));
    fb_json_put_int64(w, "dirty", pass->dirty);
    fb_json_put_size(w, "external_part_of", pass->source);
    fb_json_open_array(w, "accepted");
    for (size_t token = 0; token < c->block_size; token++)
        if (pass->accepted[token])
            fb_json_put_size(w, NULL, token);
    fb_json_close_array(w);
    fb_json_close_object(w);
}

static fb_status write_json(const fb_script *s, const settings *chosen) {
    fb_buffer text = {0};
    fb_json_writer w = fb_json_output(&text);
    fb_json_open_object(&w, NULL);
    fb_json_put_text(&w, "file", chosen->output);
    fb_script_put_params(&s->config, &w);
    fb_json_put_string(&w, "kind", "denoising_sequence");
    fb_json_open_array(&w, "passes");
    for (size_t i = 0; i < s->num_passes; i++)
        put_pass(&w, s, i);
    fb_json_close_array(&w);
    fb_json_close_object(&w);
    return fb_write_json(&w, chosen->json);
}

static void print(const fb_script *s, const char *path) {
    FILE *to = fb_text_stream(path);
    const fb_script_config *c = &s->config;
    fprintf(to,
            "%s: %s, %zu heads, %zu KV heads of %zu, block of %zu after %zu tokens, tau %zu, %s\n",
            path, c->preset, c->num_heads, c->num_kv_heads, c->head_dim, c->block_size,
            c->context_length, c->tau, fb_dtype_name(c->dtype));
    for (size_t i = 0; i < s->num_passes; i++) {
        const fb_script_pass *pass = &s->passes[i];
        size_t accepted = 0;
        for (size_t token = 0; token < c->block_size; token++)
            accepted += pass->accepted[token] != 0;
        fprintf(to, "  step%02zu  %-14s%d dirty, %zu accepted%s\n", i,
                fb_reuse_action_name((fb_reuse_action)pass->action), (int)pass->dirty, accepted,
                i == c->steps ? " (commit)" : "");
    }
}

static fb_status make_script(fb_script *s, const settings *chosen) {
    FB_TRY(fb_script_generate(s));
    FB_TRY(fb_script_round_queries(s));
    FB_TRY(fb_script_run(s));
    FB_TRY(fb_script_find_truth(s, show_progress, &s->config));
    fb_progress_end();
    FB_TRY(fb_script_write(s, fb_output_path(chosen->output)));
    if (!chosen->json) {
        print(s, chosen->output);
        return FB_OK;
    }
    return write_json(s, chosen);
}

static fb_status run_script(const settings *chosen) {
    fb_script_config config = config_of(chosen);
    fb_script *s = NULL;
    fb_status status = fb_script_create(&config, &s);
    if (status == FB_OK)
        status = make_script(s, chosen);
    fb_script_free(s);
    return status;
}

/* --- one attention ---------------------------------------------------------------------------- */

static fb_attention_case attention_of(const settings *chosen) {
    const fb_number_list *lengths = &chosen->key_lengths;
    size_t keys = lengths->count ? 0 : 40;
    for (size_t b = 0; b < lengths->count; b++)
        keys = lengths->values[b] > keys ? lengths->values[b] : keys;
    fb_attention_problem p = {
        .batch = lengths->count             ? lengths->count
                 : chosen->batch != NO_SIZE ? chosen->batch
                                            : 1,
        .queries = chosen->queries,
        .keys = chosen->keys != NO_SIZE ? chosen->keys : keys,
        .heads = chosen->preset.num_heads,
        .kv_heads = chosen->preset.num_kv_heads,
        .head_dim = chosen->preset.head_dim,
        .scale = 1.0 / sqrt((double)chosen->preset.head_dim),
        .key_lengths = lengths->count ? lengths->values : NULL,
    };
    if (chosen->mask_block != NO_SIZE) {
        size_t last = chosen->first_key + p.keys;
        p.mask = (fb_mask){FB_MASK_BLOCK_CAUSAL, chosen->mask_block, chosen->first_query,
                           chosen->first_key};
        if (chosen->first_query == NO_SIZE)
            p.mask.first_query = last > p.queries ? last - p.queries : 0;
    }
    return (fb_attention_case){.preset = chosen->preset.preset,
                               .problem = p,
                               .dtype = chosen->dtype,
                               .seed = chosen->seed};
}

static fb_status write_attention_json(const fb_attention_case *made, const settings *chosen) {
    fb_buffer text = {0};
    fb_json_writer w = fb_json_output(&text);
    fb_json_open_object(&w, NULL);
    fb_json_put_text(&w, "file", chosen->output);
    fb_attention_case_put_params(made, &w);
    fb_json_put_string(&w, "dtype", fb_dtype_name(made->dtype));
    fb_json_put_string(&w, "kind", "attention");
    fb_json_close_object(&w);
    return fb_write_json(&w, chosen->json);
}

static void print_attention(const fb_attention_case *made, const char *path) {
    FILE *to = fb_text_stream(path);
    const fb_attention_problem *p = &made->problem;
    fprintf(to, "%s: %s, %zu heads, %zu KV heads of %zu, %zu x %zu queries over %zu keys, %s\n",
            path, made->preset, p->heads, p->kv_heads, p->head_dim, p->batch, p->queries, p->keys,
            fb_dtype_name(made->dtype));
    for (size_t b = 0; p->key_lengths && b < p->batch; b++)
        fprintf(to, "  sequence %zu  %zu keys\n", b, p->key_lengths[b]);
    if (p->mask.kind == FB_MASK_BLOCK_CAUSAL)
        fprintf(to, "  block-causal mask of %zu tokens, queries from %zu, keys from %zu\n",
                p->mask.block_size, p->mask.first_query, p->mask.first_key);
}

static fb_status run_attention(const settings *chosen) {
    fb_attention_case made = attention_of(chosen);
    size_t most = chosen->keys != NO_SIZE ? chosen->keys : 1 << 24;
    FB_TRY(fb_number_list_check(&chosen->key_lengths, "key-lengths", 0, most));
    FB_TRY(fb_attention_case_write(&made, fb_output_path(chosen->output)));
    if (chosen->json)
        return write_attention_json(&made, chosen);
    print_attention(&made, chosen->output);
    return FB_OK;
}

int fb_command_golden(int argc, char **argv) {
    settings chosen = {.context = NO_SIZE,
                       .block_size = NO_SIZE,
                       .tau = NO_SIZE,
                       .steps = NO_SIZE,
                       .keys = NO_SIZE,
                       .batch = NO_SIZE,
                       .mask_block = NO_SIZE,
                       .first_query = NO_SIZE};
    int exit_status;
    if (!fb_options_parse(&table, argc, argv, &chosen, &exit_status))
        return exit_status;
    fb_status status = fb_isa_choice_set(chosen.threads, FB_ISA_CHOICE_CURRENT);
    if (status == FB_OK)
        status = chosen.attention ? run_attention(&chosen) : run_script(&chosen);
    return fb_report_status(status);
}
