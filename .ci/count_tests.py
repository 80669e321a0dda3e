#!/usr/bin/python3
"""count_tests.py NAME LOG...: "PASSED FAILED SKIPPED", counted by case, of logs of tests (test_logs.py).

A test that speaks TAP counts for each of its cases, any other for one. A program that fails without
a failed case (it crashed, it stopped early) counts as one failure more. Each further line is what
failed: "NAME: TEST: CASE".
"""
import collections
import re
import sys

from test_logs import read_tests

CASE = re.compile(r"(not ok|ok)\b(.*)")


def count_test(test):
    """The numbers of cases, and what failed."""
    cases = collections.Counter()
    failures = []
    for line in test.get("stdout", "").splitlines():
        match = CASE.match(line)
        if match and "# SKIP" in match[2].upper():
            cases["skipped"] += 1
        elif match and match[1] == "ok":
            cases["passed"] += 1
        elif match:
            cases["failed"] += 1
            failures.append(f"{test['name']}: {match[2].strip()}")
    result = test["result"]
    if result == "SKIP" and not cases:
        cases["skipped"] += 1
    elif result not in ("OK", "SKIP") and not cases["failed"]:
        cases["failed"] += 1
        failures.append(f"{test['name']}: ended as {result}")
    elif not cases:
        cases["passed"] += 1
    return cases, failures


def main(name, logs):
    total = collections.Counter()
    failures = []
    for log in logs:
        for test in read_tests(log):
            cases, failed = count_test(test)
            total += cases
            failures += failed
    print(total["passed"], total["failed"], total["skipped"])
    for failure in failures:
        print(f"{name}: {failure}")


main(sys.argv[1], sys.argv[2:])
