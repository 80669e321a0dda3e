/* checkasm: every kernel of every instruction set against its scalar twin, bit for bit; or, with
 * --bench, how long each takes. See checkasm.h for what a case checks. */
#include "tests/checkasm.h"

#include "base/clock.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { EXIT_SKIPPED = 77, EXIT_USAGE = 2, DESCRIBED_FAILURES = 3, DEFAULT_ROUNDS = 1024 };

typedef struct options {
    fb_isa isa; /* FB_ISA_COUNT: all */
    const char *filter;
    uint64_t seed;
    size_t rounds;
    bool list, bench, tap;
} options;

static bool in_tap;
static size_t tap_cases;

void say(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs(in_tap ? "# " : "", stdout);
    vprintf(format, arguments);
    putchar('\n');
    va_end(arguments);
}

static void tap_case(bool ok, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* One line: a case of the TAP format, or the plain text and its verdict. */
static void tap_case(bool ok, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    if (in_tap)
        printf("%s %zu - ", ok ? "ok" : "not ok", ++tap_cases);
    vprintf(format, arguments);
    puts(in_tap ? "" : ok ? ": ok" : ": FAILED");
    va_end(arguments);
    fflush(stdout);
}

static void skip(const char *what, const char *reason) {
    if (in_tap)
        printf("ok %zu - %s # SKIP %s\n", ++tap_cases, what, reason);
    else
        printf("%s: %s\n", what, reason);
}

/* ---- options ---- */

static const char usage[] =
    "usage: checkasm [OPTION]...\n"
    "Compares the kernels of each instruction set with the scalar ones, bit for bit.\n"
    "\n"
    "  --isa NAME     an instruction set, or all (default: all). Scalar kernels are compared with\n"
    "                 themselves, compiled for fma instructions where there are some; it also\n"
    "                 shows if they read or write outside their buffers. Of all sets, one that "
    "has\n"
    "                 another one's kernel is not checked again.\n"
    "  --filter TEXT  only kernels with TEXT in their name\n"
    "  --seed N       of the random numbers (default: FLASHBLOCK_TEST_SEED, or 1)\n"
    "  --rounds N     cases of each kernel and placement of its buffers (default: 1024);\n"
    "                 from 640 on every size occurs\n"
    "  --bench        measures the kernels' time instead; for a real CPU only\n"
    "  --tap          prints in the format of the Test Anything Protocol\n"
    "  --list         prints the kernels' names\n"
    "\n"
    "Exit status: 0 no failure, 1 failures, 2 wrong usage, 77 the instruction set that --isa "
    "names\n"
    "is not in this build or not in this CPU.\n";

static _Noreturn void usage_error(const char *what, const char *value) {
    fprintf(stderr, "checkasm: %s, not '%s' (see --help)\n", what, value);
    exit(EXIT_USAGE);
}

static uint64_t parse_number(const char *what, const char *text) {
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 0);
    if (errno || end == text || *end || *text == '-')
        usage_error(what, text);
    return value;
}

static uint64_t default_seed(void) {
    const char *text = getenv("FLASHBLOCK_TEST_SEED");
    return text ? parse_number("FLASHBLOCK_TEST_SEED takes a number", text) : 1;
}

