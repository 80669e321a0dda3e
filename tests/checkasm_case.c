/* One case of checkasm: its random numbers, its buffers, what must not be touched, the comparison.
 */
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS */
#include "base/half.h"
#include "tests/checkasm.h"

#include <inttypes.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { REGION_BYTES = 512 * 1024, CANARY_BYTES = 1024, LINE_BYTES = 64 };

/* Of canaries: signalling NaNs, which no kernel produces. */
static unsigned char canaries[CANARY_BYTES];

/* ---- faults: a guard page that is touched ends the case, not the program ---- */

static sigjmp_buf fault_jump;
static volatile sig_atomic_t fault_expected;
static int fault_signal;
static unsigned char *fault_address;

static void on_fault(int signal_number, siginfo_t *info, void *context) {
    (void)context;
    if (!fault_expected) { /* a fault of checkasm itself: dies of it when it happens again */
        signal(signal_number, SIG_DFL);
        return;
    }
    fault_signal = signal_number;
    fault_address = info->si_addr;
    siglongjmp(fault_jump, 1);
}

static void catch_faults(void) {
    /* siglongjmp leaves the handler without restoring the mask: nothing may be blocked in it. */
    struct sigaction action = {.sa_flags = SA_SIGINFO | SA_NODEFER};
    action.sa_sigaction = on_fault;
    sigemptyset(&action.sa_mask);
    const int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE};
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
        sigaction(signals[i], &action, NULL);
}

/* ---- regions: one for each buffer, an inaccessible page before and after it ---- */

static unsigned char *regions[MAX_BUFFERS];
static size_t page_bytes = 4096;

