/* Models of other architectures (golden/models): what changes no bit of a mixture of experts, and
 * files that are wrong. (test_golden.c compares with their published code.) */
#include "io/file.h"
#include "model/model_config.h"
#include "model/model_state.h"
#include "tests/golden_case.h"
#include "tests/json_edit.h"
#include "tests/numbers.h"
#include "tests/temporary.h"

#include <flashblock/flashblock.h>

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EXPECT_OK(call) cr_assert_eq((call), FB_OK, "%s", fb_error_message())

enum { ROWS = 24, BLOCK = 8, MAX_VOCAB = 96 };

static const char *const mixtures[] = {"llada20", "llada21", "sdar_moe", "sdar_moe_step2"};
enum { NUM_MIXTURES = sizeof mixtures / sizeof mixtures[0] };

static fb_model *load(const char *name) {
    char path[256];
    fb_model *model = NULL;
    snprintf(path, sizeof path, "golden/models/%s", name);
    EXPECT_OK(fb_model_load(golden_source_path(path), &model));
    return model;
}

/* --- what must not change a bit --------------------------------------------------------------- */

/* Prefills `count` sequences together, the first one called first_name; logits of all rows. */
static void prefill(fb_model *model, size_t first_name, size_t count, float *logits) {
    int32_t tokens[3][ROWS];
    fb_kv_cache *kv[3];
    fb_forward passes[3];
    for (size_t i = 0; i < count; i++) {
        for (size_t t = 0; t < ROWS; t++)
            tokens[i][t] = (int32_t)((first_name + i + 1) * (t + 3) * 7919 % MAX_VOCAB);
        EXPECT_OK(fb_model_new_kv_cache(model, FB_F32, &kv[i]));
        fb_forward_init(&passes[i]);
        passes[i].tokens = tokens[i];
        passes[i].num_tokens = ROWS - BLOCK * (first_name + i);
        passes[i].kv = kv[i];
        passes[i].prefill_block = BLOCK;
        passes[i].logits = logits + i * ROWS * MAX_VOCAB;
    }
    EXPECT_OK(fb_model_forward(model, passes, count, NULL));
    for (size_t i = 0; i < count; i++)
        fb_kv_cache_destroy(kv[i]);
}

Test(architectures, threads_and_instruction_sets_change_no_bit_of_a_mixture) {
    static float expected[2 * ROWS * MAX_VOCAB], found[2 * ROWS * MAX_VOCAB];
    for (size_t m = 0; m < NUM_MIXTURES; m++) {
        fb_model *model = load(mixtures[m]);
        EXPECT_OK(fb_set_num_threads(1));
        EXPECT_OK(fb_isa_select(FB_ISA_SCALAR));
        prefill(model, 0, 2, expected);
        for (fb_isa isa = FB_ISA_SCALAR; isa < FB_ISA_COUNT; isa++)
            for (int threads = 1; threads <= 3 && fb_isa_supported(isa); threads++) {
                EXPECT_OK(fb_isa_select(isa));
                EXPECT_OK(fb_set_num_threads(threads));
                prefill(model, 0, 2, found);
                expect_same_bits(mixtures[m], found, expected, ROWS * MAX_VOCAB);
                expect_same_bits(mixtures[m], found + ROWS * MAX_VOCAB, expected + ROWS * MAX_VOCAB,
                                 (ROWS - BLOCK) * MAX_VOCAB);
            }
        fb_model_destroy(model);
    }
}

Test(architectures, the_batch_changes_no_bit_of_a_mixture) {
    static float together[3 * ROWS * MAX_VOCAB], alone[ROWS * MAX_VOCAB];
    for (size_t m = 0; m < NUM_MIXTURES; m++) {
        fb_model *model = load(mixtures[m]);
        prefill(model, 0, 3, together);
        for (size_t i = 0; i < 3; i++) {
            prefill(model, i, 1, alone);
            expect_same_bits(mixtures[m], alone, together + i * ROWS * MAX_VOCAB,
                             (ROWS - BLOCK * i) * MAX_VOCAB);
        }
        fb_model_destroy(model);
    }
}

