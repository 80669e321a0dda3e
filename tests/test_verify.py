#!/usr/bin/python3
"""test_verify.py PROGRAM GOLDEN: runs `flashblock verify`. Prints TAP."""
import json
import math
import os
import re
import struct
import subprocess
import sys

from case_support import case, expect, expect_equal, run_cases
from verify_support import (
    GOLDEN,
    INF,
    MASKED,
    NAN,
    PAPER,
    PROGRAM,
    SMALL,
    expect_failed,
    expect_usage_error,
    folder,
    golden,
    make_attention,
    masked_sees,
    open_attention,
    read,
    read_header,
    text_of,
    totals,
    verify,
    write,
    write_raw,
)

# --- usage ---------------------------------------------------------------------------------------


@case
def help_and_usage():
    expect(text_of(verify("--help"), 0).startswith("Usage: flashblock verify PATH..."), "help")
    expect_usage_error(verify(), "PATH")
    expect_usage_error(verify("--verbose"), "PATH")
    expect_usage_error(verify(PAPER, "--nonsense"), "--nonsense")
    expect_usage_error(verify(PAPER, "--isa", "mmx"), "--isa", "mmx")
    expect_usage_error(verify(PAPER, "--threads", "0"), "--threads")
    expect_usage_error(verify(PAPER, "--precision", "f64", "--candidate", "x"), "--precision")
    expect_usage_error(verify(PAPER, "--precision", "bf16"), "--candidate")
    expect_usage_error(verify(PAPER, "--candidate", "x"), "--candidate", "one case file")
    both = [golden("attn/attn_06"), golden("attn/attn_27")]
    expect_usage_error(verify(*both, "--candidate", "x"), "--candidate", "one case file")


@case
def a_dash_dash_ends_the_options():
    with folder() as where:
        odd = where / "--odd.safetensors"
        odd.write_bytes(golden("attn/attn_09").read_bytes())
        result = subprocess.run(
            [PROGRAM, "verify", "--verbose", "--", odd.name], capture_output=True, cwd=where
        )
        expect_equal(totals(text_of(result, 0)), "1 passed, 0 failed, 0 skipped", "totals")


@case
def json_never_takes_a_case_for_its_file():
    with folder() as where:
        copy = where / "case.safetensors"
        content = golden("attn/attn_09").read_bytes()
        copy.write_bytes(content)
        value = json.loads(text_of(verify("--json", copy), 0))
        expect_equal(value["totals"]["passed"], 1, "passed")
        expect_equal(copy.read_bytes(), content, "the case")


# --- the golden files ----------------------------------------------------------------------------


@case
def every_golden_case_passes():
    text = text_of(verify(PAPER), 0)
    files = len(list(PAPER.rglob("*.safetensors"))) - len(list(PAPER.glob("model/*/*")))
    weights = len(list(PAPER.glob("model/*/model.safetensors")))
    counts = [int(n) for n in re.findall(r"(\d+) (?:passed|failed|skipped)", totals(text))]
    skipped = [line for line in text.splitlines() if "SKIP" in line]
    expect(counts[0] > 70, "passed:", counts)
    expect_equal(counts[1], 0, "failed")
    expect(all("inputs of other cases" in line for line in skipped), skipped)
    expect(weights > 0, "there are weights that are not counted")
    expect_equal(sum(counts), len(list(PAPER.rglob("*.safetensors"))) - weights, "files")
    expect(files > 0, "files")


@case
def lines_are_aligned():
    lines = text_of(verify(PAPER / "attn", PAPER / "split"), 0).splitlines()
    heading = lines[0]
    for word in ("kind", "name", "shape", "max abs", "max rel", "max ulp", "mean ulp", "bound"):
        expect(word in heading, f"{word} in {heading!r}")
    ends = {line.index("PASS") for line in lines[1:-1]}
    expect_equal(len(ends), 1, "columns of PASS")


