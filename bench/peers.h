/* Finding the peers that this program can measure. */
#ifndef FB_BENCH_PEERS_H
#define FB_BENCH_PEERS_H

#include "bench/peer.h"

#include <flashblock/status.h>

enum { FB_NUM_PEERS = 3 };

/* "openblas", "blis", "onednn". */
const char *fb_peer_name(size_t index);

/* FB_ERROR_ARGUMENT for an unknown name; the message lists the known ones. FB_ERROR_UNSUPPORTED
 * when this build does not have the peer, or when its library cannot be opened. */
fb_status fb_peer_open(const char *name, const fb_peer **peer);

#endif
