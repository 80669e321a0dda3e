#include "attention/kv_access.h"

static void read_int_key(const fb_kv *kv, size_t head, size_t token, float *to) {
    const int8_t *group = fb_key_group(kv, head, token);
    size_t key = token % FB_GROUP_KEYS;
    float scale = fb_key_scales(group, kv->head_dim)[key];
    for (size_t d = 0; d < kv->head_dim; d++)
        to[d] = (float)group[fb_int_key_index(d, key)] * scale;
}

void fb_read_key(const fb_kv *kv, size_t head, size_t token, float *to) {
    if (kv->dtype == FB_INT8) {
        read_int_key(kv, head, token, to);
        return;
    }
    const char *key = fb_key(kv, head, token);
    if (!kv->pages) {
        (void)fb_to_f32(kv->dtype, key, to, kv->head_dim);
        return;
    }
    for (size_t d = 0; d < kv->head_dim; d++)
        (void)fb_to_f32(kv->dtype, key + fb_key_index(kv, d) * fb_dtype_size(kv->dtype), to + d, 1);
}

size_t fb_read_value_panel(const fb_kv *kv, size_t head, size_t token, size_t d, float *to) {
    size_t left = kv->head_dim - d, dims = left < FB_PANEL_DIMS ? left : FB_PANEL_DIMS;
    if (kv->dtype != FB_INT8) {
        const char *value = fb_value(kv, head, token);
        (void)fb_to_f32(kv->dtype, value + fb_value_index(kv, d) * fb_dtype_size(kv->dtype), to,
                        dims);
        return dims;
    }
    const int8_t *group = fb_value_group(kv, head, token);
    size_t lane = token % FB_GROUP_KEYS;
    for (size_t i = 0; i < dims; i++)
        to[i] = (float)group[fb_int_value_index(d + i, lane)] *
                fb_value_scales(group, kv->head_dim)[lane];
    return dims;
}

void fb_read_value(const fb_kv *kv, size_t head, size_t token, float *to) {
    for (size_t d = 0; d < kv->head_dim; d += FB_PANEL_DIMS)
        (void)fb_read_value_panel(kv, head, token, d, to + d);
}
