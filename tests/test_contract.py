#!/usr/bin/env python3
"""Attention and merges, written from docs/contract.md, against the library: the bits are the same.
Numbers in comments are the contract's. Prints TAP.

usage: test_contract.py LIBFLASHBLOCK
"""
import ctypes
import math
import random
import struct
import sys

from documentation_support import run_checks

INF, NAN = math.inf, math.nan


# --- C1: floats, held in Python's doubles ---------------------------------------------------------


def f32(x):
    return ctypes.c_float(x).value


def fma(a, b, c):
    """Rounded once. The product is exact in double; the sum is rounded to odd before it becomes a float."""
    product = a * b
    total = product + c
    if math.isinf(total) or math.isnan(total):
        return f32(total)
    part = total - product
    rest = (product - (total - part)) + (c - part)
    bits = struct.unpack("<q", struct.pack("<d", total))[0]
    if rest != 0 and bits % 2 == 0:
        bits += 1 if (rest > 0) == (total > 0) else -1
        total = struct.unpack("<d", struct.pack("<q", bits))[0]
    return f32(total)


def divide(a, b):
    return f32(a / b) if b != 0 else NAN


def bits_of(x):
    return struct.unpack("<I", struct.pack("<f", x))[0]


# --- C5 -------------------------------------------------------------------------------------------


def constants(*texts):
    return [float.fromhex(text) for text in texts]


LOG2E, LN2_HIGH, LN2_LOW = constants("0x1.715476p+0", "0x1.62e4p-1", "0x1.7f7d1cp-20")
POLYNOMIAL = constants(
    "0x1.6ac746p-10", "0x1.123dep-7", "0x1.555858p-5", "0x1.55548cp-3", "0x1.fffffcp-2", "0x1p0", "0x1p0"
)
R = 12583103.0


def exp(x):
    if math.isnan(x):
        return x
    x = max(x, -104.0)
    k = fma(x, LOG2E, R)
    n = k - R
    r = fma(n, -LN2_LOW, fma(n, -LN2_HIGH, x))
    p = POLYNOMIAL[0]
    for coefficient in POLYNOMIAL[1:]:
        p = fma(p, r, coefficient)
    scale = struct.unpack("<f", struct.pack("<I", bits_of(k) << 23 & 0xFFFFFFFF))[0]
    return f32(f32(p * scale) * 2.0**-64)


def ln(x):
    if math.isnan(x) or math.isinf(x):
        return x
    m, e = math.frexp(x)
    if m < float.fromhex("0x1.6a09e667f3bcdp-1"):
        m, e = 2 * m, e - 1
    t = (m - 1) / (m + 1)
    u = t * t
    y = 0.0
    for k in range(19, 0, -2):
        y = y * u + 1 / k
    return e * float.fromhex("0x1.62e42fefa39efp-1") + (2 * t) * y


# --- C2, C3, C4 -----------------------------------------------------------------------------------


class Quantized:
    """C13.3, of one group."""

    def __init__(self, x):
        m = max(map(abs, x))
        self.integers, self.scale = [0] * len(x), 0.0
        if not all(map(math.isfinite, x)):
            self.scale = NAN
        elif m >= 2.0**-100:
            self.scale, r = f32(m / 127), f32(127 / m)
            self.integers = [round(f32(a * r)) for a in x]


def dot(x, y):
    total = None
    for begin in range(0, len(x), 16):
        chain = f32(x[begin] * y[begin])
        for a, b in zip(x[begin + 1 : begin + 16], y[begin + 1 : begin + 16]):
            chain = fma(a, b, chain)
        total = chain if total is None else f32(total + chain)
    return total


def score_of(q, key, scale):
    if isinstance(key, Quantized):  # C14.3
        q = Quantized(q)
        n = sum(a * b for a, b in zip(q.integers, key.integers))
        return f32(f32(n * key.scale) * f32(scale * q.scale))
    return f32(scale * dot(q, key))  # C3.3


class Weights:
    """C14.4, of one group of keys."""

    def __init__(self, w):
        m = max(w)
        self.integers, self.factor = [0] * len(w), 0.0
        if not all(map(math.isfinite, w)):
            self.factor = NAN
        elif m >= 2.0**-100:
            self.factor, r = f32(m / 255), f32(255 / m)
            self.integers = [round(f32(a * r)) for a in w]


