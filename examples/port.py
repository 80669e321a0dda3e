#!/usr/bin/python3
"""port.py CASE RESULTS: a port of FlashBlock to try the oracle with. It runs over a case of
`flashblock golden` and writes its results for `flashblock verify CASE --candidate RESULTS`.

To judge a kernel, let attention() and merge() call it. Nothing but Python is needed.
"""
import json
import math
import struct
import sys


def load(path):
    """{name: flat list of numbers}, and the parameters of a case file."""
    with open(path, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        data = file.read()
    params = json.loads(header.pop("__metadata__")["params"])
    letters = {"F32": "f", "F64": "d", "I32": "i", "I64": "q", "U8": "B", "I8": "b", "BOOL": "B"}
    tensors = {}
    for name, entry in header.items():
        content = data[slice(*entry["data_offsets"])]
        if entry["dtype"] not in letters:
            sys.exit(f"port.py: {name} is {entry['dtype']}, which this port does not read")
        letter = letters[entry["dtype"]]
        tensors[name] = list(struct.unpack(f"<{len(content) // struct.calcsize(letter)}{letter}", content))
    return tensors, params


def save(path, tensors):
    """tensors: {name: (shape, flat list)}. Everything is written as F32."""
    header, data = {}, b""
    for name, (shape, values) in tensors.items():
        content = struct.pack(f"<{len(values)}f", *values)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)


def attention(q, k, v, p):
    """q [B, H, D], k and v [keys, Hk, D]: out [B, H, D] and the LSE [B, H], in base e."""
    heads, kv_heads, dim = p["num_heads"], p["num_kv_heads"], p["head_dim"]
    out, lse = [], []
    for row in range(len(q) // dim):  # row = query * heads + head
        query = q[row * dim : (row + 1) * dim]
        kv_head = row % heads // (heads // kv_heads)
        starts = range(kv_head * dim, len(k), kv_heads * dim)
        scores = [p["softmax_scale"] * sum(a * b for a, b in zip(query, k[s : s + dim])) for s in starts]
        lse.append(max(scores) + math.log(sum(math.exp(s - max(scores)) for s in scores)))
        weights = [math.exp(s - lse[-1]) for s in scores]
        out += [sum(w * v[s + d] for w, s in zip(weights, starts)) for d in range(dim)]
    return out, lse


def merge(a, b, dim):
    """The parts of two sets of keys, merged: FlashBlock's composition in log space."""
    out, lse = [], []
    for row, (lse_a, lse_b) in enumerate(zip(a[1], b[1])):
        top = max(lse_a, lse_b)
        w_a, w_b = math.exp(lse_a - top), math.exp(lse_b - top)
        lse.append(top + math.log(w_a + w_b))
        for at in range(row * dim, (row + 1) * dim):
            out.append((w_a * a[0][at] + w_b * b[0][at]) / (w_a + w_b))
    return out, lse


def main():
    case, p = load(sys.argv[1])
    if p.get("rows"):
        sys.exit("port.py: this port cannot refresh by rows")
    shape = [p["block_size"], p["num_heads"], p["head_dim"]]
    results, stored = {}, None
    for number, action in enumerate(case["action"]):  # 0: refresh and store, 1: refresh, 2: reuse
        step = f"step{number:02}"
        q = case[f"{step}.q"]
        external = stored
        if action != 2:
            external = attention(q, case["k_context"], case["v_context"], p)
        if action == 0:
            stored = external
            results[f"{step}.external_out"] = (shape, external[0])
            results[f"{step}.external_lse"] = (shape[:2], external[1])
        internal = attention(q, case[f"{step}.k"], case[f"{step}.v"], p)
        out, lse = merge(external, internal, p["head_dim"])
        results[f"{step}.out"] = (shape, out)
        results[f"{step}.lse"] = (shape[:2], lse)
    save(sys.argv[2], results)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main()
