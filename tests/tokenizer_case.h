/* Small tokenizers, and the ids that they give. */
#ifndef FB_TESTS_TOKENIZER_CASE_H
#define FB_TESTS_TOKENIZER_CASE_H

#include "tests/temporary.h"

#include <flashblock/tokenizer.h>

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

/* a, b, -, space, and merges of them in the order a- -- -b ab, "Ġa". Added tokens begin at 20. */
#define VOCAB                                                                                      \
    "\"a\":0,\"b\":1,\"-\":2,\"a-\":3,\"--\":4,\"-b\":5,\"ab\":6,\"\\u0120\":7,\"\\u0120a\":8,"    \
    "\"<unk>\":9,\"abab\":10,\"#1\":11,\"#2\":12,\"#3\":13,\"#4\":14,\"#5\":15,\"#6\":16,"         \
    "\"#7\":17,\"#8\":18,\"#9\":19"
#define MERGES "\"a -\",\"- -\",\"- b\",\"a b\",\"\\u0120 a\""
#define MODEL  "{\"type\":\"BPE\",\"vocab\":{" VOCAB "},\"merges\":[" MERGES "]}"
#define BYTES                                                                                      \
    "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":false,"                   \
    "\"use_regex\":false}"

/* Writes a tokenizer.json of these fields and returns its path. */
static const char *write_tokenizer(const char *added, const char *normalizer,
                                   const char *pre_tokenizer, const char *model) {
    char text[8192];
    int length =
        snprintf(text, sizeof text,
                 "{\"added_tokens\":%s,\"normalizer\":%s,\"pre_tokenizer\":%s,\"decoder\":" BYTES
                 ",\"model\":%s}",
                 added, normalizer, pre_tokenizer, model);
    cr_assert(length > 0 && (size_t)length < sizeof text);
    return temporary_write_text("tokenizer.json", text);
}

static fb_tokenizer *load(const char *added, const char *normalizer, const char *pre_tokenizer,
                          const char *model) {
    fb_tokenizer *tokenizer = NULL;
    const char *path = write_tokenizer(added, normalizer, pre_tokenizer, model);
    cr_assert_eq(fb_tokenizer_load(path, &tokenizer), FB_OK, "%s", fb_error_message());
    return tokenizer;
}

/* The ids, in decimal, separated by spaces. */
static const char *encode(const fb_tokenizer *tokenizer, const char *text, fb_added_tokens added) {
    static char shown[4096];
    int32_t *ids = NULL;
    size_t count = 0, used = 0;
    cr_assert_eq(fb_tokenizer_encode(tokenizer, text, strlen(text), added, &ids, &count), FB_OK,
                 "%s", fb_error_message());
    shown[0] = '\0';
    for (size_t i = 0; i < count && used < sizeof shown - 16; i++)
        used += (size_t)snprintf(shown + used, sizeof shown - used, i ? " %d" : "%d", (int)ids[i]);
    fb_token_ids_free(ids);
    return shown;
}

static void expect_encoded(const fb_tokenizer *tokenizer, const char *text, const char *wanted) {
    const char *got = encode(tokenizer, text, FB_ADDED_PARSED);
    cr_expect_str_eq(got, wanted, "'%s': ids %s, not %s", text, got, wanted);
}

#define ADDED                                                                                      \
    "[{\"id\":20,\"content\":\"b-b\",\"special\":true},{\"id\":21,\"content\":\"aa\"},"            \
    "{\"id\":22,\"content\":\"<l>\",\"lstrip\":true},{\"id\":23,\"content\":\"<r>\","              \
    "\"rstrip\":true},{\"id\":24,\"content\":\"ba\",\"single_word\":true},"                        \
    "{\"id\":25,\"content\":\"b-b-\",\"special\":true},{\"id\":26,\"content\":\"\"}]"

#endif
