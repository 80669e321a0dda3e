#define _GNU_SOURCE /* sets of CPUs */
#include "base/parallel.h"

#include "base/clock.h"

#include <flashblock/runtime.h>

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    MAX_LOOPS = 32,     /* at the same time; a further one runs on its caller only */
    MAX_WORKERS = 1024, /* of the pool */
    STACK = 2 << 20,
    LINE = 64, /* of a cache */
};

/* A thread that waits for work, or for others, looks again and again at first: to wake it takes
 * longer than most loops do. After a while it lets others run in between. Then it sleeps. */
static const double seconds_of_looking = 20e-6, seconds_of_yielding = 1e-3;

/* --- loops ------------------------------------------------------------------------------------ */

/* A loop that threads may join. `gate` says whether they may: a count of the loops that were here
 * (so that a late thread does not join another loop than the one it saw), a bit, and the number of
 * pool threads that are inside. The other members do not change while one is inside. */
typedef struct loop {
    _Alignas(LINE) _Atomic uint64_t gate;
    atomic_size_t workers;             /* those that joined, the caller among them */
    atomic_bool taken;                 /* by a caller */
    _Alignas(LINE) atomic_size_t next; /* turn */
    _Alignas(LINE) size_t count, grain, threads;
    fb_loop_body *body;
    void *context;
} loop;

#define OPEN       ((uint64_t)1 << 31)
#define INSIDE     (OPEN - 1)
#define GENERATION ((uint64_t)1 << 32)

/* A thread of the pool. */
typedef struct pool_thread {
    size_t number; /* from 1 */
    pthread_cond_t wake;
    bool is_asleep;
} pool_thread;

static struct {
    pthread_mutex_t lock; /* of threads that are created, fall asleep, wake; and of what follows */
    pthread_cond_t done;  /* nobody is inside of a loop that was closed */
    bool handles_fork;
    bool sleeps_at_once; /* OMP_WAIT_POLICY says so */
    size_t cpus;
    pool_thread workers[MAX_WORKERS];

    atomic_size_t num_workers; /* that run */
    atomic_size_t wanted;      /* by all loops that are open now */
    atomic_size_t active;      /* workers from 1 to this number help; further ones sleep */
    atomic_size_t asleep;      /* workers */
    atomic_size_t waiting;     /* callers that sleep until `done` */
    atomic_size_t signals;     /* counts up when a loop opens */
    atomic_bool is_crowded;    /* more threads than CPUs, or waiting ones are to sleep */
    loop loops[MAX_LOOPS];
} pool = {.lock = PTHREAD_MUTEX_INITIALIZER, .done = PTHREAD_COND_INITIALIZER};

static _Thread_local bool is_inside; /* of a body */

static void take_turns(loop *l, size_t worker) {
    is_inside = true;
    for (;;) {
        size_t first = atomic_fetch_add_explicit(&l->next, l->grain, memory_order_relaxed);
        if (first >= l->count)
            break;
        size_t left = l->count - first;
        l->body(l->context, first, first + (left < l->grain ? left : l->grain), worker);
    }
    is_inside = false;
}

/* --- waiting ---------------------------------------------------------------------------------- */

