/* The one door to the attention of a block: reads a call, refuses calls that contradict themselves,
 * and goes the way that the call asks for. */
#include "cache/block.h"

#include "base/error.h"
#include "base/sized.h"
#include "cache/part_cache.h"

FB_SIZED_ENDS_WITH(fb_block_call, heads);

void fb_block_call_init_sized(fb_block_call *call, size_t size) {
    fb_sized_init(call, size, &(fb_block_call){0}, sizeof *call);
}

/* --- contradictions --------------------------------------------------------------------------- */

static fb_status check_action(const fb_block_call *call) {
    if ((unsigned)call->action > FB_REFRESH_HEADS)
        return fb_fail(FB_ERROR_ARGUMENT, "action is %d, expected a reuse action",
                       (int)call->action);
    if ((call->action == FB_REFRESH_ROWS) != (call->refresh_rows != NULL))
        return fb_fail(FB_ERROR_ARGUMENT, "action is %s, and refresh_rows is %s",
                       fb_reuse_action_name(call->action), call->refresh_rows ? "given" : "NULL");
    if (call->action == FB_REFRESH_HEADS && !call->heads)
        return fb_fail(FB_ERROR_ARGUMENT, "action is refresh heads, and heads is NULL");
    if (call->compat != FB_COMPAT_PAPER && call->compat != FB_COMPAT_RELEASED)
        return fb_fail(FB_ERROR_ARGUMENT, "compat is %d, expected paper or released",
                       (int)call->compat);
    return FB_OK;
}

/* Ways exclude each other, and all but the plain one exclude some actions. */
static fb_status check_way(const fb_block_call *call) {
    int ways = (call->selection != NULL) + (call->sparse != NULL) + (call->heads != NULL);
    if (ways > 1)
        return fb_fail(FB_ERROR_ARGUMENT,
                       "%d of selection, sparse and heads are given, expected one at most", ways);
    if (call->heads ? call->kv != NULL : call->kv == NULL)
        return fb_fail(FB_ERROR_ARGUMENT, "kv is %s, and heads is %s", call->kv ? "given" : "NULL",
                       call->heads ? "given" : "NULL");
    if (call->sparse && call->parts)
        return fb_fail(FB_ERROR_ARGUMENT, "parts is given, but sparse keeps its own");
    bool beyond = ways > 0 || call->action == FB_REFRESH_ROWS;
    if (beyond && call->compat == FB_COMPAT_RELEASED)
        return fb_fail(FB_ERROR_ARGUMENT,
                       "compat is released, which has no refresh by rows, selection or heads");
    if (ways > 0 && call->action == FB_REFRESH_ROWS)
        return fb_fail(FB_ERROR_ARGUMENT, "action is refresh rows, but keys are selected");
    return FB_OK;
}

/* Whether the action stores to `parts`, or takes from it. */
static bool needs_parts(const fb_block_call *call) {
    return call->action != FB_REFRESH_ONLY && !call->sparse;
}

static fb_status check_parts(const fb_block_call *call) {
    if (needs_parts(call) && !call->parts)
        return fb_fail(FB_ERROR_ARGUMENT, "parts is NULL, but the action is %s",
                       fb_reuse_action_name(call->action));
    bool plain = !call->selection && !call->heads;
    if (call->parts && !plain && fb_part_cache_corrects(call->parts))
        return fb_fail(FB_ERROR_ARGUMENT, "parts corrects LSEs, but keys are selected");
    return FB_OK;
}

fb_status fb_block_attend(const fb_block_call *call, const fb_part *result) {
    fb_block_call own = {0};
    FB_TRY(fb_sized_read(&own, sizeof own, call, "call"));
    if (!own.queries)
        return fb_fail(FB_ERROR_ARGUMENT, "queries is NULL");
    FB_TRY(check_action(&own));
    FB_TRY(check_way(&own));
    FB_TRY(check_parts(&own));
    if (own.heads)
        return fb_block_attend_heads(&own, result);
    if (own.sparse)
        return fb_block_attend_sparse(&own, result);
    if (own.selection)
        return fb_block_attend_selected(&own, NULL, NULL, result);
    return fb_block_attend_plain(&own, result);
}
