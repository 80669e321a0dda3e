/* No field of a configuration is ignored. Every known field of reference files, which have the
 * fields of published directories, is set to values of every JSON type. Each time the result must
 * be another one, or an error or a warning must name the field, or the table of fields must say
 * that this value changes nothing. */
#include "base/memory.h"
#include "io/chat_template.h"
#include "io/tokenizer_fields.h"
#include "model/config_fields.h"
#include "model/model_config.h"
#include "model/special_tokens.h"
#include "model/video_state.h"
#include "tests/json_edit.h"
#include "tests/temporary.h"

#include <flashblock/tokenizer.h>

#include <criterion/criterion.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const char *const values[] = {"true",  "false", "0",    "1",  "-1", "2.5", "4294967296",
                                     "\"x\"", "\"\"",  "null", "{}", "[]", "[1]"};

/* --- what comes of a directory ---------------------------------------------------------------- */

typedef struct outcome {
    fb_status status;
    char result[8192];   /* everything that was read, as text */
    char warnings[4096]; /* one after the other */
} outcome;

static void add(char *text, size_t size, const char *format, ...) {
    size_t used = strlen(text);
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(text + used, size - used, format, arguments);
    va_end(arguments);
    cr_assert(length >= 0 && (size_t)length < size - used, "the text is too long");
}

#define RESULT(o, ...) add((o)->result, sizeof(o)->result, __VA_ARGS__)

static void take_warnings(outcome *o, const fb_warnings *warnings) {
    for (size_t i = 0; i < warnings->count; i++)
        add(o->warnings, sizeof o->warnings, "%s\n", warnings->texts[i]);
}

static void read_model(const char *directory, outcome *o) {
    fb_model_config c;
    fb_warnings warnings = {0};
    o->status = fb_model_config_read(directory, &c, &warnings);
    if (o->status == FB_OK) {
        RESULT(o, "%zu %zu %zu %zu %zu %zu %zu %zu ", c.hidden_size, c.intermediate_size,
               c.num_hidden_layers, c.num_attention_heads, c.num_key_value_heads, c.head_dim,
               c.vocab_size, c.max_position_embeddings);
        RESULT(o, "%.17g %.17g %d %d %zu %d %d ", c.rope_theta, c.rms_norm_eps,
               c.tie_word_embeddings, c.attention_bias, c.block_size, (int)c.mask_token_id,
               (int)c.pad_token_id);
        RESULT(o, "%d %.17g %zu %.17g ", c.do_sample, c.temperature, c.top_k, c.top_p);
        for (size_t i = 0; i < c.num_eos_token_ids; i++)
            RESULT(o, "%d ", (int)c.eos_token_ids[i]);
    }
    take_warnings(o, &warnings);
    fb_warnings_free(&warnings);
}

static void read_video(const char *directory, outcome *o) {
    fb_video_config c;
    fb_warnings warnings = {0};
    char **words = NULL;
    o->status = fb_video_config_read(directory, &c, &words, &warnings);
    if (o->status == FB_OK) {
        RESULT(o, "%zu %zu %zu %zu %zu %zu %zu %zu %zu %zu ", c.dim, c.ffn_dim, c.freq_dim,
               c.in_dim, c.out_dim, c.num_heads, c.num_layers, c.text_len, c.text_dim,
               c.coordinate_channels);
        RESULT(o, "%zu %zu %.17g %d %d %zu %zu %zu %zu %zu %d %.17g %.17g ", c.patch_height,
               c.patch_width, c.eps, c.qk_norm, c.cross_attn_norm, c.frame_height, c.frame_width,
               c.block_frames, c.window_frames, c.sink_frames, c.warp_denoising_steps,
               c.timestep_shift, c.context_noise);
        for (size_t i = 0; i < c.num_denoising_steps; i++)
            RESULT(o, "%zu ", c.denoising_steps[i]);
    }
    for (size_t i = 0; words && i < c.num_words; i++) {
        RESULT(o, "%s ", words[i] ? words[i] : "");
        fb_free(words[i]);
    }
    fb_free(words);
    take_warnings(o, &warnings);
    fb_warnings_free(&warnings);
}