static void pause_briefly(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* How long a thread has been waiting. */
typedef struct patience {
    unsigned looks;
    double start;
} patience;

/* One more look; false when it is time to sleep. */
static bool wait_awake(patience *p) {
    if (atomic_load_explicit(&pool.is_crowded, memory_order_relaxed))
        return false;
    if (p->looks++ % 64 != 0) {
        pause_briefly();
        return true;
    }
    double now = fb_seconds();
    if (p->looks == 1)
        p->start = now;
    if (now - p->start > seconds_of_looking)
        sched_yield();
    return now - p->start < seconds_of_yielding;
}

/* --- threads of the pool ---------------------------------------------------------------------- */

/* Joins the loop if it is open, and helps. The last one to leave a closed loop wakes its caller:
 * either it sees that somebody waits, or the caller sees that nobody is inside. */
static void help(loop *l) {
    uint64_t gate = atomic_load_explicit(&l->gate, memory_order_relaxed);
    do {
        if (!(gate & OPEN))
            return;
    } while (!atomic_compare_exchange_weak_explicit(&l->gate, &gate, gate + 1, memory_order_acquire,
                                                    memory_order_relaxed));
    size_t number = atomic_fetch_add_explicit(&l->workers, 1, memory_order_relaxed);
    if (number < l->threads)
        take_turns(l, number);
    gate = atomic_fetch_sub(&l->gate, 1) - 1;
    if ((gate & (OPEN | INSIDE)) == 0 && atomic_load(&pool.waiting) > 0) {
        pthread_mutex_lock(&pool.lock);
        pthread_cond_broadcast(&pool.done);
        pthread_mutex_unlock(&pool.lock);
    }
}

static bool has_work(const pool_thread *w, size_t seen) {
    return atomic_load(&pool.signals) != seen && w->number <= atomic_load(&pool.active);
}

static void wait_for_work(pool_thread *w, size_t seen) {
    patience p = {0};
    while (!has_work(w, seen)) {
        if (w->number <= atomic_load(&pool.active) && wait_awake(&p))
            continue;
        pthread_mutex_lock(&pool.lock);
        w->is_asleep = true;
        atomic_fetch_add(&pool.asleep, 1); /* before it looks at the signals once more */
        while (!has_work(w, seen))
            pthread_cond_wait(&w->wake, &pool.lock);
        w->is_asleep = false;
        atomic_fetch_sub(&pool.asleep, 1);
        pthread_mutex_unlock(&pool.lock);
    }
}

static void *run_worker(void *context) {
    pool_thread *w = context;
    size_t seen = 0;
    for (;;) {
        wait_for_work(w, seen);
        seen = atomic_load(&pool.signals);
        for (size_t i = 0; i < MAX_LOOPS; i++)
            help(&pool.loops[i]);
    }
    return NULL;
}

/* All signals go to the program's own threads. */
static bool create_thread(pool_thread *w) {
    pthread_attr_t attributes;
    pthread_t thread;
    sigset_t all, before;
    if (pthread_attr_init(&attributes) != 0)
        return false;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    bool created = pthread_attr_setstacksize(&attributes, STACK) == 0 &&
                   pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED) == 0 &&
                   pthread_create(&thread, &attributes, run_worker, w) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return created;
}

/* --- fork ------------------------------------------------------------------------------------- */

static void before_fork(void) {
    pthread_mutex_lock(&pool.lock);
}

static void after_fork_in_parent(void) {
    pthread_mutex_unlock(&pool.lock);
}

/* Only the thread that forked goes on in the child: the pool is empty. */
static void after_fork_in_child(void) {
    pthread_mutex_init(&pool.lock, NULL);
    pthread_cond_init(&pool.done, NULL);
    atomic_store(&pool.num_workers, 0);
    atomic_store(&pool.wanted, 0);
    atomic_store(&pool.active, 0);
    atomic_store(&pool.asleep, 0);
    atomic_store(&pool.waiting, 0);
    for (size_t i = 0; i < MAX_LOOPS; i++) {
        atomic_store(&pool.loops[i].gate, 0);
        atomic_store(&pool.loops[i].taken, false);
    }
}

/* --- the pool --------------------------------------------------------------------------------- */

size_t fb_usable_cpus(void) {
#ifdef CPU_COUNT
    cpu_set_t cpus;
    if (sched_getaffinity(0, sizeof cpus, &cpus) == 0)
        return (size_t)CPU_COUNT(&cpus);
#endif
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online > 0 ? (size_t)online : 1;
}

/* What decides how threads wait. OMP_WAIT_POLICY is OpenMP's name, and means what it means there.
 */
static void read_surroundings(void) {
    const char *policy = getenv("OMP_WAIT_POLICY");
    pool.sleeps_at_once =
        policy && (strcmp(policy, "passive") == 0 || strcmp(policy, "PASSIVE") == 0);
    pool.cpus = fb_usable_cpus();
}

static bool create_worker(size_t number) {
    pool_thread *w = &pool.workers[number - 1];
    *w = (pool_thread){.number = number};
    return pthread_cond_init(&w->wake, NULL) == 0 && create_thread(w);
}

/* Creates threads until there are `wanted`, or as many as can be. Without a way to know of forks
 * there are none: a child would wait for threads that it does not have. */
