#!/usr/bin/python3
"""test_trace_cli.py PROGRAM MODEL_DIR: runs `flashblock trace`. Prints TAP.

Files against each other and against what `flashblock generate` writes with the same options.
"""
import contextlib
import csv
import json
import math
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import xml.dom.minidom

from case_support import Skipped, case, expect, expect_equal, run_cases

PROGRAM = sys.argv[1]
MODEL = pathlib.Path(sys.argv[2])
CONFIG = json.loads((MODEL / "config.json").read_text())
LAYERS, HEADS = CONFIG["num_hidden_layers"], CONFIG["num_attention_heads"]
VALUES = ["external_cosine", "internal_cosine", "external_cosine_kept", "internal_cosine_kept",
          "external_lse_change", "external_mass", "error", "max_error"]
STEP = ["sequence", "block", "context_length", "denoising_step", "action", "dirty", "masked", "accepted", "edited"]
PICTURES = ["stability", "heads", "mass", "error"]
HAS_GNUPLOT = shutil.which("gnuplot") is not None


def run(*arguments, command="trace", **more):
    return subprocess.run(
        [PROGRAM, command, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=500,
        check=False,
        **more,
    )


PROMPTS = ["-m", MODEL, "-p", "And it came to pass", "-p", "", "-n", 14, "--threads", 1]


def trace(where, *arguments, **more):
    return run(*PROMPTS, "-o", where, *arguments, **more)


def succeeded(result):
    expect_equal(result.returncode, 0, f"exit status ({result.stderr!r})")
    return result.stdout.decode()


def expect_error(result, status, *words):
    lines = result.stderr.decode().splitlines()
    expect_equal(result.returncode, status, f"exit status ({lines!r})")
    errors = [line for line in lines if line.startswith("flashblock: ")]
    expect(len(errors) == 1 and errors[0] == lines[-1], f"{lines!r}")
    for word in words:
        expect(str(word) in errors[0], f"{word!r} is not in {errors[0]!r}")


@contextlib.contextmanager
def folder():
    with tempfile.TemporaryDirectory() as name:
        yield pathlib.Path(name) / "trace"


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def mean(values):
    values = [value for value in values if value is not None]
    return math.fsum(values) / len(values) if values else None


def close(one, other, tolerance=1e-6):
    return one is other is None or (one is not None and other is not None
                                    and abs(one - other) <= tolerance)


def number(text):
    return float(text) if text else None


@case
def csv_and_json_say_the_same():
    with folder() as where:
        succeeded(trace(where, "--tau", 3, "--sweep", "none", "--no-pictures"))
        lines, data = rows(where / "trace.csv"), json.loads((where / "trace.json").read_text())
        expect_equal(sorted(os.listdir(where)), ["trace.csv", "trace.json"], "files")
        expect_equal(list(lines[0]), [*STEP, "layer", "head", *VALUES], "columns")
        expect_equal((data["num_layers"], data["num_heads"]), (LAYERS, HEADS), "layers and heads")
        expect_equal(len(lines), len(data["steps"]) * LAYERS * HEADS, "lines")
        for i, line in enumerate(lines):
            step, layer, head = data["steps"][i // (LAYERS * HEADS)], int(line["layer"]), int(line["head"])
            expect_equal((layer, head), divmod(i % (LAYERS * HEADS), HEADS), "order of layers and heads")
            for name in STEP:
                expect_equal(line[name], str(step[name]), f"line {i}, {name}")
            for name in VALUES:
                expect_equal(number(line[name]), step[name][layer][head], f"line {i}, {name}")


@case
def steps_are_those_of_generate():
    with folder() as where:
        succeeded(trace(where, "--tau", 2, "--sweep", "none", "--no-pictures"))
        data = json.loads((where / "trace.json").read_text())
        written = json.loads(succeeded(run(*PROMPTS, "--tau", 2, "--json", command="generate")))
        for name in ("token_ids", "tokens", "text", "unmask_step"):
            if name in written["results"][0]:
                expect_equal([r[name] for r in data["results"]], [r[name] for r in written["results"]], name)
        expect_equal(data["counts"], written["counts"], "counts")
        steps = data["steps"]
        expect_equal(len(steps), written["counts"]["denoising_steps"], "steps")
        expect_equal(sum(s["action"] == "reuse" for s in steps), written["counts"]["reuses"], "reuses")
        expect_equal(sum(s["accepted"] for s in steps), written["counts"]["accepted_tokens"], "accepted")
        for before, step in zip(steps, steps[1:]):
            if (before["sequence"], before["block"]) == (step["sequence"], step["block"]):
                expect_equal(step["denoising_step"], before["denoising_step"] + 1, "denoising_step")
                expect_equal(step["masked"], before["masked"] - before["accepted"], "masked")


def flat(step, name):
    return [value for layer in step[name] for value in layer]


@case
def values_are_in_their_ranges():
    with folder() as where:
        succeeded(trace(where, "--tau", 2, "--sweep", "none", "--no-pictures"))
        steps = json.loads((where / "trace.json").read_text())["steps"]
        expect({"reuse", "refresh+store", "refresh"} >= {s["action"] for s in steps}, "actions")
        expect(any(s["context_length"] == 0 for s in steps), "no step without a context")
        expect(any(s["action"] == "reuse" for s in steps), "no reuse")
        for s in steps:
            first, empty = s["denoising_step"] == 0, s["context_length"] == 0
            for name in VALUES[:5]:
                none = first or (empty and name.startswith("external"))
                expect(all((v is None) == none for v in flat(s, name)) or name.endswith("kept"), name, s)
            for name in VALUES[:4]:
                expect(all(v is None or -1.000001 <= v <= 1.000001 for v in flat(s, name)), name)
            masses, errors = flat(s, "external_mass"), flat(s, "error")
            expect(all(0 <= v <= 1 for v in masses) and (not empty or not any(masses)), "mass")
            if s["action"] == "reuse":
                # Of a part without keys nothing can be stale.
                expect(all(v == 0 for v in errors) if empty else any(v > 0 for v in errors), "error", s)
            else:
                expect(not any(errors) and not any(flat(s, "max_error")), "a refresh that is not dense")


@case
def a_page_holds_the_decodings():
    with folder() as where:
        where.mkdir()
        page = where / "page.html"
        succeeded(run(*PROMPTS, "--tau", 2, "--sweep", "0,2", "--html", page))
        succeeded(trace(where / "files", "--tau", 2, "--sweep", "none", "--no-pictures"))
        steps = json.loads((where / "files" / "trace.json").read_text())["steps"]
        found = re.search(r'<script type="application/json" id="recording">(.*?)</script>', page.read_text(encoding="utf-8"))
        data = json.loads(found[1])
        expect_equal([one["tau"] for one in data["runs"]], [2, 0], "runs")
        passes = [one for one in data["runs"][0]["passes"] if not one["commit"]]
        expect_equal(len(passes), len(steps), "steps")
        for one, step in zip(passes, steps):
            names = {"sequence": "sequence", "block": "block", "start": "context_length", "step": "denoising_step"}
            for mine, name in {**names, "action": "action", "dirty": "dirty"}.items():
                expect_equal(one[mine], step[name], name)
            expect_equal(len(one["accepted"]), step["accepted"], "accepted")
            for name in ("external_mass", "external_cosine", "internal_cosine", "error"):
                for mine, value in zip(flat({name: one["heads"][name]}, name), flat(step, name)):
                    expect((mine is None) == (value is None), name, mine, value)
                    expect(value is None or abs(mine - value) <= 0.005 * abs(value) + 1e-9, name, mine, value)
        expect_equal(run(*PROMPTS).returncode, 2, "neither -o nor --html")


@case
def summaries_are_means_of_the_lines():
    with folder() as where:
        text = succeeded(trace(where, "--tau", 2, "--sweep", "2,4", "--no-pictures", "--json"))
        summary = json.loads(text)
        steps = json.loads((where / "trace.json").read_text())["steps"]
        for name in VALUES:
            values = [v for s in steps for v in flat(s, name)]
            expect(close(summary["overall"][name]["mean"], mean(values)), "overall", name)
            for entry in summary["by_step"]:
                values = [v for s in steps if s["denoising_step"] == entry["denoising_step"] for v in flat(s, name)]
                expect(close(entry[name]["mean"], mean(values)), entry["denoising_step"], name)
                kept = sorted(v for v in values if v is not None)
                expect_equal(entry[name]["count"], len(kept), name)
                if kept:
                    expect(close(entry[name]["max"], kept[-1]), name)
                    expect(close(entry[name]["median"], kept[(len(kept) + 1) // 2 - 1]), name)
        taus = rows(where / "tau.csv")
        expect_equal([line["tau"] for line in taus], ["2", "4"], "tau")
        reusing = [v for s in steps if s["action"] == "reuse" for v in flat(s, "error")]
        expect(close(number(taus[0]["error_mean"]), mean(reusing)), "error of tau 2")
        expect(close(number(taus[0]["error_all_steps"]), summary["overall"]["error"]["mean"]), "of all steps")
        expect(float(taus[1]["error_all_steps"]) > float(taus[0]["error_all_steps"]), "tau 4 errs more than 2")
        for line, entry in zip(taus, summary["tau"]):
            expect_equal((int(line["steps"]), int(line["reuses"])), (entry["steps"], entry["reuses"]), "steps")


@case
def dense_decoding_has_no_error():
    with folder() as where:
        summary = json.loads(succeeded(trace(where, "--tau", 0, "--sweep", "0,1", "--no-pictures", "--json", "-")))
        expect_equal(summary["overall"]["error"]["max"], 0, "largest error")
        expect_equal([(t["reuses"], t["error_all_steps"]) for t in summary["tau"]], [(0, 0), (0, 0)], "tau 0, 1")


@case
def sparse_attention_has_its_error():
    """trace takes the options of generate: a refresh that leaves out keys is not dense."""
    with folder() as where:
        succeeded(run("-m", MODEL, "--prompt-file", MODEL / "prompt.txt", "-n", 8, "--threads", 1, "-o", where,
                      "--sparse", "quest", "--density", "0.3", "--sweep", "none", "--no-pictures"))
        steps = json.loads((where / "trace.json").read_text())["steps"]
        expect(all(any(v > 0 for v in flat(s, "error")) for s in steps), "no error")
        expect_error(trace(where, "--residual"), 2, "--sparse")


@case
def steps_that_refresh_rows_reuse_the_others():
    with folder() as where:
        summary = json.loads(succeeded(trace(where, "--reuse", "rows", "--sweep", "1", "--no-pictures", "--json", "-")))
        steps = json.loads((where / "trace.json").read_text())["steps"]
        of_rows = [s for s in steps if s["action"] == "refresh rows"]
        expect(of_rows, "no step refreshes rows")
        behind_text = [s for s in of_rows if s["context_length"] > 0]
        expect(behind_text and all(any(v > 0 for v in flat(s, "error")) for s in behind_text), "kept rows have no error")
        expect(all(v == 0 for s in steps if s["action"] == "refresh+store" for v in flat(s, "error")), "error of a refresh")
        expect_equal(summary["tau"][0]["reuses"], len(of_rows), "steps that reuse")


@case
def tables_for_people():
    with folder() as where:
        result = trace(where, "--tau", 2, "--sweep", "3", "--no-pictures", "--json", where / "summary.json")
        text = succeeded(result)
        expect("external" in text and re.search(r"^ +3 +\d+ +\d+", text, re.M), text)
        json.loads((where / "summary.json").read_text())
        expect("tau 2" in result.stderr.decode() and "tau 3" in result.stderr.decode(), "progress")


@case
def files_named_in_help_exist():
    text = succeeded(run("--help"))
    names = set(re.findall(r"\b[a-z]+\.(?:csv|json|png|svg)\b", text)) - {"config.json", "tokenizer.json"}
    expect(len(names) >= 11, names)
    for option in ("--tau", "--reuse-always", "--block-size", "--prompt-file", "--sweep", "--json"):
        expect(option in text, option)
    if not HAS_GNUPLOT:
        raise Skipped("no gnuplot")
    with folder() as where:
        succeeded(trace(where, "--sweep", "0,2"))
        expect_equal(set(os.listdir(where)), names, "files")
        for name in PICTURES:
            expect((where / f"{name}.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n"), name)
            expect(xml.dom.minidom.parse(str(where / f"{name}.svg")).getElementsByTagName("path"), name)


@case
def pictures_of_little():
    """One step a block, one token, no context: pictures without numbers are left out, and none fails."""
    if not HAS_GNUPLOT:
        raise Skipped("no gnuplot")
    with folder() as where:
        succeeded(run("-m", MODEL, "-p", "", "-n", 1, "-b", 1, "-o", where, "--threads", 1, "--sweep", "none"))
        expect("stability.png" not in os.listdir(where), "a picture of nothing")
    with folder() as where:
        succeeded(run("-m", MODEL, "-p", "", "-n", 4, "-o", where, "--threads", 1, "--sweep", "2"))
        expect("mass.png" in os.listdir(where), "mass")


@case
def an_earlier_trace_is_replaced():
    with folder() as where:
        where.mkdir()
        (where / "mine.txt").write_text("mine")
        for name in ("tau.csv", "error.png", "trace.csv"):
            (where / name).write_text("old")
        succeeded(trace(where, "--sweep", "none", "--no-pictures"))
        expect_equal(sorted(os.listdir(where)), ["mine.txt", "trace.csv", "trace.json"], "files")
        expect_equal((where / "mine.txt").read_text(), "mine", "another file")
        expect(not (where / "trace.csv").read_text().startswith("old"), "trace.csv")


@case
def without_gnuplot_data_is_written():
    with folder() as where:
        where.parent.joinpath("bin").mkdir()
        environment = {**os.environ, "PATH": str(where.parent / "bin")}
        result = trace(where, "--sweep", "2", env=environment)
        expect_error(result, 1, "no gnuplot", where)
        expect_equal(sorted(os.listdir(where)), ["tau.csv", "trace.csv", "trace.json"], "files")
        json.loads((where / "trace.json").read_text())
        succeeded(trace(where, "--sweep", "2", "--no-pictures", env=environment))


@case
def wrong_use_is_named():
    with folder() as where:
        expect_error(run("-m", MODEL, "-p", "a"), 2, "--output")
        expect_error(run("-m", MODEL, "-o", where), 2, "--prompt")
        expect_error(run("-p", "a", "-o", where), 2, "--model")
        expect_error(trace(where, "--sweep", "2,x"), 2, "--sweep", "2,x")
        expect_error(trace(where, "--sweep", ""), 2, "--sweep")
        expect_error(trace(where, "--tau", "-1"), 2, "--tau")
        expect_error(trace(where, "--visual"), 2, "--visual")
        expect_error(trace(where, "extra"), 2, "extra")
        expect(not where.exists(), "a folder was made")
        where.write_text("a file")
        expect_error(trace(where), 1, where, "not a directory")
        expect_error(trace(where / "below"), 1, where / "below")
        expect_error(trace(where.parent / "no" / "such"), 1, where.parent / "no" / "such")
        expect_equal(where.read_text(), "a file", "the file")


sys.exit(run_cases())
