/* What a file is that is not what it should be. */
#ifndef FB_IO_FILE_KIND_H
#define FB_IO_FILE_KIND_H

#include <flashblock/status.h>

#include <stddef.h>

/* What these bytes are, judged by how they begin, and what to do about it: "a web page (HTML):
 * ..."; NULL when nothing tells. The text is constant. */
const char *fb_file_kind(const void *data, size_t size);

/* FB_ERROR_FORMAT, "not EXPECTED but ...", where fb_file_kind knows that the bytes are something
 * else than `expected` ("a safetensors file", "a .npy file", "JSON"); FB_OK otherwise. */
fb_status fb_file_kind_check(const void *data, size_t size, const char *expected);

#endif
