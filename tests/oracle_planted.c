/* Planted mistakes: emulated kernels, each with one mistake of a port, are judged. The verdict has
 * to be that they are wrong, the mistake's name first, and its place. docs/results/oracle.md has
 * the table that it prints.
 *
 *     oracle_planted [all | fast] [NAME]
 *
 * `fast`: the small shapes in float32 and bf16 only. NAME: mistakes whose name has it; their
 * verdicts are shown. The exit status is 1 if a verdict is not as it should be. */
#include "base/rng.h"
#include "oracle/inputs.h"
#include "tests/planted_kernel.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- keys ------------------------------------------------------------------------------------- */

static void remove_keys(row_plan *p, size_t first, size_t count) {
    for (size_t j = first; j + count < p->count; j++) {
        p->key[j] = p->key[j + count];
        p->value[j] = p->value[j + count];
    }
    p->count -= count;
}

static void append(row_plan *p, ptrdiff_t token) {
    p->key[p->count] = token;
    p->value[p->count++] = token;
}

#define PLAN(name, condition, body)                                                                \
    static void name(row_plan *p) {                                                                \
        if (condition) {                                                                           \
            body                                                                                   \
        }                                                                                          \
    }
#define KEYS(name, body) PLAN(name, p->external, body)

KEYS(drop_last, p->count--;)
KEYS(drop_first, remove_keys(p, 0, 1);)
KEYS(drop_last_4, p->count -= 4;)
KEYS(drop_last_19, p->count -= 19;)
KEYS(drop_last_64, p->count -= 64;)
KEYS(drop_first_16, remove_keys(p, 0, 16);)
KEYS(drop_middle_64, remove_keys(p, 128, 64);)
KEYS(drop_page, remove_keys(p, 48, 16);)
KEYS(drop_some_key, remove_keys(p, 77, 1);)
KEYS(key_twice, append(p, 128);)
KEYS(tile_twice, for (ptrdiff_t j = 64; j < 128; j++) append(p, j);)
KEYS(first_twice, append(p, 0);)
KEYS(page_repeated, for (size_t j = 80; j < 96; j++) p->key[j] = p->value[j] -= 16;)
KEYS(page_of_other, for (size_t j = 192; j < 256; j++) p->key[j] = p->value[j] -= 128;)
KEYS(pages_before, for (size_t j = 16; j < p->count; j++) p->key[j] = p->value[j] -= 16;)
KEYS(pages_after, for (size_t j = 0; j < p->count; j++)
                      p->key[j] = p->value[j] = p->value[j] + 16 < (ptrdiff_t)p->keys
                                                    ? p->value[j] + 16
                                                    : ZERO_TOKEN;)
KEYS(
    v_pages_swapped, for (size_t j = 32; j < 48; j++) {
        p->value[j] += 64;
        p->value[j + 64] -= 64;
    })
KEYS(
    k_pages_swapped, for (size_t j = 64; j < 128; j++) {
        p->key[j] += 64;
        p->key[j + 64] -= 64;
    })
KEYS(v_next,
     for (size_t j = 0; j < p->count; j++) p->value[j] = (p->value[j] + 1) % (ptrdiff_t)p->keys;)
KEYS(v_page_shift,
     for (size_t j = 0; j < p->count; j++) p->value[j] = (p->value[j] + 16) % (ptrdiff_t)p->keys;)
KEYS(zeros_6, for (size_t j = 0; j < 6; j++) append(p, ZERO_TOKEN);)
KEYS(zeros_16, for (size_t j = 0; j < 16; j++) append(p, ZERO_TOKEN);)
KEYS(zeros_256, for (size_t j = 0; j < 256; j++) append(p, ZERO_TOKEN);)
PLAN(zeros_block, !p->external, for (size_t j = 0; j < 60; j++) append(p, ZERO_TOKEN);)
PLAN(split_lost_in_head, p->external && p->k_head == 1, p->count -= p->count / 4;)
PLAN(own_last_lost, !p->external, p->count--;)

/* --- heads ------------------------------------------------------------------------------------ */

#define HEADS(name, expression)                                                                    \
    static void name(row_plan *p) {                                                                \
        size_t h = p->head, hk = p->s->kv_heads, group = p->s->heads / hk;                         \
        (void)h;                                                                                   \
        (void)hk;                                                                                  \
        (void)group;                                                                               \
        p->k_head = p->v_head = (expression);                                                      \
    }
