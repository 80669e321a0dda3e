/* Planted mistakes of what is refreshed and reused, and of what is given out. */
#include "tests/planted.h"

#include <stdlib.h>
#include <string.h>

/* --- passes ----------------------------------------------------------------------------------- */

#define PICK(name, condition, from)                                                                \
    static source name(const scene *s, size_t row) {                                               \
        (void)s;                                                                                   \
        (void)row;                                                                                 \
        return (condition) ? (from) : KEPT;                                                        \
    }
static bool reuses(const scene *s) {
    return fb_scripted_action(s->sequence, s->pass) == FB_REUSE;
}
/* Whether a row's token was accepted between the last two refreshes. */
static bool is_dirty(const scene *s, size_t row) {
    for (size_t pass = s->stored_before; pass < s->stored; pass++)
        if (fb_scripted_accepts(s->sequence, pass, row / s->heads))
            return true;
    return false;
}
PICK(stale, true, OF_BEFORE)
PICK(stale_head, row % s->heads == 3, OF_BEFORE)
PICK(stale_row, row / s->heads == 1, OF_BEFORE)
PICK(stale_row_of_head, row / s->heads == 1 && row % s->heads == 2, OF_BEFORE)
PICK(stale_clean, s->stored > 0 && !is_dirty(s, row), OF_BEFORE)
PICK(stale_dirty, is_dirty(s, row), OF_BEFORE)
PICK(never_refreshed, true, OF_FIRST)
PICK(recomputed, reuses(s), OF_OWN_QUERIES)
PICK(reused_at_commit, s->pass + 1 == fb_scripted_num_passes(s->sequence), OF_BEFORE)

/* --- what is given out ------------------------------------------------------------------------ */

PART(lse_base2, true, p->lse[row] *= 1.442695041f;)
PART(lse_off, true, p->lse[row] += 0.01f;)
PART(lse_off_tiny, true, p->lse[row] += 1e-5f;)
PART(row_zero, row / s->heads == 1 && row % s->heads == 2, EACH_LANE(0, s->dim, 0.0f);)
PART(head_zero, row % s->heads == 3, EACH_LANE(0, s->dim, 0.0f);)
PART(head_zero_but_one, row % s->heads == 3, EACH_LANE(0, s->dim, d == 7 ? *x : 0.0f);)
PART(token_zero, row / s->heads == 2, EACH_LANE(0, s->dim, 0.0f);)
PART(lane_range_zero, row % s->heads == 1, EACH_LANE(s->dim - 8, s->dim, 0.0f);)
PART(lanes_zero, row % s->heads == 1, EACH_LANE(s->dim - 8, s->dim, 0.0f);)
PART(head_halved, row % s->heads == 3, EACH_LANE(0, s->dim, 0.5f * *x);)
PART(lanes_swapped, true, float *o = p->out + row * s->dim; float x = o[20]; o[20] = o[21];
     o[21] = x;)
PART(out_larger, true, EACH_LANE(0, s->dim, 1.001f * *x);)
PART(out_larger_1, true, EACH_LANE(0, s->dim, 1.1f * *x);)
PART(out_off, true, EACH_LANE(0, s->dim, 0.01f + *x);)
PART(out_bf16, true, EACH_LANE(0, s->dim, fb_rounded(FB_ROUND_BF16, *x));)
PART(out_f16, true, EACH_LANE(0, s->dim, fb_rounded(FB_ROUND_F16, *x));)
PART(out_fp8, true, EACH_LANE(0, s->dim, fb_rounded(FB_ROUND_FP8, *x));)
PART(lse_zero_given, true, p->lse[row] = 0.0f;)
PART(tail_of_lse_lost, row / s->heads == s->tokens - 1, p->lse[row] = 0.0f;)

