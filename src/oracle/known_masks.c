/* Masks, and the block's own keys and values. */
#include "base/error.h"
#include "base/memory.h"
#include "oracle/known.h"

#include <math.h>
#include <string.h>

/* A part becomes attention with another mask (or other keys: `problem` is the part's, changed). */
static fb_status attend_as(fb_wrong *w, size_t part, const fb_attention_problem *problem,
                           const fb_variant *variant) {
    double *out, *lse;
    FB_TRY(fb_wrong_part(w, part, &out, &lse));
    return fb_variant_attend(problem, variant, out, lse);
}

/* --- the block of a sequence ------------------------------------------------------------------ */

static fb_status mask_block(fb_wrong *w, fb_mask mask) {
    if (!w->trial->script)
        return FB_ERROR_UNSUPPORTED;
    for (size_t part = 0; part < w->trial->num_parts; part++) {
        if (!fb_trial_uses(w->trial, part, FB_INTERNAL))
            continue;
        fb_attention_problem p = w->trial->parts[part].read;
        p.mask = mask;
        FB_TRY(attend_as(w, part, &p, NULL));
    }
    fb_wrong_finish(w);
    return FB_OK;
}

static fb_status block_causal(fb_wrong *w, size_t n) {
    (void)n;
    return mask_block(w, (fb_mask){FB_MASK_BLOCK_CAUSAL, 1, 0, 0});
}

/* A causal mask that is off by n tokens, and smaller blocks in the block. */
static fb_status block_causal_off(fb_wrong *w, size_t n) {
    if (w->trial->script && w->trial->script->config.block_size <= n + 1)
        return FB_ERROR_UNSUPPORTED;
    return mask_block(w, (fb_mask){FB_MASK_BLOCK_CAUSAL, 1, n, 0});
}

static fb_status block_divided(fb_wrong *w, size_t n) {
    size_t block = w->trial->script ? w->trial->script->config.block_size : 0;
    if (block < 2 * n)
        return FB_ERROR_UNSUPPORTED;
    return mask_block(w, (fb_mask){FB_MASK_BLOCK_CAUSAL, (block + n - 1) / n, 0, 0});
}

static fb_status block_stale(fb_wrong *w, size_t n) {
    const fb_trial *trial = w->trial;
    bool any = false;
    for (size_t pass = 1; trial->script && pass < trial->script->num_passes; pass++) {
        size_t part = trial->internal_of[pass], before = trial->internal_of[n ? pass - 1 : 0];
        if (!fb_trial_uses(trial, part, FB_INTERNAL))
            continue;
        fb_attention_problem p = trial->parts[part].read;
        p.k = trial->parts[before].read.k;
        p.v = trial->parts[before].read.v;
        FB_TRY(attend_as(w, part, &p, NULL));
        any = true;
    }
    fb_wrong_finish(w);
    return any ? FB_OK : FB_ERROR_UNSUPPORTED;
}

/* --- one attention ---------------------------------------------------------------------------- */

static fb_status masked(fb_wrong *w, fb_mask mask) {
    fb_attention_problem p = w->trial->parts[0].read;
    if (w->trial->script)
        return FB_ERROR_UNSUPPORTED;
    p.mask = mask;
    FB_TRY(attend_as(w, 0, &p, NULL));
    fb_wrong_finish(w);
    return FB_OK;
}

static fb_status causal_top_left(fb_wrong *w, size_t n) {
    const fb_attention_problem *p = &w->trial->parts[0].read;
    (void)n;
    if (p->mask.kind != FB_MASK_NONE)
        return FB_ERROR_UNSUPPORTED;
    return masked(w, (fb_mask){FB_MASK_BLOCK_CAUSAL, 1, 0, 0});
}

static fb_status causal_bottom_right(fb_wrong *w, size_t n) {
    const fb_attention_problem *p = &w->trial->parts[0].read;
    (void)n;
    if (!fb_attention_problem_whole(p) || p->queries < 2 || p->queries > p->keys)
        return FB_ERROR_UNSUPPORTED;
    return masked(w, (fb_mask){FB_MASK_BLOCK_CAUSAL, 1, p->keys - p->queries, 0});
}

