/* What a generation cost, in words and as JSON. */
#include "cli/generate/summary.h"

#include "study/measures.h"

#include <flashblock/experimental/sparse.h>
#include <flashblock/runtime.h>
#include <flashblock/version.h>

#include <stdio.h>

static size_t prompt_tokens(const fb_session *session) {
    size_t count = 0;
    for (size_t i = 0; i < session->num_prompts; i++)
        count += session->prompts[i].num_tokens;
    return count;
}

/* Tokens written, per second of everything but the prompt's passes. */
static double tokens_per_second(const fb_generation *generation) {
    const fb_generate_stats *stats = fb_generation_stats(generation);
    return fb_measure_ratio((double)stats->counts->completion_tokens,
                            stats->seconds - stats->prefill.total);
}

/* Why fewer tokens were written than asked for, if it is not the model's own end of text. */
static const char *shortfall(const fb_generation *generation) {
    for (size_t i = 0; i < fb_generation_num_results(generation); i++)
        if (fb_generation_result(generation, i)->finish_reason == FB_FINISH_CONTEXT)
            return " until the model's context was full";
    return "";
}

void fb_summary_print(const fb_session *session, const fb_generation *generation) {
    const fb_generate_stats *stats = fb_generation_stats(generation);
    const fb_generate_counts *counts = stats->counts;
    const fb_forward_times *decode = &stats->decode;
    fprintf(stderr, "tokens     %zu written%s, %.1f/s; %zu of the prompt read in %.3f s\n",
            counts->completion_tokens, shortfall(generation), tokens_per_second(generation),
            prompt_tokens(session), stats->prefill.total);
    char rows[48] = "";
    if (counts->row_refreshes > 0)
        snprintf(rows, sizeof rows, "%zu refresh rows, ", counts->row_refreshes);
    fprintf(
        stderr,
        "passes     %zu: %zu prefill, %zu decode (steps: %zu refresh, %s%zu reuse; %zu commit)\n",
        stats->prefill_passes + stats->decode_passes, stats->prefill_passes, stats->decode_passes,
        counts->refreshes, rows, counts->reuses, counts->commits);
    const fb_sparse_counts *sparse = fb_generation_sparse_counts(generation);
    if (sparse->layers > 0)
        fprintf(stderr,
                "sparse     %.1f %% of earlier keys attended as selected, %.1f %% for residuals\n",
                100 * fb_measure_ratio(sparse->keys_selected, sparse->keys),
                100 * fb_measure_ratio(sparse->keys_residual, sparse->keys));
    fprintf(stderr, "attention  %.3f s of %.3f s in decode passes (%.1f %%)\n", decode->attention,
            decode->total, 100 * fb_measure_ratio(decode->attention, decode->total));
}

/* --- JSON --------------------------------------------------------------------------------------
 */

static json_t *ids_json(const int32_t *ids, size_t count) {
    json_t *array = json_array();
    for (size_t i = 0; i < count; i++)
        json_array_append_new(array, json_integer(ids[i]));
    return array;
}

static json_t *text_json(const fb_tokenizer *tokenizer, const int32_t *ids, size_t count) {
    char *text = NULL;
    size_t size = 0;
    if (fb_tokenizer_decode(tokenizer, ids, count, true, &text, &size) != FB_OK)
        return NULL;
    json_t *string = json_stringn(text, size);
    fb_text_free(text);
    return string;
}

static json_t *sampling_json(const fb_generate_options *options) {
    return json_pack("{s:f, s:b, s:I, s:f, s:I}", "temperature", options->temperature, "greedy",
                     options->greedy, "top_k", (json_int_t)options->top_k, "top_p", options->top_p,
                     "seed", (json_int_t)options->seed);
}

static json_t *sparse_json(const fb_sparse_options *sparse) {
    if (!sparse)
        return json_null();
    return json_pack("{s:s, s:f, s:I, s:s, s:b}", "selector", sparse->selector, "density",
                     sparse->density, "key_block", (json_int_t)sparse->choosing.block_keys,
                     "residual", fb_residual_name(sparse->residual), "select_every_step",
                     sparse->select_every_step);
}

/* What is beyond the paper. */
static json_t *reuse_json(const fb_reuse_policy *reuse) {
    return json_pack("{s:s, s:I, s:I, s:b, s:b}", "policy", reuse->rows ? "rows" : "tau",
                     "refresh_every", (json_int_t)reuse->refresh_every, "refresh_dirty",
                     (json_int_t)reuse->refresh_dirty, "refresh_commit", reuse->refresh_commit,
                     "correction", reuse->correction);
}

static const char *compat_name(fb_compat compat) {
    return compat == FB_COMPAT_RELEASED ? "released" : "paper";
}

