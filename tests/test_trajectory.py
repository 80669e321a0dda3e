#!/usr/bin/python3
"""test_trajectory.py PROGRAM GOLDEN: `flashblock generate --record` and `flashblock verify --trajectory`. Prints TAP.

The port whose records are judged is trajectory_port.py, which shares nothing with the program.
"""
import json
import os
import struct
import subprocess
import sys
import tempfile

import trajectory_port as port
from case_support import case, expect, expect_equal, run_cases
from verify_support import GOLDEN, PROGRAM, expect_usage_error, folder, text_of, verify

MODEL = os.path.join(tempfile.mkdtemp(prefix="trajectory-"), "model")
WEIGHTS = port.make_model(MODEL)


def judge(path, *arguments, model=None):
    """The case of --json."""
    done = verify("--trajectory", path, "--model", model or MODEL, "--json=-", *arguments)
    expect(done.stdout, done.stderr)
    report = json.loads(done.stdout)["cases"][0]
    expect_equal(done.returncode, 0 if report["outcome"] == "passed" else 1, f"exit status of {report['reason']}")
    return report


def made(where, **how):
    """The path of a port's record."""
    path = where / "record.jsonl"
    port.record(path, WEIGHTS, **how)
    return path


def expect_mistake(report, words, block, step, subject, layer=None):
    expect_equal(report["outcome"], "failed", report["reason"])
    first = report["trajectory"]["first_mistake"]
    expect(words in report["reason"], words, "is not in", report["reason"])
    expect_equal((first["block"], first["step"], first["subject"]), (block, step, subject), report["reason"])
    expect(not first["tie"] and first["line"] > 1, first)
    if layer is not None:
        expect_equal((first["state"], first["layer"]), ("hidden", layer), report["reason"])


# --- the program's own records --------------------------------------------------------------------


OWN = (
    "", "--tau 0", "--tau 4", "--remasking low_confidence_static", "--remasking sequential", "--confidence-threshold 0.3",
    "--remasking entropy_bounded", "--temperature 0.9", "--temperature 0.8 --top-k 20", "--temperature 0.8 --top-p 0.9",
    "--kv-dtype bf16", "--kv-dtype int8", "--reuse rows", "--reuse rows --correction", "--block-size 8 --denoising-steps 4",
    "--reuse-at-commit", "--reuse-always", "--compat released", "--compat released --temperature 1", "--ignore-eos",
)  # fmt: skip


def own(path, *options, model=GOLDEN / "demo-model", prompt="And it came to pass", tokens="10"):
    done = subprocess.run(
        [PROGRAM, "generate", "-m", model, "-p", prompt, "-n", tokens, "--record", path, *options],
        capture_output=True, check=False,
    )  # fmt: skip
    expect_equal(done.returncode, 0, done.stderr)


@case
def own_records_pass_bit_for_bit():
    with folder() as where:
        for options in OWN:
            own(where / "own.jsonl", *options.split())
            report = judge(where / "own.jsonl", model=GOLDEN / "demo-model")
            expect_equal((report["outcome"], report["reason"]), ("passed", "bit for bit"), options)
            agreement = report["trajectory"]["agreement"]
            expect(all(share["agree"] == share["of"] for share in agreement.values()), options, agreement)
            expect(agreement["actions"]["of"] and agreement["decisions"]["of"], options, agreement)


@case
def on_every_instruction_set():
    with folder() as where:
        own(where / "own.jsonl", "--isa", "scalar")
        text = text_of(verify("--trajectory", where / "own.jsonl", "-m", GOLDEN / "demo-model", "--isa", "all"), 0)
        expect(text.count("PASS: bit for bit") >= 1 and "FAIL" not in text, text)
        expect_equal(text.count("PASS"), int(text.split("\n")[-2].split()[0]), text)


@case
def quantised_models():
    with folder() as where:
        model = where / "w4"
        subprocess.run([PROGRAM, "quantize", "-m", GOLDEN / "demo-model", "--bits", "4", "-o", model],
                       capture_output=True, check=True)  # fmt: skip
        for made_with, other in (("f32", "int8"), ("int8", "f32")):
            own(where / "own.jsonl", "--activations", made_with, model=model)
            report = judge(where / "own.jsonl", "--activations", made_with, model=model)
            expect_equal((report["outcome"], report["reason"]), ("passed", "bit for bit"), made_with)
            report = judge(where / "own.jsonl", "--activations", other, model=model)
            expect(report["reason"] != "bit for bit", other)
    expect_usage_error(verify("--activations", "f32", "x"), "--trajectory")


