#!/usr/bin/python3
"""random_model.py DIR [--like NAME] [--layers N] [--bits 16|4]: a model of a published shape with random weights.

Writes config.json and model.safetensors, which is all that `flashblock bench decode` reads: what a
forward pass costs depends on the shapes alone. There is no tokenizer, and what it would write is
noise. --bits 4 writes what `flashblock quantize --bits 4` would: linear layers in 4 bits in groups
of 128, the embedding and the head in 8. The file is written a piece at a time.

Shapes are those of the published configurations: Hugging Face's JetLM/SDAR-1.7B-Chat,
JetLM/SDAR-4B-Chat, JetLM/SDAR-30B-A3B-Chat, Gen-Verse/TraDo-8B-Instruct,
inclusionAI/LLaDA2.0-mini and -flash, Efficient-Large-Model/Fast_dLLM_v2_1.5B and _7B, and dllm's
Qwen3-0.6B.
"""
import argparse
import json
import os
import pathlib
import struct
import sys

PIECE = 1 << 24  # bytes made at a time
GROUP = 128

# bf16 in little endian: of the upper byte, a sign and an exponent that make |x| about 2^-6.
UPPER = bytes(0x3C | (value & 0x80) for value in range(256))
ONE, ZERO = b"\x80\x3f", b"\0\0"
SCALE_OF_4, SCALE_OF_8 = b"\x80\x3b", b"\x80\x39"  # 2^-8, 2^-12


def dense(hidden, middle, layers, heads, kv_heads=8, vocab=151936, tied=True, **more):
    return dict(hidden_size=hidden, intermediate_size=middle, num_hidden_layers=layers, num_attention_heads=heads,
                num_key_value_heads=kv_heads, vocab_size=vocab, tie_word_embeddings=tied, **more)


def sdar(*sizes, **more):
    return dense(*sizes, architectures=["SDARForCausalLM"], model_type="sdar", block_size=4, mask_token_id=151669, **more)


def sdar_moe(*sizes, **more):
    return dense(*sizes, kv_heads=4, tied=False, architectures=["SDARMoeForCausalLM"], model_type="sdar_moe", block_size=4,
                 mask_token_id=151669, norm_topk_prob=True, decoder_sparse_step=1, mlp_only_layers=[], **more)


def llada2(*sizes, **more):
    return dense(*sizes, kv_heads=4, tied=False, architectures=["LLaDA2MoeModelLM"], model_type="llada2_moe",
                 first_k_dense_replace=1, num_shared_experts=1, n_group=8, topk_group=4, num_experts_per_tok=8,
                 routed_scaling_factor=2.5, partial_rotary_factor=0.5, use_qkv_bias=False, use_bias=False, **more)


def fast_dllm(*sizes, **more):
    return dense(*sizes, architectures=["Fast_dLLM_QwenForCausalLM"], model_type="Fast_dLLM_Qwen", bd_size=32, **more)


TINY = dict(vocab_size=1024, mask_token_id=1000, eos_token_id=1001)
SHAPES = {
    "sdar-1.7b": sdar(2048, 6144, 28, 16),
    "sdar-4b": sdar(2560, 9728, 36, 32),
    "trado-8b": sdar(4096, 12288, 36, 32, tied=False),
    "sdar-30b-a3b": sdar_moe(2048, 6144, 48, 32, num_experts=128, num_experts_per_tok=8, moe_intermediate_size=768),
    "llada2-mini": llada2(2048, 5120, 20, 16, vocab=157184, num_experts=256, moe_intermediate_size=512),
    "llada2-flash": llada2(4096, 9216, 32, 32, vocab=157184, num_experts=256, moe_intermediate_size=1024),
    "qwen3-0.6b-bd3lm": dense(1024, 3072, 28, 16, architectures=["A2DQwen3LMHeadModel"], model_type="a2d-qwen3",
                              mask_token_id=151669),
    "fast-dllm-v2-1.5b": fast_dllm(1536, 8960, 28, 12, kv_heads=2),
    "fast-dllm-v2-7b": fast_dllm(3584, 18944, 28, 28, kv_heads=4, vocab=152064, tied=False),
    # for tests
    "tiny": sdar(256, 128, 2, 8, tied=False) | TINY,
    "tiny-llada2": llada2(256, 256, 2, 8, num_experts=16, moe_intermediate_size=128) | TINY,
    "tiny-fast-dllm": fast_dllm(256, 256, 2, 2, kv_heads=1) | TINY,
}


def configuration(shape, bits):
    config = {
        "hidden_act": "silu", "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "rope_scaling": None,
        "rope_theta": 600000 if shape["model_type"] == "llada2_moe" else 1000000.0, "torch_dtype": "bfloat16", **shape,
    }
    if shape["model_type"] != "Fast_dLLM_Qwen":
        config["head_dim"] = 128
    if shape["model_type"] != "llada2_moe":
        config.setdefault("eos_token_id", 151645)
    if bits == 4:
        config["quantization_config"] = quantization(shape)
    return config


def quantization(shape):
    def group(targets, bits, size):
        strategy = "group" if size else "channel"
        weights = dict(num_bits=bits, type="int", symmetric=True, group_size=size, strategy=strategy)
        return dict(targets=targets, weights=weights, input_activations=None, format="pack-quantized")

    return {
        "quant_method": "compressed-tensors", "format": "pack-quantized", "quantization_status": "compressed",
        "config_groups": {"group_0": group(["Linear"], 4, GROUP), "group_1": group(["re:.*lm_head$"], 8, None),
                          "group_2": group(["Embedding"], 8, None)},
        "ignore": ["re:.*mlp[.]gate$"] + (["lm_head"] if shape["tie_word_embeddings"] else []),
    }