/* Texts in which every flag of the reference tokenizer shows. */
static const char *const texts[] = {"",
                                    "abab",
                                    "ab abab ?? zz! a1a 12",
                                    "a <s> b a<s>b",
                                    "a <|im_end|> b a<|im_end|>b",
                                    "a <|MASK|> b a<|MASK|>b",
                                    "a <think> b a<think>b",
                                    "a \xc3\xa9 b a\xc3\xa9 b e\xcc\x81",
                                    "a \xc3\xbc b a\xc3\xbc b u\xcc\x88"};

static void encode_texts(const fb_tokenizer *tokenizer, outcome *o) {
    for (size_t i = 0; i < 3 * sizeof texts / sizeof texts[0]; i++) {
        int32_t *ids = NULL;
        size_t count = 0, length = 0;
        char *text = NULL;
        cr_assert_eq(fb_tokenizer_encode(tokenizer, texts[i / 3], strlen(texts[i / 3]),
                                         (fb_added_tokens)(i % 3), &ids, &count),
                     FB_OK);
        for (size_t j = 0; j < count; j++)
            RESULT(o, "%d ", (int)ids[j]);
        cr_assert_eq(fb_tokenizer_decode(tokenizer, ids, count, true, &text, &length), FB_OK);
        RESULT(o, "'%s' ", text);
        fb_token_ids_free(ids);
        fb_text_free(text);
    }
}

static void read_tokenizer(const char *directory, outcome *o) {
    fb_tokenizer *tokenizer = NULL;
    fb_special_tokens tokens;
    fb_warnings warnings = {0};
    o->status = fb_tokenizer_load(directory, &tokenizer);
    if (o->status != FB_OK)
        return;
    encode_texts(tokenizer, o);
    for (size_t i = 0; fb_tokenizer_warning(tokenizer, i); i++)
        add(o->warnings, sizeof o->warnings, "%s\n", fb_tokenizer_warning(tokenizer, i));
    fb_tokenizer_destroy(tokenizer);
    o->status = fb_special_tokens_read(directory, false, &tokens, &warnings);
    if (o->status == FB_OK)
        RESULT(o, "%d %d %d ", (int)tokens.mask, (int)tokens.pad, (int)tokens.eos);
    fb_chat_format format;
    if (fb_chat_template_of_directory(directory, &format) != FB_OK)
        RESULT(o, "%s", fb_error_message());
    take_warnings(o, &warnings);
    fb_warnings_free(&warnings);
}

/* --- a file with one value replaced ------------------------------------------------------------
 */

typedef struct suite {
    const char *file;
    const fb_field *table, *more;
    void (*read)(const char *directory, outcome *o);
    outcome base;
    size_t tried, failed;
} suite;

/* `value` NULL: the field is left out. */
static void put_edited(fb_json_writer *w, const char *key, const fb_json *at, const fb_json *target,
                       const char *value) {
    if (at == target) {
        if (value)
            fb_json_put_raw(w, key, value, strlen(value));
    } else if (fb_json_is_object(at)) {
        fb_json_open_object(w, key);
        for (size_t i = 0; i < fb_json_object_size(at); i++)
            put_edited(w, fb_json_object_key(at, i), fb_json_object_at(at, i), target, value);
        fb_json_close_object(w);
    } else if (fb_json_is_array(at)) {
        fb_json_open_array(w, key);
        for (size_t i = 0; i < fb_json_array_size(at); i++)
            put_edited(w, NULL, fb_json_array_get(at, i), target, value);
        fb_json_close_array(w);
    } else {
        fb_json_put_value(w, key, at);
    }
}

static outcome try_edited(const suite *s, const fb_json *root, const fb_json *target,
                          const char *value) {
    static outcome o;
    fb_buffer text = {0};
    fb_json_writer w = fb_json_writer_to(&text, FB_JSON_COMPACT);
    put_edited(&w, NULL, root, target, value);
    cr_assert_eq(fb_json_finish(&w), FB_OK);
    temporary_write(s->file, text.data, text.size);
    fb_buffer_free(&text);
    o = (outcome){0};
    s->read(temporary_path(""), &o);
    return o;
}

/* --- the judgement ---------------------------------------------------------------------------- */