@case
def a_long_prompt_is_prefilled_in_the_same_pieces():
    with folder() as where:
        own(where / "own.jsonl", prompt="And the LORD said unto Moses, " * 30, tokens="4")
        expect_equal(judge(where / "own.jsonl", model=GOLDEN / "demo-model")["reason"], "bit for bit", "reason")


@case
def record_takes_one_prompt():
    model = ["generate", "-m", str(GOLDEN / "demo-model"), "-p", "a", "-n", "4", "--record", os.devnull]
    run = lambda *more: subprocess.run([PROGRAM, *model, *more], capture_output=True, check=False)  # noqa: E731
    expect_usage_error(run("-p", "b"), "--record")
    expect_usage_error(run("--samples", "2", "--temperature", "1"), "--record", "--samples")
    expect_usage_error(run("--compare"), "--record", "--compare")


@case
def usage():
    expect_usage_error(verify("--trajectory", "x"), "--model")
    expect_usage_error(verify("--model", "x", "y"), "--trajectory")
    expect_usage_error(verify("--trajectory", "x", "--model", "y", "z"), "--trajectory")
    done = verify("--trajectory", "/nonesuch.jsonl", "--model", MODEL)
    expect(done.returncode == 1 and b"/nonesuch.jsonl" in done.stdout, done.stdout)


# --- an honest port -------------------------------------------------------------------------------


@case
def honest_ports_pass():
    with folder() as where:
        for precision in ("f32", "bf16"):
            for states in (False, True):
                for tau in (0, 1, 2, 3):
                    report = judge(made(where, precision=precision, states=states, tau=tau))
                    expect_equal(report["outcome"], "passed", report["reason"])
                    names = {finding["tensor"] for finding in report["findings"]}
                    expect(({"hidden", "logits"} <= names) == states, names)


@case
def the_errors_of_bf16_are_not_those_of_f32():
    with folder() as where:
        path = made(where, precision="bf16", states=True)
        expect_mistake(judge(path, "--precision", "f32"), "the errors are those of bf16, not of f32", 0, 0, "state")


def change_confidences(path, factor, at=None):
    """Times the factor; `at`: one of those that are neither 0 nor near 1, else all."""
    lines, found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()], 0
    for line in lines:
        for i, p in enumerate(line.get("confidence") or ()):
            if p is not None and 0 < p < 0.9:
                line["confidence"][i] = p * factor if at in (None, found) else p
                found += 1
    port.write(path, lines)
    expect(found > 8, found)


def expect_no_roundings(path, words, subject):
    """It passes as f16, but these are no roundings: what differs is said."""
    expect_equal(judge(path, "--precision", "f16")["outcome"], "passed", words)
    report = judge(path)
    expect_equal(report["outcome"], "failed", words)
    expect_equal(report["trajectory"]["first_mistake"]["subject"], subject, report["reason"])
    expect("errors are those" not in report["reason"] and words in report["reason"], report["reason"])


@case
def errors_that_are_no_roundings_are_not_called_that():
    with folder() as where:
        for at in (3, None):
            change_confidences(made(where), 1.001, at)
            expect_no_roundings(where / "record.jsonl", "the confidence of position", "confidence")
        right = port.CONFIG["rms_norm_eps"]
        for epsilon, words, subject in ((1e-5, "the confidence", "confidence"), (1e-4, "hidden[1], the output of layer 0", "state"),
                                        (1e-3, "hidden[1], the output of layer 0", "state")):  # fmt: skip
            port.CONFIG["rms_norm_eps"] = epsilon
            try:
                path = made(where, states=True)
            finally:
                port.CONFIG["rms_norm_eps"] = right
            expect_no_roundings(path, words, subject)


@case
def noise_is_replayed():
    with folder() as where:
        for precision in ("f32", "bf16"):
            for noise in ("uniform", "gumbel"):
                report = judge(made(where, precision=precision, temperature=0.8, noise=noise))
                expect_equal(report["outcome"], "passed", report["reason"])
                expect(report["trajectory"]["agreement"]["proposals"]["of"] > 20, report)


@case
def wrong_noise_is_a_mistake():
    with folder() as where:
        path = made(where, temperature=0.8, noise="uniform")
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        lines[4]["uniform"] = [1 - u for u in lines[4]["uniform"]]
        port.write(path, lines)
        report = judge(path)
        expect_equal((report["outcome"], report["trajectory"]["first_mistake"]["line"]), ("failed", 5), report["reason"])
        expect_equal(report["trajectory"]["first_mistake"]["subject"], "proposal", report["reason"])


