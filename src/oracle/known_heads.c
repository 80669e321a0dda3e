/* Scales, and which KV head a query head reads. */
#include "base/error.h"
#include "base/memory.h"
#include "oracle/known.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static bool is_used(const fb_trial *trial, size_t part, bool internal_too) {
    for (size_t i = 0; i < trial->num_tensors; i++) {
        const fb_trial_tensor *t = &trial->tensors[i];
        if (t->value && (t->external == part || (internal_too && t->internal == part)))
            return true;
    }
    return false;
}

/* All used parts become this variant. */
static fb_status vary(fb_wrong *w, const fb_variant *variant, bool internal_too) {
    for (size_t part = 0; part < w->trial->num_parts; part++) {
        double *out, *lse;
        if (!is_used(w->trial, part, internal_too))
            continue;
        FB_TRY(fb_wrong_part(w, part, &out, &lse));
        FB_TRY(fb_variant_attend(&w->trial->parts[part].read, variant, out, lse));
    }
    fb_wrong_finish(w);
    return FB_OK;
}

/* --- scales ----------------------------------------------------------------------------------- */

static fb_status try_scale(fb_filter *f, fb_wrong *w, double factor, bool all, const char *words) {
    const fb_variant variant = {.scale_factor = factor};
    fb_wrong_reset(w);
    FB_TRY(vary(w, &variant, all));
    fb_filter_try(f, w, words);
    return FB_OK;
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
            FB_TRY(vary(w, &variant, true));
            double distance = scale_distance(f->trial, w);
            if (distance < least) {
                least = distance;
                best = factor;
            }
        }
        step *= 0.45;
    }
    snprintf(words, sizeof words, "the scale of the scores is off: %.5g times the right one", best);
    return try_scale(f, w, best, true, words);
}

/* exp2 where exp is meant, without log2 e: weights 2^(s - m). What is given out as the LSE depends
 * on where the factor is missing: m + log sum, m + log2 sum, (m + log2 sum) ln 2. */
static fb_status try_exp2(fb_filter *f, fb_wrong *w, size_t form, bool all) {
    const double ln2 = 0x1.62e42fefa39efp-1;
    const fb_variant variant = {.scale_factor = ln2};
    fb_wrong_reset(w);
    FB_TRY(vary(w, &variant, all));
    for (size_t part = 0; part < w->trial->num_parts; part++) {
        const double *max = w->trial->parts[part].m.max;
        if (!w->lse[part])
            continue;
        for (size_t row = 0; row < w->trial->rows; row++) {
            double sum = w->lse[part][row] - max[row] * ln2; /* the logarithm of the row sum */
            w->lse[part][row] = form == 0   ? max[row] + sum
                                : form == 1 ? max[row] + sum / ln2
                                            : w->lse[part][row];
        }
    }
    fb_wrong_finish(w);
    fb_filter_try(f, w,
                  "exp2 is taken without log2 e: exp2(s * 1.442695) is exp(s), exp2(s) is not");
    return FB_OK;
}

fb_status fb_try_scales(fb_filter *f, fb_wrong *w) {
    const double scale = w->trial->parts[0].right.scale, dim = (double)w->trial->dim;
    const struct {
        double factor;
        const char *words;
    } scales[] = {
        {scale, "the scale is applied twice (to the queries and to the scores, say)"},
        {1.0 / scale, "the scores are not scaled"},
        {sqrt(2.0), "the scale is that of half the head_dim"},
        {sqrt(0.5), "the scale is that of twice the head_dim"},
        {1.0 / (dim * scale), "the scale is 1 / head_dim, not its root"},
        {1.442695040888963, "log2 e is applied twice: exp of scores that are scaled for exp2"},
    };
    for (size_t all = 0; all < 2; all++)
        for (size_t form = 0; form < 3; form++)
            if (all || w->trial->script)
                FB_TRY(try_exp2(f, w, form, all != 0));
    for (size_t i = 0; i < sizeof scales / sizeof scales[0]; i++)
        if (fabs(scales[i].factor - 1.0) > 1e-3)
            FB_TRY(try_scale(f, w, scales[i].factor, true, scales[i].words));
    if (f->best.share < 0.5)
        FB_TRY(find_scale(f, w));
    return FB_OK;
}

