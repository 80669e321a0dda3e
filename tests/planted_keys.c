/* Planted mistakes of keys, values, and heads. */
#include "tests/planted.h"

#include <math.h>

/* --- keys ------------------------------------------------------------------------------------- */

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
KEYS(key_twice, add_key(p, 128);)
KEYS(tile_twice, for (ptrdiff_t j = 64; j < 128; j++) add_key(p, j);)
KEYS(first_twice, add_key(p, 0);)
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
KEYS(zeros_6, for (size_t j = 0; j < 6; j++) add_key(p, ZERO_TOKEN);)
KEYS(zeros_16, for (size_t j = 0; j < 16; j++) add_key(p, ZERO_TOKEN);)
KEYS(zeros_256, for (size_t j = 0; j < 256; j++) add_key(p, ZERO_TOKEN);)
PLAN(zeros_block, !p->external, for (size_t j = 0; j < 60; j++) add_key(p, ZERO_TOKEN);)
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
static void h_mod_external(row_plan *p) {
    if (p->external)
        h_mod(p);
}
static void h_mod_internal(row_plan *p) {
    if (!p->external)
        h_mod(p);
}
static void reversed_internal(row_plan *p) {
    if (!p->external)
        reversed_heads(p);
}
static void q_next_head(row_plan *p) {
    p->q_row = p->q_row - p->head + (p->head + 1) % p->s->heads;
}
static void q_first_token(row_plan *p) {
    p->q_row = p->b * p->s->tokens * p->s->heads + p->head;
}
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

/* --- two mistakes ----------------------------------------------------------------------------- */

static void scale_and_mask(row_plan *p) {
    if (p->external)
        p->scale *= 1.05;
    else
        p->count = p->token + 1;
}
static void end_and_scale(row_plan *p) {
    if (p->external)
        p->count--;
    else
        p->scale *= 1.05;
}
static void heads_and_end(row_plan *p) {
    if (p->external)
        h_mod(p);
    else
        p->count--;
}
PLAN(external_scale, p->external, p->scale *= p->scale;)
static void base2_merge(merging *m) {
    float a = m->a * 1.442695041f, b = m->b * 1.442695041f, max = fmaxf(a, b);
    m->weight_a = expf(a - max);
    m->weight_b = expf(b - max);
    m->sum = m->weight_a + m->weight_b;
    m->lse = max + logf(m->sum);
}
PART(base2_lse, true, p->lse[row] *= 1.442695041f;)

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
     .word = "the last of the block's own keys is left out",
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
    {.name = "h mod Hk, external only",
     .word = "the wrong KV head is read",
     .where = SEQUENCE | GROUPED,
     .plan = h_mod_external},
    {.name = "h mod Hk, internal only",
     .word = "the wrong KV head is read",
     .where = SEQUENCE | GROUPED,
     .plan = h_mod_internal},
    {.name = "KV heads reversed, internal only",
     .word = "the wrong KV head is read",
     .where = SEQUENCE,
     .plan = reversed_internal},
    {.name = "queries of the next head",
     .word = "the queries are those of other heads",
     .where = BOTH,
     .plan = q_next_head},
    {.name = "queries of the first token",
     .word = "the queries are those of other tokens",
     .where = BOTH,
     .plan = q_first_token},
    {.name = "values taken for keys",
     .word = "the values are read as keys",
     .where = BOTH,
     .inside = V_AS_K},
    {.name = "keys taken for values",
     .word = "the keys are read as values",
     .where = BOTH,
     .inside = K_AS_V},
    {.name = "keys and values exchanged",
     .word = "keys and values are exchanged",
     .where = BOTH,
     .inside = V_AS_K | K_AS_V},
    {.name = "K and V of batch entry 0",
     .word = "batch entry 0",
     .where = BATCHED,
     .plan = batch_zero},
    /* two mistakes */
    {.name = "external: scale; internal: mask",
     .word = "the scale of the scores is off",
     .second = "a causal mask is applied in the block",
     .where = SEQUENCE,
     .plan = scale_and_mask},
    {.name = "external: last key lost; internal: scale",
     .word = "the last external key is left out",
     .second = "the scale of the scores is off",
     .where = SEQUENCE,
     .plan = end_and_scale},
    {.name = "external: heads; internal: last key",
     .word = "the wrong KV head is read",
     .second = "the last of the block's own keys is left out",
     .where = SEQUENCE | GROUPED,
     .plan = heads_and_end},
    {.name = "external: scale; merge: base 2",
     .word = "the scale is applied twice",
     .second = "LSEs in base 2 are merged",
     .where = SEQUENCE,
     .plan = external_scale,
     .merge = base2_merge},
    {.name = "last key lost; LSE in base 2",
     .word = "the LSE is in base 2",
     .second = "the last external key is left out",
     .where = BOTH,
     .plan = drop_last,
     .give = base2_lse},
};

const planted_list planted_keys = {list, sizeof list / sizeof list[0]};
