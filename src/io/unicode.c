#include "io/unicode.h"

#include "base/error.h"
#include "base/memory.h"
#include "io/unicode_additions.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#define COUNT(table) (sizeof(table) / sizeof((table)[0]))

/* A decomposed character; `place` makes the sort by class stable. */
typedef struct element {
    uint32_t code_point;
    int combining_class;
    size_t place;
} element;

bool fb_unicode_is_plain(const unsigned char *text, size_t length) {
    for (size_t i = 0; i < length; i++)
        if (text[i] >= 0xcc) /* lead byte of U+0300 */
            return false;
    return true;
}

static int combining_class(uint32_t code_point) {
    for (size_t i = 0; i < COUNT(added_marks); i++)
        if (added_marks[i].code_point == code_point)
            return added_marks[i].combining_class;
    return utf8proc_get_property((utf8proc_int32_t)code_point)->combining_class;
}

static fb_status append_element(fb_buffer *elements, uint32_t code_point) {
    element item = {code_point, combining_class(code_point), elements->size};
    return fb_buffer_append(elements, &item, sizeof item);
}

/* A full canonical decomposition has at most 4 characters. */
enum { MAX_DECOMPOSITION = 8 };

static fb_status append_decomposed(fb_buffer *elements, uint32_t code_point) {
    for (size_t i = 0; i < COUNT(added_pairs); i++)
        if (added_pairs[i].composed == code_point) {
            FB_TRY(append_decomposed(elements, added_pairs[i].first));
            return append_element(elements, added_pairs[i].second);
        }
    utf8proc_int32_t parts[MAX_DECOMPOSITION];
    utf8proc_ssize_t count =
        utf8proc_decompose_char((utf8proc_int32_t)code_point, parts, MAX_DECOMPOSITION,
                                UTF8PROC_DECOMPOSE | UTF8PROC_STABLE, NULL);
    if (count < 1 || count > MAX_DECOMPOSITION)
        return append_element(elements, code_point);
    for (utf8proc_ssize_t i = 0; i < count; i++)
        FB_TRY(append_element(elements, (uint32_t)parts[i]));
    return FB_OK;
}

static int compare_elements(const void *left, const void *right) {
    const element *a = left, *b = right;
    if (a->combining_class != b->combining_class)
        return a->combining_class < b->combining_class ? -1 : 1;
    return a->place < b->place ? -1 : a->place > b->place;
}

/* Sorts each run of marks by class. utf8proc swaps neighbours, which takes quadratic time for a
 * long run of marks; qsort does not. */
static void order_marks(element *items, size_t count) {
    for (size_t begin = 0; begin < count;) {
        if (items[begin].combining_class == 0) {
            begin++;
            continue;
        }
        size_t end = begin + 1;
        bool ordered = true;
        for (; end < count && items[end].combining_class != 0; end++)
            ordered &= items[end - 1].combining_class <= items[end].combining_class;
        if (!ordered)
            qsort(items + begin, end - begin, sizeof *items, compare_elements);
        begin = end;
    }
}

/* Composes two characters into one; false when there is no such character. */
static bool compose(uint32_t first, uint32_t second, uint32_t *composed) {
    if (second < 0x300)
        return false;
    for (size_t i = 0; i < COUNT(added_pairs); i++)
        if (added_pairs[i].first == first && added_pairs[i].second == second) {
            *composed = added_pairs[i].composed;
            return true;
        }
    utf8proc_int32_t pair[3] = {(utf8proc_int32_t)first, (utf8proc_int32_t)second, 0};
    if (utf8proc_normalize_utf32(pair, 2, UTF8PROC_COMPOSE | UTF8PROC_STABLE) != 1)
        return false;
    *composed = (uint32_t)pair[0];
    return true;
}

/* Composes in place; returns the number of characters left. A character is blocked from the last
 * starter when a character between them has class 0 or a class that is not below its own. */
static size_t compose_all(element *items, size_t count) {
    size_t used = 0, starter = SIZE_MAX;
    int last_class = -1; /* -1: nothing stands between the starter and the next character */
    for (size_t i = 0; i < count; i++) {
        uint32_t composed = 0;
        if (starter != SIZE_MAX && last_class < items[i].combining_class &&
            compose(items[starter].code_point, items[i].code_point, &composed)) {
            items[starter].code_point = composed;
            continue;
        }
        if (items[i].combining_class == 0)
            starter = used;
        last_class = items[i].combining_class == 0 ? -1 : items[i].combining_class;
        items[used++] = items[i];
    }
    return used;
}

static fb_status normalize(fb_buffer *elements, fb_buffer *buffer, const unsigned char *text,
                           size_t length) {
    for (size_t position = 0; position < length;) {
        fb_utf8_step step = fb_utf8_decode(text + position, length - position);
        FB_TRY(append_decomposed(elements, step.code_point));
        position += step.size;
    }
    element *items = (element *)(void *)elements->data;
    size_t count = elements->size / sizeof *items;
    order_marks(items, count);
    count = compose_all(items, count);
    for (size_t i = 0; i < count; i++)
        FB_TRY(fb_utf8_append(buffer, items[i].code_point));
    return FB_OK;
}

