#include "cli/bench/attention_settings.h"

#include "base/error.h"
#include "bench/peers.h"
#include "cli/options/word_list.h"

#include <stdio.h>
#include <string.h>

static fb_status parse_dtypes(const char *text, void *target) {
    fb_dtype_list *list = target;
    return fb_word_list_parse(text, fb_option_parse_kv_dtype, list->values, sizeof list->values[0],
                              sizeof list->values / sizeof list->values[0], &list->count);
}

static fb_status parse_preset(const char *text, void *target) {
    return fb_bench_preset_find(text, target);
}

#define TARGET(field) .target = offsetof(fb_attention_settings, field)

static const fb_option options[] = {
    {.kind = FB_OPTION_GROUP, .help = "Shape"},
    {.kind = FB_OPTION_PARSED,
     .name = "preset",
     .argument = "NAME",
     TARGET(preset),
     .parse = parse_preset,
     .help = "trado-8b (32 heads, 8 KV heads of 128, 4 queries; contexts of 1k, 4k, 16k, 32k), "
             "trado-8b-q32 (the same with 32 queries; 4k, 16k), video (12 heads of 128, 4680 "
             "queries; 18720), small (4 heads of 64, 32 queries; 2k), goals (all of these)"},
    {.kind = FB_OPTION_SIZE,
     .name = "heads",
     .needs = "!preset",
     .argument = "N",
     TARGET(custom.num_heads),
     .min = 1,
     .max = 4096,
     .otherwise = "32",
     .help = "query heads, where no preset is given; a multiple of --kv-heads"},
    {.kind = FB_OPTION_SIZE,
     .name = "kv-heads",
     .needs = "!preset",
     .argument = "N",
     TARGET(custom.num_kv_heads),
     .min = 1,
     .max = 4096,
     .otherwise = "8",
     .help = "heads of keys and values"},
    {.kind = FB_OPTION_SIZE,
     .name = "head-dim",
     .needs = "!preset",
     .argument = "N",
     TARGET(custom.head_dim),
     .min = 1,
     .max = 65536,
     .otherwise = "128",
     .help = "numbers of a head's query, key or value"},
    {.kind = FB_OPTION_SIZE,
     .name = "queries",
     .argument = "N",
     TARGET(queries),
     .min = 1,
     .max = 1 << 20,
     .help = "tokens of the block (default: the preset's, or 4)"},
    {.kind = FB_OPTION_PARSED,
     .name = "context",
     .argument = "LIST",
     TARGET(contexts),
     .parse = fb_number_list_parse,
     .help = "tokens before the block, such as 4k,16k (default: the preset's, or 4k)"},
    {.kind = FB_OPTION_PARSED,
     .name = "dtype",
     .argument = "LIST",
     TARGET(dtypes),
     .parse = parse_dtypes,
     .otherwise = "f32",
     .help = "how keys and values are stored: f32, bf16, f16, int8, or several, such as f32,bf16"},

    {.kind = FB_OPTION_GROUP, .help = "What is measured"},
    {.kind = FB_OPTION_PARSED,
     .name = "tau",
     .needs = "!no-steps",
     .argument = "LIST",
     TARGET(taus),
     .parse = fb_number_list_parse,
     .otherwise = "2",
     .help = "whole blocks are measured with each of these, in tokens"},
    {.kind = FB_OPTION_FLAG,
     .name = "row-refresh",
     .needs = "!no-steps",
     TARGET(row_refresh),
     .help = "also the refresh of one row, steps with the first-order correction, and whole blocks "
             "refreshed by rows, with and without it"},
    {.kind = FB_OPTION_SIZE,
     .name = "steps",
     .needs = "!no-steps",
     .argument = "N",
     TARGET(steps),
     .min = 1,
     .max = 1 << 20,
     .help = "denoising steps of a block, at most its tokens (default: one for each token, 4 where "
             "these are more than 32)"},
    {.kind = FB_OPTION_PARSED,
     .name = "density",
     .argument = "LIST",
     TARGET(percents),
     .parse = fb_number_list_parse,
     .help = "also attention to this share of the context, in percent, such as 10,25: scattered "
             "key blocks of 64 tokens, other ones for each KV head"},
    {.kind = FB_OPTION_FLAG,
     .name = "peers",
     TARGET(all_peers),
     .help = "also what a user would otherwise compose, where this build has it: matrix products "
             "of OpenBLAS, BLIS and oneDNN with a vectorised softmax between them, the query heads "
             "of one KV head folded into rows"},
    {.kind = FB_OPTION_LIST,
     .name = "peer",
     .argument = "NAME",
     TARGET(named_peers),
     .help = "one of these peers: openblas, blis or onednn; may be given several times"},
    {.kind = FB_OPTION_FLAG,
     .name = "no-steps",
     TARGET(no_steps),
     .help = "attention to the context only: no refresh, no reuse, no blocks"},

    {.kind = FB_OPTION_GROUP, .help = "How it is measured"},
    FB_BENCH_TIMING_OPTIONS(fb_attention_settings, "7", "1"),

    {.kind = FB_OPTION_GROUP, .help = "Output"},
    FB_BENCH_JSON_OPTION(fb_attention_settings),
};

