/* Tokenizer files that are malformed, contradict themselves or need something unsupported. Each
 * gives one clear error, and none crashes. */
#include "tests/temporary.h"

#include <flashblock/tokenizer.h>

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BYTES "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}"
#define MODEL "{\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"a b\"]}"

/* A tokenizer.json with one given field; the other fields are well-formed. */
static void compose(char text[4096], const char *field, const char *value) {
    static const char *const fields[][2] = {{"added_tokens", "[]"},   {"normalizer", "null"},
                                            {"pre_tokenizer", BYTES}, {"post_processor", "null"},
                                            {"decoder", "null"},      {"model", MODEL}};
    size_t used = (size_t)snprintf(text, 4096, "{\"version\":\"1.0\"");
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        const char *chosen = strcmp(fields[i][0], field) == 0 ? value : fields[i][1];
        used += (size_t)snprintf(text + used, 4096 - used, ",\"%s\":%s", fields[i][0], chosen);
        cr_assert(used < 4096);
    }
    snprintf(text + used, 4096 - used, "}");
}

static void expect_refused(const char *text, fb_status wanted, const char *words) {
    fb_tokenizer *tokenizer = NULL;
    const char *path = temporary_write_text("tokenizer.json", text);
    fb_status status = fb_tokenizer_load(path, &tokenizer);
    cr_expect_eq(status, wanted, "%s: status %d, not %d (%s)", text, status, wanted,
                 fb_error_message());
    cr_expect(strstr(fb_error_message(), words), "%s: '%s' does not say '%s'", text,
              fb_error_message(), words);
    cr_expect(strstr(fb_error_message(), "tokenizer.json: "), "'%s' names no file",
              fb_error_message());
    cr_expect_null(tokenizer);
    fb_tokenizer_destroy(tokenizer);
}

typedef struct bad_field {
    const char *value, *words;
    fb_status status;
} bad_field;

static void expect_all_refused(const char *field, const bad_field *cases, size_t count) {
    temporary_make();
    char text[4096];
    for (size_t i = 0; i < count; i++) {
        compose(text, field, cases[i].value);
        expect_refused(text, cases[i].status, cases[i].words);
    }
    temporary_remove();
}

Test(tokenizer_errors, the_models) {
    static const bad_field cases[] = {
        {"null", "model is null", FB_ERROR_FORMAT},
        {"{}", "vocab is missing", FB_ERROR_FORMAT},
        {"{\"vocab\":[]}", "vocab is []", FB_ERROR_FORMAT},
        {"{\"vocab\":{},\"merges\":[]}", "vocab is empty", FB_ERROR_FORMAT},
        {"{\"vocab\":{\"a\":0}}", "merges is missing", FB_ERROR_FORMAT},
        {"{\"vocab\":{\"a\":-1},\"merges\":[]}", "a is -1", FB_ERROR_FORMAT},
        {"{\"vocab\":{\"a\":\"0\"},\"merges\":[]}", "a is \"0\"", FB_ERROR_FORMAT},
        {"{\"vocab\":{\"a\":1.5},\"merges\":[]}", "a is 1.5", FB_ERROR_FORMAT},
        {"{\"vocab\":{\"a\":4194304},\"merges\":[]}", "a is 4194304", FB_ERROR_FORMAT},
        {"{\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]}", "id 0 is used twice", FB_ERROR_FORMAT},
        {"{\"vocab\":{\"a\":0,\"a\":1},\"merges\":[]}", "duplicate", FB_ERROR_FORMAT},
        {"{\"vocab\":{\"a\":0,\"b\":1},\"merges\":[\"a b\"]}",
         "merge 0 refers to 'ab', which is not a token", FB_ERROR_FORMAT},
        {"{\"vocab\":{\"a\":0,\"ac\":1},\"merges\":[\"a c\"]}", "refers to 'c'", FB_ERROR_FORMAT},
        {"{\"vocab\":{\"a\":0,\"ca\":1},\"merges\":[[\"c\",\"a\"]]}", "refers to 'c'",
         FB_ERROR_FORMAT},
        {"{\"vocab\":{\"a\":0},\"merges\":[\"aa\"]}", "merge 0 is neither", FB_ERROR_FORMAT},
        {"{\"vocab\":{\"a\":0},\"merges\":[\"a a a\"]}", "merge 0 is neither", FB_ERROR_FORMAT},
        {"{\"vocab\":{\"a\":0},\"merges\":[\" a\"]}", "merge 0 is neither", FB_ERROR_FORMAT},
        {"{\"vocab\":{\"a\":0},\"merges\":[\"a \"]}", "merge 0 is neither", FB_ERROR_FORMAT},
        {"{\"vocab\":{\"a\":0},\"merges\":[\"#version: 0.2\",[\"a\"]]}", "merge 1 is neither",
         FB_ERROR_FORMAT},
        {"{\"vocab\":{\"a\":0},\"merges\":[[\"a\",1]]}", "merge 0 is neither", FB_ERROR_FORMAT},
        {"{\"vocab\":{\"a\":0},\"merges\":[7]}", "merge 0 is neither", FB_ERROR_FORMAT},
        {"{\"vocab\":{\"a\":0},\"merges\":{}}", "merges is {}", FB_ERROR_FORMAT},
        {"{\"vocab\":{\"a\":0},\"merges\":[],\"unk_token\":\"<unk>\"}",
         "unk_token '<unk>' is not a token", FB_ERROR_FORMAT},
        {"{\"vocab\":{\"a\":0},\"merges\":[],\"type\":\"Unigram\"}", "type is 'Unigram'",
         FB_ERROR_UNSUPPORTED},
        {"{\"vocab\":{\"a\":0},\"merges\":[],\"dropout\":0.1}", "dropout is 0.1",
         FB_ERROR_UNSUPPORTED},
        {"{\"vocab\":{\"a\":0},\"merges\":[],\"end_of_word_suffix\":\"</w>\"}",
         "end_of_word_suffix is \"</w>\"", FB_ERROR_UNSUPPORTED},
        {"{\"vocab\":{\"a\":0},\"merges\":[],\"continuing_subword_prefix\":\"##\"}",
         "continuing_subword_prefix is \"##\"", FB_ERROR_UNSUPPORTED},
        {"{\"vocab\":{\"a\":0},\"merges\":[],\"byte_fallback\":true}", "byte_fallback is true",
         FB_ERROR_UNSUPPORTED},
        {"{\"vocab\":{\"a\":0},\"merges\":[],\"ignore_merges\":1}", "ignore_merges is 1",
         FB_ERROR_FORMAT},
    };
    expect_all_refused("model", cases, sizeof cases / sizeof *cases);
}

