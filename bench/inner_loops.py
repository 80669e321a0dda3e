#!/usr/bin/python3
"""inner_loops.py [--llvm-mca PROGRAM --cpu NAME,...] LIBRARY...: the kernels' inner loops, counted.

For each innermost loop with multiply-adds: instructions, multiply-adds, and instructions for each
multiply-add. A multiply-add is one instruction, of 4 numbers on NEON and of 8 on AVX2. Loops are
found by tests/count_spills.py in a disassembly.

With --llvm-mca, also what the model of each CPU in LLVM's machine code analyser says: cycles of one
turn of the loop where all loads hit the L1 cache, and the part of the CPU's multiply-adds that are
used. It is an estimate, and measures nothing. LLVM 19 has models of neoverse-n1, -v1 and -v2; older
versions take that of another CPU for them, as all take Cortex-A57's for cortex-a76.

    ninja -C build simd/libflashblock-avx2.a
    bench/inner_loops.py build/simd/libflashblock-avx2.a
    tests/emulation/aarch64/run.sh DIR    # builds DIR/build with Debian's compiler for aarch64
    bench/inner_loops.py --objdump aarch64-linux-gnu-objdump --llvm-mca llvm-mca-19 \\
        --cpu neoverse-n1,neoverse-v1,neoverse-v2,cortex-a76 DIR/build/simd/libflashblock-neon.a
"""
import argparse
import pathlib
import re
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests"))
import count_spills  # noqa: E402

ITERATIONS = 200
# Multiply-adds of four floats that can begin in a cycle (the CPUs' software optimisation guides).
PIPES = {"neoverse-n1": 2, "cortex-a76": 2, "neoverse-v1": 4, "neoverse-v2": 4}


def assembly(architecture, instructions):
    """The text of a loop. Its branches go to one label: they are not taken here."""
    lines = ["loop:"]
    for each in instructions:
        operands = list(each.operands)
        if architecture.is_branch(each):
            operands[-1] = "loop"
        lines.append(f"{each.name} {', '.join(operands)}")
    return "\n".join(lines) + "\n"


def cycles_a_turn(program, cpu, text):
    command = [program, "-mtriple=aarch64", f"-mcpu={cpu}", f"-iterations={ITERATIONS}", "-"]
    result = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    found = re.search(r"Total Cycles:\s+(\d+)", result.stdout)
    if not found:
        sys.exit(f"{program} --mcpu={cpu}: {result.stderr.strip()}")
    return int(found[1]) / ITERATIONS


def rows(library, options):
    architecture, functions = count_spills.parse(
        count_spills.disassemble(options.objdump, library))
    for name, instructions in functions.items():
        if not re.search(options.functions, name):
            continue
        for part in count_spills.fma_parts(architecture, instructions):
            inside = [each for each in instructions if part.first <= each.address <= part.last]
            row = [name, part.instructions, part.fmas, f"{part.instructions / part.fmas:.2f}"]
            for cpu in options.cpu.split(",") if options.cpu else ():
                cycles = cycles_a_turn(options.llvm_mca, cpu, assembly(architecture, inside))
                row.append(f"{cycles:.1f} ({part.fmas / cycles / PIPES[cpu]:.2f})")
            yield row


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--objdump", default="objdump", help="for the libraries' architecture")
    parser.add_argument("--llvm-mca", default="llvm-mca", metavar="PROGRAM")
    parser.add_argument("--cpu", default="", help=", ".join(PIPES))
    parser.add_argument("--functions", default="product|dots", help="a regular expression")
    parser.add_argument("libraries", nargs="+", metavar="LIBRARY")
    options = parser.parse_args()
    unknown = set(filter(None, options.cpu.split(","))) - set(PIPES)
    if unknown:
        parser.error(f"--cpu: {', '.join(sorted(unknown))}: not one of {', '.join(PIPES)}")
    cpus = list(filter(None, options.cpu.split(",")))
    for library in options.libraries:
        print(f"{library}\n")
        print("| " + " | ".join(["loop", "instructions", "fma", "instructions / fma", *cpus]) + " |")
        print("|---" * (4 + len(cpus)) + "|")
        for row in rows(library, options):
            print("| " + " | ".join(map(str, row)) + " |")
        print()


if __name__ == "__main__":
    main()
