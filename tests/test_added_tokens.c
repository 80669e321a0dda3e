/* Added tokens: which texts are one token, which of them are special, and their ids. Ids and texts
 * are those of the tokenizers library 0.22.2. */
#include "tests/tokenizer_case.h"

Test(added_tokens, finds_added_tokens) {
    temporary_make();
    fb_tokenizer *tokenizer = load(ADDED, "null", BYTES, MODEL);
    expect_encoded(tokenizer, "ab-ba", "0 20 0");
    expect_encoded(tokenizer, "b-b-b", "25 1"); /* the longest */
    expect_encoded(tokenizer, "aaa", "21 0");   /* the leftmost */
    expect_encoded(tokenizer, "a  <l> b", "0 22 7 1");
    expect_encoded(tokenizer, "  <l><l>", "22 22");
    expect_encoded(tokenizer, "a \xe2\x80\x83<l>", "0 22"); /* U+2003 */
    expect_encoded(tokenizer, "a <r>  b", "0 7 23 1");
    expect_encoded(tokenizer, "<r>  ", "23");
    expect_encoded(tokenizer, "a ba b", "0 7 24 7 1");
    expect_encoded(tokenizer, "ba-", "24 2");
    expect_encoded(tokenizer, "aba", "6 0");
    expect_encoded(tokenizer,
                   "\xc3\xa9"
                   "ba",
                   "1 0");                          /* é is a letter, and no token here */
    expect_encoded(tokenizer, "ba\xcc\x81", "1 0"); /* so is a combining accent */
    fb_tokenizer_destroy(tokenizer);
    temporary_remove();
}

/* A token that begins in white space which another
 * one strips is found all the same, and what is left behind it is text again. */
Test(added_tokens, added_tokens_in_stripped_white_space) {
    static const char added[] =
        "[{\"id\":20,\"content\":\"<r>\",\"rstrip\":true},{\"id\":21,\"content\":\"\\n\"},"
        "{\"id\":22,\"content\":\"<l>\",\"lstrip\":true},"
        "{\"id\":23,\"content\":\"\\t-\",\"lstrip\":true,\"rstrip\":true}]";
    temporary_make();
    fb_tokenizer *tokenizer = load(added, "null", BYTES, MODEL);
    expect_encoded(tokenizer, "<r>\n a", "20 21 8");
    expect_encoded(tokenizer, "<r> \n\n<l>", "20 21 21 22");
    expect_encoded(tokenizer, "<r>  \n  b", "20 21 7 7 1");
    expect_encoded(tokenizer, "<r>\n", "20 21");
    expect_encoded(tokenizer, "a<r> <l>b", "0 20 22 1");
    expect_encoded(tokenizer, "\t-  \t- a", "23 23 0");
    fb_tokenizer_destroy(tokenizer);
    /* all of the second one is stripped */
    tokenizer = load("[{\"id\":20,\"content\":\"\\n-\",\"rstrip\":true},"
                     "{\"id\":21,\"content\":\" \\n\",\"lstrip\":true}]",
                     "null", BYTES, MODEL);
    expect_encoded(tokenizer, "\n- \n", "20");
    fb_tokenizer_destroy(tokenizer);
    temporary_remove();
}

/* Tokens marked `normalized` are looked for after the others, with and without a normalizer. */
Test(added_tokens, raw_added_tokens_go_first) {
    static const char added[] =
        "[{\"id\":20,\"content\":\"<s>\",\"special\":true,\"normalized\":false},"
        "{\"id\":21,\"content\":\"a<\",\"normalized\":true},"
        "{\"id\":22,\"content\":\"ba\",\"normalized\":true,\"single_word\":true},"
        "{\"id\":23,\"content\":\"b_\",\"special\":true,\"normalized\":false}]";
    static const char *const normalizers[] = {"null", "{\"type\":\"NFC\"}"};
    temporary_make();
    for (size_t i = 0; i < 2; i++) {
        fb_tokenizer *tokenizer = load(added, normalizers[i], BYTES, MODEL);
        expect_encoded(tokenizer, "a<s>", "0 20");
        expect_encoded(tokenizer, "a<", "21");
        expect_encoded(tokenizer, "b_ba", "23 22"); /* its neighbour is no text any more */
        fb_tokenizer_destroy(tokenizer);
    }
    temporary_remove();
}

