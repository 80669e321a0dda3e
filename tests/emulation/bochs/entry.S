/* The supervisor's ways in: from the ROM, from the program's system calls, from exceptions. */

        .section .head, "a"
        .quad   begin                   /* boot.S jumps here */

        .text
begin:
        lea     bss_begin(%rip), %rdi
        lea     bss_end(%rip), %rcx
        sub     %rdi, %rcx
        xor     %eax, %eax
        rep stosb
        call    supervisor_main

/* rcx holds the return address, r11 the flags; every register but rax stays. No interrupt can come,
 * and no other thread. */
        .globl  system_call_entry
system_call_entry:
        mov     %rsp, program_rsp(%rip)
        lea     call_stack_top(%rip), %rsp
        push    %rax
        push    %rbx
        push    %rcx
        push    %rdx
        push    %rsi
        push    %rdi
        push    %rbp
        push    %r8
        push    %r9
        push    %r10
        push    %r11
        push    %r12
        push    %r13
        push    %r14
        push    %r15
        mov     %rsp, %rdi
        sub     $8, %rsp                /* a multiple of 16 at the call */
        call    system_call
        add     $8, %rsp
        pop     %r15
        pop     %r14
        pop     %r13
        pop     %r12
        pop     %r11
        pop     %r10
        pop     %r9
        pop     %r8
        pop     %rbp
        pop     %rdi
        pop     %rsi
        pop     %rdx
        pop     %rcx
        pop     %rbx
        push    %r11
        popfq
        mov     program_rsp(%rip), %rsp
        jmp     *%rcx

/* The processor pushes ss, rsp, rflags, cs, rip, and with some exceptions an error code. */
        .altmacro
        .macro  exception number
exception_\number:
        .if (\number != 8) && (\number < 10 || \number > 14) && (\number != 17)
        push    $0
        .endif
        mov     $\number, %edi
        jmp     exception
        .endm
        .macro  exception_address number
        .quad   exception_\number
        .endm

        .set    vector, 0
        .rept   32
        exception %vector
        .set    vector, vector + 1
        .endr

exception:
        pop     %rsi
        mov     (%rsp), %rdx            /* rip */
        mov     24(%rsp), %rcx          /* rsp */
        lea     fault_stack_top(%rip), %rsp
        cld
        call    fault

        .section .rodata
        .align  8
        .globl  exception_entries
exception_entries:
        .set    vector, 0
        .rept   32
        exception_address %vector
        .set    vector, vector + 1
        .endr

        .bss
        .align  16
        .skip   65536
call_stack_top:
        .skip   65536
fault_stack_top:
program_rsp:
        .skip   8

        .section .note.GNU-stack, "", @progbits
