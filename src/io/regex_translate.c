#define _POSIX_C_SOURCE 200809L /* strnlen */
#include "base/error.h"
#include "io/regex.h"
#include "io/unicode.h"

#include <ctype.h>
#include <stdlib.h>
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

/* A group of the pattern that is open. */
typedef struct group {
    bool fold;       /* the state before it */
    size_t switches; /* (?i) and the like in it: each is a group that ends with it */
} group;

/* `at` is the next character to read; NUL ends the pattern. */
typedef struct translator {
    fb_buffer *out;
    const char *at;
    bool fold; /* letters match in either case */
    /* The folded literals of this item of the pattern and of the one before it; 0: it is none, or
     * it is repeated. */
    uint32_t literal, previous;
    group groups[MAX_GROUPS + 1]; /* the first is the whole pattern */
    size_t depth;
    fb_fold_pairs pairs;
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
    /* Oniguruma does not fold properties. */
    if (!in_class)
        FB_TRY(put(t, negated ? "(?-i:[^" : "(?-i:["));
    FB_TRY(put(t, in_class && negated ? "\\P{" : "\\p{"));
    FB_TRY(put(t, category));
    FB_TRY(put(t, "}"));
    /* A member cannot be taken out of a class again, so a \P in [...] is left to PCRE2. */
    if (!in_class || !negated)
        FB_TRY(fb_unicode_append_additions(t->out, category, strlen(category)));
    return in_class ? FB_OK : put(t, "])");
}

/* A quantifier at `at` repeats the literal before it: that is then no part of a longer text. */
static bool is_quantified(const char *at) {
    return *at != '\0' && strchr("*+?{", *at);
}

/* Where case is folded, some characters match two or three others, such as U+00DF, which matches
 * ss. Those are refused: for (?i:...) PCRE2 folds one character to one other. `next` follows the
 * literal. */
static fb_status check_literal(translator *t, uint32_t code_point, const char *next) {
    if (!t->fold)
        return FB_OK;
    uint32_t folded = fb_unicode_fold(code_point);
    bool repeated = is_quantified(next);
    if (folded == 0 || (!repeated && fb_fold_pairs_have(&t->pairs, t->previous, folded)))
        return unsupported("a text within (?i:...) that also matches a shorter or longer one");
    t->literal = repeated ? 0 : folded;
    return FB_OK;
}

/* \uHHHH */
static fb_status put_code_point(translator *t, bool in_class) {
    char digits[5] = {0};
    for (int i = 0; i < 4; i++) {
        digits[i] = t->at[2 + i];
        if (!isxdigit((unsigned char)digits[i]))
            return unsupported("\\u without four digits");
    }
    uint32_t value = (uint32_t)strtoul(digits, NULL, 16);
    if (in_class && t->fold && value >= 0x80)
        return unsupported("\\u above U+007F within (?i:[...])");
    t->at += 2;
    FB_TRY(put(t, "\\x{"));
    FB_TRY(copy(t, 4));
    FB_TRY(put(t, "}"));
    return in_class ? FB_OK : check_literal(t, value, t->at);
}

/* \x{...}, \t, \., back references and the like are the same in both languages. */
static fb_status copy_escape(translator *t) {
    if (t->at[1] == 'Q' || t->at[1] == '\0')
        return unsupported("a backslash that quotes nothing");
    if (t->at[1] == 'x' && t->at[2] == '{') {
        /* PCRE2 refuses it unless it is a code point and } follows */
        unsigned long value = strtoul(t->at + 3, NULL, 16);
        if (t->fold && value >= 0x80)
            return unsupported("\\x{...} above U+007F within (?i:...)");
        return copy(t, 2 + strcspn(t->at + 2, "}"));
    }
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
        return put_code_point(t, false);
    default:
        return copy_escape(t);
    }
}