const fb_option_table fb_attention_settings_table = {
    .usage = "bench attention [OPTION]...",
    .summary =
        "Times attention of a block's queries to its context, and the steps of a block: dense,\n"
        "refresh, reuse, whole blocks. Everything is measured in turn, round after round, "
        "together\n"
        "with the multiply-adds that the cores can do and the bandwidth of memory.",
    FB_TABLE_OPTIONS(options),
};

/* --- shapes ----------------------------------------------------------------------------------- */

bool fb_attention_settings_family(const fb_attention_settings *settings, size_t i,
                                  fb_bench_family *family) {
    const fb_bench_preset *preset = settings->preset;
    if (i >= (preset ? preset->num_families : 1))
        return false;
    *family = preset ? preset->families[i] : settings->custom;
    if (settings->queries)
        family->num_queries = settings->queries;
    if (settings->contexts.count) {
        family->num_contexts = settings->contexts.count;
        memcpy(family->contexts, settings->contexts.values, sizeof family->contexts);
    }
    return true;
}

size_t fb_attention_settings_steps(const fb_attention_settings *settings, size_t queries) {
    if (settings->steps)
        return settings->steps;
    return queries > 32 ? 4 : queries;
}

static void complete_custom(fb_attention_settings *settings) {
    fb_bench_family *custom = &settings->custom;
    snprintf(settings->custom_name, sizeof settings->custom_name, "h%zu-kv%zu-d%zu",
             custom->num_heads, custom->num_kv_heads, custom->head_dim);
    custom->name = settings->custom_name;
    custom->num_queries = 4;
    custom->contexts[0] = 4096;
    custom->num_contexts = 1;
}

/* --- checks ----------------------------------------------------------------------------------- */

static fb_status check_peers(const fb_attention_settings *settings) {
    for (size_t i = 0; i < settings->named_peers.count; i++) {
        const fb_peer *peer = NULL;
        fb_status status = fb_peer_open(settings->named_peers.values[i].text, &peer);
        if (status != FB_OK)
            return fb_fail_in(status, "--peer");
    }
    return FB_OK;
}

static fb_status check_family(const fb_attention_settings *settings,
                              const fb_bench_family *family) {
    if (family->num_heads % family->num_kv_heads != 0)
        return fb_fail(FB_ERROR_ARGUMENT, "--heads: %zu is not a multiple of --kv-heads, %zu",
                       family->num_heads, family->num_kv_heads);
    if (settings->steps > family->num_queries)
        return fb_fail(FB_ERROR_ARGUMENT, "--steps: %zu are more than the block's %zu tokens",
                       settings->steps, family->num_queries);
    for (size_t i = 0; i < family->num_contexts; i++)
        if (settings->no_steps && family->contexts[i] == 0)
            return fb_fail(FB_ERROR_ARGUMENT, "--context: with --no-steps, 0 leaves nothing to do");
    return FB_OK;
}

fb_status fb_attention_settings_check(fb_attention_settings *settings) {
    fb_bench_family family;
    complete_custom(settings);
    FB_TRY(fb_number_list_check(&settings->percents, "density", 0, 100));
    FB_TRY(check_peers(settings));
    for (size_t i = 0; fb_attention_settings_family(settings, i, &family); i++)
        FB_TRY(check_family(settings, &family));
    return FB_OK;
}
