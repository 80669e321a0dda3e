/* Encodes and decodes strings for comparison with the reference tokenizer:
 *
 *     tokenize_strings TOKENIZER INPUT OUTPUT
 *
 * INPUT holds strings, each a length and its bytes. OUTPUT gets, for each string: the number of
 * ids and the ids; the length and bytes of the text they decode to; the number of ids and the ids
 * with added tokens as text. Numbers are 32 bits, little-endian. */
#include <flashblock/tokenizer.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int put(FILE *out, size_t count, const void *data, size_t size) {
    uint32_t number = (uint32_t)count;
    return fwrite(&number, sizeof number, 1, out) == 1 &&
           (count == 0 || fwrite(data, size, count, out) == count);
}

static fb_status write_ids(const fb_tokenizer *tokenizer, const char *text, size_t length,
                           FILE *out) {
    int32_t *ids = NULL;
    char *decoded = NULL;
    size_t count = 0, decoded_length = 0;
    fb_status status = fb_tokenizer_encode(tokenizer, text, length, FB_ADDED_PARSED, &ids, &count);
    if (status == FB_OK)
        status = fb_tokenizer_decode(tokenizer, ids, count, false, &decoded, &decoded_length);
    if (status == FB_OK &&
        !(put(out, count, ids, sizeof *ids) && put(out, decoded_length, decoded, 1)))
        status = FB_ERROR_IO;
    fb_token_ids_free(ids);
    fb_text_free(decoded);
    return status;
}

static fb_status write_ids_of_text(const fb_tokenizer *tokenizer, const char *text, size_t length,
                                   FILE *out) {
    int32_t *ids = NULL;
    size_t count = 0;
    fb_status status = fb_tokenizer_encode(tokenizer, text, length, FB_ADDED_AS_TEXT, &ids, &count);
    if (status == FB_OK && !put(out, count, ids, sizeof *ids))
        status = FB_ERROR_IO;
    fb_token_ids_free(ids);
    return status;
}

/* Strings until the input ends; 0 when all went well. */
static int tokenize_all(const fb_tokenizer *tokenizer, FILE *in, FILE *out) {
    uint32_t length = 0;
    while (fread(&length, sizeof length, 1, in) == 1) {
        char *text = malloc((size_t)length + 1);
        if (!text || fread(text, 1, length, in) != length) {
            fprintf(stderr, "tokenize_strings: the input ends within a string\n");
            free(text);
            return 1;
        }
        fb_status status = write_ids(tokenizer, text, length, out);
        if (status == FB_OK)
            status = write_ids_of_text(tokenizer, text, length, out);
        free(text);
        if (status != FB_OK) {
            fprintf(stderr, "tokenize_strings: %s\n", fb_error_message());
            return 1;
        }
    }
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 4) {
        fprintf(stderr, "usage: tokenize_strings TOKENIZER INPUT OUTPUT\n");
        return 2;
    }
    fb_tokenizer *tokenizer = NULL;
    if (fb_tokenizer_load(argv[1], &tokenizer) != FB_OK) {
        fprintf(stderr, "tokenize_strings: %s\n", fb_error_message());
        return 1;
    }
    FILE *in = fopen(argv[2], "rb"), *out = fopen(argv[3], "wb");
    int result = in && out ? tokenize_all(tokenizer, in, out) : 1;
    if (in)
        fclose(in);
    if (out && fclose(out) != 0)
        result = 1;
    fb_tokenizer_destroy(tokenizer);
    return result;
}
