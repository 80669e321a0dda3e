/* The address of a key or a value of an fb_kv: in rows of the caller's, or in pages of a KV cache.
 */
#ifndef FB_ATTENTION_KV_ACCESS_H
#define FB_ATTENTION_KV_ACCESS_H

#include "simd/kernels.h"

#include <flashblock/attention.h>

enum { FB_PAGE_TOKENS = 256 };

/* One layer of a KV cache. A page holds groups of 16 tokens as the kernels take them (kernels.h):
 * their keys,
 *   [num_kv_heads][FB_PAGE_TOKENS / 16][head_dim][16 tokens]
 * and after all keys their values, head_dim padded to whole panels,
 *   [num_kv_heads][FB_PAGE_TOKENS / 16][panels][16 tokens][16].
 * Groups of FB_INT8 are those of kernels.h: their 16 scales are a part of them. */
struct fb_kv_pages {
    void **pages;
    size_t num_pages, room; /* pointers to pages; as many have room */
    size_t num_tokens;      /* written so far */
    size_t num_kv_heads;    /* of a page; an fb_kv may show some of them only */
};

enum { FB_PAGE_GROUPS = FB_PAGE_TOKENS / FB_GROUP_KEYS };

/* Bytes of a group of 16 packed keys, and of one of 16 packed values. */
static inline size_t fb_key_group_bytes(fb_dtype dtype, size_t head_dim) {
    if (dtype == FB_INT8)
        return fb_int_keys_bytes(head_dim) + FB_GROUP_KEYS * sizeof(float);
    return head_dim * FB_GROUP_KEYS * fb_dtype_size(dtype);
}

static inline size_t fb_value_group_bytes(fb_dtype dtype, size_t head_dim) {
    if (dtype == FB_INT8)
        return fb_int_values_bytes(head_dim) + FB_GROUP_KEYS * sizeof(float);
    return fb_padded_dim(head_dim) * FB_GROUP_KEYS * fb_dtype_size(dtype);
}

/* Where the 16 scales of a group of FB_INT8 are in it. */
static inline const float *fb_key_scales(const void *group, size_t head_dim) {
    return (const float *)(const void *)((const char *)group + fb_int_keys_bytes(head_dim));
}

static inline const float *fb_value_scales(const void *group, size_t head_dim) {
    return (const float *)(const void *)((const char *)group + fb_int_values_bytes(head_dim));
}

/* Bytes of all keys of a page. */
static inline size_t fb_page_keys_bytes(const fb_kv *kv) {
    return kv->pages->num_kv_heads * FB_PAGE_GROUPS * fb_key_group_bytes(kv->dtype, kv->head_dim);
}

/* The group of a page that holds `token`. */
static inline size_t fb_page_group(const fb_kv *kv, size_t head, size_t token) {
    return (kv->first_kv_head + head) * FB_PAGE_GROUPS + token % FB_PAGE_TOKENS / FB_GROUP_KEYS;
}

/* The group of 16 packed keys that holds `token`: [head_dim][16] elements. Pages only. */
static inline const void *fb_key_group(const fb_kv *kv, size_t head, size_t token) {
    size_t group = fb_page_group(kv, head, token);
    const char *page = kv->pages->pages[token / FB_PAGE_TOKENS];
    return page + group * fb_key_group_bytes(kv->dtype, kv->head_dim);
}

/* Its values: [panels][16][16] elements. Pages only. */
static inline const void *fb_value_group(const fb_kv *kv, size_t head, size_t token) {
    size_t group = fb_page_group(kv, head, token);
    const char *page = kv->pages->pages[token / FB_PAGE_TOKENS];
    return page + fb_page_keys_bytes(kv) + group * fb_value_group_bytes(kv->dtype, kv->head_dim);
}

/* Not for FB_INT8. The key of `token`: its element d is at index fb_key_index(kv, d). */
static inline const void *fb_key(const fb_kv *kv, size_t head, size_t token) {
    size_t element = fb_dtype_size(kv->dtype);
    if (kv->pages)
        return (const char *)fb_key_group(kv, head, token) + token % FB_GROUP_KEYS * element;
    return (const char *)kv->k +
           ((ptrdiff_t)token * kv->k_token_stride + (ptrdiff_t)head * kv->k_head_stride) *
               (ptrdiff_t)element;
}

static inline size_t fb_key_index(const fb_kv *kv, size_t d) {
    return kv->pages ? d * FB_GROUP_KEYS : d;
}

/* Not for FB_INT8. The value of `token`: its element d is at index fb_value_index(kv, d); in pages,
 * runs of 16 elements are contiguous. */
static inline const void *fb_value(const fb_kv *kv, size_t head, size_t token) {
    size_t element = fb_dtype_size(kv->dtype);
    if (kv->pages)
        return (const char *)fb_value_group(kv, head, token) +
               token % FB_GROUP_KEYS * FB_PANEL_DIMS * element;
    return (const char *)kv->v +
           ((ptrdiff_t)token * kv->v_token_stride + (ptrdiff_t)head * kv->v_head_stride) *
               (ptrdiff_t)element;
}

static inline size_t fb_value_index(const fb_kv *kv, size_t d) {
    return kv->pages ? d / FB_PANEL_DIMS * FB_GROUP_KEYS * FB_PANEL_DIMS + d % FB_PANEL_DIMS : d;
}

/* Copies a key, or a value, widened, from rows or pages of any type: to [head_dim]. Of FB_INT8
 * these are the integers times their scale, rounded (contract C14.2). */
void fb_read_key(const fb_kv *kv, size_t head, size_t token, float *to);
void fb_read_value(const fb_kv *kv, size_t head, size_t token, float *to);

/* Dimensions d .. d + 15 of a value, d a multiple of 16; returns how many of them there are. */
size_t fb_read_value_panel(const fb_kv *kv, size_t head, size_t token, size_t d, float *to);

#endif