# --- mistakes -------------------------------------------------------------------------------------


@case
def actions_of_another_tau():
    with folder() as where:
        for precision in ("f32", "bf16"):
            report = judge(made(where, precision=precision, mistake="tau", remasking="low_confidence_static"))
            words = "the refresh comes too late: these are the actions of tau 3, not 2"
            expect_mistake(report, words, 1, 2, "action")
            actions = report["trajectory"]["agreement"]["actions"]
            expect(0 < actions["agree"] < actions["of"], actions)


@case
def a_softmax_over_half_of_the_vocabulary():
    with folder() as where:
        for precision in ("f32", "bf16"):
            report = judge(made(where, precision=precision, mistake="half softmax"))
            expect_mistake(report, "a softmax over half of the vocabulary", 0, 0, "confidence")


@case
def the_last_position_is_accepted():
    with folder() as where:
        for precision in ("f32", "bf16"):
            how = {"precision": precision, "mistake": "last position", "remasking": "low_confidence_static"}
            report = judge(made(where, **how))
            expect_mistake(report, "the highest position is taken for the highest confidence", 0, 0, "decision")


@case
def a_threshold_that_is_reached():
    with folder() as where:
        step = port.record(where / "record.jsonl", WEIGHTS)[1]
        second = sorted(step["confidence"][2:])[0]
        right = judge(made(where, confidence_threshold=second))
        expect_equal(right["outcome"], "passed", right["reason"])
        report = judge(made(where, mistake="at least", confidence_threshold=second))
        expect_mistake(report, ">= in place of >", 0, 0, "decision")


@case
def what_the_model_computes():
    places = (
        ("no commit", 1, 2, "keys and values of block 1 are those of its last denoising step"),
        ("stale part", 2, 2, "it is an earlier block's, kept over the commit of block 1"),
        ("causal", 1, 1, "a causal mask within the block"),
        ("positions", 2, 2, "rotary positions of the block are one too high"),
    )
    with folder() as where:
        for mistake, begin, block, words in places:
            how = {"mistake": mistake, "mistake_block": begin}
            expect_mistake(judge(made(where, **how)), words, block, 0, "confidence")
            expect_mistake(judge(made(where, states=True, **how)), words, block, 0, "state", layer=1)
            report = judge(made(where, states=True, precision="bf16", **how))
            expect_mistake(report, "", block, 0, "state", layer=1)
            expect("before" in report["trajectory"], report)