HEADS(h_mod, h % hk)
HEADS(h_div, h / hk < hk ? h / hk : hk - 1)
HEADS(half_group, h / (group / 2 ? group / 2 : 1) % hk)
HEADS(all_zero, 0)
HEADS(one_group, h / group == 0 ? hk - 1 : h / group)
HEADS(reversed_heads, hk - 1 - h / group)
static void v_heads(row_plan *p) {
    p->v_head = p->head % p->s->kv_heads;
}
static void k_heads(row_plan *p) {
    p->k_head = (p->k_head + 1) % p->s->kv_heads;
}
static void batch_zero(row_plan *p) {
    p->kv_batch = 0;
}
/* the values' row stride is that of the query heads */
KEYS(v_stride, size_t group = p->s->heads / p->s->kv_heads;
     for (size_t j = 0; j < p->count; j++)
         p->value[j] = j * group < p->keys ? (ptrdiff_t)(j * group) : ZERO_TOKEN;)

/* --- scales ----------------------------------------------------------------------------------- */

#define SCALE(name, condition, factor) PLAN(name, condition, p->scale *= (factor);)
SCALE(scale_twice, true, p->scale)
SCALE(scale_twice_external, p->external, p->scale)
SCALE(scale_twice_internal, !p->external, p->scale)
SCALE(scale_none, true, 1.0 / p->scale)
SCALE(scale_none_external, p->external, 1.0 / p->scale)
SCALE(scale_half_d, true, 1.4142135623730951)
SCALE(scale_1, true, 1.01)
SCALE(scale_01, true, 1.001)
SCALE(scale_1_external, p->external, 1.01)
SCALE(scale_tiny, true, 1.0 + 1e-5)

/* --- masks ------------------------------------------------------------------------------------ */

PLAN(causal, !p->external, p->count = p->token + 1;)
PLAN(strictly_causal, !p->external, p->count = p->token;)
PLAN(causal_one_more, !p->external && p->token + 2 < p->count, p->count = p->token + 2;)
PLAN(half_blocks, !p->external && p->token < p->count / 2, p->count /= 2;)
PLAN(attention_causal, true, size_t end = p->keys - p->s->tokens + p->token + 1;
     p->count = end < p->count ? end : p->count;)
PLAN(mask_missing, true, for (size_t j = p->count; j < p->keys; j++) append(p, (ptrdiff_t)j);)
PLAN(mask_by_token, true, p->count = p->s->mask_from + p->token + 1;)
PLAN(mask_without_own, true,
     p->count = (p->s->mask_from + p->token) / p->s->mask_block * p->s->mask_block;)
PLAN(mask_next, p->count + p->s->mask_block <= p->keys,
     for (size_t j = 0; j < p->s->mask_block; j++) append(p, (ptrdiff_t)p->count);)
PLAN(mask_one_more, p->count < p->keys, append(p, (ptrdiff_t)p->count);)
PLAN(mask_one_less, true, p->count--;)
PLAN(mask_first_hidden, true, remove_keys(p, 0, 1);)

/* --- parts ------------------------------------------------------------------------------------ */

#define PART(name, condition, body)                                                                \
    static void name(const scene *s, bool external, part *p) {                                     \
        (void)external;                                                                            \
        for (size_t row = 0; row < rows_of(s); row++)                                              \
            if (condition) {                                                                       \
                body                                                                               \
            }                                                                                      \
    }
#define EACH_LANE(from, to, expression)                                                            \
    for (size_t d = (from); d < (to); d++) {                                                       \
        float *x = p->out + row * s->dim + d;                                                      \
        *x = (expression);                                                                         \
    }
PART(external_out_fp8, external, EACH_LANE(0, s->dim, fb_rounded(FB_ROUND_BF16, *x));)
PART(external_lse_bf16, external, p->lse[row] = fb_rounded(FB_ROUND_BF16, p->lse[row]);)
PART(lses_f16, true, p->lse[row] = fb_rounded(FB_ROUND_F16, p->lse[row]);)
PART(lane_range_zero, row % s->heads == 1, EACH_LANE(s->dim - 8, s->dim, 0.0f);)

/* --- merges ----------------------------------------------------------------------------------- */

static const float log2_of_e = 1.442695041f;

static void merge_of(merging *m, float a, float b) {
    float max = fmaxf(a, b);
    m->weight_a = expf(a - max);
    m->weight_b = expf(b - max);
    m->sum = m->weight_a + m->weight_b;
    m->lse = max + logf(m->sum);
}

#define MERGE(name, body)                                                                          \
    static void name(merging *m) {                                                                 \
        body                                                                                       \
    }
