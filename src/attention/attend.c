/* The tiled driver: attention of query rows over a view, in the order of docs/contract.md C3.
 *
 *   call    -> units: a KV head and up to 48 of its query rows (all heads of the group stacked:
 *              row = query * heads_per_kv + head in group), each on its own; fewer for many threads
 *   view    -> ranges -> chunks of up to 1024 keys, each a part; parts merge left to right
 *   chunk   -> tiles of 64 keys: scores, online softmax, values. If there are few rows, the tiles
 *              of four chunks side by side: the order of reading changes, the order of adding does
 *              not (chunk.c)
 *
 * Places: a key is known by its place. That is its token or, in a gathered view, its number among
 * all keys of the view. Only the functions that read a key ask for the token (token_at).
 *
 * Threads take units, up to four of a head together, chunk by chunk; or where units are few, (unit,
 * chunk) pairs in waves that are merged in order afterwards. Only the view decides where chunks are
 * cut, so no bit depends on who did what.
 */
#include "attention/check.h"
#include "attention/chunk.h"
#include "attention/merge.h"
#include "base/error.h"
#include "base/memory.h"
#include "base/parallel.h"
#include "base/scratch.h"

#include <flashblock/attention.h>

#include <math.h>
#include <stdint.h>
#include <string.h>

enum {
    TASKS_PER_THREAD = 4,    /* enough to even out threads that are not equally fast */
    LEAST_UNIT_ROWS = 4,     /* of fewer rows products are slow: each key is used too seldom */
    UNITS_TOGETHER = 4,      /* a chunk of f32 is 1 MiB with 128 dimensions, their state 0.4 MiB */
    PARALLEL_FMAS = 1 << 18, /* below this, starting threads costs more than it saves */
};

static fb_row_unit unit_at(const fb_attend_problem *problem, size_t index) {
    size_t first = index % problem->units_per_head * problem->unit_rows;
    size_t left = problem->num_rows - first;
    return (fb_row_unit){
        .kv_head = index / problem->units_per_head,
        .first_row = first,
        .rows = left < problem->unit_rows ? left : problem->unit_rows,
    };
}

/* to := merge(to, part), for all rows of a unit. */
static void merge_unit(const fb_attend_problem *problem, fb_row_unit unit, const fb_unit_part *part,
                       const fb_unit_part *to) {
    float weights[FB_UNIT_ROWS];
    double lse[FB_UNIT_ROWS];
    fb_merge_weights(problem->kernels, to->lse, part->lse, unit.rows, weights, lse);
    for (size_t row = 0; row < unit.rows; row++) {
        size_t at = row * problem->padded_dim;
        fb_merge_output_row(problem->kernels, to->out + at, to->lse[row], part->out + at,
                            part->lse[row], weights[row], problem->head_dim, to->out + at);
        if (problem->result->mean_key)
            fb_merge_output_row(problem->kernels, to->mean_key + at, to->lse[row],
                                part->mean_key + at, part->lse[row], weights[row],
                                problem->head_dim, to->mean_key + at);
    }
    memcpy(to->lse, lse, unit.rows * sizeof *lse);
}

static void round_lses(fb_row_unit unit, const fb_unit_part *part) {
    for (size_t row = 0; row < unit.rows; row++)
        part->lse[row] = (double)fb_round_lse(part->lse[row]);
}

/* Merges a chunk's part into its range and, when the range is complete, the range into the total.
 * LSEs are rounded when a range is complete, and only then. A merge into the empty part changes no
 * bit, so the first chunk and the first range need no case of their own. */
static void fold_chunk(const fb_attend_problem *problem, fb_row_unit unit,
                       const fb_key_chunk *chunk, const fb_unit_part *part,
                       const fb_unit_part *range, const fb_unit_part *total) {
    merge_unit(problem, unit, part, range);
    if (!chunk->ends_range)
        return;
    round_lses(unit, range);
    merge_unit(problem, unit, range, total);
    round_lses(unit, total);
    fb_empty_lses(unit, range);
}

/* The state of a unit before its first chunk. If there are no chunks, it is the unit's result. */
static void begin_merges(const fb_attend_problem *problem, fb_row_unit unit,
                         const fb_unit_part *range, const fb_unit_part *total) {
    fb_empty_lses(unit, range);
    if (problem->num_chunks > 0)
        fb_empty_lses(unit, total);
    else
        fb_empty_part(problem, unit, total);
}

