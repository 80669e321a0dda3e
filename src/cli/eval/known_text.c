#include "cli/eval/known_text.h"

#include "base/error.h"
#include "base/memory.h"
#include "io/file.h"

enum { MAX_TEXT_BYTES = 256 << 20 };

fb_status fb_known_text_read(const fb_tokenizer *tokenizer, const char *path, int32_t **tokens,
                             size_t *count) {
    char *text = NULL;
    size_t size = 0;
    FB_TRY(fb_file_read_text(path, MAX_TEXT_BYTES, &text, &size));
    fb_status status =
        fb_tokenizer_encode(tokenizer, text, size, FB_ADDED_SPECIAL_AS_TEXT, tokens, count);
    fb_free(text);
    return status;
}