/* A pass of one row touches as many experts a layer as the router chooses. */
Test(architectures, only_chosen_experts_are_read) {
    static float logits[MAX_VOCAB];
    fb_model *model = load("sdar_moe");
    const fb_model_config *config = fb_model_config_of(model);
    const int32_t token = 5;
    fb_kv_cache *kv = NULL;
    EXPECT_OK(fb_model_new_kv_cache(model, FB_F32, &kv));
    fb_forward pass;
    fb_forward_init(&pass);
    pass.tokens = &token;
    pass.num_tokens = 1;
    pass.kv = kv;
    pass.action = FB_REFRESH_ONLY;
    pass.logits = logits;
    EXPECT_OK(fb_model_forward(model, &pass, 1, NULL));
    double experts = (double)(config->num_hidden_layers * config->num_experts_per_tok);
    cr_assert_eq(model->mixture.experts_read, experts);
    cr_assert_eq(model->mixture.bytes_read,
                 experts * 3 * (double)(config->hidden_size * config->moe_intermediate_size * 4));
    fb_kv_cache_destroy(kv);
    fb_model_destroy(model);
}

/* --- wrong files ------------------------------------------------------------------------------ */

/* The configuration of a golden model with another value of a field, or without it, beside its
 * weights. */
static fb_status load_changed(const char *name, const char *key, const char *value) {
    char path[256];
    size_t size = 0;
    const fb_json *root = NULL;
    snprintf(path, sizeof path, "golden/models/%s/config.json", name);
    char *text = read_whole(golden_source_path(path), &size);
    EXPECT_OK(fb_json_parse(text, size, "config.json", &root));
    fb_buffer edited = {0};
    fb_json_writer w = fb_json_writer_to(&edited, FB_JSON_COMPACT);
    fb_json_open_object(&w, NULL);
    put_other_members(&w, root, key);
    if (value)
        fb_json_put_raw(&w, key, value, strlen(value));
    fb_json_close_object(&w);
    EXPECT_OK(fb_json_finish(&w));
    temporary_write("config.json", edited.data, edited.size);
    fb_buffer_free(&edited);
    fb_json_free(root);
    free(text);
    snprintf(path, sizeof path, "golden/models/%s/model.safetensors", name);
    unlink(temporary_path("model.safetensors"));
    cr_assert_eq(symlink(golden_source_path(path), temporary_path("model.safetensors")), 0);
    fb_model *model = NULL;
    fb_status status = fb_model_load(temporary_path(""), &model);
    fb_model_destroy(model);
    return status;
}

