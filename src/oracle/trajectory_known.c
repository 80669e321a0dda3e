/* Mistakes in what the model computes: the passes up to the first one that is wrong are replayed,
 * and that pass is repeated with each mistake made on purpose. The one whose results are the
 * record's is named. */
#include "base/error.h"
#include "oracle/trajectory_alter.h"
#include "oracle/trajectory_names.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef enum known {
    STALE = 0,
    STALE_SINCE_COMMIT,
    FRESH,
    NOT_COMMITTED,
    COMMIT_REUSED,
    BLOCK_MISSING,
    BLOCK_MISSING_NEARER,
    BLOCK_OF_ZEROS,
    ALL_ZEROS,
    ONE_FURTHER,
    ONE_NEARER,
    BLOCK_FURTHER,
    BLOCK_NEARER,
    FROM_ZERO,
    CAUSAL,
    NO_CONTEXT,
    PREFILL_CAUSAL,
    PREFILL_FULL,
    PREFILL_SHIFTED,
    NUM_KNOWN
} known;

static const char *const words[NUM_KNOWN] = {
    [STALE] = "the external part is stale: the record says refresh, but it is the part of an "
              "earlier step",
    [STALE_SINCE_COMMIT] = "the external part is stale: it is an earlier block's, kept over the "
                           "commit of block %zu",
    [FRESH] = "the record says reuse, but the external part is computed anew",
    [NOT_COMMITTED] = "the cache is stale after the commit: keys and values of block %zu are those "
                      "of its last denoising step",
    [COMMIT_REUSED] = "keys and values of block %zu are those of a commit that reused the external "
                      "part",
    [BLOCK_MISSING] = "block %zu is missing in the cache of keys and values: it was not committed",
    [BLOCK_MISSING_NEARER] = "block %zu is missing in the cache of keys and values, and positions "
                             "count on from the cache: it was not committed",
    [BLOCK_OF_ZEROS] = "keys and values of block %zu are zeros: its place in the cache was not "
                       "written",
    [ALL_ZEROS] = "keys and values of the context are zeros: the cache was not written",
    [ONE_FURTHER] = "rotary positions of the block are one too high",
    [ONE_NEARER] = "rotary positions of the block are one too low",
    [BLOCK_FURTHER] = "rotary positions of the block are a block too high",
    [BLOCK_NEARER] = "rotary positions of the block are a block too low",
    [FROM_ZERO] = "rotary positions of the block begin at 0 again",
    [CAUSAL] = "a causal mask within the block",
    [NO_CONTEXT] = "the context is not attended: the external part is missing",
    [PREFILL_CAUSAL] =
        "the prompt is prefilled under a causal mask, not a block-causal one: tokens "
        "of a block see each other",
    [PREFILL_FULL] = "the prompt is prefilled without a mask: a token must not see later blocks",
    [PREFILL_SHIFTED] = "the prompt's blocks are counted from its end: they begin at position 0",
};

static const char *const alteration_words[FB_TRAJECTORY_NUM_ALTERATIONS] = {
    [FB_ALTER_TAIL] =
        "a tail of zeros behind the context is not masked: %zu keys are attended that do not exist",
    [FB_ALTER_INNER_TAIL] = "a tail of zeros behind the block's own keys is not masked: %zu keys "
                            "are attended that do not "
                            "exist",
    [FB_ALTER_OWN_TWICE] =
        "the block's own keys are attended twice: they are in the external part, "
        "too",
    [FB_ALTER_LAST_KEYS] = "keys at the end of the context are not attended: %zu of them",
    [FB_ALTER_FIRST_KEYS] = "keys at the beginning of the context are not attended: %zu of them",
    [FB_ALTER_STALE_LSE] = "the external part's LSE is stale: it is that of an earlier refresh",
    [FB_ALTER_STALE_OUT] =
        "the external part's output is stale, and its LSE is not: it is that of an earlier refresh",
    [FB_ALTER_COMMIT_LSE] = "the external part's LSE is stale: it is that of the commit before",
    [FB_ALTER_COMMIT_OUT] =
        "the external part's output is stale, and its LSE is not: it is that of "
        "the commit before",
    [FB_ALTER_SWAPPED] = "the merge gives each part the other's weight",
    [FB_ALTER_MEAN] = "the merge gives both parts the same weight",
    [FB_ALTER_SUM] = "the parts are added without weights",
    [FB_ALTER_BASE_2] = "the merge takes natural logarithms for those of base 2: its weights are "
                        "2^LSE",
    [FB_ALTER_INNER_ALONE] = "the external part is not merged",
};