/* The table of the object that holds a field. */
static const fb_field *row_of(const suite *s, const char *path, const char *name) {
    static const struct {
        const char *inside;
        const fb_field *table;
    } nested[] = {{"rope_", fb_rope_fields},           {"added_tokens", fb_added_token_fields},
                  {"model.", fb_bpe_fields},           {"normalizer", fb_before_fields},
                  {"pre_tokenizer", fb_before_fields}, {"post_processor", fb_after_fields},
                  {"decoder", fb_after_fields}};
    if (strchr(path, '.'))
        for (size_t i = 0; i < sizeof nested / sizeof nested[0]; i++)
            if (strncmp(path, nested[i].inside, strlen(nested[i].inside)) == 0)
                return fb_fields_find(nested[i].table, name);
    const fb_field *row = fb_fields_find(s->table, name);
    return row ? row : fb_fields_find(s->more, name);
}

static bool is_neutral(const fb_field *row, const char *value) {
    const char *at = row->neutral;
    while (at) {
        size_t length = strcspn(at, "|");
        if (length == strlen(value) && strncmp(at, value, length) == 0)
            return true;
        at = at[length] ? at + length + 1 : NULL;
    }
    return false;
}

/* What no result can show, and needs none: fields that tokenizers writes for pairs and places; the
 * moment at which a text is looked for that NFC does not change. */
static bool shows_nothing(const fb_json *parent, const char *path, const char *name) {
    if (strcmp(name, "normalized") == 0) {
        const char *text = fb_json_string(fb_json_object_get(parent, "content"));
        while (text && *text > 0)
            text++;
        return text && *text == '\0';
    }
    return strncmp(path, "post_processor.", 15) == 0 &&
           (strcmp(name, "type_id") == 0 || strcmp(name, "tokens") == 0 ||
            (strcmp(name, "id") == 0 && fb_json_object_get(parent, "tokens")));
}

/* A value that says that there is none. */
static bool is_none(const char *name, const char *value) {
    return strcmp(value, "null") == 0 || strcmp(value, "{}") == 0 || strcmp(value, "[]") == 0 ||
           (strcmp(value, "-1") == 0 && strstr(name, "_token_id"));
}

/* Whether the message names the field, or an object that it is in. */
static bool names_path(const char *message, const char *path) {
    char text[512];
    snprintf(text, sizeof text, "%s", path);
    for (char *name = strtok(text, "."); name; name = strtok(NULL, "."))
        if (strstr(message, name))
            return true;
    return strncmp(path, "added_tokens", 12) == 0 && strstr(message, "added token");
}

/* Where a value is: the root of its file, the object that holds it, and the names on the way. */
typedef struct place {
    const fb_json *root, *parent, *target;
    const char *path, *name;
} place;

static bool is_accounted(suite *s, const place *at, const char *value, char message[1024]) {
    const fb_field *row = row_of(s, at->path, at->name);
    outcome o = try_edited(s, at->root, at->target, value);
    snprintf(message, 1024, "%s", o.status == FB_OK ? "nothing happens" : fb_error_message());
    if (o.status != FB_OK)
        return names_path(message, at->path);
    if (strcmp(o.result, s->base.result) != 0 || strstr(o.warnings, at->name) ||
        fb_json_is(at->target, value, strlen(value)) ||
        shows_nothing(at->parent, at->path, at->name) ||
        (row && (row->use == FB_FIELD_UNUSED || is_neutral(row, value))))
        return true;
    outcome missing = try_edited(s, at->root, at->target, NULL);
    return is_none(at->name, value) && missing.status == FB_OK &&
           strcmp(missing.result, o.result) == 0;
}

static void try_values(suite *s, const place *at) {
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        char message[1024];
        s->tried++;
        if (is_accounted(s, at, values[i], message))
            continue;
        s->failed++;
        cr_expect(false, "%s: %s = %s: %s", s->file, at->path, values[i], message);
    }
}

/* Data of a vocabulary, not fields. */
static bool is_data(const char *name) {
    return strcmp(name, "vocab") == 0 || strcmp(name, "merges") == 0 || strcmp(name, "words") == 0;
}

static void try_fields(suite *s, const fb_json *root, const fb_json *object, const char *path);

