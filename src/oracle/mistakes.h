/* What porters get wrong, as computations: a candidate that agrees with one of these, and not with
 * the truth, has made that mistake. */
#ifndef FB_ORACLE_MISTAKES_H
#define FB_ORACLE_MISTAKES_H

#include "oracle/case.h"

/* One hypothesis about a tensor. `compute` fills [count] with what the mistake gives; context is
 * the claim's. It may return FB_ERROR_UNSUPPORTED where the mistake cannot be made (one KV head,
 * say): it is then left out. */
typedef struct fb_mistake {
    const char *words; /* "the scale is applied twice" */
    fb_status (*compute)(const void *context, double *out, size_t count);
} fb_mistake;

#endif
