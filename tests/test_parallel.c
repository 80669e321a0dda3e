/* Loops on the library's threads: every turn is taken once, however many threads there are, from
 * however many callers, in a child of fork, and where no thread can be created. */
#include "base/parallel.h"

#include <flashblock/attention.h>
#include <flashblock/runtime.h>

#include <criterion/criterion.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

enum { TURNS = 1000, CALLERS = 40, SAME = 64 };

typedef struct tally {
    atomic_int taken[TURNS];
    atomic_int holders[SAME]; /* threads that have the same number */
    atomic_bool doubled;
    size_t threads;
} tally;

static void count(void *context, size_t first, size_t end, size_t worker) {
    tally *t = context;
    if (worker >= t->threads || atomic_fetch_add(&t->holders[worker % SAME], 1) != 0)
        atomic_store(&t->doubled, true);
    for (size_t i = first; i < end; i++)
        atomic_fetch_add(&t->taken[i], 1);
    atomic_fetch_sub(&t->holders[worker % SAME], 1);
}

static bool all_taken(size_t turns, size_t grain, size_t threads) {
    tally t = {.threads = threads};
    fb_parallel_for(turns, grain, threads, count, &t);
    for (size_t i = 0; i < TURNS; i++)
        if (atomic_load(&t.taken[i]) != (i < turns))
            return false;
    return !atomic_load(&t.doubled);
}

static bool all_cases(void) {
    const size_t turns[] = {0, 1, 2, 3, 17, TURNS}, grains[] = {0, 1, 2, 5, 2000};
    const size_t threads[] = {1, 2, 3, 4, 16};
    for (size_t i = 0; i < 6; i++)
        for (size_t j = 0; j < 5; j++)
            for (size_t k = 0; k < 5; k++)
                if (!all_taken(turns[i], grains[j], threads[k]))
                    return false;
    return true;
}

Test(parallel, takes_every_turn_once) {
    for (int i = 0; i < 20; i++)
        cr_assert(all_cases());
}

static void *call_often(void *ok) {
    for (int i = 0; i < 50; i++)
        if (!all_cases())
            atomic_store((atomic_bool *)ok, false);
    return NULL;
}

Test(parallel, serves_many_callers_at_once) {
    pthread_t callers[CALLERS];
    atomic_bool ok = true;
    for (int i = 0; i < CALLERS; i++)
        cr_assert_eq(pthread_create(&callers[i], NULL, call_often, &ok), 0);
    for (int i = 0; i < CALLERS; i++)
        pthread_join(callers[i], NULL);
    cr_assert(atomic_load(&ok));
}

static void nest(void *context, size_t first, size_t end, size_t worker) {
    (void)worker;
    for (size_t i = first; i < end; i++)
        if (fb_parallel_threads() != 1 || !all_taken(17, 1, 4))
            atomic_store((atomic_bool *)context, false);
}

Test(parallel, runs_inner_loops_alone) {
    atomic_bool ok = true;
    fb_set_num_threads(4);
    fb_parallel_for(100, 1, 4, nest, &ok);
    cr_assert(atomic_load(&ok));
    cr_assert_eq(fb_parallel_threads(), 4);
}

/* Whether a child, which has a minute, exits with 0. */
static bool child_succeeds(bool (*work)(void)) {
    pid_t child = fork();
    if (child == 0) {
        alarm(60);
        _exit(work() ? 0 : 1);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/* OpenMP's threads (-Dthreads=openmp) do not survive fork. A child that comes into being while
 * OpenMP is at work may find its locks held, and without memory OpenMP ends the process. */
#if defined(_OPENMP)
#define USES_OPENMP true
enum { THREADS_OF_A_CHILD = 1 };
#else
#define USES_OPENMP false
enum { THREADS_OF_A_CHILD = 3 };
#endif

static bool child_has_threads(void) {
    return all_cases() && fb_parallel_prepare(3) == THREADS_OF_A_CHILD;
}

Test(parallel, works_in_children) {
    cr_assert(all_cases());
    for (int i = 0; i < 20; i++)
        cr_assert(child_succeeds(child_has_threads));
    cr_assert(all_cases());
}

static bool grandchild_has_threads(void) {
    return all_cases() && child_succeeds(child_has_threads);
}

Test(parallel, works_in_grandchildren) {
    cr_assert(child_succeeds(grandchild_has_threads));
}

/* A thread forks while others use the pool. */
Test(parallel, works_in_children_of_a_busy_process, .disabled = USES_OPENMP) {
    pthread_t callers[4];
    atomic_bool ok = true;
    for (int i = 0; i < 4; i++)
        cr_assert_eq(pthread_create(&callers[i], NULL, call_often, &ok), 0);
    for (int i = 0; i < 20; i++)
        cr_assert(child_succeeds(child_has_threads));
    for (int i = 0; i < 4; i++)
        pthread_join(callers[i], NULL);
    cr_assert(atomic_load(&ok));
}

#if defined(__SANITIZE_ADDRESS__)
#define HAS_OWN_ADDRESS_SPACE true
#else
#define HAS_OWN_ADDRESS_SPACE false
#endif

static bool does_without_threads(void) {
    struct rlimit all = {0, 0};
    if (setrlimit(RLIMIT_AS, &all) != 0) /* no further stack fits */
        return false;
    return fb_parallel_prepare(1000) < 100 && all_cases(); /* libc may have kept some stacks */
}

Test(parallel, does_without_threads, .disabled = HAS_OWN_ADDRESS_SPACE || USES_OPENMP) {
    cr_assert(child_succeeds(does_without_threads));
}

/* --- attention, in a child ----------------------------------------------------------------------
 */

enum { KEYS = 4096, DIM = 64, HEADS = 8 };

static float *keys, *queries, expected[4 * HEADS * DIM];

static bool attends(float *out) {
    float lse[4 * HEADS];
    fb_kv kv = fb_kv_rows(FB_F32, keys, keys, KEYS, HEADS, DIM);
    fb_queries rows = fb_queries_rows(queries, 4, HEADS, DIM);
    fb_range range = {0, KEYS};
    fb_view view = {.kv = &kv, .ranges = &range, .num_ranges = 1};
    fb_part part = fb_part_rows(out, lse, HEADS, DIM);
    return fb_attend(&rows, &view, NULL, 0.125f, &part) == FB_OK;
}

static bool attends_as_before(void) {
    static float out[4 * HEADS * DIM];
    return attends(out) && memcmp(out, expected, sizeof out) == 0;
}

Test(parallel, attention_has_the_same_bits_in_a_child) {
    keys = malloc(KEYS * HEADS * DIM * sizeof *keys);
    queries = malloc(4 * HEADS * DIM * sizeof *queries);
    for (size_t i = 0; i < KEYS * HEADS * DIM; i++)
        keys[i] = (float)(i * 2654435761u % 1000) / 500 - 1;
    memcpy(queries, keys, 4 * HEADS * DIM * sizeof *queries);
    fb_set_num_threads(3);
    cr_assert(attends(expected), "%s", fb_error_message());
    cr_assert(attends_as_before());
    cr_assert(child_succeeds(attends_as_before));
    fb_set_num_threads(1);
    cr_assert(attends_as_before());
    free(keys);
    free(queries);
}
