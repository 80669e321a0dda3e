/* The effect of each field of tokenizer.json, on small vocabularies. test_added_tokens.c has added
 * tokens, test_tokenizer_errors.c malformed files, test_tokenizer_reference.c compares with the
 * reference. */
#include "tests/tokenizer_case.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static fb_tokenizer *load_demo(void) {
    const char *root = getenv("FLASHBLOCK_SOURCE_ROOT");
    char path[1024];
    snprintf(path, sizeof path, "%s/tests/data/tokenizer/tokenizer.json", root ? root : ".");
    fb_tokenizer *tokenizer = NULL;
    cr_assert_eq(fb_tokenizer_load(path, &tokenizer), FB_OK, "%s", fb_error_message());
    return tokenizer;
}

Test(tokenizer, splits_in_every_way) {
    temporary_make();
    static const struct {
        const char *behavior, *invert, *wanted; /* of a--b */
    } cases[] = {
        {"Removed", "false", "0 1"},
        {"Isolated", "false", "0 2 2 1"},
        {"MergedWithPrevious", "false", "3 2 1"},
        {"MergedWithNext", "false", "0 2 5"},
        {"Contiguous", "false", "0 4 1"},
        {"Removed", "true", "2 2"},
        {"MergedWithPrevious", "true", "0 2 5"},
        {"MergedWithNext", "true", "3 2 1"},
    };
    static const char *const patterns[] = {"{\"Regex\":\"-\"}", "{\"String\":\"-\"}"};
    for (size_t i = 0; i < 2 * sizeof cases / sizeof *cases; i++) {
        char text[512];
        snprintf(text, sizeof text,
                 "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":%s,"
                 "\"behavior\":\"%s\",\"invert\":%s}," BYTES "]}",
                 patterns[i % 2], cases[i / 2].behavior, cases[i / 2].invert);
        fb_tokenizer *tokenizer = load("[]", "null", text, MODEL);
        const char *got = encode(tokenizer, "a--b", FB_ADDED_PARSED);
        cr_expect_str_eq(got, cases[i / 2].wanted, "%s: %s, not %s", text, got,
                         cases[i / 2].wanted);
        fb_tokenizer_destroy(tokenizer);
    }
    fb_tokenizer *tokenizer = load("[]", "null", BYTES, MODEL);
    expect_encoded(tokenizer, "a--b", "3 5");
    expect_encoded(tokenizer, "", "");
    fb_tokenizer_destroy(tokenizer);
    temporary_remove();
}

Test(tokenizer, byte_level_adds_a_space_and_splits) {
    temporary_make();
    fb_tokenizer *tokenizer = load("[]", "null", "{\"type\":\"ByteLevel\"}", MODEL);
    expect_encoded(tokenizer, "a", "8");
    expect_encoded(tokenizer, " a", "8");
    expect_encoded(tokenizer, "ab-", "7 6 2");
    expect_encoded(tokenizer, "", "");
    fb_tokenizer_destroy(tokenizer);
    temporary_remove();
}

Test(tokenizer, merges_the_lowest_rank_and_the_leftmost_first) {
    temporary_make();
    /* aa: one merge, applied from the left. If a pair is listed twice, its last rank counts. */
    fb_tokenizer *tokenizer =
        load("[]", "null", BYTES,
             "{\"vocab\":{\"a\":0,\"b\":1,\"aa\":2,\"ab\":3,\"aab\":4,\"ba\":5},"
             "\"merges\":[\"a b\",[\"a\",\"a\"],\"b a\",\"a ab\",\"a b\"]}");
    expect_encoded(tokenizer, "aaa", "2 0");
    expect_encoded(tokenizer, "aaaaa", "2 2 0");
    expect_encoded(tokenizer, "aab", "2 1");
    expect_encoded(tokenizer, "ab", "3");
    expect_encoded(tokenizer, "aba", "0 5");
    fb_tokenizer_destroy(tokenizer);
    temporary_remove();
}

