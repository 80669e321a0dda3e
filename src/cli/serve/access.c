#include "cli/serve/access.h"

#include <arpa/inet.h>
#include <microhttpd.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

/* --- the key ---------------------------------------------------------------------------------- */

/* Takes the same time for every key of a length. */
static bool is_equal(const char *one, const char *other) {
    size_t size = strlen(one);
    if (strlen(other) != size)
        return false;
    unsigned char difference = 0;
    for (size_t i = 0; i < size; i++)
        difference |= (unsigned char)(one[i] ^ other[i]);
    return difference == 0;
}

static const char *header(struct MHD_Connection *connection, const char *name) {
    return MHD_lookup_connection_value(connection, MHD_HEADER_KIND, name);
}

bool fb_serve_access_has_key(const fb_serve_access *access, struct MHD_Connection *connection) {
    static const char scheme[] = "Bearer ";
    const char *given = header(connection, MHD_HTTP_HEADER_AUTHORIZATION);
    if (!access->key)
        return true;
    if (!given || strncasecmp(given, scheme, sizeof scheme - 1) != 0)
        return false;
    given += sizeof scheme - 1;
    return is_equal(given + strspn(given, " "), access->key);
}

/* --- the site --------------------------------------------------------------------------------- */

/* Whether `host`, "NAME" or "NAME:PORT", is an address or localhost: no name that a site chooses.
 */
static bool is_address(const char *host) {
    char name[INET6_ADDRSTRLEN + 1];
    struct in6_addr address;
    size_t size = *host == '[' ? strcspn(++host, "]") : strcspn(host, ":");
    if (size >= sizeof name)
        return false;
    memcpy(name, host, size);
    name[size] = '\0';
    return strcasecmp(name, "localhost") == 0 || inet_pton(AF_INET, name, &address) == 1 ||
           inet_pton(AF_INET6, name, &address) == 1;
}

bool fb_serve_access_is_own_site(const fb_serve_access *access, struct MHD_Connection *connection) {
    static const char scheme[] = "http://";
    const char *host = header(connection, MHD_HTTP_HEADER_HOST);
    const char *origin = header(connection, MHD_HTTP_HEADER_ORIGIN);
    if (access->key || access->any_site)
        return true;
    if (host && !is_address(host))
        return false;
    return !origin || (host && strncasecmp(origin, scheme, sizeof scheme - 1) == 0 &&
                       strcasecmp(origin + sizeof scheme - 1, host) == 0);
}

/* --- lengths ---------------------------------------------------------------------------------- */

static enum MHD_Result count_length(void *count, enum MHD_ValueKind kind, const char *name,
                                    const char *value) {
    (void)kind;
    (void)value;
    *(size_t *)count += strcasecmp(name, MHD_HTTP_HEADER_CONTENT_LENGTH) == 0 ||
                        strcasecmp(name, MHD_HTTP_HEADER_TRANSFER_ENCODING) == 0;
    return MHD_YES;
}

bool fb_serve_access_has_one_length(struct MHD_Connection *connection) {
    size_t count = 0;
    MHD_get_connection_values(connection, MHD_HEADER_KIND, count_length, &count);
    return count <= 1;
}
