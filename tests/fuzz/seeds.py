#!/usr/bin/env python3
"""seeds.py DIR: writes the seeds of every harness into DIR/NAME, and into DIR/data what harnesses read.

Most are made from golden/. Case files of whole models become small: sizes are replaced, tensors are cut.
Their results are then wrong, which does not matter here. The others are written here: files of models,
tokenizers and arrays as small as they can be. tests/data/fuzz/NAME has seeds that take a program to make,
and inputs that were found.
"""

import json
import random
import re
import struct
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PAPER = ROOT / "golden" / "paper"
MODELS = ROOT / "golden" / "models"
WIDTHS = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2, "U8": 1, "BOOL": 1}


# --- files ------------------------------------------------------------------------------------


def count_of(shape):
    count = 1
    for size in shape:
        count *= size
    return count


def safetensors(tensors, metadata=None):
    """Bytes of a file. tensors: {name: (dtype, shape, bytes)}."""
    header, data = {}, b""
    if metadata is not None:
        header["__metadata__"] = metadata
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def read_safetensors(content):
    """Bytes of a file to {name: (dtype, shape, bytes)} and the metadata."""
    start = 8 + struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8:start])
    metadata = header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        tensors[name] = (entry["dtype"], entry["shape"], content[start + begin : start + end])
    return tensors, metadata


def join(*parts):
    """An input of several files, as fuzz_split of fuzz.h reads it."""
    return b"".join(struct.pack("<I", len(part)) + part for part in parts)


def as_json(value):
    return json.dumps(value).encode()


class Seeds:
    def __init__(self, root):
        self.root = root

    def put(self, harness, name, content):
        path = self.root / harness / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


# --- smaller case files -----------------------------------------------------------------------


def fewer(value, sizes):
    """Whole numbers of a JSON value replaced."""
    if isinstance(value, dict):
        return {key: fewer(item, sizes) for key, item in value.items()}
    if isinstance(value, list):
        return [fewer(item, sizes) for item in value]
    return sizes.get(value, value) if type(value) is int else value


def shrink_tensor(tensor, shape_of, modulus):
    dtype, shape, content = tensor
    shape = shape_of(shape)
    content = content[: count_of(shape) * WIDTHS[dtype]]
    if dtype == "I32" and modulus:
        values = struct.unpack(f"<{len(content) // 4}i", content)
        content = struct.pack(f"<{len(values)}i", *(v if v < 0 else v % modulus for v in values))
    return dtype, shape, content


def shrink(path, sizes, metadata=(), modulus=None, shape_of=None):
    """The file with other sizes. metadata: fields to set. modulus: of token ids."""
    tensors, fields = read_safetensors(path.read_bytes())
    replaced = shape_of or (lambda name, shape: [sizes.get(size, size) for size in shape])
    small = {
        name: shrink_tensor(tensor, lambda shape: replaced(name, shape), modulus)
        for name, tensor in tensors.items()
    }
    if fields:
        if "params" in fields:
            fields["params"] = json.dumps(fewer(json.loads(fields["params"]), sizes))
        fields.update(metadata)
    return safetensors(small, fields)


