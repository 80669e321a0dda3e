"""A reading of quantised model directories that shares nothing with the library: NumPy, docs/quantized.md, and a
forward pass in float64. For tests."""
import json
import pathlib
import re
import struct

import numpy as np

TYPES = {"F32": np.float32, "F16": np.float16, "I64": np.int64, "I32": np.int32, "I8": np.int8, "U8": np.uint8}


def read_tensors(path):
    """{name: array} of a safetensors file; bf16 becomes float32."""
    content = pathlib.Path(path).read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    data, tensors = content[8 + length :], {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        piece = data[begin:end]
        if entry["dtype"] == "BF16":
            array = (np.frombuffer(piece, "<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            array = np.frombuffer(piece, np.dtype(TYPES[entry["dtype"]]).newbyteorder("<"))
        tensors[name] = array.reshape(entry["shape"])
    return tensors


def write_tensors(path, tensors):
    """Arrays; a pair (array of float32, "BF16") is cut to bf16, for which it must be exact."""
    header, pieces, offset = {}, [], 0
    names = {np.dtype(value): name for name, value in TYPES.items()}
    for name, array in tensors.items():
        if isinstance(array, tuple):
            array, kind = (np.ascontiguousarray(array[0], np.float32).view(np.uint32) >> 16).astype(np.uint16), "BF16"
        else:
            array = np.asarray(array, order="C")
            kind = names[array.dtype]
        piece = array.tobytes()
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [offset, offset + len(piece)]}
        pieces.append(piece)
        offset += len(piece)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    pathlib.Path(path).write_bytes(struct.pack("<Q", len(text)) + text + b"".join(pieces))


# --- integers in int32 ------------------------------------------------------------------------------------


def unpack(words, bits, count, axis):
    """The first `count` integers along an axis, lowest bits first."""
    words = np.moveaxis(words.astype(np.int64) & 0xFFFFFFFF, axis, -1)
    parts = [(words >> shift) & (2**bits - 1) for shift in range(0, 32, bits)]
    flat = np.stack(parts, -1).reshape(*words.shape[:-1], -1)[..., :count]
    return np.moveaxis(flat, -1, axis)


def pack(integers, bits, axis):
    """Integers 0 .. 2^bits - 1; the last int32 is filled with 0."""
    values = np.moveaxis(np.asarray(integers, np.int64), axis, -1)
    each = 32 // bits
    values = np.concatenate([values, np.zeros((*values.shape[:-1], -values.shape[-1] % each), np.int64)], -1)
    values = values.reshape(*values.shape[:-1], -1, each)
    words = sum(values[..., i] << (bits * i) for i in range(each))
    return np.moveaxis(words.astype(np.uint32).view(np.int32), -1, axis)


# --- weights ----------------------------------------------------------------------------------------------


def named(patterns, name, kind):
    """Whether targets or ignored names cover a layer: (by its name, by its class)."""
    by_name = any(re.match(p[3:], name) if p.startswith("re:") else p == name for p in patterns)
    return by_name, kind in patterns


def scheme_of(config, name, kind):
    """(the group's `weights`, its format) of compressed-tensors; None: not quantised."""
    if any(named(config.get("ignore") or [], name, kind)):
        return None
    groups = config["config_groups"].values()
    for by in (0, 1):
        for group in groups:
            if named(group["targets"], name, kind)[by]:
                return group["weights"], group.get("format") or config["format"]
    return None


def compressed_weight(tensors, name, weights, layout):
    scale = tensors[f"{name}.weight_scale"].astype(np.float64)
    if weights["strategy"] == "channel":
        scale = scale.reshape(-1, 1)
    bits = weights["num_bits"]
    zero = 0
    if layout == "pack-quantized":
        rows, columns = (int(v) for v in tensors[f"{name}.weight_shape"])
        q = unpack(tensors[f"{name}.weight_packed"], bits, columns, 1) - 2 ** (bits - 1)
        if not weights.get("symmetric", True):
            zero = unpack(tensors[f"{name}.weight_zero_point"], bits, rows, 0) - 2 ** (bits - 1)
    else:
        q = tensors[f"{name}.weight"].astype(np.int64)
        columns = q.shape[1]
        if not weights.get("symmetric", True):
            zero = tensors[f"{name}.weight_zero_point"].astype(np.int64)
    if weights["strategy"] == "group":
        index = np.arange(columns) // weights["group_size"]
        order = tensors.get(f"{name}.weight_g_idx")
        if order is not None and -1 not in order:
            index = order
        scale = scale[:, index]
        zero = zero[:, index] if isinstance(zero, np.ndarray) else zero
    return (q - zero) * scale


def gptq_weight(tensors, name, config):
    scales = tensors[f"{name}.scales"].astype(np.float64)
    rows = scales.shape[1]
    index = tensors.get(f"{name}.g_idx")
    if index is None:
        columns = tensors[f"{name}.qweight"].shape[0] * 32 // config["bits"]
        index = np.arange(columns) // (columns // scales.shape[0])
    bits = tensors[f"{name}.qweight"].shape[0] * 32 // index.shape[0]
    q = unpack(tensors[f"{name}.qweight"], bits, index.shape[0], 0)
    zero = unpack(tensors[f"{name}.qzeros"], bits, rows, 1)
    if "gptq_v2" not in (config.get("checkpoint_format"), config.get("format")):
        zero = (zero + 1) % 2**bits
    return ((q - zero[index]) * scales[index]).T


class Reader:
    """The weights of a directory in float64."""

    def __init__(self, directory):
        directory = pathlib.Path(directory)
        self.config = json.loads((directory / "config.json").read_text())
        self.how = self.config.get("quantization_config") or self.config.get("compression_config")
        if self.how and "quantization_config" in self.how:
            self.how = self.how["quantization_config"]
        if self.how is None and (directory / "quantize_config.json").exists():
            self.how = json.loads((directory / "quantize_config.json").read_text())
        self.tensors = {}
        for path in sorted(directory.glob("*.safetensors")):
            self.tensors.update(read_tensors(path))

    def matrix(self, name, kind="Linear"):
        if self.how and f"{name}.qweight" in self.tensors:
            return gptq_weight(self.tensors, name, self.how)
        scheme = scheme_of(self.how, name, kind) if self.how and "config_groups" in self.how else None
        if scheme:
            return compressed_weight(self.tensors, name, *scheme)
        return self.tensors[f"{name}.weight"].astype(np.float64)

    def vector(self, name):
        return self.tensors[f"{name}.weight"].astype(np.float64)


# --- the model --------------------------------------------------------------------------------------------


def norm(x, weight, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight


def rotate(x, positions, theta):
    """x [tokens, heads, head_dim]"""
    half = x.shape[-1] // 2
    angle = positions[:, None] * theta ** (-np.arange(half) / half)
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def mlp(reader, prefix, h):
    gate, up = (h @ reader.matrix(f"{prefix}{n}_proj").T for n in ("gate", "up"))
    return (gate / (1 + np.exp(-gate)) * up) @ reader.matrix(prefix + "down_proj").T


def feed_forward(reader, layer, h):
    """An MLP, or SDAR's mixture of experts."""
    config, prefix = reader.config, f"model.layers.{layer}.mlp."
    if config.get("num_experts", 0) == 0 or (layer + 1) % config.get("decoder_sparse_step", 1):
        return mlp(reader, prefix, h)
    z = h @ reader.matrix(prefix + "gate").T
    p = np.exp(z - z.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    y = np.zeros_like(h)
    for row, chosen in enumerate(np.argsort(-p, -1, "stable")[:, : config["num_experts_per_tok"]]):
        total = p[row, chosen].sum() if config.get("norm_topk_prob") else 1
        for expert in chosen:
            y[row] += p[row, expert] / total * mlp(reader, f"{prefix}experts.{expert}.", h[row : row + 1])[0]
    return y


def logits(directory, tokens):
    """[tokens, vocabulary] of one block with nothing before it."""
    reader = Reader(directory)
    config = reader.config
    heads, kv_heads, width = (config[k] for k in ("num_attention_heads", "num_key_value_heads", "head_dim"))
    eps, count = config["rms_norm_eps"], len(tokens)
    embedding = reader.matrix("model.embed_tokens", "Embedding")
    x, positions = embedding[list(tokens)], np.arange(count)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        h = norm(x, reader.vector(prefix + "input_layernorm"), eps)
        q, k, v = (
            (h @ reader.matrix(f"{prefix}self_attn.{n}_proj").T).reshape(count, m, width)
            for n, m in (("q", heads), ("k", kv_heads), ("v", kv_heads))
        )
        q = rotate(norm(q, reader.vector(prefix + "self_attn.q_norm"), eps), positions, config["rope_theta"])
        k = rotate(norm(k, reader.vector(prefix + "self_attn.k_norm"), eps), positions, config["rope_theta"])
        k, v = (np.repeat(a, heads // kv_heads, 1) for a in (k, v))
        scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(width)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        attended = np.einsum("hqk,khd->qhd", weights, v).reshape(count, -1)
        x = x + attended @ reader.matrix(prefix + "self_attn.o_proj").T
        h = norm(x, reader.vector(prefix + "post_attention_layernorm"), eps)
        x = x + feed_forward(reader, layer, h)
    x = norm(x, reader.vector("model.norm"), eps)
    head = embedding if config.get("tie_word_embeddings") else reader.matrix("lm_head")
    return x @ head.T