static options parse_options(int argc, char **argv) {
    static const struct option known[] = {
        {"isa", required_argument, NULL, 'i'},
        {"filter", required_argument, NULL, 'f'},
        {"seed", required_argument, NULL, 's'},
        {"rounds", required_argument, NULL, 'r'},
        {"bench", no_argument, NULL, 'b'},
        {"tap", no_argument, NULL, 't'},
        {"list", no_argument, NULL, 'l'},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    options o = {.isa = FB_ISA_COUNT, .filter = "", .seed = default_seed()};
    o.rounds = DEFAULT_ROUNDS;
    for (int letter; (letter = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        switch (letter) {
        case 'i':
            if (strcmp(optarg, "all") == 0)
                o.isa = FB_ISA_COUNT;
            else if (fb_isa_parse(optarg, &o.isa) != FB_OK)
                usage_error("--isa takes an instruction set's name, or all", optarg);
            break;
        case 'f':
            o.filter = optarg;
            break;
        case 's':
            o.seed = parse_number("--seed takes a number", optarg);
            break;
        case 'r':
            o.rounds = parse_number("--rounds takes a number from 1 on", optarg);
            if (!o.rounds)
                usage_error("--rounds takes a number from 1 on", optarg);
            break;
        case 'b':
            o.bench = true;
            break;
        case 't':
            o.tap = true;
            break;
        case 'l':
            o.list = true;
            break;
        case 'h':
            fputs(usage, stdout);
            exit(0);
        default: /* getopt_long has named it */
            exit(EXIT_USAGE);
        }
    }
    if (optind < argc)
        usage_error("there are no arguments but options", argv[optind]);
    return o;
}

static bool is_wanted(const options *o, const kernel_check *kernel) {
    return strstr(kernel->name, o->filter) != NULL;
}

static size_t count_wanted(const options *o) {
    size_t wanted = 0;
    for (size_t i = 0; i < num_kernel_checks; i++)
        wanted += is_wanted(o, &kernel_checks[i]);
    return wanted;
}

/* A CPU without AVX-VNNI that has the same instruction in AVX-512 runs the kernels with that one.
 */
static bool is_in_place(fb_isa isa) {
#ifdef FB_HAVE_EVEX
    return isa == FB_ISA_AVXVNNI && !fb_isa_supported(isa) && fb_isa_supported(FB_ISA_AVX512VNNI);
#else
    (void)isa;
    return false;
#endif
}

/* The scalar kernels once more, compiled for fma instructions where this CPU has them: the same
 * bits sooner than by calls of fmaf, and a twin that the scalar kernels themselves can differ from.
 */
static const fb_kernels *twin_kernels(void) {
#ifdef FB_HAVE_SCALAR_FMA
    extern const fb_kernels fb_kernels_scalar_fma;
    if (fb_isa_supported(FB_ISA_AVX2))
        return &fb_kernels_scalar_fma;
#endif
    return &fb_kernels_scalar;
}

static const fb_kernels *kernels_of(fb_isa isa) {
#ifdef FB_HAVE_EVEX
    static fb_kernels in_place;
    if (is_in_place(isa)) {
        in_place = *fb_kernels_of(FB_ISA_AVX2);
        fb_kernels_init_evex(&in_place);
        return &in_place;
    }
#endif
    return fb_kernels_of(isa);
}

/* NULL, or why the instruction set cannot be executed. */
static const char *why_not(fb_isa isa) {
    if (!fb_isa_built(isa))
        return "not executed, this build does not hold it";
    if (!fb_isa_supported(isa) && !is_in_place(isa))
        return "not executed, this CPU or its operating system lacks it";
    return NULL;
}

/* ---- checks ---- */

typedef struct tally {
    size_t checks, at_guards, failed;
} tally;

/* Whether two tables have the same function for what a check is about, whose name begins with that
 * of the table's entry. */
static bool has_same_kernel(const kernel_check *kernel, const fb_kernels *a, const fb_kernels *b) {
    for (fb_kernel entry = 0; entry < FB_NUM_KERNELS; entry++) {
        const char *name = fb_kernel_name(entry);
        size_t same = 0;
        while (name[same] && kernel->name[same] == (name[same] == ' ' ? '_' : name[same]))
            same++;
        if (!name[same])
            return fb_kernel_is_same(entry, a, b);
    }
    return false;
}

/* The set whose check of the same function comes before this one; the set itself if there is none.
 */
static fb_isa first_with_kernel(const options *o, const kernel_check *kernel, fb_isa isa) {
    for (fb_isa before = 0; before < isa && o->isa == FB_ISA_COUNT; before++)
        if (!why_not(before) && has_same_kernel(kernel, kernels_of(before), kernels_of(isa)))
            return before;
    return isa;
}

static tally check_kernel(const options *o, const kernel_check *kernel, fb_isa isa, bool guards) {
    static check c; /* large */
    tally t = {0, 0, 0};
    const fb_kernels *tested = kernels_of(isa), *twin = twin_kernels();
    c = (check){.isa = fb_isa_name(isa), .kernel = kernel->name, .seed = o->seed};
    c.dtype = kernel->dtype;
    for (c.placement = AMONG_CANARIES; c.placement < PLACEMENTS; c.placement++) {
        if (c.placement != AMONG_CANARIES && !guards)
            continue;
        for (c.number = 0; c.number < o->rounds; c.number++) {
            c.silent = t.failed >= DESCRIBED_FAILURES;
            t.failed += !run_case(&c, kernel->run, tested, twin);
            t.checks++;
            t.at_guards += c.placement != AMONG_CANARIES;
        }
    }
    return t;
}

/* The number of failures. */
static size_t check_isa(const options *o, fb_isa isa, bool guards) {
    tally all = {0, 0, 0};
    for (size_t i = 0; i < num_kernel_checks; i++) {
        if (!is_wanted(o, &kernel_checks[i]))
            continue;
        fb_isa first = first_with_kernel(o, &kernel_checks[i], isa);
        if (first != isa) {
            tap_case(true, "%s %s: the kernel of %s, checked there", fb_isa_name(isa),
                     kernel_checks[i].name, fb_isa_name(first));
            continue;
        }
        tally t = check_kernel(o, &kernel_checks[i], isa, guards);
        tap_case(!t.failed, "%s %s: %zu checks (%zu at guard pages), %zu failed", fb_isa_name(isa),
                 kernel_checks[i].name, t.checks, t.at_guards, t.failed);
        all.checks += t.checks;
        all.failed += t.failed;
    }
    say("isa %s: %zu checks, %zu failed", fb_isa_name(isa), all.checks, all.failed);
    return all.failed;
}

/* ---- time ---- */

#if defined(__x86_64__)
static const char tick_name[] = "cycles of the time-stamp counter";

static uint64_t ticks(void) {
    return __builtin_ia32_rdtsc();
}
#else
static const char tick_name[] = "nanoseconds";

static uint64_t ticks(void) {
    return (uint64_t)(1e9 * fb_seconds());
}
#endif

void bench_begin(check *c, size_t elements, const char *unit) {
    memset(&c->bench, 0, sizeof c->bench);
    c->bench.batch = 1;
    c->bench.elements = (double)elements;
    c->bench.unit = unit;
}

/* A batch has ended: another one, twice as long until it is long enough to be measured. */
bool bench_sample(check *c) {
    enum { MIN_TICKS = 300000 };
    uint64_t now = ticks();
    if (!c->bench_sizes)
        return false;
    if (c->bench.started) {
        uint64_t taken = now - c->bench.start;
        if (taken < MIN_TICKS && !c->bench.taken)
            c->bench.batch *= 2;
        else
            c->bench.samples[c->bench.taken++] =
                (double)taken / (double)c->bench.batch / c->bench.elements;
    }
    if (c->bench.taken == BENCH_SAMPLES)
        return false;
    c->bench.started = true;
    c->bench.left = c->bench.batch - 1;
    c->bench.start = ticks();
    return true;
}

static int compare_doubles(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Ticks per element, the median; 0 when the kernel failed. */
static double time_kernel(check *c, const kernel_check *kernel, fb_isa isa) {
    if (!run_case(c, kernel->run, kernels_of(isa), &fb_kernels_scalar))
        return 0.0;
    qsort(c->bench.samples, BENCH_SAMPLES, sizeof *c->bench.samples, compare_doubles);
    return c->bench.samples[BENCH_SAMPLES / 2];
}

static size_t bench_kernel(const options *o, const kernel_check *kernel, fb_isa isa) {
    static check c; /* large */
    size_t failed = 0;
    for (size_t shape = 0; shape < MAX_SHAPES && kernel->shapes[shape][0]; shape++) {
        c = (check){.isa = fb_isa_name(isa), .kernel = kernel->name, .seed = o->seed};
        c.dtype = kernel->dtype;
        c.bench_sizes = kernel->shapes[shape];
        double scalar = time_kernel(&c, kernel, FB_ISA_SCALAR), ours = time_kernel(&c, kernel, isa);
        char sizes[80] = "";
        for (size_t i = 0, length = 0; i < c.num_swept; i++)
            length += (size_t)snprintf(sizes + length, sizeof sizes - length, "%s%s %zu",
                                       i ? ", " : "", c.sizes[i].name, c.sizes[i].value);
        failed += !(ours > 0.0);
        say("%-6s %-11s %9.4f per %-12s %6.1f times as fast as scalar: %s", c.isa, c.kernel, ours,
            c.bench.unit, scalar / ours, sizes);
        fflush(stdout);
    }
    return failed;
}

static size_t bench_isa(const options *o, fb_isa isa) {
    size_t failed = 0;
    for (size_t i = 0; i < num_kernel_checks; i++)
        if (is_wanted(o, &kernel_checks[i]))
            failed += bench_kernel(o, &kernel_checks[i], isa);
    return failed;
}

/* ---- the program ---- */

/* Whether there are guard pages; one line, and one case of the TAP format. */
static bool report_guard_pages(void) {
    const char *reason = prepare_memory();
    if (reason)
        skip("guard pages", reason);
    else
        tap_case(true, "guard pages, which fault");
    return !reason;
}

static size_t check_or_time(const options *o, fb_isa isa, bool guards) {
    if (is_in_place(isa))
        say("isa %s: with AVX-512's instruction in the place of its own", fb_isa_name(isa));
    return o->bench ? bench_isa(o, isa) : check_isa(o, isa, guards);
}

static int run_one(const options *o, bool guards) {
    const char *reason = why_not(o->isa);
    if (!reason)
        return check_or_time(o, o->isa, guards) ? 1 : 0;
    say("isa %s: %s", fb_isa_name(o->isa), reason);
    return EXIT_SKIPPED;
}

static int run_all(const options *o, bool guards) {
    size_t failed = 0;
    for (fb_isa isa = FB_ISA_SCALAR; isa < FB_ISA_COUNT; isa++) {
        char name[40];
        snprintf(name, sizeof name, "isa %s", fb_isa_name(isa));
        if (why_not(isa))
            skip(name, why_not(isa));
        else
            failed += check_or_time(o, isa, guards);
    }
    return failed ? 1 : 0;
}

int main(int argc, char **argv) {
    options o = parse_options(argc, argv);
    if (!count_wanted(&o))
        usage_error("--filter takes part of a kernel's name (see --list)", o.filter);
    if (o.list) {
        for (size_t i = 0; i < num_kernel_checks; i++)
            if (is_wanted(&o, &kernel_checks[i]))
                puts(kernel_checks[i].name);
        return 0;
    }
    in_tap = o.tap && !o.bench;
    say("seed 0x%" PRIx64, o.seed);
    bool guards = report_guard_pages();
    if (o.bench)
        say("median of %d, in %s", BENCH_SAMPLES, tick_name);
    int status = o.isa == FB_ISA_COUNT ? run_all(&o, guards) : run_one(&o, guards);
    if (in_tap)
        printf("1..%zu\n", tap_cases);
    return status;
}
