/* What the selectors of this folder share: how each is made, and what they keep of keys. */
#ifndef FB_CACHE_SELECTOR_FAMILY_H
#define FB_CACHE_SELECTOR_FAMILY_H

#include <flashblock/selector.h>

#include <stddef.h>

/* Makes one selector. The options have been checked; `state` is freed by ops->destroy. */
typedef fb_status fb_selector_maker(const fb_selector_options *options, fb_selector_ops *ops,
                                    void **state);

fb_selector_maker fb_make_given, fb_make_sink_window;

#endif
