#include "io/pretokenize.h"

#include "base/error.h"
#include "base/memory.h"
#include "io/json.h"
#include "io/utf8.h"

#include <string.h>

/* The matches of a Split are delimiters. Its behavior says where they go. */
typedef enum split_behavior {
    SPLIT_REMOVED,
    SPLIT_ISOLATED,
    SPLIT_MERGED_WITH_PREVIOUS,
    SPLIT_MERGED_WITH_NEXT,
    SPLIT_CONTIGUOUS,
    SPLIT_BEHAVIORS,
} split_behavior;

static const char *const behavior_names[SPLIT_BEHAVIORS] = {
    "Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"};

/* GPT-2's expression. */
static const char byte_level_pattern[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/* Tokenizers in use have at most three. */
enum { MAX_STEPS = 16 };

typedef struct step {
    fb_regex *regex; /* NULL: the text stays whole */
    split_behavior behavior;
    bool invert;           /* the text between matches is the delimiter */
    bool byte_level;       /* this is the last step */
    bool add_prefix_space; /* before text that does not begin with one */
} step;

struct fb_pretokenizer {
    step steps[MAX_STEPS];
    size_t count;
};

/* text[begin .. end) */
typedef struct span {
    size_t begin, end;
    bool delimiter;
} span;

static fb_status load_pattern(const fb_json *config, const char *where, fb_regex **regex) {
    const fb_json *pattern = NULL;
    FB_TRY(fb_json_get_object(config, where, "pattern", &pattern));
    bool literal = !fb_json_has(pattern, "Regex");
    const char *text = NULL;
    FB_TRY(fb_json_get_string(pattern, where, literal ? "String" : "Regex", &text));
    fb_status status = fb_regex_compile(text, literal, regex);
    return status == FB_OK ? FB_OK : fb_fail_in(status, "%s: pattern %.200s", where, text);
}

static fb_status load_behavior(const fb_json *config, const char *where, split_behavior *behavior) {
    const char *name = NULL;
    FB_TRY(fb_json_get_string(config, where, "behavior", &name));
    for (int i = 0; i < SPLIT_BEHAVIORS; i++)
        if (strcmp(name, behavior_names[i]) == 0) {
            *behavior = (split_behavior)i;
            return FB_OK;
        }
    return fb_fail(FB_ERROR_UNSUPPORTED, "%s: behavior is '%s'", where, name);
}

static fb_status load_split(const fb_json *config, const char *where, step *made) {
    FB_TRY(load_behavior(config, where, &made->behavior));
    FB_TRY(fb_json_get_bool_or(config, where, "invert", false, &made->invert));
    return load_pattern(config, where, &made->regex);
}

static fb_status load_byte_level(const fb_json *config, const char *where, step *made) {
    bool use_regex = true;
    made->byte_level = true;
    made->behavior = SPLIT_ISOLATED;
    FB_TRY(fb_json_get_bool_or(config, where, "add_prefix_space", true, &made->add_prefix_space));
    FB_TRY(fb_json_get_bool_or(config, where, "use_regex", true, &use_regex));
    return use_regex ? fb_regex_compile(byte_level_pattern, false, &made->regex) : FB_OK;
}

static fb_status load_steps(const fb_json *config, const char *where,
                            fb_pretokenizer *pretokenizer);

static fb_status load_sequence(const fb_json *config, const char *where,
                               fb_pretokenizer *pretokenizer) {
    const fb_json *items = NULL;
    FB_TRY(fb_json_get_array(config, where, "pretokenizers", &items));
    for (size_t i = 0; i < fb_json_array_size(items); i++)
        FB_TRY(load_steps(fb_json_array_get(items, i), where, pretokenizer));
    return FB_OK;
}

static fb_status load_steps(const fb_json *config, const char *where,
                            fb_pretokenizer *pretokenizer) {
    const char *type = NULL;
    FB_TRY(fb_json_get_string(config, where, "type", &type));
    if (strcmp(type, "Sequence") == 0)
        return load_sequence(config, where, pretokenizer);
    bool split = strcmp(type, "Split") == 0;
    if (!split && strcmp(type, "ByteLevel") != 0)
        return fb_fail(FB_ERROR_UNSUPPORTED, "%s: type is '%s'", where, type);
    if (pretokenizer->count == MAX_STEPS)
        return fb_fail(FB_ERROR_UNSUPPORTED, "%s: more than %d steps", where, MAX_STEPS);
    if (pretokenizer->count > 0 && pretokenizer->steps[pretokenizer->count - 1].byte_level)
        return fb_fail(FB_ERROR_UNSUPPORTED, "%s: %s after a ByteLevel", where, type);
    step *made = &pretokenizer->steps[pretokenizer->count++];
    return split ? load_split(config, where, made) : load_byte_level(config, where, made);
}

fb_status fb_pretokenizer_load(const fb_json *config, const char *where,
                               fb_pretokenizer **pretokenizer) {
    fb_pretokenizer *made = NULL;
    FB_TRY(fb_alloc_zeroed(1, sizeof *made, "pre-tokenizer", &made));
    fb_status status = load_steps(config, where, made);
    if (status == FB_OK && (made->count == 0 || !made->steps[made->count - 1].byte_level))
        status = fb_fail(FB_ERROR_UNSUPPORTED, "%s: has no ByteLevel", where);
    if (status != FB_OK) {
        fb_pretokenizer_destroy(made);
        return status;
    }
    *pretokenizer = made;
    return FB_OK;
}

void fb_pretokenizer_destroy(fb_pretokenizer *pretokenizer) {
    if (!pretokenizer)
        return;
    for (size_t i = 0; i < pretokenizer->count; i++)
        fb_regex_destroy(pretokenizer->steps[i].regex);
    fb_free(pretokenizer);
}

bool fb_pretokenizer_adds_space(const fb_pretokenizer *pretokenizer) {
    for (size_t i = 0; i < pretokenizer->count; i++)
        if (pretokenizer->steps[i].add_prefix_space)
            return true;
    return false;
}

static fb_status append_span(fb_buffer *spans, size_t begin, size_t end, bool delimiter) {
    span item = {begin, end, delimiter};
    return begin < end ? fb_buffer_append(spans, &item, sizeof item) : FB_OK;
}

/* Appends the matches and the text between them. */
static fb_status find_spans(const step *rule, fb_regex_state *state, const unsigned char *text,
                            size_t length, fb_buffer *spans) {
    size_t covered = 0, from = 0;
    while (from <= length) {
        bool found = false;
        size_t begin = 0, end = 0;
        FB_TRY(fb_regex_find(rule->regex, state, text, length, from, &found, &begin, &end));
        if (!found)
            break;
        FB_TRY(append_span(spans, covered, begin, rule->invert));
        FB_TRY(append_span(spans, begin, end, !rule->invert));
        covered = from = end;
        if (begin == end) /* an empty match: go on after the next character */
            from += end < length ? fb_utf8_decode(text + end, length - end).size : 1;
    }
    return append_span(spans, covered, length, rule->invert);
}

/* true when a span continues the previous one. */
static bool joins(split_behavior behavior, bool previous_delimiter, bool delimiter) {
    switch (behavior) {
    case SPLIT_MERGED_WITH_PREVIOUS:
        return delimiter && !previous_delimiter;
    case SPLIT_MERGED_WITH_NEXT:
        return !delimiter && previous_delimiter;
    case SPLIT_CONTIGUOUS:
        return delimiter == previous_delimiter;
    default:
        return false;
    }
}

/* Joins, or removes delimiters, in place; returns how many spans are left. */
static size_t join_spans(span *spans, size_t count, split_behavior behavior) {
    size_t used = 0;
    bool previous = false;
    for (size_t i = 0; i < count; i++) {
        span item = spans[i];
        bool join = i > 0 && joins(behavior, previous, item.delimiter);
        previous = item.delimiter;
        if (behavior == SPLIT_REMOVED && item.delimiter)
            continue;
        if (join)
            spans[used - 1].end = item.end;
        else
            spans[used++] = item;
    }
    return used;
}

typedef struct run {
    const fb_pretokenizer *pretokenizer;
    fb_regex_state *state;
    fb_piece_sink *sink;
    void *context;
} run;

static fb_status apply_step(const run *job, size_t index, const unsigned char *text, size_t length);

static fb_status pass_on(const run *job, size_t index, const unsigned char *text, size_t length) {
    if (index + 1 == job->pretokenizer->count)
        return length > 0 ? job->sink(job->context, text, length) : FB_OK;
    return apply_step(job, index + 1, text, length);
}

static fb_status split(const run *job, size_t index, const unsigned char *text, size_t length) {
    const step *rule = &job->pretokenizer->steps[index];
    fb_buffer buffer = {0};
    fb_status status = find_spans(rule, job->state, text, length, &buffer);
    span *spans = (span *)(void *)buffer.data;
    size_t count = join_spans(spans, buffer.size / sizeof *spans, rule->behavior);
    for (size_t i = 0; status == FB_OK && i < count; i++)
        status = pass_on(job, index, text + spans[i].begin, spans[i].end - spans[i].begin);
    fb_buffer_free(&buffer);
    return status;
}

static fb_status apply_whole(const run *job, size_t index, const unsigned char *text,
                             size_t length) {
    bool whole = !job->pretokenizer->steps[index].regex;
    return whole ? pass_on(job, index, text, length) : split(job, index, text, length);
}

static fb_status apply_step(const run *job, size_t index, const unsigned char *text,
                            size_t length) {
    bool prefix = job->pretokenizer->steps[index].add_prefix_space;
    if (!prefix || (length > 0 && text[0] == ' '))
        return apply_whole(job, index, text, length);
    fb_buffer prefixed = {0};
    fb_status status = fb_buffer_append_text(&prefixed, " ");
    if (status == FB_OK)
        status = fb_buffer_append(&prefixed, text, length);
    if (status == FB_OK)
        status = apply_whole(job, index, prefixed.data, prefixed.size);
    fb_buffer_free(&prefixed);
    return status;
}

fb_status fb_pretokenize(const fb_pretokenizer *pretokenizer, fb_regex_state *state,
                         const unsigned char *text, size_t length, fb_piece_sink *sink,
                         void *context) {
    run job = {pretokenizer, state, sink, context};
    return length > 0 ? apply_step(&job, 0, text, length) : FB_OK;
}
