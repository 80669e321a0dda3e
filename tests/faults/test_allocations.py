#!/usr/bin/env python3
"""test_allocations.py PROGRAM GOLDEN ALLOCATOR [--seconds S | --all] [--filter NAME]: runs commands while
one allocation fails, a place in the code after the other: a place is a stack of calls that allocates.
Each run must be right, or end with one line that says so and leave every file as it was. As many places
as S seconds allow (default: 60), drawn at random; --all: all of them, and with every later allocation
failing, too. Prints TAP."""
import argparse
import concurrent.futures
import os
import random
import sys
import time

from fault_support import MEMORY, Workplace, canonical, commands, complaint


def parse():
    parser = argparse.ArgumentParser()
    parser.add_argument("program", type=os.path.abspath)
    parser.add_argument("golden")
    parser.add_argument("allocator")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--filter", default="")
    return parser.parse_args()


class Trial:
    """A command, what it does undisturbed, and the numbers of the allocations to fail."""

    def __init__(self, command, options):
        self.command, self.options = command, options
        self.wrong, self.runs = [], 0
        with Workplace(command) as place:
            place.reset()
            listing = place.root / "calls"
            result = place.run(options.program, self.env({"LIST_CALLS": str(listing)}))
            self.right = canonical(place, result, place.files())
            self.usual = result.stderr
            if result.returncode != 0:
                self.wrong.append(f"the undisturbed run fails: {result.stderr!r}")
                self.places = []
                return
            self.places = [("FAIL_AT", int(line)) for line in listing.read_text().split()]
            if options.all:
                self.places += [("FAIL_FROM", number) for _, number in self.places]
        random.Random(1).shuffle(self.places)

    def env(self, more):
        return {"LD_PRELOAD": os.path.abspath(self.options.allocator), "OMP_NUM_THREADS": "1", **more}

    def run(self, how, number):
        with Workplace(self.command) as place:
            place.reset()
            before = place.files()
            result = place.run(self.options.program, self.env({how: str(number)}))
            files = place.files()
            right = canonical(place, result, files) == self.right
        return complaint(result, right, before, files, MEMORY, self.usual)


def main():
    options = parse()
    chosen = [command for command in commands(options.golden) if options.filter in command.name]
    print(f"1..{len(chosen)}", flush=True)
    trials = [Trial(command, options) for command in chosen]
    end = time.monotonic() + options.seconds
    work = sorted(((i / max(1, len(trial.places)), trial, place) for trial in trials
                   for i, place in enumerate(trial.places)), key=lambda item: item[0])

    def attempt(item):
        _, trial, (how, number) = item
        if not options.all and time.monotonic() > end:
            return
        wrong = trial.run(how, number)
        trial.runs += 1
        if wrong:
            trial.wrong.append(f"{how}={number}: {wrong}")

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(attempt, work):
            pass
    for trial in trials:
        name = f"{trial.command.name}: {trial.runs} of {len(trial.places)} places"
        print(f"{'not ok' if trial.wrong else 'ok'} - {name}")
        for line in trial.wrong[:40]:
            print(f"# {line}")
    return any(trial.wrong for trial in trials)


if __name__ == "__main__":
    sys.exit(main())
