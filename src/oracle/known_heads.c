/* Scales, and which KV head a query head reads. */
#include "base/error.h"
#include "base/memory.h"
#include "oracle/known.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* All used parts become this variant. */
static fb_status vary(fb_wrong *w, const fb_variant *variant, unsigned which) {
    for (size_t part = 0; part < w->trial->num_parts; part++) {
        double *out, *lse;
        if (!fb_trial_uses(w->trial, part, which))
            continue;
        FB_TRY(fb_wrong_part(w, part, &out, &lse));
        FB_TRY(fb_variant_attend(&w->trial->parts[part].read, variant, out, lse));
    }
    fb_wrong_finish(w);
    return FB_OK;
}

/* --- scales ----------------------------------------------------------------------------------- */

static const char *const only[] = {"", " in the external part only",
                                   " in the block's own part only", ""};

static void try_words(fb_filter *f, fb_wrong *w, const char *words, unsigned which) {
    char text[380];
    snprintf(text, sizeof text, "%.340s%s", words, w->trial->script ? only[which] : "");
    fb_filter_try(f, w, text);
}

/* The internal parts are right again. */
static void restore_internal(fb_wrong *w) {
    for (size_t part = 0; part < w->trial->num_parts; part++)
        if (fb_trial_uses(w->trial, part, FB_INTERNAL))
            w->out[part] = w->lse[part] = NULL;
    memset(w->result, 0, w->trial->num_tensors * sizeof *w->result);
    fb_wrong_finish(w);
}

/* In both parts, in the external one, and (which FB_ALL_PARTS) in the internal one. */
static fb_status try_variant(fb_filter *f, fb_wrong *w, const fb_variant *variant,
                             const char *words, unsigned which) {
    bool merges = fb_trial_has_merges(w->trial);
    fb_wrong_reset(w);
    FB_TRY(vary(w, variant, merges || !w->trial->script ? FB_ALL_PARTS : FB_EXTERNAL));
    if (merges || !w->trial->script)
        try_words(f, w, words, FB_ALL_PARTS);
    if (!w->trial->script)
        return FB_OK;
    restore_internal(w);
    try_words(f, w, words, FB_EXTERNAL);
    if (!(which & FB_INTERNAL) || !merges)
        return FB_OK;
    fb_wrong_reset(w);
    FB_TRY(vary(w, variant, FB_INTERNAL));
    try_words(f, w, words, FB_INTERNAL);
    return FB_OK;
}

static fb_status try_scale(fb_filter *f, fb_wrong *w, double factor, const char *words) {
    const fb_variant variant = {.scale_factor = factor};
    return try_variant(f, w, &variant, words, FB_ALL_PARTS);
}

/* The first token's outputs and LSEs for other scales: the distance of the candidate's. */
static double scale_distance(const fb_trial *trial, const fb_wrong *w) {
    double sum = 0.0, count = 0.0;
    for (size_t i = 0; i < trial->num_tensors; i++) {
        const fb_trial_tensor *t = &trial->tensors[i];
        if (!t->value || !w->result[i])
            continue;
        double x = 0.0;
        for (size_t at = 0; at < t->count; at++) {
            double error = t->error[at] - (w->result[i][at] - t->truth[at]);
            x += t->usable[at] && isfinite(error) ? error * error / (t->sigma[at] * t->sigma[at])
                                                  : 0.0;
        }
        sum += log(1.0 + x / (double)t->count);
        count += 1.0;
    }
    return count > 0.0 ? sum / count : INFINITY;
}

/* The factor that explains most, between 1/4 and 4, by golden section on its logarithm, from a
 * first guess. */
static fb_status find_scale(fb_filter *f, fb_wrong *w) {
    double best = 1.0, least = INFINITY, step = log(2.0) / 4.0;
    char words[300];
    for (int round = 0; round < 12; round++) {
        double centre = log(best);
        for (int i = -(round ? 1 : 6); i <= (round ? 1 : 6); i++) {
            double factor = exp(centre + (double)i * step);
            if (i == 0 && round)
                continue;
            const fb_variant variant = {.scale_factor = factor};
            fb_wrong_reset(w);
            FB_TRY(vary(w, &variant, FB_ALL_PARTS));
            double distance = scale_distance(f->trial, w);
            if (distance < least) {
                least = distance;
                best = factor;
            }
        }
        step *= 0.45;
    }
    snprintf(words, sizeof words, "the scale of the scores is off: %.5g times the right one", best);
    return try_scale(f, w, best, words);
}

/* exp2 where exp is meant, without log2 e: weights 2^(s - m). What is given out as the LSE depends
 * on where the factor is missing: m + log sum, m + log2 sum, (m + log2 sum) ln 2. `raw`: LSEs of
 * the smaller scale. */
