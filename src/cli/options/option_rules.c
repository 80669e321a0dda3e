#include "cli/options/option_rules.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* One alternative of a condition. */
typedef struct clause {
    char name[32], value[32];
    bool has_value, negative;
} clause;

/* The one that begins at *at; *at moves to what follows it. */
static clause read_clause(const char **at) {
    clause read = {.negative = **at == '!'};
    const char *name = *at + read.negative;
    size_t length = strcspn(name, "!=| ");
    const char *end = name + length;
    snprintf(read.name, sizeof read.name, "%.*s", (int)length, name);
    if (*end == '!') {
        read.negative = true;
        end++;
    }
    if (*end == '=') {
        read.has_value = true;
        length = strcspn(++end, "| ");
        snprintf(read.value, sizeof read.value, "%.*s", (int)length, end);
        end += length;
    }
    *at = end;
    return read;
}

static void append(char *text, size_t size, const char *one, const char *other) {
    size_t used = strlen(text);
    snprintf(text + used, size - used, "%s%s", one, other);
}

/* "--reuse rows" */
static void append_name(char *text, size_t size, const clause *of) {
    append(text, size, "--", of->name);
    if (of->has_value)
        append(text, size, " ", of->value);
}

static size_t index_of(const fb_option_table *table, const char *name) {
    size_t i = 0;
    while (i < fb_option_table_count(table)) {
        const fb_option *option = fb_option_table_at(table, i);
        if (option->kind != FB_OPTION_GROUP && strcmp(option->name, name) == 0)
            break;
        i++;
    }
    return i;
}

static bool is_equal(const char *text, const char *value) {
    char *end_of_text, *end_of_value;
    double one = strtod(text, &end_of_text), other = strtod(value, &end_of_value);
    bool numbers = *text && *value && !*end_of_text && !*end_of_value;
    return numbers ? one >= other && one <= other : strcmp(text, value) == 0;
}

/* An option without a value, given or by default, has none that `of` names; one that the table
 * leaves out is not given. */
static bool holds(const fb_option_table *table, const fb_option_texts *texts, const clause *of) {
    size_t i = index_of(table, of->name);
    if (i == fb_option_table_count(table))
        return of->negative;
    const char *text = texts->given[i];
    if (!of->has_value)
        return (text != NULL) != of->negative;
    if (!text)
        text = fb_option_table_at(table, i)->otherwise;
    return (text && is_equal(text, of->value)) != of->negative;
}

/* Whether the condition begins with a value of the option itself, which needs nothing. *at moves to
 * what the other values need. */
static bool skip_own_value(const fb_option *option, const char **at, clause *own) {
    const char *after = *at;
    *own = read_clause(&after);
    if (strcmp(own->name, option->name) != 0 || *after != '|')
        return false;
    *at = after + 1;
    return true;
}

/* One condition, at *at, which moves to its end. */
static bool condition_holds(const fb_option_table *table, const fb_option_texts *texts,
                            const char **at) {
    bool any = false;
    for (;; ++*at) {
        clause of = read_clause(at);
        any = holds(table, texts, &of) || any;
        if (**at != '|')
            return any;
    }
}

static bool is_given(const fb_option_table *table, const fb_option_texts *texts, const char *name) {
    size_t i = index_of(table, name);
    return i < fb_option_table_count(table) && texts->given[i];
}

/* What is wrong with one option: "--a and --b exclude each other", "--a needs --b or no --c". */
static void explain(const fb_option_table *table, const fb_option_texts *texts,
                    const fb_option *option, const char *condition, char *text, size_t size) {
    clause of;
    skip_own_value(option, &condition, &of);
    const char *at = condition;
    of = read_clause(&at);
    snprintf(text, size, "--%s", option->name);
    if (*at != '|' && of.negative && is_given(table, texts, of.name)) {
        append(text, size, " and ", "");
        append_name(text, size, &of);
        append(text, size, " exclude each other", "");
        return;
    }
    append(text, size, " needs ", "");
    for (at = condition;; at++) {
        of = read_clause(&at);
        if (of.negative && of.has_value) {
            append(text, size, "another --", of.name);
            append(text, size, " than ", of.value);
        } else {
            append(text, size, of.negative ? "no " : "", "");
            append_name(text, size, &of);
        }
        if (*at != '|')
            return;
        append(text, size, " or ", "");
    }
}

bool fb_option_rules_hold(const fb_option_table *table, const fb_option_texts *texts, char *text,
                          size_t size) {
    for (size_t i = 0; i < fb_option_table_count(table); i++) {
        const fb_option *option = fb_option_table_at(table, i);
        if (!texts->given[i] || !option->needs)
            continue;
        for (const char *at = option->needs; *at; at += *at == ' ') {
            const char *condition = at;
            if (condition_holds(table, texts, &at))
                continue;
            explain(table, texts, option, condition, text, size);
            return false;
        }
    }
    return true;
}

void fb_option_rules_describe(const fb_option *option, char *text, size_t size) {
    const char *at = option->needs, *between = "";
    while (at && *at) {
        clause of;
        append(text, size, between, "");
        if (skip_own_value(option, &at, &of)) {
            append(text, size, "unless ", of.value);
            append(text, size, ": ", "");
        }
        of = read_clause(&at);
        append(text, size, of.negative ? "not with " : "needs ", "");
        append_name(text, size, &of);
        while (*at == '|') {
            at++;
            of = read_clause(&at);
            append(text, size, " or ", of.negative ? "no " : "");
            append_name(text, size, &of);
        }
        between = "; ";
        at += *at == ' ';
    }
}