static fb_status not_masked(fb_wrong *w, size_t n) {
    (void)n;
    if (w->trial->parts[0].read.mask.kind == FB_MASK_NONE)
        return FB_ERROR_UNSUPPORTED;
    return masked(w, (fb_mask){0});
}

static fb_status causal_in_block(fb_wrong *w, size_t n) {
    fb_mask mask = w->trial->parts[0].read.mask;
    (void)n;
    if (mask.kind == FB_MASK_NONE || mask.block_size == 1)
        return FB_ERROR_UNSUPPORTED;
    mask.block_size = 1;
    return masked(w, mask);
}

/* Blocks of another size, or keys and queries that are counted from another number. */
static fb_status other_block(fb_wrong *w, size_t n) {
    fb_mask mask = w->trial->parts[0].read.mask;
    if (mask.kind == FB_MASK_NONE)
        return FB_ERROR_UNSUPPORTED;
    if (n == 0)
        mask.first_key += mask.block_size;
    if (n == 1)
        mask.first_query += mask.block_size;
    if (n == 2)
        mask.first_query += 1;
    if (n == 3)
        mask.first_key += 1;
    if (n == 4)
        mask.block_size *= 2;
    if (n == 5 && (mask.block_size /= 2) == 0)
        return FB_ERROR_UNSUPPORTED;
    return masked(w, mask);
}

/* Every row sees a key too many (n 0) or too few: the end of the mask is off by one. */
static fb_status end_off(fb_wrong *w, size_t n) {
    const fb_attention_problem *p = &w->trial->parts[0].read;
    double *out, *lse;
    if (w->trial->script || p->mask.kind == FB_MASK_NONE)
        return FB_ERROR_UNSUPPORTED;
    const fb_variant variant = {.more = n ? -1 : 1};
    FB_TRY(fb_wrong_part(w, 0, &out, &lse));
    FB_TRY(fb_variant_attend(p, &variant, out, lse));
    fb_wrong_finish(w);
    return FB_OK;
}

static fb_status own_keys_missing(fb_wrong *w, size_t n) {
    const fb_attention_problem *p = &w->trial->parts[0].read;
    (void)n;
    if (w->trial->script || !fb_attention_problem_whole(p) || p->keys <= p->queries)
        return FB_ERROR_UNSUPPORTED;
    const fb_variant variant = {.key_count = p->keys - p->queries};
    FB_TRY(attend_as(w, 0, p, &variant));
    fb_wrong_finish(w);
    return FB_OK;
}

static const fb_known list[] = {
    {"a causal mask is applied in the block, token by token: a block sees all of itself",
     block_causal, 0},
    {"a causal mask is applied in the block, and is off by one: a token sees one token after it, "
     "not the whole block",
     block_causal_off, 1},
    {"the block is masked as %zu blocks: a block sees all of itself", block_divided, 2},
    {"the block is masked as %zu blocks: a block sees all of itself", block_divided, 4},
    {"the block's keys and values are those of the step before", block_stale, 1},
    {"the block's keys and values are those of the first step", block_stale, 0},
    {"a causal mask is applied (aligned bottom right): a block sees all of itself",
     causal_bottom_right, 0},
    {"a causal mask is applied (aligned top left): a block sees all of itself", causal_top_left, 0},
    {"the block mask is not applied", not_masked, 0},
    {"the mask is causal, token by token, not block by block", causal_in_block, 0},
    {"a block does not see itself, only the ones before", other_block, 0},
    {"a block sees the next one, too", other_block, 1},
    {"the mask counts queries from one too many", other_block, 2},
    {"the mask counts keys from one too many", other_block, 3},
    {"the mask's blocks are twice as large as they should be", other_block, 4},
    {"the mask's blocks are half as large as they should be", other_block, 5},
    {"every query sees one key too many: the end of the mask is off by one", end_off, 0},
    {"every query sees one key too few: the end of the mask is off by one", end_off, 1},
    {"the block's own keys are left out", own_keys_missing, 0},
};

/* All entries of the batch read the keys and values of entry 0 (n 0), of the one before (1), of the
 * next (2). */