Test(tokenizer, bytes_without_a_token) {
    temporary_make();
    fb_tokenizer *tokenizer = load("[]", "null", BYTES, MODEL);
    expect_encoded(tokenizer, "axyb", "0 1"); /* left out, and nothing merges across them */
    fb_tokenizer_destroy(tokenizer);
    tokenizer = load("[]", "null", BYTES,
                     "{\"vocab\":{" VOCAB "},\"merges\":[" MERGES "],\"unk_token\":\"<unk>\"}");
    expect_encoded(tokenizer, "axyb", "0 9 9 1");
    fb_tokenizer_destroy(tokenizer);
    tokenizer = load("[]", "null", BYTES,
                     "{\"vocab\":{" VOCAB "},\"merges\":[" MERGES
                     "],\"unk_token\":\"<unk>\",\"fuse_unk\":true}");
    expect_encoded(tokenizer, "xaxyb", "9 0 9 1");
    fb_tokenizer_destroy(tokenizer);
    temporary_remove();
}

Test(tokenizer, ignores_merges_of_whole_tokens) {
    temporary_make();
    fb_tokenizer *tokenizer = load("[]", "null", BYTES, MODEL);
    expect_encoded(tokenizer, "abab", "6 6");
    fb_tokenizer_destroy(tokenizer);
    tokenizer = load("[]", "null", BYTES,
                     "{\"vocab\":{" VOCAB "},\"merges\":[" MERGES "],\"ignore_merges\":true}");
    expect_encoded(tokenizer, "abab", "10");
    expect_encoded(tokenizer, " a", "8");
    expect_encoded(tokenizer, "ababa", "6 6 0");
    fb_tokenizer_destroy(tokenizer);
    temporary_remove();
}

/* A prompt that spells the mask token must not make the model denoise it. */
Test(tokenizer, text_cannot_smuggle_in_special_tokens) {
    temporary_make();
    fb_tokenizer *tokenizer = load(ADDED, "null", BYTES, MODEL);
    cr_expect_str_eq(encode(tokenizer, "ab-b", FB_ADDED_PARSED), "0 20");
    cr_expect_str_eq(encode(tokenizer, "ab-b", FB_ADDED_SPECIAL_AS_TEXT), "6 5");
    cr_expect_str_eq(encode(tokenizer, "aab-b", FB_ADDED_SPECIAL_AS_TEXT), "21 1 5");
    cr_expect_str_eq(encode(tokenizer, "aab-b", FB_ADDED_AS_TEXT), "0 6 5");
    fb_tokenizer_destroy(tokenizer);
    tokenizer = load_demo();
    int32_t mask = fb_tokenizer_token_id(tokenizer, "<|MASK|>");
    cr_expect(mask >= 0 && fb_tokenizer_is_special(tokenizer, mask));
    static const fb_added_tokens modes[] = {FB_ADDED_PARSED, FB_ADDED_SPECIAL_AS_TEXT,
                                            FB_ADDED_AS_TEXT};
    for (size_t mode = 0; mode < 3; mode++) {
        int32_t *ids = NULL;
        size_t count = 0, masks = 0, length = 0;
        char *text = NULL;
        cr_assert_eq(fb_tokenizer_encode(tokenizer, "a <|MASK|> b", 12, modes[mode], &ids, &count),
                     FB_OK);
        for (size_t i = 0; i < count; i++)
            masks += ids[i] == mask;
        cr_expect_eq(masks, modes[mode] == FB_ADDED_PARSED ? 1u : 0u);
        cr_assert_eq(fb_tokenizer_decode(tokenizer, ids, count, false, &text, &length), FB_OK);
        cr_expect_str_eq(text, "a <|MASK|> b");
        fb_text_free(text);
        fb_token_ids_free(ids);
    }
    fb_tokenizer_destroy(tokenizer);
    temporary_remove();
}