def matrices(shape):
    """(name, rows, columns, bits of the 4 bit folder) of every matrix, and (name, size, values) of every vector."""
    hidden, kind = shape["hidden_size"], shape["model_type"]
    query, key = shape["num_attention_heads"] * 128, shape["num_key_value_heads"] * 128
    llada, biased = kind == "llada2_moe", kind == "Fast_dLLM_Qwen"
    attention = "attention." if llada else "self_attn."
    yield f"model.{'word_embeddings' if llada else 'embed_tokens'}", shape["vocab_size"], hidden, 8
    for layer in range(shape["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        yield prefix + "input_layernorm.weight", hidden, ONE
        if llada:
            yield prefix + "attention.query_key_value", query + 2 * key, hidden, 4
        for name, rows in [] if llada else [("q", query), ("k", key), ("v", key)]:
            yield f"{prefix}self_attn.{name}_proj", rows, hidden, 4
            if biased:
                yield f"{prefix}self_attn.{name}_proj.bias", rows, ZERO
        for name in [] if biased else ["query_layernorm", "key_layernorm"] if llada else ["q_norm", "k_norm"]:
            yield f"{prefix}{attention}{name}.weight", 128, ONE
        yield prefix + attention + ("dense" if llada else "o_proj"), hidden, query, 4
        yield prefix + "post_attention_layernorm.weight", hidden, ONE
        yield from mlp(prefix + "mlp.", shape, layer)
    yield "model.norm.weight", hidden, ONE
    if not shape["tie_word_embeddings"]:
        yield "lm_head", shape["vocab_size"], hidden, 8


def mlp(prefix, shape, layer):
    hidden, experts = shape["hidden_size"], shape.get("num_experts", 0)
    parts = [(prefix, shape["intermediate_size"])]
    if experts > 0 and layer >= shape.get("first_k_dense_replace", 0):
        yield prefix + "gate", experts, hidden, 16
        if "first_k_dense_replace" in shape:
            yield prefix + "gate.expert_bias", experts, ZERO
        parts = [(f"{prefix}experts.{expert}.", shape["moe_intermediate_size"]) for expert in range(experts)]
        if "num_shared_experts" in shape:
            parts.append((prefix + "shared_experts.", shape["moe_intermediate_size"]))
    for name, width in parts:
        yield name + "gate_proj", width, hidden, 4
        yield name + "up_proj", width, hidden, 4
        yield name + "down_proj", hidden, width, 4


def tensors(shape, bits):
    """(name, dtype, extents, what writes it) of every tensor, in the order of the file: wide types first."""
    shapes, packed, rest = [], [], []
    for name, rows, *more in matrices(shape):
        if len(more) == 1:
            rest.append((name, "BF16", (rows,), more[0] * rows))
            continue
        columns, own = more
        if bits == 16 or own == 16:
            rest.append((name + ".weight", "BF16", (rows, columns), random_bf16))
            continue
        scales = (rows, columns // GROUP if own == 4 else 1)
        shapes.append((name + ".weight_shape", "I64", (2,), struct.pack("<2q", rows, columns)))
        packed.append((name + ".weight_packed", "I32", (rows, columns * own // 32), os.urandom))
        one = SCALE_OF_4 if own == 4 else SCALE_OF_8
        rest.append((name + ".weight_scale", "BF16", scales, one * (scales[0] * scales[1])))
    return packed + rest + shapes


def size_of(dtype, extents):
    size = {"BF16": 2, "I32": 4, "I64": 8}[dtype]
    for extent in extents:
        size *= extent
    return size


def random_bf16(size):
    piece = bytearray(os.urandom(size))
    piece[1::2] = piece[1::2].translate(UPPER)
    return piece


def write_tensor(file, size, writer):
    if isinstance(writer, bytes):
        file.write(writer)
        return
    while size > 0:
        piece = min(size, PIECE)
        file.write(writer(piece))
        size -= piece


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=pathlib.Path, metavar="DIR")
    parser.add_argument("--like", choices=sorted(SHAPES), default="sdar-1.7b")
    parser.add_argument("--layers", type=int, help="other than the published number of layers")
    parser.add_argument("--bits", type=int, choices=(16, 4), default=16, help="of linear layers")
    arguments = parser.parse_args()
    shape = dict(SHAPES[arguments.like])
    if arguments.layers is not None:
        shape["num_hidden_layers"] = arguments.layers
    if shape["num_hidden_layers"] < 1:
        parser.error(f"--layers: {arguments.layers} is not at least 1")

    every, header, offset = tensors(shape, arguments.bits), {}, 0
    for name, dtype, extents, _ in every:
        end = offset + size_of(dtype, extents)
        header[name] = {"dtype": dtype, "shape": extents, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)

    arguments.directory.mkdir(parents=True, exist_ok=True)
    config = json.dumps(configuration(shape, arguments.bits), indent=2) + "\n"
    (arguments.directory / "config.json").write_text(config)
    with open(arguments.directory / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, dtype, extents, writer in every:
            if sys.stderr.isatty():
                print(f"\r\033[K{name}", end="", file=sys.stderr)
            write_tensor(file, size_of(dtype, extents), writer)
    start = "\r\033[K" if sys.stderr.isatty() else ""
    print(f"{start}{arguments.directory}: {offset / 1e9:.2f} GB of weights", file=sys.stderr)


main()
