/* The regular expressions of tokenizers, over PCRE2.
 *
 * tokenizer.json writes them for Oniguruma. Most of the two languages is the same. The differences
 * are translated (regex_translate.c), so that \s, \p{L} and the like mean the same characters with
 * every version of PCRE2:
 *   \s \S       White_Space (PCRE2 adds U+180E)
 *   \p{..}      with the characters of later Unicode versions; an upper-case \P inside [...] is
 *               left to PCRE2's version
 *   \d \w       decimal digits; letters, marks, digits, connectors
 *   \h          a hexadecimal digit
 *   (?i:...)    folds letters of all alphabets: s also matches U+017F, k also U+212A. A text that
 *               would match one of another length (ss and U+00DF) is FB_ERROR_UNSUPPORTED, and so
 *               is a class with such a member
 *   (?i)        holds to the end of its group, with all alternatives
 *   (?m:...)    . matches LF
 *   {,n}        {0,n}
 *   ^ $         at lines
 * Class intersections, nested classes, a + after {m,n} and groups of other kinds (comments,
 * conditions, absence) are FB_ERROR_UNSUPPORTED. */
#ifndef FB_IO_REGEX_H
#define FB_IO_REGEX_H

#include "io/buffer.h"

#include <stdbool.h>

/* Immutable once compiled: any number of threads may use one, each with a state of its own. */
typedef struct fb_regex fb_regex;

/* `literal`: the pattern is plain text, not an expression. */
fb_status fb_regex_compile(const char *pattern, bool literal, fb_regex **regex);
void fb_regex_destroy(fb_regex *regex);

/* Memory that a thread needs for matching. One state serves any number of expressions. */
typedef struct fb_regex_state fb_regex_state;

fb_status fb_regex_state_create(fb_regex_state **state);
void fb_regex_state_destroy(fb_regex_state *state);

/* Finds the first match at or after `from` in text[0 .. length), which is well-formed UTF-8. *found
 * says whether there is one; the match is [*begin, *end). FB_ERROR_UNSUPPORTED when the search
 * exceeds the limits of PCRE2. */
fb_status fb_regex_find(const fb_regex *regex, fb_regex_state *state, const unsigned char *text,
                        size_t length, size_t from, bool *found, size_t *begin, size_t *end);

/* Appends the PCRE2 form of an Oniguruma expression. */
fb_status fb_regex_translate(fb_buffer *buffer, const char *pattern);

#endif
