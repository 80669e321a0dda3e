#define _GNU_SOURCE /* sched_setaffinity, MADV_HUGEPAGE */
#include "bench/machine.h"

#include "base/error.h"
#include "base/parallel.h"

#include <flashblock/runtime.h>

#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/utsname.h>

enum { HUGE_PAGE = 1 << 21 };

/* --- /proc and /sys --------------------------------------------------------------------------- */

/* The first line of a file, without its end; false when there is none. */
static bool read_line(const char *path, char *line, size_t size) {
    FILE *file = fopen(path, "r");
    if (!file)
        return false;
    bool found = fgets(line, (int)size, file) != NULL;
    fclose(file);
    if (found)
        line[strcspn(line, "\n")] = '\0';
    return found;
}

static void read_name(char *name, size_t size) {
    struct utsname system;
    snprintf(name, size, "%s", uname(&system) == 0 ? system.machine : "unknown");
    FILE *file = fopen("/proc/cpuinfo", "r");
    if (!file)
        return;
    char line[256];
    while (fgets(line, sizeof line, file)) {
        const char *value = strstr(line, ": ");
        if (strncmp(line, "model name", 10) == 0 && value) {
            snprintf(name, size, "%.*s", (int)strcspn(value + 2, "\n"), value + 2);
            break;
        }
    }
    fclose(file);
}

/* Whether `cpu` is the first one of its core: one of its hyper-threads is enough. */
static bool is_first_of_core(int cpu) {
    char path[96], line[256];
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu);
    return !read_line(path, line, sizeof line) || strtol(line, NULL, 10) == cpu;
}

static void read_cores(fb_machine *machine) {
    cpu_set_t allowed;
    CPU_ZERO(&allowed);
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0)
        CPU_SET(0, &allowed);
    for (int first = 1; first >= 0 && machine->num_cores == 0; first--)
        for (int cpu = 0; cpu < CPU_SETSIZE && cpu < FB_MAX_CORES; cpu++)
            if (CPU_ISSET((size_t)cpu, &allowed) && (!first || is_first_of_core(cpu)))
                machine->cores[machine->num_cores++] = cpu;
}

/* How many CPUs a list such as "0-3,8" names. */
static size_t count_cpus(const char *list) {
    size_t count = 0;
    while (*list) {
        char *end = NULL;
        long first = strtol(list, &end, 10), last = first;
        if (end == list)
            break;
        if (*end == '-')
            last = strtol(end + 1, &end, 10);
        count += last >= first ? (size_t)(last - first) + 1 : 0;
        list = *end == ',' ? end + 1 : end;
    }
    return count ? count : 1;
}

/* One file of a cache of the first core. */
static bool read_cache_file(int cpu, int index, const char *name, char *line, size_t size) {
    char path[96];
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/cache/index%d/%s", cpu, index, name);
    return read_line(path, line, size);
}

static void read_caches(fb_machine *machine) {
    char line[256];
    for (int i = 0; machine->num_caches < FB_MAX_CACHES; i++) {
        int cpu = machine->cores[0];
        if (!read_cache_file(cpu, i, "type", line, sizeof line))
            return;
        if (strcmp(line, "Instruction") == 0)
            continue;
        fb_cache_level cache = {0};
        if (read_cache_file(cpu, i, "level", line, sizeof line))
            cache.level = (size_t)strtoul(line, NULL, 10);
        if (read_cache_file(cpu, i, "size", line, sizeof line)) {
            char *unit = NULL;
            cache.bytes = (size_t)strtoul(line, &unit, 10);
            cache.bytes <<= *unit == 'M' ? 20 : 10;
        }
        if (read_cache_file(cpu, i, "shared_cpu_list", line, sizeof line))
            cache.cpus = count_cpus(line);
        if (cache.level && cache.bytes)
            machine->caches[machine->num_caches++] = cache;
    }
}

void fb_machine_read(fb_machine *machine) {
    *machine = (fb_machine){0};
    read_name(machine->cpu, sizeof machine->cpu);
    read_cores(machine);
    read_caches(machine);
}

size_t fb_machine_last_cache(const fb_machine *machine) {
    return machine->num_caches ? machine->caches[machine->num_caches - 1].bytes : 0;
}

/* --- threads and memory ----------------------------------------------------------------------- */

static bool pin(int cpu) {
    cpu_set_t only;
    CPU_ZERO(&only);
    CPU_SET((size_t)cpu, &only);
    return sched_setaffinity(0, sizeof only, &only) == 0;
}

void fb_meet(fb_meeting *meeting) {
    size_t number = atomic_fetch_add(&meeting->arrived, 1);
    size_t all = (number / meeting->num_threads + 1) * meeting->num_threads;
    while (atomic_load(&meeting->arrived) < all)
        sched_yield();
}

typedef struct team_call {
    fb_team_body *body;
    void *context;
    fb_meeting begin;
} team_call;

/* A thread that has a turn waits until all turns are taken: no thread has two. */
static void take_place(void *context, size_t first, size_t end, size_t worker) {
    team_call *call = context;
    (void)first;
    (void)end;
    fb_meet(&call->begin);
    call->body(call->context, worker);
}

fb_status fb_machine_run_team(size_t num_threads, fb_team_body *body, void *context) {
    if (fb_parallel_prepare(num_threads) < num_threads)
        return fb_fail(FB_ERROR_UNSUPPORTED, "%zu threads cannot be created", num_threads);
    team_call call = {body, context, {.num_threads = num_threads}};
    fb_parallel_for(num_threads, 1, num_threads, take_place, &call);
    return FB_OK;
}

typedef struct pin_call {
    const fb_machine *machine;
    atomic_bool failed;
} pin_call;

static void pin_member(void *context, size_t member) {
    pin_call *call = context;
    if (!pin(call->machine->cores[member % call->machine->num_cores]))
        atomic_store(&call->failed, true);
}

fb_status fb_machine_use_threads(const fb_machine *machine, size_t num_threads) {
    pin_call call = {.machine = machine};
    FB_TRY(fb_set_num_threads((int)num_threads));
    fb_parallel_prepare(machine->num_cores); /* before the calling thread has but one CPU */
    FB_TRY(fb_machine_run_team(num_threads, pin_member, &call));
    if (atomic_load(&call.failed))
        return fb_fail(FB_ERROR_UNSUPPORTED, "cannot put %zu threads on their cores", num_threads);
    return FB_OK;
}

fb_status fb_huge_alloc(size_t bytes, const char *what, void *result) {
    void *memory = NULL;
    if (bytes > SIZE_MAX - HUGE_PAGE || posix_memalign(&memory, HUGE_PAGE, bytes) != 0)
        return fb_fail(FB_ERROR_MEMORY, "%s: cannot allocate %zu bytes", what, bytes);
    madvise(memory, bytes, MADV_HUGEPAGE); /* a wish: nothing depends on it */
    memcpy(result, &memory, sizeof memory);
    return FB_OK;
}
