#!/usr/bin/python3
"""test_quantized_files.py PRINT_LOGITS: directories in the layouts of compressed-tensors and GPTQ, as their writers
make them, and damaged. PRINT_LOGITS (print_logits.c) gives the library's logits; quantized_model.py reads the same
directory and computes them in float64. Prints TAP. Skipped without NumPy."""
import json
import os
import pathlib
import subprocess
import sys
import tempfile

try:
    import numpy as np
    import quantized_model as oracle
except ImportError as error:
    if os.path.exists("/usr/bin/python3") and not os.environ.get("QUANTIZED_FILES_AGAIN"):  # Debian's may have it
        os.environ["QUANTIZED_FILES_AGAIN"] = "1"
        os.execv("/usr/bin/python3", ["/usr/bin/python3", *sys.argv])
    print(f"1..0 # SKIP {error}")
    sys.exit(0)

PRINT_LOGITS = sys.argv[1]
SEED = 21
HIDDEN, MIDDLE, LAYERS, HEADS, KV_HEADS, WIDTH, VOCAB = 128, 256, 2, 4, 2, 32, 96
TOKENS = (5, 17, 90, 3)
CONFIG = {
    "architectures": ["SDARForCausalLM"],
    "model_type": "sdar",
    "hidden_size": HIDDEN,
    "intermediate_size": MIDDLE,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": WIDTH,
    "vocab_size": VOCAB,
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-06,
    "tie_word_embeddings": False,
    "attention_bias": False,
}
results = []


def matrices(hidden=HIDDEN):
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        for name, rows in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS)):
            yield f"{prefix}self_attn.{name}_proj", rows * WIDTH, hidden
        yield prefix + "self_attn.o_proj", hidden, HEADS * WIDTH
        yield prefix + "mlp.gate_proj", MIDDLE, hidden
        yield prefix + "mlp.up_proj", MIDDLE, hidden
        yield prefix + "mlp.down_proj", hidden, MIDDLE


def to_bf16(values):
    return (np.asarray(values, np.float32).view(np.uint32) & 0xFFFF0000).view(np.float32)


def vectors(rng, hidden=HIDDEN):
    names = ["model.norm"]
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        names += [prefix + "input_layernorm", prefix + "post_attention_layernorm"]
        for part in ("q_norm", "k_norm"):
            yield f"{prefix}self_attn.{part}.weight", (to_bf16(1 + 0.1 * rng.standard_normal(WIDTH)), "BF16")
    for name in names:
        yield name + ".weight", (to_bf16(1 + 0.1 * rng.standard_normal(hidden)), "BF16")


def plain(rng, rows, columns):
    return to_bf16(rng.standard_normal((rows, columns)) / np.sqrt(columns)), "BF16"


def scales(rng, shape, columns, bits):
    """As of weights of about columns^-1/2, in bf16."""
    return to_bf16((0.5 + rng.random(shape)) * 2 / np.sqrt(columns) / 2 ** (bits - 1)), "BF16"


# --- compressed-tensors ---------------------------------------------------------------------------------------


