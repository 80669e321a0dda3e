/* Objects that serve one call at a time. A second call that comes meanwhile, from another thread or
 * from a callback, fails; it does not spoil the first one's result. */
#ifndef FB_BASE_BUSY_H
#define FB_BASE_BUSY_H

#include "base/error.h"

#include <stdatomic.h>
#include <stdbool.h>

/* Zeroed: free. */
typedef struct fb_busy {
    atomic_bool taken;
} fb_busy;

/* `what` names the object: "the model". */
static inline fb_status fb_busy_begin(fb_busy *busy, const char *what) {
    if (atomic_exchange_explicit(&busy->taken, true, memory_order_acquire))
        return fb_fail(FB_ERROR_ARGUMENT, "%s is in use by another call: it serves one at a time",
                       what);
    return FB_OK;
}

static inline void fb_busy_end(fb_busy *busy) {
    atomic_store_explicit(&busy->taken, false, memory_order_release);
}

#endif
