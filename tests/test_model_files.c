/* The directory of a model: the meaning of its files, their precedence, and errors. */
#include "model/model_config.h"
#include "tests/golden_case.h"
#include "tests/json_edit.h"
#include "tests/numbers.h"
#include "tests/temporary.h"
#include "tests/tiny_model.h"

#include <flashblock/flashblock.h>

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPECT_OK(call) cr_assert_eq((call), FB_OK, "%s", fb_error_message())

static void expect_message(fb_status got, fb_status status, const char *words) {
    cr_assert_eq(got, status, "status is '%s', expected '%s' (%s); message: %s",
                 fb_status_name(got), fb_status_name(status), words, fb_error_message());
    cr_assert(strstr(fb_error_message(), words), "'%s' does not say '%s'", fb_error_message(),
              words);
    cr_assert_null(strchr(fb_error_message(), '\n'));
}

/* --- config.json ------------------------------------------------------------------------------ */

/* The published configuration of SDAR-8B, without fields that have no effect. */
static const char sdar_8b[] =
    "{\"architectures\": [\"SDARForCausalLM\"], \"attention_bias\": false, \"block_size\": 4,"
    " \"bos_token_id\": 151643, \"eos_token_id\": 151643, \"head_dim\": 128,"
    " \"hidden_act\": \"silu\", \"hidden_size\": 4096, \"intermediate_size\": 12288,"
    " \"mask_token_id\": 151669, \"max_position_embeddings\": 32768, \"max_window_layers\": 36,"
    " \"model_type\": \"sdar\", \"num_attention_heads\": 32, \"num_hidden_layers\": 36,"
    " \"num_key_value_heads\": 8, \"rms_norm_eps\": 1e-06, \"rope_scaling\": null,"
    " \"rope_theta\": 1000000, \"sliding_window\": null, \"tie_word_embeddings\": false,"
    " \"torch_dtype\": \"bfloat16\", \"use_sliding_window\": false, \"vocab_size\": 151936}";

/* `text` with the value of `key` replaced; a missing key is added, and a `value` of NULL removes
 * the field. The result is valid until the second call after this one. */
static const char *with(const char *text, const char *key, const char *value) {
    static char buffers[2][4096];
    static size_t turn;
    char *out = buffers[turn++ % 2];
    const fb_json *root = NULL;
    fb_buffer edited = {0};
    fb_json_writer w = fb_json_writer_to(&edited, FB_JSON_COMPACT);
    cr_assert_eq(fb_json_parse(text, strlen(text), "fields", &root), FB_OK);
    fb_json_open_object(&w, NULL);
    put_other_members(&w, root, key);
    if (value)
        fb_json_put_raw(&w, key, value, strlen(value));
    fb_json_close_object(&w);
    cr_assert_eq(fb_json_finish(&w), FB_OK);
    cr_assert_lt(edited.size, sizeof buffers[0]);
    memcpy(out, edited.data, edited.size);
    out[edited.size] = '\0';
    fb_buffer_free(&edited);
    fb_json_free(root);
    return out;
}

/* A directory with these files; NULL where there is none. */
static fb_status read_config(const char *config, const char *generation, const char *tokenizer,
                             const char *vocabulary, fb_model_config *result) {
    const char *directory = temporary_make();
    if (config)
        temporary_write_text("config.json", config);
    if (generation)
        temporary_write_text("generation_config.json", generation);
    if (tokenizer)
        temporary_write_text("tokenizer_config.json", tokenizer);
    if (vocabulary)
        temporary_write_text("tokenizer.json", vocabulary);
    fb_status status = fb_model_config_read(directory, result, NULL);
    temporary_remove();
    return status;
}

static fb_model_config expect_config(const char *config, const char *generation,
                                     const char *tokenizer, const char *vocabulary) {
    fb_model_config result;
    EXPECT_OK(read_config(config, generation, tokenizer, vocabulary, &result));
    return result;
}

Test(model_files, the_config_of_sdar_8b) {
    fb_model_config c = expect_config(sdar_8b, NULL, NULL, NULL);
    cr_assert(c.hidden_size == 4096 && c.intermediate_size == 12288 && c.num_hidden_layers == 36);
    cr_assert(c.num_attention_heads == 32 && c.num_key_value_heads == 8 && c.head_dim == 128);
    cr_assert(c.vocab_size == 151936 && c.max_position_embeddings == 32768);
    cr_assert(c.rope_theta == 1e6 && c.rms_norm_eps == 1e-6);
    cr_assert(!c.tie_word_embeddings && !c.attention_bias && c.block_size == 4);
    cr_assert(c.mask_token_id == 151669 && c.pad_token_id == -1);
    cr_assert(c.num_eos_token_ids == 1 && c.eos_token_ids[0] == 151643);
}

