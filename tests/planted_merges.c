/* Planted mistakes of merges, and of parts that are merged. */
#include "tests/planted.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* --- parts ------------------------------------------------------------------------------------ */

PART(external_out_fp8, external, EACH_LANE(0, s->dim, fb_rounded(FB_ROUND_BF16, *x));)
PART(external_lse_bf16, external, p->lse[row] = fb_rounded(FB_ROUND_BF16, p->lse[row]);)
PART(lses_f16, true, p->lse[row] = fb_rounded(FB_ROUND_F16, p->lse[row]);)
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

static const planted list[] = {
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
     .where = SEQUENCE | SHORT,
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
};

const planted_list planted_merges = {list, sizeof list / sizeof list[0]};