Test(tokenizer_errors, the_added_tokens) {
    static const bad_field cases[] = {
        {"{}", "added_tokens is {}", FB_ERROR_FORMAT},
        {"[7]", "id is missing", FB_ERROR_FORMAT},
        {"[{\"id\":3}]", "content is missing", FB_ERROR_FORMAT},
        {"[{\"content\":\"x\"}]", "id is missing", FB_ERROR_FORMAT},
        {"[{\"id\":-1,\"content\":\"x\"}]", "id is -1", FB_ERROR_FORMAT},
        {"[{\"id\":2147483648,\"content\":\"x\"}]", "id is 2147483648", FB_ERROR_FORMAT},
        {"[{\"id\":3,\"content\":5}]", "content is 5", FB_ERROR_FORMAT},
        {"[{\"id\":3,\"content\":\"x\",\"special\":\"yes\"}]", "special is \"yes\"",
         FB_ERROR_FORMAT},
        {"[{\"id\":3,\"content\":\"x\"},{\"id\":3,\"content\":\"y\"}]",
         "added token y: its id 3 or its text is used twice", FB_ERROR_FORMAT},
        {"[{\"id\":3,\"content\":\"x\"},{\"id\":3,\"content\":\"x\"}]", "used twice",
         FB_ERROR_FORMAT},
        {"[{\"id\":3,\"content\":\"x\"},{\"id\":4,\"content\":\"x\"}]", "ids 3 and 4 have one text",
         FB_ERROR_FORMAT},
        {"[{\"id\":1,\"content\":\"x\"}]", "added token x: its id 1", FB_ERROR_FORMAT},
        {"[{\"id\":3,\"content\":\"a\"}]", "added token a: its id 3", FB_ERROR_FORMAT},
    };
    expect_all_refused("added_tokens", cases, sizeof cases / sizeof *cases);
    /* Longer than an added token may be. */
    temporary_make();
    char text[4096], content[1200];
    memset(content, 'x', sizeof content);
    snprintf(content + 1100, 3, "\"}");
    char added[1300];
    snprintf(added, sizeof added, "[{\"id\":3,\"content\":\"%s]", content);
    compose(text, "added_tokens", added);
    expect_refused(text, FB_ERROR_UNSUPPORTED, "added token 3 has 1100 bytes");
    temporary_remove();
}

