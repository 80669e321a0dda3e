/* Exceptions of the processor, as the signals that Linux makes of them. */
#include "supervisor.h"

#include <asm/errno.h>
#include <asm/signal.h>

enum { NUM_VECTORS = 32, NUM_SIGNALS = 65 };
enum { DIVIDE = 0, INVALID_OPCODE = 6, X87_ERROR = 16, ALIGNMENT = 17, SIMD_ERROR = 19, PAGE = 14 };

/* The kernel's struct, not libc's. */
typedef struct action {
    uint64_t handler; /* 0: SIG_DFL, 1: SIG_IGN */
    uint64_t flags, restorer, mask;
} action;

static action actions[NUM_SIGNALS];

/* The arguments of a handler after the signal's number: siginfo_t, of which si_signo and si_addr
 * are set, and an empty ucontext_t. */
static struct {
    int32_t signal, error, code, padding;
    uint64_t address;
    uint8_t rest[128 - 24];
} info;
static uint8_t empty_context[1024];

uint64_t signal_action(uint64_t signal, const void *new_action, void *old_action) {
    if (signal == 0 || signal >= NUM_SIGNALS)
        return (uint64_t)-EINVAL;
    if (old_action)
        copy_bytes(old_action, &actions[signal], sizeof actions[signal]);
    if (new_action)
        copy_bytes(&actions[signal], new_action, sizeof actions[signal]);
    return 0;
}

uint64_t signal_raise(uint64_t signal) {
    if (signal >= NUM_SIGNALS)
        return (uint64_t)-EINVAL;
    if (signal == 0 || actions[signal].handler == (uint64_t)SIG_IGN)
        return 0;
    die_of_signal(signal, "the program sent itself a signal");
}

static uint64_t signal_of(uint64_t vector) {
    switch (vector) {
    case DIVIDE:
    case X87_ERROR:
    case SIMD_ERROR:
        return SIGFPE;
    case INVALID_OPCODE:
        return SIGILL;
    case ALIGNMENT:
        return SIGBUS;
    default:
        return SIGSEGV;
    }
}

/* Enters the handler as if the instruction had called it. It has to leave by siglongjmp: what it
 * would return to (the restorer's rt_sigreturn) ends the program. */
static _Noreturn void enter_handler(const action *to, uint64_t signal, uint64_t address,
                                    uint64_t rsp) {
    fill_zero(&info, sizeof info);
    fill_zero(empty_context, sizeof empty_context);
    info.signal = (int32_t)signal;
    info.address = address;
    uint64_t *stack = (uint64_t *)((rsp - 128) & ~15ull); /* below the red zone */
    *--stack = to->restorer;
    __asm__ volatile("cld; mov %0, %%rsp; jmp *%1"
                     :
                     : "r"(stack), "r"(to->handler), "D"(signal), "S"(&info), "d"(empty_context)
                     : "memory");
    __builtin_unreachable();
}

void fault(uint64_t vector, uint64_t error, uint64_t rip, uint64_t rsp) {
    uint64_t address, signal = signal_of(vector);
    __asm__ volatile("mov %%cr2, %0" : "=r"(address));
    if (actions[signal].handler > (uint64_t)SIG_IGN)
        enter_handler(&actions[signal], signal, vector == PAGE ? address : rip, rsp);
    print("\n[supervisor] exception ");
    print_decimal(vector);
    print(", error ");
    print_hex(error);
    print(", at ");
    print_hex(rip);
    print(", stack ");
    print_hex(rsp);
    print(", address ");
    print_hex(address);
    die_of_signal(signal, "no handler");
}

/* --- interrupt descriptors -------------------------------------------------------------------- */

static struct {
    uint16_t offset_low, selector, type, offset_middle;
    uint32_t offset_high, zero;
} gates[NUM_VECTORS];

extern const uint64_t exception_entries[NUM_VECTORS]; /* entry.S */

void signals_begin(void) {
    enum { CODE_SEGMENT = 0x10, INTERRUPT_GATE = 0x8e00 };
    for (int i = 0; i < NUM_VECTORS; i++) {
        uint64_t entry = exception_entries[i];
        gates[i].offset_low = (uint16_t)entry;
        gates[i].selector = CODE_SEGMENT;
        gates[i].type = INTERRUPT_GATE;
        gates[i].offset_middle = (uint16_t)(entry >> 16);
        gates[i].offset_high = (uint32_t)(entry >> 32);
    }
    const struct __attribute__((packed)) {
        uint16_t limit;
        uint64_t base;
    } table = {sizeof gates - 1, (uint64_t)gates};
    __asm__ volatile("lidt %0" : : "m"(table));
}
