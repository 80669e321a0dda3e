#include "io/tokenizer_fields.h"

#include <stdio.h>
#include <string.h>

/* A row for each field: its name, what is done with it, the values that change nothing (besides
 * null), and what it is. */
#define USED(name, note)                                                                           \
    { name, FB_FIELD_USED, 0, note }
#define UNUSED(name, note)                                                                         \
    { name, FB_FIELD_UNUSED, 0, note }
#define REFUSED(name, neutral, note)                                                               \
    { name, FB_FIELD_REFUSED, neutral, note }
#define WARNED(name, neutral, note)                                                                \
    { name, FB_FIELD_WARNED, neutral, note }
#define END                                                                                        \
    { 0 }

const fb_field fb_tokenizer_fields[] = {
    USED("added_tokens", "texts that are one token"),
    USED("normalizer", "NFC"),
    USED("pre_tokenizer", "Split and ByteLevel"),
    USED("post_processor", "tokens before and after a text"),
    USED("decoder", "ByteLevel"),
    USED("model", "BPE"),
    WARNED("truncation", 0, "no text is cut, as in transformers' tokenizer(text)"),
    WARNED("padding", 0, "nothing is padded, as in transformers' tokenizer(text)"),
    UNUSED("version", "of the format"),
    END,
};

const fb_field fb_added_token_fields[] = {
    USED("id", ""),
    USED("content", ""),
    USED("special", ""),
    USED("normalized", ""),
    USED("lstrip", ""),
    USED("rstrip", ""),
    USED("single_word", ""),
    UNUSED("__type", "a Python class"),
    END,
};

const fb_field fb_bpe_fields[] = {
    USED("type", "BPE"),
    USED("vocab", ""),
    USED("merges", ""),
    USED("unk_token", ""),
    USED("fuse_unk", ""),
    USED("ignore_merges", ""),
    USED("byte_fallback", "refused if a byte has no token"),
    REFUSED("dropout", "0", "random merges"),
    REFUSED("continuing_subword_prefix", "\"\"", "not of byte-level tokenizers"),
    REFUSED("end_of_word_suffix", "\"\"", "not of byte-level tokenizers"),
    END,
};

/* normalizer and pre_tokenizer. One table for all types: a field means the same in each that has
 * it.
 */
const fb_field fb_before_fields[] = {
    USED("type", "NFC; Split, ByteLevel; Sequence"),
    USED("normalizers", "of Sequence"),
    USED("pretokenizers", "of Sequence"),
    USED("pattern", "of Split"),
    USED("behavior", "of Split"),
    USED("invert", "of Split"),
    USED("add_prefix_space", "of ByteLevel"),
    USED("use_regex", "of ByteLevel"),
    UNUSED("trim_offsets", "places in the text are not reported"),
    END,
};

/* post_processor and decoder */
const fb_field fb_after_fields[] = {
    USED("type",
         "TemplateProcessing, RobertaProcessing, BertProcessing; ByteLevel, Fuse; Sequence"),
    USED("processors", "of Sequence"),
    USED("decoders", "of Sequence"),
    USED("single", "of TemplateProcessing"),
    USED("special_tokens", "of TemplateProcessing"),
    USED("cls", "of RobertaProcessing and BertProcessing"),
    USED("sep", "of RobertaProcessing and BertProcessing"),
    UNUSED("pair", "of TemplateProcessing: texts are not paired"),
    UNUSED("add_prefix_space", "of ByteLevel: only its pre-tokenizer adds one"),
    UNUSED("use_regex", "of ByteLevel: only its pre-tokenizer splits"),
    UNUSED("trim_offsets", "places in the text are not reported"),
    END,
};