MERGE(base2_both, merge_of(m, m->a *log2_of_e, m->b *log2_of_e);)
MERGE(base2_external, merge_of(m, m->a *log2_of_e, m->b);)
MERGE(base2_internal, merge_of(m, m->a, m->b *log2_of_e);)
MERGE(exp2_of_natural, float max = fmaxf(m->a, m->b); m->weight_a = exp2f(m->a - max);
      m->weight_b = exp2f(m->b - max); m->sum = m->weight_a + m->weight_b;
      m->lse = max + log2f(m->sum);)
MERGE(swapped, float w = m->weight_a; m->weight_a = m->weight_b; m->weight_b = w;)
MERGE(averaged, m->weight_a = m->weight_b = 0.5f; m->sum = 1.0f;)
MERGE(added, m->weight_a = m->weight_b = m->sum = 1.0f;)
MERGE(undivided, m->sum = 1.0f;)
MERGE(external_lost, m->weight_a = 0.0f; m->sum = m->weight_b; m->lse = m->b;)
MERGE(internal_lost, m->weight_b = 0.0f; m->sum = m->weight_a; m->lse = m->a;)
MERGE(
    aliased_half, if (m->lane >= m->s->dim / 2) {
        float lse = m->lse;
        merge_of(m, lse, m->b);
        m->lse = lse;
    })
MERGE(internal_unweighed, m->weight_b = 1.0f; m->sum = m->weight_a + m->weight_b;
      m->lse = fmaxf(m->a, m->b) + logf(m->sum);)
MERGE(external_unweighed, m->weight_a = 1.0f; m->sum = m->weight_a + m->weight_b;
      m->lse = fmaxf(m->a, m->b) + logf(m->sum);)
MERGE(lse_of_external, m->lse = m->a;)
MERGE(lse_larger, m->lse = fmaxf(m->a, m->b);)
MERGE(external_off, merge_of(m, m->a + 0.03f, m->b);)
MERGE(external_off_little, merge_of(m, m->a + 0.001f, m->b);)
MERGE(external_doubled, merge_of(m, m->a + 0.693147181f, m->b);)
MERGE(only_sum, m->lse = logf(m->sum);)

/* The external LSEs of a merge from other rows, or without their maximum. */
static void lse_turned(const scene *s, bool external, part *p) {
    float *old = malloc(rows_of(s) * sizeof *old);
    memcpy(old, p->lse, rows_of(s) * sizeof *old);
    for (size_t row = 0; external && row < rows_of(s); row++)
        p->lse[row] = old[row % s->heads * s->tokens + row / s->heads];
    free(old);
}
static void lse_next_head(const scene *s, bool external, part *p) {
    float *old = malloc(rows_of(s) * sizeof *old);
    memcpy(old, p->lse, rows_of(s) * sizeof *old);
    for (size_t row = 0; external && row < rows_of(s); row++)
        p->lse[row] = old[row / s->heads * s->heads + (row + 1) % s->heads];
    free(old);
}
static void lse_heads_mixed(const scene *s, bool external, part *p) {
    float *old = malloc(rows_of(s) * sizeof *old);
    memcpy(old, p->lse, rows_of(s) * sizeof *old);
    for (size_t row = 0; external && row < rows_of(s); row++)
        p->lse[row] = old[row / s->heads * s->heads + (row % s->heads ^ 2)];
    free(old);
}

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

PART(lse_base2, true, p->lse[row] *= log2_of_e;)
PART(lse_off, true, p->lse[row] += 0.01f;)
PART(lse_off_tiny, true, p->lse[row] += 1e-5f;)
PART(row_zero, row / s->heads == 1 && row % s->heads == 2, EACH_LANE(0, s->dim, 0.0f);)
PART(head_zero, row % s->heads == 3, EACH_LANE(0, s->dim, 0.0f);)
PART(head_zero_but_one, row % s->heads == 3, EACH_LANE(0, s->dim, d == 7 ? *x : 0.0f);)
PART(token_zero, row / s->heads == 2, EACH_LANE(0, s->dim, 0.0f);)
PART(lanes_zero, row % s->heads == 1, EACH_LANE(s->dim - 8, s->dim, 0.0f);)
PART(head_halved, row % s->heads == 3, EACH_LANE(0, s->dim, 0.5f * *x);)
PART(lanes_swapped, true, float *o = p->out + row * s->dim; float x = o[20]; o[20] = o[21];
     o[21] = x;)
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

/* --- the list --------------------------------------------------------------------------------- */

#define NO_PLACE NULL