static json_t *options_json(const fb_generate_options *options) {
    return json_pack(
        "{s:I, s:I, s:I, s:I, s:b, s:b, s:o, s:s, s:s, s:f, s:f, s:o, s:i, s:b, s:s, s:I, s:o}",
        "max_tokens", (json_int_t)options->max_tokens, "block_size",
        (json_int_t)options->block_size, "denoising_steps", (json_int_t)options->denoising_steps,
        "tau", (json_int_t)options->reuse.tau, "reuse_always", options->reuse.reuse_always,
        "reuse_at_commit", options->reuse.reuse_at_commit, "reuse", reuse_json(&options->reuse),
        "compat", compat_name(options->compat), "remasking", fb_remasking_name(options->remasking),
        "confidence_threshold", options->confidence_threshold, "entropy_bound",
        options->entropy_bound, "sampling", sampling_json(options), "mask_token_id",
        (int)options->mask_token_id, "ignore_eos", options->ignore_stop, "kv_dtype",
        fb_dtype_name(options->kv_dtype), "batch_size", (json_int_t)options->max_active, "sparse",
        sparse_json(options->sparse));
}

json_t *fb_summary_session_json(const fb_session *session) {
    fb_isa isa;
    if (fb_isa_current(&isa) != FB_OK)
        return NULL;
    return json_pack(
        "{s:s, s:s, s:i, s:{s:s, s:I, s:I}, s:o}", "version", fb_version(), "instruction_set",
        fb_isa_name(isa), "threads", fb_num_threads(), "model", "directory", session->directory,
        "parameters", (json_int_t)fb_model_num_parameters(session->model), "bytes",
        (json_int_t)fb_model_num_bytes(session->model), "options", options_json(&session->options));
}

static json_t *counts_json(const fb_generate_counts *counts) {
    return json_pack(
        "{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "prefill_tokens",
        (json_int_t)counts->prefill_tokens, "denoising_steps", (json_int_t)counts->denoising_steps,
        "refreshes", (json_int_t)counts->refreshes, "stores", (json_int_t)counts->stores, "reuses",
        (json_int_t)counts->reuses, "commits", (json_int_t)counts->commits, "accepted_tokens",
        (json_int_t)counts->accepted_tokens, "completion_tokens",
        (json_int_t)counts->completion_tokens, "row_refreshes", (json_int_t)counts->row_refreshes,
        "external_rows", (json_int_t)counts->external_rows);
}

/* Shares of the external keys; null where every key is attended. */
static json_t *attended_json(const fb_sparse_counts *counts) {
    if (counts->layers == 0)
        return json_null();
    return json_pack("{s:I, s:I, s:f, s:f}", "selections", (json_int_t)counts->selections,
                     "forced_refreshes", (json_int_t)counts->forced_refreshes, "selected_share",
                     fb_measure_ratio(counts->keys_selected, counts->keys), "residual_share",
                     fb_measure_ratio(counts->keys_residual, counts->keys));
}

static json_t *times_json(const fb_forward_times *times) {
    return json_pack("{s:f, s:f, s:f}", "attention", times->attention, "linear", times->linear,
                     "total", times->total);
}

static json_t *result_json(const fb_session *session, const fb_generate_result *result,
                           size_t index) {
    const fb_prompt *prompt = &session->prompts[index];
    return json_pack(
        "{s:I, s:I, s:o, s:o, s:o, s:o, s:s, s:o}", "prompt",
        (json_int_t)(index / session->samples), "sample", (json_int_t)(index % session->samples),
        "prompt_token_ids", ids_json(prompt->tokens, prompt->num_tokens), "text",
        text_json(session->tokenizer, result->tokens, result->num_tokens), "token_ids",
        ids_json(result->tokens, result->num_tokens), "unmask_step",
        ids_json(result->unmask_step, result->num_tokens), "finish_reason",
        fb_finish_reason_name(result->finish_reason), "counts", counts_json(result->counts));
}

json_t *fb_summary_generation_json(const fb_session *session, const fb_generation *generation) {
    const fb_generate_stats *stats = fb_generation_stats(generation);
    json_t *results = json_array();
    for (size_t i = 0; i < fb_generation_num_results(generation); i++)
        json_array_append_new(results,
                              result_json(session, fb_generation_result(generation, i), i));
    return json_pack("{s:o, s:o, s:o, s:I, s:I, s:{s:f, s:o, s:o}, s:f, s:f}", "results", results,
                     "sparse", attended_json(fb_generation_sparse_counts(generation)), "counts",
                     counts_json(stats->counts), "prefill_passes",
                     (json_int_t)stats->prefill_passes, "decode_passes",
                     (json_int_t)stats->decode_passes, "seconds", "total", stats->seconds,
                     "prefill", times_json(&stats->prefill), "decode", times_json(&stats->decode),
                     "tokens_per_second", tokens_per_second(generation), "attention_share",
                     fb_measure_ratio(stats->decode.attention, stats->decode.total));
}
