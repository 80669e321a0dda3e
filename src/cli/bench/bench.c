#include "cli/bench/bench.h"

#include "base/error.h"
#include "cli/options/isa_choice.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "simd/kernels.h"

#include <flashblock/runtime.h>
#include <flashblock/version.h>

#include <stdio.h>

/* --- progress --------------------------------------------------------------------------------- */

static void show_round(void *what, size_t round, double seconds) {
    fb_progress_often("%s: %zu rounds in %.1f s", (const char *)what, round, seconds);
}

fb_rounds fb_bench_rounds(const fb_bench *bench, const char *what) {
    union {
        const char *text;
        void *user;
    } title = {what};
    fb_progress("%s", what);
    return (fb_rounds){
        .min_rounds = bench->settings->repeats,
        .min_seconds = bench->settings->min_seconds,
        .cold = bench->settings->cold,
        .on_round = show_round,
        .user = title.user,
    };
}

/* --- machine and limits ----------------------------------------------------------------------- */

fb_status fb_bench_begin(fb_bench *bench, const fb_bench_settings *settings) {
    enum { LIMIT_ROUNDS = 5 };
    size_t repeats = settings->repeats;
    bench->settings = settings;
    bench->quiet = fb_is_stdout(settings->json);
    for (size_t i = 0; i < FB_BENCH_NUM_ARRAYS; i++) {
        fb_json_writer like = fb_json_output(&bench->texts[i]);
        bench->arrays[i] = fb_json_fragment_to(&bench->texts[i], &like, 1);
    }
    fb_machine_read(&bench->machine);
    FB_TRY(fb_number_list_check(&settings->threads, "threads", 1, bench->machine.num_cores));
    if (settings->threads.count > FB_MAX_THREAD_COUNTS)
        return fb_fail(FB_ERROR_ARGUMENT, "--threads: more than %d numbers", FB_MAX_THREAD_COUNTS);
    FB_TRY(fb_isa_choice_set(0, settings->isa));
    FB_TRY(fb_limits_create(&bench->limits, &bench->machine, settings->threads.values,
                            settings->threads.count));
    fb_progress("limits of this machine");
    FB_TRY(fb_limits_measure(&bench->limits, repeats < LIMIT_ROUNDS ? repeats : LIMIT_ROUNDS));
    return FB_OK;
}

/* "L3", "memory" */
static const char *level_name(const fb_bench *bench, size_t level, char *name, size_t size) {
    if (level == FB_LEVEL_MEMORY)
        snprintf(name, size, "memory");
    else
        snprintf(name, size, "L%zu, %zu KiB", bench->machine.caches[level - 1].level,
                 bench->machine.caches[level - 1].bytes >> 10);
    return name;
}

void fb_bench_print_limits(const fb_bench *bench) {
    const fb_limits *limits = &bench->limits;
    fb_isa isa = FB_ISA_SCALAR;
    fb_isa_current(&isa);
    fb_progress_end();
    const fb_kernels *kernels = NULL;
    bool mixed = fb_kernels_current(&kernels) == FB_OK && kernels == fb_kernels_fastest();
    printf("%s, %zu cores; kernels: %s%s; limits: %s\n\n", bench->machine.cpu,
           bench->machine.num_cores, mixed ? "the fastest for " : "",
           mixed ? fb_kernels_cpu() : fb_isa_name(isa), limits->kernels->name);
    printf("%-24s", "threads");
    for (size_t i = 0; i < limits->count; i++)
        printf("%10zu", limits->limits[i].threads);
    printf("\n%-24s", "multiply-adds, GFLOP/s");
    for (size_t i = 0; i < limits->count; i++)
        printf("%10.1f", fb_limits_fma(limits, limits->limits[i].threads));
    for (size_t level = 1; level <= limits->num_levels; level++) {
        char name[64];
        size_t at = level % limits->num_levels; /* memory last */
        printf("\nread, GB/s: %-12s", level_name(bench, at, name, sizeof name));
        for (size_t i = 0; i < limits->count; i++)
            printf("%10.1f", fb_limits_read(limits, limits->limits[i].threads, at));
    }
    printf("\n");
}

static void put_caches(fb_json_writer *w, const fb_bench *bench) {
    const fb_machine *machine = &bench->machine;
    fb_json_open_array(w, "caches");
    for (size_t i = 0; i < machine->num_caches; i++) {
        fb_json_open_object(w, NULL);
        fb_json_put_size(w, "level", machine->caches[i].level);
        fb_json_put_size(w, "bytes", machine->caches[i].bytes);
        fb_json_put_size(w, "cpus", machine->caches[i].cpus);
        fb_json_put_double(w, "read_gbs_1", fb_limits_read(&bench->limits, 1, i + 1));
        fb_json_put_double(w, "read_gbs_all",
                           fb_limits_read(&bench->limits, machine->num_cores, i + 1));
        fb_json_close_object(w);
    }
    fb_json_close_array(w);
}