const fb_field fb_tokenizer_config_fields[] = {
    USED("added_tokens_decoder", "those that tokenizer.json lacks"),
    USED("mask_token", "the model's mask token; special"),
    USED("eos_token", "the model's, if no configuration has one; special"),
    USED("pad_token", "the model's, if no configuration has one; special"),
    USED("bos_token", "what add_bos_token means; special"),
    USED("unk_token", "special"),
    USED("sep_token", "special"),
    USED("cls_token", "special"),
    USED("add_bos_token", "must be as tokenizer.json's post_processor"),
    USED("add_eos_token", "must be as tokenizer.json's post_processor"),
    USED("add_prefix_space", "must be as tokenizer.json's pre_tokenizer"),
    USED("additional_special_tokens", "special where tokenizer.json has no added token of it"),
    USED("extra_special_tokens", "as additional_special_tokens"),
    USED("tokenizer_class", "of a byte-level tokenizer"),
    USED("chat_template", "--chat: must be ChatML"),
    REFUSED("do_lower_case", "false", "texts are not changed"),
    WARNED("clean_up_tokenization_spaces", "false",
           "spaces before punctuation stay in decoded text"),
    WARNED("split_special_tokens", "false",
           "the caller says how special tokens in a text are read"),
    WARNED("fix_mistral_regex", "false", "the expression of tokenizer.json is used"),
    UNUSED("errors", "bytes that are not UTF-8 become U+FFFD, as in transformers' fast classes"),
    UNUSED("legacy", "of SentencePiece"),
    UNUSED("sp_model_kwargs", "of SentencePiece"),
    UNUSED("spaces_between_special_tokens", "of classes in Python"),
    UNUSED("use_default_system_prompt", "of chat templates of Llama 2"),
    UNUSED("trim_offsets", "places in the text are not reported"),
    UNUSED("model_max_length", "no text is cut"),
    UNUSED("max_length", "no text is cut"),
    UNUSED("stride", "no text is cut"),
    UNUSED("truncation_side", "no text is cut"),
    UNUSED("truncation_strategy", "no text is cut"),
    UNUSED("padding_side", "nothing is padded"),
    UNUSED("pad_to_multiple_of", "nothing is padded"),
    UNUSED("pad_token_type_id", "nothing is padded"),
    UNUSED("pad_token_id", "nothing is padded"),
    UNUSED("model_input_names", "what a call of transformers returns"),
    UNUSED("return_token_type_ids", "what a call of transformers returns"),
    UNUSED("processor_class", "a Python class"),
    UNUSED("auto_map", "a Python class"),
    UNUSED("backend", "a Python class"),
    UNUSED("is_local", "where the files come from"),
    UNUSED("name_or_path", "where the files come from"),
    UNUSED("tokenizer_file", "where the files come from"),
    UNUSED("vocab_file", "where the files come from"),
    UNUSED("merges_file", "where the files come from"),
    UNUSED("special_tokens_map_file", "where the files come from"),
    UNUSED("transformers_version", "where the files come from"),
    UNUSED("device_map", "of the Python call"),
    UNUSED("trust_remote_code", "of the Python call"),
    UNUSED("use_fast", "of the Python call"),
    UNUSED("response_schema", "how an answer is read"),
    UNUSED("response_template", "how an answer is read"),
    END,
};

const fb_field fb_special_map_fields[] = {
    USED("mask_token", "as in tokenizer_config.json, which goes first"),
    USED("eos_token", "as in tokenizer_config.json, which goes first"),
    USED("pad_token", "as in tokenizer_config.json, which goes first"),
    USED("bos_token", "special"),
    USED("unk_token", "special"),
    USED("sep_token", "special"),
    USED("cls_token", "special"),
    USED("additional_special_tokens", "as in tokenizer_config.json"),
    USED("extra_special_tokens", "as in tokenizer_config.json"),
    END,
};

const fb_field fb_index_fields[] = {
    USED("weight_map", "the file of each tensor"),
    UNUSED("metadata", "sizes"),
    END,
};

/* --- checks ----------------------------------------------------------------------------------- */

