#!/usr/bin/python3
"""count_tests.py BUILD_DIR: "PASSED FAILED SKIPPED", counted by case, of the last `meson test`.

A test that speaks TAP counts for each of its cases, any other for one. A program that fails without
a failed case (it crashed, it stopped early) counts as one failure more.
"""
import collections
import json
import re
import sys

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


def main(build_dir):
    total = collections.Counter()
    with open(f"{build_dir}/meson-logs/testlog.json", encoding="utf-8") as log:
        for line in log:
            total += count_test(json.loads(line))
    print(total["passed"], total["failed"], total["skipped"])


main(sys.argv[1])