static void put_machine(fb_json_writer *w, const fb_bench *bench) {
    const fb_machine *machine = &bench->machine;
    fb_isa isa = FB_ISA_SCALAR;
    fb_json_fail(w, fb_isa_current(&isa));
    fb_json_open_object(w, "machine");
    fb_json_put_text(w, "cpu", machine->cpu);
    fb_json_put_size(w, "cores", machine->num_cores);
    fb_json_put_string(w, "instruction_set", fb_isa_name(isa));
    fb_json_put_string(w, "limits_instruction_set", bench->limits.kernels->name);
    fb_json_put_string(w, "version", fb_version());
    fb_json_put_bool(w, "cold", bench->settings->cold);
    put_caches(w, bench);
    fb_json_close_object(w);
}

static void put_limits(fb_json_writer *w, const fb_bench *bench) {
    const fb_limits *limits = &bench->limits;
    size_t cores = bench->machine.num_cores;
    fb_json_open_object(w, "limits");
    fb_json_put_double(w, "fma_gflops_1", fb_limits_fma(limits, 1));
    fb_json_put_double(w, "fma_gflops_all", fb_limits_fma(limits, cores));
    fb_json_put_double(w, "read_gbs_1", fb_limits_read(limits, 1, FB_LEVEL_MEMORY));
    fb_json_put_double(w, "read_gbs_all", fb_limits_read(limits, cores, FB_LEVEL_MEMORY));
    fb_json_close_object(w);
}

static fb_status write_json(const fb_bench *bench) {
    static const char *const names[] = {"cases", "shapes", "steps", "scaling", "density",
                                        "peers", "decode", "video", "kernels"};
    fb_buffer text = {0};
    fb_json_writer w = fb_json_output(&text);
    fb_json_open_object(&w, NULL);
    put_machine(&w, bench);
    put_limits(&w, bench);
    for (size_t i = 0; i < FB_BENCH_NUM_ARRAYS; i++)
        if (i == FB_BENCH_CASES || bench->texts[i].size > 0)
            fb_json_put_array_of(&w, names[i], &bench->arrays[i]);
    fb_json_close_object(&w);
    return fb_write_json(&w, bench->settings->json);
}

fb_status fb_bench_finish(fb_bench *bench, fb_status status) {
    fb_progress_end();
    if (status == FB_OK && bench->settings->json) {
        fb_limits_begin_period(&bench->limits); /* the limits of the whole run */
        status = write_json(bench);
    }
    for (size_t i = 0; i < FB_BENCH_NUM_ARRAYS; i++)
        fb_buffer_free(&bench->texts[i]);
    fb_limits_free(&bench->limits);
    return status;
}

/* --- cases ------------------------------------------------------------------------------------ */

double fb_bench_case_gflops(const fb_bench_case *c) {
    return 1e-9 * c->flops / c->median;
}

double fb_bench_case_gbs(const fb_bench_case *c) {
    return 1e-9 * c->bytes / c->median;
}

double fb_bench_case_peak_fraction(const fb_bench *bench, const fb_bench_case *c) {
    return fb_bench_case_gflops(c) / fb_limits_fma(&bench->limits, c->threads);
}

/* The shortest possible time is the longer of those of the arithmetic and of reading. So the
 * roofline holds for a case without arithmetic, too. */
double fb_bench_case_roofline_fraction(const fb_bench *bench, const fb_bench_case *c) {
    size_t level = FB_LEVEL_MEMORY;
    if (!bench->settings->cold)
        level = fb_limits_level_of(&bench->limits, c->threads, (size_t)c->bytes);
    double computing = 1e-9 * c->flops / fb_limits_fma(&bench->limits, c->threads);
    double reading = 1e-9 * c->bytes / fb_limits_read(&bench->limits, c->threads, level);
    return (computing > reading ? computing : reading) / c->median;
}

fb_json_writer *fb_bench_items(fb_bench *bench, fb_bench_array array) {
    return &bench->arrays[array];
}

fb_status fb_bench_add_case(fb_bench *bench, const fb_bench_case *c) {
    fb_json_writer *w = fb_bench_items(bench, FB_BENCH_CASES);
    fb_json_open_object(w, NULL);
    fb_json_put_text(w, "name", c->name);
    fb_json_put_string(w, "dtype", c->dtype);
    fb_json_put_size(w, "threads", c->threads);
    fb_json_put_string(w, "implementation", c->implementation);
    fb_json_put_double(w, "seconds_median", c->median);
    fb_json_put_double(w, "seconds_min", c->min);
    fb_json_put_double(w, "gflops", fb_bench_case_gflops(c));
    fb_json_put_double(w, "peak_fraction", fb_bench_case_peak_fraction(bench, c));
    fb_json_put_double(w, "roofline_fraction", fb_bench_case_roofline_fraction(bench, c));
    fb_json_close_object(w);
    return fb_json_finish(w);
}
