/* Beyond the paper: refresh by rows, and the first-order correction. Experimental: may change in
 * any release, and with it what the experimental members of fb_reuse_policy mean.
 *
 * Between two steps of a block the query of a row moves, from q0 to q, and the rows' external
 * parts become wrong by as much. There are two kinds of moves. A row whose mask token was replaced
 * by a real one starts from another embedding, and its query is another one altogether; that row's
 * keys and values are then read by all others. This happens to a row once, and makes the larger
 * part of the error in small blocks. The other rows move because they attend to rows that changed:
 * a little, but at every step.
 *
 * The policy `rows` removes the first kind. It recomputes the external part of the dirty rows,
 * those whose token was accepted since they were computed, and keeps the others': a block of B
 * tokens computes B rows at its first step and each row once again after its acceptance, 2 B in
 * all, whatever the number of steps, where dense attention computes B at every pass.
 *
 * What stays wrong is the second kind: a row that is still masked has its part from the block's
 * first step. A full refresh now and then is still needed where that adds up: `refresh_every` and
 * `refresh_dirty` ask for it. (README, "refresh by rows", measures both kinds.) And rows do not
 * save reading: a pass that recomputes one row reads all keys and values, as one that recomputes
 * all rows does. tau above 1 makes dirty rows wait for each other, and be wrong meanwhile.
 *
 * The first-order correction. With p_j = e^(s_j - L), s_j = scale q . k_j, the part is a function
 * of the query alone, and for d = q - q0
 *
 *     L(q) = L(q0) + scale d . k  +  scale^2/2 d . C d  +  ...      k = sum_j p_j k_j
 *     O(q) = O(q0) + scale sum_j p_j (v_j - O) (k_j - k) . d  +  ...
 *
 * where C = sum_j p_j (k_j - k)(k_j - k)^T is the keys' covariance under the softmax. A corrected
 * cache keeps q0 and k of each row beside (O, L), and a kept row is merged with
 * L(q0) + scale d . k in the place of L(q0): how much the external part weighs follows the query,
 * what it says does not. Cost: the mean key is one more accumulation on a refresh that stores (no
 * more bytes read), head_dim multiply-adds a row on a pass that keeps it. Memory: a row's
 * head_dim + 1 floats become 3 head_dim + 1. The next terms, C and the covariance of values with
 * keys in O's, are matrices of head_dim x head_dim a row: collecting them takes head_dim / 2 times
 * what the part itself takes, and applying them as much as attention over head_dim / 2 keys. L is
 * convex (C is positive semidefinite), so that the corrected LSE is never above the true one: the
 * external part weighs rather too little.
 */
#ifndef FLASHBLOCK_EXPERIMENTAL_ROWS_H
#define FLASHBLOCK_EXPERIMENTAL_ROWS_H

#include <flashblock/reuse.h>
#include <flashblock/status.h>

#ifdef __cplusplus
extern "C" {
#endif

/* FB_REFRESH_ROWS: fb_block_attend computes and keeps the external part of the rows for which
 * fb_block_call.refresh_rows is true, and takes that of the others from the cache, where it must
 * belong to the state of `kv` (FB_ERROR_STALE; no such row need be there if all are computed).
 *
 * A row that is computed has the bits that it has in a refresh of all rows. With all rows this is
 * dense attention, bit for bit; with none, a reuse. */

/* From now on every stored row comes with its query and its mean key, and rows that are taken from
 * the cache have their LSE corrected to first order. Slots become stale. */
FB_API fb_status fb_part_cache_enable_correction(fb_part_cache *cache);

#ifdef __cplusplus
}
#endif

#endif
