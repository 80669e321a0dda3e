#!/usr/bin/python3
"""test_kv_errors.py PROGRAM PAGE: the errors of attention with each type of a KV cache are those of
docs/results/errors.md, and no way to attend to such a cache adds to those of plain attention. Prints TAP.

A type's error comes from rounding keys, values, and with int8 queries and weights. Averaged over all outputs it hardly
depends on how the keys are cut into parts: the ways differ by less than a tenth.
"""
import subprocess
import sys

PROGRAM, PAGE = sys.argv[1:]
results = []


def check(name, fine, detail=""):
    results.append(fine)
    print(f"{'ok' if fine else 'not ok'} {len(results)} - {name}{f' # {detail}' if detail and not fine else ''}")


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


lines = subprocess.run([PROGRAM], capture_output=True, text=True, check=True, timeout=600).stdout.splitlines()
with open(PAGE, encoding="utf-8") as file:
    page = file.read().splitlines()
missing = [line for line in lines if line and line not in page]
check("the page has every line", not missing, missing)

start = next(i for i, line in enumerate(lines) if line.startswith("| way |"))
ways = [cells(line) for line in lines[start + 2 :]]
check("there are seven ways", len(ways) == 7, ways)
types = cells(lines[start])[1:5]
first = [float(value) for value in ways[0][1:5]]
check("the first is a refresh", ways[0][0] == "a refresh", ways[0])
for name, *values in ways:
    for column, (kind, value, of_refresh) in enumerate(zip(types, map(float, values[:4]), first)):
        most = 4e-7 if column == 0 else 1.1 * of_refresh  # of float32 the rounding of merges adds up
        check(f"{name}: {kind.removeprefix('out: ')}", 0 < value <= most, f"{value} of at most {most:.2g}")
print(f"1..{len(results)}")
sys.exit(not all(results))