Test(tokenizer, looks_tokens_up) {
    temporary_make();
    fb_tokenizer *tokenizer = load(ADDED, "null", BYTES, MODEL);
    cr_expect_eq(fb_tokenizer_vocab_size(tokenizer), 27u);
    cr_expect_eq(fb_tokenizer_token_id(tokenizer, "a-"), 3);
    cr_expect_eq(fb_tokenizer_token_id(tokenizer, "\u0120a"), 8);
    cr_expect_eq(fb_tokenizer_token_id(tokenizer, " a"), -1);
    cr_expect_eq(fb_tokenizer_token_id(tokenizer, "b-b"), 20);
    cr_expect_eq(fb_tokenizer_token_id(tokenizer, "nothing"), -1);
    cr_expect(fb_tokenizer_is_special(tokenizer, 20) && !fb_tokenizer_is_special(tokenizer, 21));
    cr_expect(!fb_tokenizer_is_special(tokenizer, -1) && !fb_tokenizer_is_special(tokenizer, 27) &&
              !fb_tokenizer_is_special(tokenizer, INT32_MAX));
    size_t length = 9;
    const char *bytes = fb_tokenizer_token_bytes(tokenizer, 8, &length);
    cr_expect(length == 2 && memcmp(bytes, " a", 2) == 0);
    cr_expect_null(fb_tokenizer_token_bytes(tokenizer, 27, &length));
    cr_expect_eq(length, 0u);
    fb_tokenizer_destroy(tokenizer);
    fb_tokenizer_destroy(NULL);
    temporary_remove();
}

Test(tokenizer, decodes) {
    temporary_make();
    fb_tokenizer *tokenizer = load(ADDED, "null", BYTES, MODEL);
    const int32_t ids[] = {8, 20, -5, 27, 1000000, INT32_MAX, INT32_MIN, 6, 21};
    char *text = NULL;
    size_t length = 0;
    cr_assert_eq(fb_tokenizer_decode(tokenizer, ids, 9, false, &text, &length), FB_OK);
    cr_expect_str_eq(text, " ab-babaa");
    cr_expect_eq(length, strlen(text));
    fb_text_free(text);
    cr_assert_eq(fb_tokenizer_decode(tokenizer, ids, 9, true, &text, &length), FB_OK);
    cr_expect_str_eq(text, " aabaa");
    fb_text_free(text);
    cr_assert_eq(fb_tokenizer_decode(tokenizer, NULL, 0, true, &text, &length), FB_OK);
    cr_expect(length == 0 && text[0] == '\0');
    fb_text_free(text);
    fb_tokenizer_destroy(tokenizer);
    temporary_remove();
}

static void expect_put(fb_token_stream *stream, const int32_t *ids, size_t count,
                       const char *wanted) {
    const char *text = NULL;
    size_t length = 0;
    cr_assert_eq(fb_token_stream_put(stream, ids, count, &text, &length), FB_OK);
    cr_expect_str_eq(text, wanted, "'%s', not '%s'", text, wanted);
    cr_expect_eq(length, strlen(wanted));
}

static void expect_finish(fb_token_stream *stream, const char *wanted) {
    const char *text = NULL;
    size_t length = 0;
    cr_assert_eq(fb_token_stream_finish(stream, &text, &length), FB_OK);
    cr_expect_str_eq(text, wanted, "'%s', not '%s'", text, wanted);
    cr_expect_eq(length, strlen(wanted));
}

