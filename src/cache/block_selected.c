/* Attention to a selection; and a block that attends to a selection, merged with the residual: the
 * part over the keys that are not selected. */
#include "attention/check.h"
#include "base/error.h"
#include "base/parallel.h"
#include "base/scratch.h"
#include "cache/block.h"
#include "cache/block_keys.h"
#include "cache/part_cache.h"

#include <stdatomic.h>
#include <string.h>

/* --- attention to a selection ----------------------------------------------------------------- */

static fb_status check_lists(const fb_queries *queries, const fb_kv *kv,
                             const fb_selection *selection) {
    if (!selection)
        return fb_fail(FB_ERROR_ARGUMENT, "selection is NULL");
    if (selection->num_keys > kv->num_tokens)
        return fb_fail(FB_ERROR_ARGUMENT, "selection is of %zu keys, kv holds %zu tokens",
                       selection->num_keys, kv->num_tokens);
    if (selection->num_lists == 0 || queries->num_heads % selection->num_lists != 0 ||
        selection->num_lists % kv->num_kv_heads != 0)
        return fb_fail(FB_ERROR_ARGUMENT,
                       "selection has %zu lists, expected a divisor of the %zu heads and a "
                       "multiple of the %zu KV heads",
                       selection->num_lists, queries->num_heads, kv->num_kv_heads);
    return FB_OK;
}

static bool lists_are_equal(const fb_selection *selection) {
    const size_t *first = selection->blocks;
    for (size_t list = 1; list < selection->num_lists; list++)
        if (selection->counts[list] != selection->counts[0] ||
            memcmp(selection->blocks + list * selection->num_blocks, first,
                   selection->counts[0] * sizeof *first) != 0)
            return false;
    return true;
}

/* The heads of lists first .. first + count - 1, all of which follow list `first`. */
static fb_status attend_lists(const fb_queries *queries, const fb_kv *kv,
                              const fb_selection *selection, size_t first, size_t count,
                              float scale, const fb_part *result) {
    void *memory = NULL;
    FB_TRY(fb_scratch_acquire((selection->counts[first] + 1) * sizeof(fb_range), &memory));
    size_t heads = queries->num_heads / selection->num_lists, head = first * heads;
    size_t lists_per_kv = selection->num_lists / kv->num_kv_heads;
    fb_kv own =
        fb_kv_heads(kv, first / lists_per_kv, count < lists_per_kv ? 1 : count / lists_per_kv);
    fb_view view = {&own, memory, fb_selection_ranges(selection, first, memory)};
    fb_queries rows = *queries;
    rows.num_heads = heads * count;
    rows.q += (ptrdiff_t)head * queries->head_stride;
    fb_part part = *result;
    part.out += (ptrdiff_t)head * result->out_head_stride;
    part.lse += (ptrdiff_t)head * result->lse_head_stride;
    if (part.mean_key)
        part.mean_key += (ptrdiff_t)head * result->out_head_stride;
    fb_status status = fb_attend_gathered(&rows, &view, NULL, scale, &part);
    fb_scratch_release(memory);
    return status;
}

typedef struct list_call {
    const fb_queries *queries;
    const fb_kv *kv;
    const fb_selection *selection;
    float scale;
    const fb_part *result;
    atomic_int failed; /* an fb_status */
} list_call;

static void attend_some_lists(void *context, size_t first, size_t end, size_t worker) {
    list_call *c = context;
    (void)worker;
    for (size_t list = first; list < end; list++) {
        fb_status status =
            attend_lists(c->queries, c->kv, c->selection, list, 1, c->scale, c->result);
        if (status != FB_OK)
            atomic_store(&c->failed, (int)status);
    }
}

/* Threads take lists where there are enough of them; otherwise they share the keys of one. */
static fb_status attend_each_list(const fb_queries *queries, const fb_kv *kv,
                                  const fb_selection *selection, float scale,
                                  const fb_part *result) {
    size_t threads = fb_parallel_threads();
    if (selection->num_lists < threads)
        threads = 1;
    list_call call = {
        .queries = queries, .kv = kv, .selection = selection, .scale = scale, .result = result};
    fb_parallel_for(selection->num_lists, 1, threads, attend_some_lists, &call);
    fb_status failed = (fb_status)atomic_load(&call.failed);
    return failed == FB_OK ? FB_OK : fb_fail(failed, "attention to a selection failed");
}

fb_status fb_selection_attend(const fb_queries *queries, const fb_kv *kv,
                              const fb_selection *selection, float scale, const fb_part *result) {
    fb_view none = {kv, NULL, 0};
    size_t num_keys = 0;
    FB_TRY(fb_check_view(&none, &num_keys));
    FB_TRY(fb_check_queries(queries, &none));
    FB_TRY(fb_check_part(result, "result", queries->num_queries, queries->num_heads,
                         queries->head_dim));
    FB_TRY(check_lists(queries, kv, selection));
    if (queries->num_queries == 0)
        return FB_OK;
    if (lists_are_equal(selection))
        return attend_lists(queries, kv, selection, 0, selection->num_lists, scale, result);
    return attend_each_list(queries, kv, selection, scale, result);
}