def compressed(rng, name, rows, columns, weights, layout, half=True):
    """The tensors of one layer: integers of every value, as the compressors write them."""
    bits, low = weights["num_bits"], -(2 ** (weights["num_bits"] - 1))
    strategy, symmetric = weights["strategy"], weights.get("symmetric", True)
    groups = -(-columns // weights["group_size"]) if strategy == "group" else 1
    shape = (1,) if strategy == "tensor" else (rows, groups)
    q = rng.integers(low, -low, (rows, columns))
    zero = rng.integers(low, -low, shape)
    scale = scales(rng, shape, columns, bits)
    tensors = {f"{name}.weight_scale": scale if half else scale[0].astype(np.float32)}
    if layout == "pack-quantized":
        tensors[f"{name}.weight_packed"] = oracle.pack(q - low, bits, 1)
        tensors[f"{name}.weight_shape"] = np.array([rows, columns], np.int64)
        if not symmetric:
            tensors[f"{name}.weight_zero_point"] = oracle.pack(zero - low, bits, 0)
    else:
        tensors[f"{name}.weight"] = q.astype(np.int8)
        if not symmetric:
            tensors[f"{name}.weight_zero_point"] = zero.astype(np.int8)
    if weights.get("actorder") == "group":
        order = rng.permutation(columns) // weights["group_size"]
        tensors[f"{name}.weight_g_idx"] = order.astype(np.int32)
    return tensors


def group_of(targets, bits, strategy, group_size=None, layout=None, **more):
    weights = {
        "num_bits": bits,
        "type": "int",
        "symmetric": True,
        "strategy": strategy,
        "group_size": group_size,
        "block_structure": None,
        "dynamic": False,
        "actorder": None,
        "observer": "minmax",
        "observer_kwargs": {},
        **more,
    }
    group = {"targets": targets, "weights": weights, "input_activations": None, "output_activations": None}
    return {**group, "format": layout} if layout else group


def compressed_config(layout, *groups, ignore=("lm_head",)):
    return {
        "quant_method": "compressed-tensors",
        "format": layout,
        "config_groups": {f"group_{i}": group for i, group in enumerate(groups)},
        "ignore": list(ignore),
        "quantization_status": "compressed",
        "global_compression_ratio": 1.5,
        "kv_cache_scheme": None,
        "sparsity_config": {},
        "transform_config": {},
        "version": "0.10.2",
    }


def compressed_model(rng, how, half=True, hidden=HIDDEN, tied=False):
    """Tensors of a whole model by its quantization_config."""
    tensors = dict(vectors(rng, hidden))
    layers = [("model.embed_tokens", VOCAB, hidden, "Embedding")]
    layers += [(*layer, "Linear") for layer in matrices(hidden)]
    if not tied:
        layers.append(("lm_head", VOCAB, hidden, "Linear"))
    for name, rows, columns, kind in layers:
        scheme = oracle.scheme_of(how, name, kind)
        if scheme:
            tensors.update(compressed(rng, name, rows, columns, *scheme, half))
        else:
            tensors[f"{name}.weight"] = plain(rng, rows, columns)
    return tensors


# --- GPTQ -----------------------------------------------------------------------------------------------------


def gptq(rng, name, rows, columns, bits, group_size, v2=False, symmetric=True, ordered=False):
    group_size = columns if group_size == -1 else group_size
    groups = -(-columns // group_size)
    order = (rng.permutation(columns) if ordered else np.arange(columns)) // group_size
    zero = rng.integers(1, 2**bits, (groups, rows)) if not symmetric else np.full((groups, rows), 2 ** (bits - 1))
    return {
        f"{name}.qweight": oracle.pack(rng.integers(0, 2**bits, (columns, rows)), bits, 0),
        f"{name}.qzeros": oracle.pack(zero if v2 else zero - 1, bits, 1),
        f"{name}.scales": scales(rng, (groups, rows), columns, bits)[0].astype(np.float16),
        f"{name}.g_idx": order.astype(np.int32),
    }


def gptq_model(rng, bits, group_size, head=False, **how):
    tensors = dict(vectors(rng))
    for name, rows, columns in matrices():
        tensors.update(gptq(rng, name, rows, columns, bits, group_size, **how))
    tensors["model.embed_tokens.weight"] = plain(rng, VOCAB, HIDDEN)
    if head:
        tensors.update(gptq(rng, "lm_head", VOCAB, HIDDEN, bits, group_size, **how))
    else:
        tensors["lm_head.weight"] = plain(rng, VOCAB, HIDDEN)
    return tensors


def gptq_config(bits, group_size, **more):
    return {
        "bits": bits,
        "group_size": group_size,
        "desc_act": False,
        "sym": True,
        "lm_head": False,
        "quant_method": "gptq",
        "checkpoint_format": "gptq",
        "pack_dtype": "int32",
        "meta": {"quantizer": ["gptqmodel:5.7.0"], "damp_percent": 0.05},
        **more,
    }


# --- checks ---------------------------------------------------------------------------------------------------


def report(name, wrong):
    results.append(not wrong)
    print(f"{'not ok' if wrong else 'ok'} {len(results)} - {name}", flush=True)
    if wrong:
        print(f"# seed {SEED}: {wrong}", file=sys.stderr)


def write(folder, tensors, how, config=None, separate=False):
    folder = pathlib.Path(folder)
    config = {**CONFIG, **(config or {})}
    if separate:
        (folder / "quantize_config.json").write_text(json.dumps(how))
    elif how is not None:
        config["quantization_config"] = how
    (folder / "config.json").write_text(json.dumps(config))
    oracle.write_tensors(folder / "model.safetensors", tensors)


def ask(folder):
    return subprocess.run([PRINT_LOGITS, folder, *map(str, TOKENS)], capture_output=True, check=False)


def same_logits(name, tensors, how, config=None, separate=False, warning=None):
    with tempfile.TemporaryDirectory() as folder:
        write(folder, tensors, how, config, separate)
        got = ask(folder)
        said = got.stderr.decode()
        if got.returncode != 0:
            report(name, said)
            return
        ours = np.frombuffer(got.stdout, np.float32).reshape(len(TOKENS), VOCAB)
        true = oracle.logits(folder, TOKENS)
    error = np.abs(ours - true).max() / np.abs(true).max()
    wrong = f"the largest difference is {error:.3g} of the largest logit" if not error < 2e-6 else ""
    if (warning is None) != (said == "") or (warning and warning not in said):
        wrong = wrong or f"it says '{said}', expected '{warning or ''}'"
    report(name, wrong)


def refused(name, tensors, how, *words, config=None):
    with tempfile.TemporaryDirectory() as folder:
        write(folder, tensors, how, config)
        got = ask(folder)
    said = got.stderr.decode()
    missing = [word for word in words if word not in said]
    report(f"refused: {name}", "" if got.returncode == 1 and not missing else f"'{said}' does not say {missing}")


def check_compressed(rng):
    linear = ["Linear"]
    for bits, strategy, size in ((4, "group", 32), (4, "group", 128), (4, "channel", None), (8, "channel", None),
                                 (8, "group", 64), (4, "tensor", None), (8, "group", 512)):
        how = compressed_config("pack-quantized", group_of(linear, bits, strategy, size))
        same_logits(f"pack-quantized, {bits} bits, {strategy} {size or ''}".strip(), compressed_model(rng, how), how)
    for strategy, size in (("channel", None), ("tensor", None), ("group", 32)):
        how = compressed_config("int-quantized", group_of(linear, 8, strategy, size))
        how["config_groups"]["group_0"]["input_activations"] = {
            "num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True, "observer": None}
        same_logits(f"int-quantized, {strategy}", compressed_model(rng, how), how)
    how = compressed_config("pack-quantized", group_of(linear, 4, "group", 32, symmetric=False))
    same_logits("pack-quantized, zero points in groups", compressed_model(rng, how), how)
    how = compressed_config("pack-quantized", group_of(linear, 4, "channel", None, symmetric=False))
    same_logits("pack-quantized, zero points of rows", compressed_model(rng, how), how)
    how = compressed_config("pack-quantized", group_of(linear, 4, "group", 32, actorder="group"))
    same_logits("pack-quantized, weight_g_idx", compressed_model(rng, how), how)
    how = compressed_config("pack-quantized", group_of(linear, 4, "group", 32, actorder="group", symmetric=False))
    same_logits("pack-quantized, weight_g_idx and zero points", compressed_model(rng, how), how)
    how = compressed_config("pack-quantized", group_of(linear, 4, "group", 32, actorder="weight"))
    tensors = compressed_model(rng, how)
    tensors["model.layers.0.mlp.up_proj.weight_g_idx"] = np.full(HIDDEN, -1, np.int32)
    same_logits("pack-quantized, weight_g_idx that says nothing", tensors, how)
    how = compressed_config("pack-quantized", group_of(linear, 4, "group", 32))
    same_logits("scales in float32", compressed_model(rng, how, half=False), how)
    same_logits("compression_config", compressed_model(rng, how), None, {"compression_config": how})
    same_logits("compression_config with an object inside", compressed_model(rng, how), None,
                {"compression_config": {"quantization_config": how}})


# What writers of several years put into config.json, in the order and with the fields that they have.
OLDER_COMPRESSED = {
    "config_groups": {
        "group_0": {
            "input_activations": None,
            "output_activations": None,
            "targets": ["Linear"],
            "weights": {"actorder": None, "block_structure": None, "dynamic": False, "group_size": 32, "num_bits": 4,
                        "observer": "minmax", "observer_kwargs": {}, "strategy": "group", "symmetric": True, "type": "int"},
        }
    },
    "format": "pack-quantized",
    "global_compression_ratio": 1.89,
    "ignore": ["lm_head"],
    "kv_cache_scheme": None,
    "quant_method": "compressed-tensors",
    "quantization_status": "frozen",
}
NEWER_COMPRESSED = {
    "config_groups": {
        "group_0": {
            "format": "pack-quantized",
            "input_activations": None,
            "output_activations": None,
            "targets": ["re:.*mlp.*"],
            "weights": {"actorder": "static", "block_structure": None, "dynamic": False, "group_size": 64, "num_bits": 4,
                        "observer": "memoryless_minmax", "observer_kwargs": {}, "scale_dtype": None, "strategy": "group",
                        "symmetric": False, "type": "int", "zp_dtype": "torch.int8"},
        },
        "group_1": {
            "format": "int-quantized",
            "input_activations": {"actorder": None, "block_structure": None, "dynamic": True, "group_size": None,
                                  "num_bits": 8, "observer": None, "observer_kwargs": {}, "scale_dtype": None,
                                  "strategy": "token", "symmetric": True, "type": "int", "zp_dtype": None},
            "output_activations": None,
            "targets": ["Linear"],
            "weights": {"actorder": None, "block_structure": None, "dynamic": False, "group_size": None, "num_bits": 8,
                        "observer": "memoryless_mse", "observer_kwargs": {}, "scale_dtype": None, "strategy": "channel",
                        "symmetric": True, "type": "int", "zp_dtype": None},
        },
    },
    "format": "mixed-precision",
    "global_compression_ratio": None,
    "ignore": ["re:.*lm_head", "re:visual.*", "re:.*\\.0\\.self_attn\\.q_proj$"],
    "kv_cache_scheme": None,
    "quant_method": "compressed-tensors",
    "quantization_status": "compressed",
    "sparsity_config": {},
    "transform_config": {},
    "version": "0.12.3.a20251114",
}
# `format` is nothing that the group itself says.
OWN_FORMAT_NULL = json.loads(json.dumps(OLDER_COMPRESSED))
OWN_FORMAT_NULL["config_groups"]["group_0"]["format"] = None


def check_years(rng):
    for name, how in (("fields of 2024", OLDER_COMPRESSED), ("fields of 2025", NEWER_COMPRESSED),
                      ("a format that is null", OWN_FORMAT_NULL)):
        same_logits(f"compressed-tensors, {name}", compressed_model(rng, how), how)
    how = compressed_config("naive-quantized", group_of(["Linear"], 8, "channel", None))
    tensors = compressed_model(rng, how)
    for name, _, _ in matrices():
        scale, kind = tensors[f"{name}.weight_scale"]
        tensors[f"{name}.weight_scale"] = (scale[:, 0], kind)
    same_logits("naive-quantized, scales without a second dimension", tensors, how)
    newer = gptq_config(4, 32, method="gptq", format="gptq", meta={
        "quantizer": ["gptqmodel:6.0.0"], "uri": "https://github.com/modelcloud/gptqmodel", "damp_percent": 0.05,
        "damp_auto_increment": 0.01, "static_groups": False, "true_sequential": True, "mse": 0.0, "gptaq": None,
        "act_group_aware": True})
    del newer["sym"]
    same_logits("GPTQ, fields of 2026", gptq_model(rng, 4, 32), newer)
    del newer["quant_method"]
    same_logits("GPTQ, `method` only", gptq_model(rng, 4, 32), newer)
    optimum = {"bits": 4, "batch_size": 1, "block_name_to_quantize": "model.layers", "cache_block_outputs": True,
               "damp_percent": 0.1, "dataset": "c4", "desc_act": True, "exllama_config": {"version": 1}, "group_size": 32,
               "max_input_length": None, "model_seqlen": 2048, "module_name_preceding_first_block": ["model.embed_tokens"],
               "modules_in_block_to_quantize": [["self_attn.k_proj", "self_attn.v_proj", "self_attn.q_proj"],
                                                ["self_attn.o_proj"], ["mlp.up_proj", "mlp.gate_proj"], ["mlp.down_proj"]],
               "pad_token_id": None, "quant_method": "gptq", "sym": True, "tokenizer": None, "true_sequential": True,
               "use_cuda_fp16": False, "use_exllama": True}
    same_logits("GPTQ, fields of Optimum", gptq_model(rng, 4, 32, ordered=True), optimum)
    tensors = {key: value for key, value in gptq_model(rng, 8, 64).items() if not key.endswith("g_idx")}
    same_logits("GPTQ without g_idx", tensors, gptq_config(8, 64))


def check_targets(rng):
    packed = "pack-quantized"
    mixed = compressed_config(
        "mixed-precision",
        group_of(["re:.*self_attn.*"], 8, "channel", None, "int-quantized"),
        group_of(["re:.*mlp\\.(gate|up)_proj$"], 4, "group", 32, packed),
        group_of(["model.layers.1.mlp.down_proj", "lm_head"], 4, "group", 64, packed),
        group_of(["Embedding"], 8, "channel", None, packed),
        ignore=["re:.*layers.0.self_attn.o_proj"],
    )
    same_logits("mixed formats, names and expressions", compressed_model(rng, mixed), mixed)
    how = compressed_config(packed, group_of(["Linear"], 4, "group", 32), ignore=["lm_head", "re:.*\\.1\\."])
    same_logits("ignored layers", compressed_model(rng, how), how)
    how = compressed_config(packed, group_of(["Embedding"], 8, "group", 32), group_of(["Linear"], 4, "group", 32))
    same_logits("a quantised embedding that is also the head", compressed_model(rng, how, tied=True), how,
                {"tie_word_embeddings": True})


def check_odd_forms(rng):
    widened = "become float32"
    how = compressed_config("int-quantized", group_of(["Linear"], 8, "channel", None, symmetric=False))
    same_logits("8 bits with zero points", compressed_model(rng, how), how, warning=widened)
    how = compressed_config("pack-quantized", group_of(["Linear"], 4, "group", 16))
    same_logits("groups of 16", compressed_model(rng, how), how, warning=widened)
    how = compressed_config("pack-quantized", group_of(["Linear"], 4, "channel"))
    same_logits("rows that do not fill an int32", compressed_model(rng, how, hidden=100), how, {"hidden_size": 100})
    how = compressed_config("pack-quantized", group_of(["Linear"], 4, "group", 32))
    same_logits("a last group that is short", compressed_model(rng, how, hidden=112), how, {"hidden_size": 112})
    tensors = compressed_model(rng, how)
    name = "model.layers.0.mlp.up_proj.weight_scale"
    tensors[name] = (np.where(rng.random((MIDDLE, HIDDEN // 32)) < 0.3, 0, -tensors[name][0]), "BF16")
    same_logits("scales that are 0 or negative", tensors, how)
    order = np.arange(HIDDEN) // 32
    order[0] = 1
    tensors["model.layers.0.mlp.up_proj.weight_g_idx"] = order.astype(np.int32)
    same_logits("groups of uneven size", tensors, how, warning="uneven groups")


def check_gptq(rng):
    for bits in (4, 8):
        for size in (32, 128, -1):
            same_logits(f"GPTQ, {bits} bits, groups of {size}", gptq_model(rng, bits, size), gptq_config(bits, size))
    same_logits("GPTQ, zero points", gptq_model(rng, 4, 32, symmetric=False), gptq_config(4, 32, sym=False))
    same_logits("GPTQ v2, zero points", gptq_model(rng, 4, 32, symmetric=False, v2=True),
                gptq_config(4, 32, sym=False, checkpoint_format="gptq_v2"))
    same_logits("GPTQ v2 by `format`", gptq_model(rng, 4, 32, v2=True),
                {**gptq_config(4, 32), "checkpoint_format": None, "format": "gptq_v2"})
    for bits in (4, 8):
        same_logits(f"GPTQ, desc_act, {bits} bits", gptq_model(rng, bits, 32, ordered=True),
                    gptq_config(bits, 32, desc_act=True))
    same_logits("GPTQ, desc_act and zero points", gptq_model(rng, 4, 64, ordered=True, symmetric=False),
                gptq_config(4, 64, desc_act=True, sym=False))
    same_logits("GPTQ, a quantised head", gptq_model(rng, 4, 64, head=True), gptq_config(4, 64, lm_head=True))
    old = {"bits": 4, "group_size": 64, "damp_percent": 0.01, "desc_act": False, "sym": True, "true_sequential": True}
    same_logits("GPTQ, quantize_config.json only", gptq_model(rng, 4, 64), old, separate=True)
    tensors = gptq_model(rng, 4, 32)
    for name, rows, columns in matrices():
        if ".0.mlp" in name:
            tensors.update(gptq(rng, name, rows, columns, 8, 64))
        if ".1.self_attn.q" in name:
            tensors = {key: value for key, value in tensors.items() if not key.startswith(name)}
            tensors[f"{name}.weight"] = plain(rng, rows, columns)
    same_logits("GPTQ, dynamic", tensors,
                gptq_config(4, 32, dynamic={"+:.*\\.0\\.mlp": {"bits": 8, "group_size": 64}, "-:.*\\.1\\..*q_proj": {}}))
    same_logits("GPTQ, 8 bits with zero points", gptq_model(rng, 8, 32, symmetric=False), gptq_config(8, 32, sym=False),
                warning="become float32")
    tensors = gptq_model(rng, 4, 32)
    part = "model.layers.0.mlp.up_proj.scales"
    tensors[part] = np.where(rng.random(tensors[part].shape) < 0.3, 0, -tensors[part]).astype(np.float16)
    same_logits("GPTQ, scales that are 0 or negative", tensors, gptq_config(4, 32))
    tensors = gptq_model(rng, 4, 128)
    tensors["model.layers.0.mlp.up_proj.qzeros"] = np.full((1, MIDDLE // 8), -1, np.int32)
    same_logits("GPTQ, a stored zero point of 15", tensors, gptq_config(4, 128), warning="up_proj.qzeros holds 15")


def check_refusals(rng):
    how = compressed_config("pack-quantized", group_of(["Linear"], 4, "group", 32))
    good, name = compressed_model(rng, how), "model.layers.1.mlp.down_proj"

    def changed(**parts):
        tensors = dict(good)
        for part, value in parts.items():
            if value is None:
                del tensors[f"{name}.{part}"]
            else:
                tensors[f"{name}.{part}"] = value
        return tensors

    scale = good[f"{name}.weight_scale"][0]
    for value in (np.nan, np.inf, -np.inf):
        bad = scale.copy()
        bad[3, 2] = value
        refused(f"a scale of {value}", changed(weight_scale=(bad, "BF16")), how, f"{name}.weight_scale", "element 26")
    refused("scales of another shape", changed(weight_scale=(scale[:, :2], "BF16")), how, f"{name}.weight_scale", "[128, 8]")
    refused("no scales", changed(weight_scale=None), how, f"{name}.weight_scale")
    refused("no shape", changed(weight_shape=None), how, f"{name}.weight_shape")
    refused("a shape that lies", changed(weight_shape=np.array([128, 264])), how, f"{name}.weight_shape", "[128, 264]")
    refused("a shape of three sizes", changed(weight_shape=np.array([128, 256, 1])), how, f"{name}.weight_shape")
    packed = good[f"{name}.weight_packed"]
    refused("too few integers", changed(weight_packed=packed[:, :-1]), how, f"{name}.weight_packed")
    refused("integers as int64", changed(weight_packed=packed.astype(np.int64)), how, f"{name}.weight_packed", "I64")
    refused("no integers", changed(weight_packed=None), how, f"{name}.weight_packed")
    refused("a group that there is not", changed(weight_g_idx=np.full(MIDDLE, 8, np.int32)), how, f"{name}.weight_g_idx")
    refused("zero points of symmetric weights",
            changed(weight_zero_point=np.full((16, 8), 0x11111111, np.int32)), how, f"{name}.weight_zero_point")
    asymmetric = compressed_config("pack-quantized", group_of(["Linear"], 4, "group", 32, symmetric=False))
    refused("no zero points", good, asymmetric, "weight_zero_point")
    bytes8 = compressed_config("int-quantized", group_of(["Linear"], 8, "channel", symmetric=False))
    tensors = compressed_model(rng, bytes8)
    tensors[f"{name}.weight_zero_point"] = np.full((128, 1), 128, np.int32)
    refused("zero points out of range", tensors, bytes8, f"{name}.weight_zero_point", "-128 to 127")
    refused("another layout than config.json says", good, compressed_config("int-quantized", *how["config_groups"].values()),
            ".weight")
    plain_there = {key: value for key, value in good.items() if not key.startswith(name)}
    plain_there[f"{name}.weight"] = plain(rng, HIDDEN, MIDDLE)
    refused("a float weight that should be quantised", plain_there, how, f"{name}.weight_packed")
    refused("a quantised weight that is ignored", good, {**how, "ignore": ["lm_head", name]}, f"no tensor called {name}.weight")
    for words, change in (
        (("quant_method is 'awq'",), {"quant_method": "awq"}),
        (("format is 'float-quantized'",), {"format": "float-quantized"}),
        (("format is 'marlin-24'",), {"format": "marlin-24"}),
        (("sparsity_config",), {"sparsity_config": {"format": "sparse-24-bitmask"}}),
        (("transform_config",), {"transform_config": {"config_groups": {}}}),
        (("ignore", "re:(["), {"ignore": ["re:(["]}),
        (("config_groups",), {"config_groups": []}),
    ):
        refused(words[0], good, {**how, **change}, "config.json: quantization_config", *words)
    for words, change in (
        (("num_bits is 3",), {"num_bits": 3}),
        (("type is 'float'",), {"type": "float"}),
        (("group_size is 0",), {"group_size": 0}),
        (("group_size",), {"group_size": -2}),
        (("strategy is 'block'",), {"strategy": "block"}),
        (("strategy is group",), {"group_size": None}),
        (("actorder",), {"actorder": "sideways"}),
        (("dynamic",), {"dynamic": True}),
        (("block_structure",), {"block_structure": [128, 128]}),
    ):
        other = json.loads(json.dumps(how))
        other["config_groups"]["group_0"]["weights"].update(change)
        refused(f"weights: {words[0]}", good, other, "config_groups: group_0: weights", *words)
    tensors, name = gptq_model(rng, 4, 32), "model.layers.1.mlp.down_proj"
    for part, value, words in (
        ("qweight", tensors[f"{name}.qweight"][:-1], ("[32, 128]",)),
        ("qzeros", tensors[f"{name}.qzeros"][:, :-1], ("[8, 16]",)),
        ("scales", tensors[f"{name}.scales"][:-1], ("[8, 128]",)),
        ("g_idx", tensors[f"{name}.g_idx"][:-1], ("[256]",)),
        ("g_idx", tensors[f"{name}.g_idx"] + 1, ("8 groups",)),
        ("scales", np.full((8, 128), np.nan, np.float16), ("element 0",)),
        ("scales", np.where(np.arange(1024).reshape(8, 128) == 130, -np.inf, 1).astype(np.float16), ("element 130",)),
    ):
        refused(f"GPTQ: {part}, {words[0]}", {**tensors, f"{name}.{part}": value}, gptq_config(4, 32), f"{name}.{part}", *words)
    for change, words in (
        ({"bits": 3}, "bits is 3"),
        ({"checkpoint_format": "marlin"}, "checkpoint_format is 'marlin'"),
        ({"pack_dtype": "int16"}, "pack_dtype"),
        ({"is_marlin_format": True}, "is_marlin_format"),
        ({"group_size": 0}, "group_size is 0"),
        ({"bits": 8}, "qweight"),
        ({"group_size": 64}, "scales"),
    ):
        refused(f"GPTQ: {words}", tensors, {**gptq_config(4, 32), **change}, words)


def main():
    rng = np.random.default_rng(SEED)
    check_compressed(rng)
    check_targets(rng)
    check_odd_forms(rng)
    check_gptq(rng)
    check_years(rng)
    check_refusals(rng)
    print(f"1..{len(results)}")
    sys.exit(not all(results))


main()
