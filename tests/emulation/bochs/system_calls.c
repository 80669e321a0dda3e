/* The system calls of Linux that a static, single-threaded glibc program makes. */
#include "supervisor.h"

#include <asm/errno.h>
#include <asm/prctl.h>
#include <asm/stat.h>
#include <asm/unistd.h>
#include <linux/mman.h>

enum { STANDARD_OUTPUT = 1, STANDARD_ERROR = 2, PROCESS_ID = 1 };

/* One instruction counts as one nanosecond. */
enum { PER_SECOND = 1000000000 };

static uint64_t failure(int error_number) {
    return (uint64_t)-error_number;
}

static bool is_console(uint64_t file) {
    return file == STANDARD_OUTPUT || file == STANDARD_ERROR;
}

static uint64_t call_write(uint64_t file, const char *bytes, uint64_t count) {
    if (!is_console(file))
        return failure(EBADF);
    print_bytes(bytes, count);
    return count;
}

static uint64_t call_writev(uint64_t file, const uint64_t (*parts)[2], uint64_t num_parts) {
    uint64_t total = 0;
    if (!is_console(file))
        return failure(EBADF);
    for (uint64_t i = 0; i < num_parts; i++)
        total += call_write(file, (const char *)parts[i][0], parts[i][1]);
    return total;
}

/* Standard input, output and error are a terminal: a character device. */
static uint64_t call_fstat(uint64_t file, struct stat *status) {
    if (file > STANDARD_ERROR)
        return failure(EBADF);
    fill_zero(status, sizeof *status);
    status->st_mode = 0020620;
    status->st_rdev = 0x8801;
    status->st_blksize = 1024;
    return 0;
}

static uint64_t call_mmap(const saved_registers *r) {
    uint64_t bytes = r->rsi, protection = r->rdx, flags = r->r10;
    if (!(flags & MAP_ANONYMOUS) || (flags & MAP_FIXED))
        return failure(ENODEV);
    return memory_map(bytes, protection);
}

static uint64_t call_arch_prctl(uint64_t what, uint64_t value) {
    enum { MSR_FS_BASE = 0xc0000100u };
    if (what != ARCH_SET_FS)
        return failure(EINVAL);
    write_msr(MSR_FS_BASE, value);
    return 0;
}

static uint64_t call_clock_gettime(uint64_t (*time)[2]) {
    (*time)[0] = instructions() / PER_SECOND;
    (*time)[1] = instructions() % PER_SECOND;
    return 0;
}

/* One CPU. */
static uint64_t call_sched_getaffinity(uint64_t bytes, uint64_t *mask) {
    if (bytes < sizeof *mask)
        return failure(EINVAL);
    *mask = 1;
    return sizeof *mask;
}

/* A stack of 8 MiB; the rest without limits. */
static uint64_t call_prlimit(uint64_t (*old)[2]) {
    if (old) {
        (*old)[0] = 8 << 20;
        (*old)[1] = ~0ull;
    }
    return 0;
}

/* For malloc and hash tables; always the same. */
static uint64_t call_getrandom(uint8_t *bytes, uint64_t count) {
    uint64_t state = 1;
    for (uint64_t i = 0; i < count; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        bytes[i] = (uint8_t)(state >> 56);
    }
    return count;
}

static uint64_t unknown_call(uint64_t number) {
    print("[supervisor] system call ");
    print_decimal(number);
    print(" is not served\n");
    return failure(ENOSYS);
}

uint64_t system_call(const saved_registers *r) {
    uint64_t a = r->rdi, b = r->rsi, c = r->rdx;
    switch (r->rax) {
    case __NR_write:
        return call_write(a, (const char *)b, c);
    case __NR_writev:
        return call_writev(a, (const uint64_t(*)[2])b, c);
    case __NR_fstat:
        return call_fstat(a, (struct stat *)b);
    case __NR_newfstatat: /* glibc's fstat: an empty name */
        return call_fstat(a, (struct stat *)c);
    case __NR_mmap:
        return call_mmap(r);
    case __NR_munmap:
        return memory_unmap(a, b);
    case __NR_mprotect:
        return memory_protect(a, b, c);
    case __NR_mremap:
        return memory_remap(a, b, c, r->r10);
    case __NR_brk:
        return memory_brk(a);
    case __NR_rt_sigaction:
        return signal_action(a, (const void *)b, (void *)c);
    case __NR_rt_sigreturn:
        die_of_signal(11, "a signal's handler has returned, which is not served");
    case __NR_kill:
    case __NR_tkill:
        return signal_raise(b);
    case __NR_tgkill:
        return signal_raise(c);
    case __NR_arch_prctl:
        return call_arch_prctl(a, b);
    case __NR_clock_gettime:
        return call_clock_gettime((uint64_t(*)[2])b);
    case __NR_sched_getaffinity:
        return call_sched_getaffinity(b, (uint64_t *)c);
    case __NR_prlimit64:
        return call_prlimit((uint64_t(*)[2])r->r10);
    case __NR_getrandom:
        return call_getrandom((uint8_t *)a, b);
    case __NR_exit:
    case __NR_exit_group:
        power_off(a & 255);
    case __NR_getpid:
    case __NR_gettid:
    case __NR_set_tid_address:
        return PROCESS_ID;
    case __NR_read: /* the end of the file */
    case __NR_close:
    case __NR_madvise:
    case __NR_rt_sigprocmask:
    case __NR_futex: /* pthread_once wakes threads that wait: none */
    case __NR_sigaltstack:
        return 0;
    case __NR_ioctl:
        return failure(ENOTTY);
    case __NR_open:
    case __NR_openat:
    case __NR_readlink:
    case __NR_readlinkat:
    case __NR_access:
        return failure(ENOENT);
    case __NR_set_robust_list:
    case __NR_rseq:
    case __NR_sched_yield:
        return failure(ENOSYS);
    default:
        return unknown_call(r->rax);
    }
}
