/* The program: an ELF file at ELF_IMAGE. Its arguments and environment are at ARGUMENTS, as
 *
 *   number of arguments, number of environment variables: 64 bits each
 *   so many strings, each ending with a NUL
 */
#include "supervisor.h"

#include <linux/auxvec.h>
#include <linux/elf.h>

static _Noreturn void reject(const char *why) {
    print("[supervisor] the program ");
    print(why);
    print("\n");
    power_off(126);
}

static const Elf64_Ehdr *const elf = (const Elf64_Ehdr *)ELF_IMAGE;

static const Elf64_Phdr *segment(int index) {
    return (const Elf64_Phdr *)(ELF_IMAGE + elf->e_phoff) + index;
}

static void check_file(void) {
    for (int i = 0; i < SELFMAG; i++)
        if (elf->e_ident[i] != (uint8_t)ELFMAG[i])
            reject("is not an ELF file");
    if (elf->e_machine != EM_X86_64 || elf->e_type != ET_EXEC)
        reject("is not a static program for x86-64 at fixed addresses");
    for (int i = 0; i < elf->e_phnum; i++)
        if (segment(i)->p_type == PT_INTERP)
            reject("is not static");
}

static void load_segments(void) {
    for (int i = 0; i < elf->e_phnum; i++) {
        const Elf64_Phdr *s = segment(i);
        if (s->p_type != PT_LOAD)
            continue;
        if (s->p_vaddr < PROGRAM || s->p_memsz > ELF_IMAGE - s->p_vaddr || s->p_filesz > s->p_memsz)
            reject("does not fit into memory");
        copy_bytes((void *)s->p_vaddr, (const void *)(ELF_IMAGE + s->p_offset), s->p_filesz);
        fill_zero((void *)(s->p_vaddr + s->p_filesz), s->p_memsz - s->p_filesz);
    }
}

/* The address of the program headers in the loaded program. */
static uint64_t loaded_headers(void) {
    for (int i = 0; i < elf->e_phnum; i++) {
        const Elf64_Phdr *s = segment(i);
        if (s->p_type == PT_LOAD && s->p_offset <= elf->e_phoff &&
            elf->e_phoff < s->p_offset + s->p_filesz)
            return s->p_vaddr + elf->e_phoff - s->p_offset;
    }
    return 0;
}

/* Pointers to `count` strings from *text on, and a NULL. *text then points after the strings. */
static uint64_t *put_strings(uint64_t *to, uint64_t count, const char **text) {
    for (uint64_t i = 0; i < count; i++) {
        *to++ = (uint64_t)*text;
        while (*(*text)++) {
        }
    }
    *to++ = 0;
    return to;
}

static uint64_t *put_auxiliary(uint64_t *to, const char *name) {
    static const uint64_t random_bytes[2] = {0x0123456789abcdefu, 0xfedcba9876543210u};
    const uint64_t values[][2] = {
        {AT_PHDR, loaded_headers()},
        {AT_PHENT, elf->e_phentsize},
        {AT_PHNUM, elf->e_phnum},
        {AT_PAGESZ, PAGE_BYTES},
        {AT_ENTRY, elf->e_entry},
        {AT_RANDOM, (uint64_t)random_bytes},
        {AT_CLKTCK, 100},
        {AT_SECURE, 0},
        {AT_EXECFN, (uint64_t)name},
        {AT_NULL, 0},
    };
    copy_bytes(to, values, sizeof values);
    return to + sizeof values / sizeof **values;
}

/* The stack as the x86-64 ABI has it at a program's start; the address of its lowest word. */
static uint64_t make_stack(void) {
    enum { BYTES = 64 * 1024 };
    const uint64_t *counts = (const uint64_t *)ARGUMENTS;
    const char *text = (const char *)(counts + 2), *name = text;
    if (counts[0] + counts[1] > BYTES / 8 - 64)
        reject("has too many arguments");
    uint64_t *lowest = (uint64_t *)(MEMORY_END - BYTES), *next = lowest;
    *next++ = counts[0];
    next = put_strings(next, counts[0], &text);
    next = put_strings(next, counts[1], &text);
    put_auxiliary(next, name);
    return (uint64_t)lowest;
}

void program_run(void) {
    const uint32_t default_mxcsr = 0x1f80;
    check_file();
    load_segments();
    uint64_t stack = make_stack();
    __asm__ volatile("ldmxcsr %2\n\t"
                     "mov %0, %%rsp\n\t"
                     "xor %%edx, %%edx\n\t" /* no function to call at exit */
                     "xor %%ebp, %%ebp\n\t"
                     "jmp *%1"
                     :
                     : "a"(stack), "b"(elf->e_entry), "m"(default_mxcsr)
                     : "rdx", "memory");
    __builtin_unreachable();
}
