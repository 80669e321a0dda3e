#include "bench/limits.h"

#include "base/clock.h"
#include "base/error.h"

#include <flashblock/runtime.h>

#include <stdlib.h>
#include <string.h>

enum {
    FMA_FLOPS = 200 * 1000 * 1000, /* of one sample and thread: some 2 ms */
    MIN_BUFFER = 256 << 20,        /* memory is read from this much, or 4 times the last cache */
    CORE_BUFFER = 16 << 20,        /* at least this much for each core */
    CACHE_BYTES = 64 << 20,        /* read from a cache in one sample */
    READ_UNIT = 8 * 512,           /* every number of streams divides it, see limit_kernels.h */
};

static const size_t stream_counts[] = {1, 4, 8};

enum { NUM_STREAM_COUNTS = sizeof stream_counts / sizeof stream_counts[0] };

const fb_limit_kernels *fb_limit_kernels_widest(void) {
#if defined(__x86_64__)
    if (fb_isa_supported(FB_ISA_AVX512))
        return &fb_limit_kernels_avx512;
    if (fb_isa_supported(FB_ISA_AVX2))
        return &fb_limit_kernels_avx2;
#endif
    return &fb_limit_kernels_baseline;
}

static void add_thread_count(fb_limits *limits, size_t threads) {
    for (size_t i = 0; i < limits->count; i++)
        if (limits->limits[i].threads == threads)
            return;
    limits->limits[limits->count++].threads = threads;
}

fb_status fb_limits_create(fb_limits *limits, const fb_machine *machine, const size_t *threads,
                           size_t count) {
    limits->machine = machine;
    limits->kernels = fb_limit_kernels_widest();
    limits->num_levels = machine->num_caches + 1;
    add_thread_count(limits, 1);
    add_thread_count(limits, machine->num_cores);
    for (size_t i = 0; i < count && i < FB_MAX_THREAD_COUNTS; i++)
        add_thread_count(limits, threads[i]);
    limits->bytes = 4 * fb_machine_last_cache(machine);
    if (limits->bytes < MIN_BUFFER)
        limits->bytes = MIN_BUFFER;
    if (limits->bytes < machine->num_cores * CORE_BUFFER)
        limits->bytes = machine->num_cores * CORE_BUFFER;
    FB_TRY(fb_huge_alloc(limits->bytes, "buffer of the bandwidth measurement", &limits->buffer));
    /* 0.0115 as f32 and bf16, 1.06 as f16: kernels may take it for keys, values or weights */
    memset(limits->buffer, 0x3c, limits->bytes);
    return FB_OK;
}

void fb_limits_free(fb_limits *limits) {
    for (size_t i = 0; i < limits->count; i++) {
        fb_samples_free(&limits->limits[i].fma);
        for (size_t level = 0; level < FB_MAX_LEVELS; level++)
            fb_samples_free(&limits->limits[i].read[level]);
    }
    free(limits->buffer);
    *limits = (fb_limits){0};
}

static size_t index_of(const fb_limits *limits, size_t threads) {
    size_t i = 0;
    while (i + 1 < limits->count && limits->limits[i].threads != threads)
        i++;
    return i;
}

/* --- samples ---------------------------------------------------------------------------------- */

/* One sample: what each thread does between two meetings, and how long that takes. */
typedef struct sample {
    const fb_limits *limits;
    fb_meeting meeting;
    size_t share, bytes, repeats, streams; /* of reading */
    double start, end;
} sample;

static void multiply_add(void *context, size_t member) {
    sample *s = context;
    const fb_limit_kernels *kernels = s->limits->kernels;
    const float x[2] = {0.5f, 1.0f};
    volatile float sink; /* what the loop computes must be used */
    fb_meet(&s->meeting);
    if (member == 0)
        s->start = fb_seconds();
    sink = kernels->fma(FMA_FLOPS / kernels->flops, x);
    fb_meet(&s->meeting);
    if (member == 0)
        s->end = fb_seconds();
    (void)sink;
}

/* GFLOP/s of all threads together. */
static fb_status sample_fma(const fb_limits *limits, size_t threads, double *rate) {
    const fb_limit_kernels *kernels = limits->kernels;
    size_t iterations = FMA_FLOPS / kernels->flops;
    sample s = {.limits = limits, .meeting = {.num_threads = threads}};
    FB_TRY(fb_machine_run_team(threads, multiply_add, &s));
    *rate = 1e-9 * (double)(threads * iterations * kernels->flops) / (s.end - s.start);
    return FB_OK;
}

static void read_memory(void *context, size_t member) {
    sample *s = context;
    const fb_limit_kernels *kernels = s->limits->kernels;
    const char *from = s->limits->buffer + member * s->share;
    volatile uint64_t sink;
    if (s->repeats > 1)
        sink = kernels->read(from, s->bytes, s->streams); /* into the cache */
    fb_meet(&s->meeting);
    if (member == 0)
        s->start = fb_seconds();
    for (size_t i = 0; i < s->repeats; i++)
        sink = kernels->read(from, s->bytes, s->streams);
    fb_meet(&s->meeting);
    if (member == 0)
        s->end = fb_seconds();
    (void)sink;
}

/* GB/s of all threads together: each reads its own `bytes`, `repeats` times. */
static fb_status read_gbs(const fb_limits *limits, size_t threads, size_t bytes, size_t repeats,
                          size_t streams, double *rate) {
    sample s = {.limits = limits,
                .meeting = {.num_threads = threads},
                .share = limits->bytes / threads / READ_UNIT * READ_UNIT,
                .bytes = bytes,
                .repeats = repeats,
                .streams = streams};
    FB_TRY(fb_machine_run_team(threads, read_memory, &s));
    *rate = 1e-9 * (double)(threads * repeats) * (double)bytes / (s.end - s.start);
    return FB_OK;
}