/* --- a block ---------------------------------------------------------------------------------- */

/* One call. */
typedef struct selected_pass {
    const fb_block_call *call;
    fb_block_keys keys;
    fb_approximate_fn *approximate;
    void *user;
} selected_pass;

static fb_status merge(const fb_queries *queries, const fb_part *a, const fb_part *b,
                       const fb_part *result) {
    return fb_merge(a, b, queries->num_queries, queries->num_heads, queries->head_dim, result);
}

static fb_status attend_unselected(const selected_pass *pass, const fb_part *residual) {
    const fb_block_call *call = pass->call;
    fb_selection unselected = {0};
    fb_status status = fb_selection_complement(call->selection, &unselected);
    if (status == FB_OK)
        status =
            fb_selection_attend(call->queries, &pass->keys.kv, &unselected, call->scale, residual);
    fb_selection_release(&unselected);
    return status;
}

/* The cached residual: taken, or computed into its slot or into `scratch`. */
static fb_status cached_residual(const selected_pass *pass, const fb_part *scratch,
                                 fb_part *residual) {
    const fb_block_call *call = pass->call;
    const fb_part_origin origin = {.kind = FB_PART_RESIDUAL,
                                   .state = fb_kv_cache_epoch(call->kv),
                                   .selection = fb_selection_id(call->selection),
                                   .rows = call->queries->num_queries,
                                   .tokens = pass->keys.length};
    *residual =
        call->action == FB_REFRESH_ONLY ? *scratch : fb_part_cache_slot(call->parts, call->layer);
    if (call->action == FB_REUSE)
        return fb_part_cache_expect(call->parts, call->layer, NULL, &origin);
    if (call->action == FB_REFRESH_ONLY)
        return attend_unselected(pass, residual);
    fb_part_cache_note(call->parts, call->layer, NULL, &(fb_part_origin){0});
    FB_TRY(attend_unselected(pass, residual));
    fb_part_cache_note(call->parts, call->layer, NULL, &origin);
    return FB_OK;
}

/* selected := part(selected), merged with the residual if there is one. */
static fb_status selected_part(const selected_pass *pass, const fb_part *scratch,
                               const fb_part *selected) {
    const fb_block_call *call = pass->call;
    fb_part residual = *scratch;
    FB_TRY(
        fb_selection_attend(call->queries, &pass->keys.kv, call->selection, call->scale, selected));
    if (!call->parts && !pass->approximate)
        return FB_OK;
    if (call->parts)
        FB_TRY(cached_residual(pass, scratch, &residual));
    else
        FB_TRY(pass->approximate(pass->user, &residual));
    return merge(call->queries, selected, &residual, selected);
}

static fb_status check_pass(const selected_pass *pass, const fb_part *result) {
    const fb_block_call *call = pass->call;
    const fb_queries *queries = call->queries;
    fb_view none = {&pass->keys.kv, NULL, 0};
    FB_TRY(fb_check_queries(queries, &none));
    FB_TRY(fb_check_part(result, "result", queries->num_queries, queries->num_heads,
                         queries->head_dim));
    FB_TRY(check_lists(queries, &pass->keys.kv, call->selection));
    if (call->selection->num_keys != pass->keys.length)
        return fb_fail(FB_ERROR_ARGUMENT, "selection is of %zu keys, %zu tokens are committed",
                       call->selection->num_keys, pass->keys.length);
    return call->parts ? fb_part_cache_check(call->parts, call->layer, queries) : FB_OK;
}

fb_status fb_block_attend_selected(const fb_block_call *call, fb_approximate_fn *approximate,
                                   void *user, const fb_part *result) {
    const fb_queries *queries = call->queries;
    selected_pass pass = {.call = call, .approximate = approximate, .user = user};
    FB_TRY(fb_block_keys_of(call, &pass.keys));
    FB_TRY(check_pass(&pass, result));
    fb_part scratch[3]; /* selected, residual, internal */
    void *memory = NULL;
    FB_TRY(fb_block_scratch(queries, 3, scratch, &memory));
    fb_status status = selected_part(&pass, &scratch[1], &scratch[0]);
    if (status == FB_OK)
        status = fb_block_attend_range(queries, &pass.keys.kv, pass.keys.length,
                                       pass.keys.length + queries->num_queries, call->scale,
                                       &scratch[2]);
    if (status == FB_OK)
        status = merge(queries, &scratch[0], &scratch[2], result);
    fb_scratch_release(memory);
    return status;
}
