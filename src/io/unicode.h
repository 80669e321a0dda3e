/* The parts of Unicode that the tokenizer needs: the tables of utf8proc, and the characters of
 * later Unicode versions. */
#ifndef FB_IO_UNICODE_H
#define FB_IO_UNICODE_H

#include "io/utf8.h"

#include <stdbool.h>

/* true when the text is certainly in normalization form C (nothing at or above U+0300). */
bool fb_unicode_is_plain(const unsigned char *text, size_t length);

/* Appends the normalization form C of well-formed UTF-8. O(length log length) for any text. */
fb_status fb_unicode_append_nfc(fb_buffer *buffer, const unsigned char *text, size_t length);

/* The property White_Space. */
bool fb_unicode_is_white_space(uint32_t code_point);

/* true for the characters of \w: letters, marks, decimal digits, letter numbers, connectors and
 * joiners. */
bool fb_unicode_is_word(uint32_t code_point);

/* The case folding of a character (CaseFolding.txt, status C or S); 0 when its full folding is
 * several characters, as that of U+00DF is ss. */
uint32_t fb_unicode_fold(uint32_t code_point);

/* true when the full folding of a character in [first, last] is several characters. */
bool fb_unicode_folds_to_several(uint32_t first, uint32_t last);

/* The first two characters of every full folding that is longer than one character. */
typedef struct fb_fold_pairs {
    uint32_t pairs[128][2];
    size_t count;
} fb_fold_pairs;

void fb_fold_pairs_init(fb_fold_pairs *pairs);
bool fb_fold_pairs_have(const fb_fold_pairs *pairs, uint32_t first, uint32_t second);

/* Appends \x{...}-\x{...} for the characters that PCRE2 may not know yet and whose general category
 * is category[0 .. length): "L", "Lu", "LC" or "L&" (cased letters). */
fb_status fb_unicode_append_additions(fb_buffer *buffer, const char *category, size_t length);

#endif
