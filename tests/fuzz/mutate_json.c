/* Mutations of JSON text that leave it JSON, most of the time. The text need not be JSON. */
#include "tests/fuzz/fuzz.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_SPANS = 16384, MAX_DEPTH = 64 };

/* A key or a value of the text. */
typedef struct span {
    size_t begin, end;
    bool is_key;
} span;

typedef struct span_list {
    size_t count;
    span spans[MAX_SPANS];
} span_list;

/* --- reading ---------------------------------------------------------------------------------- */

static size_t end_of_string(const uint8_t *text, size_t size, size_t at) {
    for (at++; at < size && text[at] != '"'; at++)
        at += text[at] == '\\';
    return at < size ? at + 1 : size;
}

static size_t end_of_word(const uint8_t *text, size_t size, size_t at) {
    while (at < size && (isalnum(text[at]) || (text[at] && strchr("+-._", text[at]))))
        at++;
    return at;
}

static size_t skip_space(const uint8_t *text, size_t size, size_t at) {
    while (at < size && isspace(text[at]))
        at++;
    return at;
}

/* All keys, values, objects and arrays. */
static void find_spans(const uint8_t *text, size_t size, span_list *list) {
    size_t open[MAX_DEPTH], depth = 0;
    list->count = 0;
    for (size_t at = skip_space(text, size, 0); at < size && list->count < MAX_SPANS;
         at = skip_space(text, size, at)) {
        span *next = &list->spans[list->count];
        *next = (span){.begin = at};
        if (text[at] == '{' || text[at] == '[') {
            if (depth == MAX_DEPTH)
                return;
            open[depth++] = list->count++;
            next->end = size;
            at++;
        } else if (text[at] == '}' || text[at] == ']') {
            at++;
            if (depth > 0)
                list->spans[open[--depth]].end = at;
        } else if (text[at] == '"') {
            at = next->end = end_of_string(text, size, at);
            size_t after = skip_space(text, size, at);
            next->is_key = after < size && text[after] == ':';
            list->count++;
        } else {
            next->end = end_of_word(text, size, at);
            list->count += next->end > at;
            at = next->end > at ? next->end : at + 1;
        }
    }
}

static const span_list *spans_of(const uint8_t *text, size_t size) {
    static span_list list;
    find_spans(text, size, &list);
    return &list;
}

/* --- writing ---------------------------------------------------------------------------------- */

/* Replaces [begin, end); the text stays as it is if it would become too long. */
static size_t splice(uint8_t *text, size_t size, size_t max, size_t begin, size_t end,
                     const void *bytes, size_t count) {
    size_t left = size - (end - begin);
    if (count > max || left > max - count)
        return size;
    memmove(text + begin + count, text + end, size - end);
    memcpy(text + begin, bytes, count);
    return left + count;
}

static size_t splice_text(uint8_t *text, size_t size, size_t max, span where, const char *words) {
    return splice(text, size, max, where.begin, where.end, words, strlen(words));
}

/* --- mutations -------------------------------------------------------------------------------- */

static const char *const values[] = {
    "0",
    "1",
    "-1",
    "2",
    "3",
    "4",
    "7",
    "8",
    "63",
    "64",
    "65",
    "127",
    "255",
    "256",
    "1024",
    "4096",
    "65535",
    "65536",
    "1000000",
    "16777216",
    "2147483647",
    "2147483648",
    "4294967295",
    "4294967296",
    "9007199254740993",
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "1000000000000000019884624838656",
    "0.0",
    "-0.0",
    "0.5",
    "1e-6",
    "1e-45",
    "1e-308",
    "1e-400",
    "3.5e38",
    "1e30",
    "1e308",
    "1e400",
    "-1e400",
    "NaN",
    "Infinity",
    "-Infinity",
    "null",
    "true",
    "false",
    "\"\"",
    "\"a\"",
    "\"\\u0000\"",
    "\"\\ud800\"",
    "\"../x\"",
    "\"/\"",
    "\"F32\"",
    "\"BF16\"",
    "\"I64\"",
    "\"BOOL\"",
    "\"default\"",
    "\"yarn\"",
    "\"linear\"",
    "[]",
    "{}",
    "[0]",
    "[null]",
    "[[]]",
    "{\"\": 0}",
    "[1, 2, 3]",
    "[4294967296]",
    "{\"type\": \"ByteLevel\"}",
    "{\"type\": \"Sequence\"}",
    "{\"type\": \"NFC\"}",
    "{\"content\": \"<|MASK|>\"}",
};

