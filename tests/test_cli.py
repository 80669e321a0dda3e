#!/usr/bin/python3
"""test_cli.py PROGRAM MODEL_DIR: runs the flashblock program. Prints TAP.

Cases that take a model use the one in MODEL_DIR, and damaged copies of it.
"""
import contextlib
import json
import os
import pathlib
import pty
import select
import shutil
import socket
import struct
import subprocess
import sys
import tempfile

from case_support import Skipped, case, expect, expect_equal, expect_error, run_cases

PROGRAM = sys.argv[1]
MODEL = pathlib.Path(sys.argv[2])
PROMPT = "And it came to pass in those days, that "


def run(*arguments, stdin=b"", env=None):
    return subprocess.run(
        [PROGRAM, *map(str, arguments)],
        input=stdin,
        capture_output=True,
        timeout=300,
        env={**os.environ, **(env or {})},
        check=False,
    )


def succeeded(result):
    expect_equal(result.returncode, 0, f"exit status ({result.stderr!r})")
    return result.stdout.decode()


def generate(*arguments, model=MODEL, **more):
    return run("generate", "--model", model, *arguments, **more)


def generate_json(*arguments, prompt=PROMPT, tokens=24):
    prompts = [] if prompt is None else ["--prompt", prompt]
    return json.loads(succeeded(generate(*prompts, "-n", tokens, *arguments, "--json")))


def ids(generation, index=0):
    return generation["results"][index]["token_ids"]


# --- usage ---------------------------------------------------------------------------------------


@case
def help_texts():
    for arguments in (["--help"], ["-h"], ["generate", "--help"], ["eval", "-h"], ["eval", "sparse", "-h"], ["info", "-h"]):
        result = run(*arguments)
        expect(succeeded(result).startswith("Usage: flashblock "), arguments)
        expect_equal(result.stderr, b"", "standard error")
        expect(all(len(line) <= 100 for line in result.stdout.decode().split("\n")), arguments)


@case
def version():
    expect(succeeded(run("--version")).startswith("flashblock "), "name")


@case
def wrong_commands():
    expect_error(run(), 2, "--help")
    expect_error(run("nonsense"), 2, "'nonsense'")
    expect_error(run("info", "extra"), 2, "'extra'")
    expect_error(run("info", "--nonsense"), 2, "'--nonsense'")
    expect_error(run("info\nx"), 2, "info?x")


@case
def wrong_options():
    for option, value in [
        ("max-tokens", "0"),
        ("max-tokens", "-1"),
        ("max-tokens", " 1"),
        ("max-tokens", "1e3"),
        ("max-tokens", "99999999999999999999"),
        ("tau", "-1"),
        ("tau", "2.5"),
        ("block-size", "0"),
        ("denoising-steps", "0x4"),
        ("remasking", "low_confidence"),
        ("confidence-threshold", "1.1"),
        ("confidence-threshold", "nan"),
        ("confidence-threshold", ""),
        ("entropy-bound", "inf"),
        ("temperature", "-1"),
        ("temperature", "1e999"),
        ("top-p", "2"),
        ("top-k", "-5"),
        ("seed", "18446744073709551616"),
        ("threads", "0"),
        ("threads", "1025"),
        ("isa", "mmx"),
        ("kv-dtype", "f64"),
        ("compat", "other"),
        ("repeats", "0"),
    ]:
        result = run("generate", "--model", "x", "--prompt", "y", f"--{option}", value)
        expect_error(result, 2, f"--{option}", value)
        expect_equal(result.stdout, b"", "standard output")


@case
def missing_options():
    expect_error(run("generate"), 2, "--model")
    expect_error(run("generate", "--model"), 2, "--model", "needs a value")
    expect_error(run("generate", "--model", ""), 2, "--model")
    expect_error(run("generate", "--model", "x"), 2, "--prompt")
    expect_error(run("generate", "--visual=1"), 2, "--visual", "'1'")


@case
def contradicting_options():
    base = ["generate", "--model", "x", "--prompt", "y"]
    expect_error(run(*base, "--visual", "--compare"), 2, "--visual", "--compare")
    expect_error(run(*base, "--visual", "--json"), 2, "--visual", "--json")
    expect_error(run(*base, "--visual", "--prompt", "z"), 2, "--visual")
    expect_error(run(*base, "--compare", "--tau", "0"), 2, "--compare", "--tau")


# --- info ----------------------------------------------------------------------------------------


@case
def info_tells_the_machine():
    text = succeeded(run("info"))
    for word in ("flashblock", "scalar", "threads", "page size"):
        expect(word in text, word)
    facts = json.loads(succeeded(run("info", "--json")))
    expect(facts["version"] in text, "version")
    sets = {entry["name"]: entry for entry in facts["instruction_sets"]}
    expect(sets["scalar"]["built"] and sets["scalar"]["supported"], "scalar is always there")
    chosen = sets[facts["instruction_set"]]
    expect(chosen["built"] and chosen["supported"], "the chosen set can run")
    expect(facts["threads"] >= 1, "threads")


@case
def info_obeys_the_environment():
    facts = json.loads(succeeded(run("info", "--json", env={"FLASHBLOCK_ISA": "scalar"})))
    expect_equal(facts["instruction_set"], "scalar", "instruction set")
    facts = json.loads(succeeded(run("info", "--json=-", env={"OMP_NUM_THREADS": "3"})))
    expect_equal(facts["threads"], 3, "threads")
    expect_error(run("info", env={"FLASHBLOCK_ISA": "mmx"}), 2, "FLASHBLOCK_ISA", "mmx")


@case
def output_that_cannot_be_written():
    with open("/dev/full", "wb") as full:
        result = subprocess.run([PROGRAM, "info"], stdout=full, stderr=subprocess.PIPE, check=False)
    expect_error(result, 1, "standard output")
    expect_error(run("info", "--json", "/no/such/folder/x.json"), 1, "/no/such/folder/x.json")
    # said before the text is written
    expect_error(generate("--json", "/no/such/folder/x.json"), 1, "/no/such/folder/x.json")