@case
def kinds_are_chosen():
    text = text_of(verify(PAPER, "--kind", "current_block", "--kind", "rmsnorm"), 0)
    kinds = {line.split()[0] for line in text.splitlines()[1:-1]}
    expect_equal(kinds, {"current_block", "rmsnorm"}, "kinds")
    result = verify(PAPER, "--kind", "nonsense")
    expect_equal(totals(text_of(result, 1)), "0 passed, 0 failed, 0 skipped", "totals")
    expect(b"nothing was checked" in result.stderr, result.stderr)


@case
def each_instruction_set_has_a_line():
    info = json.loads(subprocess.run([PROGRAM, "info", "--json"], capture_output=True).stdout)
    names = [i["name"] for i in info["instruction_sets"] if i["built"] and i["supported"]]
    path = golden("attn/attn_06")
    lines = text_of(verify(path, "--isa", "all"), 0).splitlines()
    expect_equal([line.split()[0] for line in lines[1:-1]], names, "instruction sets")
    expect_equal(len({line.split(None, 1)[1] for line in lines[1:-1]}), 1, "results")
    for threads in (1, 3):
        again = text_of(verify(path, "--isa", "scalar", "--threads", threads), 0).splitlines()
        expect_equal(again[1].split()[1:], lines[1].split()[1:], f"{threads} threads")


@case
def verbose_shows_the_worst_element():
    path, attention, tensors = open_attention("attn/attn_06")
    text = text_of(verify(path, "--verbose"), 0)
    found = re.search(
        r"\n +worst at \[(\d+),(\d+),(\d+)\]: (\S+), expected (\S+)\n.*?"
        r"batch (\d+), query (\d+), head (\d+), .*? maximum (\S+) at key (\d+); row sum of .*? "
        r"(\S+); LSE (\S+)\n",
        text,
    )
    expect(found, text)
    b, head, query = (int(found[i]) for i in (1, 2, 3))
    expect_equal([int(found[i]) for i in (6, 7, 8)], [b, query, head], "the row")
    truth = tensors["lse64"][2][(b * attention.heads + head) * attention.queries + query]
    expect(abs(float(found[5]) - truth) < 1e-12, "truth", found[5], truth)
    expect(abs(float(found[4]) - truth) < 1e-6, "value", found[4])
    expect(abs(float(found[9]) + math.log(float(found[11])) - truth) < 1e-7, "maximum and sum")


@case
def json_holds_everything():
    with folder() as where:
        path = where / "result.json"
        text = text_of(verify(PAPER / "attn", PAPER / "select", "--json", path, "-v"), 0)
        value = json.loads(path.read_text())
        shown = json.loads(text_of(verify(PAPER / "attn", PAPER / "select", "--json", "-v"), 0))
    expect_equal(value, shown, "file and standard output")
    expect_equal(
        "{passed} passed, {failed} failed, {skipped} skipped".format(**value["totals"]),
        totals(text),
        "totals",
    )
    expect(value["version"] and value["isa"] == "default", "version and isa")
    expect_equal(len(value["cases"]), len(text_lines_of_cases(text)), "cases")
    first = value["cases"][0]
    expect_equal((first["kind"], first["name"]), ("attention", "attn_06"), "first case")
    expect_equal((first["outcome"], first["reason"]), ("passed", ""), "outcome")
    expect_equal([f["tensor"] for f in first["findings"]], ["out", "lse"], "tensors")
    finding = first["findings"][0]
    expect_equal(finding["shape"], [2, 4, 8, 80], "shape")
    expect(0 < finding["max_abs"] <= finding["bound"], "error", finding)
    expect(finding["file"]["max_abs"] <= finding["bound"], "file", finding)
    expect(finding["rule"] == "file" and finding["passed"] and finding["detail"], finding)
    expect_equal(len(finding["worst"]["index"]), 4, "index")
    select = [c for c in value["cases"] if c["kind"] == "select_transfer"][0]["findings"]
    expect(any(f["decisions"] and f["differing"] == 0 for f in select), select)


def text_lines_of_cases(text):
    return [line for line in text.splitlines() if re.search(r"  (PASS|FAIL|SKIP)", line)]


# --- what is no case, and files that lie ---------------------------------------------------------