static void try_field(suite *s, const place *at) {
    const fb_field *row = row_of(s, at->path, at->name);
    try_values(s, at);
    if (is_data(at->name) || (row && row->use == FB_FIELD_UNUSED))
        return;
    if (fb_json_is_object(at->target))
        try_fields(s, at->root, at->target, at->path);
    for (size_t i = 0; i < fb_json_array_size(at->target); i++) {
        place inner = *at;
        inner.target = fb_json_array_get(at->target, i);
        if (fb_json_is_object(inner.target))
            try_fields(s, at->root, inner.target, at->path);
        else
            try_values(s, &inner);
    }
}

static void try_fields(suite *s, const fb_json *root, const fb_json *object, const char *path) {
    for (size_t i = 0; i < fb_json_object_size(object); i++) {
        char inner[512];
        const char *name = fb_json_object_key(object, i);
        snprintf(inner, sizeof inner, "%s%s%s", path, *path ? "." : "", name);
        place at = {root, object, fb_json_object_at(object, i), inner, name};
        try_field(s, &at);
    }
}

/* Tries every field of one file of the present directory. */
static void try_file(suite *s, const char *text) {
    const fb_json *root = NULL;
    cr_assert_eq(fb_json_parse(text, strlen(text), s->file, &root), FB_OK, "%s",
                 fb_error_message());
    s->base = try_edited(s, root, NULL, NULL);
    cr_assert_eq(s->base.status, FB_OK, "%s: %s", s->file, fb_error_message());
    cr_assert_eq(s->base.warnings[0], '\0', "%s: %s", s->file, s->base.warnings);
    try_fields(s, root, root, "");
    try_edited(s, root, NULL, NULL); /* as it was */
    cr_log_info("%s: %zu values tried", s->file, s->tried);
    cr_expect(s->tried > 0 && s->failed == 0);
    fb_json_free(root);
}

/* --- the references --------------------------------------------------------------------------- */

/* Fields of the SDAR and TraDo directories (transformers 4.52). */
static const char sdar[] =
    "{\"architectures\": [\"SDARForCausalLM\"], \"attention_bias\": false,"
    " \"attention_dropout\": 0.0, \"auto_map\": {\"AutoConfig\": \"configuration_sdar.SDARConfig\","
    " \"AutoModelForCausalLM\": \"modeling_sdar.SDARForCausalLM\"}, \"block_size\": 4,"
    " \"bos_token_id\": 151643, \"debug\": false, \"eos_token_id\": 151643, \"ep_size\": 1,"
    " \"fuse_cross_entropy\": true, \"head_dim\": 128, \"hidden_act\": \"silu\","
    " \"hidden_size\": 2048, \"initializer_range\": 0.02, \"intermediate_size\": 6144,"
    " \"mask_token_id\": 151669, \"max_position_embeddings\": 32768, \"max_window_layers\": 28,"
    " \"micro_forward\": false, \"model_type\": \"sdar\", \"num_attention_heads\": 16,"
    " \"num_hidden_layers\": 28, \"num_key_value_heads\": 8, \"pad_token_id\": 151643,"
    " \"rms_norm_eps\": 1e-06, \"rope_scaling\": null, \"rope_theta\": 1000000,"
    " \"skip_checkpoint\": false, \"sliding_window\": null, \"tie_word_embeddings\": false,"
    " \"torch_dtype\": \"bfloat16\", \"transformers_version\": \"4.52.3\", \"use_cache\": true,"
    " \"use_sliding_window\": false, \"vocab_size\": 151936}";

