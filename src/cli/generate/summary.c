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

/* The options that do what the model's files ask for. */
void fb_summary_print_sampling(const fb_session *session) {
    const fb_model_config *config = fb_model_config_of(session->model);
    if (!config->do_sample || session->chose_sampling)
        return;
    fprintf(stderr, "sampling   none; the model's files ask for --temperature %g",
            config->temperature);
    if (config->top_k > 0)
        fprintf(stderr, " --top-k %zu", config->top_k);
    if (config->top_p > 0.0 && config->top_p < 1.0)
        fprintf(stderr, " --top-p %g", config->top_p);
    fputc('\n', stderr);
}

/* --- JSON --------------------------------------------------------------------------------------
 */

static void put_ids(fb_json_writer *w, const char *key, const int32_t *ids, size_t count) {
    fb_json_open_array(w, key);
    for (size_t i = 0; i < count; i++)
        fb_json_put_int64(w, NULL, ids[i]);
    fb_json_close_array(w);
}

static void put_decoded(fb_json_writer *w, const char *key, const fb_tokenizer *tokenizer,
                        const int32_t *ids, size_t count) {
    char *text = NULL;
    size_t size = 0;
    fb_status status = fb_tokenizer_decode(tokenizer, ids, count, true, &text, &size);
    fb_json_fail(w, status);
    if (status == FB_OK)
        fb_json_put_bytes(w, key, text, size);
    fb_text_free(text);
}

static void put_sampling(fb_json_writer *w, const char *key, const fb_generate_options *options) {
    fb_json_open_object(w, key);
    fb_json_put_double(w, "temperature", options->temperature);
    fb_json_put_bool(w, "greedy", options->greedy);
    fb_json_put_size(w, "top_k", options->top_k);
    fb_json_put_double(w, "top_p", options->top_p);
    fb_json_put_uint64(w, "seed", options->seed);
    fb_json_close_object(w);
}

static void put_sparse(fb_json_writer *w, const char *key, const fb_sparse_options *sparse) {
    if (!sparse) {
        fb_json_put_null(w, key);
        return;
    }
    fb_json_open_object(w, key);
    fb_json_put_string(w, "selector", sparse->selector);
    fb_json_put_double(w, "density", sparse->density);
    fb_json_put_size(w, "key_block", sparse->choosing.block_keys);
    fb_json_put_string(w, "residual", fb_residual_name(sparse->residual));
    fb_json_put_bool(w, "select_every_step", sparse->select_every_step);
    fb_json_close_object(w);
}

/* What is beyond the paper. */
static void put_reuse(fb_json_writer *w, const char *key, const fb_reuse_policy *reuse) {
    fb_json_open_object(w, key);
    fb_json_put_string(w, "policy", reuse->rows ? "rows" : "tau");
    fb_json_put_size(w, "refresh_every", reuse->refresh_every);
    fb_json_put_size(w, "refresh_dirty", reuse->refresh_dirty);
    fb_json_put_bool(w, "refresh_commit", reuse->refresh_commit);
    fb_json_put_bool(w, "correction", reuse->correction);
    fb_json_close_object(w);
}

static const char *compat_name(fb_compat compat) {
    return compat == FB_COMPAT_RELEASED ? "released" : "paper";
}

/* Those that the loop has. */
static void put_loop(fb_json_writer *w, const char *key, const fb_generate_options *options) {
    fb_json_open_object(w, key);
    if (options->loop == FB_LOOP_LLADA2_EDITING) {
        fb_json_put_double(w, "editing_threshold", options->editing_threshold);
        fb_json_put_size(w, "max_post_steps", options->max_post_steps);
        fb_json_put_size(w, "max_block_steps", options->max_block_steps);
        fb_json_put_size(w, "num_to_transfer", options->num_to_transfer);
    }
    if (options->loop == FB_LOOP_LLADA2 || options->loop == FB_LOOP_LLADA2_EDITING) {
        fb_json_put_bool(w, "early_stop", options->early_stop);
        fb_json_put_double(w, "repeat_penalty", options->repeat_penalty);
    }
    if (options->loop == FB_LOOP_FAST_DLLM_V2) {
        fb_json_put_size(w, "small_block", options->small_block);
        fb_json_put_bool(w, "block_cache", options->block_cache);
    }
    fb_json_close_object(w);
}

static void put_options(fb_json_writer *w, const char *key, const fb_generate_options *options) {
    fb_json_open_object(w, key);
    fb_json_put_size(w, "max_tokens", options->max_tokens);
    fb_json_put_size(w, "block_size", options->block_size);
    fb_json_put_size(w, "denoising_steps", options->denoising_steps);
    fb_json_put_size(w, "tau", options->reuse.tau);
    fb_json_put_bool(w, "reuse_always", options->reuse.reuse_always);
    fb_json_put_bool(w, "reuse_at_commit", options->reuse.reuse_at_commit);
    put_reuse(w, "reuse", &options->reuse);
    fb_json_put_string(w, "compat", compat_name(options->compat));
    fb_json_put_string(w, "loop", fb_decoding_loop_name(options->loop));
    put_loop(w, "loop_options", options);
    fb_json_put_string(w, "remasking", fb_remasking_name(options->remasking));
    fb_json_put_double(w, "confidence_threshold", options->confidence_threshold);
    fb_json_put_double(w, "entropy_bound", options->entropy_bound);
    put_sampling(w, "sampling", options);
    fb_json_put_int64(w, "mask_token_id", (int)options->mask_token_id);
    fb_json_put_bool(w, "ignore_eos", options->ignore_stop);
    fb_json_put_string(w, "kv_dtype", fb_dtype_name(options->kv_dtype));
    fb_json_put_size(w, "batch_size", options->max_active);
    put_sparse(w, "sparse", options->sparse);
    fb_json_close_object(w);
}