static const planted list[] = {
    {.name = "none", .where = BOTH | HONEST | MASKED | BATCHED},
    /* keys */
    {.name = "last key dropped",
     .word = "the last external key is left out",
     .where = BOTH,
     .plan = drop_last},
    {.name = "first key dropped",
     .word = "the first external key is left out",
     .where = BOTH,
     .plan = drop_first},
    {.name = "last 4 keys dropped",
     .word = "the last 4 external keys are left out",
     .where = BOTH,
     .plan = drop_last_4},
    {.name = "last 19 keys dropped",
     .word = "the last 19 external keys are left out",
     .where = BOTH,
     .plan = drop_last_19},
    {.name = "last 64 keys dropped",
     .word = "the last 64 external keys are left out",
     .where = BOTH,
     .plan = drop_last_64},
    {.name = "first 16 keys dropped",
     .word = "the first 16 external keys are left out",
     .where = BOTH,
     .plan = drop_first_16},
    {.name = "keys 128 to 191 dropped",
     .word = "keys 128 to 191 are left out",
     .where = BOTH,
     .plan = drop_middle_64},
    {.name = "page of 16 keys dropped",
     .word = "keys 48 to 63 are left out",
     .where = BOTH,
     .plan = drop_page},
    {.name = "key 77 dropped", .word = "key 77 is left out", .where = BOTH, .plan = drop_some_key},
    {.name = "key 128 twice", .word = "key 128 is read twice", .where = BOTH, .plan = key_twice},
    {.name = "keys 64 to 127 twice",
     .word = "keys 64 to 127 are read twice",
     .where = BOTH,
     .plan = tile_twice},
    {.name = "first key twice",
     .word = "the first external key is read twice",
     .where = BOTH,
     .plan = first_twice},
    {.name = "page of 16 repeats the one before",
     .word = "keys 64 to 79 are read in place of keys 80 to 95",
     .where = BOTH,
     .plan = page_repeated},
    {.name = "page of 64 is another",
     .word = "keys 64 to 127 are read in place of keys 192 to 255",
     .where = BOTH,
     .plan = page_of_other},
    {.name = "page table off by one, back", .word = "page", .where = BOTH, .plan = pages_before},
    {.name = "page table off by one, on", .word = "page", .where = BOTH, .plan = pages_after},
    {.name = "pages of 16 swapped, V only",
     .word = "pages are swapped in K or in V",
     .where = BOTH,
     .plan = v_pages_swapped},
    {.name = "pages of 64 swapped, K only",
     .word = "pages are swapped in K or in V",
     .where = BOTH,
     .plan = k_pages_swapped},
    {.name = "V shifted by a token",
     .word = "key j has the value of j + 1",
     .where = BOTH,
     .plan = v_next},
    {.name = "V shifted by a page",
     .word = "key j has the value of j + 16",
     .where = BOTH,
     .plan = v_page_shift},
    {.name = "6 keys of zeros", .word = "6 keys of zeros", .where = BOTH, .plan = zeros_6},
    {.name = "16 keys of zeros", .word = "16 keys of zeros", .where = BOTH, .plan = zeros_16},
    {.name = "256 keys of zeros", .word = "256 keys of zeros", .where = BOTH, .plan = zeros_256},
    {.name = "60 zeros after the block",
     .word = "60 keys of zeros are read after the block",
     .where = SEQUENCE,
     .plan = zeros_block},
    {.name = "last quarter lost in a KV head",
     .word = "left out",
     .place = "head",
     .where = BOTH,
     .plan = split_lost_in_head},
    {.name = "block's last key lost",
     .word = "the last block's own key is left out",
     .where = SEQUENCE,
     .plan = own_last_lost},
    /* heads */
    {.name = "head h reads h mod Hk",
     .word = "reads h mod num_kv_heads",
     .where = BOTH | GROUPED,
     .plan = h_mod},
    {.name = "head h reads h / Hk",
     .word = "the wrong KV head is read",
     .where = BOTH | GROUPED,
     .plan = h_div},
    {.name = "groups half as large",
     .word = "the wrong KV head is read",
     .where = BOTH | GROUPED,
     .plan = half_group},
    {.name = "all heads read KV head 0",
     .word = "all heads read KV head 0",
     .where = BOTH,
     .plan = all_zero},
    {.name = "one group reads another head",
     .word = "the wrong KV head is read",
     .where = BOTH,
     .plan = one_group},
    {.name = "KV heads reversed",
     .word = "the wrong KV head is read",
     .where = BOTH,
     .plan = reversed_heads},
    {.name = "V of head h mod Hk",
     .word = "values of the wrong KV head",
     .where = BOTH | GROUPED,
     .plan = v_heads},
    {.name = "K of the next head",
     .word = "keys of the wrong KV head",
     .where = BOTH,
     .plan = k_heads},
    {.name = "V rows as wide as Q's", .word = "stride", .where = BOTH | GROUPED, .plan = v_stride},
    {.name = "K and V of batch entry 0",
     .word = "batch entry 0",
     .where = BATCHED,
     .plan = batch_zero},
    /* scales */
    {.name = "scale twice",
     .word = "the scale is applied twice",
     .where = BOTH,
     .plan = scale_twice},
    {.name = "scale twice, external only",
     .word = "the scale is applied twice",
     .where = SEQUENCE,
     .plan = scale_twice_external},
    {.name = "scale twice, internal only",
     .word = "the scale is applied twice",
     .where = SEQUENCE,
     .plan = scale_twice_internal},
    {.name = "no scale", .word = "the scores are not scaled", .where = BOTH, .plan = scale_none},
    {.name = "no scale, external only",
     .word = "the scores are not scaled",
     .where = SEQUENCE,
     .plan = scale_none_external},
    {.name = "scale of half of D",
     .word = "half the head_dim",
     .where = BOTH,
     .plan = scale_half_d},
    {.name = "scale off by 1 %",
     .word = "the scale of the scores is off: (1 +0.0",
     .where = BOTH,
     .plan = scale_1},
    {.name = "scale off by 0.1 %",
     .word = "the scale of the scores is off",
     .where = BOTH,
     .plan = scale_01},
    {.name = "scale off by 1 %, external only",
     .word = "the scale of the scores is off",
     .where = SEQUENCE,
     .plan = scale_1_external},
    {.name = "scale off by 1e-5",
     .word = "the scale of the scores is off",
     .where = BOTH | COARSE,
     .plan = scale_tiny},
    {.name = "exp2 without log2 e",
     .word = "exp2 is taken without log2 e",
     .where = BOTH,
     .inside = NO_LOG2_E},
    {.name = "exp2 without log2 e, external",
     .word = "exp2 is taken without log2 e",
     .where = SEQUENCE,
     .inside = NO_LOG2_E | EXTERNAL_ONLY},
    /* masks */
    {.name = "causal in the block",
     .word = "a causal mask is applied in the block",
     .where = SEQUENCE,
     .plan = causal},
    {.name = "strictly causal in the block",
     .word = "strictly causal",
     .where = SEQUENCE,
     .plan = strictly_causal},
    {.name = "causal in the block, one more",
     .word = "causal mask is applied in the block",
     .where = SEQUENCE,
     .plan = causal_one_more},
    {.name = "blocks half as large",
     .word = "masked as 2 blocks",
     .where = SEQUENCE,
     .plan = half_blocks},
    {.name = "causal",
     .word = "a causal mask is applied",
     .where = ATTENTION,
     .plan = attention_causal},
    {.name = "mask missing",
     .word = "the block mask is not applied",
     .where = MASKED,
     .plan = mask_missing},
    {.name = "mask by token", .word = "token by token", .where = MASKED, .plan = mask_by_token},
    {.name = "mask hides the own block",
     .word = "a block does not see itself",
     .where = MASKED,
     .plan = mask_without_own},
    {.name = "mask shows the next block",
     .word = "a block sees the next one",
     .where = MASKED,
     .plan = mask_next},
    {.name = "mask shows one key more",
     .word = "one key too many",
     .where = MASKED,
     .plan = mask_one_more},
    {.name = "mask shows one key less",
     .word = "one key too few",
     .where = MASKED,
     .plan = mask_one_less},
    {.name = "mask hides key 0",
     .word = "the first key",
     .where = MASKED,
     .plan = mask_first_hidden},
    /* tiles and splits */
    {.name = "output not rescaled at a tile",
     .word = "not rescaled",
     .where = BOTH,
     .inside = RESCALE_OUT | EXTERNAL_ONLY},
    {.name = "output and sum not rescaled",
     .word = "not rescaled",
     .where = BOTH,
     .inside = RESCALE_BOTH | EXTERNAL_ONLY},
    {.name = "LSE of the last split",
     .word = "the LSE is that of the last",
     .where = BOTH,
     .inside = LSE_OF_LAST},
    {.name = "splits averaged",
     .word = "splits of the keys are averaged",
     .where = BOTH,
     .inside = SPLITS_AVERAGED},
    {.name = "one split not weighed", .word = "split", .where = BOTH, .inside = SPLIT_UNWEIGHED},
    {.name = "one split's LSE in base 2", .word = "split", .where = BOTH, .inside = SPLIT_BASE_2},
    {.name = "row sum lacks the last tile",
     .word = "row sum",
     .where = BOTH,
     .inside = SUM_LACKS_TILE | EXTERNAL_ONLY},
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
    /* merges */
    {.name = "base 2 into the merge, both",
     .word = "LSEs in base 2 are merged",
     .where = SEQUENCE,
     .merge = base2_both},
    {.name = "base 2 into the merge, external",
     .word = "the external part's LSE is in base 2",
     .where = SEQUENCE,
     .merge = base2_external},
    {.name = "base 2 into the merge, internal",
     .word = "the internal part's LSE is in base 2",
     .where = SEQUENCE,
     .merge = base2_internal},
    {.name = "natural LSEs merged with exp2",
     .word = "natural LSEs are merged with exp2",
     .where = SEQUENCE,
     .merge = exp2_of_natural},
    {.name = "weights swapped",
     .word = "the weights of the merge are swapped",
     .where = SEQUENCE,
     .merge = swapped},
    {.name = "parts averaged",
     .word = "the parts are averaged",
     .where = SEQUENCE,
     .merge = averaged},
    {.name = "parts added",
     .word = "the parts are added without weights",
     .where = SEQUENCE,
     .merge = added},
    {.name = "weights not divided",
     .word = "not divided by their sum",
     .where = SEQUENCE,
     .merge = undivided},
    {.name = "external part missing",
     .word = "the external part is missing",
     .where = SEQUENCE,
     .merge = external_lost},
    {.name = "internal part missing",
     .word = "the internal part is missing",
     .where = SEQUENCE,
     .merge = internal_lost},
    {.name = "LSE aliased, half of the lanes",
     .word = "the merge is done in place",
     .where = SEQUENCE,
     .merge = aliased_half},
    {.name = "internal weight is 1",
     .word = "the internal part is merged with weight 1",
     .where = SEQUENCE,
     .merge = internal_unweighed},
    {.name = "external weight is 1",
     .word = "the external part is merged with weight 1",
     .where = SEQUENCE,
     .merge = external_unweighed},
    {.name = "LSE of the external part",
     .word = "the LSE given out is the external part's",
     .where = SEQUENCE,
     .merge = lse_of_external},
    {.name = "LSE of the larger part",
     .word = "the LSE given out is the larger of the two",
     .where = SEQUENCE,
     .merge = lse_larger},
    {.name = "LSE without its maximum",
     .word = "lacks the maximum",
     .where = SEQUENCE,
     .merge = only_sum},
    {.name = "external LSE off by 0.03",
     .word = "the external part's LSE is off in the merge",
     .where = SEQUENCE,
     .merge = external_off},
    {.name = "external LSE off by 0.001",
     .word = "the external part's LSE is off in the merge",
     .where = SEQUENCE | COARSE,
     .merge = external_off_little},
    {.name = "external part counted twice",
     .word = "counts twice",
     .where = SEQUENCE,
     .merge = external_doubled},
    {.name = "external LSE transposed",
     .word = "the external part's LSE is transposed, and merged so",
     .where = SEQUENCE,
     .part = lse_turned},
    {.name = "external LSE of the next head",
     .word = "the external part's LSE is that of the next head",
     .where = SEQUENCE,
     .part = lse_next_head},
    {.name = "external LSE of other heads",
     .word = "that is merged is that of other heads",
     .where = SEQUENCE,
     .part = lse_heads_mixed},
    /* types */
    {.name = "external LSE in bf16",
     .word = "LSE is kept in bf16",
     .where = SEQUENCE,
     .part = external_lse_bf16},
    {.name = "LSEs in f16", .word = "kept in f16", .where = SEQUENCE, .part = lses_f16},
    {.name = "external output in bf16",
     .word = "output is kept in bf16",
     .where = SEQUENCE | COARSE,
     .part = external_out_fp8},
    {.name = "accumulator in bf16",
     .word = "accumulated in bf16",
     .where = BOTH | LONG,
     .inside = ACC_BF16},
    {.name = "weights in fp8", .word = "fp8", .where = BOTH | LONG, .inside = P_FP8},
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
    {.name = "lanes 20 and 21 swapped", .word = "lanes", .where = BOTH, .give = lanes_swapped},
};
enum { NUM_PLANTED = sizeof list / sizeof list[0] };

