#include "cli/bench/bench.h"

#include "base/error.h"
#include "cli/options/isa_choice.h"
#include "cli/output.h"
#include "cli/progress.h"

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
    bench->cases = json_array();
    bench->more = json_object();
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
    printf("%s, %zu cores; kernels: %s; limits: %s\n\n", bench->machine.cpu,
           bench->machine.num_cores, fb_isa_name(isa), limits->kernels->name);
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

static json_t *machine_json(const fb_bench *bench) {
    const fb_machine *machine = &bench->machine;
    size_t cores = machine->num_cores;
    fb_isa isa = FB_ISA_SCALAR;
    fb_isa_current(&isa);
    json_t *caches = json_array();
    for (size_t i = 0; i < machine->num_caches; i++)
        json_array_append_new(caches,
                              json_pack("{s:I, s:I, s:I, s:f, s:f}", "level",
                                        (json_int_t)machine->caches[i].level, "bytes",
                                        (json_int_t)machine->caches[i].bytes, "cpus",
                                        (json_int_t)machine->caches[i].cpus, "read_gbs_1",
                                        fb_limits_read(&bench->limits, 1, i + 1), "read_gbs_all",
                                        fb_limits_read(&bench->limits, cores, i + 1)));
    return json_pack("{s:s, s:I, s:s, s:s, s:s, s:b, s:o}", "cpu", machine->cpu, "cores",
                     (json_int_t)cores, "instruction_set", fb_isa_name(isa),
                     "limits_instruction_set", bench->limits.kernels->name, "version", fb_version(),
                     "cold", bench->settings->cold, "caches", caches);
}

static json_t *limits_json(const fb_bench *bench) {
    const fb_limits *limits = &bench->limits;
    size_t cores = bench->machine.num_cores;
    return json_pack("{s:f, s:f, s:f, s:f}", "fma_gflops_1", fb_limits_fma(limits, 1),
                     "fma_gflops_all", fb_limits_fma(limits, cores), "read_gbs_1",
                     fb_limits_read(limits, 1, FB_LEVEL_MEMORY), "read_gbs_all",
                     fb_limits_read(limits, cores, FB_LEVEL_MEMORY));
}

fb_status fb_bench_finish(fb_bench *bench, fb_status status) {
    fb_progress_end();
    if (status == FB_OK && bench->settings->json) {
        fb_limits_begin_period(&bench->limits); /* the limits of the whole run */
        json_t *value = json_pack("{s:o, s:o, s:O}", "machine", machine_json(bench), "limits",
                                  limits_json(bench), "cases", bench->cases);
        if (json_object_update(value, bench->more) != 0) { /* one of them found no memory */
            json_decref(value);
            value = NULL;
        }
        status = fb_write_json(value, bench->settings->json);
    }
    json_decref(bench->more);
    json_decref(bench->cases);
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

fb_status fb_bench_add_case(fb_bench *bench, const fb_bench_case *c) {
    json_t *value =
        json_pack("{s:s, s:s, s:I, s:s, s:f, s:f, s:f, s:f, s:f}", "name", c->name, "dtype",
                  c->dtype, "threads", (json_int_t)c->threads, "implementation", c->implementation,
                  "seconds_median", c->median, "seconds_min", c->min, "gflops",
                  fb_bench_case_gflops(c), "peak_fraction", fb_bench_case_peak_fraction(bench, c),
                  "roofline_fraction", fb_bench_case_roofline_fraction(bench, c));
    if (json_array_append_new(bench->cases, value) != 0)
        return fb_fail(FB_ERROR_MEMORY, "cannot build the JSON text");
    return FB_OK;
}

fb_status fb_bench_add(fb_bench *bench, const char *array, json_t *value) {
    if (!json_object_get(bench->more, array))
        json_object_set_new(bench->more, array, json_array());
    if (json_array_append_new(json_object_get(bench->more, array), value) != 0)
        return fb_fail(FB_ERROR_MEMORY, "cannot build the JSON text");
    return FB_OK;
}