/* Fields of the formats that are read, which a seed need not have. */
static const char *const members[] = {
    "\"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 4.0}",
    "\"rope_scaling\": {\"type\": \"linear\"}",
    "\"rope_parameters\": {\"rope_type\": \"default\", \"rope_theta\": 10000.0}",
    "\"partial_rotary_factor\": 0.5",
    "\"sliding_window\": 8",
    "\"use_sliding_window\": true",
    "\"layer_types\": [\"full_attention\", \"sliding_attention\"]",
    "\"quantization_config\": {}",
    "\"attention_bias\": true",
    "\"tie_word_embeddings\": true",
    "\"tie_word_embeddings\": false",
    "\"head_dim\": 8",
    "\"block_size\": 65536",
    "\"mask_token_id\": 5",
    "\"eos_token_id\": [1, 2]",
    "\"pad_token_id\": 3",
    "\"mask_token\": \"<|MASK|>\"",
    "\"mask_token\": {\"content\": \"<|MASK|>\"}",
    "\"added_tokens_decoder\": {\"7\": {\"content\": \"x\", \"special\": true}}",
    "\"model_max_length\": 1000000000000000019884624838656",
    "\"normalizer\": {\"type\": \"NFC\"}",
    "\"normalizer\": null",
    "\"ignore_merges\": true",
    "\"unk_token\": \"a\"",
    "\"fuse_unk\": true",
    "\"byte_fallback\": true",
    "\"truncation\": {}",
    "\"post_processor\": {\"type\": \"TemplateProcessing\"}",
    "\"chat_template\": \"x\"",
    "\"__metadata__\": {\"a\": \"b\"}",
    "\"__metadata__\": null",
    "\"behavior\": \"Removed\"",
    "\"behavior\": \"MergedWithPrevious\"",
    "\"behavior\": \"Contiguous\"",
    "\"invert\": true",
    "\"add_prefix_space\": true",
    "\"use_regex\": true",
    "\"lstrip\": true",
    "\"single_word\": true",
    "\"normalized\": true",
};

#define COUNT(list) (sizeof(list) / sizeof(list)[0])

static bool pick(const span_list *list, bool key, span *picked) {
    for (size_t tries = 0; tries < 32 && list->count > 0; tries++) {
        *picked = list->spans[fuzz_random(list->count)];
        if (picked->is_key == key)
            return true;
    }
    return false;
}

static size_t replace_value(uint8_t *text, size_t size, size_t max, span value) {
    return splice_text(text, size, max, value, values[fuzz_random(COUNT(values))]);
}

/* Copies another value, or key, over this one. */
static size_t copy_over(uint8_t *text, size_t size, size_t max, const span_list *list, span to) {
    span from;
    if (!pick(list, to.is_key, &from))
        return size;
    size_t count = from.end - from.begin;
    uint8_t *copy = malloc(count + 1);
    if (!copy)
        return size;
    memcpy(copy, text + from.begin, count);
    size = splice(text, size, max, to.begin, to.end, copy, count);
    free(copy);
    return size;
}

static size_t change_number(uint8_t *text, size_t size, size_t max, span value) {
    char number[32];
    snprintf(number, sizeof number, "%.*s", (int)(value.end - value.begin), text + value.begin);
    long long was = strtoll(number, NULL, 10);
    switch (fuzz_random(6)) {
    case 0:
        was = (long long)((unsigned long long)was + 1);
        break;
    case 1:
        was = (long long)((unsigned long long)was - 1);
        break;
    case 2:
        was = (long long)((unsigned long long)was * 2);
        break;
    case 3:
        was /= 2;
        break;
    case 4:
        was = (long long)(1ull << fuzz_random(64));
        break;
    default:
        was = (long long)fuzz_random(32);
        break;
    }
    snprintf(number, sizeof number, "%lld", was);
    return splice_text(text, size, max, value, number);
}

/* Bytes of the value, without its quotes. */
static size_t change_bytes(uint8_t *text, size_t size, size_t max, span value) {
    bool quoted = text[value.begin] == '"' && value.end - value.begin >= 2;
    size_t begin = value.begin + quoted, end = value.end - quoted, count = end - begin;
    size_t room = count + 64;
    uint8_t *copy = malloc(room);
    if (!copy)
        return size;
    memcpy(copy, text + begin, count);
    count = LLVMFuzzerMutate(copy, count, room);
    size = splice(text, size, max, begin, end, copy, count);
    free(copy);
    return size;
}

/* A key, its value, and the comma. */
static span member_of(const uint8_t *text, size_t size, const span_list *list, span key) {
    for (size_t i = 0; i + 1 < list->count; i++) {
        if (list->spans[i].begin != key.begin)
            continue;
        size_t end = skip_space(text, size, list->spans[i + 1].end);
        return (span){.begin = key.begin, .end = end < size && text[end] == ',' ? end + 1 : end};
    }
    return key;
}

static size_t drop_member(uint8_t *text, size_t size, size_t max, const span_list *list) {
    span key;
    if (!pick(list, true, &key))
        return size;
    return splice_text(text, size, max, member_of(text, size, list, key), "");
}

static size_t add_member(uint8_t *text, size_t size, size_t max, const span_list *list) {
    span key;
    char member[256];
    if (!pick(list, true, &key))
        return size;
    snprintf(member, sizeof member, "%s,", members[fuzz_random(COUNT(members))]);
    key.end = key.begin;
    return splice_text(text, size, max, key, member);
}