Test(model_files, fields_that_may_be_absent) {
    const char *text = with(with(sdar_8b, "head_dim", NULL), "hidden_size", "2560");
    cr_assert_eq(expect_config(text, NULL, NULL, NULL).head_dim, 128);
    text = with(with(sdar_8b, "head_dim", "null"), "hidden_size", "2048");
    cr_assert_eq(expect_config(text, NULL, NULL, NULL).head_dim, 64);
    text = with(with(sdar_8b, "rope_theta", NULL), "rms_norm_eps", NULL);
    cr_assert_eq(expect_config(text, NULL, NULL, NULL).rope_theta, 10000);
    cr_assert_eq(expect_config(text, NULL, NULL, NULL).rms_norm_eps, 1e-6);
    text = with(sdar_8b, "num_key_value_heads", "null");
    cr_assert_eq(expect_config(text, NULL, NULL, NULL).num_key_value_heads, 32);
    text = with(sdar_8b, "block_size", NULL);
    cr_assert_eq(expect_config(text, NULL, NULL, NULL).block_size, 0);
    text = with(sdar_8b, "mask_token_id", NULL);
    cr_assert_eq(expect_config(text, NULL, NULL, NULL).mask_token_id, -1);
    text = with(sdar_8b, "eos_token_id", "null");
    cr_assert_eq(expect_config(text, NULL, NULL, NULL).num_eos_token_ids, 0);
    text = with(sdar_8b, "pad_token_id", "-1");
    cr_assert_eq(expect_config(text, NULL, NULL, NULL).pad_token_id, -1);
    text = with(sdar_8b, "architectures", NULL);
    cr_assert_eq(expect_config(text, NULL, NULL, NULL).hidden_size, 4096);
    text = with(sdar_8b, "architectures", "[\"Qwen3ForCausalLM\"]");
    cr_assert_eq(expect_config(text, NULL, NULL, NULL).hidden_size, 4096);
    text = with(sdar_8b, "rope_scaling", "{\"type\": \"default\"}");
    cr_assert_eq(expect_config(text, NULL, NULL, NULL).rope_theta, 1e6);
    text = with(with(sdar_8b, "rope_theta", NULL), "rope_parameters",
                "{\"rope_type\": \"default\", \"rope_theta\": 5e5}");
    cr_assert_eq(expect_config(text, NULL, NULL, NULL).rope_theta, 5e5);
    text = with(with(sdar_8b, "rope_theta", NULL), "rope_parameters",
                "{\"full_attention\": {\"rope_type\": \"default\", \"rope_theta\": 5e5}}");
    cr_assert_eq(expect_config(text, NULL, NULL, NULL).rope_theta, 5e5);
    text = with(sdar_8b, "eos_token_id", "[151936, 7]"); /* nothing ends at the first one */
    cr_assert(expect_config(text, NULL, NULL, NULL).num_eos_token_ids == 1 &&
              expect_config(text, NULL, NULL, NULL).eos_token_ids[0] == 7);
    text = with(sdar_8b, "pad_token_id", "151936");
    cr_assert_eq(expect_config(text, NULL, NULL, NULL).pad_token_id, -1);
}

/* What other programs write, and what changes nothing. */
Test(model_files, other_spellings) {
    const char *text = with(with(sdar_8b, "hidden_size", "4096.0"), "eos_token_id", "1.021e3");
    cr_assert_eq(expect_config(text, NULL, NULL, NULL).hidden_size, 4096);
    cr_assert_eq(expect_config(text, NULL, NULL, NULL).eos_token_ids[0], 1021);
    fb_model_config c = expect_config(
        sdar_8b, "{\"do_sample\": true, \"temperature\": 0.6, \"top_k\": 20, \"top_p\": 0.95}",
        NULL, NULL);
    cr_assert(c.do_sample && c.temperature == 0.6 && c.top_k == 20 && c.top_p == 0.95);
    c = expect_config(sdar_8b, "{\"do_sample\": true, \"temperature\": 0}", NULL, NULL);
    cr_assert(!c.do_sample && c.temperature == 0.0);
    c = expect_config(sdar_8b, "{\"do_sample\": true}", NULL, NULL);
    cr_assert(c.do_sample && c.temperature == 1.0 && c.top_k == 50);
    c = expect_config(sdar_8b, "{\"do_sample\": false, \"temperature\": 0.6}", NULL, NULL);
    cr_assert(!c.do_sample && c.temperature == 0.0);
    expect_message(
        read_config(sdar_8b, "{\"do_sample\": true, \"temperature\": -1}", NULL, NULL, &c),
        FB_ERROR_FORMAT, "generation_config.json: temperature is -1, expected 0 or more");
    text = with(sdar_8b, "eos_token_id", "[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 9, 1]");
    cr_assert_eq(expect_config(text, NULL, NULL, NULL).num_eos_token_ids, 12);
    cr_assert_eq(expect_config(text, NULL, NULL, NULL).eos_token_ids[11], 12);
    static const char *const unscaled[] = {
        "{\"rope_type\": \"linear\", \"factor\": 1}",
        "{\"type\": \"linear\", \"factor\": 1.0}",
        ("{\"rope_type\": \"llama3\", \"factor\": 1.0, \"low_freq_factor\": 1.0, "
         "\"high_freq_factor\": 4.0, \"original_max_position_embeddings\": 8192}"),
    };
    for (size_t i = 0; i < sizeof unscaled / sizeof unscaled[0]; i++)
        cr_assert_eq(
            expect_config(with(sdar_8b, "rope_scaling", unscaled[i]), NULL, NULL, NULL).rope_theta,
            1e6);
}

Test(model_files, too_many_ends_of_text) {
    char many[512] = "[0";
    fb_model_config c;
    for (int i = 1; i < 65; i++)
        snprintf(many + strlen(many), sizeof many - strlen(many), ", %d", i);
    strcat(many, "]");
    expect_message(read_config(with(sdar_8b, "eos_token_id", many), NULL, NULL, NULL, &c),
                   FB_ERROR_UNSUPPORTED, "lists more than 64 tokens");
}

