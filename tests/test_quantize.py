#!/usr/bin/python3
"""test_quantize.py FLASHBLOCK PRINT_LOGITS: `flashblock quantize`, against its rules in NumPy (docs/quantized.md).
Prints TAP. Skipped without NumPy."""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

try:
    import numpy as np
    import quantized_model as oracle
except ImportError as error:
    if os.path.exists("/usr/bin/python3") and not os.environ.get("QUANTIZE_AGAIN"):  # Debian's may have it
        os.environ["QUANTIZE_AGAIN"] = "1"
        os.execv("/usr/bin/python3", ["/usr/bin/python3", *sys.argv])
    print(f"1..0 # SKIP {error}")
    sys.exit(0)

PROGRAM, PRINT_LOGITS = sys.argv[1:3]
SEED = 22
HIDDEN, MIDDLE, LAYERS, HEADS, KV_HEADS, WIDTH, VOCAB = 128, 384, 3, 4, 2, 32, 96
TOKENS = (5, 17, 90, 3)
results = []


def to_bf16(values):
    """Rounded to nearest even."""
    bits = np.asarray(values, np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16 << 16).astype(np.uint32).view(np.float32)


def matrices():
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        for name, rows in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS)):
            yield f"{prefix}self_attn.{name}_proj", rows * WIDTH, HIDDEN
        yield prefix + "self_attn.o_proj", HIDDEN, HEADS * WIDTH
        yield prefix + "mlp.gate_proj", MIDDLE, HIDDEN
        yield prefix + "mlp.up_proj", MIDDLE, HIDDEN
        yield prefix + "mlp.down_proj", HIDDEN, MIDDLE


def write_model(folder, rng, kind="BF16", tied=False, spoil=None):
    tensors = {}

    def add(name, values):
        tensors[name] = (to_bf16(values), "BF16") if kind == "BF16" else np.asarray(values, kind)

    for name, rows, columns in matrices():
        add(f"{name}.weight", rng.standard_normal((rows, columns)) / np.sqrt(columns))
    add("model.embed_tokens.weight", rng.standard_normal((VOCAB, HIDDEN)))
    if not tied:
        add("lm_head.weight", rng.standard_normal((VOCAB, HIDDEN)) / np.sqrt(HIDDEN))
    names = ["model.norm.weight"]
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        names += [prefix + "input_layernorm.weight", prefix + "post_attention_layernorm.weight"]
        add(f"{prefix}self_attn.q_norm.weight", np.ones(WIDTH))
        add(f"{prefix}self_attn.k_norm.weight", np.ones(WIDTH))
    for name in names:
        add(name, 1 + 0.1 * rng.standard_normal(HIDDEN))
    if spoil:
        values = tensors[spoil][0].copy()
        values[7, 3] = np.inf
        tensors[spoil] = (values, "BF16")
    config = {
        "architectures": ["SDARForCausalLM"], "model_type": "sdar", "hidden_size": HIDDEN, "intermediate_size": MIDDLE,
        "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": WIDTH,
        "vocab_size": VOCAB, "rope_theta": 10000.0, "rms_norm_eps": 1e-06, "tie_word_embeddings": tied,
        "attention_bias": False, "torch_dtype": "bfloat16"}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text('{"eos_token_id": 3}')
    (folder / "notes.bin").write_bytes(b"not for a reader")
    oracle.write_tensors(folder / "model.safetensors", tensors)
    return folder


def run(*arguments, **more):
    return subprocess.run([PROGRAM, "quantize", *map(str, arguments)], capture_output=True, text=True, check=False, **more)


def report(name, wrong=""):
    results.append(not wrong)
    print(f"{'not ok' if wrong else 'ok'} {len(results)} - {name}", flush=True)
    if wrong:
        print(f"# seed {SEED}: {wrong}", file=sys.stderr)


# --- the rules ------------------------------------------------------------------------------------------------


def rounded(scale, kind):
    scale = np.maximum(scale, np.float32(2**-23))
    return to_bf16(scale) if kind == "BF16" else scale.astype(kind).astype(np.float32)