static void grow(size_t wanted) {
    pthread_mutex_lock(&pool.lock);
    if (!pool.handles_fork)
        pool.handles_fork =
            pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child) == 0;
    size_t workers = atomic_load(&pool.num_workers);
    if (workers == 0)
        read_surroundings();
    while (pool.handles_fork && workers < wanted && workers < MAX_WORKERS &&
           create_worker(workers + 1))
        workers++;
    atomic_store(&pool.num_workers, workers);
    pthread_mutex_unlock(&pool.lock);
}

size_t fb_parallel_prepare(size_t threads) {
    if (threads < 2)
        return 1;
    if (atomic_load(&pool.num_workers) < threads - 1)
        grow(threads - 1);
    size_t workers = atomic_load(&pool.num_workers);
    return workers < threads - 1 ? workers + 1 : threads;
}

/* --- calls ------------------------------------------------------------------------------------ */

static loop *take_loop(void) {
    for (size_t i = 0; i < MAX_LOOPS; i++)
        if (!atomic_exchange_explicit(&pool.loops[i].taken, true, memory_order_acquire))
            return &pool.loops[i];
    return NULL;
}

static void wake(size_t workers) {
    pthread_mutex_lock(&pool.lock);
    for (size_t i = 0; i < workers && i < atomic_load(&pool.num_workers); i++)
        if (pool.workers[i].is_asleep)
            pthread_cond_signal(&pool.workers[i].wake);
    pthread_mutex_unlock(&pool.lock);
}

static void open_loop(loop *l) {
    size_t wanted = atomic_fetch_add(&pool.wanted, l->threads - 1) + l->threads - 1;
    if (atomic_load(&pool.num_workers) < wanted)
        grow(wanted);
    atomic_store(&pool.is_crowded, pool.sleeps_at_once || wanted >= pool.cpus);
    atomic_store(&l->next, 0);
    atomic_store(&l->workers, 1);
    uint64_t gate = atomic_load(&l->gate);
    atomic_store(&l->gate, (gate & ~(OPEN | INSIDE)) + GENERATION + OPEN);
    atomic_store(&pool.active, wanted);
    atomic_fetch_add(&pool.signals, 1);
    if (atomic_load(&pool.asleep) > 0) /* after the signal: see wait_for_work */
        wake(wanted);
}

/* Nobody joins any more; waits for those that are inside. */
static void close_loop(loop *l) {
    patience p = {0};
    atomic_fetch_and(&l->gate, ~OPEN);
    while (atomic_load(&l->gate) & INSIDE) {
        if (wait_awake(&p))
            continue;
        pthread_mutex_lock(&pool.lock);
        atomic_fetch_add(&pool.waiting, 1);
        while (atomic_load(&l->gate) & INSIDE)
            pthread_cond_wait(&pool.done, &pool.lock);
        atomic_fetch_sub(&pool.waiting, 1);
        pthread_mutex_unlock(&pool.lock);
    }
    atomic_fetch_sub(&pool.wanted, l->threads - 1);
    atomic_store(&l->taken, false);
}

/* OpenMP's, where the program has it. */
#if defined(__GNUC__)
extern int omp_in_parallel(void) __attribute__((weak));

static bool in_parallel_region(void) {
    return omp_in_parallel && omp_in_parallel();
}
#else
static bool in_parallel_region(void) {
    return false;
}
#endif

size_t fb_parallel_threads(void) {
    return is_inside || in_parallel_region() ? 1 : (size_t)fb_num_threads();
}

void fb_parallel_for(size_t count, size_t grain, size_t threads, fb_loop_body *body,
                     void *context) {
    if (count == 0)
        return;
    threads = threads < 1 ? 1 : threads < count ? threads : count;
    if (grain == 0)
        grain = (count + threads - 1) / threads;
    bool alone = threads == 1 || grain >= count || fb_parallel_threads() == 1;
    loop *l = alone ? NULL : take_loop();
    if (!l) {
        body(context, 0, count, 0);
        return;
    }
    l->count = count;
    l->grain = grain;
    l->threads = threads;
    l->body = body;
    l->context = context;
    open_loop(l);
    take_turns(l, 0);
    close_loop(l);
}