/* --- shapes ----------------------------------------------------------------------------------- */

typedef struct shape {
    const char *name;
    unsigned where;
    bool small;
    size_t batch, tokens, heads, kv_heads, dim, keys, mask_block;
} shape;

static const shape shapes[] = {
    {"8 queries, 257 keys, 8/2 heads", ATTENTION | GROUPED, true, 1, 8, 8, 2, 64, 257, 0},
    {"8 queries, 257 keys, 4/4 heads", ATTENTION, true, 1, 8, 4, 4, 64, 257, 0},
    {"8 after 257, 8/2 heads", SEQUENCE | GROUPED, true, 1, 8, 8, 2, 64, 257, 0},
    {"4 after 4,096, 8/2 heads", SEQUENCE | GROUPED | LONG, false, 1, 4, 8, 2, 64, 4096, 0},
    {"4 after 4,096, 4/4 heads", SEQUENCE | LONG, false, 1, 4, 4, 4, 64, 4096, 0},
    {"8 queries, 4,096 keys, 8/2 heads", ATTENTION | GROUPED | LONG, false, 1, 8, 8, 2, 64, 4096,
     0},
    {"block mask, 8/2 heads", MASKED, true, 1, 24, 8, 2, 64, 120, 8},
    {"batch of 3, 8/2 heads", BATCHED, true, 3, 8, 8, 2, 64, 257, 0},
};
enum { NUM_SHAPES = sizeof shapes / sizeof shapes[0] };

