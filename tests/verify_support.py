"""Shared by the tests of `flashblock verify`: running it, files, and the mathematics once more.

The tests are called with PROGRAM GOLDEN, GOLDEN being the folder golden/ of the source tree. Case
files and candidates are written, and mistakes are made, with nothing but Python's standard library:
what the program says is checked against code that shares nothing with it.
"""
import contextlib
import json
import math
import os
import pathlib
import random
import struct
import subprocess
import sys
import tempfile

from case_support import expect, expect_equal, expect_error

PROGRAM = os.path.abspath(sys.argv[1])
GOLDEN = pathlib.Path(sys.argv[2])
PAPER = GOLDEN / "paper"
INF = math.inf
NAN = math.nan


def verify(*arguments):
    return subprocess.run(
        [PROGRAM, "verify", *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=600,
        check=False,
    )


def text_of(result, status):
    expect_equal(result.returncode, status, f"exit status ({result.stderr!r} {result.stdout!r})")
    return result.stdout.decode()


def totals(text):
    return text.rstrip("\n").rpartition("\n")[2]


def expect_usage_error(result, *words):
    expect_error(result, 2, *words)


@contextlib.contextmanager
def folder():
    with tempfile.TemporaryDirectory(prefix="flashblock-verify-") as path:
        yield pathlib.Path(path)


# --- safetensors, .npy, numbers ------------------------------------------------------------------

FORMATS = {"F64": "d", "F32": "f", "F16": "e", "BF16": "H", "I32": "i", "U8": "B"}


def to_bf16(value):
    """The bits of the nearest bf16, ties to even."""
    if value != value:
        return 0x7FC0
    bits = struct.unpack("<I", struct.pack("<f", value))[0]
    return min(bits + 0x7FFF + (bits >> 16 & 1), 0xFFFFFFFF) >> 16


def from_bf16(bits):
    return struct.unpack("<f", struct.pack("<I", bits << 16))[0]


def to_f32(value):
    """A Python number rounded to float32; the largest ones become infinite."""
    try:
        return struct.unpack("<f", struct.pack("<f", value))[0]
    except OverflowError:
        return math.copysign(INF, value)


def encode(dtype, values):
    if dtype == "BF16":
        values = [to_bf16(to_f32(value)) for value in values]
    elif dtype == "F32":
        values = [to_f32(value) for value in values]
    return struct.pack(f"<{len(values)}{FORMATS[dtype]}", *values)


def write_raw(path, header, data):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def write(path, tensors, metadata=None):
    """tensors: name -> (dtype, shape, values)"""
    header, data = {}, b""
    if metadata is not None:
        header["__metadata__"] = {
            key: value if isinstance(value, str) else json.dumps(value)
            for key, value in metadata.items()
        }
    for name, (dtype, shape, values) in tensors.items():
        content = encode(dtype, values)
        header[name] = {
            "dtype": dtype,
            "shape": shape,
            "data_offsets": [len(data), len(data) + len(content)],
        }
        data += content
    return write_raw(path, header, data)


def read_header(path):
    content = path.read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def read(path):
    """metadata, and name -> (dtype, shape, values)"""
    header, data = read_header(path)
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, info in header.items():
        begin, end = info["data_offsets"]
        code = FORMATS[info["dtype"]]
        count = (end - begin) // struct.calcsize(code)
        values = list(struct.unpack(f"<{count}{code}", data[begin:end]))
        if info["dtype"] == "BF16":
            values = [from_bf16(bits) for bits in values]
        tensors[name] = (info["dtype"], info["shape"], values)
    return metadata, tensors


def write_npy(path, shape, values):
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {tuple(shape)!r}, }}"
    header += " " * (63 - (10 + len(header)) % 64) + "\n"
    content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode()
    path.write_bytes(content + encode("F32", values))
    return path


def golden(prefix):
    found = sorted(PAPER.glob(prefix + "*.safetensors"))
    expect(found, f"no golden file {prefix}*")
    return found[0]


# --- the mathematics, once more ------------------------------------------------------------------