fb_status fb_unicode_append_nfc(fb_buffer *buffer, const unsigned char *text, size_t length) {
    fb_buffer elements = {0};
    fb_status status = normalize(&elements, buffer, text, length);
    fb_buffer_free(&elements);
    return status;
}

bool fb_unicode_is_white_space(uint32_t code_point) {
    return (code_point >= 0x09 && code_point <= 0x0d) || code_point == 0x20 || code_point == 0x85 ||
           code_point == 0xa0 || code_point == 0x1680 ||
           (code_point >= 0x2000 && code_point <= 0x200a) || code_point == 0x2028 ||
           code_point == 0x2029 || code_point == 0x202f || code_point == 0x205f ||
           code_point == 0x3000;
}

static const char *category_of(uint32_t code_point) {
    for (size_t i = 0; i < COUNT(added_categories); i++)
        if (code_point >= added_categories[i].first && code_point <= added_categories[i].last)
            return added_categories[i].category;
    return utf8proc_category_string((utf8proc_int32_t)code_point);
}

bool fb_unicode_is_word(uint32_t code_point) {
    const char *category = category_of(code_point);
    return category[0] == 'L' || category[0] == 'M' || strcmp(category, "Nd") == 0 ||
           strcmp(category, "Nl") == 0 || strcmp(category, "Pc") == 0 || code_point == 0x200c ||
           code_point == 0x200d;
}

static bool category_matches(const char *category, const char *wanted, size_t length) {
    if (category[0] != wanted[0])
        return false;
    if (length == 1 || category[1] == wanted[1])
        return true;
    bool cased = wanted[1] == '&' || wanted[1] == 'C';
    return wanted[0] == 'L' && cased && strchr("ult", category[1]);
}

fb_status fb_unicode_append_additions(fb_buffer *buffer, const char *category, size_t length) {
    if (length < 1 || length > 2)
        return FB_OK;
    for (size_t i = 0; i < COUNT(added_categories); i++) {
        if (!category_matches(added_categories[i].category, category, length))
            continue;
        char range[32];
        snprintf(range, sizeof range, "\\x{%x}-\\x{%x}", (unsigned)added_categories[i].first,
                 (unsigned)added_categories[i].last);
        FB_TRY(fb_buffer_append_text(buffer, range));
    }
    return FB_OK;
}

/* All characters whose full folding is longer than one character are here. */
static const struct {
    uint32_t first, last;
} long_foldings[] = {{0xdf, 0xdf},     {0x130, 0x130},  {0x149, 0x149}, {0x1f0, 0x1f0},
                     {0x390, 0x390},   {0x3b0, 0x3b0},  {0x587, 0x587}, {0x1e96, 0x1e9e},
                     {0x1f50, 0x1ffc}, {0xfb00, 0xfb17}};

enum { MAX_FOLDING = 4 };

/* The length of the full folding. */
static size_t fold(uint32_t code_point, utf8proc_int32_t folded[MAX_FOLDING]) {
    utf8proc_ssize_t count = utf8proc_decompose_char((utf8proc_int32_t)code_point, folded,
                                                     MAX_FOLDING, UTF8PROC_CASEFOLD, NULL);
    if (count < 1 || count > MAX_FOLDING)
        folded[0] = (utf8proc_int32_t)code_point;
    return count < 1 || count > MAX_FOLDING ? 1 : (size_t)count;
}

uint32_t fb_unicode_fold(uint32_t code_point) {
    utf8proc_int32_t folded[MAX_FOLDING];
    return fold(code_point, folded) == 1 ? (uint32_t)folded[0] : 0;
}

bool fb_unicode_folds_to_several(uint32_t first, uint32_t last) {
    for (size_t i = 0; i < COUNT(long_foldings); i++)
        for (uint32_t c = long_foldings[i].first; c <= long_foldings[i].last; c++)
            if (c >= first && c <= last && fb_unicode_fold(c) == 0)
                return true;
    return false;
}

void fb_fold_pairs_init(fb_fold_pairs *pairs) {
    utf8proc_int32_t folded[MAX_FOLDING];
    pairs->count = 0;
    for (size_t i = 0; i < COUNT(long_foldings); i++)
        for (uint32_t c = long_foldings[i].first; c <= long_foldings[i].last; c++)
            if (fold(c, folded) > 1 && pairs->count < COUNT(pairs->pairs)) {
                pairs->pairs[pairs->count][0] = (uint32_t)folded[0];
                pairs->pairs[pairs->count++][1] = (uint32_t)folded[1];
            }
}

bool fb_fold_pairs_have(const fb_fold_pairs *pairs, uint32_t first, uint32_t second) {
    for (size_t i = 0; i < pairs->count; i++)
        if (pairs->pairs[i][0] == first && pairs->pairs[i][1] == second)
            return true;
    return false;
}
