/* Beyond the paper: refresh by rows, and the first-order correction. Experimental: both may change
 * in any release, and with them the experimental members of fb_reuse_policy.
 *
 * Between two steps of a block the query of a row moves, from q0 to q, and the row's external part
 * becomes wrong by as much. There are two kinds of moves. A row whose mask token was replaced by a
 * real one starts from another embedding, and has a very different query; all other rows then read
 * its new keys and values. This happens to a row once, and it makes the larger part of the error in
 * small blocks. The other rows move because they attend to rows that changed: a little, but at
 * every step.
 *
 * Refresh by rows removes the error of the first kind. It computes the external part of the dirty
 * rows, whose token was accepted since their part was computed, and keeps the parts of the others.
 * A block of B tokens computes B rows at its first step, and each row once again after its
 * acceptance: 2 B rows in all, whatever the number of steps. Dense attention computes B rows at
 * every pass.
 *
 * The error of the second kind stays: a row that is still masked has its part from the block's
 * first step. Where this error adds up, `refresh_every` and `refresh_dirty` ask for a refresh of
 * all rows now and then. Rows do not save reading: a pass that computes one row reads all keys and
 * values, as a pass that computes all rows does. With a tau above 1 dirty rows wait for each other,
 * and are wrong until then.
 *
 * FB_REFRESH_ROWS. fb_block_attend computes and keeps the external part of the rows for which
 * fb_block_call.refresh_rows is true. It takes the part of the other rows from the cache, where it
 * must belong to the state of `kv` (else FB_ERROR_STALE). If all rows are computed, nothing need be
 * in the cache. A row that is computed has the bits that it has in a refresh of all rows (contract
 * C8.4). With all rows this is dense attention, bit for bit; with none it is a reuse.
 *
 * The first-order correction (contract C8.6). With p_j = e^(s_j - L) and s_j = scale q . k_j, the
 * part is a function of only the query, and for d = q - q0
 *
 *     L(q) = L(q0) + scale d . k  +  scale^2/2 d . C d  +  ...      k = sum_j p_j k_j
 *     O(q) = O(q0) + scale sum_j p_j (v_j - O) (k_j - k) . d  +  ...
 *
 * where C = sum_j p_j (k_j - k)(k_j - k)^T is the keys' covariance under the softmax. A corrected
 * cache keeps q0 and k of each row together with (O, L), and merges a kept row with
 * L(q0) + scale d . k in the place of L(q0). So the weight of the external part follows the query,
 * and its output does not.
 *
 *   cost     one more accumulation in a refresh that stores, for the mean key (no more bytes are
 *            read); head_dim multiply-adds for each kept row of a pass
 *   memory   a row's head_dim + 1 floats become 3 head_dim + 1
 *   error    L is convex, as C is positive semidefinite. So the corrected LSE is never above the
 *            true one: the external part weighs rather too little
 *
 * The next terms are C, and in O the covariance of values with keys: head_dim x head_dim matrices
 * for each row. Collecting them takes head_dim / 2 times as long as the part itself, and applying
 * them as long as attention over head_dim / 2 keys.
 */
#ifndef FLASHBLOCK_EXPERIMENTAL_ROWS_H
#define FLASHBLOCK_EXPERIMENTAL_ROWS_H

#include <flashblock/reuse.h>
#include <flashblock/status.h>

#ifdef __cplusplus
extern "C" {
#endif

/* From now on the cache stores each row with its query and its mean key, and fb_block_attend
 * corrects the LSEs of rows that it takes from the cache. All slots become stale. Such a cache
 * takes no part in attention with `selection` or `heads` (FB_ERROR_ARGUMENT). */
FB_API fb_status fb_part_cache_enable_correction(fb_part_cache *cache);

#ifdef __cplusplus
}
#endif

#endif
