#!/usr/bin/python3
"""What golden/task_claims.py measures: cells, their jobs, and the order of the work."""
import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
TEXT_MODEL = ROOT / "golden" / "demo-model"
VIDEO_MODEL = ROOT / "golden" / "demo-video"

CHUNK = 5  # problems of a job: the questions about one text
BLOCKS = (4, 8, 16, 32)
WAYS = ("one-a-token", "threshold")
SELECTORS = ("sparsed", "mage", "quest", "moba", "bfla", "ba_att", "multipole", "sink_window")
DENSITIES = (5, 10, 20, 40)
AFTER = ("", "+first", "+residual:2", "+residual:4", "+residual:block", "+residual:once", "+residual:once+sparse-first")
ROWS = ("rows", "rows+correction", "tau:4+correction")
PICTURED = tuple(f"{s}@{d}{a}" for s in ("sink_window", "quest", "mage") for d in (10, 20, 40) for a in ("", "+residual:4"))
OTHER_SEED = 21

CLIPS, CLIPS_OF_A_JOB = 200, 13
THRESHOLDS = "0.85:0.05,0.85:0.1,0.85:0.2,0.85:0.5,0.85:inf,-1:inf"

# What is kept of a policy's result, and its name in the program's JSON.
FIELDS = {"problems": "problems", "right": "right", "lost": "lost", "won": "won", "equal": "equal_texts", "tokens": "tokens",
          "steps": "denoising_steps", "reused": "reused", "passes": "passes", "keys": "keys", "rows": "external_rows",
          "seconds": "attention_seconds"}  # fmt: skip


def taus(block):
    """tau 1 is dense attention; tau as large as a block, or larger, is "block"."""
    return [f"tau:{t}" for t in (2, 3, 4, 5) if t < block] + ["tau:block", "never"]


def main_taus(block):
    """Those that are asked the most problems."""
    return ["tau:2", "tau:4" if block > 4 else "tau:block", "never"]


def other_taus(block):
    return [policy for policy in taus(block) if policy not in main_taus(block)]


# A round of the work, and what it is for. A run that is cut off has done the first ones.
ROUNDS = {
    "first": "every question of the pages, of 25 to 200 problems",
    "goals": "500 problems: ledgers of 1k and 4k tokens, word problems",
    "clips": "the video model",
    "long": "ledgers of 8k and 16k tokens",
    "hard": "500 problems of the hard suites, and sheets",
    "selectors": "100 hard problems, then 200 easy ones",
    "longest": "500 problems of long ledgers, and more block sizes",
    "rest": "500 problems with the other policies; other seeds",
}


class Cell:
    """Ways to attend that are compared on the problems of a suite. rounds: up to which problem, in which round."""

    def __init__(self, name, suite, block, way, policies, rounds, since, seed):
        self.name, self.suite, self.block, self.way, self.seed = name, suite, block, way, seed
        self.policies, self.rounds, self.since = ",".join(policies) or "dense", rounds, since
        self.timed = way == WAYS[0] and bool(policies) and not since


def cells(seed):
    """In order of importance within a round."""
    made = []

    def add(name, suite, blocks, way, policies, since=0, seed=seed, **rounds):
        for b in blocks:
            made.append(Cell(f"{name}-b{b}", suite, b, way, policies(b) if callable(policies) else policies, rounds, since, seed))

    one, threshold = WAYS
    for suite in ("ledger-1k", "arithmetic", "hard-ledger-1k"):
        for way in WAYS:
            add(f"tau-{suite}-{way}", suite, BLOCKS, way, taus, first=200)
    for suite in ("ledger-4k", "hard-ledger-4k"):
        add(f"tau-{suite}-{one}", suite, (16,), one, taus, first=200)
    add(f"tau-sheet-1k-{one}", "sheet-1k", (16,), one, taus, first=25)
    add(f"tau1-{one}", "ledger-1k", (16,), one, ["tau:1"], rest=50)
    for selector in SELECTORS:
        policies = [f"{selector}@{d}{a}" for d in DENSITIES for a in AFTER]
        add(f"selector-{selector}", "ledger-1k", (16,), one, policies, first=100, selectors=200)
    add("pictured-hard-ledger-1k", "hard-ledger-1k", (16,), one, PICTURED, first=25, selectors=100, rest=200)
    for suite in ("ledger-1k", "hard-ledger-1k", "arithmetic"):
        add(f"rows-{suite}", suite, (16,), one, ROWS, first=200)
    add("rows-ledger-1k", "ledger-1k", (4, 32), one, ROWS, first=100, rest=200)
    for suite, block in ((s, b) for b in BLOCKS for s in ("ledger-1k", "ledger-4k", "arithmetic")):
        for way in WAYS:
            since = 200 if suite != "ledger-4k" or (way == one and block == 16) else 0
            add(f"main-{suite}-{way}", suite, (block,), way, main_taus, since, goals=500)
            add(f"other-{suite}-{way}", suite, (block,), way, other_taus, since, rest=500)
    add(f"main-ledger-8k-{one}", "ledger-8k", (16,), one, main_taus, long=200, longest=500)
    add(f"main-ledger-16k-{one}", "ledger-16k", (16,), one, main_taus, long=100, longest=200)
    for suite, rounds in (("ledger-4k", dict(first=50)), ("ledger-8k", dict(first=50, long=200, longest=500)),
                          ("ledger-16k", dict(first=25, long=100, longest=500)), ("hard-arithmetic", dict(first=50, hard=500)),
                          ("sheet-1k", dict(first=50, hard=500)), ("sheet-4k", dict(first=50, hard=200))):  # fmt: skip
        add(f"dense-{suite}-{threshold}", suite, BLOCKS, threshold, [], **rounds)
    for way in WAYS:
        add(f"main-hard-ledger-1k-{way}", "hard-ledger-1k", BLOCKS, way, main_taus, 200, hard=500)
        add(f"other-hard-ledger-1k-{way}", "hard-ledger-1k", BLOCKS, way, other_taus, 200, rest=500)
    add(f"main-hard-ledger-4k-{one}", "hard-ledger-4k", (16,), one, main_taus, 200, hard=500)
    add(f"dense-hard-ledger-4k-{threshold}", "hard-ledger-4k", BLOCKS, threshold, [], hard=500)
    add(f"main-sheet-1k-{one}", "sheet-1k", (16,), one, main_taus, 25, hard=200)
    add(f"main-hard-arithmetic-{one}", "hard-arithmetic", (16,), one, main_taus, hard=200)
    add(f"main-ledger-8k-{one}", "ledger-8k", (4, 8, 32), one, main_taus, longest=200)
    add(f"main-ledger-16k-{one}", "ledger-16k", (4, 8, 32), one, main_taus, longest=100)
    add("other-seed", "ledger-1k", (16,), one, taus, seed=OTHER_SEED, first=100, rest=200)
    add("other-seed-hard", "hard-ledger-1k", (16,), one, taus, seed=OTHER_SEED, rest=100)
    return made