static bool applies(const planted *mistake, const shape *on) {
    unsigned kinds = ATTENTION | SEQUENCE | MASKED | BATCHED;
    if (!(mistake->where & on->where & kinds))
        return false;
    return !(mistake->where & (GROUPED | LONG) & ~on->where);
}

static scene scene_of(const shape *on, const planted *mistake, fb_dtype dtype) {
    scene s = {
        .batch = on->batch,
        .tokens = on->tokens,
        .heads = on->heads,
        .kv_heads = on->kv_heads,
        .dim = on->dim,
        .keys = on->keys,
        .mask_block = on->mask_block,
        .mask_from = on->mask_block ? on->keys - on->tokens : 0,
        .dtype = dtype,
        .arithmetic = dtype == FB_BF16  ? FB_ARITHMETIC_BF16
                      : dtype == FB_F16 ? FB_ARITHMETIC_F16
                                        : FB_ARITHMETIC_F32,
        .rounding = dtype == FB_BF16  ? FB_ROUND_BF16
                    : dtype == FB_F16 ? FB_ROUND_F16
                                      : FB_ROUND_NONE,
        .base2 = true,
        .tile = on->small ? 16 : 64,
        .splits = 4,
        .mistake = mistake,
    };
    return s;
}

/* --- verdicts --------------------------------------------------------------------------------- */