class Attention:
    """Attention in double precision, with the mistakes that the arguments ask for."""

    def __init__(self, params, tensors, names=("q", "k", "v")):
        self.batch, self.heads = params["B"], params["H"]
        self.kv_heads, self.dim = params["Hk"], params["D"]
        self.q, self.k, self.v = (tensors[name][2] for name in names)
        self.queries = len(self.q) // (self.batch * self.heads * self.dim)
        self.keys = len(self.k) // (self.batch * self.kv_heads * self.dim)
        self.scale = params.get("softmax_scale", self.dim**-0.5)

    def row(self, values, heads, tokens, b, token, head):
        at = ((b * tokens + token) * heads + head) * self.dim
        return values[at : at + self.dim]

    def compute(self, scale=None, kv_head=None, sees=None, normalise=True, lengths=None, times=None, value_of=None):
        """out [B, Sq, H, D], lse [B, H, Sq]; lengths: the keys of each batch entry; times(j): how often
        key j is read; value_of(j): the key whose value it has"""
        scale = self.scale if scale is None else scale
        kv_head = kv_head or (lambda h: h // (self.heads // self.kv_heads))
        sees = sees or (lambda query, key: True)
        out = [0.0] * (self.batch * self.queries * self.heads * self.dim)
        lse = [-INF] * (self.batch * self.heads * self.queries)
        for b in range(self.batch):
            for i in range(self.queries):
                for h in range(self.heads):
                    keys = [j for j in range(lengths[b] if lengths else self.keys) if sees(i, j)]
                    keys = [j for j in keys for _ in range(times(j) if times else 1)]
                    if not keys:
                        continue
                    q = self.row(self.q, self.heads, self.queries, b, i, h)
                    kv = [
                        [
                            self.row(x, self.kv_heads, self.keys, b, of(j), kv_head(h))
                            for j in keys
                        ]
                        for x, of in ((self.k, lambda j: j), (self.v, value_of or (lambda j: j)))
                    ]
                    scores = [scale * sum(x * y for x, y in zip(q, k)) for k in kv[0]]
                    top = max(scores)
                    weights = [math.exp(s - top) for s in scores]
                    total = sum(weights)
                    at = ((b * self.queries + i) * self.heads + h) * self.dim
                    divisor = total if normalise else math.exp(-top)
                    for d in range(self.dim):
                        out[at + d] = sum(w * v[d] for w, v in zip(weights, kv[1])) / divisor
                    lse[(b * self.heads + h) * self.queries + i] = top + math.log(total)
        return out, lse


def merge_rows(out_a, lse_a, out_b, lse_b, dim, swapped=False):
    """rows x dim; the empty part is out 0, lse -inf"""
    out = []
    for row, (a, b) in enumerate(zip(lse_a, lse_b)):
        top = max(a, b)
        wa, wb = (0.0, 0.0) if top == -INF else (math.exp(a - top), math.exp(b - top))
        total = wa + wb or 1.0
        if swapped:
            wa, wb = wb, wa
        for d in range(row * dim, (row + 1) * dim):
            out.append((wa * out_a[d] + wb * out_b[d]) / total)
    return out


def transposed(values, rows, columns):
    """[.., rows, columns] to [.., columns, rows]"""
    plane = rows * columns
    return [
        values[at + r * columns + c]
        for at in range(0, len(values), plane)
        for c in range(columns)
        for r in range(rows)
    ]


def open_attention(prefix):
    path = golden(prefix)
    metadata, tensors = read(path)
    return path, Attention(json.loads(metadata["params"]), tensors), tensors


# --- cases of one's own --------------------------------------------------------------------------


def make_attention(params, seed=1, sees=None):
    """A case of the shape params, results as double precision rounded to float32."""
    rng = random.Random(seed)
    sizes = {
        "q": [params["B"], params["Sq"], params["H"], params["D"]],
        "k": [params["B"], params["Sk"], params["Hk"], params["D"]],
        "v": [params["B"], params["Sk"], params["Hk"], params["D"]],
    }
    tensors = {
        name: ("F32", shape, [to_f32(rng.gauss(0, 1)) for _ in range(math.prod(shape))])
        for name, shape in sizes.items()
    }
    if params["Sk"] == 0:
        out = [0.0] * math.prod(sizes["q"])
        lse = [-INF] * (params["B"] * params["H"] * params["Sq"])
    else:
        attention = Attention(params, tensors)
        attention.queries, attention.keys = params["Sq"], params["Sk"]
        out, lse = attention.compute(sees=sees)
    tensors["out"] = ("F32", sizes["q"], out)
    tensors["lse"] = ("F32", [params["B"], params["H"], params["Sq"]], lse)
    return tensors, {"kind": "attention", "params": params}


SMALL = {"B": 2, "Sq": 3, "Sk": 7, "H": 4, "Hk": 2, "D": 20}
# queries at 0 .. 7, keys at 4 .. 11, blocks of 4: the first four queries see nothing
MASKED = {
    **{"B": 1, "Sq": 8, "Sk": 8, "H": 4, "Hk": 2, "D": 16},
    **{"mask_block_size": 4, "first_query": 0, "first_key": 4},
}


def masked_sees(query, key):
    return (4 + key) // 4 <= query // 4


def expect_failed(path, *words):
    """Expects one FAIL line that says why, and no crash."""
    result = verify(path)
    text = text_of(result, 1)
    expect_equal(totals(text), "0 passed, 1 failed, 0 skipped", "totals")
    expect("FAIL" in text, text)
    expect_equal(result.stderr, b"", "standard error")
    for word in words:
        expect(str(word) in text, f"{word!r} is not in {text!r}")