Test(model_files, bad_config) {
    static const struct {
        const char *key, *value; /* NULL: the field is missing */
        fb_status status;
        const char *words;
    } cases[] = {
        {"architectures", "[\"LlamaForCausalLM\"]", FB_ERROR_UNSUPPORTED, "LlamaForCausalLM"},
        {"architectures", "[\"SDARMoeForCausalLM\"]", FB_ERROR_FORMAT, "of 'sdar_moe'"},
        {"architectures", "[]", FB_ERROR_UNSUPPORTED, "architectures is ''"},
        {"architectures", "[7]", FB_ERROR_UNSUPPORTED, "architectures"},
        {"architectures", "\"SDARForCausalLM\"", FB_ERROR_FORMAT, "architectures"},
        {"hidden_act", "\"gelu\"", FB_ERROR_UNSUPPORTED,
         "hidden_act is \"gelu\", expected \"silu\""},
        {"use_sliding_window", "true", FB_ERROR_UNSUPPORTED, "use_sliding_window"},
        {"quantization_config", "{\"bits\": 4}", FB_ERROR_UNSUPPORTED, "quantization_config"},
        {"rope_scaling", "{\"rope_type\": \"linear\", \"factor\": 2}", FB_ERROR_UNSUPPORTED,
         "rope_type is \"linear\""},
        {"rope_scaling", "{\"rope_type\": \"linear\"}", FB_ERROR_UNSUPPORTED, "rope_type"},
        {"rope_scaling", "{\"rope_type\": \"dynamic\", \"factor\": 1}", FB_ERROR_UNSUPPORTED,
         "rope_type"},
        {"rope_scaling", "{\"rope_type\": \"yarn\", \"factor\": 4.0}", FB_ERROR_UNSUPPORTED,
         "rope_scaling: rope_type is \"yarn\""},
        {"rope_scaling", "{\"factor\": 4.0, \"original_max_position_embeddings\": 8192}",
         FB_ERROR_UNSUPPORTED, "rope_scaling: factor is 4.0"},
        {"rope_parameters", "{\"full_attention\": {\"rope_type\": \"yarn\", \"factor\": 4}}",
         FB_ERROR_UNSUPPORTED, "rope_parameters: full_attention: rope_type is \"yarn\""},
        {"rope_parameters", "{\"sliding_attention\": {\"rope_theta\": 5e5}}", FB_ERROR_FORMAT,
         "rope_parameters: sliding_attention: rope_theta is 500000, but 1e+06 in"},
        {"rope_parameters", "{\"rope_theta\": 5e5}", FB_ERROR_FORMAT,
         "rope_parameters: rope_theta is 500000, but 1e+06 in"},
        {"rope_parameters", "{\"main\": {\"rope_type\": \"default\"}}", FB_ERROR_UNSUPPORTED,
         "rope_parameters: main is {"},
        {"rope_parameters", "{\"full_attention\": 4}", FB_ERROR_FORMAT, "full_attention is 4"},
        {"partial_rotary_factor", "0.5", FB_ERROR_UNSUPPORTED, "partial_rotary_factor is 0.5"},
        {"rope_parameters", "{\"partial_rotary_factor\": 0.5}", FB_ERROR_UNSUPPORTED,
         "rope_parameters: partial_rotary_factor is 0.5"},
        {"layer_types", "[\"full_attention\"]", FB_ERROR_FORMAT, "layer_types names 1 layers"},
        {"mlp_bias", "true", FB_ERROR_UNSUPPORTED, "mlp_bias is true"},
        {"num_experts", "128", FB_ERROR_UNSUPPORTED, "num_experts is 128"},
        {"repetition_penalty", "1.05", FB_ERROR_UNSUPPORTED, "repetition_penalty is 1.05"},
        {"model_type", "\"llama\"", FB_ERROR_UNSUPPORTED,
         "model_type is 'llama', expected sdar, qwen3, sdar_moe, llada2_moe, a2d-qwen3 or "
         "Fast_dLLM_Qwen, as architectures says SDARForCausalLM"},
        {"architectures", "[\"SDARForCausalLM\", \"LlamaModel\"]", FB_ERROR_UNSUPPORTED,
         "architectures is 'LlamaModel'"},
        {"rope_scaling", "{\"type\": \"linear\"}", FB_ERROR_UNSUPPORTED, "\"linear\""},
        {"rope_scaling", "4.0", FB_ERROR_FORMAT, "rope_scaling"},
        {"rope_parameters", "{\"rope_type\": \"llama3\"}", FB_ERROR_UNSUPPORTED, "\"llama3\""},
        {"hidden_size", NULL, FB_ERROR_FORMAT, "hidden_size is missing"},
        {"hidden_size", "0", FB_ERROR_FORMAT, "hidden_size is 0"},
        {"hidden_size", "-4096", FB_ERROR_FORMAT, "hidden_size is -4096"},
        {"hidden_size", "4096.5", FB_ERROR_FORMAT, "hidden_size is 4096.5"},
        {"hidden_size", "\"4096\"", FB_ERROR_FORMAT, "hidden_size is \"4096\""},
        {"hidden_size", "9223372036854775807", FB_ERROR_FORMAT, "hidden_size"},
        {"intermediate_size", "4294967296", FB_ERROR_FORMAT, "intermediate_size is 4294967296"},
        {"num_hidden_layers", "0", FB_ERROR_FORMAT, "num_hidden_layers is 0"},
        {"num_hidden_layers", "1000000", FB_ERROR_FORMAT, "num_hidden_layers is 1000000"},
        {"num_attention_heads", "0", FB_ERROR_FORMAT, "num_attention_heads is 0"},
        {"num_key_value_heads", "0", FB_ERROR_FORMAT, "num_key_value_heads is 0"},
        {"num_key_value_heads", "5", FB_ERROR_FORMAT, "no multiple of num_key_value_heads 5"},
        {"num_key_value_heads", "64", FB_ERROR_FORMAT, "no multiple of num_key_value_heads 64"},
        {"head_dim", "127", FB_ERROR_FORMAT, "head_dim is 127"},
        {"head_dim", "0", FB_ERROR_FORMAT, "head_dim is 0"},
        {"head_dim", "1048576", FB_ERROR_FORMAT, "head_dim is 1048576"},
        {"vocab_size", "0", FB_ERROR_FORMAT, "vocab_size is 0"},
        {"vocab_size", "151669", FB_ERROR_FORMAT, "mask_token_id is 151669"},
        {"max_position_embeddings", "0", FB_ERROR_FORMAT, "max_position_embeddings is 0"},
        {"rms_norm_eps", "0", FB_ERROR_FORMAT, "rms_norm_eps is 0"},
        {"rms_norm_eps", "-1e-6", FB_ERROR_FORMAT, "rms_norm_eps is -1e-06"},
        {"rms_norm_eps", "1e-300", FB_ERROR_FORMAT, "rms_norm_eps is 1e-300"},
        {"rms_norm_eps", "\"small\"", FB_ERROR_FORMAT, "rms_norm_eps is \"small\""},
        {"rope_theta", "0", FB_ERROR_FORMAT, "rope_theta is 0"},
        {"rope_theta", "1e300", FB_ERROR_FORMAT, "rope_theta is 1e+300"},
        {"tie_word_embeddings", "1", FB_ERROR_FORMAT, "tie_word_embeddings is 1"},
        {"block_size", "0", FB_ERROR_FORMAT, "block_size is 0"},
        {"block_size", "4097", FB_ERROR_FORMAT, "block_size is 4097"},
        {"block_size", "[4]", FB_ERROR_FORMAT, "block_size is [4]"},
        {"mask_token_id", "-2", FB_ERROR_FORMAT, "mask_token_id is -2"},
        {"eos_token_id", "-2", FB_ERROR_FORMAT, "eos_token_id is -2"},
        {"eos_token_id", "[1, \"2\"]", FB_ERROR_FORMAT, "eos_token_id is \"2\""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        fb_model_config untouched, config;
        memset(&config, 0x5a, sizeof config);
        memcpy(&untouched, &config, sizeof config);
        const char *text = with(sdar_8b, cases[i].key, cases[i].value);
        expect_message(read_config(text, NULL, NULL, NULL, &config), cases[i].status,
                       cases[i].words);
        cr_assert(strstr(fb_error_message(), "config.json"));
        cr_assert_eq(memcmp(&untouched, &config, sizeof config), 0);
    }
}

Test(model_files, configs_that_contradict_themselves) {
    fb_model_config config;
    const char *text = with(with(sdar_8b, "head_dim", "null"), "hidden_size", "4100");
    expect_message(read_config(text, NULL, NULL, NULL, &config), FB_ERROR_FORMAT,
                   "hidden_size is 4100, no multiple of num_attention_heads 32");
    text = with(with(sdar_8b, "num_key_value_heads", NULL), "num_attention_heads", "16");
    expect_message(read_config(text, NULL, NULL, NULL, &config), FB_ERROR_FORMAT,
                   "num_key_value_heads 32, the default for the missing field");
    text = with(with(sdar_8b, "head_dim", "65536"), "num_attention_heads", "8388608");
    expect_message(read_config(text, NULL, NULL, NULL, &config), FB_ERROR_FORMAT, "too large");
    expect_message(read_config("[1]", NULL, NULL, NULL, &config), FB_ERROR_FORMAT, "config.json");
    expect_message(read_config("{\"a\": ", NULL, NULL, NULL, &config), FB_ERROR_FORMAT,
                   "config.json");
    expect_message(read_config(NULL, NULL, NULL, NULL, &config), FB_ERROR_IO, "config.json");
    expect_message(read_config(sdar_8b, "{", NULL, NULL, &config), FB_ERROR_FORMAT,
                   "generation_config.json");
}

/* A cut or damaged file is an error, or gives a config whose values are in range. */
static int try_config(const void *data, size_t size, void *context) {
    (void)context;
    fb_model_config c;
    temporary_write("config.json", data, size);
    if (fb_model_config_read(temporary_path(""), &c, NULL) != FB_OK) {
        cr_assert(fb_error_message()[0] != '\0');
        return 0;
    }
    cr_assert(c.num_attention_heads % c.num_key_value_heads == 0 && c.head_dim % 2 == 0);
    cr_assert(c.mask_token_id < (int32_t)c.vocab_size && c.num_eos_token_ids <= 64);
    return 1;
}

Test(model_files, damaged_config) {
    temporary_make();
    try_variants(sdar_8b, sizeof sdar_8b - 1, 500, try_config, NULL);
    temporary_remove();
}

/* --- token ids of several files --------------------------------------------------------------- */

Test(model_files, generation_config_goes_before_config) {
    fb_model_config c = expect_config(
        with(sdar_8b, "pad_token_id", "5"),
        "{\"eos_token_id\": [151645, 151643], \"pad_token_id\": 151643, \"mask_token_id\": 151669,"
        " \"block_size\": 8, \"temperature\": 0.7}",
        NULL, NULL);
    cr_assert(c.num_eos_token_ids == 2 && c.eos_token_ids[0] == 151645 &&
              c.eos_token_ids[1] == 151643);
    cr_assert(c.pad_token_id == 151643 && c.mask_token_id == 151669 && c.block_size == 8);
}

static const char decoder[] =
    "{\"mask_token\": \"<|MASK|>\", \"pad_token\": {\"content\": \"<pad>\"}, \"eos_token\": "
    "\"<end>\", \"added_tokens_decoder\": {\"9\": {\"content\": \"<pad>\"}, "
    "\"151669\": {\"content\": \"<|MASK|>\"}, \"10\": {\"content\": \"<end>\"}}}";

Test(model_files, the_tokenizer_fills_gaps) {
    const char *generation = "{\"eos_token_id\": 3}";
    const char *text = with(sdar_8b, "mask_token_id", NULL);
    fb_model_config c = expect_config(text, generation, decoder, NULL);
    cr_assert_eq(c.mask_token_id, 151669);
    cr_assert(c.num_eos_token_ids == 1 && c.eos_token_ids[0] == 3 && c.pad_token_id == 9);
    c = expect_config(with(sdar_8b, "eos_token_id", NULL), NULL, decoder, NULL);
    cr_assert(c.num_eos_token_ids == 1 && c.eos_token_ids[0] == 10);
    text = with(with(sdar_8b, "mask_token_id", NULL), "vocab_size", "10");
    c = expect_config(with(text, "eos_token_id", NULL), NULL,
                      "{\"pad_token\": \"<p>\", \"eos_token\": \"<e>\", \"added_tokens_decoder\": "
                      "{\"10\": {\"content\": \"<p>\"}, \"11\": {\"content\": \"<e>\"}}}",
                      NULL);
    cr_assert(c.num_eos_token_ids == 0 && c.pad_token_id == -1);
}

/* No file is preferred silently. */
Test(model_files, files_that_name_different_mask_tokens) {
    fb_model_config c;
    expect_message(read_config(sdar_8b, "{\"mask_token_id\": 7}", NULL, NULL, &c), FB_ERROR_FORMAT,
                   "mask_token_id of generation_config.json is token 7, but mask_token_id of "
                   "config.json is 151669");
    expect_message(read_config(with(sdar_8b, "mask_token_id", "6"), NULL, decoder, NULL, &c),
                   FB_ERROR_FORMAT,
                   "mask_token of tokenizer_config.json is token 151669, but mask_token_id of "
                   "config.json is 6");
    static const char *const no_text[] = {"7", "[\"<x>\"]", "{\"content\": 7}", "false"};
    for (size_t i = 0; i < sizeof no_text / sizeof no_text[0]; i++) {
        char config[64];
        snprintf(config, sizeof config, "{\"mask_token\": %s}", no_text[i]);
        expect_message(read_config(sdar_8b, NULL, config, NULL, &c), FB_ERROR_FORMAT,
                       "not a token's text");
    }
    const char *text = with(sdar_8b, "mask_token_id", NULL);
    expect_message(read_config(text, "{\"mask_token_id\": 8}", decoder, NULL, &c), FB_ERROR_FORMAT,
                   "151669, but mask_token_id of generation_config.json is 8");
    cr_assert_eq(expect_config(sdar_8b, "{\"mask_token_id\": -1}", decoder, NULL).mask_token_id,
                 151669);
}

Test(model_files, the_mask_token_of_tokenizer_json) {
    const char *text = with(sdar_8b, "mask_token_id", NULL);
    const char *vocabulary = "{\"added_tokens\": [{\"id\": 4, \"content\": \"<a>\"}, "
                             "{\"id\": 5, \"content\": \"<|MASK|>\"}], "
                             "\"model\": {\"vocab\": {\"m\": 8}}}";
    cr_assert_eq(expect_config(text, NULL, NULL, vocabulary).mask_token_id, 5);
    /* a spelling is a guess, which a file that names the token overrules */
    cr_assert_eq(expect_config(sdar_8b, NULL, NULL, vocabulary).mask_token_id, 151669);
    /* tokenizer_config.json names it, tokenizer.json knows its id */
    cr_assert_eq(expect_config(text, NULL, "{\"mask_token\": \"<a>\"}", vocabulary).mask_token_id,
                 4);
    cr_assert_eq(expect_config(text, NULL, "{\"mask_token\": \"m\"}", vocabulary).mask_token_id, 8);
    cr_assert_eq(expect_config(text, NULL, "{\"mask_token\": null}", vocabulary).mask_token_id, 5);
    cr_assert_eq(expect_config(text, NULL, "{}", "{}").mask_token_id, -1);
}

Test(model_files, bad_tokenizer_files) {
    fb_model_config config;
    const char *text = with(sdar_8b, "vocab_size", "151669");
    text = with(text, "mask_token_id", NULL);
    expect_message(read_config(text, NULL, decoder, NULL, &config), FB_ERROR_FORMAT,
                   "mask token has the id 151669, but vocab_size is 151669");
    expect_message(read_config(sdar_8b, NULL, "{", NULL, &config), FB_ERROR_FORMAT,
                   "tokenizer_config.json");
    expect_message(read_config(text, NULL, NULL, "[]", &config), FB_ERROR_FORMAT, "tokenizer.json");
    static const char *const odd[] = {
        "{\"mask_token\": null, \"added_tokens_decoder\": []}",
        "{\"mask_token\": \"x\", \"added_tokens_decoder\": {\"-3\": {\"content\": \"x\"}}}",
        "{\"mask_token\": \"x\", \"added_tokens_decoder\": {\"y\": {\"content\": \"x\"}}}",
        "{\"mask_token\": \"x\", \"added_tokens_decoder\": {\"99999999999999999999\": \"x\"}}",
    };
    for (size_t i = 0; i < sizeof odd / sizeof odd[0]; i++)
        cr_assert_eq(expect_config(sdar_8b, NULL, odd[i], NULL).mask_token_id, 151669, "%s",
                     odd[i]);
}

/* --- warnings --------------------------------------------------------------------------------- */

static void expect_warning(const char *config, const char *generation, const char *tokenizer,
                           const char *vocabulary, const char *words) {
    const char *directory = temporary_make();
    fb_warnings warnings = {0};
    fb_model_config c;
    temporary_write_text("config.json", config);
    if (generation)
        temporary_write_text("generation_config.json", generation);
    if (tokenizer)
        temporary_write_text("tokenizer_config.json", tokenizer);
    if (vocabulary)
        temporary_write_text("tokenizer.json", vocabulary);
    EXPECT_OK(fb_model_config_read(directory, &c, &warnings));
    if (!words) {
        cr_assert_eq(warnings.count, 0, "%s", fb_warnings_at(&warnings, 0));
    } else {
        cr_assert_eq(warnings.count, 1, "%s: %zu warnings", words, warnings.count);
        cr_assert(strstr(warnings.texts[0], words), "'%s' does not say '%s'", warnings.texts[0],
                  words);
        cr_assert(strstr(warnings.texts[0], directory));
    }
    cr_assert_null(fb_warnings_at(&warnings, warnings.count));
    fb_warnings_free(&warnings);
    temporary_remove();
}

Test(model_files, what_is_not_used_is_warned_of) {
    expect_warning(sdar_8b, NULL, decoder, NULL, NULL);
    expect_warning(with(sdar_8b, "fudge", "3"), NULL, NULL, NULL,
                   "config.json: 1 field is not known, and not used: fudge (3)");
    expect_warning(with(with(sdar_8b, "fudge", "\"a\\nb\""), "other", "[1]"), NULL, NULL, NULL,
                   "2 fields are not known, and not used: fudge (\"a\\nb\"), other ([1])");
    expect_warning(with(sdar_8b, "fudge", "null"), NULL, NULL, NULL, NULL);
    expect_warning(with(sdar_8b, "rope_thetas", "1"), NULL, NULL, NULL,
                   "not used: rope_thetas (1; did you mean rope_theta?)");
    expect_warning(with(sdar_8b, "eos_token_id", "151669"), NULL, NULL, NULL,
                   "token 151669 is the mask token and ends a text");
    expect_warning(sdar_8b, "{\"do_sample\": true, \"temperature\": 0.6}", NULL, NULL, NULL);
    expect_warning(sdar_8b, "{\"eos_token_id\": [151936, 151643]}", NULL, NULL,
                   "eos_token_id is 151936, not below vocab_size 151936");
    expect_warning(with(sdar_8b, "rope_parameters", "{\"wave\": 2}"), NULL, NULL, NULL,
                   "config.json: rope_parameters: 1 field is not known, and not used: wave (2)");
    expect_warning(with(with(sdar_8b, "head_dim", NULL), "hidden_size", "2560"), NULL, NULL, NULL,
                   "head_dim is missing: 128");
    expect_warning(sdar_8b, NULL, "{\"mask_token\": \"<x>\"}", NULL,
                   "tokenizer_config.json: mask_token is '<x>', which is not a token");
    expect_warning(with(sdar_8b, "mask_token_id", NULL), NULL, NULL,
                   "{\"added_tokens\": [{\"id\": 4, \"content\": \"<mask>\"}, "
                   "{\"id\": 5, \"content\": \"[MASK]\"}]}",
                   "no file names the mask token; '[MASK]' (5) is taken, not '<mask>' (4)");
}

/* --- weights ---------------------------------------------------------------------------------- */

static float *logits_of(const tiny_model *tiny) {
    fb_model *model = NULL;
    EXPECT_OK(fb_model_load(tiny_model_write(tiny), &model));
    int32_t tokens[8] = {3, 1, 4, 1, 5, 9, 2, 6};
    float *logits = malloc(8 * tiny->vocab * sizeof *logits);
    cr_assert_not_null(logits);
    fb_kv_cache *kv = NULL;
    EXPECT_OK(fb_model_new_kv_cache(model, FB_F32, &kv));
    fb_forward forward = {.struct_size = sizeof(fb_forward),
                          .tokens = tokens,
                          .num_tokens = 8,
                          .kv = kv,
                          .prefill_block = 4};
    forward.logits = logits;
    EXPECT_OK(fb_model_forward(model, &forward, 1, NULL));
    fb_kv_cache_destroy(kv);
    fb_model_destroy(model);
    tiny_model_remove();
    return logits;
}

static void expect_logits(const char *what, const tiny_model *tiny, const float *expected) {
    float *logits = logits_of(tiny);
    expect_same_bits(what, logits, expected, 8 * tiny->vocab);
    free(logits);
}

/* The same numbers, however they are stored, give the same logits. */
Test(model_files, storage_changes_no_bit) {
    static const fb_dtype types[] = {FB_BF16, FB_F16};
    for (size_t i = 0; i < 2; i++) {
        tiny_model tiny = tiny_model_large;
        tiny.bias = true;
        tiny.rounded = types[i];
        tiny.dtype = FB_F32;
        float *expected = logits_of(&tiny);
        tiny.misaligned = true;
        expect_logits("f32, misaligned", &tiny, expected);
        tiny.dtype = types[i];
        expect_logits("16 bits, misaligned", &tiny, expected);
        tiny.misaligned = false;
        expect_logits("16 bits", &tiny, expected);
        tiny.shards = 3;
        expect_logits("three files", &tiny, expected);
        free(expected);
    }
}

/* A model whose head is the embedding is another model, with fewer parameters. */
Test(model_files, tied_embeddings) {
    tiny_model tiny = tiny_model_small;
    float *untied = logits_of(&tiny);
    tiny.tied = true;
    float *tied = logits_of(&tiny);
    cr_assert_neq(memcmp(tied, untied, 8 * tiny.vocab * sizeof *tied), 0);
    free(tied);
    free(untied);
}

static void expect_model_warning(const tiny_model *tiny, const char *words) {
    fb_model *model = NULL;
    EXPECT_OK(fb_model_load(tiny_model_write(tiny), &model));
    const char *text = fb_model_warning(model, 0);
    cr_assert(words ? text && strstr(text, words) : !text, "warning: %s", text ? text : "none");
    cr_assert_null(fb_model_warning(model, words ? 1 : 0));
    fb_model_destroy(model);
    tiny_model_remove();
}

/* tie_word_embeddings beside a head in the file: used if it differs, with a warning. */
Test(model_files, a_head_beside_tied_embeddings) {
    tiny_model tiny = tiny_model_small;
    float *untied = logits_of(&tiny);
    tiny.tied = true;
    float *tied = logits_of(&tiny);
    expect_model_warning(&tiny, NULL);
    tiny.copied_head = true;
    float *copied = logits_of(&tiny);
    expect_model_warning(&tiny, NULL);
    tiny.missing = "model.embed_tokens.weight"; /* the head is the embedding then */
    float *only_head = logits_of(&tiny);
    expect_model_warning(&tiny, NULL);
    tiny.missing = NULL;
    tiny.copied_head = false;
    tiny.own_head = true;
    float *own = logits_of(&tiny);
    expect_model_warning(&tiny, "lm_head.weight is used");
    size_t bytes = 8 * tiny.vocab * sizeof *tied;
    cr_assert(memcmp(own, untied, bytes) == 0 && memcmp(copied, tied, bytes) == 0);
    cr_assert_neq(memcmp(own, tied, bytes), 0);
    cr_assert_eq(memcmp(only_head, tied, bytes), 0);
    free(only_head);
    tiny.misshapen = "lm_head.weight";
    fb_model *model = NULL;
    expect_message(fb_model_load(tiny_model_write(&tiny), &model), FB_ERROR_FORMAT,
                   "tensor lm_head.weight has shape");
    tiny_model_remove();
    free(own);
    free(copied);
    free(tied);
    free(untied);
}

/* A file has more layers, or biases, than its configuration. */
Test(model_files, tensors_that_are_not_used) {
    tiny_model tiny = tiny_model_small;
    const char *directory = tiny_model_write(&tiny);
    size_t size = 0;
    char *config = read_whole(temporary_path("config.json"), &size);
    temporary_write_text("config.json", with(config, "num_hidden_layers", "1"));
    free(config);
    fb_model *model = NULL;
    EXPECT_OK(fb_model_load(directory, &model));
    const char *text = fb_model_warning(model, 0);
    cr_assert(text &&
                  strstr(text, "11 tensors are not of this model, and not used: model.layers.1."),
              "%s", text);
    fb_model_destroy(model);
    tiny_model_remove();
}

Test(model_files, sizes) {
    tiny_model tiny = tiny_model_small; /* hidden 16, middle 24, 2 layers, 2 x 8, 1 x 8, vocab 67 */
    size_t layer = 16 * 16 + 2 * 8 * 16 + 16 * 16 + 3 * 24 * 16 + 2 * 16 + 2 * 8;
    for (int tied = 0; tied < 3; tied++) {
        tiny.tied = tied > 0;
        tiny.copied_head = tied == 2;
        fb_model *model = NULL;
        EXPECT_OK(fb_model_load(tiny_model_write(&tiny), &model));
        size_t expected = (tied ? 1u : 2u) * 67 * 16 + 16 + 2 * layer;
        cr_assert_eq(fb_model_num_parameters(model), expected);
        cr_assert_eq(fb_model_num_bytes(model), 4 * expected);
        cr_assert_eq(fb_model_config_of(model)->dtype, FB_F32);
        fb_model_destroy(model);
        tiny_model_remove();
    }
    fb_model_destroy(NULL);
}

static void expect_load_error(const tiny_model *tiny, fb_status status, const char *words) {
    fb_model *model = NULL;
    const char *directory = tiny_model_write(tiny);
    expect_message(fb_model_load(directory, &model), status, words);
    cr_assert(strstr(fb_error_message(), directory), "%s", fb_error_message());
    cr_assert_null(model);
    tiny_model_remove();
}

Test(model_files, missing_misshapen_and_mistyped_tensors) {
    static const char *const names[] = {
        "model.embed_tokens.weight",
        "model.layers.0.input_layernorm.weight",
        "model.layers.1.self_attn.q_proj.weight",
        "model.layers.0.self_attn.k_proj.weight",
        "model.layers.1.self_attn.v_proj.weight",
        "model.layers.0.self_attn.o_proj.weight",
        "model.layers.1.self_attn.q_norm.weight",
        "model.layers.0.self_attn.k_norm.weight",
        "model.layers.1.self_attn.q_proj.bias",
        "model.layers.1.self_attn.o_proj.bias",
        "model.layers.0.post_attention_layernorm.weight",
        "model.layers.1.mlp.gate_proj.weight",
        "model.layers.0.mlp.up_proj.weight",
        "model.layers.1.mlp.down_proj.weight",
        "model.norm.weight",
        "lm_head.weight",
    };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        tiny_model tiny = tiny_model_small;
        char words[128];
        tiny.bias = true;
        tiny.missing = names[i];
        snprintf(words, sizeof words, "no tensor called %s", names[i]);
        expect_load_error(&tiny, FB_ERROR_FORMAT, words);
        tiny.missing = NULL;
        tiny.misshapen = names[i];
        snprintf(words, sizeof words, "tensor %s has shape", names[i]);
        expect_load_error(&tiny, FB_ERROR_FORMAT, words);
        tiny.misshapen = NULL;
        tiny.mistyped = names[i];
        snprintf(words, sizeof words, "tensor %s has dtype I32", names[i]);
        expect_load_error(&tiny, FB_ERROR_UNSUPPORTED, words);
    }
}