static void set_exp2_lses(fb_wrong *w, size_t form, const double *raw) {
    const double ln2 = 0x1.62e42fefa39efp-1;
    for (size_t part = 0; part < w->trial->num_parts; part++) {
        const double *max = w->trial->parts[part].m.max;
        for (size_t row = 0; w->lse[part] && row < w->trial->rows; row++) {
            double lse = raw[part * w->trial->rows + row];
            double sum = lse - max[row] * ln2; /* the logarithm of the row sum */
            w->lse[part][row] = form == 0 ? max[row] + sum : form == 1 ? max[row] + sum / ln2 : lse;
        }
    }
    fb_wrong_finish(w);
}

static fb_status try_exp2(fb_filter *f, fb_wrong *w, unsigned first, unsigned more) {
    const fb_variant variant = {.scale_factor = 0x1.62e42fefa39efp-1};
    size_t rows = w->trial->rows;
    double *raw = NULL;
    fb_wrong_reset(w);
    FB_TRY(vary(w, &variant, first | more));
    FB_TRY(fb_alloc(w->trial->num_parts, rows * sizeof *raw, "LSEs", &raw));
    for (size_t part = 0; part < w->trial->num_parts; part++)
        if (w->lse[part])
            memcpy(raw + part * rows, w->lse[part], rows * sizeof *raw);
    for (size_t form = 0; form < 3; form++) {
        set_exp2_lses(w, form, raw);
        try_words(f, w,
                  "exp2 is taken without log2 e: exp2(s * 1.442695) is exp(s), exp2(s) is not",
                  first | more);
    }
    fb_free(raw);
    return FB_OK;
}

fb_status fb_try_scales(fb_filter *f, fb_wrong *w) {
    fb_scale_name names[FB_MAX_SCALE_NAMES];
    if (!w->trial->script || fb_trial_has_merges(w->trial))
        FB_TRY(try_exp2(f, w, FB_EXTERNAL, FB_INTERNAL));
    if (w->trial->script && fb_trial_has_merges(w->trial))
        FB_TRY(try_exp2(f, w, FB_INTERNAL, 0));
    if (w->trial->script)
        FB_TRY(try_exp2(f, w, FB_EXTERNAL, 0));
    for (size_t i = 0, count = fb_scale_names(w->trial, names); i < count; i++)
        FB_TRY(try_scale(f, w, names[i].factor, names[i].words));
    if (f->best.share < 0.5)
        FB_TRY(find_scale(f, w));
    return FB_OK;
}

/* --- KV heads --------------------------------------------------------------------------------- */

/* What a wrong head is read for. */
typedef enum half { KEYS_AND_VALUES, KEYS, VALUES } half;

static fb_variant variant_of(half which, const size_t *map, const size_t *right) {
    return (fb_variant){.kv_heads = which == VALUES ? right : map,
                        .value_heads = which == KEYS     ? right
                                       : which == VALUES ? map
                                                         : NULL};
}

/* What each head reads, found head by head: attention as if all heads read one KV head, for each
 * KV head; then the nearest is taken. */
static fb_status nearest_map(fb_filter *f, fb_wrong *w, half which, unsigned parts,
                             const size_t *right, size_t *map) {
    const fb_trial *trial = f->trial;
    size_t kv_heads = trial->parts[0].right.kv_heads, heads = trial->heads;
    double *least = NULL;
    size_t *all = NULL;
    FB_TRY(fb_alloc(heads, sizeof *least, "heads", &least));
    fb_status status = fb_alloc(heads, sizeof *all, "heads", &all);
    for (size_t h = 0; h < heads; h++)
        least[h] = INFINITY;
    for (size_t kv = 0; kv < kv_heads && status == FB_OK; kv++) {
        for (size_t h = 0; h < heads; h++)
            all[h] = kv;
        const fb_variant variant = variant_of(which, all, right);
        fb_wrong_reset(w);
        status = vary(w, &variant, parts);
        for (size_t h = 0; h < heads && status == FB_OK; h++) {
            double distance = 0.0;
            for (size_t i = 0; i < trial->num_tensors; i++) {
                const fb_trial_tensor *t = &trial->tensors[i];
                size_t width = t->lse ? 1 : trial->dim;
                for (size_t at = 0; t->value && w->result[i] && at < t->count; at++) {
                    double error = t->value[at] - w->result[i][at];
                    if (at / width % heads == h && t->usable[at])
                        distance += error * error / (t->sigma[at] * t->sigma[at]);
                }
            }
            if (distance < least[h]) {
                least[h] = distance;
                map[h] = kv;
            }
        }
    }
    fb_free(least);
    fb_free(all);
    return status;
}

