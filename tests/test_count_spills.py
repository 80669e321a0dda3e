#!/usr/bin/python3
"""count_spills.py on disassemblies with a known answer. Prints TAP."""
import contextlib
import io

import count_spills

count_spills.UNROLLED = 6

# An outer loop (20..78) around an inner one (30..68), entered at its end; padding before both. On the
# stack: one load at the stack pointer, one at a copy of it, one store at the frame pointer.
X86 = """
x.o:     file format elf64-x86-64

0000000000000010 <kernel>:
  10:\tmov    %rsp,%rbp
  14:\tlea    0x40(%rsp),%rax
  18:\tjmp    20 <kernel+0x10>
  1a:\tnopw   0x0(%rax,%rax,1)
  20:\tvmovups 0x8(%rsp),%ymm1        # 63 <kernel+0x53>
  28:\tjmp    60 <kernel+0x50>
  2a:\txchg   %ax,%ax
  2c:\tnopl   0x0(%rax)
  30:\tvmovups (%rdi,%rcx,4),%zmm2{%k1}{z}
  38:\tvfmadd231ps 0x20(%rsp),%ymm2,%ymm1
  40:\tvfmadd231ps (%rax,%rcx,8),%ymm2,%ymm1
  48:\tvmovups %ymm1,-0x20(%rbp)
  50:\tvmovups %zmm1,(%rsi){%k1}
  58:\tlea    0x8(%rsp),%rdx
  5c:\tadd    $0x1,%rcx
  60:\tcmp    %rcx,%r8
  68:\tjne    30 <kernel+0x20>
  70:\tadd    $0x1,%r9
  78:\tjne    20 <kernel+0x10>
  7a:\tret
"""

# A register that held an address of the stack and holds another one in the loop.
AARCH64 = """
x.o:     file format elf64-littleaarch64

0000000000000000 <kernel>:
   0:\tadd\tx4, sp, #0x10
   4:\tadd\tx5, sp, #0x20
   8:\tmov\tx5, x1
   c:\tldr\tq2, [x0], #16
  10:\tld1r\t{v1.4s}, [x5], #4
  14:\tfmla\tv0.4s, v2.4s, v1.4s
  18:\tfmla\tv3.4s, v2.4s, v1.s[0]
  1c:\tstr\tq0, [sp, #48]
  20:\tldp\tx6, x7, [x4]
  24:\tsubs\tx3, x3, #0x1
  28:\tb.ne\tc <kernel+0xc>  // b.any
  2c:\tret
"""

CLEAN = AARCH64.replace("[sp, #48]", "[x2]").replace("[x4]", "[x2]")


# The same outer loop, the multiply-adds in a block of its own before the inner loop.
UNROLLED = X86.replace(
    "  28:\tjmp", "".join(f"  {0x21 + i:x}:\tvfmadd231ps %ymm1,%ymm2,%ymm3\n" for i in range(6)) + "  28:\tjmp"
)

COUNTER = AARCH64.replace("[sp, #48]", "[x2]")


def parts(text):
    architecture, functions = count_spills.parse(text)
    return count_spills.fma_parts(architecture, functions["kernel"])


def only_part(text):
    (part,) = parts(text)
    return part


def verdict(text, allowed=None, free=16):
    count_spills.ALLOWED, count_spills.FREE = allowed or {}, free
    with contextlib.redirect_stdout(io.StringIO()):
        return all(count_spills.report("build/libflashblock-avx2.a", text))


def allowing(accesses):
    return {("avx2", "kernel"): (accesses, "a reason")}


CASES = {
    "x86-64: the inner loop": lambda: only_part(X86)
    == count_spills.Part(0x30, 0x68, "loop", 9, fmas=2, loads=3, stores=2, vectors=3, others=0),
    "aarch64: the loop": lambda: only_part(AARCH64)
    == count_spills.Part(0xC, 0x28, "loop", 8, fmas=2, loads=3, stores=1, vectors=1, others=1),
    "an unrolled block around the inner loop": lambda: [
        (part.kind, part.fmas, part.vectors) for part in parts(UNROLLED)
    ]
    == [("block", 6, 1), ("loop", 2, 3)],
    "no stack access": lambda: count_spills.spills(only_part(CLEAN)) == 0 and verdict(CLEAN),
    "stack accesses": lambda: not verdict(X86) and not verdict(AARCH64),
    "a counter of the unrolled block": lambda: not verdict(COUNTER) and verdict(COUNTER, free=2),
    "as many as are allowed": lambda: verdict(AARCH64, allowing(2)),
    "one more than is allowed": lambda: not verdict(AARCH64, allowing(1)),
    "no multiply-add at all": lambda: not verdict(X86.replace("vfmadd231ps", "vaddps")),
}

for number, (name, holds) in enumerate(CASES.items(), 1):
    print("ok" if holds() else "not ok", number, "-", name)
print(f"1..{len(CASES)}")