/* A config that promises more than the files hold is an error, before anything large is
 * allocated. */
Test(model_files, lying_config) {
    tiny_model tiny = tiny_model_small;
    const char *directory = tiny_model_write(&tiny);
    const char *config = with(sdar_8b, "hidden_size", "16777216");
    temporary_write_text("config.json", with(config, "num_hidden_layers", "65536"));
    fb_model *model = NULL;
    expect_message(fb_model_load(directory, &model), FB_ERROR_FORMAT,
                   "tensor model.embed_tokens.weight has shape");
    tiny_model_remove();
}

Test(model_files, files_that_are_not_there) {
    fb_model *model = NULL;
    expect_message(fb_model_load("/nonexistent", &model), FB_ERROR_IO,
                   "/nonexistent: there is no such directory");
    expect_message(fb_model_load(NULL, &model), FB_ERROR_ARGUMENT, "directory is NULL");
    expect_message(fb_model_load(".", NULL), FB_ERROR_ARGUMENT, "model is NULL");
    const char *directory = tiny_model_write(&tiny_model_small);
    expect_message(fb_model_load(temporary_path("config.json"), &model), FB_ERROR_IO,
                   "is a file; expected the directory");
    remove(temporary_path("model.safetensors"));
    expect_message(fb_model_load(directory, &model), FB_ERROR_IO, "model.safetensors");
    cr_assert_null(model);
    tiny_model_remove();
}

