#!/usr/bin/python3
"""random_model.py DIR [--like NAME] [--layers N]: a model of the right shape with random weights.

Writes config.json and model.safetensors (bf16), which is all that `flashblock bench decode` reads:
what a forward pass costs depends on the shapes alone. There is no tokenizer, and what it would write
is noise.

Shapes are those of the published configurations (Hugging Face: JetLM/SDAR-1.7B-Chat,
JetLM/SDAR-4B-Chat, Gen-Verse/TraDo-8B-Instruct; Qwen3's of the same sizes).
"""
import argparse
import json
import os
import pathlib
import struct
import sys

SHAPES = {
    "sdar-1.7b": dict(hidden=2048, middle=6144, layers=28, heads=16, tied=True),
    "sdar-4b": dict(hidden=2560, middle=9728, layers=36, heads=32, tied=True),
    "trado-8b": dict(hidden=4096, middle=12288, layers=36, heads=32, tied=False),
    "tiny": dict(hidden=64, middle=128, layers=2, heads=8, tied=False),  # for tests
}
KV_HEADS, HEAD_DIM, VOCAB = 8, 128, 151936
PIECE = 1 << 24  # bytes made at a time

# bf16 in little endian: of the upper byte, a sign and an exponent that make |x| about 2^-6.
UPPER = bytes(0x3C | (value & 0x80) for value in range(256))
ONE = b"\x80\x3f"


def configuration(shape, layers):
    return {
        "architectures": ["SDARForCausalLM"],
        "model_type": "sdar",
        "attention_bias": False,
        "hidden_act": "silu",
        "hidden_size": shape["hidden"],
        "intermediate_size": shape["middle"],
        "num_hidden_layers": layers,
        "num_attention_heads": shape["heads"],
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "rope_scaling": None,
        "tie_word_embeddings": shape["tied"],
        "torch_dtype": "bfloat16",
        "use_sliding_window": False,
        "vocab_size": VOCAB,
        "block_size": 4,
        "eos_token_id": 151645,
        "mask_token_id": 151669,
    }


def tensors(shape, layers):
    """(name, shape) of every tensor, in the order of the file."""
    hidden, middle, wide = shape["hidden"], shape["middle"], shape["heads"] * HEAD_DIM
    yield "model.embed_tokens.weight", (VOCAB, hidden)
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        yield prefix + "input_layernorm.weight", (hidden,)
        for name, width in (("q", wide), ("k", KV_HEADS * HEAD_DIM), ("v", KV_HEADS * HEAD_DIM)):
            yield f"{prefix}self_attn.{name}_proj.weight", (width, hidden)
        yield prefix + "self_attn.q_norm.weight", (HEAD_DIM,)
        yield prefix + "self_attn.k_norm.weight", (HEAD_DIM,)
        yield prefix + "self_attn.o_proj.weight", (hidden, wide)
        yield prefix + "post_attention_layernorm.weight", (hidden,)
        yield prefix + "mlp.gate_proj.weight", (middle, hidden)
        yield prefix + "mlp.up_proj.weight", (middle, hidden)
        yield prefix + "mlp.down_proj.weight", (hidden, middle)
    yield "model.norm.weight", (hidden,)
    if not shape["tied"]:
        yield "lm_head.weight", (VOCAB, hidden)


def size_of(shape):
    size = 2
    for extent in shape:
        size *= extent
    return size


def random_bf16(size):
    piece = bytearray(os.urandom(size))
    piece[1::2] = piece[1::2].translate(UPPER)
    return piece


def write_tensor(file, shape):
    if len(shape) == 1:  # a norm
        file.write(ONE * shape[0])
        return
    left = size_of(shape)
    while left > 0:
        size = min(left, PIECE)
        file.write(random_bf16(size))
        left -= size


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=pathlib.Path, metavar="DIR")
    parser.add_argument("--like", choices=sorted(SHAPES), default="sdar-1.7b")
    parser.add_argument("--layers", type=int, help="other than the published number of layers")
    arguments = parser.parse_args()
    shape = SHAPES[arguments.like]
    layers = arguments.layers or shape["layers"]
    if layers < 1:
        parser.error(f"--layers: {layers} is not at least 1")

    header, offset = {}, 0
    for name, extents in tensors(shape, layers):
        end = offset + size_of(extents)
        header[name] = {"dtype": "BF16", "shape": extents, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)

    arguments.directory.mkdir(parents=True, exist_ok=True)
    config = json.dumps(configuration(shape, layers), indent=2) + "\n"
    (arguments.directory / "config.json").write_text(config)
    with open(arguments.directory / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, extents in tensors(shape, layers):
            if sys.stderr.isatty():
                print(f"\r\033[K{name}", end="", file=sys.stderr)
            write_tensor(file, extents)
    start = "\r\033[K" if sys.stderr.isatty() else ""
    print(f"{start}{arguments.directory}: {offset / 1e9:.2f} GB of weights", file=sys.stderr)


main()