/* The same model as transformers 5 writes it, with every field that is neutral. */
static const char transformers_5[] =
    "{\"architectures\": [\"Qwen3ForCausalLM\"], \"attention_bias\": false, \"dtype\": "
    "\"bfloat16\","
    " \"eos_token_id\": [151645, 151643], \"head_dim\": 128, \"hidden_act\": \"silu\","
    " \"hidden_size\": 2048, \"intermediate_size\": 6144, \"layer_types\": [\"full_attention\","
    " \"full_attention\"], \"max_position_embeddings\": 40960, \"mlp_bias\": false,"
    " \"model_type\": \"qwen3\", \"num_attention_heads\": 16, \"num_hidden_layers\": 2,"
    " \"num_key_value_heads\": 8, \"partial_rotary_factor\": 1.0, \"quantization_config\": null,"
    " \"rms_norm_eps\": 1e-06, \"rope_parameters\": {\"rope_theta\": 1000000,"
    " \"rope_type\": \"default\", \"partial_rotary_factor\": 1.0, \"factor\": 1.0,"
    " \"attention_factor\": 1.0, \"original_max_position_embeddings\": 32768},"
    " \"sliding_window\": null, \"tie_word_embeddings\": true, \"transformers_version\": \"5.0.0\","
    " \"use_cache\": true, \"use_sliding_window\": false, \"vocab_size\": 151936,"
    " \"attn_logit_softcapping\": null, \"final_logit_softcapping\": null, \"num_experts\": 0,"
    " \"num_experts_per_tok\": 8, \"logit_scale\": 1.0, \"use_qk_norm\": true, \"pruned_heads\": "
    "{},"
    " \"is_encoder_decoder\": false, \"id2label\": {\"0\": \"LABEL_0\"}}";

static const char by_layer_type[] =
    "{\"model_type\": \"qwen3\", \"hidden_size\": 2048, \"intermediate_size\": 6144,"
    " \"num_attention_heads\": 16, \"num_key_value_heads\": null, \"num_hidden_layers\": 28,"
    " \"rope_theta\": 1000000, \"rope_parameters\": {\"full_attention\": {\"rope_theta\": 1000000,"
    " \"rope_type\": \"default\"}, \"sliding_attention\": {\"rope_theta\": 1000000,"
    " \"type\": \"default\"}}, \"vocab_size\": 151936, \"mask_token_id\": 3}";

static const char generation[] =
    "{\"_from_model_config\": true, \"block_size\": 8, \"bos_token_id\": 151643,"
    " \"do_sample\": true, \"eos_token_id\": [151645, 151643], \"mask_token_id\": 151669,"
    " \"max_new_tokens\": 2048, \"min_p\": 0.0, \"num_beams\": 1, \"pad_token_id\": 151645,"
    " \"repetition_penalty\": 1.0, \"stop_strings\": null, \"suppress_tokens\": null,"
    " \"temperature\": 0.6, \"top_k\": 20, \"top_p\": 0.95, \"transformers_version\": \"4.52.3\","
    " \"no_repeat_ngram_size\": 0, \"renormalize_logits\": false}";

Test(fields, of_config_json) {
    temporary_make();
    const char *const all[] = {sdar, transformers_5, by_layer_type};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        suite s = {.file = "config.json",
                   .table = fb_config_fields,
                   .more = fb_generation_fields,
                   .read = read_model};
        try_file(&s, all[i]);
    }
    temporary_remove();
}

Test(fields, of_generation_config_json) {
    temporary_make();
    temporary_write_text("config.json", sdar);
    suite s = {.file = "generation_config.json", .table = fb_generation_fields, .read = read_model};
    try_file(&s, generation);
    temporary_remove();
}

/* Every row that refuses or warns does so, and says which values it does not mean. */
static void try_rows(const fb_field *table, const char *file, const char *base) {
    static const char *const odd[] = {"\"odd\"", "7", "true"};
    for (const fb_field *row = table; row->name; row++) {
        if (row->use == FB_FIELD_USED || row->use == FB_FIELD_UNUSED)
            continue;
        for (size_t i = 0; i < 3; i++) {
            char text[4096];
            outcome o = {0};
            if (is_neutral(row, odd[i]))
                continue;
            size_t length = strlen(base);
            snprintf(text, sizeof text, "%.*s", (int)length - 1, base);
            const fb_json *root = NULL;
            cr_assert_eq(fb_json_parse(base, length, file, &root), FB_OK);
            fb_buffer edited = {0};
            fb_json_writer w = fb_json_writer_to(&edited, FB_JSON_COMPACT);
            fb_json_open_object(&w, NULL);
            put_other_members(&w, root, row->name);
            fb_json_put_raw(&w, row->name, odd[i], strlen(odd[i]));
            fb_json_close_object(&w);
            cr_assert_eq(fb_json_finish(&w), FB_OK);
            temporary_write(file, edited.data, edited.size);
            fb_buffer_free(&edited);
            fb_json_free(root);
            read_model(temporary_path(""), &o);
            bool refused = row->use == FB_FIELD_REFUSED;
            cr_expect(refused ? o.status == FB_ERROR_UNSUPPORTED &&
                                    strstr(fb_error_message(), row->name)
                              : o.status == FB_OK && strstr(o.warnings, row->name),
                      "%s: %s = %s: %s", file, row->name, odd[i],
                      o.status == FB_OK ? o.warnings : fb_error_message());
        }
    }
    temporary_write_text(file, base);
}