def small_cases(seeds):
    beside = {"inputs_file": "beside.safetensors"}
    sdar = {128: 16, 64: 8, 256: 32, 32: 4}
    inputs = shrink(PAPER / "sdar_attn" / "c_batch2_inputs.safetensors", sdar)
    seeds.put("case", "sdar_attention",
              join(shrink(PAPER / "sdar_attn" / "c_batch2_tau2.safetensors", sdar, beside), inputs))
    video = {64: 8, 32: 4, 16: 2}
    inputs = shrink(PAPER / "video" / "v5_nosink_inputs.safetensors", video)
    seeds.put("case", "video_attention",
              join(shrink(PAPER / "video" / "v5_nosink_th0.safetensors", video, beside), inputs))

    model = {128: 16, 256: 24, 512: 64, 320: 40, 48: 6, 56: 14, 319: 39, 318: 38, 317: 37, 316: 36}
    config = as_json(fewer(json.loads((PAPER / "model" / "m2" / "config.json").read_text()), model))
    weights = shrink(PAPER / "model" / "m2" / "model.safetensors", model)
    tiny = {"model": "tiny"}
    logits = shrink(PAPER / "model" / "m2_logits.safetensors", model, tiny, 40)
    seeds.put("case", "model_logits", join(logits, b"", config, weights))
    for name in ("m2_single_l8_tau1", "m2_batch2_l8_tau3", "m2_steps3_l8_tau0"):
        tokens = {size: small for size, small in model.items() if size > 300}
        generation = shrink(PAPER / "gen" / f"{name}.safetensors", tokens, tiny, 40)
        seeds.put("case", f"generation_{name}", join(generation, b"", config, weights))

    pipeline = {128: 16, 192: 24, 32: 4, 144: 12}

    def frames_of(name, shape):
        if len(shape) == 5 and shape[-2:] == [6, 8]:
            return shape[:-2] + [2, 2]
        wide = {**pipeline, 768: 96}
        return [wide.get(size, size) for size in shape]

    def set_params(content):
        tensors, fields = content
        params = json.loads(fields["params"])
        params.update({"H": 2, "W": 2, "frame_seqlen": 1})
        fields["params"] = json.dumps(params)
        return safetensors(tensors, fields)

    seeds.root.mkdir(parents=True, exist_ok=True)
    scratch = seeds.root / "pipeline"
    scratch.write_bytes(shrink(PAPER / "pipeline" / "p1.safetensors", pipeline,
                               {"weights_file": "beside.safetensors"}, None, frames_of))
    case = set_params(read_safetensors(scratch.read_bytes()))
    scratch.unlink()
    weights = shrink(PAPER / "pipeline" / "p1_weights.safetensors", pipeline, (), None, frames_of)
    seeds.put("case", "pipeline", join(case, weights))


def golden_cases(seeds, limit=110000, of_each=4):
    """Small files of each kind as they are."""
    count = {}
    for path in sorted(PAPER.rglob("*.safetensors"), key=lambda p: p.stat().st_size):
        if path.stat().st_size > limit:
            break
        fields = read_safetensors(path.read_bytes())[1] or {}
        kind = fields.get("kind", "")
        count[kind] = count.get(kind, 0) + 1
        if kind != "generation" and count[kind] <= of_each:
            seeds.put("case", path.stem, join(path.read_bytes()))


def candidates(seeds):
    case = PAPER / "attn" / "attn_09_normal_q1_k1_h8-2_d128.safetensors"
    tensors = read_safetensors(case.read_bytes())[0]
    results = {name: tensor for name, tensor in tensors.items() if name in ("out", "lse")}
    seeds.put("candidate", "safetensors", join(safetensors(results), case.read_bytes()))
    for name, tensor in results.items():
        if tensor[0] == "F32":
            seeds.put("candidate", f"npy_{name}", join(npy("<f4", tensor[1], tensor[2]), case.read_bytes()))
    for name in ("sequence", "sequence_rows"):  # a part already
        case = (ROOT / "tests" / "data" / "fuzz" / "case" / name).read_bytes()
        seeds.put("candidate", name, case + case)
    curblock = PAPER / "kern" / "curblock_33_b2_l4_h8-2_d64.safetensors"
    seeds.put("candidate", "current_block", join(curblock.read_bytes(), curblock.read_bytes()))
    merge = PAPER / "kern" / "merge_15_mixed_nodirty_b4_l4_h5_d32.safetensors"
    seeds.put("candidate", "itself", join(merge.read_bytes(), merge.read_bytes()))
    select = PAPER / "select" / "select_08_low_confidence_static_l4_s2_thr0.5.safetensors"
    seeds.put("candidate", "select", join(select.read_bytes(), select.read_bytes()))


# --- small files ------------------------------------------------------------------------------


def npy(descr, shape, content, version=1):
    dims = "(" + ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "") + ")"
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {dims}, }}".encode()
    start = 10 if version == 1 else 12
    header += b" " * (-(start + len(header) + 1) % 64) + b"\n"
    length = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes([version, 0]) + length + header + content


