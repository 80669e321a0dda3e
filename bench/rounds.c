#include "bench/rounds.h"

#include "base/clock.h"
#include "base/error.h"

enum { MAX_ROUNDS = 1000, MAX_RUNS = 1 << 20 };

/* A warm sample: runs that are not timed until this much has passed, then as many that are. Caches
 * take several runs to settle on new data. */
static const double warm_seconds = 10e-3;

/* Runs that take longer than this find their own data evicted anyway. */
static const double long_seconds = 50e-3;

/* Runs that take longer than this are all samples, the very first one too. */
static const double very_long_seconds = 2;

static fb_status run_for(fb_trial *trial, size_t runs) {
    for (size_t i = 0; i < runs; i++)
        FB_TRY(trial->run(trial->context));
    return FB_OK;
}

static fb_status time_first(fb_limits *limits, fb_trial *trial) {
    FB_TRY(fb_machine_use_threads(limits->machine, trial->threads));
    FB_TRY(fb_limits_sample_fma(limits, trial->threads));
    double start = fb_seconds();
    FB_TRY(trial->run(trial->context));
    trial->first = fb_seconds() - start;
    return FB_OK;
}

/* Twice: the very first run has to create threads and map memory. */
static fb_status calibrate(const fb_rounds *rounds, fb_limits *limits, fb_trial *trial) {
    FB_TRY(time_first(limits, trial));
    if (trial->first < long_seconds)
        FB_TRY(time_first(limits, trial));
    if (trial->first > very_long_seconds)
        FB_TRY(fb_samples_add(&trial->seconds, trial->first));
    double seconds = rounds->sample > 0 ? rounds->sample : warm_seconds;
    double runs = trial->first > 0 ? seconds / trial->first : MAX_RUNS;
    trial->runs = runs < MAX_RUNS ? (size_t)runs + 1 : MAX_RUNS;
    if (rounds->cold)
        trial->runs = 1;
    return FB_OK;
}

static fb_status sample(const fb_rounds *rounds, fb_limits *limits, fb_trial *trial) {
    FB_TRY(fb_machine_use_threads(limits->machine, trial->threads));
    FB_TRY(fb_limits_sample_fma(limits, trial->threads));
    if (rounds->cold)
        fb_limits_flush(limits, trial->threads);
    else if (trial->first < long_seconds)
        FB_TRY(run_for(trial, trial->runs));
    double start = fb_seconds();
    FB_TRY(run_for(trial, trial->runs));
    return fb_samples_add(&trial->seconds, (fb_seconds() - start) / (double)trial->runs);
}

static bool is_done(const fb_rounds *rounds, const fb_trial *trial) {
    return trial->first > very_long_seconds && trial->seconds.count >= rounds->min_rounds;
}

/* Memory's bandwidth for trial i's number of threads, if no trial before it has the same. */
static fb_status sample_memory(fb_limits *limits, const fb_trial *trials, size_t i) {
    for (size_t j = 0; j < i; j++)
        if (trials[j].threads == trials[i].threads)
            return FB_OK;
    FB_TRY(fb_machine_use_threads(limits->machine, trials[i].threads));
    return fb_limits_sample_memory(limits, trials[i].threads);
}

fb_status fb_rounds_run(const fb_rounds *rounds, fb_limits *limits, fb_trial *trials,
                        size_t count) {
    fb_limits_begin_period(limits);
    for (size_t i = 0; i < count; i++)
        FB_TRY(calibrate(rounds, limits, &trials[i]));
    double start = fb_seconds(), passed = 0;
    for (size_t round = 0;
         round < MAX_ROUNDS && (round < rounds->min_rounds || passed < rounds->min_seconds);
         round++) {
        bool samples_memory = rounds->memory_every == 0 || round % rounds->memory_every == 0;
        for (size_t i = 0; samples_memory && i < count; i++)
            FB_TRY(sample_memory(limits, trials, i));
        for (size_t i = 0; i < count; i++)
            if (!is_done(rounds, &trials[i]))
                FB_TRY(sample(rounds, limits, &trials[i]));
        passed = fb_seconds() - start;
        if (rounds->on_round)
            rounds->on_round(rounds->user, round + 1, passed);
    }
    return FB_OK;
}
