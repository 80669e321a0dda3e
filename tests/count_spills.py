#!/usr/bin/python3
"""count_spills.py [--objdump PROGRAM] LIBRARY...: what the inner loops of the kernels do in memory.

Disassembles each library (x86-64 or aarch64, from any compiler), finds the innermost loops that hold
fused multiply-adds and the unrolled blocks of the loops around them, and prints a line for each:
instructions, multiply-adds, loads, stores, and the accesses to the stack among them, those for vectors
and those for pointers and counters. They are what a compiler adds when it has run out of registers,
or when it left an array of accumulators in memory. Exit status: 0 none, or only those that ALLOWED
gives a reason for; 1 others, or no such loop in any library; 2 wrong usage; 77 no objdump.
"""
import argparse
import collections
import os
import re
import shutil
import subprocess
import sys

# (part of the library's name, pattern of the function): (accesses at most, why they cost nothing)
ALLOWED = {
    ("avx2", r"softmax"): (2, "its array of what the maxima change by, one value a row"),
    ("avx512", r"softmax_(whole|short)_rows"): (1, "its array of what is subtracted, one value a row"),
    ("avx2", r"(scores|values)_bf16_(short_)?[12]"): (
        5,
        "gcc 12, tiles of one or two rows, where memory takes the time: pointers, once a block",
    ),
    ("avx2", r"(scores_bf16|values_\w+)_short_[56]s"): (
        1,
        "clang 14: a pointer, once a line, where the length is not a multiple of 16",
    ),
    ("avx", r"int_dots_\w+"): (
        7,
        "pointers, and with groups of 32 columns permutations: once a unit of up to 128 columns, which the "
        "integer products take",
    ),
}

UNROLLED = 24  # multiply-adds of a block outside of the innermost loops
FREE = 16  # multiply-adds that hide one access for a pointer or a counter; none hide a vector's

Instruction = collections.namedtuple("Instruction", "address name operands")
Access = collections.namedtuple("Access", "loads stores registers")  # registers: of the addresses
NOTHING = Access(0, 0, ())


class X86:
    """AT&T syntax: sources first, the destination last, memory as 8(%base,%index,4)."""

    FMA = re.compile(r"vfn?m(add|sub|addsub|subadd)\d+[ps][sd]$")
    MEMORY = re.compile(r"[^%]*\(.*\)")
    PURE_STORE = re.compile(r"v?p?(mov|mask|extr|compress|scatter)|vcvtps2ph|set")
    VECTOR = re.compile(r"%[xyz]mm")
    STACK_POINTER = "%rsp"

    @staticmethod
    def ends(instruction):
        """The flow does not go on after it."""
        return instruction.name.split()[-1] in ("jmp", "ret", "ud2")

    @staticmethod
    def is_branch(instruction):
        return instruction.name.startswith("j")

    def access(self, instruction):
        name, operands = instruction.name, instruction.operands
        if name.startswith(("lea", "prefetch")) or is_padding(instruction):
            return NOTHING
        if name.startswith("push") or name.startswith("call"):
            return Access(0, 1, (self.STACK_POINTER,))
        if name.startswith("pop"):
            return Access(1, 0, (self.STACK_POINTER,))
        for operand in operands:
            if self.MEMORY.match(operand):
                is_last = operand == operands[-1]
                direction = self.direction(name, is_last, len(operands))
                return Access(*direction, self.registers(operand))
        return NOTHING

    @staticmethod
    def direction(name, is_last, num_operands):
        """Loads and stores of an instruction with a memory operand."""
        if not is_last or name.startswith(("cmp", "test", "bt", "vptest", "vucomis", "vcomis")):
            return 1, 0
        if X86.PURE_STORE.match(name):
            return 0, 1
        return (1, 0) if num_operands == 1 and name.startswith(("mul", "div", "j")) else (1, 1)

    @staticmethod
    def registers(text):
        """All of them by their 64-bit names."""
        names = re.findall(r"%(\w+)", text)
        names = [re.sub(r"^e(\w\w)$", r"r\1", re.sub(r"^(r\d+)d$", r"\1", name)) for name in names]
        return tuple("%" + name for name in names)

    def copied(self, instruction):
        """(sources, destination) of an instruction that makes an address of an address."""
        name, operands = instruction.name, instruction.operands
        if len(operands) != 2 or name not in ("mov", "lea", "add", "sub"):
            return (), None
        if name == "lea" or "(" not in operands[0]:
            sources = operands[:1] if name in ("mov", "lea") else operands
            return self.registers(" ".join(sources)), self.registers(operands[1])[0]
        return (), None

    def written(self, instruction):
        if instruction.name.startswith(("cmp", "test", "push", "j")) or not instruction.operands:
            return ()
        last = instruction.operands[-1]
        return () if "(" in last else self.registers(last)


