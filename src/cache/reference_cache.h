/* FlashBlock's cache in double precision, for one layer and as plainly as it can be written: the
 * attention of the current block to all that is before it, kept from step to step, and the rule
 * that says when it is computed anew. Second of three files to read: attention/reference.c,
 * cache/reference.c, decode/reference.c. Tests compare reuse.c and block_plain.c with it. */
#ifndef FB_CACHE_REFERENCE_CACHE_H
#define FB_CACHE_REFERENCE_CACHE_H

#include <flashblock/reuse.h>

typedef struct fb_reference_cache {
    size_t tau;    /* reuse while fewer tokens than this are dirty; 0: dense attention */
    size_t dirty;  /* tokens accepted since, and including, the last refresh */
    double *a_out; /* A_out [block_size, num_heads, head_dim]; the caller's memory */
    double *l_out; /* L_out [block_size, num_heads] */
} fb_reference_cache;

/* A step, as far as the rule looks at it. */
typedef struct fb_reference_step {
    size_t number, limit; /* steps before it, and steps that the block may take */
    size_t masked;        /* tokens that are still masked */
    size_t budget;        /* tokens that every step accepts at least */
    bool commit;          /* the pass over the finished block */
} fb_reference_step;

fb_reuse_action fb_reuse_decide_reference(const fb_reference_cache *cache,
                                          const fb_reference_step *step);

/* One step's attention: q [block_size, num_heads, head_dim] over `context`, all that is before the
 * block, and `block`, its own keys. out, lse: as those of fb_attend_reference. */
fb_status fb_block_attend_reference(fb_reference_cache *cache, fb_reuse_action action,
                                    const fb_queries *queries, const fb_kv *context,
                                    const fb_kv *block, double scale, double *out, double *lse);

/* The step that did `action` has accepted `count` tokens. */
void fb_reference_cache_accept(fb_reference_cache *cache, fb_reuse_action action, size_t count);

#endif