static fb_status translate_class_escape(translator *t) {
    char escape = t->at[1];
    /* U+00DF and the like are in these: see check_literal */
    if (t->fold && escape != '\0' && strchr("wSHpP", escape))
        return unsupported("\\w, \\S, \\H or \\p within (?i:[...])");
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
        return put_code_point(t, true);
    default:
        return copy_escape(t);
    }
}

static fb_utf8_step step_at(const char *at) {
    return fb_utf8_decode((const unsigned char *)at, strnlen(at, 4));
}

/* One member of a class: a character, or a range of two. */
static fb_status translate_class_member(translator *t) {
    fb_utf8_step first = step_at(t->at), last = first;
    size_t size = first.size;
    const char *next = t->at + size;
    if (next[0] == '-' && next[1] != '\0' && !strchr("]\\[", next[1])) {
        last = step_at(next + 1);
        size += 1 + last.size;
    }
    if (t->fold && fb_unicode_folds_to_several(first.code_point, last.code_point))
        return unsupported("a character within (?i:[...]) that also matches several");
    return copy(t, size);
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
            if (!end || t->fold)
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

/* What the letters between (? and : or ) switch. */
typedef struct switches {
    bool fold, dot_all; /* i, and m, which PCRE2 calls s */
    bool no_dot_all;
    const char *end; /* the : or ), NULL when these are no switches */
} switches;

static switches read_switches(const translator *t) {
    switches s = {.fold = t->fold};
    bool on = true;
    const char *at = t->at + 2;
    for (; *at != '\0' && strchr("im-", *at); at++) {
        if (*at == '-')
            on = false;
        else if (*at == 'i')
            s.fold = on;
        else
            *(on ? &s.dot_all : &s.no_dot_all) = true;
    }
    s.end = at > t->at + 2 && (*at == ':' || *at == ')') ? at : NULL;
    return s;
}

/* (?i:...) is a group. (?i) holds to the end of the group it is in, with all its alternatives: in
 * Oniguruma it is a group, too. */
static fb_status open_switches(translator *t, const switches *s) {
    if (*s->end == ')')
        t->groups[t->depth].switches++;
    else
        t->groups[++t->depth] = (group){.fold = t->fold};
    t->fold = s->fold;
    t->at = s->end + 1;
    FB_TRY(put(t, s->dot_all ? "(?s" : "(?"));
    FB_TRY(put(t, s->fold ? "i" : ""));
    FB_TRY(put(t, !s->fold || s->no_dot_all ? "-" : ""));
    FB_TRY(put(t, s->fold ? "" : "i"));
    return put(t, s->no_dot_all ? "s:" : ":");
}

static fb_status open_group(translator *t) {
    if (t->at[1] == '*')
        return unsupported("(* verbs");
    if (t->depth == MAX_GROUPS)
        return unsupported("groups are nested too deeply");
    if (t->at[1] == '?') {
        switches s = read_switches(t);
        if (s.end)
            return open_switches(t, &s);
        if (t->at[2] == '\0' || !strchr(":=!><", t->at[2]))
            return unsupported("a group of this kind");
    }
    t->groups[++t->depth] = (group){.fold = t->fold};
    return copy(t, t->at[1] == '?' ? 2 : 1);
}

static fb_status end_switches(translator *t) {
    for (; t->groups[t->depth].switches > 0; t->groups[t->depth].switches--)
        FB_TRY(put(t, ")"));
    return FB_OK;
}

static fb_status close_group(translator *t) {
    if (t->depth == 0)
        return unsupported(") without (");
    FB_TRY(end_switches(t));
    t->fold = t->groups[t->depth--].fold;
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
    fb_utf8_step step = step_at(t->at);
    if (strchr(".^$|*+?", t->at[0]))
        return copy(t, 1);
    FB_TRY(check_literal(t, step.code_point, t->at + step.size));
    return copy(t, step.size);
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
    fb_fold_pairs_init(&t.pairs);
    for (; *t.at != '\0'; t.previous = t.literal) {
        t.literal = 0;
        FB_TRY(translate_one(&t));
    }
    return end_switches(&t);
}