# --- generation ----------------------------------------------------------------------------------


@case
def text_and_json_agree():
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "out.json")
        result = generate("-p", PROMPT, "-n", 24, "--json", path)
        text = succeeded(result)
        facts = json.loads(path.read_text(encoding="utf-8"))
    expect_equal(facts["results"][0]["text"] + "\n", text, "text")
    for word in ("tokens", "/s", "passes", "refresh", "reuse", "attention", "%"):
        expect(word in result.stderr.decode(), word)
    counts = facts["counts"]
    expect_equal(counts["refreshes"] + counts["reuses"], counts["denoising_steps"], "steps")
    expect_equal(len(ids(facts)), counts["completion_tokens"], "tokens")
    expect(counts["reuses"] > 0, "tau 2 reuses")
    expect(0 < facts["seconds"]["decode"]["attention"] < facts["seconds"]["total"], "seconds")
    expect_equal(facts["options"]["tau"], 2, "tau")


@case
def refresh_by_rows():
    dense = generate_json("--tau", 0, "--ignore-eos")
    for more in ([], ["--correction"], ["--reuse", "rows", "--tau", 2, "--refresh-dirty", 3]):
        facts = generate_json("--reuse", "rows", "--ignore-eos", *more)
        counts = facts["counts"]
        expect_equal(len(ids(facts)), 24, "tokens")
        expect(counts["row_refreshes"] > 0, more, "row refreshes")
        expect_equal(counts["refreshes"] + counts["row_refreshes"] + counts["reuses"],
                     counts["denoising_steps"], "steps")
        expect(counts["external_rows"] < dense["counts"]["external_rows"], more, "rows")
        expect_equal(facts["options"]["reuse"]["policy"], "rows", "policy")
    rows = generate_json("--reuse", "rows", "--ignore-eos", prompt="")["counts"]
    expect_equal(rows["external_rows"], 2 * 4 * rows["commits"], "two rows for each token of a block")
    full = ["--refresh-every", 1, "--refresh-commit", "--ignore-eos"]
    expect_equal(ids(generate_json("--reuse", "rows", *full)), ids(dense), "tokens, all rows")
    text = generate("-p", PROMPT, "-n", 8, "--reuse", "rows", "--correction", "--compare", "--repeats", 1)
    expect("=== FlashBlock (rows, tau 1, corrected)" in succeeded(text), "name of the comparison")


@case
def contradictory_policies():
    for words, named in [
        (["--refresh-every", 2], "--reuse rows"),
        (["--refresh-dirty", 2], "--reuse rows"),
        (["--refresh-commit"], "--reuse rows"),
        (["--reuse", "rows", "--tau", 0], "--tau"),
        (["--correction", "--tau", 0], "--tau"),
        (["--correction", "--compat", "released"], "--correction"),
        (["--reuse", "columns"], "columns"),
    ]:
        expect_error(generate("-p", PROMPT, "-n", 4, *words), 2, named)


def evaluate_reuse(*arguments):
    return run("eval", "reuse", "--model", MODEL, "--text", MODEL / "prompt.txt", "--threads", 1,
               "-b", 4, "-n", 8, "--samples", 2, *arguments)


@case
def evaluation_of_reuse():
    policies = "tau:1,tau:2,rows,rows+correction,rows:2+correction+every:3+dirty:3+commit"
    arguments = ["--context", "64,128", "--policies", policies, "--json"]
    facts = json.loads(succeeded(evaluate_reuse(*arguments)))
    cells = facts["cells"]
    names = ["dense", *policies.split(",")]
    expect_equal([cell["policy"] for cell in cells], 3 * names, "policies")
    expect_equal([cell["context"] for cell in cells[:: len(names)]], [64, 128, None], "contexts")
    by_name = dict(zip(names, cells))
    for name in ("dense", "tau:1"):
        expect_equal(by_name[name]["agreement"], 1, name)
        expect_equal(by_name[name]["kl"], 0, name)
        expect_equal(by_name[name]["external_rows_by_dense"], 1, name)
    for name in ("tau:2", "rows"):
        expect(by_name[name]["kl"] > 0, name, "has a divergence")
        expect(0 < by_name[name]["external_rows_by_dense"] < 1, name, "rows")
    expect(by_name["rows"]["kv_bytes_by_dense"] > by_name["tau:2"]["kv_bytes_by_dense"], "bytes")
    again = json.loads(succeeded(evaluate_reuse(*arguments)))["cells"]
    for one, other in zip(cells, again):
        for key in set(one) - {"attention_seconds", "attention_by_dense"}:
            expect_equal(one[key], other[key], key)
    other_seed = json.loads(succeeded(evaluate_reuse(*arguments, "--seed", 2)))["cells"]
    expect(other_seed[1]["kl"] != cells[2]["kl"], "another seed, the same contexts")
    teacher = json.loads(succeeded(evaluate_reuse("--context", 64, "--teacher", "--json")))["cells"]
    expect(all(cell["accuracy"] == 1 for cell in teacher), "the text's own tokens")
    expect("blocks of 4, 64 tokens" in succeeded(evaluate_reuse("--context", 64)), "table")


def write_suite(folder):
    """Problems whose answers no small model knows, but one: that a reply without an answer is wrong."""
    asked = [dict(prompt=p, answer="7", kind="sum", steps=2) for p in (" Question: Who?\nWork:", " Question: Where?\nWork:")]
    texts = ["In the beginning God created the heaven and the earth. " * 3, "And God said, Let there be light:"]
    with open(folder / "small.jsonl", "w", encoding="utf-8") as file:
        for text in texts:
            file.write(json.dumps(dict(text=text, questions=asked)) + "\n")
    return [text + question["prompt"] for text in texts for question in asked]


