#include "io/file_kind.h"

#include "base/error.h"

#include <stdbool.h>
#include <string.h>
#include <strings.h>

/* How files of a kind begin. */
typedef struct signature {
    size_t offset, length;
    const char *bytes, *what;
} signature;

#define SIGNATURE(offset, bytes, what)                                                             \
    { offset, sizeof bytes - 1, bytes, what }

static const char page[] = "a web page (HTML): what was downloaded is the page that shows the "
                           "file, or a login or error page; download the file itself";
static const char pickle[] = "a pickle of Python (torch.save, .bin or .pt): load it in Python and "
                             "save it with safetensors.torch.save_file";
static const char compressed[] = "a compressed file or an archive: unpack it first";

static const signature signatures[] = {
    SIGNATURE(0, "GGUF",
              "a GGUF file of llama.cpp: use the model's Hugging Face directory, with "
              "safetensors"),
    SIGNATURE(0, "tjgg", "an old file of llama.cpp: use the model's Hugging Face directory"),
    SIGNATURE(0, "lmgg", "an old file of llama.cpp: use the model's Hugging Face directory"),
    SIGNATURE(0, "PK\3\4",
              "a zip archive. PyTorch's .bin, .pt and .pth are such archives: load it "
              "in Python and save it with safetensors.torch.save_file; .npz: take the "
              ".npy out of it"),
    SIGNATURE(0, "\x80\2", pickle),
    SIGNATURE(0, "\x80\3", pickle),
    SIGNATURE(0, "\x80\4", pickle),
    SIGNATURE(0, "\x80\5", pickle),
    SIGNATURE(0, "\x1f\x8b", compressed),
    SIGNATURE(0, "BZh", compressed),
    SIGNATURE(0,
              "\xfd"
              "7zXZ",
              compressed),
    SIGNATURE(0, "7z\xbc\xaf", compressed),
    SIGNATURE(0, "\x28\xb5\x2f\xfd", compressed),
    SIGNATURE(257, "ustar", compressed),
    SIGNATURE(0, "\x89HDF\r\n\x1a\n", "an HDF5 file (Keras, TensorFlow): save it as safetensors"),
    SIGNATURE(0, "\x93NUMPY", "a .npy file of NumPy"),
    SIGNATURE(0,
              "\x7f"
              "ELF",
              "a program or a library"),
    SIGNATURE(0, "%PDF", "a PDF file"),
    SIGNATURE(0, "\x89PNG", "a picture"),
    SIGNATURE(0, "\xff\xd8\xff", "a picture"),
    SIGNATURE(0, "version https://git-lfs.github.com/spec/",
              "a Git LFS pointer and not the file itself: fetch that with 'git lfs pull'"),
    SIGNATURE(0, "version https://hawser.github.com/spec/",
              "a Git LFS pointer and not the file itself: fetch that with 'git lfs pull'"),
    SIGNATURE(0, "\xff\xfe", "text in UTF-16"),
    SIGNATURE(0, "\xfe\xff", "text in UTF-16"),
};

static bool has(const signature *s, const char *data, size_t size) {
    return size >= s->offset && size - s->offset >= s->length &&
           memcmp(data + s->offset, s->bytes, s->length) == 0;
}

static bool is_space(char c) {
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

static bool begins(const char *data, size_t size, const char *word) {
    return size >= strlen(word) && strncasecmp(data, word, strlen(word)) == 0;
}

/* A safetensors file has such a header after 8 bytes of length. */
static bool is_safetensors(const char *data, size_t size) {
    return size > 9 && data[8] == '{' && (data[9] == '"' || data[9] == '}') && data[7] == 0 &&
           data[6] == 0;
}

static bool is_zeros(const char *data, size_t size) {
    for (size_t i = 0; i < size; i++)
        if (data[i])
            return false;
    return true;
}

/* Text that begins in ASCII, perhaps after a byte order mark. */
static bool is_text(const char *data, size_t size) {
    size_t first = size >= 3 && memcmp(data, "\xef\xbb\xbf", 3) == 0 ? 3 : 0;
    for (size_t i = first; i < size; i++) {
        unsigned char c = (unsigned char)data[i];
        if ((c < 0x20 && !is_space(data[i])) || c == 0x7f || (c > 0x7f && i < 8))
            return false;
    }
    return true;
}

enum { ENOUGH = 64 }; /* bytes that tell text and zeros */

static const char *kind_of_text(const char *data, size_t size) {
    size_t first = size >= 3 && memcmp(data, "\xef\xbb\xbf", 3) == 0 ? 3 : 0;
    while (first < size && is_space(data[first]))
        first++;
    const char *text = data + first;
    size_t left = size - first;
    if (begins(text, left, "<!doctype html") || begins(text, left, "<html") ||
        begins(text, left, "<head") || begins(text, left, "<!--"))
        return page;
    if (begins(text, left, "<?xml") || begins(text, left, "<Error"))
        return "XML, such as a server's answer in place of the file: download it again";
    if (left > 0 && (text[0] == '{' || text[0] == '['))
        return "JSON text: an index, a configuration, or a server's answer in place of the file";
    return "plain text, such as a server's answer in place of the file: look into it";
}

const char *fb_file_kind(const void *data, size_t size) {
    size_t some = size < ENOUGH ? size : ENOUGH;
    if (size == 0)
        return "an empty file, such as a download that failed leaves";
    for (size_t i = 0; i < sizeof signatures / sizeof signatures[0]; i++)
        if (has(&signatures[i], data, size))
            return signatures[i].what;
    if (is_safetensors(data, size))
        return "a safetensors file";
    if (size >= 8 && is_zeros(data, some))
        return "a file that begins with zeros, such as a download that did not finish leaves";
    return is_text(data, some) ? kind_of_text(data, size) : NULL;
}

fb_status fb_file_kind_check(const void *data, size_t size, const char *expected) {
    const char *what = fb_file_kind(data, size);
    if (!what || strncmp(what, expected, strlen(expected)) == 0)
        return FB_OK;
    return fb_fail(FB_ERROR_FORMAT, "not %s but %s", expected, what);
}
