/* The 64 KiB of Bochs' ROM: from reset to 64-bit mode, with SSE, AVX and AVX-512 switched on, to the
 * address that the first 8 bytes of the supervisor, at 0x200000, hold.
 *
 * The ROM ends at 4 GiB, so that its first byte is at 0xffff0000; it is linked to address 0. */

#define ROM           0xffff0000
#define TABLES        0x10000 /* first page tables; memory.c relies on it */
#define STACK_TOP     0x1f0000
#define SUPERVISOR    0x200000
#define CODE32        0x08
#define CODE64        0x10
#define DATA          0x18

        .text
        .code16
        .globl  start
start:
        cli
        cld
        lgdtl   %cs:descriptors_at
        movl    %cr0, %eax
        orl     $1, %eax                        /* protected mode */
        movl    %eax, %cr0
        ljmpl   $CODE32, $ROM + in_32_bits

        .code32
in_32_bits:
        movw    $DATA, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movw    %ax, %fs
        movw    %ax, %gs

        /* 4 GiB, mapped to themselves in pages of 2 MiB: one table of the highest level, one of
         * the next, four of the third. */
        movl    $TABLES, %edi
        xorl    %eax, %eax
        movl    $6 * 4096 / 4, %ecx
        rep stosl
        movl    $TABLES + 0x1007, TABLES        /* 7: present, writable, for any ring */
        movl    $TABLES + 0x2007, TABLES + 0x1000
        movl    $TABLES + 0x3007, TABLES + 0x1008
        movl    $TABLES + 0x4007, TABLES + 0x1010
        movl    $TABLES + 0x5007, TABLES + 0x1018
        movl    $TABLES + 0x2000, %edi
        movl    $0x87, %eax                     /* 0x80: a page, not a table */
        movl    $4 * 512, %ecx
1:      movl    %eax, (%edi)
        addl    $0x200000, %eax
        addl    $8, %edi
        loop    1b

        movl    $0x40620, %eax                  /* PAE, OSFXSR, OSXMMEXCPT, OSXSAVE */
        movl    %eax, %cr4
        movl    $TABLES, %eax
        movl    %eax, %cr3
        movl    $0xc0000080, %ecx               /* EFER: 64-bit mode, syscall */
        rdmsr
        orl     $0x101, %eax
        wrmsr
        movl    %cr0, %eax
        andl    $0x9ffffffb, %eax               /* caches on, a floating-point unit is there */
        orl     $0x80000022, %eax               /* paging, native errors, wait for it */
        movl    %eax, %cr0
        ljmpl   $CODE64, $ROM + in_64_bits

        .code64
in_64_bits:
        xorl    %ecx, %ecx                      /* XCR0: x87, SSE, AVX, and AVX-512's three */
        xorl    %edx, %edx
        movl    $0xe7, %eax
        xsetbv
        fninit
        movl    $STACK_TOP, %esp
        jmp     *SUPERVISOR

        .align  8
descriptors:
        .quad   0
        .quad   0x00cf9b000000ffff              /* CODE32 */
        .quad   0x00af9b000000ffff              /* CODE64 */
        .quad   0x00cf93000000ffff              /* DATA */
descriptors_at:
        .word   . - descriptors - 1
        .long   ROM + descriptors

        .org    0xfff0                          /* where the processor begins */
        .code16
        jmp     start
        .org    0x10000
