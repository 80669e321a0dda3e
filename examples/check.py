#!/usr/bin/python3
"""check.py: a kernel of one's own, judged from Python: first as it should be, then with mistakes in it.

Nothing but Python is needed. From a checkout: PYTHONPATH=python python3 examples/check.py
"""
import math
import random

import flashblock

QUERIES, KEYS, HEADS, KV_HEADS, DIM = 4, 70, 4, 2, 16


def attention(q, k, v, scale, base_2=False, keys=KEYS):
    """The kernel: q [T, H, D], k and v [keys, Hk, D] as nested lists. It splits the keys, and merges as it goes."""
    out = [[None] * HEADS for _ in range(QUERIES)]
    lse = [[None] * HEADS for _ in range(QUERIES)]
    for t in range(QUERIES):
        for h in range(HEADS):
            top, total, row = -math.inf, 0.0, [0.0] * DIM
            for j in range(keys):
                key, value = k[j][h // (HEADS // KV_HEADS)], v[j][h // (HEADS // KV_HEADS)]
                score = scale * sum(a * b for a, b in zip(q[t][h], key))
                shrink = math.exp(top - max(top, score))
                weight = math.exp(score - max(top, score))
                top, total = max(top, score), total * shrink + weight
                row = [x * shrink + weight * y for x, y in zip(row, value)]
            out[t][h] = [x / total for x in row]
            lse[t][h] = (top + math.log(total)) / (math.log(2) if base_2 else 1)
    return flashblock.array(out), flashblock.array(lse)


def verdict(name, **mistake):
    scale = mistake.pop("scale", 1 / math.sqrt(DIM))
    out, lse = attention(q.tolist(), k.tolist(), v.tolist(), scale, **mistake)
    try:
        report = flashblock.check(out=out, lse=lse, q=q, k=k, v=v, layout="THD", lse_layout="TH")
    except AssertionError as error:
        report = error.report
    print(f"{name}: {report.summary}")


def normal(*shape):
    count = math.prod(shape)
    return flashblock.array([random.gauss(0, 1) for _ in range(count)], "f32", shape)


random.seed(1)
q, k, v = normal(QUERIES, HEADS, DIM), normal(KEYS, KV_HEADS, DIM), normal(KEYS, KV_HEADS, DIM)
verdict("the kernel as it should be")
verdict("its LSE in base 2", base_2=True)
verdict("its scale applied twice", scale=1 / DIM)
verdict("without the last key", keys=KEYS - 1)