class Aarch64:
    """The destination first, memory as [base, index]."""

    FMA = re.compile(r"(fmla|fmls|fn?madd|fn?msub)$")
    VECTOR = re.compile(r"\{?[vqds]\d")
    STACK_POINTER = "sp"

    @staticmethod
    def ends(instruction):
        return instruction.name in ("b", "br", "ret", "udf", "brk")

    @staticmethod
    def is_branch(instruction):
        return re.match(r"(b|b\..*|cbn?z|tbn?z)$", instruction.name) is not None

    def access(self, instruction):
        name, text = instruction.name, ",".join(instruction.operands)
        if name == "bl":
            return Access(0, 1, (self.STACK_POINTER,))
        address = re.search(r"\[(.*?)\]", text)
        registers = self.registers(address[1]) if address else ()
        if name.startswith("ld"):
            return Access(1, 0, registers)
        if name.startswith("st"):
            return Access(0, 1, registers)
        return NOTHING

    @staticmethod
    def registers(text):
        return tuple(re.sub("^w", "x", name) for name in re.findall(r"\b(?:[xw]\d+|sp)\b", text))

    def copied(self, instruction):
        if instruction.name in ("mov", "add", "sub") and len(instruction.operands) >= 2:
            written = self.registers(instruction.operands[0])
            return self.registers(" ".join(instruction.operands[1:])), written[0] if written else None
        return (), None

    def written(self, instruction):
        if instruction.name.startswith(("st", "cmp", "prfm")) or self.is_branch(instruction):
            return ()
        count = 2 if instruction.name.startswith("ldp") else 1
        return self.registers(" ".join(instruction.operands[:count]))


ARCHITECTURES = {"elf64-x86-64": X86, "elf64-littleaarch64": Aarch64}


# ---- disassembly ----


def split_operands(text):
    """At the commas outside of parentheses, brackets and braces."""
    text = re.sub(r"\s*(# |//|<).*", "", text)
    parts = re.findall(r"(?:[^,(\[{]|\([^)]*\)|\[[^\]]*\]|\{[^}]*\})+", text)
    return tuple(part.strip() for part in parts)


def disassemble(objdump, library):
    command = [objdump, "-d", "-w", "--no-show-raw-insn", library]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def parse(text):
    """The architecture of a disassembly, and the instructions of each function."""
    architecture, functions, function = None, {}, None
    for line in text.splitlines():
        header = re.match(r"[0-9a-f]+ <(.+)>:$", line)
        instruction = re.match(r"\s*([0-9a-f]+):\t(\S+)\s*(.*)", line)
        if "file format " in line:
            architecture = ARCHITECTURES.get(line.split("file format ")[1].strip())
        elif header:
            function = functions.setdefault(header[1], [])
        elif instruction and function is not None:
            address, name, operands = instruction.groups()
            while name in ("notrack", "bnd", "rep", "repz"):
                name, _, operands = operands.partition(" ")
            function.append(Instruction(int(address, 16), name, split_operands(operands)))
    if architecture is None:
        sys.exit("count_spills.py: neither x86-64 nor aarch64")
    return architecture(), functions


