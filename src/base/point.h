/* Numbers have a decimal point, whatever locale the program has set.
 *
 *     fb_point before = fb_point_begin();
 *     ... snprintf, strtod ...
 *     fb_point_end(before);
 *
 * It holds for the calling thread only, and allocates nothing. */
#ifndef FB_BASE_POINT_H
#define FB_BASE_POINT_H

#include <locale.h>

typedef locale_t fb_point;

static inline fb_point fb_point_begin(void) {
    locale_t c = newlocale(LC_ALL_MASK, "C", (locale_t)0); /* a constant of the C library */
    return c ? uselocale(c) : (locale_t)0;
}

static inline void fb_point_end(fb_point before) {
    if (before)
        uselocale(before);
}

#endif