static void write_result(const fb_attend_problem *problem, fb_row_unit unit,
                         const fb_unit_part *part) {
    const fb_part *result = problem->result;
    for (size_t row = 0; row < unit.rows; row++) {
        ptrdiff_t query = (ptrdiff_t)fb_row_query(problem, unit, row);
        ptrdiff_t head = (ptrdiff_t)fb_row_head(problem, unit, row);
        ptrdiff_t place = query * result->out_token_stride + head * result->out_head_stride;
        memcpy(result->out + place, part->out + row * problem->padded_dim,
               problem->head_dim * sizeof *part->out);
        if (result->mean_key)
            memcpy(result->mean_key + place, part->mean_key + row * problem->padded_dim,
                   problem->head_dim * sizeof *part->mean_key);
        result->lse[query * result->lse_token_stride + head * result->lse_head_stride] =
            fb_round_lse(part->lse[row]);
    }
}

/* Folds the parts of `count` chunks, as fb_next_parts has written them. */
static void fold_parts(const fb_attend_problem *problem, fb_row_unit unit,
                       const fb_key_chunk *chunks, size_t count, const fb_unit_part *parts,
                       const fb_unit_part *range, const fb_unit_part *total) {
    for (size_t i = 0; i < count; i++) {
        fb_unit_part part = fb_rows_of_chunk(problem, unit, parts, i);
        fold_chunk(problem, unit, &chunks[i], &part, range, total);
    }
}

/* What threads share. `scratch` holds an fb_workspace for each of them; the rest is for
 * attend_by_chunks. */
typedef struct shared {
    const fb_attend_problem *problem;
    float *scratch;
    size_t together; /* units of a head that a thread takes together, at most */
    float *parts;
    size_t wave;
    const fb_key_chunk *chunks; /* of the present wave */
    size_t count, step, unit_tasks;
} shared;

static fb_workspace own_workspace(const shared *s, size_t worker, size_t unit) {
    size_t floats = fb_workspace_floats(s->problem->head_dim, s->together);
    return fb_workspace_at(s->scratch + worker * floats, s->problem->head_dim, unit);
}

/* Computes `count` units of a head, from unit number `first` on, chunk by chunk: the chunk comes
 * from memory once and stays in the L2 cache for all of them. */
static void attend_together(const shared *s, size_t first, size_t count, size_t worker) {
    const fb_attend_problem *problem = s->problem;
    fb_workspace w[UNITS_TOGETHER];
    size_t next_chunk[UNITS_TOGETHER] = {0};
    for (size_t i = 0; i < count; i++) {
        fb_row_unit unit = unit_at(problem, first + i);
        w[i] = own_workspace(s, worker, i);
        fb_begin_unit(problem, unit, &w[i]);
        begin_merges(problem, unit, &w[i].range, &w[i].total);
    }
    for (size_t c = 0; c < problem->num_chunks; c++)
        for (size_t i = 0; i < count; i++) {
            if (next_chunk[i] > c) /* it has taken this one beside another */
                continue;
            fb_row_unit unit = unit_at(problem, first + i);
            const fb_key_chunk *chunks = problem->chunks + c;
            size_t left = problem->num_chunks - c,
                   following = left > 1 ? chunks[1].begin : SIZE_MAX;
            if (i + 1 < count)
                following = chunks[0].begin;
            size_t taken =
                fb_next_parts(problem, unit, chunks, left, following, &w[i], &w[i].chunk);
            fold_parts(problem, unit, chunks, taken, &w[i].chunk, &w[i].range, &w[i].total);
            next_chunk[i] = c + taken;
        }
    for (size_t i = 0; i < count; i++)
        write_result(problem, unit_at(problem, first + i), &w[i].total);
}

/* Groups of units that are taken together, of each head. */
static size_t groups_per_head(const fb_attend_problem *problem, size_t together) {
    return (problem->units_per_head + together - 1) / together;
}

static void attend_groups(void *context, size_t first, size_t end, size_t worker) {
    const shared *s = context;
    const size_t per_head = s->problem->units_per_head;
    const size_t groups = groups_per_head(s->problem, s->together);
    for (size_t group = first; group < end; group++) {
        size_t begin = group % groups * s->together, left = per_head - begin;
        attend_together(s, group / groups * per_head + begin,
                        left < s->together ? left : s->together, worker);
    }
}

static void attend_by_units(shared *s, size_t threads) {
    size_t groups = groups_per_head(s->problem, s->together) * s->problem->kv->num_kv_heads;
    fb_parallel_for(groups, 1, threads, attend_groups, s);
}

