#!/usr/bin/python3
"""The paper's claims, measured on the demo models: tables and pictures of docs/results/claims.md and sparse.md; clips for video.md.

    task_claims.py measure DIR [--jobs N] [--minutes M] [--only NAME...] [--rounds NAME...]
                                                                          solve what DIR/results.jsonl does not have yet
    task_claims.py left DIR                                               what that is, and about how long it takes
    task_claims.py times DIR [--only NAME...]                             time what DIR/times.jsonl does not have yet
    task_claims.py tables DIR                                             all tables, in Markdown
    task_claims.py pages DIR                                              writes those that the pages have into them, by their titles
    task_claims.py pictures DIR [--pictures FOLDER]                       the pictures (needs gnuplot)
    task_claims.py trace DIR                                              stability and errors of attention: paper_claims.py

claims_plan.py has the cells: a suite, a block size, a way to denoise, and the ways to attend that are compared there. It also has the
rounds of the work, the most important one first. A line of results.jsonl is a job, some problems of a cell; N jobs run at the same time,
each on one thread. A run can be stopped and continued. All of it takes about thirty hours of one core. The problems are written to
DIR/suites-SEED first. Answers are the same on every CPU. Times are not: `times` solves the first five problems of the cells that the
pages give times of, one after the other, and wants a quiet machine.
"""
import argparse
import collections
import concurrent.futures
import contextlib
import io
import json
import math
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import claims_plan
import claims_report

ROOT = pathlib.Path(__file__).resolve().parent.parent
TABLE = re.compile(r"\*\*(.+?)\*\*\n\n((?:\|.*\n)+)")  # title, rows


def read_results(path):
    """key -> line. The last line may have been cut off."""
    lines = path.read_text().splitlines() if path.exists() else ()
    return {claims_plan.key_of(line): line for line in map(json.loads, (text for text in lines if text.endswith("}")))}


def costs(results):
    """kind of job -> its median time; where -> the least time of a way to attend."""
    times, cost = collections.defaultdict(list), {}
    for key, line in results.items():
        times[claims_plan.kind_of(key)].append(line["job_seconds"])
    for kind, seconds in times.items():
        cost[kind] = statistics.median(seconds)
        where, ways = claims_plan.where_of(kind), claims_plan.ways_of(kind)
        cost[where] = min(cost[kind] / ways, cost.get(where, math.inf))
    return cost


def expected(job, cost):
    kind = claims_plan.kind_of(job.key)
    one = cost.get(claims_plan.where_of(kind))
    return cost.get(kind, one * claims_plan.ways_of(kind) if one else job.expected_seconds)


class Work:
    """Jobs, done by several threads, whose results are appended to a file."""

    def __init__(self, args, jobs, problems, path):
        self.args, self.waiting, self.problems, self.path = args, collections.deque(jobs), problems, path
        self.total, self.finished, self.lock, self.cost = len(jobs), 0, threading.Lock(), costs(read_results(path))
        self.end = time.time() + 60 * args.minutes

    def take(self):
        """The next job that is likely to end in time."""
        with self.lock:
            while self.waiting:
                job = self.waiting.popleft()
                if time.time() + expected(job, self.cost) < self.end:
                    return job
        return None

    def solve(self, job):
        begin = time.time()
        with tempfile.TemporaryDirectory() as folder:
            command = [self.args.program, *job.command(self.problems, folder), "--threads", 1, "--json", "-"]
            done = subprocess.run([*map(str, command)], capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"task_claims: {' '.join(map(str, command))}: {done.stderr}")
        return job.line(json.loads(done.stdout)) | {"job_seconds": round(time.time() - begin, 2)}

    def keep(self, job, line):
        with self.lock:
            self.cost[claims_plan.kind_of(job.key)], self.finished = line["job_seconds"], self.finished + 1
            with open(self.path, "a") as file:
                file.write(json.dumps(line) + "\n")
            print(f"task_claims: {self.finished} of {self.total}: {job.name}", file=sys.stderr, flush=True)

    def run(self):
        while job := self.take():
            self.keep(job, self.solve(job))