LONG = (5, 9, 30, 2, 17, 8, 11, 3, 20)
# Mistake, options of the record, words of the verdict, block, step, what differs first.
NAMED = (
    ("causal prefill", {}, "the prompt is prefilled under a causal mask", 0, 0, "confidence"),
    ("full prefill", {"prompt": LONG}, "the prompt is prefilled without a mask", 0, 0, "confidence"),
    ("temperature", {}, "the confidences are those of temperature 0.7, not of 1", 0, 0, "confidence"),
    ("temperature", {"temperature": 0.8, "noise": "uniform"}, "of temperature 0.56, not of 0.8", 0, 0, "confidence"),
    ("missing", {"mistake_block": 1}, "block 1 is missing in the cache of keys and values", 2, 0, "confidence"),
    ("not written", {"mistake_block": 1}, "keys and values of block 1 are zeros", 2, 0, "confidence"),
    ("not written", {}, "keys and values of the context are zeros", 0, 0, "confidence"),
    ("commit reuses", {}, "block 0 are those of a commit that reused", 1, 0, "confidence"),
    ("threshold", {}, "another confidence threshold, not of 0.9: one from 0.492862 to 0.509788 (0.5, say)", 0, 0, "decision"),
    ("remasking", {"confidence_threshold": 0.4}, "the decisions of low_confidence_static, not of low_confidence_dynamic", 0, 0,
     "decision"),
    ("steps", {}, "the decisions of 2 denoising steps, not of 4", 0, 0, "decision"),
    ("remainder", {"denoising_steps": 3, "remasking": "low_confidence_static"}, "goes to the last steps", 0, 0, "decision"),
    ("another token", {}, "the tokens are those proposed one position after", 0, 0, "decision"),
    ("tail", {"prompt": LONG}, "a tail of zeros behind the context is not masked: 8 keys", 0, 0, "confidence"),
    ("tail in head 2", {"prompt": LONG}, "8 keys are attended that do not exist, in head 2 alone", 0, 0, "confidence"),
    ("own twice", {}, "the block's own keys are attended twice", 0, 0, "confidence"),
    ("last key", {}, "keys at the end of the context are not attended: 1 of them", 0, 0, "confidence"),
    ("stale lse", {"states": True}, "the external part's LSE is stale: it is that of the commit before", 1, 0, "state"),
    ("from zero", {"prompt": LONG}, "rotary positions of the block begin at 0 again", 0, 0, "confidence"),
    ("base 2", {}, "its weights are 2^LSE", 0, 0, "confidence"),
    ("swapped", {}, "the merge gives each part the other's weight", 0, 0, "confidence"),
    ("unnormalised", {}, "the confidences are not normalised", 0, 0, "confidence"),
    ("sigmoid", {}, "the confidences are sigmoids of the logits", 0, 0, "confidence"),
    ("with mask", {}, "the mask token is not excluded", 0, 0, "confidence"),
    ("logits before", {}, "the confidences are those of the position before", 0, 0, "confidence"),
    ("second", {}, "the second most probable token is proposed", 0, 0, "proposal"),
    ("mask proposed", {}, "the mask token 39 is proposed", 0, 0, "proposal"),
    ("drawn", {}, "are they drawn? The record says greedy", 0, 0, "proposal"),
    ("best", {"temperature": 1.0, "noise": "uniform"}, "the best token is proposed, but the record says", 0, 0, "proposal"),
    ("by rank", {"temperature": 1.0, "noise": "uniform"}, "in the order of falling probability", 0, 0, "proposal"),
    ("noise too early", {"temperature": 0.5, "noise": "gumbel"}, "before the division by the temperature", 1, 0, "proposal"),
    ("best confidence", {"temperature": 1.0, "noise": "uniform"}, "not of the tokens that were drawn", 0, 0, "confidence"),
    ("dirty without the refresh", {}, "counted without those of the refreshing step itself", 1, 2, "action"),
    ("dirty never reset", {"tau": 3, "confidence_threshold": 1.0, "block_size": 8, "denoising_steps": 8},
     "the refresh comes too early: dirty tokens are counted from the block's first step on", 1, 4, "action"),
    ("dirty steps", {"confidence_threshold": 0.3}, "the refresh comes too late", 4, 1, "action"),
)  # fmt: skip


@case
def mistakes_that_are_named():
    """Each at its first step, in float32."""
    with folder() as where:
        for mistake, how, words, block, step, subject in NAMED:
            expect_mistake(judge(made(where, mistake=mistake, **how)), words, block, step, subject)


@case
def a_part_says_its_heads_and_rows():
    with folder() as where:
        report = judge(made(where, mistake="tail in head 2", prompt=LONG, states="parts"))
        expect_mistake(report, "external_lse of layer 0, row", 0, 0, "state")
        expect("head 2 alone" in report["reason"].split("external_lse")[1], report["reason"])
        expect("the record's is +" in report["reason"], report["reason"])
        report = judge(made(where, mistake="stale lse", states="parts"))
        expect_mistake(report, "the external part's LSE is stale: it is that of the commit before", 1, 0, "state")


def read_tensors(path):
    """{name: (shape, flat list)} of a file of F32."""
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    for name, entry in json.loads(data[8 : 8 + size]).items():
        begin, end = (8 + size + offset for offset in entry["data_offsets"])
        yield name, (entry["shape"], struct.unpack(f"<{(end - begin) // 4}f", data[begin:end]))


@case
def states_are_those_of_another_implementation():
    """--states writes what this program computes on a port's tokens; so it does where the record fails."""
    with folder() as where:
        for mistake, outcome in ((None, 0), ("with mask", 1)):
            path = made(where, states="parts", mistake=mistake)
            theirs = dict(read_tensors(where / "record.jsonl.safetensors"))
            expect_equal(verify("--trajectory", path, "-m", MODEL, "--states", where / "ours").returncode, outcome, mistake)
            ours = dict(read_tensors(where / "ours"))
            passes = {name.rsplit(".", 1)[0] for name in ours}
            expect({"block0.step0", "block0.commit", "block4.step0"} <= passes, passes)
            expect("block0.commit.logits" not in ours and "block0.commit.hidden" in ours, sorted(ours)[:20])
            for name, (shape, values) in theirs.items():
                block, step, what = name.split(".")
                other = ours[f"block{block}.step{step}.{what}"]
                expect_equal(other[0], shape, name)
                error = max(abs(a - b) for a, b in zip(values, other[1]))
                expect(error < 2e-4, name, error)
        expect_usage_error(verify("--states", "x", "y"), "--states", "--trajectory")
        done = verify("--trajectory", path, "-m", MODEL, "--states", where / "no" / "folder")
        expect(done.returncode == 1 and b"no/folder" in done.stderr, done.stderr)


