#include "bench/peers.h"

#include "base/error.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

static const char *const names[FB_NUM_PEERS] = {"openblas", "blis", "onednn"};

const char *fb_peer_name(size_t index) {
    return names[index];
}

/* The program's run path says where modules are: in the build, or beside the installed libraries.
 * They stay open until the program ends. */
static fb_status open_module(const char *name, const fb_peer **peer) {
    char file[64];
    snprintf(file, sizeof file, "libflashblock-peer-%s.so", name);
    void *module = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    void *found = module ? dlsym(module, "fb_peer_module") : NULL;
    if (!found)
        return fb_fail(FB_ERROR_UNSUPPORTED, "%s cannot be measured: %s", name, dlerror());
    *peer = found;
    return FB_OK;
}

fb_status fb_peer_open(const char *name, const fb_peer **peer) {
    char all[64] = "";
    for (size_t i = 0; i < FB_NUM_PEERS; i++) {
        if (strcmp(name, names[i]) == 0)
            return open_module(name, peer);
        size_t used = strlen(all);
        snprintf(all + used, sizeof all - used, "%s%s", i ? ", " : "", names[i]);
    }
    return fb_fail(FB_ERROR_ARGUMENT, "'%s' is none of %s", name, all);
}