def nearest(weights, bits, size, symmetric, kind):
    """Integers 0 .. 2^bits - 1 [rows, groups, size], scales and zero points [rows, groups, 1]."""
    w = weights.astype(np.float32).reshape(weights.shape[0], -1, size)
    low = np.minimum(w.min(-1, keepdims=True), 0)
    high = np.maximum(w.max(-1, keepdims=True), 0)
    last, middle = np.float32(2**bits - 1), np.float32(2 ** (bits - 1))
    if symmetric:
        scale, zero = rounded(np.maximum(-low, high) / (last * np.float32(0.5)), kind), np.full_like(low, middle)
    else:
        scale = rounded((high - low) / last, kind)
        zero = np.round(np.clip(-low / scale, 0, last))
    return np.round(np.clip(w / scale, -zero, last - zero)) + zero, scale, zero


def read(folder, name, how):
    """What the directory holds of a matrix: integers, scales, zero points, as above."""
    tensors = oracle.read_tensors(folder / "model.safetensors")
    kind = "Embedding" if "embed" in name else "Linear"
    weights, layout = oracle.scheme_of(how, name, kind)
    bits, scale = weights["num_bits"], tensors[f"{name}.weight_scale"]
    if layout == "int-quantized":
        q = tensors[f"{name}.weight"].astype(np.int64) + 128
    else:
        shape = tensors[f"{name}.weight_shape"]
        q = oracle.unpack(tensors[f"{name}.weight_packed"], bits, int(shape[1]), 1)
    zero = np.full(scale.shape, 2 ** (bits - 1))
    if not weights["symmetric"]:
        zero = oracle.unpack(tensors[f"{name}.weight_zero_point"], bits, scale.shape[0], 0)
    return q.reshape(*scale.shape, -1), scale.astype(np.float32)[..., None], zero[..., None], weights, layout


def logits(folder):
    got = subprocess.run([PRINT_LOGITS, folder, *map(str, TOKENS)], capture_output=True, check=False)
    if got.returncode != 0 or got.stderr:
        raise ValueError(got.stderr.decode())
    return np.frombuffer(got.stdout, np.float32).reshape(len(TOKENS), VOCAB)


def check_rules(base, rng):
    cases = [
        (kind, *case)
        for kind in ("BF16", "float32", "float16")
        for case in (
            (("--bits", 8), 8, 0, True, "int-quantized"),
            (("--bits", 4), 4, 128, True, "pack-quantized"),
            (("--bits", 4, "--group-size", 32, "--asymmetric"), 4, 32, False, "pack-quantized"),
        )
    ] + [
        ("BF16", ("--bits", 4, "--group-size", 0), 4, 0, True, "pack-quantized"),
        ("BF16", ("--bits", 4, "--group-size", 0, "--asymmetric"), 4, 0, False, "pack-quantized"),
        ("BF16", ("--bits", 8, "--group-size", 64), 8, 64, True, "pack-quantized"),
    ]
    for number, (kind, options, bits, size, symmetric, layout) in enumerate(cases):
        name = f"{kind} {' '.join(map(str, options))}"
        model, out = write_model(base / f"model{number}", rng, kind), base / f"out{number}"
        got = run("--model", model, *options, "-o", out)
        if got.returncode != 0 or got.stderr:
            report(name, got.stderr)
            continue
        how = json.loads((out / "config.json").read_text())["quantization_config"]
        plain = oracle.Reader(model)
        wrong = ""
        for module, *_ in list(matrices()) + [("lm_head",), ("model.embed_tokens",)]:
            linear = "layers" in module
            weights = plain.tensors[f"{module}.weight"]
            q, scale, zero, _, found = read(out, module, how)
            expected = nearest(weights, bits if linear else 8, size if linear and size else weights.shape[1],
                               symmetric if linear else True, kind)
            same = all(np.array_equal(a, b) for a, b in zip((q, scale, zero), expected))
            if not same or found != (layout if linear else "pack-quantized"):
                wrong = wrong or f"{module}: {found}, integers {(q != expected[0]).sum()} of {q.size} differ"
        true = oracle.logits(out, TOKENS)
        error = np.abs(logits(out) - true).max() / np.abs(true).max()
        report(name, wrong or ("" if error < 2e-6 else f"logits differ by {error:.3g}"))


