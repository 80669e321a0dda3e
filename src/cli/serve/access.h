/* Who may ask, and requests that a proxy before the server could read in another way. */
#ifndef FB_CLI_SERVE_ACCESS_H
#define FB_CLI_SERVE_ACCESS_H

#include <stdbool.h>

struct MHD_Connection;

/* Without a key every page that a browser shows on this machine could ask, also over a name of its
 * site that leads here. So a request has to be for an address or localhost, and what a page asks
 * has to come from the server's own. */
typedef struct fb_serve_access {
    const char *key; /* that clients show; NULL: none is needed */
    bool any_site;   /* without a key: whatever a request is for, and comes from */
} fb_serve_access;

bool fb_serve_access_has_key(const fb_serve_access *access, struct MHD_Connection *connection);
bool fb_serve_access_is_own_site(const fb_serve_access *access, struct MHD_Connection *connection);

/* Whether the headers give the length of the body once at most. */
bool fb_serve_access_has_one_length(struct MHD_Connection *connection);

#endif
