#include "base/error.h"
#include "io/regex.h"
#include "io/unicode.h"

#include <ctype.h>
#include <string.h>

/* As deep as PCRE2 nests parentheses. */
enum { MAX_GROUPS = 250 };

static const char white_space[] = "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}"
                                  "\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}";
static const char not_white_space[] =
    "\\x{0}-\\x{8}\\x{e}-\\x{1f}\\x{21}-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}"
    "\\x{1681}-\\x{1fff}\\x{200b}-\\x{2027}\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}"
    "\\x{2060}-\\x{2fff}\\x{3001}-\\x{10ffff}";
static const char hexadecimal[] = "0-9A-Fa-f";
static const char not_hexadecimal[] = "\\x{0}-/:-@G-`g-\\x{10ffff}";

/* `at` is the next character to read; NUL ends the pattern. */
typedef struct translator {
    fb_buffer *out;
    const char *at;
    bool fold; /* within (?i:...) */
    bool saved_fold[MAX_GROUPS];
    size_t depth;
} translator;

static fb_status put(translator *t, const char *text) {
    return fb_buffer_append_text(t->out, text);
}

/* Copies `count` bytes of the pattern and steps over them. */
static fb_status copy(translator *t, size_t count) {
    FB_TRY(fb_buffer_append(t->out, t->at, count));
    t->at += count;
    return FB_OK;
}

static fb_status unsupported(const char *what) {
    return fb_fail(FB_ERROR_UNSUPPORTED, "regular expression: %s", what);
}

/* Appends the members of a class, to stand between [ and ]. */
static fb_status put_members(translator *t, char escape) {
    static const char *const names[] = {"L", "M", "N", "Pc"};
    switch (escape) {
    case 's':
        return put(t, white_space);
    case 'h':
        return put(t, hexadecimal);
    case 'd':
        FB_TRY(put(t, "\\p{Nd}"));
        return fb_unicode_append_additions(t->out, "Nd", 2);
    default: /* 'w' */
        FB_TRY(put(t, "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}"));
        for (size_t i = 0; i < sizeof names / sizeof *names; i++)
            FB_TRY(fb_unicode_append_additions(t->out, names[i], strlen(names[i])));
        return FB_OK;
    }
}

/* \p{name} at `at`: the name, without a leading ^, and whether it is negated. */
static fb_status read_property(translator *t, char name[32], bool *negated) {
    *negated = t->at[1] == 'P';
    const char *begin = t->at + 2;
    if (*begin != '{')
        return unsupported("\\p without {name}");
    begin++;
    if (*begin == '^') {
        *negated = !*negated;
        begin++;
    }
    size_t length = strcspn(begin, "}");
    if (begin[length] != '}' || length == 0 || length >= 32)
        return unsupported("\\p with a name that does not end");
    memcpy(name, begin, length);
    name[length] = '\0';
    t->at = begin + length + 1;
    return FB_OK;
}

static const char *short_category(const char *name) {
    static const char *const long_names[][2] = {
        {"Letter", "L"}, {"Mark", "M"},      {"Number", "N"}, {"Punctuation", "P"},
        {"Symbol", "S"}, {"Separator", "Z"}, {"Other", "C"},
    };
    for (size_t i = 0; i < sizeof long_names / sizeof *long_names; i++)
        if (strcmp(name, long_names[i][0]) == 0)
            return long_names[i][1];
    return strcmp(name, "LC") == 0 ? "L&" : name;
}

static fb_status put_property(translator *t, bool in_class) {
    char name[32];
    bool negated = false;
    FB_TRY(read_property(t, name, &negated));
    const char *category = short_category(name);
    if (!in_class)
        FB_TRY(put(t, negated ? "[^" : "["));
    FB_TRY(put(t, in_class && negated ? "\\P{" : "\\p{"));
    FB_TRY(put(t, category));
    FB_TRY(put(t, "}"));
    /* A member cannot be taken out of a class again, so a \P in [...] is left to PCRE2. */
    if (!in_class || !negated)
        FB_TRY(fb_unicode_append_additions(t->out, category, strlen(category)));
    return in_class ? FB_OK : put(t, "]");
}

/* \uHHHH */
static fb_status put_code_point(translator *t) {
    for (int i = 2; i < 6; i++)
        if (!isxdigit((unsigned char)t->at[i]))
            return unsupported("\\u without four digits");
    t->at += 2;
    FB_TRY(put(t, "\\x{"));
    FB_TRY(copy(t, 4));
    return put(t, "}");
}

/* \x{...}, \t, \., back references and the like are the same in both languages. */
static fb_status copy_escape(translator *t) {
    if (t->at[1] == 'Q' || t->at[1] == '\0')
        return unsupported("a backslash that quotes nothing");
    if (t->at[1] == 'x' && t->at[2] == '{')
        return copy(t, 2 + strcspn(t->at + 2, "}"));
    return copy(t, 2);
}