def check_mse(base, rng):
    model, errors = write_model(base / "mse", rng), {}
    for method in ("nearest", "mse"):
        got = run("-m", model, "--bits", 4, "--method", method, "-o", base / f"by-{method}", "--json", "-")
        errors[method] = json.loads(got.stdout)["error"]
    report("the mean-squared error's scales are better", "" if errors["mse"] < 0.97 * errors["nearest"] else str(errors))
    plain, quantized = oracle.Reader(model), oracle.Reader(base / "by-nearest")
    squares = differences = 0.0
    for module, *_ in list(matrices()) + [("lm_head",), ("model.embed_tokens",)]:
        kind = "Embedding" if "embed" in module else "Linear"
        before, after = plain.matrix(module, kind), quantized.matrix(module, kind)
        squares += (before**2).sum()
        differences += ((before - after) ** 2).sum()
    true = np.sqrt(differences / squares)
    report("the error of the summary", "" if abs(errors["nearest"] / true - 1) < 1e-6 else f"{errors['nearest']} {true}")


def check_directory(base, rng):
    model = write_model(base / "plain", rng)
    outs = []
    for threads in (1, 3):
        outs.append(base / f"threads{threads}")
        run("-m", model, "--bits", 4, "--method", "mse", "--threads", threads, "-o", outs[-1])
    same = all((outs[0] / f.name).read_bytes() == f.read_bytes() for f in outs[1].iterdir())
    report("the same bytes with one and three threads", "" if same else "they differ")
    files = sorted(f.name for f in outs[0].iterdir())
    report("its files", "" if files == ["config.json", "generation_config.json", "model.safetensors"] else str(files))
    before, after = (json.loads((f / "config.json").read_text()) for f in (model, outs[0]))
    after.pop("quantization_config")
    report("the fields of config.json", "" if before == after else f"{before} {after}")
    got = run("-m", outs[0], "--bits", 4, "-o", base / "twice")
    report("refused: a quantised directory", "" if got.returncode == 1 and "quantised already" in got.stderr else got.stderr)
    gptq = {"bits": 4, "group_size": 128, "desc_act": False, "sym": True}
    for name, where in (("quantize_config.json", None), ("config.json", "quantization_config")):
        other = base / f"gptq-{name}"
        shutil.copytree(model, other)
        config = json.loads((other / name).read_text()) | {where: {**gptq, "quant_method": "gptq"}} if where else gptq
        (other / name).write_text(json.dumps(config))
        got = run("-m", other, "--bits", 8, "-o", base / "never")
        said = got.returncode == 1 and "quantised already" in got.stderr and not (base / "never").exists()
        report(f"refused: a directory of GPTQ, by its {name}", "" if said else got.stderr)
    got = run("-m", model, "--bits", 4, "-o", outs[0])
    report("refused: a directory that exists", "" if got.returncode == 1 and "exists already" in got.stderr else got.stderr)
    got = run("-m", model, "--bits", 4, "--group-size", 96, "-o", base / "never")
    said = got.returncode == 2 and "group size 96" in got.stderr and "proj.weight" in got.stderr
    report("refused: a group size that does not divide", "" if said and not (base / "never").exists() else got.stderr)
    got = run("-m", model, "--bits", 4, "--layers", "1,9", "-o", base / "never")
    report("refused: a layer that there is not", "" if got.returncode == 2 and "layer 9" in got.stderr else got.stderr)
    spoilt = write_model(base / "spoilt", rng, spoil="model.layers.1.mlp.up_proj.weight")
    got = run("-m", spoilt, "--bits", 4, "-o", base / "never")
    said = got.returncode == 1 and "model.layers.1.mlp.up_proj.weight: row 7" in got.stderr
    left = [f.name for f in base.iterdir() if f.name.startswith("never")]
    report("refused: a weight that is infinite", "" if said and not left else f"{got.stderr} {left}")