def int_products(p, values):
    """t_d of C14.4."""
    total = [0.0] * len(values[0].integers)
    for begin in range(0, len(p), 16):
        group = values[begin : begin + 16]
        weights = Weights([f32(a * v.scale) for a, v in zip(p[begin : begin + 16], group)])
        for d, t in enumerate(total):
            n = sum(u * v.integers[d] for u, v in zip(weights.integers, group))
            total[d] = fma(n, weights.factor, t)
    return total


def products(p, values):
    """t_d of C3.6 step 6."""
    if isinstance(values[0], Quantized):
        return int_products(p, values)
    return [dot(p, column) for column in zip(*values)]


def attend_tile(q, keys, values, scale, state):
    m, sums, out = state
    scores = [score_of(q, key, scale) for key in keys]
    new = m
    for score in scores:
        new = score if score > new else new
    r = 0.0 if new == -INF else new
    a = 1.0 if new == m else exp(f32(m - r))
    p = [exp(f32(score - r)) for score in scores]
    sums = [f32(total * a) for total in sums]
    for j, weight in enumerate(p):
        sums[j % 16] = f32(sums[j % 16] + weight)
    out = [fma(o, a, t) for o, t in zip(out, products(p, values))]
    return new, sums, out


def attend_chunk(q, keys, values, scale):
    """C3.6 and C3.7."""
    state = (-INF, [0.0] * 16, [0.0] * len(q))
    for begin in range(0, len(keys), 64):
        state = attend_tile(q, keys[begin : begin + 64], values[begin : begin + 64], scale, state)
    m, sums, out = state
    for half in (8, 4, 2, 1):
        sums = [f32(sums[i] + sums[i + half]) for i in range(half)]
    if sums[0] == 0:
        return [0.0] * len(q), -INF
    return [divide(o, sums[0]) for o in out], m + ln(sums[0])


def merge(a, b):
    """C4.1 to C4.3; L stays a double."""
    (larger, l_large), (smaller, l_small) = (b, a) if a[1] < b[1] else (a, b)
    if not (l_large < INF and l_small < INF):
        return [NAN] * len(larger), NAN
    if l_small == -INF:
        return ([0.0] * len(larger) if l_large == -INF else larger), l_large
    w = exp(f32(-abs(l_large - l_small)))
    one = f32(1 + w)
    return [divide(fma(w, s, o), one) for s, o in zip(smaller, larger)], l_large + ln(1 + w)


def attend(q, ranges, scale, visible):
    """C3.8 and C3.9: `ranges` are lists of (key, value), of which the first `visible` count."""
    total = [0.0] * len(q), -INF
    for tokens in ranges:
        part = [0.0] * len(q), -INF
        for begin in range(0, len(tokens), 1024):
            seen = tokens[begin : min(begin + 1024, visible)] if visible > begin else []
            chunk = attend_chunk(q, [k for k, _ in seen], [v for _, v in seen], scale)
            part = merge(part, chunk)
        visible = max(0, visible - len(tokens))
        out, lse = merge(total, (part[0], f32(part[1])))
        total = out, f32(lse)
    return total


# --- the library ----------------------------------------------------------------------------------

SIZE, OFFSET, FLOATS = ctypes.c_size_t, ctypes.c_ssize_t, ctypes.POINTER(ctypes.c_float)


def structure(name, **fields):
    return type(name, (ctypes.Structure,), {"_fields_": list(fields.items())})


Range = structure("fb_range", begin=SIZE, end=SIZE)
Kv = structure(
    "fb_kv",
    **{"dtype": ctypes.c_int, "num_tokens": SIZE, "num_kv_heads": SIZE, "head_dim": SIZE},
    **{"k": ctypes.c_void_p, "v": ctypes.c_void_p, "k_token": OFFSET, "k_head": OFFSET},
    **{"v_token": OFFSET, "v_head": OFFSET, "pages": ctypes.c_void_p, "first_kv_head": SIZE},
)
CacheConfig = structure("fb_kv_cache_config", layers=SIZE, kv_heads=SIZE, head_dim=SIZE, dtype=ctypes.c_int)
INT8 = 3
View = structure("fb_view", kv=ctypes.POINTER(Kv), ranges=ctypes.POINTER(Range), num_ranges=SIZE)
Queries = structure("fb_queries", q=FLOATS, num=SIZE, heads=SIZE, dim=SIZE, token=OFFSET, head=OFFSET)
Part = structure(
    "fb_part", out=FLOATS, token=OFFSET, head=OFFSET, lse=FLOATS, ltoken=OFFSET, lhead=OFFSET, mean_key=FLOATS
)
Mask = structure("fb_mask", kind=ctypes.c_int, block_size=SIZE, first_query=SIZE, first_key=SIZE)