def wanted(args, name):
    return not args.only or any(name.startswith(o) for o in args.only)


def run(args, path, jobs, problems):
    if path.exists() and path.read_bytes()[-1:] not in (b"", b"\n"):  # a line was cut off
        path.write_bytes(path.read_bytes() + b"\n")
    work = Work(args, jobs, problems, path)
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        for one in [pool.submit(work.run) for _ in range(args.jobs)]:
            one.result()
    print(f"task_claims: {work.finished} of {work.total} jobs are done", file=sys.stderr)


def measure(args):
    path = args.directory / "results.jsonl"
    made = [c for c in claims_plan.cells(args.seed) if wanted(args, c.name)]
    problems = claims_plan.Problems(args.directory, made)
    run(args, path, claims_plan.jobs(made, problems, wanted(args, "video"), read_results(path), args.rounds), problems)


def left(args):
    made, done = claims_plan.cells(args.seed), read_results(args.directory / "results.jsonl")
    problems, cost, seen = claims_plan.Problems(args.directory, made), costs(done), set(done)
    print(f"{'round':<12}{'jobs':>6}{'minutes of one core':>21}  what for")
    for name in args.rounds:
        jobs = claims_plan.jobs(made, problems, True, seen, [name])
        seen |= {job.key for job in jobs}
        print(f"{name:<12}{len(jobs):>6}{sum(expected(job, cost) for job in jobs) / 60:>21.0f}  {claims_plan.ROUNDS[name]}")


def time_all(args):
    path = args.directory / "times.jsonl"
    done, made = read_results(path), [c for c in claims_plan.cells(args.seed) if wanted(args, c.name) and c.timed and c.seed == args.seed]
    jobs = [job for job in (claims_plan.TaskJob(c, 0) for c in made) if job.key not in done]
    run(args, path, jobs, claims_plan.Problems(args.directory, made))


def trace(args):
    subprocess.run([sys.executable, ROOT / "golden" / "paper_claims.py", "--program", args.program, "--pictures",
                    args.pictures or args.directory / "trace-pictures", args.directory / "trace"], check=True)  # fmt: skip


def tables(args):
    report(args).tables()


def pages(args):
    """A title on a page stays the same but for the number of problems."""

    def plain(title):
        return re.sub(r"\d+( to \d+)? problems", "problems", title)

    with contextlib.redirect_stdout(io.StringIO()) as text:
        tables(args)
    made = {plain(title): f"**{title}**\n\n{rows}" for title, rows in TABLE.findall(text.getvalue())}
    for path in (ROOT / "docs" / "results" / f"{name}.md" for name in ("claims", "sparse")):
        old = path.read_text()
        path.write_text(TABLE.sub(lambda match: made.get(plain(match[1]), match[0]), old))
        print(f"{path.name}: {sum(plain(title) in made for title, _ in TABLE.findall(old))} tables", file=sys.stderr)


def pictures(args):
    report(args).pictures(args.pictures or args.directory / "pictures")


def report(args):
    return claims_report.Report(read_results(args.directory / "results.jsonl"), read_results(args.directory / "times.jsonl"), args.seed)


COMMANDS = {"measure": measure, "left": left, "times": time_all, "tables": tables, "pages": pages, "pictures": pictures, "trace": trace}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("--program", type=pathlib.Path, default=ROOT / "build" / "src" / "cli" / "flashblock")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="cells whose name begins so; video")
    parser.add_argument("--rounds", nargs="+", choices=claims_plan.ROUNDS, default=list(claims_plan.ROUNDS), help="of measure (all)")
    parser.add_argument("--pictures", type=pathlib.Path, metavar="FOLDER", help="where pictures go (a folder in DIR)")
    parser.add_argument("--seed", type=int, default=20, help="of the problems (20, as those in the model's folder)")
    parser.add_argument("--jobs", type=int, default=1, help="at the same time (1)")
    parser.add_argument("--minutes", type=float, default=math.inf, help="no job begins that would end later")
    args = parser.parse_args()
    args.directory.mkdir(parents=True, exist_ok=True)
    COMMANDS[args.command](args)


if __name__ == "__main__":
    main()