Test(fields, every_row_of_the_models_tables) {
    temporary_make();
    temporary_write_text("config.json", sdar);
    try_rows(fb_config_fields, "config.json", sdar);
    try_rows(fb_generation_fields, "config.json", sdar);
    try_rows(fb_generation_fields, "generation_config.json", generation);
    temporary_remove();
}

/* An item of added_tokens or added_tokens_decoder without its id. */
#define ADDED(content, special)                                                                    \
    "\"content\":\"" content "\",\"special\":" special ",\"normalized\":false,\"lstrip\":false,"   \
    "\"rstrip\":false,\"single_word\":false"

static const char tokenizer[] =
    "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":["
    "{\"id\":10," ADDED(
        "<s>",
        "true") "},"
                "{\"id\":11," ADDED(
                    "<|im_end|>",
                    "true") "},"
                            "{\"id\":12," ADDED(
                                "<|MASK|>",
                                "true") "},"
                                        "{\"id\":13," ADDED(
                                            "<think>",
                                            "false") "},"
                                                     "{\"id\":14," ADDED(
                                                         "\\u00e9",
                                                         "false") "}],"
                                                                  "\"normalizer\":{\"type\":"
                                                                  "\"Sequence\",\"normalizers\":[{"
                                                                  "\"type\":\"NFC\"}]},"
                                                                  "\"pre_tokenizer\":{\"type\":"
                                                                  "\"Sequence\",\"pretokenizers\":["
                                                                  "{\"type\":\"Split\","
                                                                  "\"pattern\":{\"Regex\":\"[!]\"},"
                                                                  "\"behavior\":\"Removed\","
                                                                  "\"invert\":false},"
                                                                  "{\"type\":\"ByteLevel\",\"add_"
                                                                  "prefix_space\":false,\"trim_"
                                                                  "offsets\":false,"
                                                                  "\"use_regex\":false}]},"
                                                                  "\"post_processor\":{\"type\":"
                                                                  "\"Sequence\",\"processors\":[{"
                                                                  "\"type\":\"ByteLevel\","
                                                                  "\"add_prefix_space\":false,"
                                                                  "\"trim_offsets\":false,\"use_"
                                                                  "regex\":false},"
                                                                  "{\"type\":"
                                                                  "\"TemplateProcessing\","
                                                                  "\"single\":[{\"SpecialToken\":{"
                                                                  "\"id\":\"<s>\","
                                                                  "\"type_id\":0}},{\"Sequence\":{"
                                                                  "\"id\":\"A\",\"type_id\":0}}],"
                                                                  "\"pair\":[],"
                                                                  "\"special_tokens\":{\"<s>\":{"
                                                                  "\"id\":\"<s>\",\"ids\":[10],"
                                                                  "\"tokens\":[\"<s>\"]}}}]},"
                                                                  "\"decoder\":{\"type\":"
                                                                  "\"ByteLevel\",\"add_prefix_"
                                                                  "space\":true,\"trim_offsets\":"
                                                                  "true,"
                                                                  "\"use_regex\":true},"
                                                                  "\"model\":{\"type\":\"BPE\","
                                                                  "\"dropout\":null,\"unk_token\":"
                                                                  "\"?\","
                                                                  "\"continuing_subword_prefix\":"
                                                                  "\"\",\"end_of_word_suffix\":"
                                                                  "\"\",\"fuse_unk\":false,"
                                                                  "\"byte_fallback\":false,"
                                                                  "\"ignore_merges\":false,"
                                                                  "\"vocab\":{\"?\":0,\"a\":1,"
                                                                  "\"b\":2,\"\\u0120\":3,\"ab\":4,"
                                                                  "\"abab\":5,\"\\u0120a\":6,"
                                                                  "\"1\":7,\"2\":8,\"1a\":9},"
                                                                  "\"merges\":[\"a b\",\"1 "
                                                                  "a\",\"\\u0120 a\"]}}";

static const char tokenizer_config[] =
    "{\"add_bos_token\":true,\"add_eos_token\":false,\"add_prefix_space\":false,"
    "\"added_tokens_decoder\":{\"11\":{" ADDED(
        "<|im_end|>",
        "true") "},"
                "\"15\":{" ADDED("\\u00fc",
                                 "true") "}},"
                                         "\"additional_special_tokens\":[\"<s>\",\"<|im_end|>\"],"
                                         "\"auto_map\":{},\"bos_token\":\"<s>\","
                                         "\"chat_template\":\"{% for m in messages %}{{ "
                                         "'<|im_start|>' + m.role + '\\n' + m.content + "
                                         "'<|im_end|>\\n' }}{% endfor %}{% if "
                                         "add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
                                         "{% endif "
                                         "%}\",\"clean_up_tokenization_spaces\":false,\"eos_"
                                         "token\":\"<|im_end|>\","
                                         "\"errors\":\"replace\",\"extra_special_tokens\":{},"
                                         "\"mask_token\":\"<|MASK|>\","
                                         "\"model_max_length\":1000000000000000019884624838656,"
                                         "\"pad_token\":\"<s>\","
                                         "\"padding_side\":\"right\",\"split_special_tokens\":"
                                         "false,\"tokenizer_class\":"
                                         "\"Qwen2Tokenizer\",\"unk_token\":null,\"truncation_"
                                         "side\":\"right\",\"do_lower_case\":false}";

Test(fields, of_tokenizer_json) {
    temporary_make();
    suite s = {.file = "tokenizer.json", .table = fb_tokenizer_fields, .read = read_tokenizer};
    try_file(&s, tokenizer);
    temporary_remove();
}

Test(fields, of_tokenizer_config_json) {
    temporary_make();
    temporary_write_text("tokenizer.json", tokenizer);
    suite s = {.file = "tokenizer_config.json",
               .table = fb_tokenizer_config_fields,
               .read = read_tokenizer};
    try_file(&s, tokenizer_config);
    temporary_remove();
}

static const char special_tokens_map[] =
    "{\"additional_special_tokens\":[\"<|im_end|>\",\"<s>\"],\"bos_token\":\"<s>\","
    "\"cls_token\":\"<s>\",\"eos_token\":\"<|im_end|>\",\"extra_special_tokens\":[\"<s>\"],"
    "\"mask_token\":\"<|MASK|>\",\"pad_token\":\"<s>\",\"sep_token\":\"<s>\",\"unk_token\":\"<s>"
    "\"}";

Test(fields, of_special_tokens_map_json) {
    temporary_make();
    temporary_write_text("tokenizer.json", tokenizer);
    suite s = {
        .file = "special_tokens_map.json", .table = fb_special_map_fields, .read = read_tokenizer};
    try_file(&s, special_tokens_map);
    temporary_remove();
}

static const char video[] =
    "{\"_class_name\":\"CausalWanModel\",\"_diffusers_version\":\"0.30.0\",\"model_type\":\"t2v\","
    "\"dim\":192,\"ffn_dim\":384,\"freq_dim\":64,\"in_dim\":5,\"out_dim\":3,"
    "\"coordinate_channels\":2,\"num_heads\":6,\"num_layers\":6,\"text_len\":2,\"text_dim\":3,"
    "\"patch_size\":[1,4,4],\"window_size\":[-1,-1],\"eps\":1e-05,\"qk_norm\":true,"
    "\"cross_attn_norm\":true,\"frame_height\":24,\"frame_width\":24,\"num_frame_per_block\":3,"
    "\"local_attn_size\":12,\"sink_size\":3,\"denoising_step_list\":[1000,750,500,250],"
    "\"warp_denoising_step\":true,\"timestep_shift\":3.0,\"context_noise\":10,"
    "\"independent_first_frame\":false,\"words\":[\"red\",\"green\",\"blue\"]}";

Test(fields, of_a_video_models_config_json) {
    temporary_make();
    suite s = {.file = "config.json", .table = fb_video_fields, .read = read_video};
    try_file(&s, video);
    temporary_remove();
}
