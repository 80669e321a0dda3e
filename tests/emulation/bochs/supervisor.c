#include "supervisor.h"

void supervisor_main(void);
void system_call_entry(void); /* entry.S */

static void system_calls_begin(void) {
    enum { CODE_SEGMENT = 0x10, FLAGS_OFF = 0x700 /* trap, interrupt, direction */ };
    enum { MSR_STAR = 0xc0000081u, MSR_LSTAR = 0xc0000082u, MSR_FMASK = 0xc0000084u };
    write_msr(MSR_STAR, (uint64_t)CODE_SEGMENT << 32);
    write_msr(MSR_LSTAR, (uint64_t)system_call_entry);
    write_msr(MSR_FMASK, FLAGS_OFF);
}

/* Where boot.S and then entry.S jump to. */
void supervisor_main(void) {
    signals_begin();
    system_calls_begin();
    disk_load();
    memory_begin();
    print("[supervisor] begin\n");
    program_run();
}