static fb_status translate_escape(translator *t) {
    char escape = t->at[1];
    switch (escape) {
    case 's':
    case 'h':
    case 'd':
    case 'w':
    case 'S':
    case 'H':
    case 'D':
    case 'W':
        t->at += 2;
        FB_TRY(put(t, isupper((unsigned char)escape) ? "[^" : "["));
        FB_TRY(put_members(t, (char)tolower((unsigned char)escape)));
        return put(t, "]");
    case 'p':
    case 'P':
        return put_property(t, false);
    case 'u':
        return put_code_point(t);
    default:
        return copy_escape(t);
    }
}

static fb_status translate_class_escape(translator *t) {
    char escape = t->at[1];
    switch (escape) {
    case 's':
    case 'h':
    case 'd':
    case 'w':
        t->at += 2;
        return put_members(t, escape);
    case 'S':
        t->at += 2;
        return put(t, not_white_space);
    case 'H':
        t->at += 2;
        return put(t, not_hexadecimal);
    case 'W':
        return unsupported("\\W within [...]");
    case 'p':
    case 'P':
        return put_property(t, true);
    case 'u':
        return put_code_point(t);
    default:
        return copy_escape(t);
    }
}

static bool is_ascii_letter(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/* Appends the other case of the ASCII letters in [first, last]. The range itself is in the class
 * already. */
static fb_status put_other_cases(translator *t, char first, char last) {
    for (int c = first; c <= last; c++) {
        int other = c ^ 0x20;
        if (is_ascii_letter((char)c) && (other < first || other > last)) {
            char text[2] = {(char)other, '\0'};
            FB_TRY(put(t, text));
        }
    }
    return FB_OK;
}

/* One member of a class: a character, or a range of two. */
static fb_status translate_class_member(translator *t) {
    char first = t->at[0], last = first;
    if (t->at[1] == '-' && t->at[2] != ']' && t->at[2] != '\\' && t->at[2] != '[' &&
        t->at[2] != '\0') {
        last = t->at[2];
        FB_TRY(copy(t, 2));
    }
    FB_TRY(copy(t, 1)); /* the other bytes of a longer character follow as members */
    bool ascii = (unsigned char)first < 0x80 && (unsigned char)last < 0x80;
    return t->fold && ascii ? put_other_cases(t, first, last) : FB_OK;
}

static fb_status translate_class(translator *t) {
    FB_TRY(copy(t, 1));
    if (t->at[0] == '^')
        FB_TRY(copy(t, 1));
    if (t->at[0] == ']')
        FB_TRY(copy(t, 1));
    while (t->at[0] != ']') {
        if (t->at[0] == '\0')
            return unsupported("[ without ]");
        if (t->at[0] == '&' && t->at[1] == '&')
            return unsupported("&& within [...]");
        if (t->at[0] == '[') {
            const char *end = t->at[1] == ':' ? strstr(t->at, ":]") : NULL;
            if (!end)
                return unsupported("[ within [...]");
            FB_TRY(copy(t, (size_t)(end - t->at) + 2));
        } else if (t->at[0] == '\\') {
            FB_TRY(translate_class_escape(t));
        } else {
            FB_TRY(translate_class_member(t));
        }
    }
    return copy(t, 1);
}

static fb_status open_group(translator *t) {
    if (t->at[1] == '*')
        return unsupported("(* verbs");
    if (t->depth == MAX_GROUPS)
        return unsupported("groups are nested too deeply");
    t->saved_fold[t->depth++] = t->fold;
    if (strncmp(t->at, "(?i:", 4) == 0) {
        t->fold = true;
        t->at += 4;
        return put(t, "(?:");
    }
    return copy(t, t->at[1] == '?' ? 2 : 1);
}

static fb_status close_group(translator *t) {
    if (t->depth == 0)
        return unsupported(") without (");
    t->fold = t->saved_fold[--t->depth];
    return copy(t, 1);
}

/* {m}, {m,}, {m,n}, {,n}; any other { stands for itself. */
static fb_status translate_brace(translator *t) {
    size_t low = strspn(t->at + 1, "0123456789");
    const char *end = t->at + 1 + low;
    size_t high = 0;
    if (*end == ',') {
        high = strspn(end + 1, "0123456789");
        end += 1 + high;
    }
    if (*end != '}' || low + high == 0)
        return copy(t, 1);
    if (end[1] == '+')
        return unsupported("+ after {m,n}");
    if (low == 0) {
        FB_TRY(put(t, "{0"));
        t->at++;
    }
    return copy(t, (size_t)(end - t->at) + 1);
}

static fb_status translate_literal(translator *t) {
    char c = t->at[0];
    if (!t->fold || !is_ascii_letter(c))
        return copy(t, 1);
    t->at++;
    char text[5] = {'[', c, (char)(c ^ 0x20), ']', '\0'};
    return put(t, text);
}

static fb_status translate_one(translator *t) {
    switch (t->at[0]) {
    case '\\':
        return translate_escape(t);
    case '[':
        return translate_class(t);
    case '(':
        return open_group(t);
    case ')':
        return close_group(t);
    case '{':
        return translate_brace(t);
    default:
        return translate_literal(t);
    }
}

fb_status fb_regex_translate(fb_buffer *buffer, const char *pattern) {
    translator t = {.out = buffer, .at = pattern};
    while (*t.at != '\0')
        FB_TRY(translate_one(&t));
    return FB_OK;
}
