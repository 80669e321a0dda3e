/* The text functions below the tokenizer: UTF-8 with bad bytes, normalization, regular
 * expressions. */
#include "io/byte_level.h"
#include "io/regex.h"
#include "io/unicode.h"
#include "tests/temporary.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const unsigned char *bytes_of(const char *text) {
    return (const unsigned char *)text;
}

/* U+FFFD, and U+0085, which C does not let \u name. */
#define FFFD "\xef\xbf\xbd"
#define NEL  "\xc2\x85"

Test(utf8, replaces_maximal_parts) {
    static const struct {
        const char *text, *wanted;
    } cases[] = {
        {"plain", "plain"},
        {"\xc3\xa9\xe4\xb8\x80\xf0\x9f\x98\x80", "\xc3\xa9\xe4\xb8\x80\xf0\x9f\x98\x80"},
        {"\x80", FFFD},
        {"a\xffz", "a" FFFD "z"},
        {"\xc0\x80", FFFD FFFD},          /* overlong */
        {"\xe0\x80\x80", FFFD FFFD FFFD}, /* overlong */
        {"\xe0\xa0", FFFD},
        {"\xe0\xa0z", FFFD "z"},
        {"\xed\xa0\x80", FFFD FFFD FFFD}, /* a surrogate */
        {"\xed\x9f\xbf", "\xed\x9f\xbf"},
        {"\xf0\x9f\x98", FFFD},
        {"\xf0\x9f\x98\xf0\x9f\x98\x80", FFFD "\xf0\x9f\x98\x80"},
        {"\xf0\x80\x80\x80", FFFD FFFD FFFD FFFD},
        {"\xf4\x8f\xbf\xbf", "\xf4\x8f\xbf\xbf"},
        {"\xf4\x90\x80\x80", FFFD FFFD FFFD FFFD}, /* above U+10FFFF */
        {"\xf5\x80", FFFD FFFD},
        {"\xe4\xb8\xc3\xa9", FFFD "\xc3\xa9"},
        /* The example of the Unicode standard, table 3-11. */
        {"\x61\xf1\x80\x80\xe1\x80\xc2\x62\x80\x63\x80\xbf\x64",
         "a" FFFD FFFD FFFD "b" FFFD "c" FFFD FFFD "d"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fb_buffer out = {0};
        const unsigned char *text = bytes_of(cases[i].text);
        cr_assert_eq(fb_utf8_append_replaced(&out, text, strlen(cases[i].text), NULL), FB_OK);
        cr_assert_eq(fb_buffer_terminate(&out), FB_OK);
        cr_expect_str_eq((const char *)out.data, cases[i].wanted, "case %zu", i);
        fb_buffer_free(&out);
    }
}

Test(utf8, holds_back_an_incomplete_end) {
    static const struct {
        const char *text;
        size_t rest;
    } cases[] = {
        {"a\xf0\x9f\x98", 3}, {"a\xf0\x9f", 2}, {"a\xe4", 1},    {"a\xe0\xa0", 2}, {"a", 0},
        {"a\xff", 0},         {"", 0},          {"a\xed\xa0", 0}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fb_buffer out = {0};
        size_t rest = 9;
        const unsigned char *text = bytes_of(cases[i].text);
        cr_assert_eq(fb_utf8_append_replaced(&out, text, strlen(cases[i].text), &rest), FB_OK);
        cr_expect_eq(rest, cases[i].rest, "case %zu: %zu", i, rest);
        fb_buffer_free(&out);
    }
}

Test(utf8, round_trips_every_code_point) {
    for (uint32_t c = 0; c < 0x110000; c++) {
        if (c >= 0xd800 && c < 0xe000)
            continue;
        fb_buffer out = {0};
        cr_assert_eq(fb_utf8_append(&out, c), FB_OK);
        fb_utf8_step step = fb_utf8_decode(out.data, out.size);
        cr_assert(step.kind == FB_UTF8_VALID && step.code_point == c && step.size == out.size,
                  "U+%04X", (unsigned)c);
        fb_buffer_free(&out);
    }
}

static void expect_nfc(const char *text, const char *wanted) {
    fb_buffer out = {0};
    cr_assert_eq(fb_unicode_append_nfc(&out, bytes_of(text), strlen(text)), FB_OK);
    cr_assert_eq(fb_buffer_terminate(&out), FB_OK);
    cr_expect_str_eq((const char *)out.data, wanted, "NFC of '%s' is '%s', not '%s'", text,
                     (const char *)out.data, wanted);
    fb_buffer_free(&out);
}

Test(unicode, normalizes) {
    expect_nfc("", "");
    expect_nfc("plain \u00e9", "plain \u00e9");
    expect_nfc("e\u0301", "\u00e9");
    expect_nfc("\u212b\u2126\u212a", "\u00c5\u03a9K");          /* singletons */
    expect_nfc("a\u0323\u0302", "\u1ead");                      /* in two steps */
    expect_nfc("a\u0302\u0323", "\u1ead");                      /* ordered first */
    expect_nfc("a\u0301\u0301", "\u00e1\u0301");                /* the second is blocked */
    expect_nfc("\u0301a", "\u0301a");                           /* no starter before it */
    expect_nfc("\u1112\u1161\u11ab", "\ud55c");                 /* Hangul, three letters */
    expect_nfc("\ud558\u11ab", "\ud55c");                       /* Hangul, syllable + letter */
    expect_nfc("\u0958", "\u0915\u093c");                       /* excluded from composition */
    expect_nfc("\u0b47\u0b3e", "\u0b4b");                       /* two starters */
    expect_nfc("\U0001d15e", "\U0001d157\U0001d165");           /* excluded, outside the BMP */
    expect_nfc("\U000105d2\u0307", "\U000105c9");               /* Unicode 16 */
    expect_nfc("\U00016d63\U00016d67\U00016d67", "\U00016d6a"); /* Unicode 16, two steps */
    expect_nfc("a\u0897\u0323", "\u1ea1\u0897");                /* a mark of Unicode 16 */
}

Test(unicode, normalizes_long_runs_of_marks_quickly) {
    enum { PAIRS = 250000 };
    char *text = malloc(1 + 4 * PAIRS);
    cr_assert(text);
    text[0] = 'x';
    for (size_t i = 0; i < PAIRS; i++) /* classes 230 and 220: every pair is out of order */
        memcpy(text + 1 + 4 * i, "\u0301\u0323", 4);
    fb_buffer out = {0};
    clock_t start = clock();
    cr_assert_eq(fb_unicode_append_nfc(&out, bytes_of(text), 1 + 4 * PAIRS), FB_OK);
    double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
    cr_expect(seconds < 10, "%.1f s", seconds);
    cr_expect_eq(out.size, 1u + 4 * PAIRS);
    cr_expect(memcmp(out.data, "x\u0323\u0323", 5) == 0);
    cr_expect(memcmp(out.data + out.size - 4, "\u0301\u0301", 4) == 0);
    fb_buffer_free(&out);
    free(text);
}

/* The character that stands for a byte. */
static uint32_t character_of(unsigned char byte) {
    fb_buffer spelling = {0};
    cr_assert_eq(fb_byte_level_append_spelling(&spelling, &byte, 1), FB_OK);
    fb_utf8_step step = fb_utf8_decode(spelling.data, spelling.size);
    cr_assert_eq(step.size, spelling.size);
    fb_buffer_free(&spelling);
    return step.code_point;
}

/* The byte that a character stands for; -1 when it stands for its own UTF-8. */
static int byte_of(uint32_t character) {
    fb_buffer spelling = {0}, bytes = {0};
    cr_assert_eq(fb_utf8_append(&spelling, character), FB_OK);
    cr_assert_eq(fb_byte_level_append_bytes(&bytes, (const char *)spelling.data, spelling.size),
                 FB_OK);
    bool own = bytes.size == spelling.size && memcmp(bytes.data, spelling.data, bytes.size) == 0;
    int byte = bytes.data[0];
    cr_assert(own || bytes.size == 1, "U+%04X", (unsigned)character);
    fb_buffer_free(&spelling);
    fb_buffer_free(&bytes);
    return own && character >= 0x80 ? -1 : byte;
}

Test(byte_level, is_a_bijection) {
    bool seen[0x200] = {false};
    for (unsigned byte = 0; byte < 256; byte++) {
        uint32_t character = character_of((unsigned char)byte);
        cr_assert(character < 0x200 && !seen[character], "byte %u", byte);
        seen[character] = true;
        cr_expect_eq(byte_of(character), (int)byte);
    }
    for (uint32_t c = 0x80; c < 0x200; c++)
        cr_expect(seen[c] || byte_of(c) == -1, "U+%04X", (unsigned)c);
    cr_expect_eq(character_of(' '), 0x120u);
    cr_expect_eq(character_of('\n'), 0x10au);
    cr_expect_eq(byte_of(0x10ffff), -1);
}

/* The matches of `pattern` in `text`, joined by '|'. */
static const char *matches(const char *pattern, const char *text) {
    static char joined[1024];
    fb_regex *regex = NULL;
    fb_regex_state *state = NULL;
    cr_assert_eq(fb_regex_compile(pattern, false, &regex), FB_OK, "%s: %s", pattern,
                 fb_error_message());
    cr_assert_eq(fb_regex_state_create(&state), FB_OK);
    size_t used = 0, from = 0, length = strlen(text);
    for (bool found = true; from <= length;) {
        size_t begin = 0, end = 0;
        cr_assert_eq(
            fb_regex_find(regex, state, bytes_of(text), length, from, &found, &begin, &end), FB_OK);
        if (!found || begin == end)
            break;
        cr_assert(used + end - begin + 2 < sizeof joined);
        if (used > 0)
            joined[used++] = '|';
        memcpy(joined + used, text + begin, end - begin);
        used += end - begin;
        from = end;
    }
    joined[used] = '\0';
    fb_regex_state_destroy(state);
    fb_regex_destroy(regex);
    return joined;
}

Test(regex, means_what_oniguruma_means) {
    static const struct {
        const char *pattern, *text, *wanted;
    } cases[] = {
        {"\\s", "a\tb c" NEL "\u00a0\u1680\u3000\u2028",
         "\t| |" NEL "|\u00a0|\u1680|\u3000|\u2028"},
        {"\\s", "\u180e\u200b\u2060\ufeff\x1c\x1f", ""}, /* no white space */
        {"[\\s]", "\u180ea b" NEL, " |" NEL},
        {"\\S+", "a\u180eb c" NEL "d", "a\u180eb|c|d"},
        {"[^\\s]+", "a\u180eb c" NEL "d", "a\u180eb|c|d"},
        {"[\\S]+", "a\u180eb c" NEL "d", "a\u180eb|c|d"},
        {"(?i:'s|'k)", "'s'S'\u017f'k'K'\u212a", "'s|'S|'\u017f|'k|'K|'\u212a"},
        {"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+", "it'\u017fx",
         "it|'\u017f|x"},
        {"'(?i:[sdmt]|ll|ve|re)", "'S'\u017f'LL'Ve", "'S|'\u017f|'LL|'Ve"},
        {"(?i:[a-d])x", "axAxBxex", "ax|Ax|Bx"},
        {"(?i:[^s])", "sS\u017fx", "x"},
        {"(?i:[a-z])", "\u017f\u212aK1", "\u017f|\u212a|K"},
        {"(?i:\u00e9)\u00e9", "\u00c9\u00e9\u00e9\u00c9", "\u00c9\u00e9"},
        {"(?i:\\u00e9)", "\u00c9\u00e9", "\u00c9|\u00e9"},
        {"(?i:[\u03b1-\u03c9])", "\u03a3\u03c2", "\u03a3|\u03c2"},
        {"(?i:\\p{Lu})", "aB\U0001e943", "B"}, /* properties are not folded */
        {"(?i:i)", "iI\u0130\u0131", "i|I"},
        {"(?i)a|b", "AB", "A|B"},
        {"a(?i)b|c", "aBacAB", "aB|ac"}, /* it is a(?i:b|c) */
        {"((?i)a)a", "AaaA", "Aa"},
        {"(?i:a(?-i:b)c)", "AbCABC", "AbC"},
        {"(?m:a.)b", "a\nb", "a\nb"},
        {"(?mi:a.(?-m:.))", "A\nb", "A\nb"},
        {"(?i:s+s)", "\u017fSs", "\u017fSs"},
        {"(?i:a(?:b))c", "ABcABC", "ABc"}, /* only within the group */
        {"\\p{L}+", "a\u00e9\u4e00 1\u0301b", "a\u00e9\u4e00|b"},
        {"\\p{L}", "\U0001e5d0\U000105c0\U00031350\U000323b0", /* Unicode 15 to 17 */
         "\U0001e5d0|\U000105c0|\U00031350|\U000323b0"},
        {"[^\\p{L}\\p{N}]", "a1\U00031350\U00010d40-", "-"},
        {"\\P{L}", "a-\U00031350", "-"},
        {"\\p{^L}", "a-\U00031350", "-"},
        {"\\p{Lu}+", "aBC\U00010d50d", "BC\U00010d50"},
        {"[\\p{LC}]+", "a\u02b0B", "a|B"},
        {"\\p{Letter}+", "ab1", "ab"},
        {"\\p{Han}+", "a\u4e00\u4e01", "\u4e00\u4e01"},
        {"\\d+", "12\u0663\u00b2", "12\u0663"},
        {"[\\d]+", "12\u0663\u00b2", "12\u0663"},
        {"\\w+", "a_1\u00e9\u0301-\u2040", "a_1\u00e9\u0301|\u2040"},
        {"\\h+", "0fFg \t", "0fF"},
        {"[\\h]+", "0fFg \t", "0fF"},
        {"\\u0041\\x{42}", "AB", "AB"},
        {"a{,2}b", "aab ab aaab", "aab|ab|aab"},
        {"a{2}", "aaaa", "aa|aa"},
        {"a{x", "a{x", "a{x"},
        {"^.", "a\nb", "a|b"},
        {".$", "a\nb", "a|b"},
        {"a.b", "a\rb a\nb", "a\rb"},
        {"[[:alpha:]]+", "ab1", "ab"},
        {"[]a]+", "]a", "]a"},
        {"\\[\\]", "[]", "[]"},
        {"\\s+(?!\\S)|\\s+", "a   b  ", "  | |  "},
        {"(a)(b)(c)", "abc", "abc"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *got = matches(cases[i].pattern, cases[i].text);
        cr_expect_str_eq(got, cases[i].wanted, "%s in '%s': '%s', not '%s'", cases[i].pattern,
                         cases[i].text, got, cases[i].wanted);
    }
}

Test(regex, refuses_what_it_cannot_do) {
    static const char *const patterns[] = {
        "[a-z&&[^aeiou]]",
        "(?i:ss)", /* U+00DF, too */
        "(?i:\u00df)",
        "(?i:office)",
        "(?i:[\u00c0-\u00ff])",
        "(?i:[\\w])",
        "(?i:[\\p{L}])",
        "(?i:[[:alpha:]])",
        "(?i:\\x{df})",
        "(?x:a b)",
        "(?#a)",
        "(?~a)",
        "[a[b]]",
        "[\\W]",
        "\\p",
        "\\p{",
        "\\pL",
        "\\p{Nonsense}",
        "\\",
        "(",
        ")",
        "[",
        "[a",
        "(*UTF)a",
        "(*LIMIT_MATCH=1)a",
        "a{2}+",
        "\\u12",
        "\\C",
        "\\Q",
        "a**?+",
        "(?<n>a)(?<n>b)",
        "\\x{110000}",
        "\\x{d800}",
        "((a{1,65535}){1,65535}){1,65535}",
    };
    for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++) {
        fb_regex *regex = NULL;
        cr_expect_eq(fb_regex_compile(patterns[i], false, &regex), FB_ERROR_UNSUPPORTED,
                     "%s was accepted", patterns[i]);
        cr_expect_null(regex);
    }
    char deep[1001];
    memset(deep, '(', 1000);
    deep[1000] = '\0';
    fb_regex *regex = NULL;
    cr_expect_eq(fb_regex_compile(deep, false, &regex), FB_ERROR_UNSUPPORTED);
}

Test(regex, stops_at_limits) {
    enum { LENGTH = 40 };
    char text[LENGTH];
    memset(text, 'a', LENGTH);
    fb_regex *regex = NULL;
    fb_regex_state *state = NULL;
    cr_assert_eq(fb_regex_compile("(a|aa|aaa)+[^a]", false, &regex), FB_OK);
    cr_assert_eq(fb_regex_state_create(&state), FB_OK);
    bool found = false;
    size_t begin = 0, end = 0;
    cr_expect_eq(fb_regex_find(regex, state, bytes_of(text), LENGTH, 0, &found, &begin, &end),
                 FB_ERROR_UNSUPPORTED);
    fb_regex_state_destroy(state);
    fb_regex_destroy(regex);
}

static int use_regex(const void *data, size_t size, void *context) {
    char *pattern = malloc(size + 1);
    cr_assert(pattern);
    if (size > 0)
        memcpy(pattern, data, size);
    pattern[size] = '\0';
    fb_regex *regex = NULL;
    /* JSON gives well-formed UTF-8 only. */
    fb_status status = fb_utf8_valid_prefix(data, size) == size
                           ? fb_regex_compile(pattern, false, &regex)
                           : FB_ERROR_FORMAT;
    free(pattern);
    if (status != FB_OK)
        return 0;
    bool found = false;
    size_t begin = 0, end = 0;
    const char *text = "It's 12 \u00e9t\u00e9\r\n  x";
    fb_regex_find(regex, context, bytes_of(text), strlen(text), 0, &found, &begin, &end);
    fb_regex_destroy(regex);
    return 1;
}

Test(regex, survives_malformed_variants) {
    static const char pattern[] = "(?i:'s|'t|'re)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}"
                                  "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
    fb_regex_state *state = NULL;
    cr_assert_eq(fb_regex_state_create(&state), FB_OK);
    size_t accepted = try_variants(pattern, sizeof pattern - 1, 5000, use_regex, state);
    cr_log_info("%zu of %zu malformed variants were still expressions", accepted,
                sizeof pattern + 4999);
    cr_expect(accepted > 0);
    fb_regex_state_destroy(state);
}
