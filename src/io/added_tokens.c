#include "io/added_tokens.h"

#include "base/error.h"
#include "base/memory.h"
#include "io/unicode.h"

#include <string.h>

static int compare_entries(const fb_added_matcher *matcher, const fb_added_entry *a,
                           const fb_added_entry *b) {
    size_t shorter = a->length < b->length ? a->length : b->length;
    int order = memcmp(matcher->text.data + a->text, matcher->text.data + b->text, shorter);
    return order != 0 ? order : (a->length > b->length) - (a->length < b->length);
}

/* Sift-down of a heap sort, as qsort has no context argument. */
static void sift(fb_added_matcher *matcher, size_t at, size_t count) {
    fb_added_entry *entries = matcher->entries;
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= count)
            return;
        if (child + 1 < count && compare_entries(matcher, &entries[child], &entries[child + 1]) < 0)
            child++;
        if (compare_entries(matcher, &entries[at], &entries[child]) >= 0)
            return;
        fb_added_entry swapped = entries[at];
        entries[at] = entries[child];
        entries[child] = swapped;
        at = child;
    }
}

static void sort_entries(fb_added_matcher *matcher) {
    for (size_t i = matcher->count / 2; i-- > 0;)
        sift(matcher, i, matcher->count);
    for (size_t last = matcher->count; last-- > 1;) {
        fb_added_entry largest = matcher->entries[0];
        matcher->entries[0] = matcher->entries[last];
        matcher->entries[last] = largest;
        sift(matcher, 0, last);
    }
}

static fb_status add(fb_added_matcher *matcher, const fb_added_token *token, bool nfc) {
    const unsigned char *content = (const unsigned char *)token->content;
    size_t length = strlen(token->content), start = matcher->text.size;
    if (length > FB_MAX_ADDED_TOKEN)
        return fb_fail(FB_ERROR_UNSUPPORTED, "added token %d has %zu bytes, above %d",
                       (int)token->id, length, FB_MAX_ADDED_TOKEN);
    if (nfc)
        FB_TRY(fb_unicode_append_nfc(&matcher->text, content, length));
    else
        FB_TRY(fb_buffer_append(&matcher->text, content, length));
    if (matcher->text.size == start) /* an empty text never matches */
        return FB_OK;
    matcher->entries[matcher->count++] = (fb_added_entry){
        .text = start,
        .length = matcher->text.size - start,
        .id = token->id,
        .special = token->special,
        .lstrip = token->lstrip,
        .rstrip = token->rstrip,
        .single_word = token->single_word,
    };
    matcher->begins[matcher->text.data[start]] = true;
    return FB_OK;
}

fb_status fb_added_matcher_load(const fb_added_token *tokens, size_t count, bool normalized,
                                bool nfc, fb_added_matcher *matcher) {
    FB_TRY(fb_alloc(count, sizeof *matcher->entries, "added tokens", &matcher->entries));
    for (size_t i = 0; i < count; i++)
        if (tokens[i].normalized == normalized)
            FB_TRY(add(matcher, &tokens[i], nfc));
    sort_entries(matcher);
    return FB_OK;
}

void fb_added_matcher_free(fb_added_matcher *matcher) {
    fb_free(matcher->entries);
    fb_buffer_free(&matcher->text);
    *matcher = (fb_added_matcher){0};
}

/* All of entries[low .. high) agree in `depth` bytes. Returns the first whose next byte is at least
 * `byte`. */
static size_t lower_bound(const fb_added_matcher *matcher, size_t low, size_t high, size_t depth,
                          unsigned byte) {
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const fb_added_entry *entry = &matcher->entries[middle];
        bool ends = entry->length == depth;
        if (ends || matcher->text.data[entry->text + depth] < byte)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The longest entry at the beginning of text[0 .. length), or NULL. Each byte narrows the sorted
 * entries to those that still agree. An entry that ends there is the first of them. */
static const fb_added_entry *longest_match(const fb_added_matcher *matcher,
                                           const unsigned char *text, size_t length) {
    const fb_added_entry *longest = NULL;
    size_t low = 0, high = matcher->count;
    for (size_t depth = 0; depth < length && low < high; depth++) {
        low = lower_bound(matcher, low, high, depth, text[depth]);
        high = lower_bound(matcher, low, high, depth, text[depth] + 1u);
        if (low == high)
            break;
        const fb_added_entry *entry = &matcher->entries[low];
        if (entry->length == depth + 1)
            longest = entry;
    }
    return longest;
}

/* The place where the character before text[end] begins; end > 0. */
static size_t step_back(const unsigned char *text, size_t end) {
    size_t begin = end - 1;
    while (begin > 0 && (text[begin] & 0xc0) == 0x80)
        begin--;
    return begin;
}

static bool stands_alone(const unsigned char *text, size_t length, size_t begin, size_t end) {
    if (begin > 0) {
        size_t before = step_back(text, begin);
        if (fb_unicode_is_word(fb_utf8_decode(text + before, begin - before).code_point))
            return false;
    }
    return end == length ||
           !fb_unicode_is_word(fb_utf8_decode(text + end, length - end).code_point);
}

static size_t strip_left(const unsigned char *text, size_t from, size_t end) {
    while (end > from) {
        size_t before = step_back(text, end);
        if (!fb_unicode_is_white_space(fb_utf8_decode(text + before, end - before).code_point))
            break;
        end = before;
    }
    return end;
}

static size_t strip_right(const unsigned char *text, size_t begin, size_t length) {
    while (begin < length) {
        fb_utf8_step step = fb_utf8_decode(text + begin, length - begin);
        if (!fb_unicode_is_white_space(step.code_point))
            break;
        begin += step.size;
    }
    return begin;
}

/* Whether an entry that stands at text[begin .. end) is the token there. */
static bool counts(const fb_added_entry *entry, fb_added_tokens mode, const unsigned char *text,
                   size_t length, size_t begin, size_t end) {
    return !(entry->special && mode == FB_ADDED_SPECIAL_AS_TEXT) &&
           (!entry->single_word || stands_alone(text, length, begin, end));
}

fb_added_part fb_added_find(const fb_added_matcher *matcher, fb_added_tokens mode,
                            const unsigned char *text, size_t length, size_t from, size_t search) {
    bool any = matcher->count > 0 && mode != FB_ADDED_AS_TEXT;
    for (size_t at = search; any && at < length;) {
        const fb_added_entry *entry =
            matcher->begins[text[at]] ? longest_match(matcher, text + at, length - at) : NULL;
        size_t end = entry ? at + entry->length : at + 1;
        if (entry && counts(entry, mode, text, length, at, end)) {
            size_t next = entry->rstrip ? strip_right(text, end, length) : end;
            size_t begin = entry->lstrip ? strip_left(text, from, at) : at;
            /* The white space before it, and then all of it, may be gone already. */
            if (!entry->lstrip || next > from)
                return (fb_added_part){from, begin, entry->id, next, end};
        }
        at = end; /* nothing is found within a text that does not count */
    }
    return (fb_added_part){from, length, -1, length, length};
}