def evaluate_tasks(folder, *arguments):
    return run("eval", "tasks", "--model", MODEL, "--problems", folder, "--suite", "small", "-n", 16, *arguments)


@case
def evaluation_of_tasks():
    policies = "tau:1,tau:2,tau:block,never,rows+correction,quest@40,quest@40+first,quest@40+residual:2," \
               "quest@40+residual:once,quest@40+residual:once+sparse-first,quest@100"
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        prompts = write_suite(folder)
        arguments = ["-b", "4,8", "--steps", "both", "--policies", policies, "--texts", "--json"]
        facts = json.loads(succeeded(evaluate_tasks(folder, *arguments, "--threads", 1)))
        names = ["dense", *policies.split(",")]
        cells = facts["cells"]
        expect_equal([cell["policy"] for cell in cells], 4 * names, "policies")
        expect_equal([cell["problems"] for cell in cells], len(cells) * [4], "problems")
        one_a_token = dict(zip(names, cells))
        for same in ("dense", "tau:1", "quest@100"):
            expect_equal(one_a_token[same]["equal_texts"], 4, same)
        keys = [one_a_token[p]["keys_by_dense"] for p in ("dense", "tau:2", "tau:block", "never")]
        expect(keys == sorted(keys, reverse=True) and keys[-1] < keys[-2], "keys", keys)
        expect(one_a_token["never"]["reused"] > one_a_token["tau:2"]["reused"] > 0, "reused steps")
        expect(one_a_token["quest@40"]["keys_by_dense"] < 1, "selected keys")
        first = dict(zip(prompts, (r["text"] for r in facts["replies"] if r["policy"] == "dense")))
        for prompt in prompts[2:]:  # as flashblock generate writes it
            text = succeeded(generate("-p", prompt, "-n", 16, "-b", 4, "--tau", 0, "--confidence-threshold", 1))
            expect(text.strip().endswith(first[prompt].strip()), repr(text), "ends in", repr(first[prompt]))
        two = json.loads(succeeded(evaluate_tasks(folder, *arguments, "--threads", 2)))
        for one, other in zip(cells, two["cells"]):
            for key in set(one) - {"attention_seconds", "attention_by_dense"}:
                expect_equal(one[key], other[key], key)
        table = succeeded(evaluate_tasks(folder, "-b", 4, "--policies", "tau:2", "--count", 1))
        expect("small, blocks of 4, one token a step: 1 problems" in table, table)


@case
def wrong_tasks():
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        write_suite(folder)
        for words, status, named in [
            (["--policies", "quest"], 2, "quest"),
            (["--policies", "quest@101"], 2, "quest@101"),
            (["--policies", "tau:2,,"], 2, "tau:2"),
            (["--policies", "quest@20+residual"], 2, "residual"),
            (["--steps", "two"], 2, "two"),
            (["--suite", "nonesuch"], 1, "nonesuch-1k.jsonl"),
            (["--plot", "x.gif"], 2, "--plot"),
        ]:
            expect_error(evaluate_tasks(folder, *words), status, named)
        (folder / "small.jsonl").write_text('{"text": "x", "questions": [{"prompt": "y"}]}\n', encoding="utf-8")
        expect_error(evaluate_tasks(folder), 1, "line 1", "answer")


@case
def wrong_evaluations():
    expect_error(run("eval"), 2, "--help")
    expect_error(run("eval", "nonsense"), 2, "'nonsense'")
    expect(succeeded(run("eval", "--help")).startswith("Usage: flashblock eval"), "help")
    expect_error(run("eval", "reuse", "--text", "x"), 2, "--model")
    for words, named in [
        (["--context", 66], "66"),
        (["--context", 4096], "4096"),
        (["--from", 100000], "--context"),
        (["--policies", "tau:0"], "tau:0"),
        (["--policies", "tau:2+commit"], "tau:2+commit"),
        (["--policies", "rows,,"], "rows"),
        (["--text", "/no/such/text"], "/no/such/text"),
    ]:
        status = 1 if "/no/such/text" in words else 2
        expect_error(evaluate_reuse("--context", 64, *words), status, named)


@case
def dense_never_reuses_and_tau_1_is_dense():
    dense, tau1 = generate_json("--tau", 0), generate_json("--tau", 1)
    expect_equal(dense["counts"]["reuses"], 0, "reuses of tau 0")
    expect_equal(tau1["counts"]["reuses"], 0, "reuses of tau 1")
    expect_equal(ids(dense), ids(tau1), "tokens")


@case
def threads_and_instruction_sets_change_nothing():
    sets = json.loads(succeeded(run("info", "--json")))["instruction_sets"]
    names = [entry["name"] for entry in sets if entry["built"] and entry["supported"]]
    expected = generate_json("--tau", 3)
    for threads in (1, 2, 3):
        expect_equal(ids(generate_json("--tau", 3, "--threads", threads)), ids(expected), threads)
    for name in names:
        facts = generate_json("--tau", 3, "--isa", name)
        expect_equal(facts["instruction_set"], name, "instruction set")
        expect_equal(ids(facts), ids(expected), name)


@case
def prompts_from_everywhere():
    expected = ids(generate_json())
    with tempfile.NamedTemporaryFile(suffix=".txt") as file:
        file.write(PROMPT.encode() + b"\n")
        file.flush()
        expect_equal(ids(generate_json("-f", file.name, prompt=None)), expected, "file")
    result = generate("--prompt-file", "-", "-n", 24, "--json", stdin=PROMPT.encode())
    expect_equal(ids(json.loads(succeeded(result))), expected, "standard input")
    expect_error(generate("-f", "/no/such/prompt"), 1, "/no/such/prompt")


