#include "io/regex.h"

#include "base/error.h"
#include "base/memory.h"

#include <string.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

enum {
    MAX_PATTERN = 1 << 16,
    MAX_HEAP_KIB = 256 * 1024,
    JIT_STACK_START = 32 * 1024,
    JIT_STACK_MAX = 8 * 1024 * 1024,
};

struct fb_regex {
    pcre2_code *code;
};

struct fb_regex_state {
    pcre2_match_data *match;
    pcre2_match_context *context;
    pcre2_jit_stack *stack; /* NULL where PCRE2 has no JIT */
};

static fb_status fail_with_code(fb_status status, const char *what, int code) {
    PCRE2_UCHAR text[128];
    if (pcre2_get_error_message(code, text, sizeof text) < 0)
        text[0] = '\0';
    return fb_fail(status, "%s: %s", what, (const char *)text);
}

/* Only LF ends a line, as in Oniguruma. */
static fb_status compile(const unsigned char *pattern, size_t length, uint32_t options,
                         pcre2_code **code) {
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    if (!context)
        return fb_fail(FB_ERROR_MEMORY, "regular expression: cannot allocate");
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    pcre2_set_max_pattern_length(context, MAX_PATTERN);
    int error = 0;
    PCRE2_SIZE offset = 0;
    pcre2_code *made = pcre2_compile(pattern, length, options, &error, &offset, context);
    pcre2_compile_context_free(context);
    if (!made)
        return fail_with_code(FB_ERROR_UNSUPPORTED, "regular expression", error);
    pcre2_jit_compile(made, PCRE2_JIT_COMPLETE); /* where it fails, matching interprets */
    *code = made;
    return FB_OK;
}

fb_status fb_regex_compile(const char *pattern, bool literal, fb_regex **regex) {
    fb_buffer translated = {0};
    fb_status status = literal ? fb_buffer_append_text(&translated, pattern)
                               : fb_regex_translate(&translated, pattern);
    uint32_t options = literal ? PCRE2_UTF | PCRE2_LITERAL
                               : PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_ALT_CIRCUMFLEX |
                                     PCRE2_NEVER_BACKSLASH_C;
    pcre2_code *code = NULL;
    if (status == FB_OK)
        status = fb_buffer_terminate(&translated);
    if (status == FB_OK)
        status = compile(translated.data, translated.size, options, &code);
    fb_buffer_free(&translated);
    FB_TRY(status);
    fb_regex *made = NULL;
    status = fb_alloc(1, sizeof *made, "regular expression", &made);
    if (status != FB_OK) {
        pcre2_code_free(code);
        return status;
    }
    made->code = code;
    *regex = made;
    return FB_OK;
}

void fb_regex_destroy(fb_regex *regex) {
    if (!regex)
        return;
    pcre2_code_free(regex->code);
    fb_free(regex);
}

fb_status fb_regex_state_create(fb_regex_state **state) {
    fb_regex_state *made = NULL;
    FB_TRY(fb_alloc_zeroed(1, sizeof *made, "regular expression", &made));
    made->match = pcre2_match_data_create(1, NULL);
    made->context = pcre2_match_context_create(NULL);
    if (!made->match || !made->context) {
        fb_regex_state_destroy(made);
        return fb_fail(FB_ERROR_MEMORY, "regular expression: cannot allocate");
    }
    pcre2_set_heap_limit(made->context, MAX_HEAP_KIB);
    made->stack = pcre2_jit_stack_create(JIT_STACK_START, JIT_STACK_MAX, NULL);
    if (made->stack)
        pcre2_jit_stack_assign(made->context, NULL, made->stack);
    *state = made;
    return FB_OK;
}

void fb_regex_state_destroy(fb_regex_state *state) {
    if (!state)
        return;
    pcre2_match_data_free(state->match);
    pcre2_match_context_free(state->context);
    pcre2_jit_stack_free(state->stack);
    fb_free(state);
}

fb_status fb_regex_find(const fb_regex *regex, fb_regex_state *state, const unsigned char *text,
                        size_t length, size_t from, bool *found, size_t *begin, size_t *end) {
    int code = pcre2_match(regex->code, text, length, from, PCRE2_NO_UTF_CHECK, state->match,
                           state->context);
    if (code == PCRE2_ERROR_JIT_STACKLIMIT)
        code = pcre2_match(regex->code, text, length, from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                           state->match, state->context);
    if (code < 0 && code != PCRE2_ERROR_NOMATCH)
        return fail_with_code(FB_ERROR_UNSUPPORTED, "splitting the text", code);
    *found = code >= 0; /* 0: there were more groups than asked for */
    if (*found) {
        const PCRE2_SIZE *offsets = pcre2_get_ovector_pointer(state->match);
        size_t start = offsets[0] < offsets[1] ? offsets[0] : offsets[1];
        *begin = start > from ? start : from; /* \K may put it anywhere */
        *end = offsets[1];
    }
    return FB_OK;
}