/* How many units a thread takes together: as many as leave enough tasks for all threads. */
static size_t units_together(const fb_attend_problem *problem, size_t threads, size_t tasks) {
    const size_t heads = problem->kv->num_kv_heads;
    size_t together =
        problem->units_per_head < UNITS_TOGETHER ? problem->units_per_head : UNITS_TOGETHER;
    while (threads > 1 && together > 1 && groups_per_head(problem, together) * heads < tasks)
        together--;
    return together;
}

/* The parts of attend_by_chunks, [num_units][2 + wave]: a unit's range, its total, then its wave.
 */
enum { RANGE = 0, TOTAL, FIRST_OF_WAVE };

static fb_unit_part wave_part(const fb_attend_problem *problem, float *parts, size_t wave,
                              size_t unit, size_t index) {
    size_t floats = fb_part_floats(problem->head_dim);
    return fb_part_at(parts + (unit * (FIRST_OF_WAVE + wave) + index) * floats, problem->head_dim);
}

/* The number of chunks of a wave that one thread takes as one task. */
static size_t chunks_of_task(const fb_attend_problem *problem) {
    return problem->num_rows <= FB_STREAM_ROWS ? FB_STREAMS : 1;
}

/* One task of a wave: computes the parts of its chunks first .. end - 1. */
static void attend_task(const fb_attend_problem *problem, size_t u, const fb_key_chunk *chunks,
                        size_t first, size_t end, const fb_workspace *w, float *parts,
                        size_t wave) {
    fb_row_unit unit = unit_at(problem, u);
    fb_begin_unit(problem, unit, w);
    for (size_t slot = first; slot < end;) {
        fb_unit_part part = wave_part(problem, parts, wave, u, FIRST_OF_WAVE + slot);
        slot += fb_next_parts(problem, unit, chunks + slot, end - slot, SIZE_MAX, w, &part);
    }
}

/* Folds the parts of one task. */
static void fold_task(const fb_attend_problem *problem, size_t u, const fb_key_chunk *chunks,
                      size_t first, size_t end, float *parts, size_t wave) {
    fb_row_unit unit = unit_at(problem, u);
    fb_unit_part range = wave_part(problem, parts, wave, u, RANGE);
    fb_unit_part total = wave_part(problem, parts, wave, u, TOTAL);
    for (size_t slot = first, count; slot < end; slot += count) {
        fb_unit_part part = wave_part(problem, parts, wave, u, FIRST_OF_WAVE + slot);
        count = fb_chunks_side_by_side(problem, unit, chunks + slot, end - slot);
        fold_parts(problem, unit, chunks + slot, count, &part, &range, &total);
    }
}

static void attend_tasks(void *context, size_t first, size_t end, size_t worker) {
    const shared *s = context;
    fb_workspace w = own_workspace(s, worker, 0);
    for (size_t task = first; task < end; task++) {
        size_t slot = task % s->unit_tasks * s->step;
        size_t slots_end = slot + s->step < s->count ? slot + s->step : s->count;
        attend_task(s->problem, task / s->unit_tasks, s->chunks, slot, slots_end, &w, s->parts,
                    s->wave);
    }
}

static void fold_units(void *context, size_t first, size_t end, size_t worker) {
    const shared *s = context;
    (void)worker;
    for (size_t u = first; u < end; u++)
        for (size_t slot = 0; slot < s->count; slot += s->step) {
            size_t slots_end = slot + s->step < s->count ? slot + s->step : s->count;
            fold_task(s->problem, u, s->chunks, slot, slots_end, s->parts, s->wave);
        }
}

/* For few units: all threads compute the chunks of a wave, then the wave is folded in order. */
static void attend_by_chunks(shared *s, size_t threads) {
    const fb_attend_problem *problem = s->problem;
    float *parts = s->parts;
    size_t wave = s->wave;
    for (size_t u = 0; u < problem->num_units; u++) {
        fb_unit_part range = wave_part(problem, parts, wave, u, RANGE);
        fb_unit_part total = wave_part(problem, parts, wave, u, TOTAL);
        begin_merges(problem, unit_at(problem, u), &range, &total);
    }
    s->step = chunks_of_task(problem);
    for (size_t first = 0; first < problem->num_chunks; first += wave) {
        size_t left = problem->num_chunks - first;
        s->chunks = problem->chunks + first;
        s->count = left < wave ? left : wave;
        s->unit_tasks = (s->count + s->step - 1) / s->step;
        fb_parallel_for(problem->num_units * s->unit_tasks, 1, threads, attend_tasks, s);
        fb_parallel_for(problem->num_units, 0, threads, fold_units, s);
    }
    for (size_t u = 0; u < problem->num_units; u++) {
        fb_unit_part total = wave_part(problem, parts, wave, u, TOTAL);
        write_result(problem, unit_at(problem, u), &total);
    }
}