@case
def unknown_kinds_are_skipped():
    with folder() as where:
        write(where / "a.safetensors", {"x": ("F32", [1], [1.0])}, {"kind": "video_something"})
        write(where / "weights.safetensors", {"x": ("F32", [1], [1.0])}, {"format": "pt"})
        write(where / "bare.safetensors", {"x": ("F32", [1], [1.0])})
        (where / "notes.txt").write_text("no case")
        text = text_of(verify(where), 1)
        expect_equal(totals(text), "0 passed, 0 failed, 1 skipped", "totals")
        expect("SKIP: kind 'video_something' is not known" in text, text)
        text = text_of(verify(where, golden("attn/attn_09")), 0)
        expect_equal(totals(text), "1 passed, 0 failed, 1 skipped", "totals")
        text = text_of(verify(where / "weights.safetensors"), 1)
        expect("SKIP: no kind in the metadata" in text, text)


@case
def nothing_to_check_fails():
    with folder() as where:
        result = verify(where)
        expect_equal(totals(text_of(result, 1)), "0 passed, 0 failed, 0 skipped", "totals")
        expect(b"nothing was checked" in result.stderr, result.stderr)


@case
def directories_are_walked_in_order():
    with folder() as where:
        content = golden("attn/attn_09").read_bytes()
        for name in ("b/2", "b/1", "a/deep/er/1", "c"):
            path = where / (name + ".safetensors")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        (where / "b" / "again").symlink_to(where, target_is_directory=True)
        value = json.loads(text_of(verify(where, "--json"), 0))
        names = [os.path.relpath(c["path"], where) for c in value["cases"]]
        expect_equal(
            names, [n + ".safetensors" for n in ("a/deep/er/1", "b/1", "b/2", "c")], "order"
        )


def lie_case(name, *words):
    """A golden case after the function has changed its params and tensors."""

    def add(function):
        def check():
            metadata, tensors = read(golden("attn/attn_06"))
            metadata = dict(metadata, params=json.loads(metadata["params"]))
            function(metadata, tensors)
            with folder() as where:
                expect_failed(write(where / "lie.safetensors", tensors, metadata), *words)

        check.__name__ = "lie: " + name
        case(check)
        return function

    return add


def without_truth(tensors):
    del tensors["out64"], tensors["lse64"]


@lie_case("an output off by 1e-4", "the file's own result is wrong", "out")
def lie_output(metadata, tensors):
    without_truth(tensors)
    tensors["out"][2][17] += 1e-4


@lie_case("an LSE in base 2", "lse", "base 2")
def lie_base_2(metadata, tensors):
    tensors["lse"] = (*tensors["lse"][:2], [x * math.log2(math.e) for x in tensors["lse"][2]])


@lie_case("an output twice as large", "the file's own result is wrong", "the output is twice what it should be")
def lie_doubled(metadata, tensors):
    tensors["out"] = (*tensors["out"][:2], [2 * x for x in tensors["out"][2]])


@lie_case("a truth that is none", "out64 is not the truth", "element 3")
def lie_truth(metadata, tensors):
    tensors["out64"][2][3] += 1e-6


@lie_case("truth and output, together", "lse64 is not the truth")
def lie_both(metadata, tensors):
    tensors["lse64"][2][0] += 0.5
    tensors["lse"][2][0] += 0.5


@lie_case("NaN in the output", "out", "nan", "is wrong")
def lie_nan(metadata, tensors):
    tensors["out"][2][5] = NAN


@lie_case("+inf in the LSE", "lse", "inf", "is wrong")
def lie_inf(metadata, tensors):
    tensors["lse"][2][5] = INF


@lie_case("NaN in a query", "is wrong")
def lie_nan_query(metadata, tensors):
    without_truth(tensors)
    tensors["q"][2][0] = NAN


@lie_case("another scale", "the file's own result is wrong", "the scale of the scores is off")
def lie_scale(metadata, tensors):
    without_truth(tensors)
    metadata["params"]["softmax_scale"] = 0.2


@lie_case("scale 0", "softmax_scale")
def lie_scale_0(metadata, tensors):
    metadata["params"]["softmax_scale"] = 0.0


