/* Prints the tables of fields as docs/models.md has them. */
#include "io/tokenizer_fields.h"
#include "model/config_fields.h"
#include "model/quantization_fields.h"

#include <stdio.h>

static const char *const uses[] = {
    [FB_FIELD_USED] = "used",
    [FB_FIELD_UNUSED] = "changes nothing",
    [FB_FIELD_REFUSED] = "refused",
    [FB_FIELD_WARNED] = "warned of",
};

/* "refused unless `false` or null". */
static void print_use(const fb_field *field) {
    printf("%s", uses[field->use]);
    if (field->use != FB_FIELD_REFUSED && field->use != FB_FIELD_WARNED)
        return;
    printf(" unless ");
    if (field->neutral) {
        printf("`");
        for (const char *c = field->neutral; *c; c++)
            *c == '|' ? printf("`, `") : printf("%c", *c);
        printf("` or ");
    }
    printf("null");
}

static void print_table(const char *title, const fb_field *table) {
    printf("### %s\n\n| field | what happens | note |\n|---|---|---|\n", title);
    for (const fb_field *field = table; field->name; field++) {
        printf("| `%s` | ", field->name);
        print_use(field);
        printf(" | %s |\n", field->note);
    }
    printf("\n");
}

int main(void) {
    print_table("config.json", fb_config_fields);
    print_table("config.json of SDARMoeForCausalLM, before the table above", fb_sdar_moe_fields);
    print_table("config.json of LLaDA2MoeModelLM, before the table above", fb_llada2_fields);
    print_table("config.json of Fast_dLLM_QwenForCausalLM, before the table above",
                fb_fast_dllm_fields);
    print_table("generation_config.json, and the same fields in config.json", fb_generation_fields);
    print_table("rope_parameters and rope_scaling", fb_rope_fields);
    print_table("quantization_config of compressed-tensors", fb_compressed_fields);
    print_table("quantization_config of compressed-tensors: a group", fb_compressed_group_fields);
    print_table("quantization_config of compressed-tensors: weights of a group",
                fb_compressed_weight_fields);
    print_table("quantization_config of compressed-tensors: input_activations of a group",
                fb_compressed_input_fields);
    print_table("quantization_config of GPTQ, and quantize_config.json", fb_gptq_fields);
    print_table("tokenizer.json", fb_tokenizer_fields);
    print_table("tokenizer.json: added_tokens, and added_tokens_decoder of tokenizer_config.json",
                fb_added_token_fields);
    print_table("tokenizer.json: model", fb_bpe_fields);
    print_table("tokenizer.json: normalizer and pre_tokenizer", fb_before_fields);
    print_table("tokenizer.json: post_processor and decoder", fb_after_fields);
    print_table("tokenizer_config.json", fb_tokenizer_config_fields);
    print_table("special_tokens_map.json", fb_special_map_fields);
    print_table("model.safetensors.index.json", fb_index_fields);
    print_table("config.json of a video model", fb_video_fields);
    return 0;
}