/* The number of runs of places. The parts of runs merge; a run is a range of the view or, in a
 * gathered view, all its keys. */
static size_t num_runs(const fb_view *view, bool gathered) {
    return gathered ? 1 : view->num_ranges;
}

static fb_range run_at(const fb_view *view, bool gathered, size_t num_keys, size_t index) {
    return gathered ? (fb_range){0, num_keys} : view->ranges[index];
}

/* Cuts the view into chunks. Free *chunks with fb_scratch_release. */
static fb_status cut_into_chunks(const fb_view *view, bool gathered, size_t num_keys,
                                 fb_key_chunk **chunks, size_t *num_chunks) {
    size_t count = 0, runs = num_runs(view, gathered);
    for (size_t r = 0; r < runs; r++) {
        fb_range run = run_at(view, gathered, num_keys, r);
        size_t keys = run.end - run.begin;
        count += keys / FB_CHUNK_KEYS + (keys % FB_CHUNK_KEYS != 0);
    }
    size_t bytes = 0;
    if (!fb_size_mul(count, sizeof **chunks, &bytes))
        return fb_fail(FB_ERROR_MEMORY, "view: %zu chunks do not fit the address space", count);
    void *memory = NULL;
    FB_TRY(fb_scratch_acquire(bytes, &memory));
    *chunks = memory;
    *num_chunks = 0;
    size_t ordinal = 0;
    for (size_t r = 0; r < runs; r++) {
        fb_range run = run_at(view, gathered, num_keys, r);
        for (size_t place = run.begin; place < run.end;) {
            size_t left = run.end - place, keys = left < FB_CHUNK_KEYS ? left : FB_CHUNK_KEYS;
            (*chunks)[(*num_chunks)++] =
                (fb_key_chunk){place, place + keys, ordinal, place + keys == run.end};
            place += keys;
            ordinal += keys;
        }
    }
    return FB_OK;
}

/* Whether the ranges, put together, have whole groups of a KV cache as their groups of 16 keys. */
static bool groups_stay_whole(const fb_view *view) {
    if (!view->kv->pages)
        return false;
    bool whole = true; /* all ranges so far hold whole groups */
    for (size_t r = 0; r < view->num_ranges; r++) {
        fb_range range = view->ranges[r];
        if (range.begin == range.end)
            continue;
        if (!whole || range.begin % FB_GROUP_KEYS != 0)
            return false;
        whole = range.end % FB_GROUP_KEYS == 0;
    }
    return true;
}

/* Lists the tokens of a gathered view's places. Free *tokens with fb_scratch_release. */
static fb_status place_tokens(const fb_view *view, size_t num_keys, fb_attend_problem *problem,
                              size_t **tokens) {
    size_t step = groups_stay_whole(view) ? FB_GROUP_KEYS : 1, bytes = 0;
    if (!fb_size_mul(num_keys / step + 1, sizeof **tokens, &bytes))
        return fb_fail(FB_ERROR_MEMORY, "view: %zu keys do not fit the address space", num_keys);
    void *memory = NULL;
    FB_TRY(fb_scratch_acquire(bytes, &memory));
    *tokens = memory;
    size_t count = 0;
    for (size_t r = 0; r < view->num_ranges; r++)
        for (size_t token = view->ranges[r].begin; token < view->ranges[r].end; token += step)
            (*tokens)[count++] = token;
    problem->tokens = *tokens;
    problem->token_step = step;
    return FB_OK;
}

static size_t useful_threads(const fb_attend_problem *problem) {
    double fmas = 2.0 * (double)problem->queries->num_queries *
                  (double)problem->queries->num_heads * (double)problem->num_keys *
                  (double)problem->head_dim;
    return fmas < (double)PARALLEL_FMAS ? 1 : fb_parallel_threads();
}

/* Cuts the rows of each KV head into units. If there are fewer pairs of a unit and a chunk than
 * threads, units are smaller: rows are independent, so no bit changes. Keys are then read by
 * several threads, which is faster than to leave threads idle. */