Test(tokenizer_errors, the_steps_before_the_model) {
    static const bad_field normalizers[] = {
        {"7", "type is missing", FB_ERROR_FORMAT},
        {"{\"type\":\"Lowercase\"}", "type is 'Lowercase'", FB_ERROR_UNSUPPORTED},
        {"{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"},{\"type\":\"NFKC\"}]}",
         "type is 'NFKC'", FB_ERROR_UNSUPPORTED},
        {"{\"type\":\"Sequence\"}", "normalizers is missing", FB_ERROR_FORMAT},
    };
    expect_all_refused("normalizer", normalizers, sizeof normalizers / sizeof *normalizers);
    static const bad_field pre_tokenizers[] = {
        {"null", "pre_tokenizer is null", FB_ERROR_UNSUPPORTED},
        {"{}", "type is missing", FB_ERROR_FORMAT},
        {"{\"type\":\"Whitespace\"}", "type is 'Whitespace'", FB_ERROR_UNSUPPORTED},
        {"{\"type\":\"Sequence\",\"pretokenizers\":[]}", "has no ByteLevel", FB_ERROR_UNSUPPORTED},
        {"{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a\"},\"behavior\":\"Isolated\"}",
         "has no ByteLevel", FB_ERROR_UNSUPPORTED},
        {"{\"type\":\"Sequence\",\"pretokenizers\":[" BYTES "," BYTES "]}",
         "ByteLevel after a ByteLevel", FB_ERROR_UNSUPPORTED},
        {"{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(\"},\"behavior\":\"Isolated\"}",
         "pattern (: regular expression", FB_ERROR_UNSUPPORTED},
        {"{\"type\":\"Split\",\"pattern\":{},\"behavior\":\"Isolated\"}", "String is missing",
         FB_ERROR_FORMAT},
        {"{\"type\":\"Split\",\"pattern\":\"a\",\"behavior\":\"Isolated\"}", "pattern is \"a\"",
         FB_ERROR_FORMAT},
        {"{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a\"},\"behavior\":\"Cut\"}",
         "behavior is 'Cut'", FB_ERROR_UNSUPPORTED},
        {"{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a\"}}", "behavior is missing",
         FB_ERROR_FORMAT},
    };
    expect_all_refused("pre_tokenizer", pre_tokenizers,
                       sizeof pre_tokenizers / sizeof *pre_tokenizers);
}

#define TOKENS "\"special_tokens\":{\"<s>\":{\"id\":\"<s>\",\"ids\":[1],\"tokens\":[\"<s>\"]}}"
#define TEXT_A "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}"

Test(tokenizer_errors, the_steps_after_the_model) {
    static const bad_field processors[] = {
        {"{}", "post_processor: type is missing", FB_ERROR_FORMAT},
        {"[]", "post_processor: type is missing", FB_ERROR_FORMAT},
        {"{\"type\":\"Other\"}", "post_processor: type is 'Other'", FB_ERROR_UNSUPPORTED},
        {"{\"type\":\"Sequence\"}", "processors is missing", FB_ERROR_FORMAT},
        {"{\"type\":\"Sequence\",\"processors\":[{\"type\":\"X\"}]}", "type is 'X'",
         FB_ERROR_UNSUPPORTED},
        {"{\"type\":\"TemplateProcessing\"}", "single is missing", FB_ERROR_FORMAT},
        {"{\"type\":\"TemplateProcessing\",\"single\":[]," TOKENS "}",
         "single has not the text A once", FB_ERROR_UNSUPPORTED},
        {"{\"type\":\"TemplateProcessing\",\"single\":[" TEXT_A "," TEXT_A "]," TOKENS "}",
         "single has not the text A once", FB_ERROR_UNSUPPORTED},
        {"{\"type\":\"TemplateProcessing\",\"single\":[{\"Sequence\":{\"id\":\"B\"}}]," TOKENS "}",
         "single has not the text A once", FB_ERROR_UNSUPPORTED},
        {"{\"type\":\"TemplateProcessing\",\"single\":[" TEXT_A ",7]," TOKENS "}",
         "SpecialToken is missing", FB_ERROR_FORMAT},
        {"{\"type\":\"TemplateProcessing\",\"single\":[" TEXT_A
         ",{\"SpecialToken\":{\"id\":\"<x>\"}}]," TOKENS "}",
         "<x> is missing", FB_ERROR_FORMAT},
        {"{\"type\":\"RobertaProcessing\",\"sep\":[\"</s>\",2]}", "cls is missing",
         FB_ERROR_FORMAT},
        {"{\"type\":\"BertProcessing\",\"cls\":[\"<s>\"],\"sep\":[\"</s>\",2]}", "cls is missing",
         FB_ERROR_FORMAT},
        {"{\"type\":\"BertProcessing\",\"cls\":[\"<s>\",-1],\"sep\":[\"</s>\",2]}", "cls is -1",
         FB_ERROR_FORMAT},
    };
    expect_all_refused("post_processor", processors, sizeof processors / sizeof *processors);
    static const bad_field decoders[] = {
        {"{}", "decoder: type is missing", FB_ERROR_FORMAT},
        {"{\"type\":\"WordPiece\"}", "decoder: type is 'WordPiece'", FB_ERROR_UNSUPPORTED},
        {"{\"type\":\"Sequence\",\"decoders\":[]}", "decoder: has no ByteLevel",
         FB_ERROR_UNSUPPORTED},
        {"{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"ByteLevel\"},{\"type\":\"Strip\"}]}",
         "type is 'Strip'", FB_ERROR_UNSUPPORTED},
    };
    expect_all_refused("decoder", decoders, sizeof decoders / sizeof *decoders);
}

