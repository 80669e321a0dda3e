/* Which version of the library a program is compiled for, and which one it runs with.
 *
 * A program that was compiled with the headers of one version runs with the library of a later one
 * that has the same soname. It can compare the two, for a function that came later:
 *
 *     if (fb_version_number() < 300) ... the library is older than 0.3.0 ...
 */
#ifndef FLASHBLOCK_VERSION_H
#define FLASHBLOCK_VERSION_H

#include <flashblock/status.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The version of these headers. */
#define FB_VERSION_MAJOR 0
#define FB_VERSION_MINOR 2
#define FB_VERSION_PATCH 0

/* As one number that grows with the version: 10203 is 1.2.3. */
#define FB_VERSION_NUMBER (FB_VERSION_MAJOR * 10000 + FB_VERSION_MINOR * 100 + FB_VERSION_PATCH)

/* "MAJOR.MINOR.PATCH" of the library that the program runs with. Never NULL. */
FB_API const char *fb_version(void);

/* FB_VERSION_NUMBER of the library that the program runs with. */
FB_API int fb_version_number(void);

#ifdef __cplusplus
}
#endif

#endif