static void cut_into_units(fb_attend_problem *problem, size_t threads) {
    const size_t rows = problem->num_rows, heads = problem->kv->num_kv_heads;
    size_t units = (rows + FB_UNIT_ROWS - 1) / FB_UNIT_ROWS; /* of a head */
    problem->unit_rows = FB_UNIT_ROWS;
    while (units * heads < threads && units * heads * problem->num_chunks < threads &&
           rows / (2 * units) >= LEAST_UNIT_ROWS) {
        units *= 2;
        problem->unit_rows = (rows + units - 1) / units;
    }
    problem->units_per_head = (rows + problem->unit_rows - 1) / problem->unit_rows;
    problem->num_units = problem->units_per_head * heads;
}

/* Takes the memory first: nothing can fail once threads run. */
static fb_status run_problem(const fb_attend_problem *problem, size_t threads) {
    size_t tasks = threads * TASKS_PER_THREAD;
    bool by_units = threads == 1 || problem->num_units >= tasks || problem->num_chunks < 2;
    size_t together = by_units ? units_together(problem, threads, tasks) : 1;
    size_t workspaces = threads * fb_workspace_floats(problem->head_dim, together);
    size_t wave = (tasks + problem->num_units - 1) / problem->num_units * chunks_of_task(problem);
    wave = wave < problem->num_chunks ? wave : problem->num_chunks;
    size_t floats = workspaces;
    if (!by_units)
        floats += problem->num_units * (FIRST_OF_WAVE + wave) * fb_part_floats(problem->head_dim);
    void *scratch = NULL;
    FB_TRY(fb_scratch_acquire(floats * sizeof(float), &scratch));
    shared s = {.problem = problem, .scratch = scratch, .together = together};
    s.parts = (float *)scratch + workspaces;
    s.wave = wave;
    if (by_units)
        attend_by_units(&s, threads);
    else
        attend_by_chunks(&s, threads);
    fb_scratch_release(scratch);
    return FB_OK;
}

static fb_status attend(const fb_queries *queries, const fb_view *view, bool gathered,
                        const fb_mask *mask, float scale, const fb_part *result) {
    size_t num_keys = 0;
    FB_TRY(fb_check_view(view, &num_keys));
    FB_TRY(fb_check_queries(queries, view));
    FB_TRY(fb_check_mask(mask));
    FB_TRY(fb_check_part(result, "result", queries->num_queries, queries->num_heads,
                         queries->head_dim));
    const fb_kernels *kernels = NULL;
    FB_TRY(fb_kernels_current(&kernels));
    if (queries->num_queries == 0)
        return FB_OK;
    const fb_kv *kv = view->kv;
    fb_attend_problem problem = {
        .kernels = kernels,
        .queries = queries,
        .kv = kv,
        .mask = mask,
        .result = result,
        .scale = scale != 0.0f ? scale : (float)(1.0 / sqrt((double)kv->head_dim)),
        .head_dim = kv->head_dim,
        .padded_dim = fb_padded_dim(kv->head_dim),
        .heads_per_kv = queries->num_heads / kv->num_kv_heads,
        .num_keys = num_keys,
        .token_step = FB_GROUP_KEYS,
    };
    if (!fb_size_mul(queries->num_queries, problem.heads_per_kv, &problem.num_rows))
        return fb_fail(FB_ERROR_ARGUMENT, "queries: %zu queries x %zu heads overflow",
                       queries->num_queries, queries->num_heads);
    fb_key_chunk *chunks = NULL;
    size_t *tokens = NULL;
    FB_TRY(cut_into_chunks(view, gathered, num_keys, &chunks, &problem.num_chunks));
    problem.chunks = chunks;
    const size_t threads = useful_threads(&problem);
    cut_into_units(&problem, threads);
    fb_status status = gathered ? place_tokens(view, num_keys, &problem, &tokens) : FB_OK;
    if (status == FB_OK)
        status = run_problem(&problem, threads);
    fb_scratch_release(tokens);
    fb_scratch_release(chunks);
    return status;
}

fb_status fb_attend(const fb_queries *queries, const fb_view *view, const fb_mask *mask,
                    float scale, const fb_part *result) {
    return attend(queries, view, false, mask, scale, result);
}

fb_status fb_attend_gathered(const fb_queries *queries, const fb_view *view, const fb_mask *mask,
                             float scale, const fb_part *result) {
    return attend(queries, view, true, mask, scale, result);
}
