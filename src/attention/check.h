/* Argument checks shared by the public calls of attention. Each names the argument and its value.
 */
#ifndef FB_ATTENTION_CHECK_H
#define FB_ATTENTION_CHECK_H

#include <flashblock/attention.h>

enum { FB_MAX_HEAD_DIM = 65536 };

/* The view's ranges lie inside its tokens; *num_keys is their total. */
fb_status fb_check_view(const fb_view *view, size_t *num_keys);

/* Queries are there, their heads and head_dim fit the view's, their strides do not overflow. */
fb_status fb_check_queries(const fb_queries *queries, const fb_view *view);

fb_status fb_check_mask(const fb_mask *mask);

/* A part of num_queries x num_heads rows can be addressed. `name` is the argument's. */
fb_status fb_check_part(const fb_part *part, const char *name, size_t num_queries, size_t num_heads,
                        size_t head_dim);

#endif