Test(tokenizer, streams_whole_characters) {
    fb_tokenizer *tokenizer = load_demo();
    int32_t byte[4], mask = fb_tokenizer_token_id(tokenizer, "<|MASK|>");
    static const char *const spelled[] = {"\u00f0", "\u0141", "\u013a", "\u0122"}; /* F0 9F 98 80 */
    for (int i = 0; i < 4; i++) {
        byte[i] = fb_tokenizer_token_id(tokenizer, spelled[i]);
        cr_assert(byte[i] >= 0, "byte %d", i);
    }
    fb_token_stream *stream = NULL;
    cr_assert_eq(fb_token_stream_create(tokenizer, false, &stream), FB_OK);
    expect_put(stream, byte, 1, "");
    expect_put(stream, byte + 1, 2, "");
    expect_put(stream, byte + 3, 1, "\xf0\x9f\x98\x80");
    expect_put(stream, byte, 2, "");
    expect_put(stream, byte, 1, "\xef\xbf\xbd"); /* nothing can complete the character */
    expect_put(stream, &mask, 1, "\xef\xbf\xbd<|MASK|>");
    expect_put(stream, byte, 3, "");
    expect_finish(stream, "\xef\xbf\xbd");
    expect_finish(stream, "");
    expect_put(stream, byte + 3, 1, "\xef\xbf\xbd");
    expect_put(stream, NULL, 0, "");
    fb_token_stream_destroy(stream);
    cr_assert_eq(fb_token_stream_create(tokenizer, true, &stream), FB_OK);
    expect_put(stream, byte, 2, "");
    expect_put(stream, &mask, 1, ""); /* skipped: as if it were not there */
    expect_put(stream, byte + 2, 2, "\xf0\x9f\x98\x80");
    fb_token_stream_destroy(stream);
    fb_token_stream_destroy(NULL);
    fb_tokenizer_destroy(tokenizer);
}

Test(tokenizer, takes_nul_and_bad_bytes) {
    fb_tokenizer *tokenizer = load_demo();
    int32_t *ids = NULL;
    char *text = NULL;
    size_t count = 0, length = 0;
    cr_assert_eq(fb_tokenizer_encode(tokenizer, "a\0b\xff", 4, FB_ADDED_PARSED, &ids, &count),
                 FB_OK);
    cr_assert_eq(fb_tokenizer_decode(tokenizer, ids, count, false, &text, &length), FB_OK);
    cr_expect(length == 6 && memcmp(text, "a\0b\xef\xbf\xbd", 7) == 0);
    fb_token_ids_free(ids);
    fb_text_free(text);
    cr_assert_eq(fb_tokenizer_encode(tokenizer, NULL, 0, FB_ADDED_PARSED, &ids, &count), FB_OK);
    cr_expect(ids != NULL && count == 0);
    fb_token_ids_free(ids);
    fb_tokenizer_destroy(tokenizer);
}

Test(tokenizer, refuses_bad_arguments) {
    fb_tokenizer *tokenizer = load_demo(), *other = NULL;
    int32_t *ids = NULL;
    size_t count = 7;
    cr_expect_eq(fb_tokenizer_encode(NULL, "a", 1, FB_ADDED_PARSED, &ids, &count),
                 FB_ERROR_ARGUMENT);
    cr_expect_eq(fb_tokenizer_encode(tokenizer, NULL, 1, FB_ADDED_PARSED, &ids, &count),
                 FB_ERROR_ARGUMENT);
    cr_expect_eq(fb_tokenizer_encode(tokenizer, "a", 1, (fb_added_tokens)3, &ids, &count),
                 FB_ERROR_ARGUMENT);
    cr_expect_eq(
        fb_tokenizer_encode(tokenizer, "a", ((size_t)1 << 30) + 1, FB_ADDED_PARSED, &ids, &count),
        FB_ERROR_ARGUMENT);
    cr_expect(ids == NULL && count == 7);
    cr_expect_eq(fb_tokenizer_load(NULL, &other), FB_ERROR_ARGUMENT);
    cr_expect_eq(fb_tokenizer_load("/nonexistent", &other), FB_ERROR_IO);
    cr_expect_null(other);
    fb_tokenizer_destroy(tokenizer);
}

Test(tokenizer, long_runs_take_little_time) {
    fb_tokenizer *tokenizer = load_demo();
    static const char *const units[] = {"a",    "ab",           " ",      "\n", " \n",      "!",
                                        "\xff", "\u0301\u0323", "\u4e00", "<|", "<|MASK|>", "  x"};
    enum { SIZE = 1 << 20 };
    char *text = malloc(SIZE + 16);
    cr_assert(text);
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        size_t unit = strlen(units[i]), length = SIZE / unit * unit;
        for (size_t at = 0; at < length; at += unit)
            memcpy(text + at, units[i], unit);
        int32_t *ids = NULL;
        size_t count = 0;
        clock_t start = clock();
        cr_assert_eq(fb_tokenizer_encode(tokenizer, text, length, FB_ADDED_PARSED, &ids, &count),
                     FB_OK, "%s", fb_error_message());
        double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
        cr_expect(seconds < 30, "1 MB of '%s': %.1f s", units[i], seconds);
        cr_log_info("1 MB of unit %zu: %zu ids, %.2f s", i, count, seconds);
        fb_token_ids_free(ids);
    }
    free(text);
    fb_tokenizer_destroy(tokenizer);
}