@lie_case("a scale beyond float32", "softmax_scale")
def lie_scale_huge(metadata, tensors):
    metadata["params"]["softmax_scale"] = 1e300


@lie_case("a causal mask", "causal")
def lie_causal(metadata, tensors):
    metadata["params"]["causal"] = True


@lie_case("sizes that the tensors do not have", "tensor k", "[2, 6, 2, 80]")
def lie_sizes(metadata, tensors):
    metadata["params"]["Sk"] = 6


@lie_case("a missing parameter", "Hk")
def lie_missing(metadata, tensors):
    del metadata["params"]["Hk"]


@lie_case("a negative size", "Sq", "-4")
def lie_negative(metadata, tensors):
    metadata["params"]["Sq"] = -4


@lie_case("a giant size", "Sk", "9000000000000000000")
def lie_giant(metadata, tensors):
    metadata["params"]["Sk"] = 9000000000000000000


@lie_case("sizes whose product wraps", "shape")
def lie_wrap(metadata, tensors):
    metadata["params"].update(B=1 << 24, H=1 << 24, Hk=1 << 24, D=65536, Sq=1 << 24, Sk=1 << 24)


@lie_case("a size that is no number", "D")
def lie_text(metadata, tensors):
    metadata["params"]["D"] = "80"


@lie_case("heads that do not group", "3 KV heads")
def lie_heads(metadata, tensors):
    metadata["params"]["Hk"] = 3


@lie_case("a misspelt parameter", "'scale' is not known", "did you mean 'softmax_scale'?")
def lie_misspelt(metadata, tensors):
    metadata["params"]["scale"] = metadata["params"].pop("softmax_scale")


@lie_case("a parameter of nothing", "'temperature' is not known")
def lie_unknown(metadata, tensors):
    metadata["params"]["temperature"] = 1


@lie_case("another map of heads", "head_map")
def lie_map(metadata, tensors):
    metadata["params"]["head_map"] = "h % Hk"


@lie_case("params that are no object", "params")
def lie_params(metadata, tensors):
    metadata["params"] = "[1, 2]"


@lie_case("params that are no JSON", "params")
def lie_params_text(metadata, tensors):
    metadata["params"] = "{"


@lie_case("no params", "params")
def lie_no_params(metadata, tensors):
    del metadata["params"]


@lie_case("a tensor that is missing", "lse")
def lie_no_lse(metadata, tensors):
    del tensors["lse"]


@lie_case("integers for an output", "out")
def lie_integers(metadata, tensors):
    tensors["out"] = ("I32", tensors["out"][1], [0] * len(tensors["out"][2]))


def damage_case(name, *words):
    """A golden file with the bytes that the function returns."""

    def add(function):
        def check():
            header, data = read_header(golden("attn/attn_06"))
            with folder() as where:
                path = where / "damaged.safetensors"
                path.write_bytes(function(header, data))
                expect_failed(path, *words)

        check.__name__ = "damage: " + name
        case(check)
        return function

    return add


def assemble(header, data):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