/* As split_special_tokens: a special token is found, and is text; no other is found in it. */
Test(added_tokens, no_token_is_found_in_a_special_one_that_is_text) {
    temporary_make();
    fb_tokenizer *tokenizer = load("[{\"id\":20,\"content\":\"-ba-\",\"special\":true},{\"id\":21,"
                                   "\"content\":\"ba\",\"normalized\":false}]",
                                   "null", BYTES, MODEL);
    cr_expect_str_eq(encode(tokenizer, "-ba-", FB_ADDED_PARSED), "20");
    cr_expect_str_eq(encode(tokenizer, "-ba-", FB_ADDED_SPECIAL_AS_TEXT), "5 3");
    cr_expect_str_eq(encode(tokenizer, "-ba ba-ba", FB_ADDED_SPECIAL_AS_TEXT), "2 21 7 21 2 21");
    fb_tokenizer_destroy(tokenizer);
    /* nor is an added token the model's token of the whole piece */
    tokenizer = load("[{\"id\":20,\"content\":\"ba\",\"special\":true}]", "null", BYTES,
                     "{\"vocab\":{" VOCAB "},\"merges\":[" MERGES "],\"ignore_merges\":true}");
    cr_expect_str_eq(encode(tokenizer, "ba", FB_ADDED_PARSED), "20");
    cr_expect_str_eq(encode(tokenizer, "ba", FB_ADDED_SPECIAL_AS_TEXT), "1 0");
    cr_expect_str_eq(encode(tokenizer, "abab", FB_ADDED_SPECIAL_AS_TEXT), "10");
    fb_tokenizer_destroy(tokenizer);
    temporary_remove();
}

/* Some vocabularies have bytes among their added tokens. */
Test(added_tokens, added_tokens_may_be_spelled_in_bytes) {
    static const struct {
        int32_t ids[3];
        const char *text;
    } cases[] = {
        {{0, 20, 1},
         "a\xef\xbf\xbd"
         "b"}, /* U+00C3 is byte C3 */
        {{20, 21, 0},
         "\xc3\xa9"
         "a"},
        {{0, 22, 1}, "a  b"},
        {{0, 23, 1}, "a\xc3\xa9 b"}, /* a space is not in the alphabet: the text as it is */
        {{0, 24, 1},
         "a\xe6\x97\xa5"
         "b"},
        {{20, 24, 1},
         "\xef\xbf\xbd\xe6\x97\xa5"
         "b"},
    };
    temporary_make();
    fb_tokenizer *tokenizer =
        load("[{\"id\":20,\"content\":\"\\u00c3\"},{\"id\":21,\"content\":\"\\u00a9\"},"
             "{\"id\":22,\"content\":\"\\u0120\\u0120\"},{\"id\":23,\"content\":\"\\u00e9 \"},"
             "{\"id\":24,\"content\":\"\\u65e5\"}]",
             "null", BYTES, MODEL);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *text = NULL;
        size_t length = 0;
        cr_assert_eq(fb_tokenizer_decode(tokenizer, cases[i].ids, 3, false, &text, &length), FB_OK);
        cr_expect_str_eq(text, cases[i].text, "%zu: '%s', not '%s'", i, text, cases[i].text);
        fb_text_free(text);
    }
    fb_tokenizer_destroy(tokenizer);
    temporary_remove();
}

/* A token that tokenizer_config.json or special_tokens_map.json names as special is one, as in
 * transformers: an added token without the mark, or a token of the vocabulary. */