/* The heads that read another KV head: "query heads 12 to 15 read 4, query head 2 reads 0". */
static void say_heads(const fb_trial *trial, const size_t *map, char *words, size_t size) {
    size_t heads = trial->heads, group = heads / trial->parts[0].right.kv_heads, shown = 0;
    size_t used = 0;
    words[0] = '\0';
    for (size_t h = 0; h < heads && used < size; h++) {
        size_t last = h;
        if (map[h] == h / group)
            continue;
        while (last + 1 < heads && map[last + 1] == map[h] && (last + 1) / group == h / group)
            last++;
        if (shown == 6) {
            snprintf(words + used, size - used, ", ...");
            return;
        }
        const char *comma = shown++ ? ", " : "";
        if (last > h)
            used += (size_t)snprintf(words + used, size - used, "%squery heads %zu to %zu read %zu",
                                     comma, h, last, map[h]);
        else
            used += (size_t)snprintf(words + used, size - used, "%squery head %zu reads %zu", comma,
                                     h, map[h]);
        h = last;
    }
}

/* The rules that a map may follow; all that it follows are said. */
static const char *const rules[] = {
    "query head h reads h mod num_kv_heads, not h / (num_heads / num_kv_heads)",
    "query head h reads h / num_kv_heads, not h / (num_heads / num_kv_heads)",
    "the order of the KV heads is reversed",
    "all heads read KV head 0",
};

static bool follows(const fb_trial *trial, const size_t *map, size_t rule) {
    size_t kv_heads = trial->parts[0].right.kv_heads, group = trial->heads / kv_heads;
    for (size_t h = 0; h < trial->heads; h++) {
        size_t expected = rule == 0   ? h % kv_heads
                          : rule == 1 ? h / kv_heads % kv_heads
                          : rule == 2 ? kv_heads - 1 - h / group
                                      : 0;
        if (map[h] != expected)
            return false;
    }
    return true;
}

static void say_map(const fb_trial *trial, half which, const size_t *map, char *words,
                    size_t size) {
    static const char *const begins[] = {
        "the wrong KV head is read: ",
        "keys of the wrong KV head are read (the values are right): ",
        "values of the wrong KV head are read (the keys are right): ",
    };
    char heads[200];
    size_t used = (size_t)snprintf(words, size, "%s", begins[which]), found = 0;
    for (size_t rule = 0; rule < sizeof rules / sizeof rules[0] && used < size; rule++)
        if (follows(trial, map, rule))
            used += (size_t)snprintf(words + used, size - used, "%s%s",
                                     found++ ? "; or, the same here: " : "", rules[rule]);
    say_heads(trial, map, heads, sizeof heads);
    if (!found && used < size)
        snprintf(words + used, size - used, "%s", heads);
}

/* In both parts, or in one of them. */
static fb_status try_map(fb_filter *f, fb_wrong *w, half which, unsigned parts, const size_t *right,
                         size_t *map) {
    char words[340];
    FB_TRY(nearest_map(f, w, which, parts, right, map));
    const fb_variant variant = variant_of(which, map, right);
    if (memcmp(map, right, w->trial->heads * sizeof *map) == 0)
        return FB_OK;
    say_map(w->trial, which, map, words, sizeof words);
    fb_wrong_reset(w);
    FB_TRY(vary(w, &variant, parts));
    try_words(f, w, words, parts);
    return FB_OK;
}

static fb_status try_half(fb_filter *f, fb_wrong *w, half which) {
    static const unsigned parts[] = {FB_ALL_PARTS, FB_INTERNAL, FB_EXTERNAL};
    size_t kv_heads = w->trial->parts[0].right.kv_heads, heads = w->trial->heads, *map = NULL;
    if (kv_heads < 2)
        return FB_OK;
    FB_TRY(fb_alloc(2 * heads, sizeof *map, "heads", &map));
    for (size_t h = 0; h < heads; h++)
        map[heads + h] = h / (heads / kv_heads);
    fb_status status = FB_OK;
    size_t first = w->trial->script && !fb_trial_has_merges(w->trial) ? 2 : 0;
    for (size_t i = first; i < (w->trial->script ? 3 : 1) && status == FB_OK; i++)
        if (f->best.share < 0.95)
            status = try_map(f, w, which, parts[i], map + heads, map);
    fb_free(map);
    return status;
}

fb_status fb_try_heads(fb_filter *f, fb_wrong *w) {
    return try_half(f, w, KEYS_AND_VALUES);
}

/* Keys and values of different KV heads. */
fb_status fb_try_half_heads(fb_filter *f, fb_wrong *w) {
    FB_TRY(try_half(f, w, KEYS));
    return try_half(f, w, VALUES);
}