void fb_summary_put_session(fb_json_writer *w, const fb_session *session) {
    fb_isa isa = FB_ISA_SCALAR;
    fb_json_fail(w, fb_isa_current(&isa));
    fb_json_put_string(w, "version", fb_version());
    fb_json_put_string(w, "instruction_set", fb_isa_name(isa));
    fb_json_put_int64(w, "threads", fb_num_threads());
    fb_json_open_object(w, "model");
    fb_json_put_text(w, "directory", session->directory);
    fb_json_put_size(w, "parameters", fb_model_num_parameters(session->model));
    fb_json_put_size(w, "bytes", fb_model_num_bytes(session->model));
    fb_json_close_object(w);
    put_options(w, "options", &session->options);
}

static void put_counts(fb_json_writer *w, const char *key, const fb_generate_counts *counts) {
    fb_json_open_object(w, key);
    fb_json_put_size(w, "prefill_tokens", counts->prefill_tokens);
    fb_json_put_size(w, "denoising_steps", counts->denoising_steps);
    fb_json_put_size(w, "refreshes", counts->refreshes);
    fb_json_put_size(w, "stores", counts->stores);
    fb_json_put_size(w, "reuses", counts->reuses);
    fb_json_put_size(w, "commits", counts->commits);
    fb_json_put_size(w, "accepted_tokens", counts->accepted_tokens);
    fb_json_put_size(w, "completion_tokens", counts->completion_tokens);
    fb_json_put_size(w, "row_refreshes", counts->row_refreshes);
    fb_json_put_size(w, "external_rows", counts->external_rows);
    fb_json_put_size(w, "edited_tokens", counts->edited_tokens);
    fb_json_close_object(w);
}

/* Shares of the external keys; null where every key is attended. */
static void put_attended(fb_json_writer *w, const char *key, const fb_sparse_counts *counts) {
    if (counts->layers == 0) {
        fb_json_put_null(w, key);
        return;
    }
    fb_json_open_object(w, key);
    fb_json_put_size(w, "selections", counts->selections);
    fb_json_put_size(w, "forced_refreshes", counts->forced_refreshes);
    fb_json_put_double(w, "selected_share", fb_measure_ratio(counts->keys_selected, counts->keys));
    fb_json_put_double(w, "residual_share", fb_measure_ratio(counts->keys_residual, counts->keys));
    fb_json_close_object(w);
}

static void put_times(fb_json_writer *w, const char *key, const fb_forward_times *times) {
    fb_json_open_object(w, key);
    fb_json_put_double(w, "attention", times->attention);
    fb_json_put_double(w, "linear", times->linear);
    fb_json_put_double(w, "total", times->total);
    fb_json_close_object(w);
}

static void put_result(fb_json_writer *w, const char *key, const fb_session *session,
                       const fb_generate_result *result, size_t index) {
    const fb_prompt *prompt = &session->prompts[index];
    fb_json_open_object(w, key);
    fb_json_put_size(w, "prompt", index / session->samples);
    fb_json_put_size(w, "sample", index % session->samples);
    fb_json_put_uint64(w, "seed", session->seeds[index]);
    put_ids(w, "prompt_token_ids", prompt->tokens, prompt->num_tokens);
    put_decoded(w, "text", session->tokenizer, result->tokens, result->num_tokens);
    put_ids(w, "token_ids", result->tokens, result->num_tokens);
    put_ids(w, "unmask_step", result->unmask_step, result->num_tokens);
    fb_json_put_string(w, "finish_reason", fb_finish_reason_name(result->finish_reason));
    put_counts(w, "counts", result->counts);
    fb_json_close_object(w);
}

void fb_summary_put_generation(fb_json_writer *w, const fb_session *session,
                               const fb_generation *generation) {
    const fb_generate_stats *stats = fb_generation_stats(generation);
    fb_json_open_array(w, "results");
    for (size_t i = 0; i < fb_generation_num_results(generation); i++)
        put_result(w, NULL, session, fb_generation_result(generation, i), i);
    fb_json_close_array(w);
    put_attended(w, "sparse", fb_generation_sparse_counts(generation));
    put_counts(w, "counts", stats->counts);
    fb_json_put_size(w, "prefill_passes", stats->prefill_passes);
    fb_json_put_size(w, "decode_passes", stats->decode_passes);
    fb_json_open_object(w, "seconds");
    fb_json_put_double(w, "total", stats->seconds);
    put_times(w, "prefill", &stats->prefill);
    put_times(w, "decode", &stats->decode);
    fb_json_close_object(w);
    fb_json_put_double(w, "tokens_per_second", tokens_per_second(generation));
    fb_json_put_double(w, "attention_share",
                       fb_measure_ratio(stats->decode.attention, stats->decode.total));
}