Test(tokenizer_errors, no_tokenizer_at_all) {
    const char *directory = temporary_make();
    expect_refused("", FB_ERROR_FORMAT, "not JSON");
    expect_refused("[]", FB_ERROR_FORMAT, "not a JSON object");
    expect_refused("{}", FB_ERROR_FORMAT, "model is missing");
    enum { DEPTH = 500000 };
    char *bomb = malloc(DEPTH + 32);
    cr_assert(bomb);
    size_t used = (size_t)snprintf(bomb, 32, "{\"normalizer\":");
    memset(bomb + used, '[', DEPTH);
    bomb[used + DEPTH] = '\0';
    expect_refused(bomb, FB_ERROR_FORMAT, "depth");
    free(bomb);
    remove(temporary_path("tokenizer.json"));
    fb_tokenizer *tokenizer = NULL;
    cr_expect_eq(fb_tokenizer_load(directory, &tokenizer), FB_ERROR_IO);
    cr_expect(strstr(fb_error_message(), "tokenizer.json: cannot open"), "%s", fb_error_message());
    temporary_remove();
}

static const char well_formed[] =
    "{\"version\":\"1.0\",\"added_tokens\":[{\"id\":12,\"content\":\"<|MASK|>\",\"special\":true,"
    "\"lstrip\":true,\"rstrip\":false},{\"id\":13,\"content\":\"na\\u00efve\",\"normalized\":true,"
    "\"single_word\":true}],\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":"
    "\"NFC\"}]},"
    "\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":"
    "{\"Regex\":\"(?i:'s|'t)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}|\\\\s+(?!\\\\S)\"},"
    "\"behavior\":\"Isolated\",\"invert\":false},{\"type\":\"ByteLevel\",\"add_prefix_space\":true,"
    "\"use_regex\":true}]},\"post_processor\":null,\"model\":{\"type\":\"BPE\",\"dropout\":null,"
    "\"unk_token\":\"?\",\"fuse_unk\":true,\"byte_fallback\":false,\"ignore_merges\":true,"
    "\"vocab\":{\"?\":0,\"a\":1,\"b\":2,\"c\":3,\"\\u0120\":4,\"ab\":5,\"\\u0120ab\":6,"
    "\"abc\":7,\"\\u00c3\":8,\"\\u00af\":9,\"\\u00c3\\u00af\":10,\"'\":11},"
    "\"merges\":[\"a b\",[\"\\u0120\",\"ab\"],[\"ab\",\"c\"],\"\\u00c3 \\u00af\"]}}";

static int use_tokenizer(const void *data, size_t size, void *context) {
    (void)context;
    fb_tokenizer *tokenizer = NULL;
    if (fb_tokenizer_load(temporary_write("variant.json", data, size), &tokenizer) != FB_OK) {
        cr_assert_null(tokenizer);
        return 0;
    }
    static const char text[] = "abc ab's na\xc3\xafve <|MASK|> nai\xcc\x88ve\xff 12 \n  c";
    for (int mode = 0; mode < 3; mode++) {
        int32_t *ids = NULL;
        char *decoded = NULL;
        size_t count = 0, length = 0;
        if (fb_tokenizer_encode(tokenizer, text, sizeof text - 1, (fb_added_tokens)mode, &ids,
                                &count) == FB_OK)
            cr_assert_eq(fb_tokenizer_decode(tokenizer, ids, count, false, &decoded, &length),
                         FB_OK);
        fb_token_ids_free(ids);
        fb_text_free(decoded);
    }
    fb_tokenizer_destroy(tokenizer);
    return 1;
}

Test(tokenizer_errors, malformed_variants_are_survived) {
    temporary_make();
    cr_assert_eq(use_tokenizer(well_formed, sizeof well_formed - 1, NULL), 1, "%s",
                 fb_error_message());
    size_t accepted = try_variants(well_formed, sizeof well_formed - 1, 5000, use_tokenizer, NULL);
    cr_log_info("%zu of %zu malformed variants were still well-formed", accepted,
                sizeof well_formed + 4999);
    cr_expect(accepted > 0 && accepted < 4000);
    temporary_remove();
}
