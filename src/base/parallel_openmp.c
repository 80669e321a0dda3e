/* The loops of parallel.h on OpenMP's threads, for programs that have OpenMP's pool anyway
 * (-Dthreads=openmp). GNU's OpenMP ends the process when it cannot create a thread, and its pool
 * does not survive fork: threads are tried before they are asked for, and a child of fork runs on
 * one thread. */
#include "base/parallel.h"

#include <flashblock/runtime.h>

#include <omp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

size_t fb_usable_cpus(void) {
    return (size_t)omp_get_num_procs();
}

/* --- how many threads there can be ------------------------------------------------------------ */

static struct {
    pthread_mutex_t lock;
    size_t known; /* threads of a loop that are known to be possible */
    bool full;    /* more than `known` are not */
    bool handles_fork;
    atomic_bool is_child; /* of a process that had loops: OpenMP's pool is gone */
} limits = {.lock = PTHREAD_MUTEX_INITIALIZER, .known = 1};

static void after_fork_in_child(void) {
    pthread_mutex_init(&limits.lock, NULL);
    atomic_store(&limits.is_child, true);
}

/* A thread that is there until it is told to go. */
static void *stay(void *lock) {
    pthread_mutex_lock(lock);
    pthread_mutex_unlock(lock);
    return NULL;
}

/* Creates `wanted` threads with the stacks that OpenMP gives them, all at the same time, and ends
 * them again. Returns how many there were. */
static size_t try_threads(size_t wanted) {
    pthread_t *threads = malloc(wanted * sizeof *threads);
    pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    size_t created = 0;
    if (!threads)
        return 0;
    pthread_mutex_lock(&lock);
    while (created < wanted && pthread_create(&threads[created], NULL, stay, &lock) == 0)
        created++;
    pthread_mutex_unlock(&lock);
    for (size_t i = 0; i < created; i++)
        pthread_join(threads[i], NULL);
    free(threads);
    return created;
}

size_t fb_parallel_prepare(size_t threads) {
    if (threads < 2 || atomic_load(&limits.is_child))
        return 1;
    pthread_mutex_lock(&limits.lock);
    if (!limits.handles_fork)
        limits.handles_fork = pthread_atfork(NULL, NULL, after_fork_in_child) == 0;
    if (limits.handles_fork && threads > limits.known && !limits.full) {
        size_t possible = 1 + try_threads(threads - 1);
        limits.full = possible < threads;
        limits.known = possible > limits.known ? possible : limits.known;
    }
    size_t known = limits.known;
    pthread_mutex_unlock(&limits.lock);
    return threads < known ? threads : known;
}

/* --- loops ------------------------------------------------------------------------------------ */

/* Without a call into OpenMP where it cannot have threads: its own start may need some, or memory
 * that is not there. */
static size_t threads_of_loop(size_t threads) {
    threads = fb_parallel_prepare(threads);
    return threads > 1 && omp_in_parallel() ? 1 : threads;
}

size_t fb_parallel_threads(void) {
    return threads_of_loop((size_t)fb_num_threads());
}

void fb_parallel_for(size_t count, size_t grain, size_t threads, fb_loop_body *body,
                     void *context) {
    if (count == 0)
        return;
    threads = threads < 1 ? 1 : threads < count ? threads : count;
    if (grain == 0)
        grain = (count + threads - 1) / threads;
    if (grain < count)
        threads = threads_of_loop(threads);
    if (threads == 1 || grain >= count) {
        body(context, 0, count, 0);
        return;
    }
    atomic_size_t next = 0;
#pragma omp parallel num_threads((int)threads)
    for (;;) {
        size_t first = atomic_fetch_add_explicit(&next, grain, memory_order_relaxed);
        if (first >= count)
            break;
        size_t left = count - first;
        body(context, first, first + (left < grain ? left : grain), (size_t)omp_get_thread_num());
    }
}