@case
def prompts_in_a_batch():
    prompts = [PROMPT, "In the beginning", "", "The LORD said unto Moses, Speak unto the children"]
    arguments = [word for prompt in prompts for word in ("--prompt", prompt)]
    for size in (1, 3):
        facts = generate_json(*arguments, "--batch-size", size, prompt=None)
        for i, prompt in enumerate(prompts):
            alone = generate_json(prompt=prompt)
            expect_equal(ids(facts, i), ids(alone), f"prompt {i}, batch of {size}")
    text = succeeded(generate(*arguments, "-n", 24))
    expected = "\n".join(
        f"==> prompt {i + 1} <==\n{one['text']}\n" for i, one in enumerate(facts["results"])
    )
    expect_equal(text, expected, "text")


@case
def every_strategy_generates():
    for name in ("low_confidence_dynamic", "low_confidence_static", "sequential", "entropy_bounded"):
        for compat in ("paper", "released"):
            facts = generate_json("--remasking", name, "--compat", compat, "--ignore-eos")
            expect_equal(len(ids(facts)), 24, f"{name}, {compat}: tokens")
            expect(facts["counts"]["reuses"] > 0, f"{name}, {compat}: reuses")


@case
def steps_and_blocks():
    facts = generate_json("-b", 8, "-s", 2, "--remasking", "sequential", "--ignore-eos", prompt="")
    expect_equal(facts["counts"]["denoising_steps"], 3 * 2, "steps of 3 blocks")
    expect_equal(facts["counts"]["commits"], 3, "commits")


@case
def seeds():
    draw = ["--temperature", 1, "--top-k", 50, "--top-p", 0.95]
    first = ids(generate_json(*draw, "--seed", 1))
    expect_equal(ids(generate_json(*draw, "--seed", 1)), first, "the same seed")
    expect(ids(generate_json(*draw, "--seed", 2)) != first, "another seed, the same text")


@case
def batch_as_alone():
    """Sampled or not, with whatever reuse, a prompt's place in the list changes nothing."""
    texts = ["In the beginning", PROMPT, "And it came to pass", PROMPT]
    given = [item for text in texts for item in ("--prompt", text)]
    for extra in ([], ["--temperature", 1, "--seed", 4], ["--temperature", 1, "--reuse", "rows"],
                  ["--temperature", 1, "--batch-size", 1], ["--temperature", 1, "--batch-size", 3],
                  ["--temperature", 1, "--sparse", "quest", "--residual"],
                  ["--temperature", 1, "--compat", "released"]):
        together = json.loads(succeeded(generate(*given, "-n", 12, "--json", *extra)))["results"]
        for text, result in zip(texts, together):
            expect_equal(ids(generate_json(*extra, "-n", 12, prompt=text)), result["token_ids"],
                         f"{text!r} alone, {extra}")


@case
def samples():
    draw = ["--temperature", 1, "-n", 12, "--json"]
    two = ["--prompt", PROMPT, "--prompt", "In the beginning"]
    facts = json.loads(succeeded(generate(*two, *draw, "--seed", 7, "--samples", 3)))["results"]
    expect_equal([(r["prompt"], r["sample"]) for r in facts],
                 [(p, s) for p in range(2) for s in range(3)], "order")
    expect(len({tuple(r["token_ids"]) for r in facts[:3]}) == 3, "samples are equal")
    for result in facts:
        alone = json.loads(succeeded(generate(
            *two[2 * result["prompt"]:][:2], *draw, "--seed", 7 + result["sample"])))
        expect_equal(ids(alone), result["token_ids"], "a sample alone")
        expect_equal(alone["results"][0]["seed"], result["seed"], "its seed")
    largest = 2**64 - 1
    facts = json.loads(succeeded(generate(*two[:2], *draw, "--seed", largest, "--top-k", largest)))
    expect_equal(facts["options"]["sampling"]["seed"], largest, "seed")
    expect_equal(facts["options"]["sampling"]["top_k"], largest, "top-k")
    expect_equal(facts["results"][0]["seed"], largest, "seed of a result")
    text = succeeded(generate("--prompt", PROMPT, "--temperature", 1, "-n", 4, "--samples", 2))
    expect("==> prompt 1, sample 2 <==" in text, text)


@case
def prompt_files():
    """One line break at the end and a byte order mark are the file's; all else is text."""
    def prompt_ids(content, **more):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "prompt")
            path.write_bytes(content)
            facts = json.loads(succeeded(generate("-f", path, "-n", 1, "--json", **more)))
        return facts["results"][0]["prompt_token_ids"]
    plain = prompt_ids(b"one\r\ntwo")
    for ending in (b"\n", b"\r\n"):
        expect_equal(prompt_ids(b"one\r\ntwo" + ending), plain, ending)
        expect_equal(prompt_ids(b"\xef\xbb\xbfone\r\ntwo" + ending), plain, ending)
    for more in (b"\r", b"\n\n", b"\r\n\r\n", b"\n\r", b" "):
        expect(prompt_ids(b"one\r\ntwo" + more) != plain, more)
    expect(prompt_ids(b"one\ntwo") != plain, "a line break in the text")
    expect(prompt_ids(b"one\r\n\xef\xbb\xbftwo") != plain, "a mark in the text")


@case
def prompts_in_other_encodings():
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "prompt")
        for encoding in ("utf-16-le", "utf-16-be"):
            path.write_bytes("\ufeffAnd it".encode(encoding))
            expect_error(generate("-f", path, "-n", 1), 1, path, "byte order mark of UTF-16")
        path.write_bytes(b"caf\xe9")
        result = generate("-f", path, "-n", 1)
        succeeded(result)
        expect(b"warning: --prompt-file: byte 3 (0xe9) is not UTF-8" in result.stderr, result.stderr)


