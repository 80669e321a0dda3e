/* The descriptions of tensors that callers begin with. */
#include <flashblock/attention.h>

fb_kv fb_kv_heads(const fb_kv *kv, size_t first, size_t count) {
    fb_kv heads = *kv;
    heads.num_kv_heads = count;
    if (kv->pages) {
        heads.first_kv_head += first;
        return heads;
    }
    ptrdiff_t element = (ptrdiff_t)fb_dtype_size(kv->dtype), head = (ptrdiff_t)first;
    if (kv->k)
        heads.k = (const char *)kv->k + head * kv->k_head_stride * element;
    if (kv->v)
        heads.v = (const char *)kv->v + head * kv->v_head_stride * element;
    return heads;
}

fb_kv fb_kv_rows(fb_dtype dtype, const void *k, const void *v, size_t num_tokens,
                 size_t num_kv_heads, size_t head_dim) {
    ptrdiff_t head_stride = (ptrdiff_t)head_dim;
    ptrdiff_t token_stride = (ptrdiff_t)(num_kv_heads * head_dim);
    return (fb_kv){
        .dtype = dtype,
        .num_tokens = num_tokens,
        .num_kv_heads = num_kv_heads,
        .head_dim = head_dim,
        .k = k,
        .v = v,
        .k_token_stride = token_stride,
        .k_head_stride = head_stride,
        .v_token_stride = token_stride,
        .v_head_stride = head_stride,
    };
}

fb_queries fb_queries_rows(const float *q, size_t num_queries, size_t num_heads, size_t head_dim) {
    return (fb_queries){
        .q = q,
        .num_queries = num_queries,
        .num_heads = num_heads,
        .head_dim = head_dim,
        .token_stride = (ptrdiff_t)(num_heads * head_dim),
        .head_stride = (ptrdiff_t)head_dim,
    };
}

fb_part fb_part_rows(float *out, float *lse, size_t num_heads, size_t head_dim) {
    return (fb_part){
        .out = out,
        .out_token_stride = (ptrdiff_t)(num_heads * head_dim),
        .out_head_stride = (ptrdiff_t)head_dim,
        .lse = lse,
        .lse_token_stride = (ptrdiff_t)num_heads,
        .lse_head_stride = 1,
    };
}