static void permute(const scene *s, part *p, bool lse, bool turned) {
    part old = make_part(s);
    memcpy(old.out, p->out, rows_of(s) * s->dim * sizeof(float));
    memcpy(old.lse, p->lse, rows_of(s) * sizeof(float));
    for (size_t row = 0; row < rows_of(s); row++) {
        size_t entry = s->tokens * s->heads, b = row / entry, in = row % entry;
        size_t from = turned ? b * entry + in % s->tokens * s->heads + in / s->tokens
                             : row / s->heads * s->heads + (row % s->heads ^ 1);
        if (lse)
            p->lse[row] = old.lse[from];
        else
            memcpy(p->out + row * s->dim, old.out + from * s->dim, s->dim * sizeof(float));
    }
    release_part(&old);
}
static void lse_given_turned(const scene *s, bool external, part *p) {
    (void)external;
    permute(s, p, true, true);
}
static void lse_given_permuted(const scene *s, bool external, part *p) {
    (void)external;
    permute(s, p, true, false);
}
static void out_given_permuted(const scene *s, bool external, part *p) {
    (void)external;
    permute(s, p, false, false);
}
static void move_tokens(const scene *s, part *p, bool reversed) {
    part old = make_part(s);
    size_t entry = s->heads * s->dim;
    memcpy(old.out, p->out, rows_of(s) * s->dim * sizeof(float));
    for (size_t at = 0; at < rows_of(s) / s->heads; at++) {
        size_t token = at % s->tokens, first = at - token;
        size_t from = reversed ? s->tokens - 1 - token : (token + 1) % s->tokens;
        memcpy(p->out + at * entry, old.out + (first + from) * entry, entry * sizeof(float));
    }
    release_part(&old);
}
static void tokens_reversed(const scene *s, bool external, part *p) {
    (void)external;
    move_tokens(s, p, true);
}
static void tokens_shifted(const scene *s, bool external, part *p) {
    (void)external;
    move_tokens(s, p, false);
}
static void lse_padded(const scene *s, bool external, part *p) {
    float *old = malloc(rows_of(s) * sizeof *old);
    size_t wide = 16;
    (void)external;
    memcpy(old, p->lse, rows_of(s) * sizeof *old);
    /* [tokens, heads] of rows that are padded to 16 heads */
    for (size_t row = 0; row < rows_of(s); row++)
        p->lse[row] = row % wide < s->heads ? old[row / wide * s->heads + row % wide] : 0.0f;
    free(old);
}
static const planted list[] = {
    /* LSEs */
    {.name = "LSE in base 2", .word = "the LSE is in base 2", .where = BOTH, .give = lse_base2},
    {.name = "LSE off by 0.01",
     .word = "every LSE is off by +0.01",
     .where = BOTH,
     .give = lse_off},
    {.name = "LSE off by 1e-5",
     .word = "every LSE is off by",
     .where = BOTH | COARSE,
     .give = lse_off_tiny},
    {.name = "LSE transposed",
     .word = "the LSE is transposed",
     .where = BOTH,
     .give = lse_given_turned},
    {.name = "LSE padded, read as packed",
     .word = "padded LSE",
     .where = SEQUENCE,
     .give = lse_padded},
    {.name = "LSE given as 0",
     .word = "the LSE is given out as 0",
     .where = BOTH,
     .give = lse_zero_given},
    {.name = "LSE of the last token 0",
     .word = "the LSE is given out as 0",
     .place = "token",
     .where = BOTH,
     .give = tail_of_lse_lost},
    {.name = "heads permuted in the LSE",
     .word = "heads are permuted in the LSE",
     .where = BOTH,
     .give = lse_given_permuted},
    {.name = "heads permuted in the output",
     .word = "heads are permuted in the output",
     .where = BOTH,
     .give = out_given_permuted},
    /* passes */
    {.name = "stale external part",
     .word = "the external part is not refreshed",
     .where = SEQUENCE,
     .pick = stale},
    {.name = "stale head",
     .word = "the external part is not refreshed",
     .place = "in head 3",
     .where = SEQUENCE,
     .pick = stale_head},
    {.name = "stale row",
     .word = "the external part is not refreshed",
     .place = "in token 1",
     .where = SEQUENCE,
     .pick = stale_row},
    {.name = "stale row of a head",
     .word = "the external part is not refreshed",
     .place = "in token 1 of head 2",
     .where = SEQUENCE,
     .pick = stale_row_of_head},
    {.name = "dirty rows kept",
     .word = "dirty rows are kept",
     .where = SEQUENCE,
     .pick = stale_dirty},
    {.name = "clean rows kept",
     .word = "rows that are not dirty are kept",
     .where = SEQUENCE,
     .pick = stale_clean},
    {.name = "never refreshed",
     .word = "the external part is not refreshed",
     .where = SEQUENCE,
     .pick = never_refreshed},
    {.name = "recomputed when reused",
     .word = "recomputed although the step reuses",
     .where = SEQUENCE,
     .pick = recomputed},
    {.name = "reused at the commit",
     .word = "the external part is not refreshed",
     .place = "step",
     .where = SEQUENCE,
     .pick = reused_at_commit},
    {.name = "queries of the step before", .word = "queries", .where = SEQUENCE, .q_lag = 1},
    {.name = "block's keys of the step before",
     .word = "those of the step before",
     .where = SEQUENCE,
     .kv_lag = 1},
    {.name = "stale output, LSE refreshed",
     .word = "output is not refreshed, its LSE is",
     .where = SEQUENCE,
     .pick = stale,
     .pick_only = PICK_OUT},
    {.name = "stale LSE, output refreshed",
     .word = "LSE is not refreshed, its output is",
     .where = SEQUENCE,
     .pick = stale,
     .pick_only = PICK_LSE},
    {.name = "LSE recomputed when reused",
     .word = "LSE is recomputed although the step reuses",
     .where = SEQUENCE,
     .pick = recomputed,
     .pick_only = PICK_LSE},
    {.name = "output recomputed when reused",
     .word = "output is recomputed although the step reuses",
     .where = SEQUENCE,
     .pick = recomputed,
     .pick_only = PICK_OUT},
    {.name = "merged in the stored part",
     .word = "the merged result replaces the stored external part",
     .where = SEQUENCE,
     .results = RESULT_OVERWRITES_OUT | RESULT_OVERWRITES_LSE},
    {.name = "merged in the stored output",
     .word = "the merged output replaces the stored one",
     .where = SEQUENCE,
     .results = RESULT_OVERWRITES_OUT},
    {.name = "merged in the stored LSE",
     .word = "the merged LSE replaces the stored one",
     .where = SEQUENCE,
     .results = RESULT_OVERWRITES_LSE},
    {.name = "result of the step before",
     .word = "the result is that of the step before",
     .where = SEQUENCE,
     .results = RESULT_OF_BEFORE},
    {.name = "result added to the one before",
     .word = "added to that of the step before",
     .where = SEQUENCE,
     .results = RESULT_ADDED},
    /* stores */
    {.name = "one row not written",
     .word = "not written",
     .place = "token 1 of head 2",
     .where = BOTH,
     .give = row_zero},
    {.name = "one head not written",
     .word = "not written",
     .place = "head 3",
     .where = BOTH,
     .give = head_zero},
    {.name = "one head not written but a lane",
     .word = "not written",
     .place = "head 3",
     .where = BOTH,
     .give = head_zero_but_one},
    {.name = "one token not written",
     .word = "not written",
     .place = "token 2",
     .where = BOTH,
     .give = token_zero},
    {.name = "8 lanes not written",
     .word = "not written",
     .place = "head 1",
     .where = BOTH,
     .give = lanes_zero},
    {.name = "8 lanes of the parts not written",
     .word = "not written",
     .place = "head 1",
     .where = BOTH,
     .part = lane_range_zero},
    {.name = "one head halved",
     .word = "half of what it should be",
     .place = "head 3",
     .where = BOTH,
     .give = head_halved},
    {.name = "output times 1.001",
     .word = "the output is 1.001 times",
     .where = BOTH | F32_ONLY,
     .give = out_larger},
    {.name = "output times 1.1", .word = "the output is 1.", .where = BOTH, .give = out_larger_1},
    {.name = "output off by 0.01",
     .word = "every output is off by +0.0",
     .where = BOTH,
     .give = out_off},
    {.name = "outputs rounded to bf16",
     .word = "the output is rounded to bf16",
     .where = BOTH | F32_ONLY,
     .give = out_bf16},
    {.name = "outputs rounded to f16",
     .word = "the output is rounded to f16",
     .where = BOTH | F32_ONLY,
     .give = out_f16},
    {.name = "outputs rounded to fp8",
     .word = "the output is rounded to fp8",
     .where = BOTH,
     .give = out_fp8},
    {.name = "tokens in reverse order",
     .word = "tokens are permuted in the output",
     .where = BOTH,
     .give = tokens_reversed},
    {.name = "tokens shifted by one",
     .word = "tokens are permuted in the output",
     .where = BOTH,
     .give = tokens_shifted},
    {.name = "lanes 20 and 21 swapped", .word = "lanes", .where = BOTH, .give = lanes_swapped},
};

const planted_list planted_passes = {list, sizeof list / sizeof list[0]};
