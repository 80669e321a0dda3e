#!/usr/bin/python3
"""count_tests.py LOG...: "PASSED FAILED SKIPPED", counted by case, of logs of tests (test_logs.py).

A test that speaks TAP counts for each of its cases, any other for one. A program that fails without
a failed case (it crashed, it stopped early) counts as one failure more.
"""
import collections
import re
import sys

from test_logs import read_tests

CASE = re.compile(r"(not ok|ok)\b(.*)")


def count_test(test):
    cases = collections.Counter()
    for line in test.get("stdout", "").splitlines():
        match = CASE.match(line)
        if match and "# SKIP" in match[2].upper():
            cases["skipped"] += 1
        elif match:
            cases["passed" if match[1] == "ok" else "failed"] += 1
    result = test["result"]
    if result == "SKIP" and not cases:
        cases["skipped"] += 1
    elif result not in ("OK", "SKIP") and not cases["failed"]:
        cases["failed"] += 1
    elif not cases:
        cases["passed"] += 1
    return cases


def main(logs):
    total = collections.Counter()
    for log in logs:
        for test in read_tests(log):
            total += count_test(test)
    print(total["passed"], total["failed"], total["skipped"])


main(sys.argv[1:])