@case
def equal_spellings_of_a_model():
    """Another name of the activation, an unknown token that no byte needs, a byte order mark."""
    with copy_of_model() as copy:
        config = json.loads((copy / "config.json").read_text(encoding="utf-8"))
        config["hidden_act"] = "swish"
        (copy / "config.json").write_text("\ufeff" + json.dumps(config), encoding="utf-8")
        tokenizer = json.loads((copy / "tokenizer.json").read_text(encoding="utf-8"))
        tokenizer["model"]["unk_token"] = "<|endoftext|>"
        tokenizer["model"]["vocab"].pop("<|endoftext|>", None)
        (copy / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
        text = succeeded(generate("--prompt", PROMPT, "-n", 8, model=copy))
        expect_equal(text, succeeded(generate("--prompt", PROMPT, "-n", 8)), "text")


@case
def standard_input():
    """Descriptor 0, whatever it is: from its offset, a pipe, a socket, closed; by any of its names."""
    words = b"skipped\nAnd it came to pass\n"
    expected = json.loads(succeeded(generate("-p", "And it came to pass", "-n", 1, "--json")))
    expected = expected["results"][0]["prompt_token_ids"]

    def check(stdin, name, what):
        result = subprocess.run([PROGRAM, "generate", "--model", MODEL, "-f", name, "-n", "1", "--json"],
                                stdin=stdin, capture_output=True, timeout=300, check=False)
        found = json.loads(succeeded(result))["results"][0]["prompt_token_ids"]
        expect_equal(found, expected, f"{what} as {name}")

    with tempfile.TemporaryDirectory() as folder:
        path, link = pathlib.Path(folder, "in"), pathlib.Path(folder, "link")
        path.write_bytes(words)
        link.symlink_to("/proc/self/fd/0")
        for name in ("-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0", link):
            with open(path, "rb", buffering=0) as file:
                file.read(8)
                check(file, name, "a file")
            reader, writer = os.pipe()
            os.write(writer, words[8:])
            os.close(writer)
            check(reader, name, "a pipe")
            os.close(reader)
            ours, theirs = socket.socketpair()
            ours.sendall(words[8:])
            ours.close()
            check(theirs, name, "a socket")
            theirs.close()
        path.write_bytes(b"")
        closed = subprocess.run(["sh", "-c", '"$@" <&-', "sh", PROGRAM, "generate", "--model", MODEL,
                                 "-f", "-", "-n", "1"], capture_output=True, timeout=300, check=False)
        expect_error(closed, 1, "/dev/stdin", "Bad file descriptor")
    expect_error(generate("-f", "-", "-f", "-"), 2, "--prompt-file", "once")


@case
def storage_types():
    for name in ("f32", "bf16", "f16", "int8"):
        expect_equal(generate_json("--kv-dtype", name)["options"]["kv_dtype"], name, "type")


def special_token():
    """An added special token, and its id."""
    tokenizer = json.loads((MODEL / "tokenizer.json").read_text(encoding="utf-8"))
    token = next(token for token in tokenizer["added_tokens"] if token["special"])
    return token["content"], token["id"]


@case
def special_tokens_in_prompts_are_text():
    text, number = special_token()
    prompt_ids = lambda facts: facts["results"][0]["prompt_token_ids"]
    expect(number not in prompt_ids(generate_json(prompt=text)), "parsed by default")
    parsed = generate_json("--parse-special", prompt=text)
    expect_equal(prompt_ids(parsed), [number], "ids of --parse-special")


def rename_special_tokens(path, names):
    """Gives new texts to special tokens other than the mask; their ids."""
    mask = generate_json(tokens=1)["options"]["mask_token_id"]
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    free = [t for t in tokenizer["added_tokens"] if t["special"] and t["id"] != mask]
    for token, name in zip(free, names):
        tokenizer["model"]["vocab"].pop(token["content"], None)
        token["content"] = name
    path.write_text(json.dumps(tokenizer), encoding="utf-8")
    return [token["id"] for token in free[: len(names)]]


@case
def chat_format():
    expect_error(generate("--prompt", PROMPT, "--chat"), 2, "--chat", "<|im_start|>")
    text = "\nWho art <|im_end|> thou?"
    with copy_of_model() as copy:
        start, end = rename_special_tokens(copy / "tokenizer.json", ["<|im_start|>", "<|im_end|>"])
        encode = lambda prompt, *more: json.loads(
            succeeded(generate("--prompt", prompt, "-n", 1, "--json", *more, model=copy))
        )["results"][0]["prompt_token_ids"]
        turn = [start, *encode("user\n" + text), end, *encode("\n"), start, *encode("assistant\n")]
        expect_equal(encode(text, "--chat"), turn, "ids")
        expect(end in encode(text, "--parse-special"), "--parse-special")


def write_where(path, token, other):
    """Makes the model at path write `token` where it wrote `other`: the row of the embedding, which is the head too, is
    twice the other's row."""
    data = bytearray(path.read_bytes())
    (length,) = struct.unpack_from("<Q", data)
    entry = json.loads(data[8 : 8 + length])["model.embed_tokens.weight"]
    expect_equal(entry["dtype"], "BF16", "dtype of the embedding")
    width = entry["shape"][1]
    row = lambda i: 8 + length + entry["data_offsets"][0] + 2 * width * i
    for n in range(width):
        (value,) = struct.unpack_from("<H", data, row(other) + 2 * n)
        struct.pack_into("<H", data, row(token) + 2 * n, value + 0x80)  # the exponent, of a bf16 number
    path.write_bytes(data)


@case
def a_chat_ends_with_the_turn():
    """<|im_end|> ends the model's turn, also where the configuration does not list it."""
    with copy_of_model() as copy:
        end = rename_special_tokens(copy / "tokenizer.json", ["<|im_start|>", "<|im_end|>"])[1]

        def ids(*more):
            result = json.loads(succeeded(generate("--prompt", PROMPT, "-n", 12, "--json", "--chat", *more, model=copy)))
            return result["results"][0]["token_ids"], result["results"][0]["finish_reason"]

        write_where(copy / "model.safetensors", end, ids("--ignore-eos")[0][2])
        whole, reason = ids("--ignore-eos")
        expect(end in whole, "the end of the turn is written", whole)
        cut, reason = ids()
        expect_equal(cut, whole[: whole.index(end) + 1], "tokens")
        expect_equal(reason, "stop", "finish_reason")


@case
def prompts_that_are_no_text():
    with tempfile.TemporaryDirectory() as name:
        path = pathlib.Path(name) / "prompt"
        path.write_bytes("Once".encode("utf-16-le"))
        result = generate("--prompt-file", path, "-n", 1)
        succeeded(result)
        expect(b"warning: --prompt-file: byte 1 is 0: is the text UTF-16" in result.stderr, result.stderr)


@case
def sampling_that_the_files_ask_for():
    """A line says which options do it, if the command line does not say how to draw."""
    with copy_of_model() as copy:
        (copy / "generation_config.json").write_text(
            json.dumps({"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95})
        )
        line = b"ask for --temperature 0.6 --top-k 20 --top-p 0.95\n"
        for options, expected in (([], True), (["--temperature", 0], False), (["--temperature", 1], False)):
            result = generate("--prompt", PROMPT, "-n", 1, *options, model=copy)
            succeeded(result)
            expect_equal(line in result.stderr, expected, options)
            expect(b"warning" not in result.stderr, result.stderr)


@case
def mask_tokens():
    facts = generate_json()
    number = facts["options"]["mask_token_id"]
    expect_equal(ids(generate_json("--mask-token", number)), ids(facts), "by id")
    base = ["--prompt", PROMPT, "--mask-token"]
    expect_error(generate(*base, "no such token"), 2, "--mask-token", "no such token")
    expect_error(generate(*base, "99999999999"), 2, "--mask-token", "99999999999")
    expect_error(generate(*base, "99999999"), 2, "99999999")


@case
def prompts_that_do_not_fit():
    expect_error(generate("--prompt", "word " * 20000), 2, "prompt")


@case
def unsuitable_options_name_their_value():
    expect_error(generate("--prompt", PROMPT, "--top-p", 0), 2, "top_p")


@case
def visual_lines():
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "out.json")
        lines = succeeded(generate("-p", PROMPT, "-n", 24, "--visual", "--json", path)).splitlines()
        counts = json.loads(path.read_text(encoding="utf-8"))["counts"]
    steps = [line for line in lines if " step " in line.split("|")[0]]
    expect_equal(len(steps), counts["denoising_steps"], "lines of steps")
    texts = [line.split("| ", 1)[1] for line in lines if line.startswith("block 0 ")]
    expect(any("\u2591" in line for line in steps), "no mask is shown")
    expect_equal(texts[-2], texts[-1], "text of the first block's last step and of its commit")
    expect_equal(sum("reuse" in line for line in steps), counts["reuses"], "lines of reuses")
    expect_equal(sum("commit" in line.split("|")[0] for line in lines), counts["commits"], "lines of commits")


def run_on_terminal(*arguments):
    """What the program writes to a terminal, and its exit status."""
    try:
        master, slave = pty.openpty()
    except OSError as error:
        raise Skipped(f"no terminal to be had: {error}") from error
    with subprocess.Popen([PROGRAM, *map(str, arguments)], stdout=slave) as process:
        os.close(slave)
        written = b""
        with contextlib.suppress(OSError):  # EIO: the program has closed its end
            while select.select([master], [], [], 300)[0]:
                chunk = os.read(master, 65536)
                if not chunk:
                    break
                written += chunk
        os.close(master)
        return written.decode(), process.wait(timeout=300)


def terminal_screen(written, columns=80):
    """The text that a terminal shows after these characters. It knows only the sequences of --visual."""
    rows, row, column, i = [[]], 0, 0, 0
    while i < len(written):
        c = written[i]
        if c == "\033":
            end = next(j for j in range(i + 2, len(written)) if written[j].isalpha())
            parameter, command = written[i + 2 : end], written[end]
            if command == "A":
                row -= int(parameter)
                expect(row >= 0, "the cursor leaves the screen")
            elif command == "J":
                rows[row] = rows[row][:column]
                del rows[row + 1 :]
            i = end
        elif c == "\r":
            column = 0
        elif c == "\n":
            row += 1
            column = 0
        else:
            if column == columns:
                row, column = row + 1, 0
            while len(rows) <= row:
                rows.append([])
            rows[row][column:column + 1] = [c]
            column += 1
        while len(rows) <= row:
            rows.append([])
        i += 1
    return "\n".join("".join(cells) for cells in rows)


@case
def visual_on_a_terminal():
    text = generate_json(tokens=60)["results"][0]["text"]
    written, status = run_on_terminal(
        "generate", "--model", MODEL, "--prompt", PROMPT, "-n", 60, "--visual"
    )
    expect_equal(status, 0, "exit status")
    expect("\u2591" in written, "no mask was shown")
    wrapped = "\n".join(
        "\n".join(line[i : i + 80] for i in range(0, max(len(line), 1), 80))
        for line in text.split("\n")
    )
    expect_equal(terminal_screen(written), wrapped + "\n", "screen")


@case
def sparse_attention_goes_from_flashblock_to_dense():
    small, residual = ["--key-block", 16], ["--residual", "--tau", 2]
    prompt = PROMPT * 8
    dense = generate_json("--tau", 0, prompt=prompt)
    flashblock = generate_json("--tau", 2, prompt=prompt)
    sparse = ["--sparse", "sink_window", *small]
    everything = generate_json(*sparse, "--density", 1, prompt=prompt)
    nothing = generate_json(*sparse, "--density", 0, *residual, prompt=prompt)
    expect_equal(ids(everything), ids(dense), "everything selected")
    expect_equal(ids(nothing), ids(flashblock), "nothing selected")
    expect_equal(nothing["counts"], flashblock["counts"], "counts")
    expect_equal(everything["counts"]["reuses"], 0, "reuses without a residual")
    expect_equal(everything["sparse"]["selected_share"], 1, "share")
    expect_equal(dense["sparse"], None, "sparse")
    half = generate_json(*sparse, "--density", 0.5, prompt=prompt)
    expect_equal(half["options"]["sparse"]["density"], 0.5, "density")
    expect(0.4 < half["sparse"]["selected_share"] < 0.6, half["sparse"])
    shown = generate("-p", prompt, "-n", 8, *sparse, *residual)
    succeeded(shown)
    expect(b"sparse " in shown.stderr, shown.stderr)


def evaluate(*arguments):
    return run("eval", "sparse", "--model", MODEL, "--text", MODEL / "held-out.txt", *arguments)


def numbers(method):
    return {name: method[name] for name in ("agreement", "accuracy", "divergence", "keys", "layer_errors")}


@case
def evaluation_of_sparse_attention():
    small = ["--context", 96, "--blocks", 2, "--windows", 1, "--tau", 2, "--density", "0,40,100"]
    result = evaluate(*small, "--selectors", "sink_window,mage", "--json")
    facts = json.loads(succeeded(result))
    expect(b"block 2 of 2" in result.stderr, result.stderr)
    methods = {(m["method"], m["density"], m["residual"]): m for m in facts["methods"]}
    expect_equal(len(methods), 2 + 2 * 3 * 2, "methods")
    dense, flashblock = methods["dense", 1, "none"], methods["flashblock", 0, "none"]
    expect_equal(dense["tokens"], 8, "tokens")
    for selector in ("sink_window", "mage"):
        for residual in ("none", "cached"):
            everything = methods[selector, 1, residual]
            expect_equal(everything["agreeing"], 8, "everything selected")
            expect_equal(everything["divergence"], 0, "everything selected")
            expect_equal(everything["layer_errors"], [0] * 8, "everything selected")
        expect_equal(numbers(methods[selector, 0, "cached"]), numbers(flashblock), "nothing selected")
        expect(methods[selector, 0, "none"]["keys"] == 0, "keys")
        expect(methods[selector, 0.4, "none"]["divergence"] > 0, "divergence")
        expect("won_back_divergence" in methods[selector, 0.4, "cached"], "won back")
    table = succeeded(evaluate(*small, "--selectors", "multipole"))
    for word in ("flashblock", "multipole", "centroids", "tau 2", "2 blocks of 4 tokens"):
        expect(word in table, f"{word!r} is not in {table}")


@case
def wrong_evaluations():
    sparse = ["eval", "sparse"]
    expect_error(run("eval"), 2, "flashblock eval --help")
    expect_error(run("eval", "nonesuch"), 2, "'nonesuch'")
    expect_error(run(*sparse), 2, "--model")
    expect_error(run(*sparse, "--model", MODEL), 2, "--text")
    expect_error(run(*sparse, "--model", MODEL, "--text", "/no/such/text"), 1, "/no/such/text")
    expect_error(evaluate("--selectors", "quest,nonesuch"), 2, "--selectors", "'nonesuch'", "mage")
    expect_error(evaluate("--selectors", "quest", "--no-sparse"), 2, "--no-sparse")
    expect_error(evaluate("--density", "101"), 2, "--density", "101")
    expect_error(evaluate("--key-block", 20), 2, "20", "16")
    expect_error(evaluate("--context", 1022), 2, "1022", "4")
    expect_error(evaluate("--context", 16384), 2, "16384")
    expect_error(evaluate("--context", 16380, "--blocks", 100), 2, "100", "16384")


@case
def wrong_sparse_options():
    sparse = ["-p", PROMPT, "--sparse", "sink_window"]
    expect_error(generate("-p", PROMPT, "--sparse", "nonesuch"), 2, "'nonesuch'", "sink_window")
    expect_error(generate("-p", PROMPT, "--residual"), 2, "--residual", "--sparse")
    expect_error(generate(*sparse, "--density", 1.5), 2, "--density", "'1.5'")
    expect_error(generate(*sparse, "--key-block", 24), 2, "24", "16")
    expect_error(generate(*sparse, "--residual", "--centroids"), 2, "--residual", "--centroids")
    expect_error(generate(*sparse, "--select-every-step"), 2, "--select-every-step", "--residual")
    expect_error(generate(*sparse, "--centroids"), 2, "sink_window", "centroids")
    expect_error(generate(*sparse, "--compare"), 2, "--sparse", "--compare")
    expect_error(generate(*sparse, "--compat", "released"), 2, "paper")


@case
def comparison():
    result = generate("-p", PROMPT, "-n", 24, "--compare", "--repeats", 2)
    text = succeeded(result)
    for tau, name in ((0, "dense"), (2, "FlashBlock")):
        facts = generate_json("--tau", tau)
        expect(f"=== {name} (tau {tau})\n{facts['results'][0]['text']}\n" in text, name)
    for word in ("equal tokens: ", "attention", "ratio", "medians of 2 runs"):
        expect(word in text, word)


@case
def comparison_as_json():
    facts = generate_json("--compare", "--repeats", 1)
    one, other = ids(facts["dense"]), ids(facts["flashblock"])
    equal = sum(a == b for a, b in zip(one, other))
    expect_equal(facts["comparison"]["equal_tokens"], equal, "equal tokens")
    expect_equal(facts["comparison"]["tokens"], max(len(one), len(other)), "tokens")
    expect(facts["comparison"]["attention_ratio"] > 0, "ratio")
    expect_equal(facts["dense"]["counts"]["reuses"], 0, "dense reuses")
    expect(facts["flashblock"]["counts"]["reuses"] > 0, "FlashBlock reuses")


# --- damaged models ------------------------------------------------------------------------------


@contextlib.contextmanager
def copy_of_model():
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder, "model")
        copy.mkdir()
        for name in ("config.json", "model.safetensors", "tokenizer.json"):
            shutil.copy(MODEL / name, copy / name)
            (copy / name).chmod(0o644)
        yield copy


def change_json(path, change):
    value = json.loads(path.read_text(encoding="utf-8"))
    change(value)
    path.write_text(json.dumps(value), encoding="utf-8")


@case
def files_that_say_more_than_is_used():
    """The text comes, and standard error names what was not used."""
    with copy_of_model() as model:
        change_json(model / "config.json", lambda value: value.update(odd_field=7))
        (model / "tokenizer_config.json").write_text('{"clean_up_tokenization_spaces": true}')
        result = generate("--prompt", PROMPT, "-n", 4, model=model)
        succeeded(result)
        lines = [line for line in result.stderr.decode().splitlines() if "warning" in line]
        expect_equal(len(lines), 2, "lines of warnings")
        expect(lines[0].startswith("flashblock: warning: ") and "odd_field (7)" in lines[0], lines[0])
        expect("clean_up_tokenization_spaces is true" in lines[1], lines[1])


@case
def a_chat_template_of_another_format():
    with copy_of_model() as model:
        (model / "chat_template.jinja").write_text("{{ bos_token }}[INST]")
        succeeded(generate("--prompt", PROMPT, "-n", 4, model=model))
        expect_error(
            generate("--prompt", PROMPT, "-n", 4, "--chat", model=model),
            1,
            "--chat: ",
            "chat_template.jinja is not ChatML: it prints bos_token",
        )


@case
def tokens_before_every_text():
    """A post-processor's tokens come before a prompt, and the mask token is the configuration's."""
    text = [{"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    token = {"id": "<|endoftext|>", "ids": [1021], "tokens": ["<|endoftext|>"]}
    processor = {
        "type": "TemplateProcessing",
        "single": text,
        "pair": [],
        "special_tokens": {"<|endoftext|>": token},
    }
    with copy_of_model() as model:
        change_json(model / "tokenizer.json", lambda value: value.update(post_processor=processor))
        with_token = json.loads(succeeded(generate("--prompt", PROMPT, "-n", 1, "--json", model=model)))
        without = generate_json("-n", 1)
        given, plain = (run_of["results"][0]["prompt_token_ids"] for run_of in (with_token, without))
        expect_equal(given, [1021, *plain], "prompt")


def change_header(path, change):
    """Changes the JSON header of a safetensors file."""
    content = path.read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + size])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + size :])


