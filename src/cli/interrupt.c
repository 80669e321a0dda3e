#include "cli/interrupt.h"

#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>

static atomic_bool seen;

static void note(int number) {
    (void)number;
    atomic_store(&seen, true);
}

void fb_interrupt_catch(void) {
    struct sigaction ours = {.sa_handler = note};
    sigemptyset(&ours.sa_mask);
    sigaction(SIGINT, &ours, NULL);
}

bool fb_interrupt_seen(void) {
    return atomic_load(&seen);
}

void fb_interrupt_forget(void) {
    atomic_store(&seen, false);
}
