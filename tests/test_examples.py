#!/usr/bin/env python3
"""test_examples.py FOLDER PROGRAM...: every example is short, includes nothing but
public headers, and prints what NAME.out says. With --write as the first argument the .out files are
written instead. Prints TAP."""
import os
import re
import subprocess
import sys

MOST_LINES = 100
PUBLIC = re.compile(r'#include <(flashblock/(?:experimental/)?\w+|[a-z]+)\.h>$')


def name_of(program):
    return os.path.basename(program).removeprefix("example_")


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def run(folder, program):
    """In the top folder, where a reader runs it: golden/demo-model is there."""
    ran = subprocess.run(
        [os.path.abspath(program)],
        cwd=os.path.dirname(os.path.abspath(folder)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        timeout=120,
    )
    return ran.returncode, ran.stdout, ran.stderr


def faults_of(folder, program):
    """The defects of an example, one line each."""
    name = name_of(program)
    source = read(os.path.join(folder, name + ".c")).splitlines()
    if len(source) >= MOST_LINES:
        yield f"{name}.c has {len(source)} lines, expected fewer than {MOST_LINES}"
    for line in source:
        if line.startswith("#include") and not PUBLIC.match(line):
            yield f"{name}.c: '{line}' is no public header"
    status, output, errors = run(folder, program)
    if status != 0 or errors:
        yield f"{name} ended with {status}: {errors}"
    expected = read(os.path.join(folder, name + ".out")).splitlines()
    for number, (shown, wanted) in enumerate(zip(output.splitlines(), expected), 1):
        if shown != wanted:
            yield f"line {number} is '{shown}', {name}.out has '{wanted}'"
    if len(output.splitlines()) != len(expected):
        yield f"{len(output.splitlines())} lines, {name}.out has {len(expected)}"


def main():
    arguments = sys.argv[1:]
    write = arguments[0] == "--write"
    folder, *programs = arguments[1:] if write else arguments
    if write:
        for program in programs:
            with open(os.path.join(folder, name_of(program) + ".out"), "w", encoding="utf-8") as file:
                file.write(run(folder, program)[1])
        return 0
    sources = {name[:-2] for name in os.listdir(folder) if name.endswith(".c")}
    failed = False
    print(f"1..{len(programs) + 1}")
    for program in programs:
        faults = list(faults_of(folder, program))
        print(("not ok - " if faults else "ok - ") + name_of(program))
        for fault in faults:
            print("# " + fault)
        failed = failed or bool(faults)
    not_built = sources - {name_of(program) for program in programs}
    print(("not ok" if not_built else "ok") + " - every source is built and run")
    for name in sorted(not_built):
        print(f"# {name}.c is not in examples/meson.build")
    return 1 if failed or not_built else 0


sys.exit(main())