def arrays(seeds):
    for descr in ("<f2", "<f4", "<f8", "|i1", "<i2", "<i4", "<i8", "|u1", "<u2", "<u4", "<u8", "|b1"):
        width = int(descr[2])
        seeds.put("npy", descr[1:], npy(descr, [2, 3], bytes(range(6 * width))))
    seeds.put("npy", "scalar", npy("<f4", [], b"\0\0\x80\x3f", 2))
    seeds.put("npy", "empty", npy("<f4", [0, 7], b""))


def tensor_files(seeds):
    every = {dtype: (dtype, [2, 2], bytes(range(4 * width))) for dtype, width in WIDTHS.items()}
    seeds.put("safetensors", "types", safetensors(every, {"format": "pt", "params": '{"a": 1}'}))
    seeds.put("safetensors", "empty", safetensors({"a": ("F32", [0], b""), "b": ("F32", [], bytes(4))}))
    seeds.put("safetensors", "none", safetensors({}))
    small = PAPER / "select" / "select_12_sequential_l4_s2_thr0.5.safetensors"
    seeds.put("safetensors", "select", small.read_bytes())

    a = {"a": ("F32", [2], bytes(8)), "b": ("BF16", [3], bytes(6))}
    c = {"c": ("F16", [1, 2], bytes(4))}
    index = {"metadata": {"total_size": 18}, "weight_map": {}}
    names = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    index["weight_map"] = {"a": names[0], "b": names[0], "c": names[1]}
    seeds.put("index", "two", join(as_json(index), safetensors(a), safetensors(c)))
    seeds.put("index", "both", join(as_json(index), safetensors(a), safetensors({**a, **c})))
    one = {"weight_map": {"a": "model.safetensors", "b": "model.safetensors"}}
    seeds.put("index", "beside", join(as_json(one), b"", b"", safetensors(a)))
    seeds.put("index", "alone", join(b"", b"", b"", safetensors(a)))


def numbers(generator, dtype, shape):
    """Random bytes of small numbers."""
    values = [generator.uniform(-0.5, 0.5) for _ in range(count_of(shape))]
    if dtype == "F32":
        return (dtype, shape, struct.pack(f"<{len(values)}f", *values))
    if dtype == "F16":
        return (dtype, shape, struct.pack(f"<{len(values)}e", *values))
    return (dtype, shape, b"".join(struct.pack("<f", value)[2:] for value in values))


MODEL = {
    "architectures": ["SDARForCausalLM"], "model_type": "sdar", "attention_bias": False,
    "hidden_act": "silu", "rope_scaling": None, "tie_word_embeddings": False,
    "torch_dtype": "float32", "sliding_window": None, "use_sliding_window": False, "hidden_size": 8,
    "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 6, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
    "vocab_size": 17, "block_size": 4, "eos_token_id": 14, "mask_token_id": 16, "pad_token_id": 15,
    "max_position_embeddings": 64,
}


def language_model(dtype, tied, bias, vocab=17):
    generator = random.Random(7)
    hidden, middle, heads, kv, dim = 8, 12, 2, 1, 6
    shapes = {"model.embed_tokens.weight": [vocab, hidden], "model.norm.weight": [hidden]}
    if not tied:
        shapes["lm_head.weight"] = [vocab, hidden]
    for layer in range(2):
        p = f"model.layers.{layer}."
        for name, rows, columns in (("q", heads * dim, hidden), ("k", kv * dim, hidden),
                                    ("v", kv * dim, hidden), ("o", hidden, heads * dim)):
            shapes[f"{p}self_attn.{name}_proj.weight"] = [rows, columns]
            if bias:
                shapes[f"{p}self_attn.{name}_proj.bias"] = [rows]
        for name in ("q", "k"):
            shapes[f"{p}self_attn.{name}_norm.weight"] = [dim]
        for name, rows, columns in (("gate", middle, hidden), ("up", middle, hidden),
                                    ("down", hidden, middle)):
            shapes[f"{p}mlp.{name}_proj.weight"] = [rows, columns]
        shapes[p + "input_layernorm.weight"] = shapes[p + "post_attention_layernorm.weight"] = [hidden]
    weights = safetensors({name: numbers(generator, dtype, shape) for name, shape in shapes.items()})
    names = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
    config = {**MODEL, "tie_word_embeddings": tied, "attention_bias": bias, "torch_dtype": names[dtype], "vocab_size": vocab}
    return config, weights