Test(added_tokens, files_name_special_tokens) {
    static const char *const names[] = {"eos_token", "bos_token", "unk_token", "pad_token",
                                        "cls_token", "sep_token", "mask_token"};
    static const char *const files[] = {"tokenizer_config.json", "special_tokens_map.json"};
    const char *directory = temporary_make();
    fb_tokenizer *tokenizer = NULL;
    write_tokenizer("[{\"id\":20,\"content\":\"<e>\"}]", "null", BYTES, MODEL);
    for (size_t i = 0; i < 2 * sizeof names / sizeof *names; i++) {
        char text[256];
        const char *name = names[i / 2];
        snprintf(text, sizeof text,
                 "{\"%s\":\"<unk>\",\"%s\":{\"content\":\"<e>\"},"
                 "\"additional_special_tokens\":[\"<unk>\",\"abab\"]}",
                 name, names[(i / 2 + 1) % 7]);
        temporary_write_text(files[i % 2], text);
        cr_assert_eq(fb_tokenizer_load(directory, &tokenizer), FB_OK, "%s", fb_error_message());
        cr_expect_null(fb_tokenizer_warning(tokenizer, 0));
        cr_expect(fb_tokenizer_is_special(tokenizer, 9) && fb_tokenizer_is_special(tokenizer, 10) &&
                      fb_tokenizer_is_special(tokenizer, 20),
                  "%s: %s", files[i % 2], text);
        expect_encoded(tokenizer, "a<unk>abab<e>", "0 9 10 20");
        cr_expect_str_eq(encode(tokenizer, "<unk>", FB_ADDED_SPECIAL_AS_TEXT), "");
        fb_tokenizer_destroy(tokenizer);
        temporary_write_text(files[i % 2], "{}");
    }
    /* the flags of an object */
    temporary_write_text(files[0], "{\"bos_token\":{\"content\":\"<unk>\",\"lstrip\":true}}");
    cr_assert_eq(fb_tokenizer_load(directory, &tokenizer), FB_OK, "%s", fb_error_message());
    expect_encoded(tokenizer, "a  <unk> b", "0 9 7 1");
    fb_tokenizer_destroy(tokenizer);
    static const char *const odd[][2] = {
        {"{\"bos_token\":\"<x>\"}", "bos_token of tokenizer_config.json has '<x>', which is not a"},
        {"{\"additional_special_tokens\":[\"<e>\"]}", "has '<e>', which is not special here"},
        {"{\"extra_special_tokens\":{\"x\":\"<y>\"}}", "has '<y>', which is not a token"},
    };
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
        temporary_write_text(files[0], odd[i][0]);
        cr_assert_eq(fb_tokenizer_load(directory, &tokenizer), FB_OK, "%s", fb_error_message());
        const char *text = fb_tokenizer_warning(tokenizer, 0);
        cr_expect(text && strstr(text, odd[i][1]), "%s: '%s'", odd[i][0], text ? text : "");
        fb_tokenizer_destroy(tokenizer);
    }
    temporary_write_text(files[0], "{}");
    temporary_write_text(files[1], "{\"fudge\":true}");
    cr_assert_eq(fb_tokenizer_load(directory, &tokenizer), FB_OK, "%s", fb_error_message());
    const char *text = fb_tokenizer_warning(tokenizer, 0);
    cr_expect(text && strstr(text, "special_tokens_map.json: 1 field is not known, and not used"));
    fb_tokenizer_destroy(tokenizer);
    temporary_write_text(files[1], "{\"eos_token\":[\"<e>\"]}");
    cr_expect_eq(fb_tokenizer_load(directory, &tokenizer), FB_ERROR_FORMAT);
    cr_expect(strstr(fb_error_message(), "special_tokens_map.json: eos_token has [\"<e>\"]"), "%s",
              fb_error_message());
    temporary_remove();
}

/* The tokenizers library gives added tokens the next ids, whatever the file says. */
Test(added_tokens, warns_of_ids_that_transformers_does_not_take) {
    static const struct {
        const char *added, *words; /* NULL: no warning */
    } cases[] = {
        {"[{\"id\":20,\"content\":\"x\"},{\"id\":9,\"content\":\"<unk>\"},{\"id\":21,"
         "\"content\":\"y\"}]",
         NULL},
        {"[{\"id\":9,\"content\":\"<unk>\"},{\"id\":20,\"content\":\"x\"}]", NULL},
        {"[{\"id\":22,\"content\":\"x\"}]", "added token 'x' is 22;"},
        {"[{\"id\":20,\"content\":\"x\"},{\"id\":22,\"content\":\"y\"}]", "takes 21"},
        {"[{\"id\":20,\"content\":\"\"},{\"id\":21,\"content\":\"y\"}]", "takes 20"},
    };
    temporary_make();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fb_tokenizer *tokenizer = load(cases[i].added, "null", BYTES, MODEL);
        const char *text = fb_tokenizer_warning(tokenizer, 0);
        cr_expect(cases[i].words ? text && strstr(text, cases[i].words) : !text, "%s: '%s'",
                  cases[i].added, text ? text : "");
        fb_tokenizer_destroy(tokenizer);
    }
    temporary_remove();
}