static const char shared_text[] =
    "In the beginning God created <|MASK|> the heaven \xf0\x9f\x98\x80";

static void *encode_often(void *tokenizer) {
    size_t *total = calloc(1, sizeof *total);
    for (int i = 0; total && i < 200; i++) {
        int32_t *ids = NULL;
        size_t count = 0;
        if (fb_tokenizer_encode(tokenizer, shared_text, sizeof shared_text - 1, FB_ADDED_PARSED,
                                &ids, &count) == FB_OK)
            for (size_t k = 0; k < count; k++)
                *total += (size_t)ids[k] * (k + 1);
        fb_token_ids_free(ids);
    }
    return total;
}

Test(tokenizer, serves_several_threads) {
    enum { THREADS = 4 };
    fb_tokenizer *tokenizer = load_demo();
    pthread_t threads[THREADS];
    size_t *totals[THREADS], *alone = encode_often(tokenizer);
    for (int i = 0; i < THREADS; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, encode_often, tokenizer), 0);
    for (int i = 0; i < THREADS; i++) {
        void *result = NULL;
        cr_assert_eq(pthread_join(threads[i], &result), 0);
        totals[i] = result;
        cr_expect_eq(*totals[i], *alone);
        free(totals[i]);
    }
    free(alone);
    fb_tokenizer_destroy(tokenizer);
}