/* --- the mistakes ----------------------------------------------------------------------------- */

/* The part that a pass takes: kept where it should be computed, or computed. */
static bool take_part(fb_trajectory_trial *t, known mistake, fb_forward *forward) {
    bool reuses = t->replay.action == FB_REUSE || t->replay.action == FB_REFRESH_ROWS;
    bool later = t->wrong->pass->block > 0 || t->wrong->pass->step > 0;
    bool possible = forward->parts && later && reuses == (mistake == FRESH);
    if (mistake == STALE_SINCE_COMMIT) {
        possible = possible && t->has_part && t->wrong->pass->step == 0;
        forward->parts = t->of_commit;
    }
    forward->action = mistake == FRESH ? FB_REFRESH_ONLY : FB_REUSE;
    forward->compat = FB_COMPAT_RELEASED;
    forward->refresh_rows = NULL;
    return possible;
}

/* A cache with the mistake in it. */
static fb_status make_cache(fb_trajectory_trial *t, known mistake, bool *possible) {
    size_t length = fb_kv_cache_length(t->replay.lanes[0].kv);
    size_t block = t->replay.record->options.block_size;
    size_t prompt = t->replay.sequence->num_prompt_tokens;
    bool prefilled = prompt >= block, committed = t->has_block && length >= block;
    long step = (long)block;
    *possible = length > 0;
    switch (mistake) {
    case NOT_COMMITTED:
        *possible = committed;
        return committed ? fb_trajectory_trial_copy(t, length, 0, FB_COPY_OF_LAST_STEP) : FB_OK;
    case COMMIT_REUSED:
        *possible = committed && t->has_reused;
        return *possible ? fb_trajectory_trial_copy(t, length, 0, FB_COPY_OF_REUSE) : FB_OK;
    case ALL_ZEROS:
        return *possible ? fb_trajectory_trial_copy(t, length, 0, FB_COPY_ALL_ZEROS) : FB_OK;
    case BLOCK_OF_ZEROS:
        *possible = committed;
        return committed ? fb_trajectory_trial_copy(t, length, 0, FB_COPY_ZEROS) : FB_OK;
    case BLOCK_MISSING:
    case BLOCK_MISSING_NEARER:
        *possible = committed;
        return committed
                   ? fb_trajectory_trial_copy(t, length - block,
                                              mistake == BLOCK_MISSING ? step : 0, FB_COPY_AS_IT_IS)
                   : FB_OK;
    case PREFILL_CAUSAL:
        *possible = prefilled;
        return prefilled ? fb_trajectory_trial_prefill(t, FB_PREFILL_CAUSAL) : FB_OK;
    case PREFILL_FULL:
        *possible = prompt >= 2 * block;
        return *possible ? fb_trajectory_trial_prefill(t, FB_PREFILL_FULL) : FB_OK;
    case PREFILL_SHIFTED:
        *possible = prefilled && prompt % block != 0;
        return *possible ? fb_trajectory_trial_prefill(t, FB_PREFILL_FROM_THE_END) : FB_OK;
    case CAUSAL:
        *possible = true;
        return fb_trajectory_trial_copy(t, length, 0, FB_COPY_AS_IT_IS);
    case NO_CONTEXT:
        return *possible ? fb_trajectory_trial_copy(t, 0, 0, FB_COPY_AS_IT_IS) : FB_OK;
    default: {
        long turns = mistake == ONE_FURTHER     ? 1
                     : mistake == ONE_NEARER    ? -1
                     : mistake == BLOCK_FURTHER ? step
                     : mistake == BLOCK_NEARER  ? -step
                                                : -(long)length;
        return *possible ? fb_trajectory_trial_copy(t, length, turns, FB_COPY_AS_IT_IS) : FB_OK;
    }
    }
}

