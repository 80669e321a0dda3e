/* Text to tree. yajl cuts the text into tokens and checks the grammar; everything else is here.
 *
 * yajl does not check its allocations. Each parse therefore has an allocator of its own, whose
 * failure jumps out of yajl, and whose memory is in one list that is freed in the end. */
#include "base/error.h"
#include "base/memory.h"
#include "io/buffer.h"
#include "io/json_internal.h"
#include "io/utf8.h"

#include <setjmp.h>
#include <stdio.h>
#include <string.h>
#include <yajl/yajl_parse.h>

enum { MAX_DEPTH = 2048 };

/* Memory that yajl holds follows its block. */
typedef struct block {
    _Alignas(max_align_t) struct block *next;
    struct block *previous;
    size_t size;
} block;

/* An array or object that is open. */
typedef struct level {
    bool object;
    size_t start;    /* where its values begin in the stack */
    const char *key; /* of the next value, in an object */
} level;

typedef struct reader {
    const char *where;
    const char *text, *end;
    const char *piece; /* what yajl reads now: a part of the text, or a word that stands for one */
    const char *word;  /* NaN or Infinity, for which yajl reads null; NULL: none */
    size_t word_size;
    const char *unquoted; /* no quote is between this place and the next string */
    fb_json_document *document;
    fb_buffer stack; /* of fb_json in an array, of fb_json_member in an object */
    level *levels;   /* [MAX_DEPTH] */
    size_t depth;
    fb_status status; /* of a callback */
    yajl_handle parser;
    yajl_alloc_funcs allocator;
    block blocks; /* head of the list */
    jmp_buf no_memory;
} reader;

/* --- yajl's memory ---------------------------------------------------------------------------- */

static void *take_memory(void *context, size_t size) {
    reader *r = context;
    block *made = NULL;
    size_t bytes = 0;
    if (!fb_size_add(size, sizeof *made, &bytes) || fb_alloc(bytes, 1, "JSON", &made) != FB_OK)
        longjmp(r->no_memory, 1);
    *made = (block){.next = r->blocks.next, .previous = &r->blocks, .size = size};
    if (made->next)
        made->next->previous = made;
    r->blocks.next = made;
    return made + 1;
}

static block *block_of(void *memory) {
    return (block *)memory - 1;
}

static void give_memory(void *context, void *memory) {
    (void)context;
    if (!memory)
        return;
    block *old = block_of(memory);
    old->previous->next = old->next;
    if (old->next)
        old->next->previous = old->previous;
    fb_free(old);
}

static void *resize_memory(void *context, void *memory, size_t size) {
    void *made = take_memory(context, size);
    if (memory) {
        size_t old = block_of(memory)->size;
        memcpy(made, memory, old < size ? old : size);
        give_memory(context, memory);
    }
    return made;
}

/* --- errors ----------------------------------------------------------------------------------- */

/* `at` is the place in the text that the message names. */
static fb_status fail_at(const reader *r, const char *at, const char *message) {
    size_t line = 1;
    const char *begin = r->text;
    for (const char *c; (c = memchr(begin, '\n', (size_t)(at - begin))); begin = c + 1)
        line++;
    return fb_fail(FB_ERROR_FORMAT, "%s: not JSON: line %zu, column %zu: %s", r->where, line,
                   (size_t)(at - begin) + 1, message);
}

/* The end of the token that yajl read last. */
static const char *here(const reader *r) {
    return r->word ? r->word : r->piece + yajl_get_bytes_consumed(r->parser);
}

static fb_status fail(const reader *r, const char *message) {
    return fail_at(r, here(r), message);
}

/* What a callback returns: 0 stops yajl. */
static int go_on(reader *r, fb_status status) {
    r->status = status;
    return status == FB_OK;
}

/* --- values ----------------------------------------------------------------------------------- */

static fb_status put(reader *r, fb_json value) {
    if (r->depth == 0) {
        r->document->root = value;
        return FB_OK;
    }
    const level *inner = &r->levels[r->depth - 1];
    if (!inner->object)
        return fb_buffer_append(&r->stack, &value, sizeof value);
    fb_json_member member = {inner->key, value};
    return fb_buffer_append(&r->stack, &member, sizeof member);
}

static fb_status open_level(reader *r, bool object) {
    if (r->depth == MAX_DEPTH)
        return fail(r, "the depth of nesting is above 2048");
    r->levels[r->depth++] = (level){.object = object, .start = r->stack.size};
    return FB_OK;
}

static fb_status fail_twice(const reader *r, const char *key) {
    char message[256];
    snprintf(message, sizeof message, "the object that ends here has a duplicate key, '%.200s'",
             key);
    return fail(r, message);
}