/* From a cache, half of what it holds, divided among the threads that share it. */
static fb_status sample_read(const fb_limits *limits, size_t threads, size_t level, size_t streams,
                             double *rate) {
    size_t share = limits->bytes / threads / READ_UNIT * READ_UNIT;
    if (level == FB_LEVEL_MEMORY)
        return read_gbs(limits, threads, share, 1, streams, rate);
    const fb_cache_level *cache = &limits->machine->caches[level - 1];
    size_t sharing = threads < cache->cpus ? threads : cache->cpus;
    size_t bytes = cache->bytes / 2 / (sharing ? sharing : 1) / READ_UNIT * READ_UNIT;
    bytes = bytes < READ_UNIT ? READ_UNIT : bytes < share ? bytes : share;
    return read_gbs(limits, threads, bytes, CACHE_BYTES / bytes + 2, streams, rate);
}

/* How many streams read a level fastest: the best of `tries` samples each. */
static fb_status find_streams(const fb_limits *limits, size_t threads, size_t level, size_t tries,
                              size_t *found) {
    double best = 0, rate = 0;
    for (size_t attempt = 0; attempt < tries; attempt++)
        for (size_t i = 0; i < NUM_STREAM_COUNTS; i++) {
            FB_TRY(sample_read(limits, threads, level, stream_counts[i], &rate));
            if (rate > best) {
                best = rate;
                *found = stream_counts[i];
            }
        }
    return FB_OK;
}

static fb_status sample_level(const fb_limits *limits, fb_limit *limit, size_t level) {
    double rate = 0;
    FB_TRY(sample_read(limits, limit->threads, level, limit->streams[level], &rate));
    return fb_samples_add(&limit->read[level], rate);
}

static fb_status sample_all(fb_limits *limits, fb_limit *limit) {
    FB_TRY(fb_machine_use_threads(limits->machine, limit->threads));
    FB_TRY(fb_limits_sample_fma(limits, limit->threads));
    for (size_t level = 0; level < limits->num_levels; level++)
        FB_TRY(sample_level(limits, limit, level));
    return FB_OK;
}

fb_status fb_limits_measure(fb_limits *limits, size_t rounds) {
    enum { MAX_TRIES = 3 };
    size_t tries = rounds < MAX_TRIES ? rounds : MAX_TRIES;
    for (size_t i = 0; i < limits->count; i++) {
        fb_limit *limit = &limits->limits[i];
        FB_TRY(fb_machine_use_threads(limits->machine, limit->threads));
        for (size_t level = 0; level < limits->num_levels; level++)
            if (limit->streams[level] == 0)
                FB_TRY(find_streams(limits, limit->threads, level, tries, &limit->streams[level]));
    }
    for (size_t round = 0; round < rounds; round++)
        for (size_t i = 0; i < limits->count; i++)
            FB_TRY(sample_all(limits, &limits->limits[i]));
    return FB_OK;
}

fb_status fb_limits_sample_fma(fb_limits *limits, size_t threads) {
    fb_limit *limit = &limits->limits[index_of(limits, threads)];
    /* After other work, a core takes a millisecond to reach its full speed of multiply-adds (Zen
     * 3). */
    double rate = 0;
    FB_TRY(sample_fma(limits, threads, &rate));
    FB_TRY(sample_fma(limits, threads, &rate));
    return fb_samples_add(&limit->fma, rate);
}

fb_status fb_limits_sample_memory(fb_limits *limits, size_t threads) {
    return sample_level(limits, &limits->limits[index_of(limits, threads)], FB_LEVEL_MEMORY);
}

/* --- results ---------------------------------------------------------------------------------- */

void fb_limits_begin_period(fb_limits *limits) {
    for (size_t i = 0; i < limits->count; i++) {
        limits->limits[i].fma_begin = limits->limits[i].fma.count;
        limits->limits[i].memory_begin = limits->limits[i].read[FB_LEVEL_MEMORY].count;
    }
}

/* The median from sample `begin` on, if there are any. */
static double median_from(const fb_samples *samples, size_t begin) {
    return fb_samples_median(samples, begin < samples->count ? begin : 0);
}

double fb_limits_fma(const fb_limits *limits, size_t threads) {
    const fb_limit *limit = &limits->limits[index_of(limits, threads)];
    return median_from(&limit->fma, limit->fma_begin);
}

double fb_limits_read(const fb_limits *limits, size_t threads, size_t level) {
    const fb_limit *limit = &limits->limits[index_of(limits, threads)];
    return median_from(&limit->read[level], level == FB_LEVEL_MEMORY ? limit->memory_begin : 0);
}

size_t fb_limits_level_of(const fb_limits *limits, size_t threads, size_t bytes) {
    for (size_t i = 0; i < limits->machine->num_caches; i++) {
        const fb_cache_level *cache = &limits->machine->caches[i];
        size_t caches = cache->cpus && threads > cache->cpus ? threads / cache->cpus : 1;
        if (bytes <= caches * cache->bytes)
            return i + 1;
    }
    return FB_LEVEL_MEMORY;
}

void fb_limits_flush(const fb_limits *limits, size_t threads) {
    size_t share = limits->bytes / threads / READ_UNIT * READ_UNIT;
    double rate = 0; /* a flush that fails leaves the caches warm */
    (void)read_gbs(limits, threads, share, 1, stream_counts[0], &rate);
}