static fb_status other_batch(fb_wrong *w, size_t n) {
    const fb_trial *trial = w->trial;
    double *out, *lse;
    size_t *batches = NULL;
    if (trial->script || trial->batch < 2)
        return FB_ERROR_UNSUPPORTED;
    FB_TRY(fb_wrong_part(w, 0, &out, &lse));
    FB_TRY(fb_alloc(trial->batch, sizeof *batches, "batch", &batches));
    for (size_t b = 0; b < trial->batch; b++)
        batches[b] = n == 0   ? 0
                     : n == 1 ? (b + trial->batch - 1) % trial->batch
                              : (b + 1) % trial->batch;
    const fb_variant variant = {.batches = batches};
    fb_status status = fb_variant_attend(&trial->parts[0].read, &variant, out, lse);
    fb_free(batches);
    fb_wrong_finish(w);
    return status;
}

static const fb_known batch_list[] = {
    {"all sequences of the batch read the keys and values of batch entry 0", other_batch, 0},
    {"a sequence of the batch reads the keys and values of the batch entry before it", other_batch,
     1},
    {"a sequence of the batch reads the keys and values of the next batch entry", other_batch, 2},
};

/* What entry b of n takes for its number of keys. */
static size_t other_length(const fb_attention_problem *p, size_t b, size_t n) {
    const size_t *lengths = p->key_lengths;
    switch (n) {
    case 0:
        return p->keys;
    case 1:
        return lengths[b] < p->keys ? lengths[b] + 1 : p->keys;
    case 2:
        return lengths[b] > 0 ? lengths[b] - 1 : 0;
    case 3:
        return lengths[0];
    case 4:
        return lengths[(b + p->batch - 1) % p->batch];
    default:
        return lengths[(b + 1) % p->batch];
    }
}

static fb_status other_lengths(fb_wrong *w, size_t n) {
    fb_attention_problem p = w->trial->parts[0].read;
    size_t *lengths = NULL;
    if (w->trial->script || !p.key_lengths || (n >= 3 && p.batch < 2))
        return FB_ERROR_UNSUPPORTED;
    FB_TRY(fb_alloc(p.batch, sizeof *lengths, "batch", &lengths));
    for (size_t b = 0; b < p.batch; b++)
        lengths[b] = other_length(&p, b, n);
    p.key_lengths = lengths;
    fb_status status = attend_as(w, 0, &p, NULL);
    fb_free(lengths);
    fb_wrong_finish(w);
    return status;
}

static const fb_known length_list[] = {
    {"the keys after the end of a sequence are read: its number of keys is ignored", other_lengths,
     0},
    {"every sequence of the batch reads one key too many: its number of keys is off by one",
     other_lengths, 1},
    {"every sequence of the batch reads one key too few: its number of keys is off by one",
     other_lengths, 2},
    {"all sequences of the batch have the number of keys of batch entry 0", other_lengths, 3},
    {"a sequence of the batch has the number of keys of the batch entry before it", other_lengths,
     4},
    {"a sequence of the batch has the number of keys of the next batch entry", other_lengths, 5},
};

/* The internal part when a token sees only the tokens before it. */
static fb_status strictly_causal(fb_wrong *w, size_t n) {
    const fb_trial *trial = w->trial;
    (void)n;
    if (!trial->script)
        return FB_ERROR_UNSUPPORTED;
    for (size_t part = 0; part < trial->num_parts; part++) {
        double *out, *lse;
        if (!fb_trial_uses(trial, part, FB_INTERNAL))
            continue;
        fb_attention_problem p = trial->parts[part].read;
        FB_TRY(fb_wrong_part(w, part, &out, &lse));
        p.mask = (fb_mask){FB_MASK_BLOCK_CAUSAL, 1, 0, 0};
        const fb_variant variant = {.strict = true};
        FB_TRY(fb_variant_attend(&p, &variant, out, lse));
    }
    fb_wrong_finish(w);
    return FB_OK;
}

fb_status fb_try_block(fb_filter *f, fb_wrong *w) {
    static const fb_known strict = {
        "a strictly causal mask is applied in the block: a token does not see itself",
        strictly_causal, 0};
    FB_TRY(fb_try_list(f, w, list, sizeof list / sizeof list[0]));
    FB_TRY(fb_try_list(f, w, batch_list, sizeof batch_list / sizeof batch_list[0]));
    FB_TRY(fb_try_list(f, w, length_list, sizeof length_list / sizeof length_list[0]));
    return fb_try_list(f, w, &strict, 1);
}