static fb_status try_known(fb_trajectory_trial *t, known mistake, double *result) {
    fb_forward forward = fb_trajectory_replay_forward(&t->replay, 0);
    bool reuses = t->replay.action == FB_REUSE || t->replay.action == FB_REFRESH_ROWS;
    bool possible = false;
    *result = INFINITY;
    if (mistake == STALE || mistake == STALE_SINCE_COMMIT || mistake == FRESH) {
        possible = take_part(t, mistake, &forward);
    } else if (!reuses) {
        FB_TRY(make_cache(t, mistake, &possible));
        forward.action = FB_REFRESH_ONLY;
        forward.kv = t->other;
        forward.prefill_block = mistake == CAUSAL ? 1 : 0;
    }
    return possible ? fb_trajectory_trial_run(t, &forward, result) : FB_OK;
}

static fb_status try_alteration(fb_trajectory_alter_call *call, double *result) {
    fb_forward forward = fb_trajectory_replay_forward(&call->trial->replay, 0);
    *result = INFINITY;
    if (!fb_trajectory_can_alter(call))
        return FB_OK;
    if (forward.action == FB_REUSE)
        forward.compat = FB_COMPAT_RELEASED;
    else
        forward.action = FB_REFRESH_ONLY;
    forward.on_attention = fb_trajectory_alter;
    forward.user = call;
    return fb_trajectory_trial_run(call->trial, &forward, result);
}

/* --- which is it? ----------------------------------------------------------------------------- */

/* Tiles that kernels and caches are padded to. */
static const size_t tiles[] = {8, 16, 32, 64, 128, 256};

enum { NUM_TILES = sizeof tiles / sizeof *tiles, MAX_AMOUNTS = NUM_TILES + 2, MAX_HEADS = 64 };

/* The best so far. */
typedef struct best {
    double least;
    size_t tried;
    char *name;
    size_t size;
} best;

/* Two mistakes that are the same here differ by rounding: the first one stays. */
static bool is_better(double misfit, const best *b) {
    return misfit < 0.9 * b->least;
}

static void say_number(char *text, size_t size, const char *format, size_t number) {
#if defined(__GNUC__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
#endif
    snprintf(text, size, format, number);
#if defined(__GNUC__)
#pragma GCC diagnostic pop
#endif
}

static fb_status try_all_known(fb_trajectory_trial *t, best *b) {
    size_t block = t->wrong->pass->block;
    for (int mistake = 0; mistake < NUM_KNOWN; mistake++) {
        double result = INFINITY;
        if (mistake >= PREFILL_CAUSAL && block > 1)
            continue;
        FB_TRY(try_known(t, (known)mistake, &result));
        b->tried += isfinite(result) ? 1 : 0;
        if (!is_better(result, b))
            continue;
        bool of_earlier = mistake == STALE && t->wrong->pass->step == 0;
        b->least = result;
        say_number(b->name, b->size, words[of_earlier ? STALE_SINCE_COMMIT : mistake],
                   block > 0 ? block - 1 : 0);
    }
    return FB_OK;
}

/* How many keys it may be. */
static size_t amounts_of(const fb_trajectory_trial *t, fb_trajectory_alteration alteration,
                         size_t *amounts) {
    size_t count = 0, block = t->replay.record->options.block_size;
    size_t keys =
        alteration == FB_ALTER_INNER_TAIL ? block : fb_kv_cache_length(t->replay.lanes[0].kv);
    bool padded = alteration == FB_ALTER_TAIL || alteration == FB_ALTER_INNER_TAIL;
    if (alteration == FB_ALTER_FIRST_KEYS)
        amounts[count++] = block;
    amounts[count++] = 1;
    for (size_t i = 0; i < NUM_TILES && (padded || alteration == FB_ALTER_LAST_KEYS); i++) {
        size_t over = keys % tiles[i], amount = padded && over ? tiles[i] - over : over;
        bool known_already = amount == 0;
        for (size_t k = 0; k < count; k++)
            known_already = known_already || amounts[k] == amount;
        if (!known_already)
            amounts[count++] = amount;
    }
    return count;
}