def language_models(seeds):
    generation = as_json({"eos_token_id": [14, 13], "mask_token_id": 16, "pad_token_id": 15})
    described = as_json({"mask_token": "<|MASK|>", "eos_token": {"content": "<|endoftext|>"},
                         "model_max_length": 64, "added_tokens_decoder":
                         {"16": {"content": "<|MASK|>", "special": True}}})
    tokenizer = as_json({"added_tokens": [{"id": 16, "content": "<|MASK|>", "special": True}]})
    for name, dtype, tied, bias in (("f32", "F32", False, False), ("bf16", "BF16", True, False),
                                    ("f16", "F16", False, True)):
        config, weights = language_model(dtype, tied, bias)
        seeds.put("model", name, join(as_json(config), weights, generation, described, tokenizer))
        seeds.put("model", name + "_alone", join(as_json(config), weights))
    config, weights = language_model("F32", False, False)
    del config["rope_theta"], config["rope_scaling"], config["mask_token_id"]
    config["rope_parameters"] = {"rope_type": "default", "rope_theta": 10000.0}
    seeds.put("model", "rope_parameters", join(as_json(config), weights, b"", described, tokenizer))


def integers(generator, shape):
    return "I32", shape, bytes(generator.randrange(256) for _ in range(4 * count_of(shape)))