Test(tokenizer, adds_tokens_of_the_configuration) {
    const char *directory = temporary_make();
    write_tokenizer(ADDED, "null", BYTES, MODEL);
    temporary_write_text("tokenizer_config.json",
                         "{\"added_tokens_decoder\":{"
                         "\"20\":{\"content\":\"b-b\",\"special\":true},"
                         "\"30\":{\"content\":\"<|MASK|>\",\"special\":true}}}");
    fb_tokenizer *tokenizer = NULL;
    cr_assert_eq(fb_tokenizer_load(directory, &tokenizer), FB_OK, "%s", fb_error_message());
    cr_expect_eq(fb_tokenizer_token_id(tokenizer, "<|MASK|>"), 30);
    expect_encoded(tokenizer, "a<|MASK|>b", "0 30 1");
    expect_encoded(tokenizer, "b-b", "20");
    fb_tokenizer_destroy(tokenizer);
    static const struct {
        const char *config, *words;
    } bad[] = {
        {"{\"added_tokens_decoder\":{\"20\":{\"content\":\"<|MASK|>\"}}}", "used twice"},
        {"{\"added_tokens_decoder\":{\"x\":{\"content\":\"<|MASK|>\"}}}", "'x' is not a token id"},
        {"{\"added_tokens_decoder\":{\"-1\":{\"content\":\"<|MASK|>\"}}}",
         "'-1' is not a token id"},
        {"{\"added_tokens_decoder\":{\"99999999999999999999\":{\"content\":\"m\"}}}",
         "not a token id"},
        {"{\"added_tokens_decoder\":{\"30\":{}}}", "content is missing"},
        {"{\"added_tokens_decoder\":[]}", "is [], not an object"},
        {"[]", "not a JSON object"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        temporary_write_text("tokenizer_config.json", bad[i].config);
        tokenizer = NULL;
        cr_expect_eq(fb_tokenizer_load(directory, &tokenizer), FB_ERROR_FORMAT, "%s",
                     bad[i].config);
        cr_expect(strstr(fb_error_message(), bad[i].words), "'%s' does not say '%s'",
                  fb_error_message(), bad[i].words);
        cr_expect_null(tokenizer);
    }
    temporary_remove();
}

/* --- what is put around a text, and what tokenizer_config.json says about it -------------------
 */

#define SPECIAL                                                                                    \
    "{\"id\":20,\"content\":\"<s>\",\"special\":true},{\"id\":21,\"content\":\"</"                 \
    "s>\",\"special\":true}"
#define SPECIAL_IDS                                                                                \
    "\"special_tokens\":{\"<s>\":{\"id\":\"<s>\",\"ids\":[20],\"tokens\":[\"<s>\"]},"              \
    "\"</s>\":{\"id\":\"</s>\",\"ids\":[21],\"tokens\":[\"</s>\"]}}"
#define PIECE(kind, id) "{\"" kind "\":{\"id\":\"" id "\",\"type_id\":0}}"
#define BOS_TEMPLATE                                                                               \
    "{\"type\":\"TemplateProcessing\",\"single\":[" PIECE("SpecialToken", "<s>") "," PIECE(        \
        "Sequence", "A") "],\"pair\":[]," SPECIAL_IDS "}"
#define EOS_TEMPLATE                                                                               \
    "{\"type\":\"TemplateProcessing\",\"single\":[" PIECE("Sequence", "A") "," PIECE(              \
        "SpecialToken", "</s>") "],\"pair\":[]," SPECIAL_IDS "}"

static void write_processed(const char *processor) {
    char text[8192];
    int length = snprintf(text, sizeof text,
                          "{\"added_tokens\":[" SPECIAL "],\"pre_tokenizer\":" BYTES
                          ",\"decoder\":" BYTES ",\"model\":" MODEL ",\"post_processor\":%s}",
                          processor);
    cr_assert(length > 0 && (size_t)length < sizeof text);
    temporary_write_text("tokenizer.json", text);
}

Test(tokenizer, a_post_processor_puts_tokens_around_a_text) {
    static const struct {
        const char *processor, *text, *empty;
    } cases[] = {
        {"null", "0", ""},
        {BYTES, "0", ""},
        {BOS_TEMPLATE, "20 0", "20"},
        {EOS_TEMPLATE, "0 21", "21"},
        {"{\"type\":\"RobertaProcessing\",\"sep\":[\"</s>\",21],\"cls\":[\"<s>\",20],"
         "\"trim_offsets\":true,\"add_prefix_space\":true}",
         "20 0 21", "20 21"},
        {"{\"type\":\"BertProcessing\",\"sep\":[\"</s>\",21],\"cls\":[\"<s>\",20]}", "20 0 21",
         "20 21"},
        {"{\"type\":\"Sequence\",\"processors\":[" BYTES "," BOS_TEMPLATE "]}", "20 0", "20"},
        /* the second one is put around what the first one made */
        {"{\"type\":\"Sequence\",\"processors\":[{\"type\":\"BertProcessing\",\"sep\":[\"x\",1],"
         "\"cls\":[\"y\",0]}," BOS_TEMPLATE "," EOS_TEMPLATE "]}",
         "20 0 0 1 21", "20 0 1 21"},
    };
    const char *directory = temporary_make();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fb_tokenizer *tokenizer = NULL;
        int32_t *ids = NULL;
        size_t count = 0;
        write_processed(cases[i].processor);
        cr_assert_eq(fb_tokenizer_load(directory, &tokenizer), FB_OK, "%s", fb_error_message());
        cr_expect_null(fb_tokenizer_warning(tokenizer, 0));
        expect_encoded(tokenizer, "a", cases[i].text);
        expect_encoded(tokenizer, "", cases[i].empty);
        cr_assert_eq(fb_tokenizer_encode_piece(tokenizer, "b", 1, FB_ADDED_PARSED, &ids, &count),
                     FB_OK);
        cr_expect(count == 1 && ids[0] == 1, "a piece has nothing around it");
        fb_token_ids_free(ids);
        fb_tokenizer_destroy(tokenizer);
    }
    temporary_remove();
}

