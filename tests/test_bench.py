#!/usr/bin/python3
"""test_bench.py PROGRAM SOURCE_ROOT: runs `flashblock bench`. Prints TAP.

The measurements are tiny, and no time is judged. The tests check that the output is consistent,
that wrong usage is refused before anything is measured, and that tables and pictures are written.
"""
import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

from case_support import Skipped, case, expect, expect_equal, expect_error, run_cases

PROGRAM = os.path.abspath(sys.argv[1])
SOURCE = pathlib.Path(sys.argv[2])
MODEL = SOURCE / "golden" / "demo-model"
TINY = ["--heads", 4, "--kv-heads", 2, "--head-dim", 32]
QUICK = ["--repeats", 2, "--min-seconds", 0]
PEERS = ("openblas", "blis", "onednn")


def long_case(function):
    """A case that a sample of the tests leaves out (tests/meson.build)."""
    return function if os.environ.get("FLASHBLOCK_TEST_SAMPLE") else case(function)


def run(*command):
    return subprocess.run(
        [*map(str, command)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=500,
        check=False,
    )


def bench(*arguments):
    return run(PROGRAM, "bench", *arguments)


def expect_close(one, other, what):
    expect(abs(one - other) <= 1e-6 * abs(other), f"{what}: {one!r} is not {other!r}")


def succeeded(result):
    expect_equal(result.returncode, 0, f"exit status ({result.stderr!r})")
    return result.stdout.decode()


def expect_error_alone(result, status, *words):
    """And nothing on standard output."""
    expect_error(result, status, *words)
    expect_equal(result.stdout, b"", "standard output")


@contextlib.contextmanager
def folder():
    with tempfile.TemporaryDirectory(prefix="flashblock-bench-") as path:
        yield pathlib.Path(path)


# --- usage ---------------------------------------------------------------------------------------


@case
def help_texts():
    for name in ("attention", "decode", "isa", "limits", "merge", "video"):
        text = succeeded(bench(name, "--help"))
        expect(text.startswith(f"Usage: flashblock bench {name} "), text[:60])
        expect(all(len(line) <= 100 for line in text.split("\n")), name)
        expect(name in succeeded(bench("--help")), f"{name} is not in bench --help")


@case
def wrong_commands():
    expect_error_alone(bench(), 2, "flashblock bench --help")
    expect_error_alone(bench("nonsense"), 2, "'nonsense'")
    expect_error_alone(bench("limits", "extra"), 2, "'extra'", "flashblock bench limits --help")
    expect_error_alone(bench("merge", "--nonsense"), 2, "'--nonsense'", "flashblock bench merge --help")


@case
def wrong_attention_options():
    for words, *arguments in [
        (["'none'", "trado-8b", "goals"], "--preset", "none"),
        (["--heads", "'0'"], "--heads", 0),
        (["--heads", "5", "--kv-heads", "2"], "--heads", 5, "--kv-heads", 2),
        (["--head-dim", "'0'"], "--head-dim", 0),
        (["--queries", "'-4'"], "--queries", -4),
        (["--context", "'1k,'"], "--context", "1k,"),
        (["--context", "'4g'"], "--context", "4g"),
        (["--context", "'9999999999999m'"], "--context", "9999999999999m"),
        (["--context", "16"], "--context", ",".join(["1"] * 17)),
        (["--dtype", "'f64'"], "--dtype", "f64"),
        (["--dtype", "f32,f32,f32,f32"], "--dtype", "f32,f32,f32,f32"),
        (["--steps", "5", "4"], "--steps", 5),
        (["--steps", "33", "32"], "--preset", "small", "--steps", 33),
        (["--context", "--no-steps"], "--context", 0, "--no-steps"),
        (["--peer", "'mkl'", "openblas, blis, onednn"], "--peer", "mkl"),
        (["--threads", "0"], "--threads", 0),
        (["--threads", "1000000"], "--threads", "1,1000000"),
        (["--tau", "'2.5'"], "--tau", "2.5"),
        (["--repeats", "'0'"], "--repeats", 0),
        (["--min-seconds", "'-1'"], "--min-seconds", -1),
        (["--isa", "'mmx'"], "--isa", "mmx"),
    ]:
        expect_error_alone(bench("attention", *arguments), 2, *words)


@case
def other_wrong_options():
    expect_error_alone(bench("merge", "--rows", 0), 2, "--rows", "0")
    expect_error_alone(bench("merge", "--head-dim", 0), 2, "--head-dim", "'0'")
    expect_error_alone(bench("decode"), 2, "--model")
    expect_error_alone(bench("decode", "--model", "/no/such/model"), 1, "/no/such/model")
    expect_error_alone(bench("decode", "--model", MODEL, "--steps", 5), 2, "--steps", "5", "4")
    expect_error_alone(bench("decode", "--model", MODEL, "--kv-dtype", "f64"), 2, "'f64'")


@case
def files_that_cannot_be_written_are_refused_at_once():
    expect_error_alone(bench("limits", "--json", "/no/such/folder/x.json"), 1, "/no/such/folder/x.json")


# --- results -------------------------------------------------------------------------------------

CASE_KEYS = {"name", "dtype", "threads", "implementation", "seconds_median", "seconds_min",
             "gflops", "peak_fraction", "roofline_fraction"}
LIMIT_KEYS = {"fma_gflops_1", "fma_gflops_all", "read_gbs_1", "read_gbs_all"}


def measured(*arguments):
    """The JSON of a run, after the checks that hold for every run."""
    result = bench(*arguments, "--json")
    value = json.loads(succeeded(result))
    expect_equal(set(value["limits"]), LIMIT_KEYS, "limits")
    expect(all(limit > 0 for limit in value["limits"].values()), value["limits"])
    expect(value["machine"]["cores"] >= 1 and value["machine"]["cpu"], value["machine"])
    for entry in value["cases"]:
        expect_equal(set(entry), CASE_KEYS, "keys of a case")
        expect(0 < entry["seconds_min"] <= entry["seconds_median"], entry)
        expect(entry["gflops"] > 0 and 0 < entry["peak_fraction"], entry)
        expect(entry["peak_fraction"] <= entry["roofline_fraction"] * 1.000001, entry)
    return value


def find(value, **wanted):
    found = [entry for entry in value["cases"]
             if all(entry[key] == what for key, what in wanted.items())]
    expect_equal(len(found), 1, f"number of cases of {wanted}")
    return found[0]


@case
def limits_json():
    value = measured("limits", "--repeats", 1)
    expect_equal(value["cases"], [], "cases")
    expect_equal(set(value), {"machine", "limits", "cases"}, "keys")


@case
def limits_text():
    text = succeeded(bench("limits", "--repeats", 1))
    for word in ("threads", "multiply-adds, GFLOP/s", "memory"):
        expect(word in text, text)


@case
def kernels_of_all_sets():
    value = measured("isa", "--short", "--filter", "row")
    info = json.loads(succeeded(run(PROGRAM, "info", "--json")))
    sets = {entry["name"] for entry in info["instruction_sets"]
            if entry["built"] and entry["supported"]}
    expect({"scores f32", "dots", "softmax", "merge_row"} <= {k["kernel"] for k in value["kernels"]},
           value["kernels"])
    for kernel in value["kernels"]:
        expect(set(kernel["speed"]) <= sets and kernel["dispatch"] in kernel["speed"], kernel)
        expect(kernel["fastest"] in kernel["speed"] and kernel["dispatch_by_fastest"] >= 1, kernel)
        expect(all(speed > 0 for speed in kernel["speed"].values()), kernel)
    expect_error_alone(bench("isa", "--filter", "nonsense"), 2, "--filter", "'nonsense'")


@case
def kernels_as_text():
    text = succeeded(bench("isa", "--short", "--filter", "exp"))
    expect("exp, 1024" in text and "dispatch" in text, text)


@case
def attention_to_a_share_of_the_keys():
    value = measured("attention", *TINY, *QUICK, "--context", 1000, "--no-steps", "--density", "0,25,100")
    found = {entry["implementation"]: entry for entry in value["density"]}
    expect_equal(set(found), {f"flashblock, {share} % of keys" for share in (25, 100)}, "shares")
    quarter, all_keys = found["flashblock, 25 % of keys"], found["flashblock, 100 % of keys"]
    expect(4 * 64 - 24 <= quarter["keys"] <= 4 * 64, quarter)
    expect_equal(all_keys["keys"], 1000, "keys")
    expect(quarter["speed_by_dense"] > 0, quarter)
    entry = find(value, implementation="flashblock, 25 % of keys")
    expect_close(entry["gflops"] * entry["seconds_median"] * 1e9, quarter["keys"] * 4 * 4 * 4 * 32,
                 "operations")
    expect_error_alone(bench("attention", "--density", "25,101"), 2, "--density", "101")


@case
def attention_of_every_dtype():
    context, queries = 300, 4
    value = measured("attention", *TINY, *QUICK, "--context", context, "--queries", queries,
                     "--dtype", "f32,bf16,f16", "--tau", "0,2,3")
    name = f"h4-kv2-d32-q{queries}-c{context}"
    for dtype in ("f32", "bf16", "f16"):
        flops_of_a_key = 4 * 4 * queries * 32
        for what, keys in [
            ("flashblock", context),
            ("flashblock dense step", context + queries),
            ("flashblock refresh", context + queries),
            ("flashblock reuse", queries),
            ("flashblock block alone", queries),
            ("flashblock block, tau 0", 5 * (context + queries)),
            ("flashblock block, tau 2", 3 * context + 5 * queries),
            ("flashblock block, tau 3", 3 * context + 5 * queries),
        ]:
            entry = find(value, name=name, dtype=dtype, implementation=what, threads=1)
            expect_close(entry["gflops"] * entry["seconds_median"] * 1e9, keys * flops_of_a_key,
                         f"operations of {what}")
    shape = value["shapes"][0]
    expect_equal((shape["name"], shape["num_heads"], shape["num_kv_heads"], shape["head_dim"],
                  shape["num_queries"], shape["context"]), (name, 4, 2, 32, queries, context),
                 "shape")
    expect_close(shape["flops_per_byte"], 2 * 4 * queries / (2 * 4), "operations a byte")
    expect_equal([block["reuses"] for block in value["steps"][0]["blocks"]], [0, 2, 2], "reuses")


@case
def cold_caches_and_no_context():
    value = measured("attention", *TINY, *QUICK, "--context", "0,64", "--cold")
    expect(value["machine"]["cold"], value["machine"])
    names = [entry["implementation"] for entry in value["cases"] if entry["name"].endswith("-c0")]
    expect("flashblock" not in names and "flashblock reuse" in names, names)


@case
def several_threads():
    cores = json.loads(succeeded(bench("limits", "--repeats", 1, "--json")))["machine"]["cores"]
    if cores < 2:
        raise Skipped("one core only")
    value = measured("attention", *TINY, *QUICK, "--context", 256, "--no-steps", "--threads", "1,2")
    expect_equal([entry["threads"] for entry in value["cases"]], [1, 2], "threads")
    entry = value["scaling"][0]
    expect_equal((entry["first_threads"], entry["threads"]), (1, 2), "scaling")
    expect(entry["times_faster"] > 0, entry)


@case
def presets_with_changes():
    value = measured("attention", "--preset", "small", "--context", 64, "--queries", 8, *QUICK,
                     "--no-steps", "--isa", "scalar")
    find(value, name="small-q8-c64", implementation="flashblock", dtype="f32")
    expect_equal(value["machine"]["instruction_set"], "scalar", "instruction set")


def check_peer(name, *shape):
    """The program compares the results of a peer with ours, and fails where they differ."""
    result = bench("attention", *shape, *QUICK, "--no-steps", "--peer", name, "--json")
    if result.returncode == 1 and b"cannot be measured" in result.stderr:
        raise Skipped(f"built without {name}")
    value = json.loads(succeeded(result))
    find(value, implementation=name)
    share = value["peers"][0]["softmax_share"]
    expect(0 < share < 1, share)


for peer in PEERS:
    for what, shape in {
        "few rows": [*TINY, "--context", 333],
        "several blocks of rows": ["--heads", 1, "--kv-heads", 1, "--head-dim", 8, "--queries",
                                   601, "--context", "16k"],
    }.items():

        def check(peer=peer, shape=shape):
            check_peer(peer, *shape)

        check.__name__ = f"{peer}: {what}"
        long_case(check)


@long_case
def all_peers_leave_out_what_they_cannot_do():
    value = measured("attention", *TINY, *QUICK, "--context", 64, "--no-steps", "--peers",
                     "--dtype", "f16")
    names = [entry["implementation"] for entry in value["cases"]]
    expect("flashblock" in names and "openblas" not in names, names)


@long_case
def refresh_by_rows():
    value = measured("attention", *TINY, *QUICK, "--context", 300, "--row-refresh")
    rows = find(value, implementation="flashblock block, rows")
    for name in ("refresh, corrected", "reuse, corrected", "refresh, one row", "rows, corrected"):
        find(value, implementation=f"flashblock {name}")
    expect(not [entry for entry in value["steps"][0]["blocks"] if entry["tau"] == 1], rows)
    value = measured("decode", "--model", MODEL, "--context", 40, *QUICK, "--row-refresh")
    expect_equal([(entry["rows"], entry["correction"]) for entry in value["decode"]][-2:],
                 [(True, False), (True, True)], "policies")
    find(value, implementation="flashblock, rows, corrected")


@case
def merges():
    value = measured("merge", "--rows", "8,64", "--head-dim", 32, *QUICK)
    expect_equal([entry["name"] for entry in value["cases"]], ["merge-r8-d32", "merge-r64-d32"],
                 "names")


SMALL_VIDEO = ["--heads", 2, "--head-dim", 32, "--frame-tokens", 20, "--window-frames", 6, "--sink-frames", 2]


@case
def video():
    small = [*SMALL_VIDEO, "--block-frames", 2, "--rows", 8, "--repeats", 2]
    value = json.loads(succeeded(bench("video", *small, "--reused-heads", "0,1,2", "--json")))
    dense = find(value, implementation="dense", name="video-h2-d32-b40-w120")
    reused = find(value, implementation="flashblock", name="video-h2-d32-b40-w120")
    [summary] = value["video"]
    pairs = 8 * 4 * 2 * 120  # rows, passes, heads, keys
    saved = 8 * 3 * 80  # rows, heads that reuse, external keys
    expect_close(summary["work_ratio"], pairs / (pairs - saved), "work ratio")
    expect_close(dense["gflops"] * dense["seconds_median"], 4e-9 * 32 * pairs, "dense")
    expect_close(reused["gflops"] * reused["seconds_median"], 4e-9 * 32 * (pairs - saved), "reused")
    expect_error_alone(bench("video", *small, "--reused-heads", "0,3"), 2, "--reused-heads")
    expect_error_alone(bench("video", *small[:-4], "--rows", 41), 2, "--rows", "40")
    expect_error_alone(bench("video", *SMALL_VIDEO, "--block-frames", 7, "--rows", 8, "--reused-heads", 1), 2, "window_frames is 6")
    expect_error_alone(bench("video", "--calibration", "/no/such/file"), 1, "/no/such/file")


@long_case
def decoding_beyond_the_models_limit():
    value = measured("decode", "--model", f"{MODEL}/", "--context", "0,17k,100", "--tau", "0,2",
                     *QUICK)
    limit = json.loads((MODEL / "config.json").read_text())["max_position_embeddings"]
    expect(limit < 17 * 1024, limit)
    for entry in value["decode"]:
        shares = entry["attention_share"], entry["linear_share"], entry["other_share"]
        expect(all(0 <= share <= 1 for share in shares), entry)
        expect_close(sum(shares), 1, "sum of shares")
        parts = sum(entry["other_shares"].values())
        expect(0 < parts <= entry["other_share"], (parts, entry))
        expect_close(entry["tokens_per_second"], 4 / 5 * entry["passes_per_second"], "tokens/s")
    find(value, name="decode-demo-model-b4-c17408", implementation="dense")
    find(value, name="decode-demo-model-b4-c100", implementation="flashblock, tau 2")


@long_case
def models_with_random_weights():
    for like, bits in (("tiny", 16), ("tiny-llada2", 4), ("tiny-fast-dllm", 16)):
        with folder() as path:
            succeeded(run(sys.executable, SOURCE / "bench" / "random_model.py", path, "--like", like,
                          "--bits", bits, "--layers", 2))
            value = measured("decode", "--model", path, "--context", 16, "--tau", 2, "--repeats", 1,
                             "--min-seconds", 0)
            expect_equal(len(value["cases"]), 1, "cases")


@case
def quantised_folders():
    stored = [measured("decode", "--model", MODEL, "--context", 16, "--tau", 0, *QUICK)["decode"][0]]
    with folder() as path:
        succeeded(run(PROGRAM, "quantize", "--model", MODEL, "--head-bits", 4, "-o", path / "w8"))
        for activations, suffix in (("int8", ""), ("f32", "-f32")):
            value = measured("decode", "--model", path / "w8", "--context", 16, "--tau", 0, *QUICK,
                             "--activations", activations)
            stored.append(value["decode"][0])
            expect_equal(value["decode"][0]["name"], f"decode-w8{suffix}-b4-c16", "name")
    bf16, *w8 = (entry["weight_bytes_per_pass"] for entry in stored)
    config = json.loads((MODEL / "config.json").read_text())
    head = config["vocab_size"] * config["hidden_size"]
    expect_equal(w8[0], w8[1], "bytes")
    # The head is read in 4 of 5 passes: 2 bytes a weight in bf16, 1/2 here. A scale a row is little.
    halved = (bf16 - 0.8 * 2 * head) / 2 + 0.8 * head / 2
    expect(halved < w8[0] < 1.02 * halved, (bf16, w8, halved))


# --- tables and pictures -------------------------------------------------------------------------


def write_evaluation(path):
    succeeded(run(PROGRAM, "eval", "reuse", "--model", MODEL, "--text", MODEL / "prompt.txt", "-b",
                  "4,8", "--context", 64, "-n", 8, "--samples", 2, "--threads", 1, "--json", path))
    return path


def write_results(path):
    succeeded(bench("attention", *TINY, *QUICK, "--context", "64,128", "--peers",
                    "--json", path / "attention.json"))
    succeeded(bench("decode", "--model", MODEL, "--context", "16,64", *QUICK, "--json",
                    path / "decode.json"))
    return [path / "attention.json", path / "decode.json"]


@case
def tables():
    with folder() as path:
        text = succeeded(run(sys.executable, SOURCE / "bench" / "table", *write_results(path)))
    for word in ("multiply-adds", "4 / 2, 32, 4, 128", "tau 2", "demo-model-b4-c64"):
        expect(word in text, f"{word!r} is not in {text!r}")


@long_case
def pictures():
    if not shutil.which("gnuplot"):
        raise Skipped("no gnuplot")
    with folder() as path:
        files = [*write_results(path), write_evaluation(path / "reuse.json")]
        result = run(sys.executable, SOURCE / "bench" / "plot", "--out", path / "out", *files)
        names = {pathlib.Path(line).name for line in succeeded(result).splitlines()}
        expect_equal(result.stderr, b"", "standard error")
        for name in ("roofline-f32-1", "time-h4-kv2-d32-q4-f32-1", "pass-demo-model-b4-f32-1",
                     "attended-h4-kv2-d32-q4", "reuse"):
            png, svg = (path / "out" / f"{name}.{suffix}" for suffix in ("png", "svg"))
            expect(png.name in names and svg.name in names, names)
            expect(png.read_bytes().startswith(b"\x89PNG") and png.stat().st_size > 5000, png)
            expect(b"</svg>" in svg.read_bytes(), svg)


@case
def pictures_of_an_evaluation():
    if not shutil.which("gnuplot"):
        raise Skipped("no gnuplot")
    with folder() as path:
        file = path / "eval.json"
        succeeded(run(PROGRAM, "eval", "sparse", "--model", MODEL, "--text", MODEL / "held-out.txt",
                      "--context", 64, "--blocks", 1, "--windows", 1, "--density", "25,50", "--tau", 2,
                      "--selectors", "multipole,mage", "--json", file))
        result = run(sys.executable, SOURCE / "bench" / "plot_eval", "--out", path / "out", file)
        succeeded(result)
        for name in ("eval-agreement", "eval-divergence", "eval-layers"):
            png, svg = (path / "out" / f"{name}.{suffix}" for suffix in ("png", "svg"))
            expect(png.read_bytes().startswith(b"\x89PNG") and png.stat().st_size > 5000, png)
            expect(b"</svg>" in svg.read_bytes(), svg)


@case
def files_that_are_none():
    with folder() as path:
        (path / "x.json").write_text('{"machine": {}}')
        (path / "cells.json").write_text('{"cells": [{"context": 4}]}')
        for tool in ("table", "plot", "plot_eval"):
            for file in (path / "x.json", path / "absent.json", path / "cells.json"):
                result = run(sys.executable, SOURCE / "bench" / tool, file)
                expect_equal(result.returncode, 1, f"exit status of {tool}")
                expect(file.name.encode() in result.stderr, result.stderr)
                expect_equal(result.stderr.count(b"\n"), 1, f"lines of {result.stderr!r}")


sys.exit(run_cases())