def quantized_layer(generator, name, rows, columns, how):
    """Tensors of a linear layer of the small model; columns and rows fill int32 in part."""
    words = (columns * 4 + 31) // 32
    if how == "gptq":
        groups, order = (columns + 3) // 4, [i % ((columns + 3) // 4) for i in range(columns)]
        return {f"{name}.qweight": integers(generator, [words, rows]), f"{name}.scales": numbers(generator, "F16", [groups, rows]),
                f"{name}.qzeros": integers(generator, [groups, (rows * 4 + 31) // 32]),
                f"{name}.g_idx": ("I32", [columns], struct.pack(f"<{columns}i", *order))}
    groups = columns // 4 if how == "groups" else 1
    scale = {f"{name}.weight_scale": numbers(generator, "BF16", [rows, groups])}
    if how == "bytes":
        return {**scale, f"{name}.weight": ("I8", [rows, columns], bytes(generator.randrange(256) for _ in range(rows * columns)))}
    packed = {f"{name}.weight_packed": integers(generator, [rows, words]),
              f"{name}.weight_shape": ("I64", [2], struct.pack("<2q", rows, columns))}
    if how == "groups":
        packed[f"{name}.weight_zero_point"] = integers(generator, [(rows * 4 + 31) // 32, groups])
    return {**scale, **packed}


def quantized(generator, config, tensors, how, *files):
    """The same model with its linear layers stored in one of the forms. files: those that follow the weights."""
    stored = {}
    for name, (dtype, shape, data) in tensors.items():
        if name.endswith("proj.weight"):
            stored.update(quantized_layer(generator, name[:-7], *shape, how))
        else:
            stored[name] = (dtype, shape, data)
    of_weights = {"num_bits": 8 if how == "bytes" else 4, "type": "int", "symmetric": how != "groups",
                  "strategy": "group" if how == "groups" else "channel", "group_size": 4 if how == "groups" else None}
    description = {
        "quant_method": "compressed-tensors", "format": "int-quantized" if how == "bytes" else "pack-quantized",
        "config_groups": {"group_0": {"targets": ["re:.*_proj$"], "weights": of_weights}}, "ignore": ["lm_head"]}
    if how == "gptq":
        description = {"quant_method": "gptq", "bits": 4, "group_size": 4, "desc_act": True}
    return join(as_json({**config, "quantization_config": description}), safetensors(stored), *files)


def quantized_models(seeds):
    generator = random.Random(9)
    for how in ("rows", "groups", "bytes", "gptq"):
        config, weights = language_model("BF16", False, False)
        seeds.put("model", f"quantized_{how}", quantized(generator, config, read_safetensors(weights)[0], how))


# Sizes of a small model of another architecture than SDAR's; the vocabulary is as in golden/models.
SMALL = {
    "hidden_size": 8, "intermediate_size": 12, "moe_intermediate_size": 4, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 4, "rotary_dim": 2, "num_experts": 4, "num_experts_per_tok": 2,
    "n_group": 2, "topk_group": 1, "num_shared_experts": 1, "block_size": 4, "bd_size": 4,
}


def small_shape(name, shape, config):
    """Of a tensor of golden/models, with the sizes of config."""
    heads, kv, dim, hidden = (config[key] for key in ("num_attention_heads", "num_key_value_heads", "head_dim", "hidden_size"))
    middle = config["moe_intermediate_size"] if "experts" in name else config["intermediate_size"]
    rows = {"q_proj": heads * dim, "k_proj": kv * dim, "v_proj": kv * dim, "query_key_value": (heads + 2 * kv) * dim,
            "gate_proj": middle, "up_proj": middle, "gate": config["num_experts"], "lm_head": shape[0],
            "embed_tokens": shape[0], "word_embeddings": shape[0]}
    columns = {"o_proj": heads * dim, "dense": heads * dim, "down_proj": middle}
    vectors = {"q_norm": dim, "k_norm": dim, "query_layernorm": dim, "key_layernorm": dim}
    part, kind = name.split(".")[-2:]
    if kind == "expert_bias":
        return [config["num_experts"]]
    if len(shape) == 1:
        return [rows.get(part, vectors.get(part, hidden))]
    return [rows.get(part, hidden), columns.get(part, hidden)]


def is_in(name, config):
    """Whether a model of config's sizes has this tensor."""
    numbers_of = dict(re.findall(r"(layers|experts)\.(\d+)", name))
    return (int(numbers_of.get("layers", 0)) < config["num_hidden_layers"]
            and int(numbers_of.get("experts", 0)) < config["num_experts"])


def stacked(tensors):
    """The same with each matrix of all experts as one tensor, which the library takes apart."""
    made = {}
    for name, (dtype, shape, data) in tensors.items():
        match = re.match(r"(.*\.experts\.)\d+\.(.*)\.weight", name)
        if match:
            name = match[1] + match[2]
            before = made.get(name, (dtype, [0, *shape], b""))
            shape, data = [before[1][0] + 1, *shape], before[2] + data
        made[name] = dtype, shape, data
    return made


def other_architectures(seeds):
    """The architectures of golden/models, with less of everything and random weights."""
    generator = random.Random(10)
    for path in sorted(MODELS.glob("*/config.json")):
        config = json.loads(path.read_text())
        sizes = {**config, **{key: value for key, value in SMALL.items() if key in config}}
        sizes["num_hidden_layers"] = config.get("first_k_dense_replace", 1) + 1
        if "layer_types" in config:
            sizes["layer_types"] = config["layer_types"][: sizes["num_hidden_layers"]]
        dims = {**SMALL, **sizes}
        tensors, _ = read_safetensors(path.with_name("model.safetensors").read_bytes())
        small = {name: numbers(generator, "BF16", small_shape(name, shape, dims))
                 for name, (_, shape, _) in tensors.items() if is_in(name, dims)}
        sizes["torch_dtype"] = "bfloat16"
        mask = {"mask_token": "<|mask|>", "added_tokens_decoder": {"95": {"content": "<|mask|>", "special": True}}}
        files = b"", as_json(mask)
        seeds.put("model", path.parent.name, join(as_json(sizes), safetensors(small), *files))
        if "num_experts" in sizes:
            seeds.put("model", path.parent.name + "_quantized", quantized(generator, sizes, small, "groups", *files))
            seeds.put("model", path.parent.name + "_stacked", join(as_json(sizes), safetensors(stacked(small)), *files))


def trajectory(options, states=(), blocks=2):
    """A record that can be replayed, of the small model; its numbers are made up."""
    generator, size, mask = random.Random(3), 4, MODEL["mask_token_id"]
    rows = {"logits": [size, 17], "gumbel": [size, 17], "hidden": [3, size, 8], "external_out": [2, size, 2, 6],
            "external_lse": [2, size, 2], "out": [2, size, 2, 6]}
    lines = [{"trajectory": 1, "precision": "bf16", "prompt": [1, 2, 0, 1, 2], "options": options}]
    tensors, left, tokens = {}, [2], []
    for block in range(blocks):
        ids, step = left + [mask] * (size - len(left)), 0
        given, left = len(left), []
        while mask in ids:
            masked = [i for i in range(size) if ids[i] == mask]
            proposed = [generator.randrange(13) for _ in range(size)]
            line = {"block": block, "step": step, "action": "reuse" if step % 2 else "refresh", "before": list(ids),
                    "proposed": proposed, "confidence": [0.5] * size, "entropy": [0.7] * size, "uniform": [0.25] * size,
                    "accepted": masked[:1], "tokens": [proposed[masked[0]]]}
            for name in states:
                line[name] = f"{block}.{step}.{name}"
                tensors[line[name]] = numbers(generator, "F32", rows[name])
            lines.append(line)
            ids[masked[0]] = proposed[masked[0]]
            step += 1
        lines.append({"block": block, "step": "commit", "action": "refresh", "before": list(ids)})
        tokens += ids[given:]
    lines.append({"end": "length", "tokens": tokens})
    if states:
        lines[0]["tensors"] = "record.safetensors"
    config, weights = language_model("F32", False, False)
    return join(b"\n".join(map(as_json, lines)), safetensors(tensors) if states else b"", as_json(config), weights)


def trajectories(seeds):
    common = {"max_tokens": 7, "tau": 2}
    seeds.put("trajectory", "plain", trajectory(common))
    seeds.put("trajectory", "states", trajectory(common, ("hidden", "logits")))
    seeds.put("trajectory", "parts", trajectory(common, ("external_out", "external_lse", "out")))
    seeds.put("trajectory", "drawn", trajectory({**common, "temperature": 0.8, "top_k": 5, "top_p": 0.9}))
    seeds.put("trajectory", "gumbel", trajectory({**common, "temperature": 0.8}, ("gumbel",)))
    seeds.put("trajectory", "entropy", trajectory({**common, "remasking": "entropy_bounded", "kv_dtype": "bf16"}))
    seeds.put("trajectory", "rows", trajectory({**common, "reuse": "rows", "tau": 1, "correction": True}))
    seeds.put("trajectory", "released", trajectory({**common, "compat": "released", "reuse_at_commit": True}))


VIDEO = {
    "_class_name": "CausalWanModel", "model_type": "t2v", "dim": 16, "ffn_dim": 12, "freq_dim": 8,
    "in_dim": 3, "out_dim": 3, "coordinate_channels": 0, "num_heads": 2, "num_layers": 1,
    "text_len": 2, "text_dim": 3, "patch_size": [1, 2, 2], "eps": 1e-6, "qk_norm": True,
    "cross_attn_norm": True, "frame_height": 4, "frame_width": 4, "num_frame_per_block": 2,
    "local_attn_size": 4, "sink_size": 0, "denoising_step_list": [1000, 500],
    "warp_denoising_step": True, "timestep_shift": 3.0, "context_noise": 0,
    "words": ["red", "blue", "ring"],
}


def video_models(seeds):
    generator = random.Random(8)
    dim, middle, freq, text, patch = 16, 12, 8, 3, [3, 1, 2, 2]
    shapes = {"head.modulation": [1, 2, dim]}

    def linear(name, rows, *columns):
        shapes[name + ".weight"], shapes[name + ".bias"] = [rows, *columns], [rows]

    linear("patch_embedding", dim, *patch)
    for name, rows, columns in (("text_embedding.0", dim, text), ("text_embedding.2", dim, dim),
                                ("time_embedding.0", dim, freq), ("time_embedding.2", dim, dim),
                                ("time_projection.1", 6 * dim, dim), ("head.head", 12, dim),
                                ("blocks.0.ffn.0", middle, dim), ("blocks.0.ffn.2", dim, middle)):
        linear(name, rows, columns)
    shapes["blocks.0.modulation"] = [1, 6, dim]
    shapes["blocks.0.norm3.weight"] = shapes["blocks.0.norm3.bias"] = [dim]
    for part in ("self_attn", "cross_attn"):
        for name in "qkvo":
            linear(f"blocks.0.{part}.{name}", dim, dim)
        for name in "qk":
            shapes[f"blocks.0.{part}.norm_{name}.weight"] = [dim]
    for dtype in ("F32", "BF16"):
        weights = safetensors({name: numbers(generator, dtype, shape) for name, shape in shapes.items()})
        seeds.put("video", dtype.lower(), join(as_json(VIDEO), weights, b"red ring, blue"))


# --- tokenizers -------------------------------------------------------------------------------

EXPRESSIONS = {
    "gpt2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "qwen": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
            r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    "llama": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
             r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    "odd": r"(?m:^.$)|(?i)k[a-z\d\w\h]{,3}(?:x|\P{L}(?-i)y)++|[^\S\x{41}-\x{5a}]*?|\bq(?=r)(?<!s)",
}


def byte_letters():
    """The byte-level alphabet: printable bytes stand for themselves, others for U+0100 and up."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    letters = {byte: chr(byte) for byte in plain}
    letters.update({byte: chr(256 + i) for i, byte in enumerate(others)})
    return [letters[byte] for byte in range(256)]


def tokenizer(letters, merges, normalizer, expression, **more):
    vocab = {letter: i for i, letter in enumerate(letters)}
    for a, b in merges:
        vocab[a + b] = len(vocab)
    added = [{"id": len(vocab) + i, "content": content, "single_word": word, "lstrip": strip,
              "rstrip": not strip, "normalized": normalized, "special": special}
             for i, (content, word, strip, normalized, special) in enumerate(
                 (("<|MASK|>", False, False, False, True), ("<think>", True, True, True, False)))]
    split = {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "",
             "end_of_word_suffix": "", "fuse_unk": False, "byte_fallback": False, "vocab": vocab,
             "merges": [f"{a} {b}" for a, b in merges]}
    return {"version": "1.0", "added_tokens": added, "normalizer": normalizer,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]},
            "post_processor": None, "decoder": level, "model": {**model, **more}}


TEXTS = ("", "the cat's <think> <|MASK|> 123", "caf\u00e9 e\u0301 \u1100\u1161 \u4e2d\u6587 \U0001f600",
         "  \t\r\n  x\u017f'\u017f K\u212a\u0000y", "\u0085\u00a0\ufeff\u2028")


def tokenizers(seeds):
    letters = byte_letters()
    merges = [("t", "h"), ("th", "e"), ("\u0120", "the"), ("c", "a")]
    described = as_json({"added_tokens_decoder": {"270": {"content": "<x>", "special": False}},
                         "tokenizer_class": "Qwen2Tokenizer", "model_max_length": 64})
    for name, expression in EXPRESSIONS.items():
        for i, text in enumerate(TEXTS):
            seeds.put("regex", f"{name}{i}", expression.encode() + b"\0" + text.encode())
        made = tokenizer(letters, merges, {"type": "NFC"} if name != "odd" else None, expression)
        seeds.put("tokenizer", name, join(as_json(made), described, TEXTS[1].encode()))
    few = tokenizer(["a", "b", "t", "h", "?"], [("t", "h")], None, EXPRESSIONS["gpt2"],
                    unk_token="?", fuse_unk=True, ignore_merges=True)
    few["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": True, "use_regex": True}
    seeds.put("tokenizer", "few", join(as_json(few), b"", b"that a bath"))
    for i, text in enumerate(TEXTS):
        seeds.put("prompt", str(i), text.encode())
    seeds.put("prompt", "bad", b"a\xc3 \xed\xa0\x80 \xf0\x9f\x98")
    seeds.put("data", "tokenizer.json", (ROOT / "golden" / "demo-model" / "tokenizer.json").read_bytes())


def calibrations(seeds):
    whole = json.loads((ROOT / "golden" / "demo-video" / "calibration.json").read_text())
    layers, heads, steps = 2, 2, 3
    whole.update(num_layers=layers, num_heads=heads, num_steps=steps)
    for key, value in whole.items():
        if isinstance(value, list) and value and isinstance(value[0], list):
            whole[key] = [[layer[:heads] for layer in step[:layers]] for step in value[: steps - 1]]
        elif isinstance(value, list):
            whole[key] = value[: steps - 1]
    seeds.put("calibration", "small", as_json(whole))
    seeds.put("calibration", "demo", (ROOT / "golden" / "demo-video" / "calibration.json").read_bytes())


def documents(seeds):
    values = {"a": [1, -1, 0.5, 1e300, 2**63, 2**64, 10**30, True, False, None, "", {}, []],
              "\u00e9\n\"": {"x": "\U0001f600", "y": "\u2028\u007f"}}
    seeds.put("json", "values", as_json(values))
    seeds.put("json", "utf8", json.dumps(values, ensure_ascii=False, indent=2).encode())
    seeds.put("json", "numbers", b"[NaN, Infinity, -Infinity, 1e400, -0, -0.0, 1E+2, 5e-324]")
    seeds.put("json", "nested", b"[" * 100 + b"]" * 100)
    seeds.put("json", "config", as_json(MODEL))
    seeds.put("json", "video", as_json(VIDEO))


def chat_templates(seeds):
    turn = "{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}"
    answer = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    seeds.put("chat_template", "chatml", f"{{% for m in messages %}}{turn}{{% endfor %}}{answer}".encode())
    seeds.put("chat_template", "other", b"{# x #}{% for m in messages -%} [INST] {{ m.content | trim }} {%- endfor %}")
    seeds.put("chat_template", "nested", b"{%- if tools %}{{- '<|im_start|>system' }}{%- elif x is defined %}"
              b"{% raw %}{{ y }}{% endraw %}{%- else %}{% set z = namespace(a=1) %}{%- endif %}")


def chats(seeds):
    """What clients send and chats save; and a model for them, with the demo model's tokens, which become ChatML's."""
    demo = ROOT / "golden" / "demo-model"
    config, weights = language_model("BF16", True, False, 2048)
    config.update(json.loads((demo / "config.json").read_text()) | {key: MODEL[key] for key in (
        "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim")},
        torch_dtype="bfloat16", tie_word_embeddings=True, attention_bias=False, max_position_embeddings=512)
    tokens = (demo / "tokenizer.json").read_text(encoding="utf-8").replace("<|endoftext|>", "<|im_start|>")
    seeds.put("data", "chat/config.json", as_json(config))
    seeds.put("data", "chat/model.safetensors", weights)
    seeds.put("data", "chat/tokenizer.json", tokens.encode())

    turns = [{"role": role, "content": text} for role, text in (
        ("system", "Be brief."), ("user", "Who art thou?"), ("assistant", "I am \u00e9\U0001f600 <|im_end|>."), ("user", "And then?"))]
    parts = [{"role": "user", "content": [{"type": "text", "text": "Who"}, {"type": "text", "text": "?"}]}]
    own = {"tau": 4, "reuse": "rows", "block_size": 8, "denoising_steps": 4, "remasking": "sequential", "threshold": 0.5}
    seeds.put("serve_request", "chat", as_json({"model": "model", "messages": turns, "stream": True,
                                                "stream_options": {"include_usage": True}, "max_completion_tokens": 9}))
    seeds.put("serve_request", "parts", as_json({"messages": parts, "flashblock": own, "logprobs": True, "top_logprobs": 3}))
    seeds.put("serve_request", "text", as_json({"prompt": "And it came", "n": 3, "seed": 7, "temperature": 0.5, "top_p": 0.9,
                                                "top_k": 5, "stop": ["x", "\n\n"], "max_tokens": 20, "logprobs": 2}))
    seeds.put("serve_request", "stop", as_json({"prompt": "", "stop": "x", "model": "another", "user": None}))
    seeds.put("chat_file", "turns", as_json({"format": "chatml", "messages": turns[:3]}))
    seeds.put("chat_file", "alone", as_json({"messages": turns[1:3] * 2, "more": [1]}))
    seeds.put("chat_file", "wrong", as_json({"messages": turns}))


def kept(seeds):
    for path in (ROOT / "tests" / "data" / "fuzz").glob("*/*"):
        seeds.put(path.parent.name, re.sub(r"\W", "_", path.name), path.read_bytes())


def main():
    seeds = Seeds(Path(sys.argv[1]))
    for make in (small_cases, golden_cases, candidates, arrays, tensor_files,
                 language_models, quantized_models, other_architectures, trajectories, video_models, tokenizers,
                 calibrations, documents, chat_templates, chats, kept):
        make(seeds)


if __name__ == "__main__":
    main()