/* What tokenizer_config.json says about ids is what tokenizer.json does, or an error. */
Test(tokenizer, the_configuration_agrees_with_the_tokenizer) {
    static const struct {
        const char *processor, *config;
        const char *error, *warning; /* NULL: none */
    } cases[] = {
        {"null", "{\"add_bos_token\":false,\"add_prefix_space\":false,\"bos_token\":null}", NULL,
         NULL},
        {BOS_TEMPLATE, "{\"add_bos_token\":true,\"bos_token\":\"<s>\"}", NULL, NULL},
        {BOS_TEMPLATE, "{\"add_bos_token\":null,\"bos_token\":\"</s>\"}", NULL, NULL},
        {EOS_TEMPLATE, "{\"add_eos_token\":true,\"eos_token\":{\"content\":\"</s>\"}}", NULL, NULL},
        {"null", "{\"add_bos_token\":true,\"bos_token\":\"<s>\"}",
         "add_bos_token is true, but post_processor of tokenizer.json does not add bos_token '<s>'",
         NULL},
        {BOS_TEMPLATE, "{\"add_bos_token\":true,\"bos_token\":\"</s>\"}", "add_bos_token is true",
         NULL},
        {BOS_TEMPLATE, "{\"add_bos_token\":false}", "add_bos_token is false", NULL},
        {EOS_TEMPLATE, "{\"add_eos_token\":false}", "add_eos_token is false", NULL},
        {"null", "{\"add_eos_token\":true}", "add_eos_token is true", NULL},
        {"null", "{\"add_bos_token\":1}", "add_bos_token is 1", NULL},
        {"null", "{\"tokenizer_class\":\"LlamaTokenizerFast\",\"bos_token\":\"<s>\"}",
         "add_bos_token is true by default", NULL},
        {BOS_TEMPLATE, "{\"tokenizer_class\":\"LlamaTokenizerFast\",\"bos_token\":\"<s>\"}", NULL,
         NULL},
        {"null",
         "{\"tokenizer_class\":\"Qwen2Tokenizer\",\"clean_up_tokenization_spaces\":false,"
         "\"model_max_length\":1000000000000000019884624838656,\"errors\":\"replace\","
         "\"additional_special_tokens\":[\"<s>\",{\"content\":\"</s>\"}],"
         "\"extra_special_tokens\":{\"x\":\"<s>\"},\"split_special_tokens\":false}",
         NULL, NULL},
        {"null", "{\"add_prefix_space\":true}",
         "add_prefix_space is true, but false in pre_tokenizer of tokenizer.json", NULL},
        {"null", "{\"do_lower_case\":true}", "do_lower_case is true", NULL},
        {"null", "{\"additional_special_tokens\":[7]}", "additional_special_tokens has 7", NULL},
        {"null", "{\"additional_special_tokens\":\"<s>\"}", "additional_special_tokens is \"<s>\"",
         NULL},
        {"null", "{\"additional_special_tokens\":[\"<x>\"]}", NULL,
         "has '<x>', which is not a token"},
        {"null", "{\"tokenizer_class\":\"Strange\"}", NULL, "tokenizer_class 'Strange'"},
        {"null", "{\"clean_up_tokenization_spaces\":true}", NULL, "clean_up_tokenization_spaces"},
        {"null", "{\"split_special_tokens\":true}", NULL, "split_special_tokens is true"},
        {"null", "{\"added_tokens_decoder\":{\"20\":{\"content\":\"<s>\",\"special\":false}}}",
         "special of '<s>' is false, but true in tokenizer.json", NULL},
        {"null", "{\"added_tokens_decoder\":{\"22\":{\"content\":\"<s>\"}}}",
         "'<s>' is 22, but 20 in tokenizer.json", NULL},
        {"null", "{\"added_tokens_decoder\":{\"22\":{\"content\":\"<x>\",\"odd\":1}}}", NULL,
         "1 field is not known, and not used: odd (1)"},
        {"null", "{\"fudge\":true}", NULL, "1 field is not known, and not used: fudge (true)"},
    };
    const char *directory = temporary_make();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fb_tokenizer *tokenizer = NULL;
        write_processed(cases[i].processor);
        temporary_write_text("tokenizer_config.json", cases[i].config);
        fb_status status = fb_tokenizer_load(directory, &tokenizer);
        if (cases[i].error) {
            cr_expect(status != FB_OK && strstr(fb_error_message(), cases[i].error) &&
                          strstr(fb_error_message(), "tokenizer_config.json: "),
                      "%s: '%s' does not say '%s'", cases[i].config, fb_error_message(),
                      cases[i].error);
            cr_expect_null(tokenizer);
            continue;
        }
        cr_assert_eq(status, FB_OK, "%s", fb_error_message());
        const char *text = fb_tokenizer_warning(tokenizer, 0);
        cr_expect(cases[i].warning ? text && strstr(text, cases[i].warning) : !text,
                  "%s: warning '%s'", cases[i].config, text ? text : "");
        fb_tokenizer_destroy(tokenizer);
    }
    temporary_remove();
}