def floats(values):
    return (ctypes.c_float * len(values))(*values)


def part_of(out, lse, heads, dim):
    return Part(out, heads * dim, dim, lse, heads, 1, None)


HEADS, KV_HEADS = 2, 1  # two query heads read one KV head (C3.1)


def random_rows(generator, count, dim):
    return [[f32(generator.gauss(0, 1.5)) for _ in range(dim)] for _ in range(count)]


def flat(rows):
    return [x for row in rows for x in row]


def differences(name, expected, found):
    for i, (a, b) in enumerate(zip(expected, found)):
        wanted = 0x7FC00000 if math.isnan(a) else bits_of(a)  # C6.5
        if wanted != bits_of(b):
            yield f"{name}[{i}] is {b!r}, the contract says {a!r}"
            return


def stored_as_int8(library, keys, values, dim):
    """The fb_kv of a KV cache of 8 bits."""
    cache, kv, count = ctypes.c_void_p(), Kv(), len(keys)
    config = CacheConfig(1, KV_HEADS, dim, INT8)
    rows = floats(flat(keys)), floats(flat(values))
    library.fb_kv_cache_create(ctypes.byref(config), ctypes.byref(cache))
    library.fb_kv_cache_write(cache, SIZE(0), SIZE(0), SIZE(count), *rows)
    library.fb_kv_cache_layer(cache, SIZE(0), ctypes.byref(kv))
    return cache, kv