@damage_case("half the data", "damaged")
def damage_half(header, data):
    return assemble(header, data[: len(data) // 2])


@damage_case("one byte too few")
def damage_byte(header, data):
    return assemble(header, data[:-1])


@damage_case("an empty file")
def damage_empty(header, data):
    return b""


@damage_case("seven bytes")
def damage_seven(header, data):
    return b"1234567"


@damage_case("a header of 2^63 bytes")
def damage_header_size(header, data):
    return struct.pack("<Q", 1 << 63) + b"{}"


@damage_case("a header that is no JSON")
def damage_json(header, data):
    return assemble(b'{"q": ', data)


@damage_case("a dtype that nobody knows", "q")
def damage_dtype(header, data):
    header["q"]["dtype"] = "F7"
    return assemble(header, data)


@damage_case("a negative shape")
def damage_shape(header, data):
    header["q"]["shape"][0] = -2
    return assemble(header, data)


@damage_case("a shape whose product wraps")
def damage_product(header, data):
    header["q"]["shape"] = [4194305, 4194305, 211106198978564, 1]
    return assemble(header, data)


@damage_case("negative offsets")
def damage_offsets(header, data):
    header["q"]["data_offsets"] = [-8, header["q"]["data_offsets"][1]]
    return assemble(header, data)


@damage_case("metadata that are no text")
def damage_metadata(header, data):
    header["__metadata__"]["params"] = {"B": 1}
    return assemble(header, data)


@damage_case("control characters in its name", "?")
def damage_name(header, data):
    header["__metadata__"]["case"] = "one\nPASS\x1b[2J"
    header["__metadata__"]["params"] = "{}"
    return assemble(header, data)


@case
def no_such_file():
    expect_failed("/no/such/file.safetensors", "/no/such/file")


@case
def empty_tensors_of_giant_shapes():
    """Sizes that need no data at all must need no memory and no time."""
    params = {"B": 1, "Sq": 0, "Sk": 0, "H": 1 << 24, "Hk": 1 << 24, "D": 65536}
    heads = params["H"]
    shape = [1, 0, heads, 65536]
    tensors = {name: ("F32", shape, []) for name in ("q", "k", "v", "out")}
    tensors["lse"] = ("F32", [1, heads, 0], [])
    with folder() as where:
        path = write(where / "x.safetensors", tensors, {"kind": "attention", "params": params})
        result = verify(path)
        expect(result.returncode in (0, 1), result)
        expect(totals(result.stdout.decode()).endswith("0 skipped"), result.stdout)


# --- cases of one's own --------------------------------------------------------------------------


@case
def a_case_of_ones_own():
    with folder() as where:
        tensors, metadata = make_attention(SMALL)
        text = text_of(verify(write(where / "mine.safetensors", tensors, metadata)), 0)
        expect("attention" in text and " mine " in text, text)
        for dtype in ("BF16", "F16"):  # results as a kernel of that precision stores them
            rounded = {**tensors, "out": (dtype, *tensors["out"][1:])}
            text_of(verify(write(where / f"{dtype}.safetensors", rounded, metadata)), 0)


@case
def empty_and_masked_rows():
    with folder() as where:
        tensors, metadata = make_attention({**SMALL, "Sk": 0})
        text_of(verify(write(where / "empty.safetensors", tensors, metadata)), 0)
        tensors["lse"] = (*tensors["lse"][:2], [INF] * len(tensors["lse"][2]))
        expect_failed(write(where / "inf.safetensors", tensors, metadata), "+inf")
        tensors, metadata = make_attention(MASKED, sees=masked_sees)
        text_of(verify(write(where / "masked.safetensors", tensors, metadata)), 0)


# --- the specification ---------------------------------------------------------------------------

SPECIFICATION = GOLDEN.parent / "docs" / "case-files.md"


@case
def the_example_of_the_specification_works():
    blocks = re.findall(r"```python\n(.*?)```", SPECIFICATION.read_text(), re.S)
    expect_equal(len(blocks), 1, "examples")
    with folder() as where:
        subprocess.run([sys.executable, "-c", blocks[0]], cwd=where, check=True)
        written = list(where.glob("*.safetensors"))
        expect_equal(len(written), 1, "files")
        text = text_of(verify(written[0]), 0)
        expect_equal(totals(text), "1 passed, 0 failed, 0 skipped", "totals")


def with_tensor(path, name, target):
    """The case with one more tensor, which is empty."""
    header, data = read_header(path)
    header[name] = {"dtype": "F32", "shape": [0], "data_offsets": [len(data), len(data)]}
    return write_raw(target, header, data)


@case
def unknown_tensors_are_errors():
    """The nearest name is said; every kind knows its tensors."""
    attention = {"lse_64": "lse64", "out_64": "out64", "LSE64": "lse64", "q2": "q", "untrue": None}
    sequence = {"step00.out_64": "stepNN.out64", "step0.q": "stepNN.q", "step000.q": "stepNN.q"}
    with folder() as where:
        cases = one_case_of_each_kind(where)
        for kind, names in (("attention", attention), ("denoising_sequence", sequence)):
            for name, nearest in names.items():
                path = with_tensor(cases[kind], name, where / "named.safetensors")
                said = f"tensor '{name}' is not known" + (f"; did you mean '{nearest}'?" if nearest else "")
                expect_failed(path, said)
        for kind, path in cases.items():
            expect_failed(with_tensor(path, "untrue", where / f"{kind}.safetensors"), "'untrue' is not known")


@case
def the_specification_has_every_kind():
    text = SPECIFICATION.read_text()
    kinds = set()
    for path in PAPER.rglob("*.safetensors"):
        kinds.add(read_header(path)[0].get("__metadata__", {}).get("kind"))
    for kind in kinds - {None}:
        expect(f"`{kind}`" in text, f"{kind} is not described")


# What describes a case to people, or says again what tensors and other parameters say.
DESCRIPTIONS = {
    "attention_bias", "accepted_other_rows", "sparsity", "pad_id", "temperature of scheduler_trace", "top_k of scheduler_trace",
    "top_p of scheduler_trace", "freq_denominators", "local_attn_size", "cos_counts", "name",
    "seed", "denoising_step_list", "kv_cache_tokens of pipeline", "max_attention_size of pipeline",
    "mask_id of model_logits", "reveal_groups", "preset",
}  # fmt: skip


def one_case_of_each_kind(where):
    """kind -> the smallest golden case; a denoising sequence is made."""
    made = where / "sequence.safetensors"
    subprocess.run(
        [PROGRAM, "golden", "--context", "9", "-o", made], stdout=subprocess.DEVNULL, check=True
    )
    found = {}
    for path in sorted([made, *PAPER.rglob("*.safetensors")], key=lambda p: p.stat().st_size):
        metadata = read_header(path)[0].get("__metadata__", {})
        if "params" in metadata and not metadata["kind"].endswith(("_inputs", "_weights")):
            found.setdefault(metadata["kind"], path)
    return found


def put_variants(path, where):
    """The case with each of its params changed, and with an unknown one. Returns the params."""
    header, data = read_header(path)
    params = json.loads(header["__metadata__"]["params"])
    for name in [*params, "untrue"]:
        changed = json.dumps({**params, name: {"no": "value"}})
        metadata = {**header["__metadata__"], "params": changed, "case": name}
        text = json.dumps({**header, "__metadata__": metadata}).encode()
        target = where / f"{name}.safetensors"
        target.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return params


@case
def no_parameter_is_ignored():
    """Every parameter of every kind is used, or checked, or listed above; others are errors."""
    with folder() as root:
        for kind, path in one_case_of_each_kind(root).items():
            where = root / kind / "x"
            where.mkdir(parents=True)
            for beside in path.parent.iterdir():
                if beside.stem.endswith(("_inputs", "_weights")):
                    (where / beside.name).symlink_to(beside.resolve())
            for other in PAPER.iterdir():
                (where.parent / other.name).symlink_to(other.resolve())
            params = put_variants(path, where)
            results = json.loads(verify(where, "--json").stdout)["cases"]
            outcomes = {c["name"]: c for c in results}
            expect("'untrue' is not known" in outcomes["untrue"]["reason"], outcomes["untrue"])
            for name in params:
                described = name in DESCRIPTIONS or f"{name} of {kind}" in DESCRIPTIONS
                expected = "passed" if described else "failed"
                expect_equal(outcomes[name]["outcome"], expected, f"{kind}: {name}")
                expect(described or name in outcomes[name]["reason"], kind, outcomes[name])


@case
def the_example_of_a_port_passes():
    with folder() as where:
        made, port = where / "case.safetensors", GOLDEN.parent / "examples" / "port.py"
        for tau in (0, 2):
            subprocess.run(
                [PROGRAM, "golden", "--context", "20", "--tau", str(tau), "-o", made],
                stdout=subprocess.DEVNULL,
                check=True,
            )
            subprocess.run([sys.executable, port, made, where / "mine.safetensors"], check=True)
            text = text_of(verify(made, "--candidate", where / "mine.safetensors"), 0)
            expect_equal(totals(text), "1 passed, 0 failed, 0 skipped", "totals")


sys.exit(run_cases())
