/* A supervisor that stands between Bochs' bare machine and one static, single-threaded Linux
 * program: it loads the program, serves the few system calls that glibc makes for such a program,
 * protects pages, and turns faults into signals. Program and supervisor run in ring 0 with
 * interrupts off, so that a system call is little more than a call.
 *
 * Physical memory, mapped to the same virtual addresses (1 GiB, MEMORY_END):
 *
 *   0x00000000  page 0, never mapped
 *   0x00010000  boot.S: first page tables
 *   0x00180000  ARGUMENTS: from the disk, see program.c
 *   0x00200000  the supervisor, with its stacks
 *   0x00400000  PROGRAM: its segments
 *   0x10000000  ELF_IMAGE: the program's file, from the disk
 *   0x1f000000  PAGE_TABLES
 *   0x20000000  HEAP: brk upwards, mmap from STACK downwards
 *   0x3f000000  STACK of the program, a guard page below
 */
#ifndef FB_BOCHS_SUPERVISOR_H
#define FB_BOCHS_SUPERVISOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ARGUMENTS   0x00180000ull
#define PROGRAM     0x00400000ull
#define ELF_IMAGE   0x10000000ull
#define PAGE_TABLES 0x1f000000ull
#define HEAP        0x20000000ull
#define STACK       0x3f000000ull
#define MEMORY_END  0x40000000ull

enum { PAGE_BYTES = 4096 };

/* --- machine.h: instructions that C has no words for ------------------------------------------ */

static inline void port_write(uint16_t port, uint8_t value) {
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static inline uint8_t port_read(uint16_t port) {
    uint8_t value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

/* Counts instructions: Bochs' clock ticks once for each. */
static inline uint64_t instructions(void) {
    uint32_t low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return (uint64_t)high << 32 | low;
}

static inline void write_msr(uint32_t msr, uint64_t value) {
    __asm__ volatile("wrmsr" : : "c"(msr), "a"((uint32_t)value), "d"((uint32_t)(value >> 32)));
}

static inline void fill_zero(void *to, uint64_t bytes) {
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(bytes) : "a"(0) : "memory");
}

static inline void copy_bytes(void *to, const void *from, uint64_t bytes) {
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(bytes) : : "memory");
}

/* --- console.c: text through port 0xE9, which Bochs writes to its standard output --------------
 */

void print_bytes(const char *text, uint64_t bytes);
void print(const char *text);
void print_hex(uint64_t value);
void print_decimal(uint64_t value);

/* The line that run.py waits for, and the machine is switched off. */
_Noreturn void power_off(uint64_t exit_status);

/* As if the program had died of this signal; `why` is printed. */
_Noreturn void die_of_signal(uint64_t signal, const char *why);

/* --- disk.c ----------------------------------------------------------------------------------- */

/* Reads every part of the disk to its place in memory: run.py describes the format. */
void disk_load(void);

/* --- memory.c --------------------------------------------------------------------------------- */

/* Page tables with a page of 4 KiB each, of which heap and page 0 are not there. */
void memory_begin(void);

/* As the system calls: an address, or a negative error number. */
uint64_t memory_brk(uint64_t end);
uint64_t memory_map(uint64_t bytes, uint64_t protection);
uint64_t memory_unmap(uint64_t begin, uint64_t bytes);
uint64_t memory_protect(uint64_t begin, uint64_t bytes, uint64_t protection);
uint64_t memory_remap(uint64_t begin, uint64_t old_bytes, uint64_t new_bytes, uint64_t flags);

/* --- system_calls.c, signals.c ---------------------------------------------------------------- */

/* Registers as entry.S pushes them; rcx and r11 are where syscall puts rip and rflags. */
typedef struct saved_registers {
    uint64_t r15, r14, r13, r12, r11, r10, r9, r8, rbp, rdi, rsi, rdx, rcx, rbx, rax;
} saved_registers;

uint64_t system_call(const saved_registers *registers);

/* What a program may install for a signal: struct kernel_sigaction. */
uint64_t signal_action(uint64_t signal, const void *action, void *old_action);

/* The program sends itself a signal. */
uint64_t signal_raise(uint64_t signal);

void signals_begin(void);

/* Of an exception: entry.S passes it on. Never returns to where it happened. */
_Noreturn void fault(uint64_t vector, uint64_t error, uint64_t rip, uint64_t rsp);

/* --- program.c -------------------------------------------------------------------------------- */

/* Loads the program's segments, makes its first stack, and runs it. */
_Noreturn void program_run(void);

#endif