/* A step, and the steps in it. What is not an object is left to the loader. */
static fb_status check_component(const fb_json *object, const char *where, const fb_field *table,
                                 size_t depth, fb_warnings *warnings) {
    static const char *const lists[] = {"normalizers", "pretokenizers", "processors", "decoders"};
    enum { MAX_DEPTH = 16 };
    if (!fb_json_is_object(object))
        return FB_OK;
    if (depth == MAX_DEPTH)
        return fb_fail(FB_ERROR_UNSUPPORTED, "%s: more than %d steps within each other", where,
                       (int)MAX_DEPTH);
    FB_TRY(fb_fields_check(object, where, table, NULL, warnings));
    for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++) {
        const fb_json *items = fb_json_object_get(object, lists[i]);
        for (size_t j = 0; j < fb_json_array_size(items); j++)
            FB_TRY(check_component(fb_json_array_get(items, j), where, table, depth + 1, warnings));
    }
    return FB_OK;
}

/* Text is decoded by bytes. `found`: there was a ByteLevel. */
static fb_status check_decoder(const fb_json *decoder, const char *where, bool *found) {
    const char *type = NULL;
    FB_TRY(fb_json_get_string(decoder, where, "type", &type));
    *found = *found || strcmp(type, "ByteLevel") == 0;
    if (strcmp(type, "ByteLevel") == 0 || strcmp(type, "Fuse") == 0)
        return FB_OK;
    if (strcmp(type, "Sequence") != 0)
        return fb_fail(FB_ERROR_UNSUPPORTED, "%s: type is '%s', not ByteLevel", where, type);
    const fb_json *items = NULL;
    FB_TRY(fb_json_get_array(decoder, where, "decoders", &items));
    for (size_t i = 0; i < fb_json_array_size(items); i++)
        FB_TRY(check_decoder(fb_json_array_get(items, i), where, found));
    return FB_OK;
}

static fb_status check_decoders(const fb_json *root, const char *path, fb_warnings *warnings) {
    char where[1024];
    bool found = false;
    if (!fb_json_has(root, "decoder"))
        return fb_warn(warnings,
                       "%s: there is no decoder: text is decoded by bytes; transformers puts "
                       "spaces between the tokens' spellings",
                       path);
    snprintf(where, sizeof where, "%s: decoder", path);
    FB_TRY(check_decoder(fb_json_object_get(root, "decoder"), where, &found));
    return found ? FB_OK : fb_fail(FB_ERROR_UNSUPPORTED, "%s: has no ByteLevel", where);
}

fb_status fb_tokenizer_check_fields(const fb_json *root, const char *path, fb_warnings *warnings) {
    static const struct {
        const char *name;
        const fb_field *table;
    } steps[] = {{"normalizer", fb_before_fields},
                 {"pre_tokenizer", fb_before_fields},
                 {"post_processor", fb_after_fields},
                 {"decoder", fb_after_fields}};
    char where[1024];
    const fb_json *added = fb_json_object_get(root, "added_tokens");
    FB_TRY(fb_fields_check(root, path, fb_tokenizer_fields, NULL, warnings));
    snprintf(where, sizeof where, "%s: added_tokens", path);
    for (size_t i = 0; i < fb_json_array_size(added); i++)
        if (fb_json_is_object(fb_json_array_get(added, i)))
            FB_TRY(fb_fields_check(fb_json_array_get(added, i), where, fb_added_token_fields, NULL,
                                   warnings));
    snprintf(where, sizeof where, "%s: model", path);
    if (fb_json_is_object(fb_json_object_get(root, "model")))
        FB_TRY(fb_fields_check(fb_json_object_get(root, "model"), where, fb_bpe_fields, NULL,
                               warnings));
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        snprintf(where, sizeof where, "%s: %s", path, steps[i].name);
        FB_TRY(check_component(fb_json_object_get(root, steps[i].name), where, steps[i].table, 0,
                               warnings));
    }
    return check_decoders(root, path, warnings);
}