static fb_status close_level(reader *r) {
    const level *inner = &r->levels[r->depth - 1];
    const unsigned char *values = r->stack.data ? r->stack.data + inner->start : NULL;
    size_t bytes = r->stack.size - inner->start;
    const char *twice = NULL;
    fb_json value;
    if (inner->object)
        FB_TRY(fb_json_copy_object(r->document, (const fb_json_member *)(const void *)values,
                                   bytes / sizeof(fb_json_member), &value, &twice));
    else
        FB_TRY(fb_json_copy_array(r->document, (const fb_json *)(const void *)values,
                                  bytes / sizeof value, &value));
    if (twice)
        return fail_twice(r, twice);
    r->stack.size = inner->start;
    r->depth--;
    return put(r, value);
}

/* --- strings ---------------------------------------------------------------------------------- */

/* The UTF-16 code unit of an escape \uXXXX; 0 when there is none at `text`. */
static unsigned code_unit(const char *text, const char *end) {
    unsigned unit = 0;
    if (end - text < 6 || text[0] != '\\' || text[1] != 'u')
        return 0;
    for (int i = 2; i < 6; i++) {
        char c = text[i];
        unit = unit << 4 | (unsigned)(c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10);
    }
    return unit;
}

/* Whether each surrogate of the escapes is half of a pair. yajl puts '?' for some others. */
static bool surrogates_are_paired(const char *text, const char *end) {
    while ((text = memchr(text, '\\', (size_t)(end - text)))) {
        unsigned unit = code_unit(text, end);
        if (unit >= 0xdc00 && unit <= 0xdfff)
            return false;
        if (unit >= 0xd800 && unit <= 0xdbff) {
            text += 6;
            unit = code_unit(text, end);
            if (unit < 0xdc00 || unit > 0xdfff)
                return false;
        }
        text += unit ? 6 : 2;
    }
    return true;
}

/* text[0 .. size) is the string without its escapes. */
static fb_status copy_string(reader *r, const char *text, size_t size, fb_json *value) {
    const char *end = here(r);
    uintptr_t place = (uintptr_t)text;
    bool within = place >= (uintptr_t)r->piece && place < (uintptr_t)end;
    if (size > 0 && !within) { /* yajl copied it: there were escapes */
        const char *quote = memchr(r->unquoted, '"', (size_t)(end - r->unquoted));
        if (quote && !surrogates_are_paired(quote, end))
            return fail(r, "a string has half of a surrogate pair");
        if (memchr(text, '\0', size))
            return fail(r, "a string has a NUL");
    }
    r->unquoted = end;
    if (fb_utf8_valid_prefix((const unsigned char *)text, size) != size)
        return fail(r, "a string is not UTF-8");
    return fb_json_copy_text(r->document, FB_JSON_STRING, text, size, value);
}

/* --- callbacks -------------------------------------------------------------------------------- */

static int on_null(void *context) {
    reader *r = context;
    fb_json value = {.type = FB_JSON_NULL};
    fb_status status = FB_OK;
    if (r->word)
        status = fb_json_copy_text(r->document, FB_JSON_OUTSIDE, r->word, r->word_size, &value);
    return go_on(r, status == FB_OK ? put(r, value) : status);
}

static int on_boolean(void *context, int is_true) {
    return go_on(context, put(context, (fb_json){.type = is_true ? FB_JSON_TRUE : FB_JSON_FALSE}));
}

static int on_number(void *context, const char *text, size_t size) {
    reader *r = context;
    fb_json value;
    fb_status status = fb_json_copy_number(r->document, text, size, &value);
    return go_on(r, status == FB_OK ? put(r, value) : status);
}

static int on_string(void *context, const unsigned char *text, size_t size) {
    reader *r = context;
    fb_json value;
    fb_status status = copy_string(r, (const char *)text, size, &value);
    return go_on(r, status == FB_OK ? put(r, value) : status);
}

static int on_key(void *context, const unsigned char *text, size_t size) {
    reader *r = context;
    fb_json key = {0};
    fb_status status = copy_string(r, (const char *)text, size, &key);
    r->levels[r->depth - 1].key = key.of.text;
    return go_on(r, status);
}

static int on_open_object(void *context) {
    return go_on(context, open_level(context, true));
}

static int on_open_array(void *context) {
    return go_on(context, open_level(context, false));
}

static int on_close(void *context) {
    return go_on(context, close_level(context));
}

static const yajl_callbacks callbacks = {
    .yajl_null = on_null,
    .yajl_boolean = on_boolean,
    .yajl_number = on_number,
    .yajl_string = on_string,
    .yajl_start_map = on_open_object,
    .yajl_map_key = on_key,
    .yajl_end_map = on_close,
    .yajl_start_array = on_open_array,
    .yajl_end_array = on_close,
};