/* --- KV heads --------------------------------------------------------------------------------- */

static fb_status try_map(fb_filter *f, fb_wrong *w, const size_t *map, bool all,
                         const char *words) {
    const fb_variant variant = {.kv_heads = map};
    fb_wrong_reset(w);
    FB_TRY(vary(w, &variant, all));
    fb_filter_try(f, w, words);
    return FB_OK;
}

/* What each head reads, found head by head: attention as if all heads read one KV head, for each
 * KV head; then the nearest is taken. */
static fb_status nearest_map(fb_filter *f, fb_wrong *w, size_t *map) {
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
        const fb_variant variant = {.kv_heads = all};
        fb_wrong_reset(w);
        status = vary(w, &variant, true);
        for (size_t h = 0; h < heads && status == FB_OK; h++) {
            double distance = 0.0;
            for (size_t i = 0; i < trial->num_tensors; i++) {
                const fb_trial_tensor *t = &trial->tensors[i];
                size_t width = t->lse ? 1 : trial->dim;
                for (size_t at = 0; t->value && at < t->count; at++) {
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

/* The map in words: a rule, or the heads that differ. */
static void say_map(const fb_trial *trial, const size_t *map, char *words, size_t size) {
    size_t kv_heads = trial->parts[0].right.kv_heads, heads = trial->heads;
    size_t group = heads / kv_heads, modulo = 0, divided = 0, same = 0;
    for (size_t h = 0; h < heads; h++) {
        modulo += map[h] == h % kv_heads;
        divided += map[h] == h / kv_heads % kv_heads;
        same += map[h] == map[0];
    }
    if (modulo == heads) {
        snprintf(words, size,
                 "the wrong KV head is read: query head h reads h mod num_kv_heads, not h / "
                 "(num_heads / num_kv_heads)");
        return;
    }
    if (divided == heads) {
        snprintf(words, size,
                 "the wrong KV head is read: query head h reads h / num_kv_heads, not h / "
                 "(num_heads / num_kv_heads)");
        return;
    }
    if (same == heads) {
        snprintf(words, size, "the wrong KV head is read: all heads read KV head %zu", map[0]);
        return;
    }
    int used = snprintf(words, size, "the wrong KV head is read:");
    size_t shown = 0;
    for (size_t h = 0; h < heads && used > 0 && (size_t)used < size; h++) {
        size_t last = h;
        if (map[h] == h / group)
            continue;
        while (last + 1 < heads && map[last + 1] == map[h] && (last + 1) / group == h / group)
            last++;
        if (shown++ == 6) {
            snprintf(words + used, size - (size_t)used, ", ...");
            break;
        }
        if (last > h)
            used +=
                snprintf(words + used, size - (size_t)used, "%s query heads %zu to %zu read %zu",
                         shown > 1 ? "," : "", h, last, map[h]);
        else
            used += snprintf(words + used, size - (size_t)used, "%s query head %zu reads %zu",
                             shown > 1 ? "," : "", h, map[h]);
        h = last;
    }
}

fb_status fb_try_heads(fb_filter *f, fb_wrong *w) {
    size_t kv_heads = w->trial->parts[0].right.kv_heads, *map = NULL;
    char words[300];
    if (kv_heads > 1) {
        FB_TRY(fb_alloc(w->trial->heads, sizeof *map, "heads", &map));
        fb_status status = nearest_map(f, w, map);
        say_map(w->trial, map, words, sizeof words);
        for (size_t all = 0; all < 2 && status == FB_OK; all++)
            if (all || w->trial->script)
                status = try_map(f, w, map, all == 1, words);
        fb_free(map);
        FB_TRY(status);
    }
    return FB_OK;
}
