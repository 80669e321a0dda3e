/* Planted mistakes: emulated kernels, each with one mistake of a port, are judged. The verdict has
 * to be that they are wrong, the mistake's name first, and its place. docs/results/oracle.md has
 * the table that it prints.
 *
 *     oracle_planted [all | small | long | fast] [NAME | I/N]
 *
 * `small`: 257 keys and less; `long`: 4,096 keys; `fast`: each mistake on small shapes, in one type
 * of inputs on each. NAME: mistakes whose name has it; their verdicts are shown. I/N: mistake I of
 * each N, for N processes. The exit status is 1 if a verdict is not as it should be. */
#include "oracle/inputs.h"
#include "tests/planted.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

/* Types of inputs and of outputs. */
typedef struct types {
    const char *name;
    fb_dtype inputs, outputs;
} types;

static const types all_types[] = {{"f32", FB_F32, FB_F32},
                                  {"bf16", FB_BF16, FB_BF16},
                                  {"f16", FB_F16, FB_F16},
                                  {"bf16 inputs, f32 outputs", FB_BF16, FB_F32}};
enum { NUM_TYPES = sizeof all_types / sizeof all_types[0] };

static bool applies(const planted *mistake, const shape *on, const types *in) {
    unsigned kinds = ATTENTION | SEQUENCE | MASKED | BATCHED;
    if (!(mistake->where & on->where & kinds))
        return false;
    if (in->inputs != FB_F32 && (mistake->where & F32_ONLY))
        return false;
    if (in->inputs != in->outputs && !(mistake->where & (MIXED | HONEST)))
        return false;
    if ((mistake->where & SHORT) && (on->where & LONG))
        return false;
    return !(mistake->where & (GROUPED | LONG) & ~on->where);
}

static scene scene_of(const shape *on, const planted *mistake, const types *in) {
    fb_dtype dtype = in->inputs;
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
        .stored_as = in->outputs,
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

/* Inputs, as they are stored and as floats. */
static void *draw(const scene *s, uint64_t seed, const char *name, float scale, size_t count,
                  float **values) {
    *values = malloc((count + 1) * sizeof **values);
    void *stored = malloc((count + 1) * sizeof **values);
    if (!*values || !stored)
        abort();
    fb_input_normals(seed, name, scale, *values, count);
    if (fb_from_f32(s->dtype, *values, stored, count) != FB_OK ||
        fb_to_f32(s->dtype, stored, *values, count) != FB_OK)
        abort();
    return stored;
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
    check.out = (fb_check_tensor){.data = out, .dtype = s->stored_as};
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

/* '.': as it should be; 'p': passed; 'n': another name; 'w': another place; 's': the second mistake
 * is not named; '!': false alarm; '+': a second mistake or a rest, though there is none. */
static char verdict_of(const planted *m, const scene *s, const fb_report *report) {
    const char *reason = fb_report_reason(report);
    bool passed = fb_report_outcome(report) == FB_PASSED, sequence = s->sequence != NULL;
    if (m->where & HONEST)
        return passed ? '.' : '!';
    if (passed)
        return (m->where & COARSE) && s->dtype != FB_F32 ? '-' : 'p';
    if (m->second) {
        const char *then = strstr(reason, "; and then");
        if (!then)
            return has_word(reason, m->word, sequence) || has_word(reason, m->second, sequence)
                       ? 's'
                       : 'n';
        bool in_order =
            has_word(reason, m->word, sequence) && has_word(then + 10, m->second, sequence);
        bool other =
            has_word(reason, m->second, sequence) && has_word(then + 10, m->word, sequence);
        return in_order || other ? '.' : 's';
    }
    if (!has_word(reason, m->word, sequence))
        return 'n';
    if (!has_place(reason, m->place))
        return 'w';
    return strstr(reason, "; and then") || strstr(reason, "not all is explained") ? '+' : '.';
}

static char judge(const planted *m, const shape *on, const types *in, bool say) {
    scene s = scene_of(on, m, in);
    fb_report *report = on->where & SEQUENCE ? judge_sequence(&s, 1) : judge_attention(&s, 1);
    char verdict = verdict_of(m, &s, report);
    if (say || (verdict != '.' && verdict != '-'))
        fprintf(say ? stdout : stderr, "    %s, %s, %s: %c %s: %s\n", m->name, on->name, in->name,
                verdict, fb_report_outcome(report) == FB_PASSED ? "PASS" : "FAIL",
                fb_report_reason(report));
    fb_report_destroy(report);
    return verdict;
}

/* Which of the judgements are asked for. */
typedef enum choice { ALL, SMALL, BIG, FAST } choice;

static bool is_chosen(choice c, size_t mistake, size_t at, size_t type) {
    const shape *on = &shapes[at];
    bool grouped = on->heads > on->kv_heads;
    switch (c) {
    case SMALL:
        return on->small;
    case BIG:
        return !on->small;
    case FAST:
        return on->small && grouped && type == (mistake + at / 2) % 2;
    case ALL:
        break;
    }
    return true;
}

/* What was counted. */
typedef struct counts {
    size_t judged, right;
} counts;

static void judge_everywhere(const planted *m, size_t number, choice c, bool say, counts *n) {
    printf("%-42s", m->name);
    if (say)
        printf("\n");
    for (size_t i = 0; i < NUM_SHAPES; i++) {
        fputs(say ? "" : " | ", stdout);
        for (size_t t = 0; t < NUM_TYPES; t++) {
            bool skipped = !applies(m, &shapes[i], &all_types[t]) || !is_chosen(c, number, i, t);
            char verdict = skipped ? ' ' : judge(m, &shapes[i], &all_types[t], say);
            if (!say)
                putchar(verdict);
            n->judged += verdict != ' ';
            n->right += verdict == '.' || verdict == '-';
            fflush(stdout);
        }
    }
    printf("\n");
    fflush(stdout);
}

static choice choice_of(const char *name) {
    static const char *const names[] = {"all", "small", "long", "fast"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strcmp(name, names[i]) == 0)
            return (choice)i;
    fprintf(stderr, "usage: oracle_planted [all | small | long | fast] [NAME]\n");
    exit(2);
}

int main(int argc, char **argv) {
    static const planted_list *const lists[] = {&planted_keys, &planted_scores, &planted_merges,
                                                &planted_passes};
    choice c = choice_of(argc > 1 ? argv[1] : "all");
    const char *only = argc > 2 ? argv[2] : NULL;
    counts n = {0, 0};
    size_t number = 0, share = 0, shares = 1;
    if (only && sscanf(only, "%zu/%zu", &share, &shares) == 2 && shares > 0)
        only = NULL;
    else
        share = 0, shares = 1;
    printf("as it should be .  passed p  another name n  another place w  the second not named s\n"
           "too much said +  too small in this arithmetic -\n\n"
           "f32, bf16, f16, bf16 inputs with f32 outputs, of");
    for (size_t i = 0; i < NUM_SHAPES; i++)
        printf(" | %s", shapes[i].name);
    printf("\n");
    for (size_t list = 0; list < sizeof lists / sizeof lists[0]; list++)
        for (size_t i = 0; i < lists[list]->count; i++, number++)
            if (number % shares == share && (!only || strstr(lists[list]->mistakes[i].name, only)))
                judge_everywhere(&lists[list]->mistakes[i], number, c, only != NULL, &n);
    printf("%zu of %zu as they should be\n", n.right, n.judged);
    return n.right < n.judged;
}
