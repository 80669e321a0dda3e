#include "io/chat_template.h"

#include "base/error.h"
#include "base/memory.h"
#include "io/buffer.h"
#include "io/file.h"
#include "io/json.h"

#include <stdbool.h>
#include <string.h>

enum { MAX_TEMPLATE = 1 << 20, MAX_CONFIG = 512 * 1024 * 1024, MAX_DEPTH = 64 };

/* What stands for a printed variable, and for a printed expression of any other kind. */
enum { VARIABLE = 1, EXPRESSION = 2 };

/* What a block prints is looked at in several ways, all in the order of the template. */
typedef struct scan {
    const char *where;
    const char *text, *end;
    fb_buffer printed;     /* all of it, VARIABLE and EXPRESSION in place of values */
    fb_buffer answer;      /* what add_generation_prompt adds */
    size_t depth;          /* blocks around the present place */
    size_t answer_depth;   /* of the block of add_generation_prompt; 0: outside of it */
    size_t thinking_depth; /* of a block of enable_thinking in it; 0: outside of it */
    bool answered;
} scan;

static fb_status refuse(const scan *s, const char *reason, const char *what, size_t length) {
    return fb_fail(FB_ERROR_UNSUPPORTED, "%s is not ChatML: %s%.*s", s->where, reason, (int)length,
                   what);
}

