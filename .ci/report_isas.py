#!/usr/bin/python3
"""report_isas.py [--executed HOW LOG...]... [--not-executed ISA REASON]...

One line for each instruction set: how many checks of checkasm and golden hashes were executed with it,
and how; or why none. What counts is what the programs say that they executed, in their logs
(test_logs.py); where several HOW have an instruction set, the first one. Exit status 1 when an
instruction set has neither: something has silently fallen back to another one, or stopped early.
"""
import argparse
import pathlib
import re
import sys

from test_logs import read_tests

ISAS = ("scalar", "avx2", "avx512", "neon", "avxvnni", "avx512vnni", "neondotprod")

# Where this one is not executed, nor is the other: the same emulator has both.
SAME_REASON = {"neondotprod": "neon"}

# No emulator here has their instructions.
VNNI_ISAS = ("avxvnni", "avx512vnni")

# What checkasm says before it runs a set's kernels with the instructions of another set: no golden hash
# takes these.
IN_PLACE = "isa {}: with AVX-512's instruction in the place of its own"

# Lines of checkasm, of tests/emulation/check_hashes, and of flashblock selftest.
KERNELS = re.compile(r"isa (?P<isa>\w+): (?P<count>\d+) checks, (?P<failed>\d+) failed")
HASHES = (
    re.compile(r"isa (?P<isa>\w+): (?P<count>\d+) hash cases, (?P<failed>\d+) failed"),
    re.compile(r"(PASS|FAIL)  (?P<isa>\w+), \d+ threads: (?P<count>\d+) cases, (?P<failed>\d+) "),
)


def sum_of(patterns, text, isa):
    """(checks, failures) of all lines about an instruction set."""
    found = [m for pattern in patterns for m in pattern.finditer(text) if m["isa"] == isa]
    return sum(int(m["count"]) for m in found), sum(int(m["failed"]) for m in found)


def line_of(isa, executed, not_executed):
    """The line, and whether it is as it should be."""
    partly = False
    for how, text in executed:
        kernels, kernels_failed = sum_of([KERNELS], text, isa)
        hashes, hashes_failed = sum_of(HASHES, text, isa)
        if kernels and (hashes or IN_PLACE.format(isa) in text):
            failed = kernels_failed + hashes_failed
            return f"{kernels + hashes} checks, {failed} failed, executed {how}", True
        partly = partly or kernels or hashes
    if isa in VNNI_ISAS and not partly:
        return "not executed, this CPU lacks it and no emulator has run it", True
    reason = not_executed.get(SAME_REASON.get(isa, isa))
    if reason and not partly:
        return f"not executed, {reason}", True
    return "not executed, the tests that should have done it did not get there", False


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--executed", nargs="+", action="append", default=[])
    parser.add_argument("--not-executed", nargs=2, action="append", default=[])
    options = parser.parse_args()
    executed = []
    for how, *logs in options.executed:
        tests = [t for log in logs if pathlib.Path(log).exists() for t in read_tests(log)]
        executed.append((how, "\n".join(test.get("stdout", "") for test in tests)))
    complete = True
    for isa in ISAS:
        line, is_right = line_of(isa, executed, dict(options.not_executed))
        print(f"isa {isa}: {line}")
        complete = complete and is_right
    return 0 if complete else 1


sys.exit(main())