@case
def what_no_mistake_explains_asks_for_states():
    with folder() as where:
        path = made(where, mistake="stale lse")
        text = text_of(verify("--trajectory", path, "-m", MODEL), 1)
        expect("Record hidden states, and the layer is found" in text, text)


@case
def numbers_that_cannot_be_say_what_they_may_be():
    with folder() as where:
        report = judge(made(where, mistake="logarithms"))
        expect("is it a logarithm? That of 0.605" in report["reason"], report["reason"])


@case
def a_decision_at_a_near_tie():
    """Two confidences are within 2 %: in bf16 either may be taken, in f32 not."""
    with folder() as where:
        how = {"mistake": "flip", "remasking": "low_confidence_static", "max_tokens": 48}
        exact = judge(made(where, **how))
        expect_equal(exact["trajectory"]["first_mistake"]["subject"], "decision", exact["reason"])
        report = judge(made(where, precision="bf16", **how))
        expect_equal(report["outcome"], "passed", report["reason"])
        expect("a tie within the noise of bf16" in report["reason"], report["reason"])
        trajectory = report["trajectory"]
        expect(trajectory["ties"] and trajectory["first_difference"]["tie"], trajectory)
        steps = trajectory["agreement"]["steps"]
        expect(steps["agree"] < steps["of"], steps)


# --- incomplete and hostile records ---------------------------------------------------------------


def edited(where, lines, number, change):
    """Writes the record with the line (from 1) changed: a function of it, text, or None for no such line."""
    text = [json.dumps(line) for line in lines]
    if callable(change):
        line = json.loads(text[number - 1])
        change(line)
        text[number - 1] = json.dumps(line)
    elif change is None:
        del text[number - 1]
    else:
        text[number - 1] = change
    path = where / "edited.jsonl"
    path.write_text("\n".join(text) + "\n", encoding="utf-8")
    return path


@case
def incomplete_records():
    with folder() as where:
        lines = port.record(where / "record.jsonl", WEIGHTS)

        def incomplete(number, change, words):
            path = edited(where, lines, number, change)
            report = judge(path)
            expect_equal(report["outcome"], "incomplete", report["reason"])
            expect(words in report["reason"], words, "is not in", report["reason"])
            expect_equal(judge(path, "--partial")["outcome"], "passed", words)

        incomplete(len(lines), None, "without its end")
        incomplete(3, lambda line: line.pop("confidence"), "line 3, confidence")
        incomplete(3, lambda line: line.pop("action"), "line 3, action")
        incomplete(3, lambda line: line.pop("before"), "line 3, before")
        incomplete(2, lambda line: line.update(proposed=[None] * 4), "line 2, proposed")
        report = judge(made(where, temperature=0.8))
        expect("uniform (or gumbel)" in report["reason"] and report["outcome"] == "incomplete", report["reason"])
        without = [line for line in lines if line.get("step") != "commit"]
        port.write(where / "record.jsonl", without)
        expect_equal(judge(where / "record.jsonl")["outcome"], "passed", "without commits")


def put(key, value):
    return lambda line: line.update({key: value})


def item(key, index, value):
    return lambda line: line[key].__setitem__(index, value)