static unsigned char *region_of(size_t slot) {
    if (regions[slot])
        return regions[slot];
    size_t total = REGION_BYTES + 2 * page_bytes;
    unsigned char *memory =
        mmap(NULL, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        memory = aligned_alloc(page_bytes, total);
    if (!memory) {
        fprintf(stderr, "checkasm: no memory for a buffer of %d bytes\n", REGION_BYTES);
        exit(2);
    }
    /* If this does nothing, prepare_memory has said so. */
    mprotect(memory, page_bytes, PROT_NONE);
    mprotect(memory + page_bytes + REGION_BYTES, page_bytes, PROT_NONE);
    return regions[slot] = memory + page_bytes;
}

static bool read_faults(const volatile unsigned char *address) {
    fault_expected = 1;
    bool faulted = sigsetjmp(fault_jump, 0) != 0;
    if (!faulted)
        (void)*address;
    fault_expected = 0;
    return faulted;
}

const char *prepare_memory(void) {
    const uint32_t signalling_nan = 0x7fa5a5a5u;
    for (size_t i = 0; i < sizeof canaries; i += sizeof signalling_nan)
        memcpy(canaries + i, &signalling_nan, sizeof signalling_nan);
    long page = sysconf(_SC_PAGESIZE);
    if (page > 0)
        page_bytes = (size_t)page;
    catch_faults();
    unsigned char *region = region_of(0);
    if (read_faults(region) || read_faults(region + REGION_BYTES - 1))
        return "none here: ordinary memory cannot be read";
    if (!read_faults(region - 1) || !read_faults(region + REGION_BYTES))
        return "none here: a protected page can be read; reads outside of buffers are not seen";
    return NULL;
}

/* ---- random values ---- */

/* splitmix64 (Steele, Lea, Flood 2014): the state counts, the output is a hash of it. */
static uint64_t next_random(check *c) {
    uint64_t z = c->random += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static void mix_in(check *c, uint64_t value) {
    c->random ^= value;
    c->random = next_random(c);
}

/* The numbers of a case depend only on the seed, the kernel, the placement and the case. */
static void seed_case(check *c) {
    c->random = c->seed;
    for (const char *letter = c->kernel; *letter; letter++)
        mix_in(c, (unsigned char)*letter);
    mix_in(c, (uint64_t)c->placement);
    mix_in(c, c->number);
}

size_t random_between(check *c, size_t low, size_t high) {
    return low + (size_t)((next_random(c) >> 32) * (uint64_t)(high - low + 1) >> 32);
}

/* The sum of four uniform numbers: near enough to normal, and fast on an emulator. */
float random_ordinary(check *c) {
    uint64_t bits = next_random(c);
    uint32_t sum =
        (uint32_t)((bits & 0xffff) + (bits >> 16 & 0xffff) + (bits >> 32 & 0xffff) + (bits >> 48));
    return ((float)sum - 131070.0f) * (1.0f / 37837.0f);
}

float random_awkward(check *c) {
    uint32_t sign = random_between(c, 0, 1) ? 0x80000000u : 0;
    switch (random_between(c, 0, 19)) {
    case 0:
        return fb_bits_to_f32(sign);
    case 1: /* subnormal */
        return fb_bits_to_f32(sign | (uint32_t)random_between(c, 1, 0x7fffff));
    case 2: /* any finite number */
        return fb_bits_to_f32(sign | (uint32_t)random_between(c, 0, 0x7f7fffff));
    case 3: /* the largest */
        return fb_bits_to_f32(sign | 0x7f7fffffu);
    default:
        return random_ordinary(c);
    }
}

/* The bits of an infinity or of a NaN, signalling ones included. */
static uint32_t random_special(check *c) {
    uint32_t fraction = random_between(c, 0, 1) ? (uint32_t)random_between(c, 1, 0x7fffff) : 0;
    return (random_between(c, 0, 1) ? 0xff800000u : 0x7f800000u) | fraction;
}

/* How awkward the numbers of a buffer are: 0 to 4 not, 5 to 8 finite, 9 anything. */
static size_t choose_style(check *c, contents what) {
    return c->bench_sizes || what == ORDINARY ? 0 : random_between(c, 0, 9);
}

static bool is_special(check *c, size_t style) {
    return style == 9 && random_between(c, 0, 63) == 0;
}

static void fill_floats(check *c, float *to, size_t count, contents what) {
    size_t style = choose_style(c, what);
    for (size_t i = 0; i < count; i++) {
        to[i] = style < 5 ? random_ordinary(c) : random_awkward(c);
        if (is_special(c, style)) {
            uint32_t bits = random_special(c); /* as bits: a float register might make it quiet */
            memcpy(to + i, &bits, sizeof bits);
        }
    }
}

static void fill_halves(check *c, uint16_t *to, size_t count) {
    size_t style = choose_style(c, ANY);
    for (size_t i = 0; i < count; i++) {
        float value = style < 5 ? random_ordinary(c) : random_awkward(c);
        to[i] = c->dtype == FB_F16 ? fb_f32_to_f16(value) : fb_f32_to_bf16(value);
        if (is_special(c, style))
            to[i] = (uint16_t)next_random(c);
    }
}

/* ---- sizes ---- */

static size_t record(check *c, const char *name, size_t value) {
    if (c->num_sizes < MAX_SIZES) {
        c->sizes[c->num_sizes].name = name;
        c->sizes[c->num_sizes++].value = value;
    }
    return value;
}

size_t choose(check *c, const char *name, size_t low, size_t high, size_t step) {
    enum { SMALL = 20 };
    size_t place = c->num_swept++, turn = c->number % (MAX_SWEPT + 1);
    if (c->bench_sizes)
        return record(c, name, c->bench_sizes[place]);
    size_t values = (high - low) / step + 1, index;
    if (turn == place)
        index = c->number / (MAX_SWEPT + 1) % values;
    else if (turn == MAX_SWEPT || values <= SMALL)
        index = random_between(c, 0, values - 1);
    else
        index = random_between(c, 0, SMALL - 1);
    return record(c, name, low + index * step);
}

size_t choose_any(check *c, const char *name, size_t low, size_t high) {
    return record(c, name, c->bench_sizes ? low : random_between(c, low, high));
}

/* ---- buffers ---- */

/* The first byte of a buffer of `count` elements. Among canaries, over the cases, a buffer starts
 * at every offset of an element from the start of a cache line, and the offsets of two buffers
 * change against each other. */
static unsigned char *place(const check *c, size_t slot, size_t count, size_t element_size) {
    unsigned char *region = region_of(slot);
    size_t elements = LINE_BYTES / element_size;
    size_t offset = c->bench_sizes ? 0 : ((2 * slot + 1) * c->number + slot) % elements;
    switch (c->placement) {
    case BEFORE_GUARD:
        return region + REGION_BYTES - count * element_size;
    case AFTER_GUARD:
        return region;
    default:
        return region + CANARY_BYTES + offset * element_size;
    }
}

static buffer *new_buffer(check *c, const char *name, size_t count, size_t element_size) {
    size_t slot = c->num_buffers++;
    if (slot >= MAX_BUFFERS ||
        count > (REGION_BYTES - 2 * CANARY_BYTES - LINE_BYTES) / element_size) {
        fprintf(stderr, "checkasm: %s: buffer %s is one too many, or too large\n", c->kernel, name);
        exit(2);
    }
    buffer *b = &c->buffers[slot];
    *b = (buffer){.name = name, .count = count, .element_size = element_size};
    b->data = place(c, slot, count, element_size);
    b->canaries[0] = c->placement == AFTER_GUARD ? NULL : b->data - CANARY_BYTES;
    b->canaries[1] = c->placement == BEFORE_GUARD ? NULL : b->data + count * element_size;
    for (int side = 0; side < 2; side++)
        if (b->canaries[side])
            memcpy(b->canaries[side], canaries, CANARY_BYTES);
    return b;
}

static void *new_input(check *c, const char *name, size_t count, size_t element_size) {
    buffer *b = new_buffer(c, name, count, element_size);
    b->is_input = true;
    return b->data;
}

float *input_floats(check *c, const char *name, size_t count, contents what) {
    float *data = new_input(c, name, count, sizeof *data);
    fill_floats(c, data, count, what);
    return data;
}

uint16_t *input_halves(check *c, const char *name, size_t count) {
    uint16_t *data = new_input(c, name, count, sizeof *data);
    for (size_t i = 0; i < count; i++)
        data[i] = (uint16_t)next_random(c);
    return data;
}

size_t *input_sizes(check *c, const char *name, size_t count) {
    size_t *data = new_input(c, name, count, sizeof *data);
    memset(data, 0, count * sizeof *data);
    return data;
}

uint8_t *input_bytes(check *c, const char *name, size_t count, uint8_t most) {
    uint8_t *data = new_input(c, name, count, sizeof *data);
    for (size_t i = 0; i < count; i++)
        data[i] = (uint8_t)random_between(c, 0, most);
    return data;
}

const void **input_pointers(check *c, const char *name, size_t count) {
    const void **data = new_input(c, name, count, sizeof *data);
    for (size_t i = 0; i < count; i++)
        data[i] = NULL;
    return data;
}

const void *input_elements(check *c, const char *name, size_t count) {
    if (c->dtype == FB_F32)
        return input_floats(c, name, count, ANY);
    uint16_t *data = new_input(c, name, count, sizeof *data);
    fill_halves(c, data, count);
    return data;
}

float *scratch_floats(check *c, const char *name, size_t count) {
    float *data = (float *)(void *)new_buffer(c, name, count, sizeof *data)->data;
    fill_floats(c, data, count, ANY);
    return data;
}

result result_floats(check *c, const char *name, size_t count) {
    result r = {.first_buffer = c->num_buffers};
    r.tested = (float *)(void *)new_buffer(c, name, count, sizeof(float))->data;
    r.twin = (float *)(void *)new_buffer(c, "the twin's", count, sizeof(float))->data;
    c->buffers[r.first_buffer + 1].is_twin = true;
    fill_floats(c, r.tested, count, ANY);
    return r;
}

/* FNV-1a over words of 2 bytes, of which the last one may have only one. */
static uint64_t hash_of(const buffer *b) {
    uint64_t hash = 0xcbf29ce484222325u;
    size_t bytes = b->count * b->element_size;
    for (size_t at = 0; at < bytes; at += sizeof(uint16_t)) {
        uint16_t word = 0;
        memcpy(&word, b->data + at, at + 1 < bytes ? sizeof word : 1);
        hash = (hash ^ word) * 0x100000001b3u;
    }
    return hash;
}

void ready(check *c) {
    for (buffer *b = c->buffers; b < c->buffers + c->num_buffers; b++) {
        if (b->is_input)
            b->frozen = hash_of(b);
        if (b->is_twin)
            memcpy(b->data, b[-1].data, b->count * b->element_size);
    }
    c->is_ready = true;
}

/* ---- failures ---- */

static const char *const placement_names[PLACEMENTS] = {"among canaries", "before a guard page",
                                                        "after a guard page"};

/* The first failure of a case describes it, later ones of the same case say nothing. */
static void fail(check *c, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void fail(check *c, const char *format, ...) {
    char what[200], sizes[300] = "";
    if (c->failed || c->silent) {
        c->failed = true;
        return;
    }
    c->failed = true;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(what, sizeof what, format, arguments);
    va_end(arguments);
    for (size_t i = 0, length = 0; i < c->num_sizes && length < sizeof sizes; i++)
        length += (size_t)snprintf(sizes + length, sizeof sizes - length, ", %s %zu",
                                   c->sizes[i].name, c->sizes[i].value);
    say("FAILED %s %s, seed 0x%" PRIx64 ", case %zu %s%s", c->isa, c->kernel, c->seed, c->number,
        placement_names[c->placement], sizes);
    say("    %s", what);
}

static void fail_at_fault(check *c) {
    const char *name = fault_signal == SIGILL ? "an illegal instruction" : "a fault";
    for (size_t i = 0; i < c->num_buffers && fault_signal != SIGILL; i++) {
        const buffer *b = &c->buffers[i];
        ptrdiff_t at = fault_address - b->data, end = (ptrdiff_t)(b->count * b->element_size);
        if (at < 0 && at >= -(ptrdiff_t)page_bytes)
            fail(c, "touched %s %td bytes before its start", b->name, -at);
        if (at >= end && at < end + (ptrdiff_t)page_bytes)
            fail(c, "touched %s %td bytes after its end", b->name, at - end);
    }
    fail(c, "%s (signal %d) at %p", name, fault_signal, (void *)fault_address);
}

static void check_untouched(check *c, const buffer *b) {
    for (int side = 0; side < 2; side++) {
        size_t at = 0;
        if (!b->canaries[side] || !memcmp(b->canaries[side], canaries, CANARY_BYTES))
            continue;
        while (b->canaries[side][at] == canaries[at])
            at++;
        fail(c, "wrote outside %s, at byte %td of %zu", b->name, b->canaries[side] + at - b->data,
             b->count * b->element_size);
    }
    if (b->is_input && b->frozen != hash_of(b))
        fail(c, "changed its input %s", b->name);
}

/* ---- comparison ---- */

static uint32_t bits_at(const buffer *b, size_t index, same_rule rule) {
    uint32_t bits;
    memcpy(&bits, b->data + index * sizeof bits, sizeof bits);
    if ((rule & NANS_ALIKE) && (bits & 0x7fffffffu) > 0x7f800000u)
        return 0x7fc00000u;
    if ((rule & ZEROS_ALIKE) && bits == 0x80000000u)
        return 0;
    return bits;
}

void expect_same(check *c, result got, same_rule rule) {
    const buffer *tested = &c->buffers[got.first_buffer], *twin = tested + 1;
    size_t differ = 0, first = 0;
    for (size_t i = tested->count; i-- > 0;)
        if (bits_at(tested, i, rule) != bits_at(twin, i, rule)) {
            differ++;
            first = i;
        }
    c->num_compared++;
    if (!differ)
        return;
    uint32_t ours = bits_at(tested, first, SAME_BITS), theirs = bits_at(twin, first, SAME_BITS);
    fail(c,
         "%s[%zu] of %zu is %a (%08" PRIx32 "), the scalar twin's %a (%08" PRIx32 "); %zu differ",
         tested->name, first, tested->count, (double)fb_bits_to_f32(ours), ours,
         (double)fb_bits_to_f32(theirs), theirs, differ);
}

/* ---- one case ---- */

bool run_case(check *c, check_fn *run, const fb_kernels *tested, const fb_kernels *twin) {
    c->num_sizes = c->num_swept = c->num_buffers = c->num_compared = 0;
    c->failed = c->is_ready = false;
    seed_case(c);
    fault_expected = 1;
    if (sigsetjmp(fault_jump, 0) == 0)
        run(c, tested, twin);
    else
        fail_at_fault(c);
    fault_expected = 0;
    for (size_t i = 0; i < c->num_buffers; i++)
        check_untouched(c, &c->buffers[i]);
    if (!c->num_compared || !c->is_ready)
        fail(c, "compared nothing, or was never ready");
    return !c->failed;
}