def swap_dimensions(header):
    entry = header["model.layers.0.mlp.up_proj.weight"]
    entry["shape"] = entry["shape"][::-1]


DAMAGES = {
    "config missing": ("config.json", lambda path: path.unlink()),
    "config empty": ("config.json", lambda path: path.write_text("")),
    "config deep": ("config.json", lambda path: path.write_text("[" * 100000)),
    "config list": ("config.json", lambda path: path.write_text("[]")),
    "architecture": (
        "config.json",
        lambda path: change_json(
            path, lambda c: c.update(architectures=["OtherForCausalLM"], model_type="other")
        ),
    ),
    "heads": ("config.json", lambda path: change_json(path, lambda c: c.update(num_key_value_heads=3))),
    "layers huge": (
        "config.json",
        lambda path: change_json(path, lambda c: c.update(num_hidden_layers=10**12)),
    ),
    "hidden negative": (
        "config.json",
        lambda path: change_json(path, lambda c: c.update(hidden_size=-128)),
    ),
    "hidden text": (
        "config.json",
        lambda path: change_json(path, lambda c: c.update(hidden_size="128")),
    ),
    "weights missing": ("model.safetensors", lambda path: path.unlink()),
    "weights empty": ("model.safetensors", lambda path: path.write_bytes(b"")),
    "weights truncated": ("model.safetensors", lambda path: os.truncate(path, 100000)),
    "weights header length": (
        "model.safetensors",
        lambda path: path.write_bytes(b"\xff" * 8 + path.read_bytes()[8:]),
    ),
    "tensor missing": (
        "model.safetensors",
        lambda path: change_header(path, lambda h: h.pop("model.norm.weight")),
    ),
    "tensor shape": ("model.safetensors", lambda path: change_header(path, swap_dimensions)),
    "tensor offsets": (
        "model.safetensors",
        lambda path: change_header(
            path, lambda h: h["model.norm.weight"].update(data_offsets=[-1, 10**18])
        ),
    ),
    "tensor type": (
        "model.safetensors",
        lambda path: change_header(path, lambda h: h["model.norm.weight"].update(dtype="I8")),
    ),
    "tokenizer missing": ("tokenizer.json", lambda path: path.unlink()),
    "tokenizer truncated": ("tokenizer.json", lambda path: os.truncate(path, 5000)),
    "tokenizer kind": (
        "tokenizer.json",
        lambda path: change_json(path, lambda t: t["model"].update(type="Unigram")),
    ),
    "tokenizer merges": (
        "tokenizer.json",
        lambda path: change_json(path, lambda t: t["model"]["merges"].append("qqqq zzzz")),
    ),
}


def damage_case(name, file, damage):
    def check():
        with copy_of_model() as copy:
            succeeded(generate("--prompt", PROMPT, "-n", 1, model=copy))
            damage(copy / file)
            result = generate("--prompt", PROMPT, "-n", 1, model=copy)
        expect_error(result, 1, copy.name)
        expect_equal(result.stdout, b"", "standard output")

    check.__name__ = "damaged " + name
    case(check)


for damage_name, (damaged_file, do_damage) in DAMAGES.items():
    damage_case(damage_name, damaged_file, do_damage)


@case
def no_such_model():
    expect_error(generate("--prompt", PROMPT, model="/no/such/model"), 1, "/no/such/model")


sys.exit(run_cases())
