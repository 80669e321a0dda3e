/* Tokenizers of language models: text to ids and back, from a Hugging Face tokenizer.json.
 *
 * Supported is byte-level BPE, what Qwen, SDAR, GPT-2, Llama 3 and others use:
 *   normalizer      none, NFC, or a sequence of these
 *   pre_tokenizer   Split (regular expression or string, every behaviour) and ByteLevel (with or
 *                   without prefix space and GPT-2's expression), or a sequence of these
 *   model           BPE; merges as "a b" or ["a", "b"], ignore_merges, unk_token, fuse_unk
 *   added_tokens    all flags (special, normalized, lstrip, rstrip, single_word)
 *   post_processor  TemplateProcessing of single texts, RobertaProcessing, BertProcessing,
 *                   ByteLevel, or a sequence of these: tokens that are put before and after a text
 *   decoder         ByteLevel, or none
 * Anything else is FB_ERROR_UNSUPPORTED with its name. Fields that are not used are warnings.
 *
 * Ids are those of Hugging Face's `tokenizers` library, compared with its JavaScript implementation
 * (@huggingface/tokenizers): (?i:...) folds ASCII letters only. White space is the property
 * White_Space everywhere, also in GPT-2's expression, lstrip and rstrip, where that implementation
 * has JavaScript's \s (with U+FEFF, without U+0085). Added tokens are found, and their texts
 * decoded, as transformers' own library does (tokenizers 0.22.2, in Rust). Characters are those of
 * Unicode 17, whatever versions PCRE2 and utf8proc know.
 *
 * Text is UTF-8 and may hold NUL. Bytes that are not UTF-8 count as U+FFFD, one for each maximal
 * part of a sequence, as a browser decodes them.
 *
 *     fb_tokenizer *tokenizer = NULL;
 *     int32_t *ids = NULL;
 *     size_t count = 0;
 *     if (fb_tokenizer_load("model/", &tokenizer) == FB_OK &&
 *         fb_tokenizer_encode(tokenizer, "In the beginning", 16, FB_ADDED_SPECIAL_AS_TEXT,
 *                             &ids, &count) == FB_OK)
 *         ...
 *     fb_token_ids_free(ids);
 *     fb_tokenizer_destroy(tokenizer);
 *
 * A tokenizer is immutable: any number of threads may use one. A stream belongs to one thread.
 */
#ifndef FLASHBLOCK_TOKENIZER_H
#define FLASHBLOCK_TOKENIZER_H

#include <flashblock/status.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct fb_tokenizer fb_tokenizer;

/* `path` is a tokenizer.json, or a directory that holds one. In a directory, tokens that only
 * added_tokens_decoder of its tokenizer_config.json names are added too, and tokens that this file
 * or special_tokens_map.json names as special (eos_token, ...) are special. Other fields of
 * tokenizer_config.json must agree with tokenizer.json where they concern ids (add_bos_token,
 * add_eos_token, add_prefix_space), and so must added_tokens.json. The caller owns *tokenizer.
 * FB_ERROR_IO, FB_ERROR_FORMAT (not JSON; merges of unknown tokens; an id or a text used twice;
 * ...), FB_ERROR_UNSUPPORTED. */
FB_API fb_status fb_tokenizer_load(const char *path, fb_tokenizer **tokenizer);

/* What loading has to say about files that it accepts, as fb_model_warning: NULL for an index that
 * is not below the number of warnings. Owned by the tokenizer. */
FB_API const char *fb_tokenizer_warning(const fb_tokenizer *tokenizer, size_t index);

/* Takes NULL. */
FB_API void fb_tokenizer_destroy(fb_tokenizer *tokenizer);

/* How text that spells an added token, such as "<|MASK|>", is read. */
typedef enum fb_added_tokens {
    FB_ADDED_PARSED = 0,      /* it is that token. For your own text: chat templates, say */
    FB_ADDED_SPECIAL_AS_TEXT, /* special tokens are plain text, others (<think>, ...) are tokens.
                                 For text of others: it cannot smuggle in a mask or an end of
                                 text. Hugging Face calls it split_special_tokens */
    FB_ADDED_AS_TEXT,         /* all of them are plain text */
} fb_added_tokens;