Test(model_files, what_goes_with_weights_of_another_shape) {
    const char *directory = tiny_model_write(&tiny_model_small);
    size_t size = 0;
    char *config = read_whole(temporary_path("config.json"), &size);
    temporary_write_text("config.json", with(config, "head_dim", NULL));
    fb_model *model = NULL;
    expect_message(fb_model_load(directory, &model), FB_ERROR_FORMAT, "head_dim is missing: 128");
    cr_assert(strstr(fb_error_message(), "q_proj.weight has shape"));
    temporary_write_text("config.json", config);
    temporary_write_text("adapter_config.json", "{}");
    expect_message(fb_model_load(directory, &model), FB_ERROR_UNSUPPORTED,
                   "adapter_config.json: an adapter is not applied");
    free(config);
    tiny_model_remove();
}

Test(model_files, lying_indices) {
    static const struct {
        const char *index;
        fb_status status;
        const char *words;
    } cases[] = {
        {"{}", FB_ERROR_FORMAT, "weight_map"},
        {"{\"weight_map\": []}", FB_ERROR_FORMAT, "weight_map"},
        {"{\"weight_map\": {}}", FB_ERROR_FORMAT, "no tensor called model.embed_tokens.weight"},
        {"{\"weight_map\": {\"model.norm.weight\": 1}}", FB_ERROR_FORMAT, "model.norm.weight"},
        {"{\"weight_map\": {\"model.norm.weight\": \"../a\"}}", FB_ERROR_FORMAT, "../a"},
        {"{\"weight_map\": {\"model.norm.weight\": \"gone.safetensors\"}}", FB_ERROR_IO,
         "gone.safetensors"},
        {"{\"weight_map\": {\"no.such\": \"model-00001-of-00002.safetensors\"}}", FB_ERROR_FORMAT,
         "no tensor called model.layers.0.input_layernorm.weight"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        tiny_model tiny = tiny_model_small;
        tiny.shards = 2;
        const char *directory = tiny_model_write(&tiny);
        temporary_write_text("model.safetensors.index.json", cases[i].index);
        fb_model *model = NULL;
        expect_message(fb_model_load(directory, &model), cases[i].status, cases[i].words);
        cr_assert_null(model);
        tiny_model_remove();
    }
}

/* A file that is cut anywhere, or has changed bytes, is an error or a model that loads. */
static int try_weights(const void *data, size_t size, void *context) {
    const char *directory = context;
    temporary_write("model.safetensors", data, size);
    fb_model *model = NULL;
    fb_status status = fb_model_load(directory, &model);
    cr_assert((status == FB_OK) == (model != NULL));
    cr_assert(status == FB_OK || fb_error_message()[0] != '\0');
    fb_model_destroy(model);
    return status == FB_OK;
}

Test(model_files, damaged_weights) {
    tiny_model tiny = tiny_model_small;
    tiny.layers = 1;
    tiny.vocab = 5;
    const char *directory = tiny_model_write(&tiny);
    size_t size = 0;
    char *data = read_whole(temporary_path("model.safetensors"), &size);
    enum { STEP = 61 };
    for (size_t cut = 0; cut < size; cut += STEP)
        cr_assert_eq(try_weights(data, cut, (void *)(uintptr_t)directory), 0, "cut at %zu", cut);
    size_t header = (unsigned char)data[0] + 256u * (unsigned char)data[1];
    random_stream random = random_named(200);
    for (int i = 0; i < 300; i++) {
        size_t at = random_between(&random, 0, header + 7);
        char before = data[at];
        data[at] = (char)random_between(&random, 0, 255);
        try_weights(data, size, (void *)(uintptr_t)directory);
        data[at] = before;
    }
    free(data);
    tiny_model_remove();
}