@case
def hostile_records():
    """Each is a failure with a line number, and nothing else."""
    with folder() as where:
        lines = port.record(where / "record.jsonl", WEIGHTS)
        steps = [i + 1 for i, line in enumerate(lines) if isinstance(line.get("step"), int)]
        first, second = steps[0], steps[1]
        decided = lines[first - 1]["accepted"][0]
        whole = json.dumps(lines[second - 1])
        bad = (
            (first, whole[: len(whole) // 2], "JSON"),
            (first, "[1]", ""),
            (first, "nonsense", ""),
            (first, '{"block":0,"block":0}', "block"),
            (first, put("proposed", [0, 0, 4000, 0]), "not a token id"),
            (first, put("proposed", [0, 0, -1, 0]), "not a token id"),
            (first, put("proposed", [0, 0, 1.5, 0]), "not a token id"),
            (first, put("proposed", [0, 0]), "expected 4"),
            (first, item("tokens", 0, 40), "not a token id"),
            (first, put("block", 1), "is next"),
            (first, put("block", 10**30), "block"),
            (first, put("block", -1), "block"),
            (first, put("step", 1), "is next"),
            (first, put("step", "late"), "step"),
            (first, put("step", "commit"), "is next"),
            (second, None, "is next"),
            (second, lambda line: line.update(accepted=[decided], tokens=[1]), "not masked"),
            (first, lambda line: line.update(accepted=[4], tokens=[1]), "accepted"),
            (first, lambda line: line.update(accepted=[0], tokens=[1]), "not masked"),
            (first, lambda line: line.update(accepted=[2, 2], tokens=[1, 1]), "twice"),
            (first, put("accepted", "all"), "accepted"),
            (first, item("confidence", 2, float("nan")), "not a finite number"),
            (first, item("confidence", 2, float("inf")), "not a finite number"),
            (first, item("confidence", 2, -0.5), "not a probability"),
            (first, item("confidence", 2, "high"), "not a finite number"),
            (first, item("before", 2, 3), "masked"),
            (second, item("before", decided, 3), "an earlier step accepted"),
            (first, put("action", "maybe"), "maybe"),
            (first, put("confidences", []), "confidences"),
            (first, put("hidden", "x"), "names no tensors"),
            (first, put("uniform", [0, 0, 1.0, 0]), "not in [0, 1)"),
            (1, put("trajectory", 2), "this version reads 1"),
            (1, lambda line: line.pop("trajectory"), "not the first line"),
            (1, lambda line: line.pop("precision"), "precision"),
            (1, put("precision", "f31"), "f31"),
            (1, put("prompt", [1, 2, 40]), "not a token id"),
            (1, put("prompt", list(range(30)) * 20), "prompt"),
            (1, put("options", {"tua": 2}), "tua"),
            (1, put("options", {"block_size": 0}), "block_size"),
            (1, put("options", {"block_size": 1000}), "block_size"),
            (1, put("options", {"remasking": "none"}), "none"),
            (1, put("options", {"top_p": 7}), "top_p"),
            (1, put("tensors", "../x"), "beside"),
            (1, put("tensors", "nonesuch.safetensors"), "nonesuch"),
            (len(lines), put("end", "stop"), "expected 'length'"),
            (len(lines), item("tokens", 0, 1), "was decided to be"),
            (len(lines), put("tokens", [1]), "1 items"),
        )
        for number, change, words in bad:
            report = judge(edited(where, lines, number, change))
            expect_equal(report["outcome"], "failed", words)
            reason = report["reason"]
            line = number if change is not None else second
            expect("nonesuch" in reason or f"line {line}" in reason, f"line {line} is not in", reason)
            expect(words in reason, words, "is not in", reason)
            expect(not report["findings"] and "\n" not in reason, report)
        text = "".join(json.dumps(line) + "\n" for line in [*lines, lines[-1]])
        (where / "more.jsonl").write_text(text, encoding="utf-8")
        expect("follows the end" in judge(where / "more.jsonl")["reason"], "after the end")
        (where / "more.jsonl").write_text("", encoding="utf-8")
        expect("is empty" in judge(where / "more.jsonl")["reason"], "empty")


@case
def hostile_tensors():
    with folder() as where:
        path = where / "record.jsonl"
        lines = port.record(path, WEIGHTS, states=True)
        lines[1]["hidden"] = "nonesuch"
        port.write(path, lines)
        expect("line 2: hidden" in judge(path)["reason"], "a missing tensor")
        lines[1]["hidden"] = lines[1]["logits"]
        port.write(path, lines)
        expect("line 2: hidden" in judge(path)["reason"], "another shape")
        lines[1]["hidden"] = lines[2]["hidden"]
        port.write(path, lines)
        expect_mistake(judge(path), "", 0, 0, "state")
        lines[1].pop("hidden")
        name, shape = "0.0.logits", [4, port.CONFIG["vocab_size"]]
        port.save(f"{path}.safetensors", {name: (shape, [float("nan")] * (shape[0] * shape[1]))})
        port.write(path, [{k: v for k, v in line.items() if k != "hidden" and (k != "logits" or v == name)} for line in lines])
        expect_mistake(judge(path), "", 0, 0, "state")


if __name__ == "__main__":
    sys.exit(run_cases())