/* JSON within a string, as the metadata `params` of case files. */
static size_t change_quoted_json(uint8_t *text, size_t size, size_t max, span value) {
    size_t count = 0, room = 2 * (value.end - value.begin) + 256;
    uint8_t *inner = malloc(room), *escaped = malloc(2 * room);
    if (!inner || !escaped)
        abort();
    for (size_t i = value.begin + 1; i + 1 < value.end; i++) {
        i += text[i] == '\\' && i + 2 < value.end;
        inner[count++] = text[i];
    }
    count = fuzz_mutate_json(inner, count, room);
    size_t used = 0;
    for (size_t i = 0; i < count; i++) {
        if (inner[i] == '"' || inner[i] == '\\')
            escaped[used++] = '\\';
        escaped[used++] = inner[i];
    }
    size = splice(text, size, max, value.begin + 1, value.end - 1, escaped, used);
    free(inner);
    free(escaped);
    return size;
}

static bool is_quoted_json(const uint8_t *text, span value) {
    return value.end - value.begin > 3 && text[value.begin] == '"' &&
           (text[value.begin + 1] == '{' || text[value.begin + 1] == '[');
}

static bool find_quoted_json(const uint8_t *text, const span_list *list, span *found) {
    size_t first = fuzz_random(list->count);
    for (size_t i = 0; i < list->count && i < 64; i++) {
        *found = list->spans[(first + i) % list->count];
        if (!found->is_key && is_quoted_json(text, *found))
            return true;
    }
    return false;
}

static size_t nest(uint8_t *text, size_t size, size_t max, span value) {
    char deep[5001];
    size_t depth = 1 + fuzz_random(2500);
    memset(deep, '[', depth);
    memset(deep + depth, ']', depth);
    return splice(text, size, max, value.begin, value.end, deep, 2 * depth);
}

size_t fuzz_mutate_json(uint8_t *text, size_t size, size_t max) {
    const span_list *list = spans_of(text, size);
    span value, quoted;
    if (!pick(list, false, &value))
        return LLVMFuzzerMutate(text, size, max);
    if (fuzz_random(3) == 0 && find_quoted_json(text, list, &quoted))
        return change_quoted_json(text, size, max, quoted);
    bool is_number = isdigit(text[value.begin]) || text[value.begin] == '-';
    if (is_number && fuzz_random(2) == 0)
        return change_number(text, size, max, value);
    switch (fuzz_random(12)) {
    case 0:
        return drop_member(text, size, max, list);
    case 1:
        return add_member(text, size, max, list);
    case 2:
    case 3:
        return copy_over(text, size, max, list, value);
    case 4:
        return pick(list, true, &value) ? copy_over(text, size, max, list, value) : size;
    case 5:
    case 6:
        return change_bytes(text, size, max, value);
    case 7:
        return fuzz_random(16) == 0 ? nest(text, size, max, value) : size;
    default:
        return replace_value(text, size, max, value);
    }
}

/* --- numbers ---------------------------------------------------------------------------------- */

/* The end of a whole number that begins at `at`, or `at`. */
static size_t end_of_number(const uint8_t *text, size_t size, size_t at) {
    if (at > 0 && (isalnum(text[at - 1]) || strchr("._-", text[at - 1])))
        return at;
    size_t end = at;
    while (end < size && isdigit(text[end]))
        end++;
    bool is_word = end < size && (isalpha(text[end]) || text[end] == '_' || text[end] == '.');
    return is_word || end - at > 9 ? at : end;
}

static size_t number_at(const uint8_t *text, size_t at, size_t end) {
    size_t number = 0;
    for (; at < end; at++)
        number = 10 * number + (size_t)(text[at] - '0');
    return number;
}

size_t fuzz_pick_number(const uint8_t *text, size_t size) {
    enum { LENGTH_BYTES = 8 };
    if (size > LENGTH_BYTES && text[7] == 0 && text[LENGTH_BYTES] == '{') { /* safetensors */
        size_t header = text[0] | (size_t)text[1] << 8 | (size_t)text[2] << 16;
        text += LENGTH_BYTES;
        size = header < size - LENGTH_BYTES ? header : size - LENGTH_BYTES;
    }
    size_t first = fuzz_random(size);
    for (size_t i = 0; i < size && i < 4096; i++) {
        size_t at = (first + i) % size, end = end_of_number(text, size, at);
        if (end > at)
            return number_at(text, at, end);
    }
    return 0;
}

size_t fuzz_rescale_json(uint8_t *text, size_t size, size_t max, size_t from, size_t to) {
    char number[32];
    snprintf(number, sizeof number, "%zu", to);
    for (size_t at = 0; at < size; at++) {
        size_t end = end_of_number(text, size, at);
        if (end == at || number_at(text, at, end) != from)
            continue;
        size = splice(text, size, max, at, end, number, strlen(number));
        at += strlen(number);
    }
    return size;
}