def is_padding(instruction):
    is_nop = instruction.name.startswith(("nop", "data16", "cs", "int3"))
    return is_nop or (instruction.name == "xchg" and len(set(instruction.operands)) == 1)


# ---- the graph of a function's basic blocks ----


class Graph:
    """Blocks are numbered by address; block[i] is a list of instructions."""

    def __init__(self, architecture, instructions):
        self.architecture = architecture
        places = {instruction.address: i for i, instruction in enumerate(instructions)}
        targets = [self.target(instruction, places) for instruction in instructions]
        starts = {0} | {places[target] for target in targets if target is not None}
        starts |= {i + 1 for i, each in enumerate(instructions) if self.cuts(each)}
        starts = sorted(start for start in starts if start < len(instructions))
        numbers = {start: number for number, start in enumerate(starts)}
        ends = starts[1:] + [len(instructions)]
        self.blocks = [instructions[start:end] for start, end in zip(starts, ends)]
        self.successors = []
        for end in ends:
            after = set()
            if targets[end - 1] is not None:
                after.add(numbers[places[targets[end - 1]]])
            if not architecture.ends(instructions[end - 1]) and end in numbers:
                after.add(numbers[end])
            self.successors.append(after)
        self.roots = self.find_roots()
        self.predecessors = [set() for _ in self.blocks]
        for block, after in enumerate(self.successors):
            for successor in after:
                self.predecessors[successor].add(block)

    def target(self, instruction, places):
        """Where a direct branch goes, if inside the function."""
        if not self.architecture.is_branch(instruction) or not instruction.operands:
            return None
        last = instruction.operands[-1]
        address = int(last, 16) if re.fullmatch(r"[0-9a-f]+", last) else None
        return address if address in places else None

    def cuts(self, instruction):
        return self.architecture.is_branch(instruction) or self.architecture.ends(instruction)

    def find_roots(self):
        """The entry, and blocks that only a jump through a table reaches. Padding leads nowhere."""
        reached, roots = set(), set()
        for block, instructions in enumerate(self.blocks):
            if block in reached:
                continue
            if all(is_padding(instruction) for instruction in instructions):
                self.successors[block] = set()
                continue
            roots.add(block)
            waiting = [block]
            while waiting:
                at = waiting.pop()
                if at not in reached:
                    reached.add(at)
                    waiting += self.successors[at]
        return roots

    def dominators(self):
        """For each block a bit set of those that every path to it passes, itself included."""
        everything = (1 << len(self.blocks)) - 1
        dominators = [everything] * len(self.blocks)
        changed = True
        while changed:
            changed = False
            for block in range(len(self.blocks)):
                common = 0 if block in self.roots else everything
                for predecessor in self.predecessors[block]:
                    common &= dominators[predecessor]
                common |= 1 << block
                if common != dominators[block]:
                    dominators[block], changed = common, True
        return dominators

    def loops(self):
        """{header: set of blocks}, the natural loops."""
        loops, dominators = {}, self.dominators()
        for block, after in enumerate(self.successors):
            for header in after:
                if dominators[block] >> header & 1:
                    body = loops.setdefault(header, {header})
                    waiting = [block]
                    while waiting:
                        at = waiting.pop()
                        if at not in body:
                            body.add(at)
                            waiting += self.predecessors[at]
        return loops

    def step(self, stack, instruction):
        """The registers that may hold addresses of the stack after an instruction."""
        sources, copy = self.architecture.copied(instruction)
        if copy and stack.intersection(sources):
            return stack | {copy}
        written = stack.intersection(self.architecture.written(instruction))
        return stack - written | {self.architecture.STACK_POINTER}

    def stack_registers(self):
        """The same, at the start of each block."""
        at_start = [{self.architecture.STACK_POINTER} for _ in self.blocks]
        changed = True
        while changed:
            changed = False
            for block, instructions in enumerate(self.blocks):
                stack = at_start[block]
                for instruction in instructions:
                    stack = self.step(stack, instruction)
                for successor in self.successors[block]:
                    if not stack <= at_start[successor]:
                        at_start[successor] |= stack
                        changed = True
        return at_start