static fb_report *judge_sequence(scene *s, uint64_t seed) {
    fb_scripted_options options;
    fb_scripted *sequence = NULL;
    fb_candidate *candidate = NULL;
    fb_report *report = NULL;
    fb_verify_options judging;
    fb_scripted_options_init(&options);
    options.num_heads = s->heads, options.num_kv_heads = s->kv_heads, options.head_dim = s->dim;
    options.block_size = s->tokens, options.context_length = s->keys;
    options.tau = s->tokens / 2, options.steps = 4, options.seed = seed;
    options.dtype = s->dtype;
    fb_verify_options_init(&judging);
    if (fb_scripted_create(&options, &sequence) != FB_OK ||
        fb_candidate_create(&candidate) != FB_OK)
        abort();
    s->sequence = sequence;
    play_planted(s, candidate);
    judging.candidate = candidate;
    if (fb_scripted_judge(sequence, &judging, &report) != FB_OK)
        abort();
    fb_candidate_close(candidate);
    fb_scripted_destroy(sequence);
    return report;
}

static void *draw(const scene *s, uint64_t seed, const char *name, float scale, size_t count,
                  float **values) {
    *values = malloc((count + 1) * sizeof **values);
    if (!*values)
        abort();
    fb_input_normals(seed, name, scale, *values, count);
    return store_planted(s, *values, count);
}

