#!/usr/bin/python3
"""test_stacked_experts.py PRINT_LOGITS FLASHBLOCK: the models of golden/models with the experts of a layer in other
layouts than the published one give the same logits, bit for bit, and quantise to the same file. Prints TAP. Skipped without
NumPy."""
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

from case_support import case, expect, run_cases

try:
    import numpy as np
    from quantized_model import read_tensors, write_tensors
except ImportError as error:
    if os.path.exists("/usr/bin/python3") and not os.environ.get("STACKED_EXPERTS_AGAIN"):  # Debian's may have it
        os.environ["STACKED_EXPERTS_AGAIN"] = "1"
        os.execv("/usr/bin/python3", ["/usr/bin/python3", *sys.argv])
    print(f"1..0 # SKIP {error}")
    sys.exit(0)

PRINT_LOGITS, PROGRAM = sys.argv[1:3]
MODELS = pathlib.Path(__file__).resolve().parent.parent / "golden" / "models"
TOKENS = ("5", "17", "90", "3")


def run(*command):
    return subprocess.run([str(word) for word in command], capture_output=True, check=False)


def logits(directory):
    return run(PRINT_LOGITS, directory, *TOKENS)


def mixtures(tensors):
    """The prefixes of layers that have experts, and how many those are."""
    found = {}
    for name in tensors:
        match = re.match(r"(.*\.experts\.)(\d+)\.down_proj\.", name)
        if match:
            found[match[1]] = max(found.get(match[1], 0), int(match[2]) + 1)
    return found


def one_tensor_for(matrices, tensors, stack):
    """Replaces matrices of all experts by one tensor, called PREFIX.NAME; stack makes it of a list of lists."""
    made = dict(tensors)
    for prefix, count in mixtures(tensors).items():
        for name, parts in matrices.items():
            made[prefix + name] = stack([[made.pop(f"{prefix}{n}.{part}.weight") for part in parts] for n in range(count)])
    return made


def joined(experts):
    return np.stack([np.concatenate(parts) for parts in experts])


def fused_by_expert(tensors):
    """gate_up_proj of each expert: each of its tensors has the rows of both."""
    made = {}
    for name, array in tensors.items():
        if ".up_proj." in name and ".experts." in name:
            continue
        if ".gate_proj." in name and ".experts." in name:
            other = tensors[name.replace("gate_proj", "up_proj")]
            shape = name.endswith("weight_shape")
            array = np.array([array[0] + other[0], array[1]]) if shape else np.concatenate([array, other])
            name = name.replace("gate_proj", "gate_up_proj")
        made[name] = array
    return made


ALL_IN_TWO = "gate_up_proj and down_proj of all experts"
LAYOUTS = {
    ALL_IN_TWO: lambda tensors: one_tensor_for(
        {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}, tensors, joined),
    "gate_proj, up_proj and down_proj of all experts": lambda tensors: one_tensor_for(
        {name: (name,) for name in ("gate_proj", "up_proj", "down_proj")}, tensors, joined),
    "gate_up_proj of each expert": fused_by_expert,
}


def copy_of(directory, scratch, name, layout):
    """The same directory with its tensors in another layout."""
    copy = scratch / name
    shutil.copytree(directory, copy, ignore=shutil.ignore_patterns("*.safetensors"))
    write_tensors(copy / "model.safetensors", layout(read_tensors(directory / "model.safetensors")))
    return copy


def expect_layouts(model):
    published = logits(MODELS / model)
    expect(published.returncode == 0 and published.stdout, published.stderr)
    with tempfile.TemporaryDirectory() as folder:
        for number, (what, layout) in enumerate(LAYOUTS.items()):
            copy = copy_of(MODELS / model, pathlib.Path(folder), str(number), layout)
            other = logits(copy)
            expect(other.returncode == 0 and other.stdout == published.stdout, what, other.stderr)
            warnings = other.stderr.decode().replace(str(copy), str(MODELS / model))
            expect(warnings == published.stderr.decode(), what, warnings)


@case
def test_experts_of_sdar_moe():
    expect_layouts("sdar_moe")


@case
def test_experts_in_every_second_layer():
    expect_layouts("sdar_moe_step2")


@case
def test_experts_of_llada20_and_its_shared_one():
    expect_layouts("llada20")


@case
def test_experts_of_llada21_and_its_shared_ones():
    expect_layouts("llada21")


def quantize(model, output, *options):
    made = run(PROGRAM, "quantize", "--model", model, *options, "-o", output)
    expect(made.returncode == 0, options, made.stderr)


@case
def test_stacked_experts_are_quantised_as_single_ones_are():
    with tempfile.TemporaryDirectory() as folder:
        scratch, files = pathlib.Path(folder), []
        stacked = copy_of(MODELS / "sdar_moe", scratch, "stacked", LAYOUTS[ALL_IN_TWO])
        for number, model in enumerate((MODELS / "sdar_moe", stacked)):
            quantize(model, scratch / str(number), "--bits", "4", "--group-size", "8")
            files.append((scratch / str(number) / "model.safetensors").read_bytes())
        expect(files[0] == files[1], "the files differ")


@case
def test_quantised_gate_up_proj_of_each_expert():
    for options in (("8", "--group-size", "0"), ("4", "--group-size", "8"), ("4", "--group-size", "8", "--asymmetric")):
        with tempfile.TemporaryDirectory() as folder:
            scratch = pathlib.Path(folder)
            quantize(MODELS / "sdar_moe", scratch / "single", "--bits", *options)
            single, fused = logits(scratch / "single"), logits(copy_of(scratch / "single", scratch, "fused", fused_by_expert))
            expect(fused.returncode == 0 and single.stdout and single.stdout == fused.stdout, options, fused.stderr)


def expect_refused(change, message):
    """change gets the stacked tensors of sdar_moe, and returns others."""
    with tempfile.TemporaryDirectory() as folder:
        layout = lambda tensors: change(LAYOUTS[ALL_IN_TWO](tensors), tensors)  # noqa: E731
        made = logits(copy_of(MODELS / "sdar_moe", pathlib.Path(folder), "changed", layout))
        expect(made.returncode == 1 and message in made.stderr.decode(), made.returncode, made.stderr)


STACK = "model.layers.1.mlp.experts.gate_up_proj"
FIRST = "model.layers.1.mlp.experts.0.gate_proj.weight"


@case
def test_an_expert_that_the_stack_has_too():
    name = "model.layers.1.mlp.experts.3.up_proj.weight"
    expect_refused(lambda stacked, single: {**stacked, name: single[name]}, f"more than one tensor is called {name}")


@case
def test_an_expert_less():
    expect_refused(lambda stacked, _: {**stacked, STACK: stacked[STACK][:-1]},
                   "no tensor called model.layers.1.mlp.experts.15.gate_proj.weight")


@case
def test_columns_for_rows():
    expect_refused(lambda stacked, _: {**stacked, STACK: np.swapaxes(stacked[STACK], 1, 2)}, FIRST + " has shape [32, 48], expected [24, 64]")


@case
def test_rows_that_two_matrices_cannot_share():
    expect_refused(lambda stacked, _: {**stacked, STACK: stacked[STACK][:, :-1]}, f"no tensor called {FIRST}")
    expect_refused(lambda stacked, _: {**stacked, STACK: stacked[STACK][:, :0]}, f"no tensor called {FIRST}")


sys.exit(run_cases())
