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


class Cell:
    """Ways to attend that are compared on the problems of a suite; problems: so many in round 1, 2, ..."""

    def __init__(self, name, suite, block, way, policies, problems, seed):
        self.name, self.suite, self.block, self.way, self.seed = name, suite, block, way, seed
        self.policies, self.problems = ",".join(policies) or "dense", problems
        self.timed = way == WAYS[0] and bool(policies)


def cells(seed):
    """In order of importance."""
    made = []

    def add(name, suite, blocks, way, policies, *problems, seed=seed):
        for b in blocks:
            made.append(Cell(f"{name}-b{b}", suite, b, way, policies(b) if callable(policies) else policies, problems, seed))

    for suite, rounds in (("ledger-1k", (100, 200)), ("arithmetic", (50, 200)), ("hard-ledger-1k", (50, 200))):
        for way in WAYS:
            add(f"tau-{suite}-{way}", suite, BLOCKS, way, taus, *rounds)
    for selector in SELECTORS:
        add(f"selector-{selector}", "ledger-1k", (16,), WAYS[0], [f"{selector}@{d}{a}" for d in DENSITIES for a in AFTER], 50, 100)
    for suite in ("ledger-1k", "hard-ledger-1k", "arithmetic"):
        add(f"rows-{suite}", suite, (16,), WAYS[0], ROWS, 50, 200)
    add("rows-ledger-1k", "ledger-1k", (4, 32), WAYS[0], ROWS, 50, 100)
    for suite in ("ledger-4k", "hard-ledger-4k"):
        add(f"tau-{suite}-{WAYS[0]}", suite, (16,), WAYS[0], taus, 50, 200)
    add(f"tau-sheet-1k-{WAYS[0]}", "sheet-1k", (16,), WAYS[0], taus, 25, 100)
    for suite, rounds in (("ledger-4k", (50, 200, 500)), ("ledger-8k", (50, 200)), ("sheet-1k", (50, 200, 500)), ("sheet-4k", (50, 200)),
                          ("hard-arithmetic", (50, 200, 500)), ("hard-ledger-4k", (0, 200, 500))):  # fmt: skip
        add(f"dense-{suite}-{WAYS[1]}", suite, BLOCKS, WAYS[1], [], *rounds)
    add(f"dense-ledger-16k-{WAYS[1]}", "ledger-16k", (16, 4, 32, 8), WAYS[1], [], 25, 50, 100, 200)
    add(f"tau1-{WAYS[0]}", "ledger-1k", (16,), WAYS[0], ["tau:1"], 0, 50)
    add("pictured-hard-ledger-1k", "hard-ledger-1k", (16,), WAYS[0], PICTURED, 0, 50, 100)
    for way in reversed(WAYS):
        for suite in ("ledger-1k", "arithmetic", "hard-ledger-1k"):
            add(f"dense-{suite}-{way}", suite, BLOCKS, way, [], 0, 0, 500)
    add(f"dense-ledger-4k-{WAYS[0]}", "ledger-4k", BLOCKS, WAYS[0], [], 0, 50, 200, 500)
    add("other-seed", "ledger-1k", (16,), WAYS[0], taus, 0, 100, 200, seed=OTHER_SEED)
    add("other-seed-hard", "hard-ledger-1k", (16,), WAYS[0], taus, 0, 0, 100, seed=OTHER_SEED)
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
                most = max(max(c.problems) for c in made if c.seed == seed)
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

    expected_seconds = 60  # before a job of the cell has ended

    def __init__(self, cell, first):
        self.cell, self.first, self.name = cell, first, cell.name
        self.key = (cell.seed, cell.suite, cell.block, cell.way, cell.policies, first)

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


def key_of(line):
    if "video" in line:
        return ("video", line["video"], line["skip"])
    return tuple(line[name] for name in ("seed", "suite", "block", "way", "policies", "first"))


def jobs(made, problems, video, done):
    """In the order of the work: the first round of every cell, the clips, the second round, ... Problems that the suites do not have are
    left out."""
    ordered, seen = [], set(done)

    def add(job):
        if job.key not in seen:
            seen.add(job.key)
            ordered.append(job)

    for number in range(max((len(c.problems) for c in made), default=1)):
        for cell in made:
            for first in range(0, cell.problems[number] if number < len(cell.problems) else 0, CHUNK):
                if problems.has(cell, first):
                    add(TaskJob(cell, first))
        if number == 0 and video:
            for skip in range(0, CLIPS, CLIPS_OF_A_JOB):
                add(VideoJob(skip))
    return ordered
