/* What a peer's module exports. */
#ifndef FB_BENCH_PEER_MODULE_H
#define FB_BENCH_PEER_MODULE_H

#include "bench/peer.h"

FB_API extern const fb_peer fb_peer_module;

#endif