/* Ids of a whole text, text[0 .. length), with the tokens that the post-processor puts before and
 * after it: what tokenizer(text) gives in transformers. *ids (at least one element allocated, also
 * when *count is 0) is the caller's, fb_token_ids_free. Takes time O(length log length) for a run
 * without a split, and memory of some 60 bytes a byte of the longest one. FB_ERROR_ARGUMENT for a
 * length above 1 GiB, FB_ERROR_UNSUPPORTED when the tokenizer's expression exceeds PCRE2's limits
 * on this text. */
FB_API fb_status fb_tokenizer_encode(const fb_tokenizer *tokenizer, const char *text, size_t length,
                                     fb_added_tokens added, int32_t **ids, size_t *count);

/* The same without the post-processor's tokens, as add_special_tokens=False in transformers: for
 * pieces that are put together, such as those of a chat format. */
FB_API fb_status fb_tokenizer_encode_piece(const fb_tokenizer *tokenizer, const char *text,
                                           size_t length, fb_added_tokens added, int32_t **ids,
                                           size_t *count);

/* The text of ids[0 .. count), valid UTF-8 and NUL-terminated; *length does not count that NUL.
 * Bytes that form no UTF-8 become U+FFFD. Ids that no token has (negative ones, or those between a
 * vocabulary's end and the model's padded size) give no text. skip_special leaves out special
 * tokens. *text is the caller's, fb_text_free. */
FB_API fb_status fb_tokenizer_decode(const fb_tokenizer *tokenizer, const int32_t *ids,
                                     size_t count, bool skip_special, char **text, size_t *length);

/* Frees the text of fb_tokenizer_decode, the ids of fb_tokenizer_encode and
 * fb_tokenizer_encode_piece. Takes NULL. */
FB_API void fb_text_free(char *text);
FB_API void fb_token_ids_free(int32_t *ids);

/* Largest id + 1, added tokens included. */
FB_API size_t fb_tokenizer_vocab_size(const fb_tokenizer *tokenizer);

/* The id of a token by its spelling in tokenizer.json (byte-level: a space is written U+0120), or
 * of an added token by its text; -1 when there is none. */
FB_API int32_t fb_tokenizer_token_id(const fb_tokenizer *tokenizer, const char *token);

/* true for special added tokens; false for any other id, also one out of range. */
FB_API bool fb_tokenizer_is_special(const fb_tokenizer *tokenizer, int32_t id);

/* The bytes that an id stands for, not necessarily whole characters; borrowed from the tokenizer.
 * NULL (and length 0) when no token has this id. */
FB_API const char *fb_tokenizer_token_bytes(const fb_tokenizer *tokenizer, int32_t id,
                                            size_t *length);

/* Decoding while ids arrive. Bytes are held back until the character they begin is complete, so
 * what comes out is valid UTF-8 at every step and, put together, what fb_tokenizer_decode gives. */
typedef struct fb_token_stream fb_token_stream;

/* The tokenizer must outlive the stream. The caller owns *stream. */
FB_API fb_status fb_token_stream_create(const fb_tokenizer *tokenizer, bool skip_special,
                                        fb_token_stream **stream);
FB_API void fb_token_stream_destroy(fb_token_stream *stream);

/* Adds ids; *text (NUL-terminated, *length bytes, maybe 0) is what became certain. It belongs to
 * the stream until its next call. */
FB_API fb_status fb_token_stream_put(fb_token_stream *stream, const int32_t *ids, size_t count,
                                     const char **text, size_t *length);

/* The end of the ids: an incomplete character becomes U+FFFD. The stream is as new afterwards. */
FB_API fb_status fb_token_stream_finish(fb_token_stream *stream, const char **text, size_t *length);

#ifdef __cplusplus
}
#endif

#endif