static fb_status try_amounts(fb_trajectory_trial *t, fb_trajectory_alteration alteration,
                             size_t head, best *b) {
    size_t amounts[MAX_AMOUNTS], count = amounts_of(t, alteration, amounts);
    for (size_t i = 0; i < count; i++) {
        double result = INFINITY;
        fb_trajectory_alter_call call = {t, alteration, amounts[i], head};
        char where[40] = "";
        FB_TRY(try_alteration(&call, &result));
        b->tried += isfinite(result) ? 1 : 0;
        if (!is_better(result, b))
            continue;
        b->least = result;
        if (head != SIZE_MAX)
            snprintf(where, sizeof where, ", in head %zu alone", head);
        say_number(b->name, b->size, alteration_words[alteration], amounts[i]);
        size_t used = strlen(b->name);
        snprintf(b->name + used, b->size - used, "%s", where);
    }
    return FB_OK;
}

static fb_status try_all_alterations(fb_trajectory_trial *t, best *b) {
    for (int a = 0; a < FB_TRAJECTORY_NUM_ALTERATIONS; a++)
        FB_TRY(try_amounts(t, (fb_trajectory_alteration)a, SIZE_MAX, b));
    return FB_OK;
}

/* In one head alone: the only mistakes of which each head is tried. */
static fb_status try_heads(fb_trajectory_trial *t, best *b) {
    size_t heads = t->replay.config->num_attention_heads;
    for (size_t head = 0; head < heads && heads <= MAX_HEADS; head++)
        FB_TRY(try_amounts(t, FB_ALTER_TAIL, head, b));
    return FB_OK;
}

/* The number of mistakes that come as near to the record as the best one by chance: from one or two
 * confidences alone, some of many do. */
static double expected_by_chance(const fb_trajectory_trial *t, const best *b, double right) {
    size_t evidence = fb_trajectory_trial_evidence(t);
    double share = b->least / right, noise = 0.1 * t->j->allowed / right;
    return (double)b->tried * pow(fmax(share, noise), (double)(evidence < 8 ? evidence : 8));
}

/* What is left is noise. */
static bool is_noise(const fb_trajectory_trial *t, const best *b, double right) {
    return b->least <= 0.4 * t->j->allowed && b->least < 0.4 * right;
}

static fb_status find(fb_trajectory_trial *t, char *name, size_t size) {
    fb_forward forward = fb_trajectory_replay_forward(&t->replay, 0);
    char text[300] = "";
    best b = {INFINITY, 0, text, sizeof text};
    double right = INFINITY;
    if (forward.action == FB_REUSE)
        forward.compat = FB_COMPAT_RELEASED;
    if (forward.action == FB_REFRESH_AND_STORE)
        forward.action = FB_REFRESH_ONLY;
    FB_TRY(fb_trajectory_trial_run(t, &forward, &right));
    FB_TRY(try_all_known(t, &b));
    FB_TRY(try_all_alterations(t, &b));
    if (!is_noise(t, &b, right) && fb_trajectory_trial_evidence(t) > 1)
        FB_TRY(try_heads(t, &b));
    double chance = expected_by_chance(t, &b, right);
    if (is_noise(t, &b, right) && chance < 1.0)
        snprintf(name, size, "%s%s", chance < 0.02 ? "" : "perhaps ", text);
    return FB_OK;
}

fb_status fb_trajectory_name_model(const fb_trajectory_judgement *j, fb_model *model, char *name,
                                   size_t size) {
    fb_trajectory_trial t = {.j = j, .model = model};
    fb_status status = fb_trajectory_trial_begin(&t, j->mistake.step);
    if (status == FB_OK)
        status = find(&t, name, size);
    fb_trajectory_trial_end(&t);
    return status;
}