Test(architectures, wrong_files) {
    static const struct {
        const char *model, *key, *value;
        fb_status status;
        const char *words;
    } cases[] = {
        {"llada20", "num_experts_per_tok", "17", FB_ERROR_FORMAT,
         "num_experts_per_tok is 17, more than num_experts 16"},
        {"llada20", "num_experts_per_tok", "9", FB_ERROR_FORMAT,
         "num_experts_per_tok is 9, more than the 8 experts in topk_group 2 of 4 groups"},
        {"llada20", "num_experts_per_tok", "0", FB_ERROR_FORMAT, "num_experts_per_tok is 0"},
        {"llada20", "n_group", "3", FB_ERROR_FORMAT,
         "n_group is 3, which does not divide num_experts 16"},
        {"llada20", "n_group", "16", FB_ERROR_FORMAT, "n_group is 16: groups of 1 of the 16"},
        {"llada20", "n_group", "0", FB_ERROR_FORMAT, "n_group is 0"},
        {"llada20", "topk_group", "5", FB_ERROR_FORMAT, "topk_group is 5, more than n_group 4"},
        {"llada20", "num_experts", "20", FB_ERROR_FORMAT, "mlp.gate.weight"},
        {"llada20", "num_experts", "8", FB_ERROR_FORMAT, "mlp.gate.weight"},
        {"llada20", "moe_intermediate_size", "25", FB_ERROR_FORMAT,
         "mlp.experts.0.gate_proj.weight"},
        {"llada20", "moe_intermediate_size", NULL, FB_ERROR_FORMAT, "moe_intermediate_size"},
        {"llada20", "num_shared_experts", "2", FB_ERROR_FORMAT,
         "mlp.shared_experts.gate_proj.weight"},
        {"llada20", "first_k_dense_replace", "2", FB_ERROR_FORMAT,
         "no tensor called model.layers.1.mlp.gate_proj.weight"},
        {"llada20", "norm_topk_prob", "false", FB_ERROR_UNSUPPORTED, "norm_topk_prob is false"},
        {"llada20", "score_function", "\"softmax\"", FB_ERROR_UNSUPPORTED,
         "score_function is \"softmax\""},
        {"llada20", "router_dtype", "\"bf16\"", FB_ERROR_UNSUPPORTED, "router_dtype is \"bf16\""},
        {"llada20", "partial_rotary_factor", "1.5", FB_ERROR_FORMAT,
         "partial_rotary_factor is 1.5"},
        {"llada20", "rotary_dim", "16", FB_ERROR_FORMAT,
         "rotary_dim is 16, but partial_rotary_factor 0.5 of head_dim 16 is 8"},
        {"llada20", "use_bias", NULL, FB_ERROR_FORMAT, "attention.dense.bias"},
        {"llada20", "num_key_value_heads", NULL, FB_ERROR_FORMAT, "num_key_value_heads"},
        {"llada20", "model_type", "\"sdar_moe\"", FB_ERROR_FORMAT,
         "model_type is 'sdar_moe', but architectures is LLaDA2MoeModelLM"},
        {"sdar_moe", "num_experts", "17", FB_ERROR_FORMAT, "mlp.gate.weight"},
        {"sdar_moe", "num_experts", NULL, FB_ERROR_FORMAT, "num_experts"},
        {"sdar_moe", "num_experts_per_tok", "17", FB_ERROR_FORMAT, "more than num_experts 16"},
        {"sdar_moe", "mlp_only_layers", "[1]", FB_ERROR_UNSUPPORTED, "mlp_only_layers"},
        {"sdar_moe", "score_function", "\"sigmoid\"", FB_ERROR_UNSUPPORTED,
         "score_function is \"sigmoid\""},
        {"sdar_moe", "n_group", "4", FB_ERROR_UNSUPPORTED, "n_group is 4"},
        {"sdar_moe", "routed_scaling_factor", "2.5", FB_ERROR_UNSUPPORTED,
         "routed_scaling_factor is 2.5"},
        {"sdar_moe", "decoder_sparse_step", "0", FB_ERROR_FORMAT, "decoder_sparse_step is 0"},
        {"sdar_moe_step2", "decoder_sparse_step", "1", FB_ERROR_FORMAT,
         "no tensor called model.layers.0.mlp.gate.weight"},
        {"fast_dllm_v2", "use_qk_norm", "true", FB_ERROR_UNSUPPORTED, "use_qk_norm is true"},
        {"fast_dllm_v2", "bd_size", "0", FB_ERROR_FORMAT, "bd_size is 0"},
        {"qwen3_bd3lm", "attention_bias", "true", FB_ERROR_FORMAT, "self_attn.q_proj.bias"},
    };
    temporary_make();
    EXPECT_OK(load_changed("llada20", "untrue", NULL));
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        fb_status status = load_changed(cases[i].model, cases[i].key, cases[i].value);
        cr_expect_eq(status, cases[i].status, "%s: %s = %s: status %d: %s", cases[i].model,
                     cases[i].key, cases[i].value ? cases[i].value : "missing", (int)status,
                     fb_error_message());
        cr_expect(strstr(fb_error_message(), cases[i].words), "%s: %s = %s: '%s' does not say '%s'",
                  cases[i].model, cases[i].key, cases[i].value ? cases[i].value : "missing",
                  fb_error_message(), cases[i].words);
    }
    temporary_remove();
}