/* --- text ------------------------------------------------------------------------------------- */

/* The size of the number at `text` that Python writes and JSON does not have; 0: none. */
static size_t size_of_word(const char *text, const char *end) {
    static const char *const words[] = {"NaN", "Infinity", "-Infinity"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        size_t size = strlen(words[i]);
        if ((size_t)(end - text) >= size && memcmp(text, words[i], size) == 0)
            return size;
    }
    return 0;
}

/* The place after a string that begins at `text`; NULL when it does not end. */
static const char *skip_string(const char *text, const char *end) {
    for (text++; text < end && *text != '"'; text++)
        if (*text == '\\' && end - text > 1)
            text++;
    return text < end ? text + 1 : NULL;
}

/* The next place, outside of strings, that yajl must not read: a word, or a space of C that is not
 * one of JSON. *open is a string that does not end, which yajl takes after a document. */
static const char *end_of_piece(const char *text, const char *end, const char **open) {
    while (text < end) {
        char c = *text;
        if (c == '"') {
            const char *next = skip_string(text, end);
            if (!next)
                *open = text;
            text = next ? next : end;
            continue;
        }
        if (c == 'N' || c == 'I' || c == '\v' || c == '\f' || (c == '-' && size_of_word(text, end)))
            return text;
        text++;
    }
    return end;
}

/* A message of yajl's, without its kind at the beginning and the newline at its end. */
static fb_status fail_as_yajl(const reader *r, const char *at) {
    char message[160] = "";
    unsigned char *given = yajl_get_error(r->parser, 0, NULL, 0);
    snprintf(message, sizeof message, "%s", (const char *)given);
    yajl_free_error(r->parser, given);
    message[strcspn(message, "\n")] = '\0';
    const char *colon = strstr(message, ": ");
    return fail_at(r, at, colon ? colon + 2 : message);
}

static fb_status check(const reader *r, yajl_status status, bool complete) {
    if (status == yajl_status_ok)
        return FB_OK;
    if (status == yajl_status_client_canceled)
        return r->status;
    return fail_as_yajl(r, complete ? r->end : here(r));
}

static fb_status read_piece(reader *r, const char *piece, size_t size) {
    r->piece = piece;
    if (size == 0)
        return FB_OK;
    return check(r, yajl_parse(r->parser, (const unsigned char *)piece, size), false);
}

static fb_status read_word(reader *r, const char *text, size_t size) {
    if (size == 0)
        return fail_at(r, text, "invalid character");
    r->word = text;
    r->word_size = size;
    fb_status status = read_piece(r, "null", 4);
    r->word = NULL;
    return status;
}

static fb_status read_text(reader *r) {
    const char *at = r->text, *open = NULL;
    while (at < r->end) {
        const char *stop = end_of_piece(at, r->end, &open);
        FB_TRY(read_piece(r, at, (size_t)(stop - at)));
        at = stop;
        if (at < r->end) {
            size_t size = size_of_word(at, r->end);
            FB_TRY(read_word(r, at, size));
            at += size;
        }
    }
    if (open)
        return fail_at(r, open, "a string does not end");
    return check(r, yajl_complete_parse(r->parser), true);
}

/* The only function that a failed allocation of yajl's jumps to. *r belongs to the caller, so that
 * it keeps its values. */
static fb_status read_or_jump(reader *r) {
    if (setjmp(r->no_memory) != 0)
        return FB_ERROR_MEMORY; /* fb_alloc left the message */
    r->parser = yajl_alloc(&callbacks, &r->allocator, r);
    return read_text(r);
}

static fb_status read_document(const char *text, size_t size, const char *where,
                               fb_json_document *document) {
    reader r = {.where = where, .text = text, .end = text + size, .unquoted = text};
    r.document = document;
    r.allocator = (yajl_alloc_funcs){take_memory, resize_memory, give_memory, &r};
    FB_TRY(fb_alloc(MAX_DEPTH, sizeof *r.levels, "JSON", &r.levels));
    fb_status status = read_or_jump(&r);
    while (r.blocks.next)
        give_memory(&r, r.blocks.next + 1);
    fb_buffer_free(&r.stack);
    fb_free(r.levels);
    return status;
}

fb_status fb_json_parse_value(const char *text, size_t size, const char *where,
                              const fb_json **value) {
    fb_json_document *document = NULL;
    if (size >= UINT32_MAX)
        return fb_fail(FB_ERROR_FORMAT, "%s: not JSON: %zu bytes are too many", where, size);
    FB_TRY(fb_alloc_zeroed(1, sizeof *document, "JSON", &document));
    fb_status status = read_document(text, size, where, document);
    if (status != FB_OK) {
        fb_json_free(&document->root);
        return status;
    }
    *value = &document->root;
    return FB_OK;
}