def check_parts(base, rng):
    model = write_model(base / "parts", rng)
    run("-m", model, "--bits", 4, "--layers", "0,2", "--head-bits", 16, "--embedding-bits", 4, "-o", base / "some")
    tensors = oracle.read_tensors(base / "some" / "model.safetensors")
    how = json.loads((base / "some" / "config.json").read_text())["quantization_config"]
    plain = {name for name in tensors if name.endswith("proj.weight") or name == "lm_head.weight"}
    expected = {f"{name}.weight" for name, *_ in matrices() if ".1." in name} | {"lm_head.weight"}
    wrong = "" if plain == expected and {f"{n}.weight" for n in how["ignore"]} == expected else str(plain)
    true = oracle.logits(base / "some", TOKENS)
    error = np.abs(logits(base / "some") - true).max() / np.abs(true).max()
    report("some layers, a head as it is", wrong or ("" if error < 2e-6 else f"logits differ by {error:.3g}"))
    tied = write_model(base / "tied", rng, tied=True)
    for head in (8, 4, 16):
        out = base / f"tied{head}"
        got = run("-m", tied, "--bits", 4, "--head-bits", head, "-o", out)
        config = json.loads((out / "config.json").read_text())
        heads = [name for name in oracle.read_tensors(out / "model.safetensors") if name.startswith("lm_head")]
        true = oracle.logits(out, TOKENS)
        error = np.abs(logits(out) - true).max() / np.abs(true).max()
        good = config["tie_word_embeddings"] == (head == 8) == (not heads)
        report(f"a tied head of {head} bits", "" if good and error < 2e-6 else f"{heads} {error:.3g} {got.stderr}")


def check_mixtures(base):
    """Experts, each in tensors of its own; routers stay as they are."""
    models = pathlib.Path(os.environ["FLASHBLOCK_SOURCE_ROOT"]) / "golden" / "models"
    for number, (model, *options) in enumerate((
        ("sdar_moe", "--bits", 8), ("sdar_moe", "--bits", 4, "--group-size", 0), ("sdar_moe_step2", "--bits", 8))):
        out = base / f"mixture{number}"
        got = run("-m", models / model, *options, "-o", out)
        names = oracle.read_tensors(out / "model.safetensors")
        routers = [name for name in names if name.endswith("mlp.gate.weight")]
        floats = [name for name in routers if names[name].dtype == np.float32]
        true = oracle.logits(out, TOKENS)
        error = np.abs(logits(out) - true).max() / np.abs(true).max()
        good = got.returncode == 0 and routers and routers == floats and error < 2e-6
        report(f"{model} {' '.join(map(str, options))}", "" if good else f"{error:.3g} {routers} {got.stderr}")


def check_killed(base):
    """A model that takes some seconds; it is stopped once the temporary folder is there."""
    model = base / "large"
    model.mkdir()
    rng = np.random.default_rng(SEED)
    hidden, vocab = 1024, 20000
    config = {
        "architectures": ["SDARForCausalLM"], "model_type": "sdar", "hidden_size": hidden, "intermediate_size": 64,
        "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "vocab_size": vocab,
        "rope_theta": 10000.0, "rms_norm_eps": 1e-06, "tie_word_embeddings": True, "attention_bias": False}
    (model / "config.json").write_text(json.dumps(config))
    values = rng.standard_normal((vocab, hidden), np.float32)
    oracle.write_tensors(model / "model.safetensors", {"model.embed_tokens.weight": values})
    out = base / "stopped"
    for number, cleans in ((signal.SIGTERM, True), (signal.SIGKILL, False)):
        command = [PROGRAM, "quantize", "-m", model, "--method", "mse", "--threads", "1", "-o", out]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as child:
            for _ in range(1000):
                if list(base.glob("stopped.tmp-*/model.safetensors")) or child.poll() is not None:
                    break
                time.sleep(0.005)
            child.send_signal(number)
            status = child.wait()
        left = [f.name for f in base.glob("stopped*")]
        good = status == -number and not out.exists() and (not left if cleans else len(left) == 1)
        loads = any((base / name / "config.json").exists() for name in left)
        report(f"stopped by {number.name}", "" if good and not loads else f"status {status}, {left}")
    got = run("-m", model, "-o", out)
    left = [f.name for f in base.glob("stopped*")]
    report("the next run removes what was left", "" if got.returncode == 0 and left == ["stopped"] else f"{got.stderr} {left}")


def main():
    rng = np.random.default_rng(SEED)
    with tempfile.TemporaryDirectory() as folder:
        base = pathlib.Path(folder)
        check_rules(base, rng)
        check_mse(base, rng)
        check_directory(base, rng)
        check_parts(base, rng)
        check_mixtures(base)
        check_killed(base)
    print(f"1..{len(results)}")
    sys.exit(not all(results))


main()