def check_attend(library, dim, num_keys, ranges=None, gathered=False, block=0, change=None, int8=False):
    generator = random.Random(num_keys * 100 + dim)
    queries = random_rows(generator, 2 * HEADS, dim)
    keys, values = random_rows(generator, num_keys, dim), random_rows(generator, num_keys, dim)
    if change:
        change(keys, values)
    ranges = [(0, num_keys)] if ranges is None else ranges
    k, v, q = floats(flat(keys)), floats(flat(values)), floats(flat(queries))
    kv = Kv(0, num_keys, KV_HEADS, dim, ctypes.addressof(k), ctypes.addressof(v), dim, dim, dim, dim, None, 0)
    cache = None
    if int8:
        cache, kv = stored_as_int8(library, keys, values, dim)
        keys, values = ([Quantized(row) for row in rows] for rows in (keys, values))
    view = View(ctypes.pointer(kv), (Range * len(ranges))(*ranges), len(ranges))
    out, lse = floats([7.0] * len(q)), floats([7.0] * len(queries))
    mask = Mask(1, block, 40, 0)  # queries at positions 40, 41
    call = library.fb_attend_gathered if gathered else library.fb_attend
    status = call(
        ctypes.byref(Queries(q, 2, HEADS, dim, HEADS * dim, dim)),
        ctypes.byref(view),
        ctypes.byref(mask) if block else None,
        ctypes.c_float(0),
        ctypes.byref(part_of(out, lse, HEADS, dim)),
    )
    if cache:
        library.fb_kv_cache_destroy(cache)
    if status != 0:
        yield f"status {status}"
        return
    tokens = [[(keys[t], values[t]) for t in range(*bounds)] for bounds in ranges]
    tokens = [flat(tokens)] if gathered else tokens
    scale = f32(1 / math.sqrt(dim))  # C3.2
    for row, query in enumerate(queries):
        visible = ((40 + row // HEADS) // block + 1) * block if block else sum(map(len, tokens))  # C3.4
        expected_out, expected_lse = attend(query, tokens, scale, visible)
        yield from differences(f"row {row}: out", expected_out, out[row * dim : (row + 1) * dim])
        yield from differences(f"row {row}: lse", [expected_lse], [lse[row]])


def check_merge(library):
    generator, dim = random.Random(1), 9
    lses = [-INF, INF, NAN, 0.0, -3.25, -3.0, -200.0, 88.5]
    pairs = [(f32(a), f32(b)) for a in lses for b in lses]
    rows_a, rows_b = random_rows(generator, len(pairs), dim), random_rows(generator, len(pairs), dim)
    parts = [
        part_of(floats(flat(rows)), floats([pair[side] for pair in pairs]), 1, dim)
        for side, rows in enumerate((rows_a, rows_b))
    ]
    out, lse = floats([7.0] * len(pairs) * dim), floats([7.0] * len(pairs))
    result = part_of(out, lse, 1, dim)
    library.fb_merge(*map(ctypes.byref, parts), SIZE(len(pairs)), SIZE(1), SIZE(dim), ctypes.byref(result))
    for row, (a, b) in enumerate(pairs):
        expected_out, expected_lse = merge((rows_a[row], a), (rows_b[row], b))
        name = f"merge of L {a} and {b}"
        yield from differences(f"{name}: out", expected_out, out[row * dim : (row + 1) * dim])
        yield from differences(f"{name}: lse", [f32(expected_lse)], [lse[row]])


def check_functions(library):
    for function in (library.fb_exp, library.fb_log):
        function.restype, function.argtypes = ctypes.c_float, [ctypes.c_float]
    generator = random.Random(2)
    xs = [f32(-(2.0 ** generator.uniform(-30, 7.2))) for _ in range(5000)] + [0.0, -0.0, -104.0, -INF]
    yield from differences("exp", [exp(x) for x in xs], [library.fb_exp(x) for x in xs])
    xs = [f32(2.0 ** generator.uniform(0, 127)) for _ in range(5000)] + [1.0, INF]
    yield from differences("ln", [f32(ln(x)) for x in xs], [library.fb_log(x) for x in xs])


# --- what is compared -----------------------------------------------------------------------------


def hostile(keys, values):
    """C6: scores of -inf only in the first chunk; infinite and missing numbers among the values."""
    for key in keys[:1024]:
        key[:] = [0.0] * len(key)
    values[1030][2], values[1031][3] = INF, NAN


def nan_score(keys, _values):
    keys[70][0] = NAN


def main():
    library = ctypes.CDLL(sys.argv[1])
    checks = [("exponential and logarithm", check_functions(library)), ("merge", check_merge(library))]
    for dim, num_keys in ((7, 0), (7, 1), (16, 15), (20, 65), (33, 130), (8, 1025), (16, 2100)):
        checks.append((f"{num_keys} keys of {dim}", check_attend(library, dim, num_keys)))
    split = [(0, 100), (300, 300), (1500, 2700)]
    checks += [
        ("three ranges", check_attend(library, 8, 2700, split)),
        ("gathered ranges", check_attend(library, 8, 2700, split, gathered=True)),
        ("no range", check_attend(library, 8, 20, [])),
        ("block-causal mask", check_attend(library, 8, 90, [(0, 30), (30, 90)], block=3)),
        ("infinities and NaN among the values", check_attend(library, 8, 1100, change=hostile)),
        ("a score that is NaN", check_attend(library, 8, 1100, change=nan_score)),
    ]
    for dim, num_keys in ((7, 0), (1, 1), (20, 65), (33, 130), (8, 1025)):
        checks.append((f"{num_keys} keys of {dim}, of 8 bits", check_attend(library, dim, num_keys, int8=True)))
    checks += [
        ("three ranges, of 8 bits", check_attend(library, 8, 2700, split, int8=True)),
        ("gathered ranges, of 8 bits", check_attend(library, 8, 2700, split, gathered=True, int8=True)),
        ("block-causal mask, of 8 bits", check_attend(library, 8, 90, [(0, 30), (30, 90)], block=3, int8=True)),
        ("infinities and NaN among values of 8 bits", check_attend(library, 8, 1100, change=hostile, int8=True)),
        ("a score of 8 bits that is NaN", check_attend(library, 8, 1100, change=nan_score, int8=True)),
    ]
    return run_checks(checks)


sys.exit(main())