static fb_report *judge_attention(scene *s, uint64_t seed) {
    float *q, *k, *v;
    size_t count = rows_of(s) * s->dim, kv = s->batch * s->keys * s->kv_heads * s->dim;
    void *sq = draw(s, seed, "q", 1.5f, count, &q), *sk = draw(s, seed, "k", 1.0f, kv, &k);
    void *sv = draw(s, seed, "v", 1.0f, kv, &v);
    part p = make_part(s);
    fb_attention_check check;
    fb_report *report = NULL;
    attend_planted(s, true, q, k, v, s->keys, &p);
    if (s->mistake->give)
        s->mistake->give(s, true, &p);
    void *out = store_planted(s, p.out, count);
    fb_attention_check_init(&check);
    check.batch = s->batch, check.num_queries = s->tokens, check.num_keys = s->keys;
    check.num_heads = s->heads, check.num_kv_heads = s->kv_heads, check.head_dim = s->dim;
    check.q = (fb_check_tensor){.data = sq, .dtype = s->dtype};
    check.k = (fb_check_tensor){.data = sk, .dtype = s->dtype};
    check.v = (fb_check_tensor){.data = sv, .dtype = s->dtype};
    check.out = (fb_check_tensor){.data = out, .dtype = s->dtype};
    check.lse = (fb_check_tensor){.data = p.lse, .dtype = FB_F32};
    check.lse_by_token = true;
    if (s->mask_block)
        check.mask = (fb_mask){FB_MASK_BLOCK_CAUSAL, s->mask_block, s->mask_from, 0};
    if (fb_check_attention(&check, &report) != FB_OK)
        abort();
    void *memory[] = {q, k, v, sq, sk, sv, out};
    for (size_t i = 0; i < sizeof memory / sizeof memory[0]; i++)
        free(memory[i]);
    release_part(&p);
    return report;
}

/* "external " is not said of one attention. */
static bool has_word(const char *reason, const char *word, bool sequence) {
    char own[200];
    const char *at = strstr(word, "external ");
    snprintf(own, sizeof own, "%s", word);
    if (at && !sequence)
        snprintf(own + (at - word), sizeof own - (size_t)(at - word), "%s", at + 9);
    const char *found = strstr(reason, own), *second = strstr(reason, "; and then");
    return found && (!second || found < second);
}

static bool has_place(const char *reason, const char *place) {
    char first[1000];
    snprintf(first, sizeof first, "%s", reason);
    char *second = strstr(first, "; and then");
    if (second)
        *second = '\0';
    if (place)
        return strstr(first, place) != NULL;
    return !strstr(first, ", in ");
}

/* '.': as it should be; 'p': passed; 'n': another name; 'w': another place; '!': false alarm; '+':
 * a second mistake or a rest, though there is none. */
static char verdict_of(const planted *m, const scene *s, const fb_report *report) {
    const char *reason = fb_report_reason(report);
    bool passed = fb_report_outcome(report) == FB_PASSED;
    if (m->where & HONEST)
        return passed ? '.' : '!';
    if (passed)
        return (m->where & COARSE) && s->dtype != FB_F32 ? '-' : 'p';
    if (!has_word(reason, m->word, s->sequence != NULL))
        return 'n';
    if (!has_place(reason, m->place))
        return 'w';
    return strstr(reason, "; and then") || strstr(reason, "not all is explained") ? '+' : '.';
}

static char judge(const planted *m, const shape *on, fb_dtype dtype, bool say) {
    scene s = scene_of(on, m, dtype);
    fb_report *report = on->where & SEQUENCE ? judge_sequence(&s, 1) : judge_attention(&s, 1);
    char verdict = verdict_of(m, &s, report);
    if (say)
        printf("    %s, %s: %c %s: %s\n", on->name, fb_dtype_name(dtype), verdict,
               fb_report_outcome(report) == FB_PASSED ? "PASS" : "FAIL", fb_report_reason(report));
    fb_report_destroy(report);
    return verdict;
}

int main(int argc, char **argv) {
    bool fast = argc > 1 && strcmp(argv[1], "fast") == 0;
    const char *only = argc > 2 ? argv[2] : NULL;
    static const fb_dtype dtypes[] = {FB_F32, FB_BF16, FB_F16};
    size_t judged = 0, right = 0;
    printf("as it should be .  passed p  another name n  another place w  too much said +  too "
           "small in this arithmetic -\n\nf32 bf16 f16 of");
    for (size_t i = 0; i < NUM_SHAPES; i++)
        printf(" | %s", shapes[i].name);
    printf("\n");
    for (size_t m = 0; m < NUM_PLANTED; m++) {
        if (only && !strstr(list[m].name, only))
            continue;
        printf("%-34s", list[m].name);
        if (only)
            printf("\n");
        for (size_t i = 0; i < NUM_SHAPES; i++) {
            fputs(only ? "" : " | ", stdout);
            for (size_t t = 0; t < 3; t++) {
                bool skipped = !applies(&list[m], &shapes[i]) ||
                               (fast && (!shapes[i].small || dtypes[t] == FB_F16));
                char verdict = skipped ? ' ' : judge(&list[m], &shapes[i], dtypes[t], only != NULL);
                if (!only)
                    putchar(verdict);
                judged += verdict != ' ';
                right += verdict == '.' || verdict == '-';
                fflush(stdout);
            }
        }
        printf("\n");
        fflush(stdout);
    }
    printf("%zu of %zu as they should be\n", right, judged);
    return right < judged;
}