static bool is_word(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

static bool is_space(char c) {
    return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

/* Whether the name stands in code[0 .. length) as a word of its own, outside of strings. */
static bool names(const char *code, size_t length, const char *name) {
    size_t size = strlen(name);
    char quote = 0;
    for (size_t i = 0; i < length; i++) {
        char c = code[i];
        if (quote) {
            if (c == '\\')
                i++;
            else if (c == quote)
                quote = 0;
        } else if (c == '\'' || c == '"') {
            quote = c;
        } else if (i + size <= length && memcmp(code + i, name, size) == 0 &&
                   (i == 0 || !is_word(code[i - 1])) &&
                   (i + size == length || !is_word(code[i + size]))) {
            return true;
        }
    }
    return false;
}

/* --- what is printed -------------------------------------------------------------------------- */

static fb_status print(scan *s, const char *text, size_t length) {
    if (s->thinking_depth > 0)
        return FB_OK;
    if (s->depth == 0 && s->answer_depth == 0)
        for (size_t i = 0; i < length; i++)
            if (!is_space(text[i]))
                return refuse(s, "it prints text before the first turn: ", text, length);
    if (s->answer_depth > 0)
        FB_TRY(fb_buffer_append(&s->answer, text, length));
    return fb_buffer_append(&s->printed, text, length);
}

/* Prints a string of the template's code, which begins with its quote; *size is its length there.
 */
static fb_status print_string(scan *s, const char *code, const char *end, size_t *size) {
    fb_buffer text = {0};
    const char *at = code + 1;
    fb_status status = FB_OK;
    for (; status == FB_OK && at < end && *at != *code; at++) {
        char c = *at;
        if (c == '\\' && at + 1 < end) {
            at++;
            c = *at == 'n' ? '\n' : *at == 't' ? '\t' : *at;
        }
        status = fb_buffer_append(&text, &c, 1);
    }
    if (status == FB_OK)
        status = print(s, (const char *)text.data, text.size);
    fb_buffer_free(&text);
    *size = (size_t)(at - code) + (at < end);
    return status;
}

/* A term of a sum: a value up to a '+' or '~' outside of brackets. */
static fb_status print_term(scan *s, const char *code, const char *end, size_t *size) {
    const char *at = code;
    size_t brackets = 0;
    char kind = VARIABLE;
    for (char quote = 0; at < end; at++) {
        if (quote) {
            if (*at == '\\' && at + 1 < end)
                at++;
            else if (*at == quote)
                quote = 0;
        } else if (*at == '\'' || *at == '"') {
            quote = *at;
        } else if (*at == '[') {
            brackets++;
        } else if (*at == ']' && brackets > 0) {
            brackets--;
        } else if ((*at == '+' || *at == '~') && brackets == 0) {
            break;
        } else if (!is_word(*at) && !is_space(*at) && *at != '.' && brackets == 0) {
            kind = EXPRESSION; /* a call, a filter, an operator */
        } else if (is_space(*at) && brackets == 0 && at > code && at + 1 < end && is_word(at[-1]) &&
                   is_word(at[1])) {
            kind = EXPRESSION; /* two words: "a if b", "not a" */
        }
    }
    *size = (size_t)(at - code);
    return print(s, &kind, 1);
}

/* The rest of a term that begins with a string must be empty: 'a' | upper is no string. */
static bool ends_term(const char *code, const char *end) {
    while (code < end && is_space(*code))
        code++;
    return code == end || *code == '+' || *code == '~';
}

static fb_status print_sum(scan *s, const char *code, const char *end) {
    while (code < end) {
        size_t size = 1;
        if (*code == '\'' || *code == '"') {
            size_t rest = 0;
            FB_TRY(print_string(s, code, end, &size));
            if (!ends_term(code + size, end))
                FB_TRY(print_term(s, code + size, end, &rest));
            size += rest;
        } else if (!is_space(*code) && *code != '+' && *code != '~') {
            FB_TRY(print_term(s, code, end, &size));
        }
        code += size;
    }
    return FB_OK;
}

/* {{ ... }}; also {{ '...' if add_generation_prompt }} */
static fb_status expression(scan *s, const char *code, const char *end) {
    size_t length = (size_t)(end - code), size = 0;
    static const char *const hidden[] = {"bos_token", "eos_token"};
    for (size_t i = 0; i < sizeof hidden / sizeof hidden[0]; i++)
        if (names(code, length, hidden[i]))
            return refuse(s, "it prints ", hidden[i], strlen(hidden[i]));
    if (!names(code, length, "add_generation_prompt"))
        return print_sum(s, code, end);
    while (code < end && is_space(*code))
        code++;
    if (code == end || (*code != '\'' && *code != '"') || s->answered)
        return refuse(s, "add_generation_prompt in ", code, (size_t)(end - code));
    s->answer_depth = s->depth + 1;
    fb_status status = print_string(s, code, end, &size);
    s->answer_depth = 0;
    s->answered = true;
    return status;
}

/* --- blocks ----------------------------------------------------------------------------------- */

static bool begins(const char *code, size_t length, const char *word) {
    size_t size = strlen(word);
    return length >= size && memcmp(code, word, size) == 0 &&
           (length == size || !is_word(code[size]));
}

/* A condition that is not met when nobody sets enable_thinking. */
static bool is_thinking(const char *code, size_t length) {
    static const char bare[] = "if enable_thinking",
                      defined[] = "if enable_thinking is defined and ";
    return (length == strlen(bare) && memcmp(code, bare, length) == 0) ||
           (length > strlen(defined) && memcmp(code, defined, strlen(defined)) == 0 &&
            !names(code, length, "or"));
}

static fb_status begin_block(scan *s, const char *code, size_t length) {
    if (++s->depth == MAX_DEPTH)
        return refuse(s, "too many blocks within each other", "", 0);
    if (s->answer_depth > 0 && s->thinking_depth == 0) {
        if (!is_thinking(code, length))
            return refuse(s, "a condition on what begins the answer: ", code, length);
        s->thinking_depth = s->depth;
    }
    bool answer = begins(code, length, "if") && names(code, length, "add_generation_prompt") &&
                  !names(code, length, "not");
    if (!answer || s->answer_depth > 0)
        return FB_OK;
    if (s->answered)
        return refuse(s, "add_generation_prompt decides twice", "", 0);
    s->answer_depth = s->depth;
    s->answered = true;
    return FB_OK;
}

static void leave(size_t depth, size_t *of) {
    if (*of == depth)
        *of = 0;
}

static fb_status end_block(scan *s) {
    if (s->depth == 0)
        return refuse(s, "an end without a beginning", "", 0);
    leave(s->depth, &s->thinking_depth);
    leave(s->depth, &s->answer_depth);
    s->depth--;
    return FB_OK;
}

/* {% set name = 'text' %}: a text that the template has ready, such as a system prompt. */
static fb_status set_variable(scan *s, const char *code, size_t length) {
    const char *value = memchr(code, '=', length), *end = code + length;
    if (!value) { /* {% set name %} ... {% endset %} */
        s->depth++;
        return FB_OK;
    }
    for (value++; value < end && is_space(*value);)
        value++;
    bool text = value + 1 < end && (*value == '\'' || *value == '"') && value[1] != *value;
    return text ? refuse(s, "it has a text of its own: ", code, length) : FB_OK;
}

/* {% ... %} */
static fb_status statement(scan *s, const char *code, const char *end) {
    while (code < end && is_space(*code))
        code++;
    size_t length = (size_t)(end - code);
    while (length > 0 && is_space(code[length - 1]))
        length--;
    if (begins(code, length, "if") || begins(code, length, "for") ||
        begins(code, length, "generation"))
        return begin_block(s, code, length);
    if (length > 3 && memcmp(code, "end", 3) == 0)
        return end_block(s);
    if (begins(code, length, "elif") || begins(code, length, "else")) {
        leave(s->depth, &s->thinking_depth);
        leave(s->depth, &s->answer_depth);
        return FB_OK;
    }
    if (begins(code, length, "set"))
        return set_variable(s, code, length);
    return begins(code, length, "break") || begins(code, length, "continue")
               ? FB_OK
               : refuse(s, "a statement that is not known: ", code, length);
}

/* --- the template's parts --------------------------------------------------------------------- */

/* The end of a tag's code, which is where "}}" or the like stands outside of strings. */
static const char *find_close(const scan *s, const char *code, const char *close) {
    char quote = 0;
    bool comment = close[0] == '#';
    for (const char *at = code; at + 1 < s->end; at++) {
        if (quote && *at == '\\')
            at++;
        else if (quote && *at == quote)
            quote = 0;
        else if (!quote && at[0] == close[0] && at[1] == close[1])
            return at;
        else if (!quote && !comment && (*at == '\'' || *at == '"'))
            quote = *at;
    }
    return NULL;
}

/* Text between tags. transformers drops a line end right after a block, and blanks before one at
 * the beginning of a line; '-' in a tag drops all white space. */
static fb_status print_between(scan *s, const char *from, const char *to, bool after_block,
                               bool trim_left, bool before_block, bool trim_right) {
    if (trim_left)
        while (from < to && is_space(*from))
            from++;
    else if (after_block && from < to && *from == '\n')
        from++;
    const char *end = to;
    while (end > from && is_space(end[-1]) && (trim_right || end[-1] != '\n'))
        end--;
    bool at_line_start = end == from ? after_block || from == s->text : end[-1] == '\n';
    if (trim_right || (before_block && at_line_start))
        to = end;
    return print(s, from, (size_t)(to - from));
}

static const char *find_open(const char *from, const char *end) {
    for (const char *at = from; at + 1 < end; at++)
        if (at[0] == '{' && (at[1] == '{' || at[1] == '%' || at[1] == '#'))
            return at;
    return end;
}

static fb_status tag(scan *s, char kind, const char *code, const char *end) {
    bool sign = code < end && (*code == '-' || *code == '+');
    code += sign;
    if (code < end && (end[-1] == '-' || end[-1] == '+'))
        end--;
    if (kind == '#')
        return FB_OK;
    return kind == '{' ? expression(s, code, end) : statement(s, code, end);
}

static fb_status scan_all(scan *s) {
    bool after_block = false, trim_left = false;
    for (const char *from = s->text; from < s->end;) {
        const char *open = find_open(from, s->end);
        bool found = open < s->end;
        char kind = found ? open[1] : 0;
        bool trim_right = found && open + 2 < s->end && open[2] == '-';
        FB_TRY(print_between(s, from, open, after_block, trim_left, kind == '%' || kind == '#',
                             trim_right));
        if (!found)
            break;
        const char *close = find_close(s, open + 2, kind == '{' ? "}}" : kind == '%' ? "%}" : "#}");
        if (!close)
            return refuse(s, "a tag without its end", "", 0);
        FB_TRY(tag(s, kind, open + 2, close));
        trim_left = close[-1] == '-';
        after_block = kind != '{';
        from = close + 2;
    }
    return FB_OK;
}

/* --- what it comes to ------------------------------------------------------------------------- */

static const char im_start[] = "<|im_start|>", im_end[] = "<|im_end|>";

static bool at_text(const fb_buffer *buffer, size_t at, const char *text) {
    size_t size = strlen(text);
    return at + size <= buffer->size && memcmp(buffer->data + at, text, size) == 0;
}

/* The length of a turn of the user that begins there; 0 when none does. */
static size_t turn_at(const fb_buffer *printed, size_t at) {
    size_t from = at;
    if (!at_text(printed, at, im_start))
        return 0;
    at += strlen(im_start);
    if (at_text(printed, at, "user"))
        at += 4;
    else if (at < printed->size && printed->data[at] == VARIABLE)
        at++;
    else
        return 0;
    static const char rest[] = {'\n', VARIABLE, '<', '|', 'i', 'm',  '_',
                                'e',  'n',      'd', '|', '>', '\n', 0};
    return at_text(printed, at, rest) ? at + strlen(rest) - from : 0;
}

/* Markers of other formats. <think>, <tools> and the like are text. */
static fb_status check_markers(const scan *s) {
    static const char *const others[] = {"[INST]", "<<SYS>>", "<start_of_turn>", "<s>",
                                         "<bos>",  "<role>",  "\xef\xbd\x9c"};
    const fb_buffer *p = &s->printed;
    for (size_t i = 0; i < p->size; i++) {
        const char *at = (const char *)p->data + i;
        for (size_t j = 0; j < sizeof others / sizeof others[0]; j++)
            if (at_text(p, i, others[j]))
                return refuse(s, "it has ", others[j], strlen(others[j]));
        if (!at_text(p, i, "<|") || at_text(p, i, im_start) || at_text(p, i, im_end))
            continue;
        const char *end = memchr(at, '>', p->size - i);
        return refuse(s, "it has ", at, end ? (size_t)(end - at) + 1 : 2);
    }
    return FB_OK;
}

static fb_status check_turns(const scan *s) {
    static const char system[] = "<|im_start|>system\n";
    const fb_buffer *p = &s->printed;
    bool found = false;
    for (size_t i = 0; i < p->size; i++) {
        found = found || turn_at(p, i) > 0;
        size_t next = i + strlen(system);
        if (at_text(p, i, system) && next < p->size && p->data[next] > EXPRESSION &&
            !at_text(p, next, im_start))
            return refuse(s, "it has a system turn of its own: ", (const char *)p->data + next,
                          p->size - next < 40 ? p->size - next : 40);
    }
    return found ? FB_OK : refuse(s, "no turn <|im_start|>user, text, <|im_end|>", "", 0);
}

static fb_status check_answer(const scan *s) {
    static const char wanted[] = "<|im_start|>assistant\n";
    if (!s->answered)
        return refuse(s, "add_generation_prompt adds nothing", "", 0);
    if (s->answer.size == strlen(wanted) && at_text(&s->answer, 0, wanted))
        return FB_OK;
    return refuse(s, "add_generation_prompt adds ", (const char *)s->answer.data,
                  s->answer.data ? s->answer.size : 0);
}

/* Jinja reads each line end, \r\n and \r too, as \n. */
static fb_status copy_lines(const char *text, size_t length, fb_buffer *lines) {
    for (size_t from = 0; from < length;) {
        const char *end = memchr(text + from, '\r', length - from);
        size_t size = end ? (size_t)(end - text) - from : length - from;
        FB_TRY(fb_buffer_append(lines, text + from, size));
        from += size;
        if (end)
            FB_TRY(fb_buffer_append(lines, "\n", 1));
        if (end)
            from += from + 1 < length && text[from + 1] == '\n' ? 2 : 1;
    }
    return fb_buffer_terminate(lines); /* never a null pointer */
}

static fb_status check_lines(const char *text, size_t length, const char *where) {
    scan s = {.where = where, .text = text, .end = text + length};
    fb_status status = scan_all(&s);
    if (status == FB_OK)
        status = check_markers(&s);
    if (status == FB_OK)
        status = check_turns(&s);
    if (status == FB_OK)
        status = check_answer(&s);
    fb_buffer_free(&s.printed);
    fb_buffer_free(&s.answer);
    return status;
}

fb_status fb_chat_template_check(const char *text, size_t length, const char *where) {
    fb_buffer lines = {0};
    fb_status status = copy_lines(text, length, &lines);
    if (status == FB_OK)
        status = check_lines((const char *)lines.data, lines.size, where);
    fb_buffer_free(&lines);
    return status;
}

/* LLaDA2's template, by the texts that only it has: roles in <role>, and thinking that is off
 * unless asked for. */
static bool is_llada2(const char *text, size_t length) {
    static const char *const wanted[] = {"<role>SYSTEM</role>", "<role>HUMAN</role>",
                                         "<role>ASSISTANT</role>", "<|role_end|>",
                                         "detailed thinking"};
    static const char *const others[] = {im_start, "[INST]", "thinking_option = 'on'",
                                         "detailed thinking on<"};
    const fb_buffer all = {.data = (unsigned char *)text, .size = length};
    bool found[sizeof wanted / sizeof *wanted] = {false};
    for (size_t at = 0; at < length; at++) {
        for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
            found[i] = found[i] || at_text(&all, at, wanted[i]);
        for (size_t i = 0; i < sizeof others / sizeof *others; i++)
            if (at_text(&all, at, others[i]))
                return false;
    }
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
        if (!found[i])
            return false;
    return true;
}

fb_status fb_chat_template_recognise(const char *text, size_t length, const char *where,
                                     fb_chat_format *format) {
    *format = FB_CHAT_LLADA2;
    if (is_llada2(text, length))
        return FB_OK;
    *format = FB_CHAT_CHATML;
    return fb_chat_template_check(text, length, where);
}

/* --- the files -------------------------------------------------------------------------------- */

/* chat_template: a text, or [{"name": "default", "template": "..."}, ...] */
static fb_status find_template(const fb_json *config, const char *where, const char **text) {
    const fb_json *list = NULL;
    *text = fb_json_string(fb_json_object_get(config, "chat_template"));
    if (*text || !fb_json_has(config, "chat_template"))
        return FB_OK;
    FB_TRY(fb_json_get_array(config, where, "chat_template", &list));
    for (size_t i = 0; i < fb_json_array_size(list); i++) {
        const fb_json *item = fb_json_array_get(list, i);
        const char *name = NULL;
        FB_TRY(fb_json_get_string(item, where, "name", &name));
        if (strcmp(name, "default") == 0)
            return fb_json_get_string(item, where, "template", text);
    }
    return fb_fail(FB_ERROR_UNSUPPORTED, "%s: chat_template has none named \"default\"", where);
}

static fb_status read_config(const char *path, fb_chat_format *format) {
    const fb_json *config = NULL;
    const char *text = NULL;
    fb_buffer where = {0};
    FB_TRY(fb_json_load(path, MAX_CONFIG, &config));
    fb_status status = find_template(config, path, &text);
    if (status == FB_OK && text) {
        status = fb_buffer_append_text(&where, path);
        if (status == FB_OK)
            status = fb_buffer_append_text(&where, ": chat_template");
        if (status == FB_OK)
            status = fb_buffer_terminate(&where);
        if (status == FB_OK)
            status =
                fb_chat_template_recognise(text, strlen(text), (const char *)where.data, format);
        fb_buffer_free(&where);
    }
    fb_json_free(config);
    return status;
}

static fb_status read_jinja(const char *path, fb_chat_format *format) {
    char *text = NULL;
    size_t size = 0;
    FB_TRY(fb_file_read(path, MAX_TEMPLATE, &text, &size));
    fb_status status = fb_chat_template_recognise(text, size, path, format);
    fb_free(text);
    return status;
}

fb_status fb_chat_template_of_directory(const char *directory, fb_chat_format *format) {
    char *jinja = NULL, *config = NULL;
    *format = FB_CHAT_CHATML;
    FB_TRY(fb_path_join(directory, "chat_template.jinja", &jinja));
    fb_status status = fb_path_join(directory, "tokenizer_config.json", &config);
    if (status == FB_OK && fb_file_exists(jinja))
        status = read_jinja(jinja, format);
    else if (status == FB_OK && fb_file_exists(config))
        status = read_config(config, format);
    fb_free(jinja);
    fb_free(config);
    return status;
}