# ---- counting ----

Part = collections.namedtuple("Part", "first last kind instructions fmas loads stores vectors others")


def count_part(graph, kind, blocks, stack_at_start):
    architecture, counts = graph.architecture, collections.Counter()
    for block in blocks:
        stack = set(stack_at_start[block])
        for instruction in graph.blocks[block]:
            access = architecture.access(instruction)
            is_vector = any(map(architecture.VECTOR.match, instruction.operands))
            counts["fmas"] += architecture.FMA.match(instruction.name) is not None
            counts["loads"] += access.loads
            counts["stores"] += access.stores
            if stack.intersection(access.registers):
                counts["vectors" if is_vector else "others"] += 1
            counts["instructions"] += not is_padding(instruction)
            stack = graph.step(stack, instruction)
    first = min(graph.blocks[block][0].address for block in blocks)
    last = max(graph.blocks[block][-1].address for block in blocks)
    return Part(first, last, kind, *(counts[field] for field in Part._fields[3:]))


def fma_parts(architecture, instructions):
    """The loops with fused multiply-adds that hold no other such loop; and, in the loops around
    them, each unrolled block: straight code with UNROLLED or more multiply-adds."""
    graph = Graph(architecture, instructions)
    stack = graph.stack_registers()
    counted = [(body, count_part(graph, "loop", body, stack)) for body in graph.loops().values()]
    counted = [(body, part) for body, part in counted if part.fmas]
    inner = [
        (body, part) for body, part in counted if not any(other < body for other, _ in counted)
    ]
    around = set().union(*(body for body, _ in counted)) - set().union(*(body for body, _ in inner))
    blocks = [count_part(graph, "block", {block}, stack) for block in around]
    return sorted([part for _, part in inner] + [part for part in blocks if part.fmas >= UNROLLED])


def spills(part):
    """The accesses to the stack that cost something."""
    return part.vectors + (part.others if part.others * FREE > part.fmas else 0)


def verdict(library, function, part):
    """(whether it may be, what to print)"""
    if not spills(part):
        return True, ""
    for (name, pattern), (most, reason) in ALLOWED.items():
        is_meant = name in os.path.basename(library) and re.fullmatch(pattern, function)
        if is_meant and spills(part) <= most:
            return True, f"allowed: {reason}"
    return False, "SPILLS"


def report(library, disassembly):
    """Prints the table of a library. Whether it has such loops, and whether nothing is wrong."""
    architecture, functions = parse(disassembly)
    print(library)
    print(f"  {'function':20} {'':5} {'from..to':>13} instr.  fma loads stores vector  other")
    found, fine = False, True
    for function, instructions in functions.items():
        for part in fma_parts(architecture, instructions):
            may_be, words = verdict(library, function, part)
            start = instructions[0].address
            place = f"+{part.first - start:x}..+{part.last - start:x}"
            print(
                f"  {function:20} {part.kind:5} {place:>13} {part.instructions:6} {part.fmas:4} "
                f"{part.loads:5} {part.stores:6} {part.vectors:6} {part.others:6}  {words}".rstrip()
            )
            found, fine = True, fine and may_be
    if not found:
        print("  no loop with fused multiply-adds")
    return found, fine


def main():
    parser = argparse.ArgumentParser(description="Memory accesses of the kernels' inner loops.")
    parser.add_argument("--objdump", default="objdump", help="for the libraries' architecture")
    parser.add_argument("libraries", nargs="+", metavar="LIBRARY")
    options = parser.parse_args()
    if not shutil.which(options.objdump):
        print(f"{options.objdump} is not here")
        return 77
    reports = [report(each, disassemble(options.objdump, each)) for each in options.libraries]
    return 0 if any(found for found, _ in reports) and all(fine for _, fine in reports) else 1


if __name__ == "__main__":
    sys.exit(main())
