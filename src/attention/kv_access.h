/* Where a key or a value of an fb_kv is in memory: rows of the caller's, or pages of a KV cache. */
#ifndef FB_ATTENTION_KV_ACCESS_H
#define FB_ATTENTION_KV_ACCESS_H

#include "kernels.h"

#include <flashblock/attention.h>

enum { FB_PAGE_TOKENS = 256 };

/* One layer of a KV cache. A page holds the keys of its tokens,
 *   [num_kv_heads][FB_PAGE_TOKENS / 16][head_dim][16]
 * and behind them the values,
 *   [num_kv_heads][FB_PAGE_TOKENS][head_dim]. */
struct fb_kv_pages {
    void **pages;
    size_t num_pages;
    size_t num_tokens; /* written so far */
};

/* The group of 16 packed keys that holds `token`: [head_dim][16] elements. Pages only. */
static inline const void *fb_packed_keys(const fb_kv *kv, size_t head, size_t token) {
    size_t group = token % FB_PAGE_TOKENS / FB_GROUP_KEYS;
    size_t groups = FB_PAGE_TOKENS / FB_GROUP_KEYS;
    const char *page = kv->pages->pages[token / FB_PAGE_TOKENS];
    return page + (head * groups + group) * kv->head_dim * FB_GROUP_KEYS * fb_dtype_size(kv->dtype);
}

/* The key of `token`: element d is at [d * 1] in rows, at [d * 16] in pages. */
static inline const void *fb_key(const fb_kv *kv, size_t head, size_t token) {
    size_t element = fb_dtype_size(kv->dtype);
    if (kv->pages)
        return (const char *)fb_packed_keys(kv, head, token) + token % FB_GROUP_KEYS * element;
    return (const char *)kv->k +
           ((ptrdiff_t)token * kv->k_token_stride + (ptrdiff_t)head * kv->k_head_stride) *
               (ptrdiff_t)element;
}

static inline size_t fb_key_stride(const fb_kv *kv) {
    return kv->pages ? FB_GROUP_KEYS : 1;
}

/* The value row of `token`: head_dim contiguous elements. */
static inline const void *fb_value(const fb_kv *kv, size_t head, size_t token) {
    size_t element = fb_dtype_size(kv->dtype);
    if (kv->pages) {
        const char *page = kv->pages->pages[token / FB_PAGE_TOKENS];
        size_t row = (kv->num_kv_heads + head) * FB_PAGE_TOKENS + token % FB_PAGE_TOKENS;
        return page + row * kv->head_dim * element;
    }
    return (const char *)kv->v +
           ((ptrdiff_t)token * kv->v_token_stride + (ptrdiff_t)head * kv->v_head_stride) *
               (ptrdiff_t)element;
}

#endif