Test(tokenizer, fields_of_tokenizer_json_that_are_not_used) {
    const char *directory = temporary_make();
    fb_tokenizer *tokenizer = NULL;
    temporary_write_text(
        "tokenizer.json",
        "{\"truncation\":{\"max_length\":2},\"padding\":{},\"extra\":1,\"pre_tokenizer\":" BYTES
        ",\"decoder\":{\"type\":\"Sequence\",\"decoders\":[" BYTES
        ",{\"type\":\"Fuse\",\"odd\":2}]},\"model\":" MODEL "}");
    temporary_write_text("added_tokens.json", "{\"a\":0,\"<x>\":30}");
    cr_assert_eq(fb_tokenizer_load(directory, &tokenizer), FB_OK, "%s", fb_error_message());
    static const char *const words[] = {"truncation is {", "padding is {}", "extra (1)", "odd (2)",
                                        "added_tokens.json: '<x>' is not a token"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        const char *text = fb_tokenizer_warning(tokenizer, i);
        cr_expect(text && strstr(text, words[i]), "%s: '%s'", words[i], text ? text : "");
    }
    cr_expect_null(fb_tokenizer_warning(tokenizer, sizeof words / sizeof *words));
    fb_tokenizer_destroy(tokenizer);
    cr_assert_eq(remove(temporary_path("tokenizer.json")), 0);
    temporary_write_text("vocab.json", "{}");
    cr_expect_eq(fb_tokenizer_load(directory, &tokenizer), FB_ERROR_IO);
    cr_expect(strstr(fb_error_message(), "tokenizer.json: is not there, but vocab.json is: let "));
    temporary_remove();
}

Test(tokenizer, warns_of_a_decoder_that_is_not_there) {
    static const char *const decoders[] = {"\"decoder\":null,", ""};
    temporary_make();
    for (size_t i = 0; i < 2; i++) {
        char text[1024];
        fb_tokenizer *tokenizer = NULL;
        snprintf(text, sizeof text, "{%s\"pre_tokenizer\":" BYTES ",\"model\":" MODEL "}",
                 decoders[i]);
        cr_assert_eq(fb_tokenizer_load(temporary_write_text("tokenizer.json", text), &tokenizer),
                     FB_OK);
        cr_expect(strstr(fb_tokenizer_warning(tokenizer, 0), "there is no decoder"));
        fb_tokenizer_destroy(tokenizer);
    }
    temporary_remove();
}

Test(tokenizer, added_tokens_json_must_agree) {
    const char *directory = temporary_make();
    fb_tokenizer *tokenizer = NULL;
    write_tokenizer("[]", "null", BYTES, MODEL);
    temporary_write_text("added_tokens.json", "{\"a\":1}");
    cr_expect_eq(fb_tokenizer_load(directory, &tokenizer), FB_ERROR_FORMAT);
    cr_expect(strstr(fb_error_message(), "added_tokens.json: 'a' is 1, but 0 in tokenizer.json"));
    temporary_remove();
}
