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
results = []


def expect(what, good, details=""):
    results.append(good)
    print(f"{'ok' if good else 'not ok'} {len(results)} - {what}")
    for line in [] if good else str(details).splitlines():
        print(f"# {line}")


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


LAYOUTS = {
    "gate_up_proj and down_proj of all experts": lambda tensors: one_tensor_for(
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


def check_layouts(model, scratch):
    published = logits(MODELS / model)
    for number, (what, layout) in enumerate(LAYOUTS.items()):
        copy = copy_of(MODELS / model, scratch, f"{model}-{number}", layout)
        other = logits(copy)
        warnings = other.stderr.decode().replace(str(copy), str(MODELS / model))
        expect(f"{model}: {what}", other.returncode == 0 and other.stdout == published.stdout and published.stdout and
               warnings == published.stderr.decode(), warnings)


def check_quantized(model, scratch):
    """Stacked experts become the published layout; fused ones that are quantised load."""
    outputs = []
    for source in (MODELS / model, scratch / f"{model}-0"):
        outputs.append(scratch / f"{source.name}-quantized")
        made = run(PROGRAM, "quantize", "--model", source, "--bits", "8", "--group-size", "0", "-o", outputs[-1])
        expect(f"{source.name}: quantize", made.returncode == 0, made.stderr.decode())
    files = [(output / "model.safetensors").read_bytes() for output in outputs]
    expect(f"{model}: stacked experts are quantised as single ones are", files[0] == files[1])
    for bits, more in (("8", ["--group-size", "0"]), ("4", ["--group-size", "8"]), ("4", ["--group-size", "8", "--asymmetric"])):
        output = scratch / f"{model}-{bits}-{len(more)}"
        made = run(PROGRAM, "quantize", "--model", MODELS / model, "--bits", bits, *more, "-o", output)
        fused = copy_of(output, scratch, output.name + "-fused", fused_by_expert)
        one, other = logits(output), logits(fused)
        expect(f"{model}: gate_up_proj of each expert, {bits} bits {' '.join(more)}",
               made.returncode == 0 and other.returncode == 0 and one.stdout == other.stdout and one.stdout,
               made.stderr.decode() + other.stderr.decode())


def check_refused(scratch):
    """What says two things, or another shape."""
    tensors = read_tensors(MODELS / "sdar_moe" / "model.safetensors")
    stacked = LAYOUTS["gate_up_proj and down_proj of all experts"](tensors)
    name = "model.layers.1.mlp.experts.gate_up_proj"
    single = "model.layers.1.mlp.experts.3.up_proj.weight"
    cases = (
        ("an expert that the stack has, too", {**stacked, single: tensors[single]}, f"more than one tensor is called {single}"),
        ("an expert less", {**stacked, name: stacked[name][:-1]}, "no tensor called model.layers.1.mlp.experts.15.gate_proj.weight"),
        ("columns for rows", {**stacked, name: np.swapaxes(stacked[name], 1, 2)}, "model.layers.1.mlp.experts.0.gate_proj.weight"),
        ("an odd number of rows", {**stacked, name: stacked[name][:, :-1]}, "no tensor called model.layers.1.mlp.experts.0.gate_proj.weight"),
        ("no rows", {**stacked, name: stacked[name][:, :0]}, "no tensor called model.layers.1.mlp.experts.0.gate_proj.weight"),
    )
    for number, (what, changed, message) in enumerate(cases):
        copy = copy_of(MODELS / "sdar_moe", scratch, f"refused-{number}", lambda _, changed=changed: changed)
        made = logits(copy)
        expect(f"refused: {what}", made.returncode == 1 and message in made.stderr.decode(), made.stderr.decode())


def main():
    with tempfile.TemporaryDirectory() as folder:
        scratch = pathlib.Path(folder)
        for model in ("sdar_moe", "sdar_moe_step2", "llada20", "llada21"):
            check_layouts(model, scratch)
        check_quantized("sdar_moe", scratch)
        check_refused(scratch)
    print(f"1..{len(results)}")
    sys.exit(not all(results))


main()