class Problems:
    """The lines of suites, CHUNK problems at a time. They are written to DIR/suites-SEED where they are missing."""

    def __init__(self, directory, made):
        self.chunks = {}
        for seed in sorted({c.seed for c in made}):
            folder = directory / f"suites-{seed}"
            names = sorted({c.suite for c in made if c.seed == seed})
            missing = [n for n in names if not (folder / f"{n}.jsonl").exists()]
            if missing:
                most = max(max(c.rounds.values()) for c in made if c.seed == seed)
                subprocess.run([sys.executable, ROOT / "golden" / "demo_suites.py", folder, "--work", TEXT_MODEL, "--count", str(most),
                                "--seed", str(seed), "--suites", *missing], check=True, stdout=sys.stderr)  # fmt: skip
            for name in names:
                self.read(seed, name, folder / f"{name}.jsonl")

    def read(self, seed, name, path):
        questions = 0
        for line in path.read_text().splitlines():
            self.chunks.setdefault((seed, name, questions // CHUNK * CHUNK), []).append(line)
            questions += len(json.loads(line)["questions"])

    def has(self, cell, first):
        return (cell.seed, cell.suite, first) in self.chunks

    def of(self, cell, first):
        return self.chunks[cell.seed, cell.suite, first]


class TaskJob:
    """Some problems of a cell, solved by `flashblock eval tasks` on one thread."""

    def __init__(self, cell, first):
        self.cell, self.first, self.name = cell, first, cell.name
        self.key = (cell.seed, cell.suite, cell.block, cell.way, cell.policies, first)
        self.expected_seconds = 80 if "16k" in cell.suite else 40 if "8k" in cell.suite else 20  # before one of its kind has ended

    def command(self, problems, folder):
        c = self.cell
        pathlib.Path(folder, f"{c.suite}.jsonl").write_text("\n".join(problems.of(c, self.first)) + "\n")
        return ["eval", "tasks", "-m", TEXT_MODEL, "--problems", folder, "--suite", c.suite, "-b", c.block, "--steps", c.way,
                "--policies", c.policies]  # fmt: skip

    def line(self, output):
        c, results = self.cell, {}
        for one in output["cells"]:
            one["reused"] = round(one["reused"] * one["denoising_steps"])
            results[one["policy"]] = [round(one[name], 5) for name in FIELDS.values()]
        return dict(seed=c.seed, suite=c.suite, block=c.block, way=c.way, policies=c.policies, first=self.first, results=results)


class VideoJob:
    """Some of the clips of `flashblock eval video`, all of which are calibrated alike."""

    name, expected_seconds = "video", 300

    def __init__(self, skip):
        self.skip, self.clips = skip, min(CLIPS_OF_A_JOB, CLIPS - skip)
        self.key = ("video", THRESHOLDS, skip)

    def command(self, problems, folder):
        return ["eval", "video", "-m", VIDEO_MODEL, "--thresholds", THRESHOLDS, "--skip", self.skip, "--clips", self.clips]

    def line(self, output):
        return dict(video=THRESHOLDS, skip=self.skip, ways=output["ways"])


def kind_of(key):
    """Jobs of a kind take about as long as each other."""
    return key[:-1]


def where_of(kind):
    """The same problems and blocks, whatever the ways to attend."""
    return kind[:-1]


def ways_of(kind):
    """How many ways to attend, dense attention among them."""
    return 1 if kind[-1] == "dense" else 2 + kind[-1].count(",")


def key_of(line):
    if "video" in line:
        return ("video", line["video"], line["skip"])
    return tuple(line[name] for name in ("seed", "suite", "block", "way", "policies", "first"))


def jobs(made, problems, video, done, rounds):
    """Those of some rounds that are not done, in the order of the work. Problems that the suites do not have are left out."""
    ordered, seen = [], set(done)

    def add(job):
        if job.key not in seen:
            seen.add(job.key)
            ordered.append(job)

    for name in rounds:
        for cell in made:
            for first in range(cell.since, cell.rounds.get(name, 0), CHUNK):
                if problems.has(cell, first):
                    add(TaskJob(cell, first))
        if name == "clips" and video:
            for skip in range(0, CLIPS, CLIPS_OF_A_JOB):
                add(VideoJob(skip))
    return ordered
