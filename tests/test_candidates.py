#!/usr/bin/python3
"""test_candidates.py PROGRAM GOLDEN: runs `flashblock verify --candidate`. Prints TAP.

Right results in three precisions must pass, and nothing may be said against them; every planted
mistake must be caught and named.
"""
import json
import math
import os
import random
import re
import subprocess
import sys

from case_support import case, expect, expect_equal, run_cases
from verify_support import (
    Attention,
    INF,
    MASKED,
    NAN,
    PROGRAM,
    expect_failed,
    expect_usage_error,
    folder,
    from_bf16,
    golden,
    make_attention,
    masked_sees,
    merge_rows,
    open_attention,
    read,
    text_of,
    to_bf16,
    transposed,
    verify,
    write,
    write_npy,
)

# --- candidates ----------------------------------------------------------------------------------


def judge(path, tensors, *more, name="candidate.safetensors"):
    """Output and exit status for a candidate with these tensors: name -> (dtype, shape, values)"""
    with folder() as where:
        result = verify(path, "--partial", "--candidate", write(where / name, tensors), *more)
    return result.stdout.decode(), result.returncode


def expect_right(path, tensors, *words):
    text, status = judge(path, tensors)
    expect_equal(status, 0, f"exit status ({text})")
    for word in words:
        expect(word in text, f"{word!r} is not in {text!r}")
    said = text.partition("\n")[2]  # the first line names the files
    for named in ("mistake", "wrong", "transposed", "missing", "base 2", "dirty", "warning"):
        expect(named not in said, f"{named!r} is said of a right candidate: {text!r}")
    return text


def expect_named(path, tensors, *words):
    text, status = judge(path, tensors)
    expect_equal(status, 1, f"exit status ({text})")
    for word in words:
        expect(word in text, f"{word!r} is not in {text!r}")
    return text


@case
def right_candidates_of_each_precision():
    for prefix in ("attn/attn_06", "attn/attn_14", "attn/attn_27", "attn/attn_09", "attn/attn_19"):
        path, _, tensors = open_attention(prefix)
        for dtype in ("F32", "BF16", "F16"):
            # float16 has no 3e4^2; its truth is finite, but its LSE has 1/32 of an ulp of it
            candidate = {
                "out": (dtype, tensors["out64"][1], tensors["out64"][2]),
                "lse": ("F32", tensors["lse64"][1], tensors["lse64"][2]),
            }
            text = expect_right(path, candidate, "base e, [heads, rows]")
            ratio = float(re.search(r"\nout .*? (\S+) +\S+  PASS", text)[1])
            expect(0.0 <= ratio <= 2.0, "ratio", ratio)
            name = {"F32": "f32", "BF16": "bf16", "F16": "f16"}[dtype]
            expect(re.search(rf"\nout +{name} ", text), text)
        lse = {"lse": ("BF16", *tensors["lse64"][1:])}
        expect_right(path, lse)


RESULTS = {
    "attn/attn_06": ["out", "lse"],
    "split/split_07": ["o_past", "lse_past", "o_cur", "lse_cur", "full", "full_lse", "merged_hf",
                       "merged_kernel", "merged_kernel_store"],
    "kern/merge_12": ["engine.out", "engine.full_lse", "engine.hist_out", "engine.hist_lse",
                      "fused.out", "fused.hist_out", "fused.hist_lse"],
    "kern/merge_17": ["engine.out", "engine.full_lse", "engine.hist_out", "engine.hist_lse"],
    "kern/varlen_18": ["out", "hist_out", "hist_lse"],
    "kern/curblock_33": ["out", "lse"],
}


@case
def the_files_own_results_are_right_candidates():
    for prefix, names in RESULTS.items():
        path = golden(prefix)
        tensors = read(path)[1]
        text = expect_right(path, {name: tensors[name] for name in names})
        expect_equal(len(re.findall("  PASS\n", text)), len(names), f"judged in {text!r}")


@case
def a_plain_bf16_kernel_passes():
    """The bound is twice the error of plain bf16 arithmetic, so such a kernel passes."""
    path, attention, tensors = open_attention("attn/attn_27")
    for name in ("q", "k", "v"):
        values = [from_bf16(to_bf16(x)) for x in getattr(attention, name)]
        setattr(attention, name, values)
    out, lse = attention.compute()
    shape, lse_shape = tensors["out"][1], tensors["lse"][1]
    expect_right(path, {"out": ("BF16", shape, out), "lse": ("F32", lse_shape, lse)})
    stored_wider = {"out": ("F32", shape, out)}
    expect_named(path, stored_wider, "the inputs are rounded to bf16")
    text, status = judge(path, stored_wider, "--precision", "bf16")
    expect_equal(status, 0, text)


@case
def an_lse_is_judged_by_base_and_layout():
    path, attention, tensors = open_attention("attn/attn_06")
    dtype, shape, _ = tensors["lse"]
    right = tensors["lse64"][2]
    base_2 = [x * math.log2(math.e) for x in right]
    turned = transposed(right, attention.heads, attention.queries)
    both = transposed(base_2, attention.heads, attention.queries)
    turned_shape = [attention.batch, attention.queries, attention.heads]
    expect_right(path, {"lse": (dtype, shape, right)}, "base e, [heads, rows]")
    text = expect_named(path, {"lse": (dtype, shape, base_2)}, "base 2", "ln 2")
    expect("transposed" not in text, text)
    for written in (shape, turned_shape):
        text = expect_named(
            path, {"lse": (dtype, written, turned)}, "transposed", "[rows, heads] where [heads"
        )
        expect("base 2" not in text, text)
        expect_named(path, {"lse": (dtype, written, both)}, "base 2", "transposed")
    expect_named(path, {"lse": ("BF16", shape, base_2)}, "base 2")
    expect_named(path, {"lse": ("BF16", shape, turned)}, "transposed")


@case
def a_transposed_output_is_named():
    path, attention, tensors = open_attention("attn/attn_27")
    dtype, shape, values = tensors["out"]
    rows = [values[i : i + attention.dim] for i in range(0, len(values), attention.dim)]
    turned = transposed(rows, attention.queries, attention.heads)
    flat = [x for row in turned for x in row]
    expect_named(path, {"out": (dtype, shape, flat)}, "the output is transposed")


@case
def infinities_of_an_lse_are_named():
    with folder() as where:
        tensors, metadata = make_attention(MASKED, sees=masked_sees)
        path = write(where / "masked.safetensors", tensors, metadata)
        dtype, shape, right = tensors["lse"]
        expect(right.count(-INF) == 16 and len(right) == 32, "half of the rows are empty")
        expect_right(path, {"lse": (dtype, shape, right)})
        plus = [INF if x == -INF else x for x in right]
        expect_named(path, {"lse": (dtype, shape, plus)}, "16 empty rows", "+inf")
        shifted = right[1:] + right[:1]
        expect_named(path, {"lse": (dtype, shape, shifted)}, "-inf is in the wrong slot")
        finite = [-1e4 if x == -INF else x for x in right]
        expect_named(path, {"lse": (dtype, shape, finite)}, "it should be -inf")
        nan = [NAN if x == -INF else x for x in right]
        expect_named(path, {"lse": (dtype, shape, nan)}, "16 values are NaN")
        out = tensors["out"]
        lost = [NAN if i < 4 * 4 * 16 else x for i, x in enumerate(out[2])]
        expect_named(path, {"out": (*out[:2], lost)}, "NaN")
        attention = Attention(MASKED, tensors)
        attention.queries = attention.keys = 8
        lse = attention.compute(sees=None)[1]
        expect_named(path, {"lse": (dtype, shape, lse)}, "-inf")
        out = attention.compute(sees=None)[0]
        expect_named(path, {"out": (*tensors["out"][:2], out)}, "the block mask is not applied")
        out = attention.compute(sees=lambda query, key: 4 + key <= query)[0]
        expect_named(path, {"out": (*tensors["out"][:2], out)}, "token by token")


@case
def minus_infinity_in_a_row_that_sees_keys():
    path, _, tensors = open_attention("attn/attn_06")
    dtype, shape, right = tensors["lse"]
    expect_named(path, {"lse": (dtype, shape, [-INF] + right[1:])}, "-inf is in the wrong slot")


ATTENTION_MISTAKES = {
    "the scale is applied twice": lambda a: {"scale": a.scale * a.scale},
    "the scores are not scaled": lambda a: {"scale": 1.0},
    "the wrong KV head": lambda a: {"kv_head": lambda h: h % a.kv_heads},
    "(aligned top left)": lambda a: {"sees": lambda i, j: j <= i},
    "(aligned bottom right)": lambda a: {"sees": lambda i, j: j <= i + a.keys - a.queries},
    "the last key is left out": lambda a: {"sees": lambda i, j: j < a.keys - 1},
    "the block's own keys": lambda a: {"sees": lambda i, j: j < a.keys - a.queries},
    "not divided by the row sum": lambda a: {"normalise": False},
}


def attention_mistake_case(words, arguments, prefix):
    def check():
        path, attention, tensors = open_attention(prefix)
        out, lse = attention.compute(**arguments(attention))
        for dtype in ("F32", "BF16"):
            if words == "the last key is left out" and dtype != "F32":
                continue  # one of many keys is little
            shape = tensors["out"][1]
            text = expect_named(path, {"out": (dtype, shape, out)}, words)
            expect_equal(text.count("\n    out"), 1, f"failures in {text!r}")
        if "row sum" not in words:
            expect_named(path, {"lse": ("F32", tensors["lse"][1], lse)}, words)

    check.__name__ = f"mistake in {prefix}: {words}"
    case(check)


for mistake_words, mistake_arguments in ATTENTION_MISTAKES.items():
    for mistake_file in ("attn/attn_27", "attn/attn_06"):
        attention_mistake_case(mistake_words, mistake_arguments, mistake_file)


@case
def a_last_tile_left_out():
    path, attention, tensors = open_attention("attn/attn_25")
    out, _ = attention.compute(sees=lambda i, j: j < 256)
    # 257 keys: the last tile is the last key
    expect_named(path, {"out": ("F32", tensors["out"][1], out)}, "the last key is left out")


class Fused:
    """The engine's rows of a fused_merge case."""

    def __init__(self, prefix):
        self.path = golden(prefix)
        metadata, self.tensors = read(self.path)
        params = json.loads(metadata["params"])
        self.batch, self.block, self.heads, self.dim = (params[x] for x in "BLHD")
        self.rows = self.batch * self.block * self.heads

    def flag(self, name, row):
        b, rest = divmod(row, self.block * self.heads)
        token, head = divmod(rest, self.heads)
        return self.tensors[name][2][(b * self.heads + head) * self.block + token]

    def part(self, out_name, lse_name, row):
        at = row * self.dim
        return self.tensors[out_name][2][at : at + self.dim], self.tensors[lse_name][2][row]

    def compute(self, fresh=None, zeroed=None, excluded=None, factor=1.0, swapped=False):
        """fresh(store, dirty): whether the fresh history is taken; zeroed, excluded(store, dirty)"""
        fresh = fresh or (lambda store, dirty: store)
        out = []
        for row in range(self.rows):
            store, dirty = self.flag("store_mask", row), self.flag("dirty_mask", row)
            b = self.part("out_cur" if store else "o_full_or_cur", "lse_cur", row)
            if not store and self.flag("need_mask", row):
                out += b[0]
                continue
            names = ("out_hist", "lse_hist") if fresh(store, dirty) else ("hist_out_in",
                                                                         "hist_lse_in")
            a = self.part(*names, row)
            if zeroed and zeroed(store, dirty):
                a = ([0.0] * self.dim, a[1])
            if excluded and excluded(store, dirty):
                a = (a[0], -INF)
            out += merge_rows(
                a[0], [a[1] * factor], b[0], [b[1] * factor], self.dim, swapped=swapped
            )
        return out

    def named(self, words, **arguments):
        shape = self.tensors["engine.out"][1]
        for dtype in ("F32", "BF16"):
            candidate = {"engine.out": (dtype, shape, self.compute(**arguments))}
            expect_named(self.path, candidate, words)


@case
def the_right_merge_is_right():
    for prefix in ("kern/merge_12", "kern/merge_15", "kern/merge_16", "kern/merge_17"):
        fused = Fused(prefix)
        shape = fused.tensors["engine.out"][1]
        for dtype in ("F32", "BF16", "F16"):
            expect_right(fused.path, {"engine.out": (dtype, shape, fused.compute())})


@case
def mistakes_of_merges_are_named():
    fused = Fused("kern/merge_12")
    fused.named("LSEs in base 2 are fed into a merge in base e", factor=math.log2(math.e))
    fused.named("merged with powers of 2", factor=math.log(2))
    fused.named("the weights are swapped", swapped=True)


@case
def an_external_part_that_is_not_refreshed_is_named():
    fused = Fused("kern/merge_12")
    fused.named("the external part is not refreshed", fresh=lambda store, dirty: False)
    fused.named("the external part is always refreshed", fresh=lambda store, dirty: True)
    fused.named("refresh and reuse are exchanged", fresh=lambda store, dirty: not store)
    # the cache itself: what was there before, what is fresh in all rows
    tensors = fused.tensors
    for name, before in (("engine.hist_out", "hist_out_in"), ("engine.hist_lse", "hist_lse_in")):
        expect_named(fused.path, {name: tensors[before]}, "the cache is not refreshed")


@case
def dirty_rows_are_named():
    fused = Fused("kern/merge_12")
    fused.named("dirty rows are dropped", zeroed=lambda store, dirty: dirty and not store)
    fused.named("dirty rows are dropped", zeroed=lambda store, dirty: dirty)
    fused.named("dirty rows are dropped", excluded=lambda store, dirty: dirty and not store)
    fused.named("dirty rows are dropped", excluded=lambda store, dirty: dirty)
    fused.named("dirty rows are kept", fresh=lambda store, dirty: store and not dirty)
    fused.named("dirty rows are refreshed", fresh=lambda store, dirty: store or dirty)
    # the cache itself
    dtype, shape, right = fused.tensors["engine.hist_out"]
    zeroed, kept = list(right), list(right)
    for row in range(fused.rows):
        if fused.flag("dirty_mask", row):
            at = slice(row * fused.dim, (row + 1) * fused.dim)
            kept[at] = fused.tensors["hist_out_in"][2][at]
            if not fused.flag("store_mask", row):
                zeroed[at] = [0.0] * fused.dim
    expect_named(fused.path, {"engine.hist_out": (dtype, shape, zeroed)}, "dirty rows are dropped")
    expect_named(fused.path, {"engine.hist_out": (dtype, shape, kept)}, "dirty rows are kept")


@case
def an_lse_of_the_cache_in_base_2_is_named():
    fused = Fused("kern/merge_12")
    dtype, shape, values = fused.tensors["engine.hist_lse"]
    expect_right(fused.path, {"engine.hist_lse": (dtype, shape, values)})
    expect_named(
        fused.path,
        {"engine.hist_lse": (dtype, shape, [x * math.log2(math.e) for x in values])},
        "base 2",
    )
    turned = transposed(values, fused.block, fused.heads)
    expect_named(fused.path, {"engine.hist_lse": (dtype, shape, turned)}, "transposed")
    empty = Fused("kern/merge_17")
    dtype, shape, values = empty.tensors["engine.hist_lse"]
    expect_right(empty.path, {"engine.hist_lse": (dtype, shape, values)})
    expect_named(
        empty.path, {"engine.hist_lse": (dtype, shape, [-x for x in values])}, "+inf", "empty"
    )


@case
def mistakes_of_a_split_are_named():
    path = golden("split/split_07")
    metadata, tensors = read(path)
    params = json.loads(metadata["params"])
    heads, length, dim = params["H"], params["L"], params["D"]
    shape = tensors["merged_hf"][1]

    def rows(name):
        return transposed(tensors[name][2], heads, length)

    def merged(factor=1.0, **more):
        return merge_rows(
            tensors["o_past"][2],
            [x * factor for x in rows("lse_past")],
            tensors["o_cur"][2],
            [x * factor for x in rows("lse_cur")],
            dim,
            **more,
        )

    expect_right(path, {"merged_hf": ("F32", shape, merged())})
    expect_right(path, {"merged_hf": ("BF16", shape, merged())})
    base_2 = merged(math.log2(math.e))
    expect_named(path, {"merged_hf": ("F32", shape, base_2)}, "LSEs in base 2 are fed")
    expect_named(path, {"merged_hf": ("F32", shape, merged(swapped=True))}, "weights are swapped")
    expect_named(path, {"merged_hf": tensors["o_cur"]}, "the external part is missing")
    expect_named(path, {"merged_hf": tensors["o_past"]}, "the internal part is missing")
    summed = [a + b for a, b in zip(tensors["o_past"][2], tensors["o_cur"][2])]
    expect_named(path, {"merged_hf": ("F32", shape, summed)}, "added without weights")
    lse = tensors["lse_past"]
    expect_named(
        path, {"lse_past": (*lse[:2], [x * math.log2(math.e) for x in lse[2]])}, "base 2"
    )


@case
def mistakes_of_head_masks_are_named():
    path = golden("kern/varlen_18")
    metadata, tensors = read(path)
    params = json.loads(metadata["params"])
    heads, dim, mask = params["H"], params["D"], params["head_mask"]
    tokens = params["B"] * params["Lq"]
    cached = transposed(tensors["hist_lse_in"][2], heads, tokens)
    fresh = transposed(tensors["lse_hist"][2], heads, tokens)
    current = transposed(tensors["lse"][2], heads, tokens)
    o = tensors["o"][2]

    def merged(out_a, lse_a, **more):
        every = merge_rows(out_a, lse_a, o, current, dim, **more)
        return [
            o[i] if mask[i // dim % heads] else every[i] for i in range(tokens * heads * dim)
        ]

    shape = tensors["out"][1]
    right = merged(tensors["hist_out_in"][2], cached)
    expect_right(path, {"out": ("F32", shape, right)})
    expect_right(path, {"out": ("BF16", shape, right)})
    swapped = merged(tensors["hist_out_in"][2], cached, swapped=True)
    expect_named(path, {"out": ("F32", shape, swapped)}, "weights are swapped")
    refreshed = merged(tensors["out_hist"][2], fresh)
    expect_named(path, {"out": ("F32", shape, refreshed)}, "always refreshed")
    expect_named(path, {"out": ("F32", shape, o)}, "the external part is missing")
    every = merge_rows(tensors["hist_out_in"][2], cached, o, current, dim)
    expect_named(path, {"out": ("F32", shape, every)}, "merged with the cached part again")
    expect_named(path, {"hist_out": tensors["hist_out_in"]}, "the cache is not refreshed")
    expect_named(path, {"hist_lse": tensors["hist_lse_in"]}, "the cache is not refreshed")
    expect_named(path, {"hist_lse": tensors["lse_hist"]}, "do not store")


# options of golden --kind attention -> mistakes: words, and what is wrong in Attention.compute
MADE = {
    ("--queries", "1", "--keys", "7"): {
        "the last key is left out": {"sees": lambda i, j: j < 6},
        "reads h mod num_kv_heads": {"kv_head": lambda h: h % 2},
    },
    ("--queries", "3", "--keys", "21", "--batch", "3"): {
        "the first key is left out": {"sees": lambda i, j: j > 0},
    },
    ("--queries", "8", "--keys", "21", "--mask-block", "4"): {
        "the block mask is not applied": {"sees": None},
        "causal, token by token": {"sees": lambda i, j: j <= 13 + i},
    },
    ("--queries", "8", "--keys", "12", "--mask-block", "4", "--first-query", "0", "--first-key", "4"): {
        "the block mask is not applied": {"sees": None},
    },
    ("--queries", "3", "--key-lengths", "19,0,30,5"): {
        "number of keys is ignored": {"lengths": [30] * 4},
        "one key too many: its number of keys": {"lengths": [20, 1, 30, 6]},
        "one key too few: its number of keys": {"lengths": [18, 0, 29, 4]},
        "the number of keys of batch entry 0": {"lengths": [19] * 4},
        "of the batch entry before it": {"lengths": [5, 19, 0, 30]},
        "of the next batch entry": {"lengths": [0, 30, 5, 19]},
        "the last 3 keys are left out: the last of those that each sequence has": {"lengths": [16, 0, 27, 2]},
        "key 7 is left out": {"sees": lambda i, j: j != 7},
        "keys 8 to 11 are left out": {"sees": lambda i, j: not 8 <= j < 12},
        "key 10 is read twice": {"times": lambda j: 2 if j == 10 else 1},
        "key 4 is read twice": {"times": lambda j: 2 if j == 4 else 1},
    },
    ("--queries", "8", "--keys", "40", "--mask-block", "1"): {
        "the last 2 keys are left out: the last of those that each query sees": {"sees": lambda i, j: j <= 30 + i},
        "key 5 is left out": {"sees": lambda i, j: j <= 32 + i and j != 5},
        "keys 16 to 19 are left out": {"sees": lambda i, j: j <= 32 + i and not 16 <= j < 20},
        "keys 8 to 15 are read twice": {"times": lambda j: 2 if 8 <= j < 16 else 1},
        "values are shifted against keys: key j has the value of j - 1": {"value_of": lambda j: max(j - 1, 0)},
    },
    ("--queries", "8", "--key-lengths", "19,0,30,5", "--keys", "32", "--mask-block", "4"): {
        "the block mask is not applied": {"sees": None},
        "number of keys is ignored": {"lengths": [32] * 4},
    },
}


def right_of_made(params):
    """What the case asks for, said once more."""
    block, first = params.get("mask_block_size"), params.get("first_query", 0)
    return {
        "lengths": params.get("key_lengths"),
        "sees": block and (lambda i, j: (params["first_key"] + j) // block <= (first + i) // block),
    }


def make_golden(path, *options):
    made = [PROGRAM, "golden", "--kind", "attention", *options, "-o", path]
    subprocess.run(made, stdout=subprocess.DEVNULL, check=True)
    metadata, tensors = read(path)
    return metadata, tensors, json.loads(metadata["params"])


@case
def made_attention_cases_show_mistakes():
    """Short, batched, masked, with lengths of their own: right results pass, mistakes are named."""
    with folder() as where:
        path = where / "made.safetensors"
        for options, mistakes in MADE.items():
            metadata, tensors, params = make_golden(path, *options)
            text_of(verify(path), 0)
            attention, right = Attention(params, tensors), right_of_made(params)
            shape, lse_shape = tensors["out"][1], tensors["lse"][1]
            out, lse = attention.compute(**right)
            expect_right(path, {"out": ("F32", shape, out), "lse": ("F32", lse_shape, lse)})
            expect_right(path, {"out": ("BF16", shape, out), "lse": ("F32", lse_shape, lse)})
            for words, mistake in mistakes.items():
                out, lse = attention.compute(**{**right, **mistake})
                wrong = {"out": ("F32", shape, out), "lse": ("F32", lse_shape, lse)}
                expect_named(path, wrong, words)
            tensors["out"][2][0] += 1e-3 # the file itself is judged, too
            del tensors["out64"]
            expect_failed(write(where / "lie.safetensors", tensors, metadata), "out")


@case
def wrong_key_lengths_are_errors():
    with folder() as where:
        path = where / "made.safetensors"
        metadata, tensors, params = make_golden(path, "--key-lengths", "3,7")
        for lengths in ([3], [3, 7, 1], [3, 8], [3, -1], [3, "7"], 7, {}):
            metadata["params"] = json.dumps({**params, "key_lengths": lengths})
            expect_failed(write(where / "wrong.safetensors", tensors, metadata), "key_lengths")


@case
def nan_is_told_apart():
    """What gave the NaN is said: each is planted as the kernel that makes it would leave it."""
    with folder() as where:
        path = where / "made.safetensors"
        # batch entry 1 has no keys; 3 queries, 6 heads of 32
        _, tensors, _ = make_golden(path, "--queries", "3", "--key-lengths", "19,0,32")
        out, lse = tensors["out"], tensors["lse"]
        rows = 3 * 6
        empty = [NAN if rows <= i // 32 < 2 * rows else x for i, x in enumerate(out[2])]
        empty_lse = [NAN if rows <= i < 2 * rows else x for i, x in enumerate(lse[2])]
        no_keys = "0/0: a row without keys is divided by its row sum 0"
        text = expect_named(path, {"out": (*out[:2], empty), "lse": lse}, "576 values are NaN", no_keys)
        expect("minus" not in text, text)
        text = expect_named(path, {"out": (*out[:2], empty), "lse": (*lse[:2], empty_lse)},
                            "-inf minus -inf: the maximum of a row without keys")
        expect("0/0" not in text and "0 x NaN" not in text, text)
        expect_named(path, {"lse": (*lse[:2], empty_lse)}, "18 values are NaN: -inf minus -inf")
        expect_named(path, {"out": (*out[:2], empty)}, "0/0 of rows without keys", "give the LSE")
        # the tail of V was not written: all channels of entry 0 are NaN, or some of them
        tail = [NAN if i // 32 < rows else x for i, x in enumerate(out[2])]
        text = expect_named(path, {"out": (*out[:2], tail), "lse": lse}, "0 x NaN: the tail of the last tile")
        expect("minus" not in text, text)
        some = [NAN if i // 32 < rows and i % 32 > 20 else x for i, x in enumerate(out[2])]
        expect_named(path, {"out": (*out[:2], some), "lse": lse}, "0 x NaN or infinity in some channels of V")
        # entry 2 fills its tiles: there is no tail
        whole = [NAN if i // 32 >= 2 * rows else x for i, x in enumerate(out[2])]
        text = expect_named(path, {"out": (*out[:2], whole), "lse": lse}, "0/0: the output of an empty split")
        expect("0 x NaN" not in text, text)
        whole_lse = [NAN if i >= 2 * rows else x for i, x in enumerate(lse[2])]
        text = expect_named(path, {"out": (*out[:2], whole), "lse": (*lse[:2], whole_lse)},
                            "-inf minus -inf: the maximum of a tile or split without keys")
        expect("K that was not written" not in text, text)


@case
def nan_of_two_empty_parts_is_named():
    metadata, tensors = read(golden("kern/varlen_18"))
    params = json.loads(metadata["params"])
    heads, dim, tokens = params["H"], params["D"], params["B"] * params["Lq"]
    head = params["head_mask"].index(0) # token 0 of a head that merges
    for name in ("o", "hist_out_in", "out"):
        values = tensors[name][2]
        values[head * dim : (head + 1) * dim] = [0.0] * dim
    for name in ("lse", "hist_lse_in"):
        tensors[name][2][head * tokens] = -INF
    expect(len(tensors["lse"][2]) == heads * tokens, "the LSE's layout")
    for name in ("hist_out", "hist_lse"):
        del tensors[name]
    with folder() as where:
        path = write(where / "empty.safetensors", tensors, metadata)
        text_of(verify(path), 0)
        dtype, shape, right = tensors["out"]
        expect_right(path, {"out": (dtype, shape, right)})
        nan = right[: head * dim] + [NAN] * dim + right[(head + 1) * dim :]
        expect_named(path, {"out": (dtype, shape, nan)}, f"{dim} values are NaN: -inf minus -inf, the LSEs of two")
        at = (tokens - 1) * heads * dim
        nan = right[:at] + [NAN] + right[at + 1 :]
        expect_named(path, {"out": (dtype, shape, nan)}, "1 values are NaN: rows that are given out as they are, not merged")


def with_rows(values, rows, dim, value):
    """Rows of `dim` values become `value`."""
    return [value if i // dim in rows else x for i, x in enumerate(values)]


@case
def nan_of_merges_is_told_apart():
    """Inputs of an engine's case, changed so that rows 0 to 3 tell what made the NaN."""
    source = Fused("kern/merge_15")
    metadata, tensors = read(source.path)
    dim = source.dim
    rows = [row for row in range(source.rows) if source.flag("store_mask", row)][:4]
    for name in [name for name in tensors if name.startswith(("engine.hist", "fused.", "fake."))]:
        del tensors[name]

    def changed(name, where, value, width=1):
        dtype, shape, values = tensors[name]
        tensors[name] = dtype, shape, with_rows(values, where, width, value)

    changed("out_hist", rows[:2], 0.0, dim)
    changed("lse_hist", rows[:2], -INF)
    changed("out_cur", rows[:1], 0.0, dim)
    changed("lse_cur", rows[:1], -INF)
    changed("lse_hist", rows[2:3], 90.0)
    changed("lse_cur", rows[3:4], -110.0)
    changed("lse_hist", rows[3:4], -112.0)
    with folder() as where:
        fused = Fused("kern/merge_15")
        fused.tensors = tensors
        shape, lse_shape = tensors["engine.out"][1], tensors["engine.full_lse"][1]
        right = fused.compute()
        lse = [tensors["lse_cur"][2][row] for row in range(source.rows)]
        for row in rows:
            a, b = tensors["lse_hist"][2][row], tensors["lse_cur"][2][row]
            top = max(a, b)
            lse[row] = top if top == -INF else top + math.log(math.exp(a - top) + math.exp(b - top))
        others = [row for row in range(source.rows) if source.flag("store_mask", row) and row not in rows]
        for row in others:
            lse[row] = tensors["engine.full_lse"][2][row]
        tensors["engine.out"] = "F32", shape, right
        tensors["engine.full_lse"] = "F32", lse_shape, lse
        path = write(where / "merge.safetensors", tensors, metadata)
        text_of(verify(path), 0)

        def said(row, words, lse_value=None, some=dim):
            out = [NAN if row * dim <= i < row * dim + some else x for i, x in enumerate(right)]
            candidate = {"engine.out": ("F32", shape, out)}
            if lse_value is not None:
                candidate["engine.full_lse"] = "F32", lse_shape, with_rows(lse, [row], 1, lse_value)
            expect_named(path, candidate, f"{some} values are NaN: {words}")

        said(rows[0], "-inf minus -inf, the LSEs of two empty parts that are merged, or 0/0")
        said(rows[0], "-inf minus -inf: the maximum of the LSEs of two empty parts", NAN)
        said(rows[0], "0/0: the outputs of two empty parts", -INF)
        said(rows[1], "0 x NaN of the output of an empty part that was not written, or infinity")
        said(rows[1], "0 x NaN: the output of an empty part was not written", lse[rows[1]])
        said(rows[1], "infinity minus infinity, as where the LSE of an empty part is +inf", NAN)
        said(rows[2], "infinity over infinity: exp of an LSE above 88.7")
        said(rows[3], "0/0: exp of LSEs below -103.9")
        said(others[0], "0 x NaN or infinity in some channels", some=5)
        said(others[0], "both parts have keys and are finite")
        # an input that is NaN
        tensors["out_hist"] = "F32", tensors["out_hist"][1], with_rows(tensors["out_hist"][2], rows[1:2], dim, NAN)
        path = write(where / "merge.safetensors", tensors, metadata)
        said(rows[1], "0 x NaN or infinity: the output of a part of weight 0 was not written")
        said(others[0], "the inputs are not all finite: NaN or infinity of a row spreads")


@case
def nan_of_memory_that_nobody_sees_changes_nothing():
    """Keys and values after the end of a sequence, and behind a mask, may be NaN."""
    with folder() as where:
        for options, first in ((("--key-lengths", "19,33"), 19), (("--keys", "37", "--mask-block", "4"), 36)):
            path = where / "made.safetensors"
            metadata, tensors, params = make_golden(path, "--queries", "8", *options)
            for name in ("k", "v"):
                dtype, shape, values = tensors[name]
                first_of_end, end = first * 2 * 32, params["Sk"] * 2 * 32
                tensors[name] = dtype, shape, values[:first_of_end] + [NAN] * (end - first_of_end) + values[end:]
            if first == 36: # queries 29 to 36: all but the last one see nothing of key 36
                for name in ("out64", "lse64"):
                    del tensors[name]
                seen = 7 * 6
                tensors["out"] = (*tensors["out"][:2], [NAN if i // 32 >= seen else x
                                                        for i, x in enumerate(tensors["out"][2])])
                tensors["lse"] = (*tensors["lse"][:2], [NAN if i % 8 == 7 else x
                                                        for i, x in enumerate(tensors["lse"][2])])
            write(path, tensors, metadata)
            results = {"out": tensors["out"], "lse": tensors["lse"]}
            expect_right(path, results)
            for name in results:
                dtype, shape, values = tensors[name]
                spread = [NAN] * 64 + values[64:] if name == "out" else [NAN] * 4 + values[4:]
                words = "0 x NaN" if first == 19 else "the inputs are not all finite"
                if name == "lse":
                    words = "-inf minus -inf" if first == 19 else "the inputs are not all finite"
                expect_named(path, {**results, name: (dtype, shape, spread)}, words)


@case
def nan_of_the_inputs_is_told_apart():
    with folder() as where:
        path = where / "made.safetensors"
        metadata, tensors, params = make_golden(path, "--queries", "3", "--keys", "21")
        del tensors["out64"], tensors["lse64"]
        tensors["q"][2][6 * 32 + 5] = NAN # query 1, head 0
        write(path, tensors, metadata)
        out, lse = tensors["out"], tensors["lse"]
        right = {
            "out": (*out[:2], [NAN if i // 32 == 6 else x for i, x in enumerate(out[2])]),
            "lse": (*lse[:2], [NAN if i == 1 else x for i, x in enumerate(lse[2])]),
        }
        expect_right(path, right)
        every = {name: (*tensors[name][:2], [NAN] * len(tensors[name][2])) for name in right}
        expect_named(path, every, "the inputs are not all finite: a query is not")
        expect_named(path, {"out": out, "lse": lse}, "32 values should be NaN: NaN of the inputs is lost")
        halved = {"out": (*out[:2], [x / 2 for x in right["out"][2]]), "lse": right["lse"]}
        expect_named(path, halved, "out") # the other rows are judged
        for name, words in (("k", "a key is not"), ("v", "a value is not")):
            metadata, tensors, params = make_golden(path, "--queries", "3", "--keys", "21")
            del tensors["out64"], tensors["lse64"]
            tensors[name][2][7] = INF if name == "v" else NAN # KV head 0: heads 0 to 2
            write(path, tensors, metadata)
            every = {one: (*tensors[one][:2], [NAN] * len(tensors[one][2])) for one in ("out", "lse")}
            expect_named(path, every, "the inputs are not all finite: " + words)


@case
def unexplained_errors_fail():
    path, _, tensors = open_attention("attn/attn_06")
    rng = random.Random(3)
    dtype, shape, right = tensors["out"]
    noisy = [x + rng.gauss(0, 1e-3) for x in right]
    expect_named(path, {"out": (dtype, shape, noisy)}, "no known mistake")
    text, status = judge(path, {"out": ("BF16", shape, noisy)})
    expect_equal(status, 0, text)  # that is what bf16 is like
    one = right[:40] + [right[40] + 1e-3] + right[41:]
    expect_named(path, {"out": (dtype, shape, one)}, "[0,0,0,40]", "no known mistake")
    text, status = judge(path, {"out": (dtype, shape, one), "lse": tensors["lse"]})
    expect_equal(status, 1, text)
    expect("PASS" in text and "FAIL" in text, "each tensor is judged: " + text)


@case
def candidates_of_other_sizes_fail():
    path, _, tensors = open_attention("attn/attn_06")
    text = expect_named(
        path, {"out": ("F32", [5], [0.0] * 5), "lse": tensors["lse"]}, "5 elements", "expected"
    )
    expect("base e" in text, text)


@case
def a_missing_result_is_said():
    path, _, tensors = open_attention("attn/attn_06")
    with folder() as where:
        lse = write(where / "lse.safetensors", {"lse": tensors["lse"]})
        text = text_of(verify(path, "--candidate", lse), 1)
        expect("missing: out" in text and "INCOMPLETE, what is there is right" in text, text)
        out = write(where / "out.safetensors", {"out": tensors["out"]})
        expect("PASS" in text_of(verify(path, "--candidate", out), 0), "an LSE may be missing")


@case
def unknown_tensors_are_said():
    path, _, tensors = open_attention("attn/attn_06")
    text, status = judge(path, {"out": tensors["out"], "output\n": tensors["out"]})
    expect_equal(status, 0, text)
    expect("warning: the case has no result called 'output?'" in text, text)
    text = expect_named(path, {"output": tensors["out"]}, "warning", "none of the candidate's")
    expect_named(path, {}, "none of the candidate's")
    expect_named(path, {"q": tensors["q"]}, "none of the candidate's")


@case
def npy_candidates():
    path, attention, tensors = open_attention("attn/attn_06")
    out, lse = tensors["out"], tensors["lse"]
    with folder() as where:
        for name, (_, shape, values) in (("out", out), ("result", out), ("lse", lse)):
            candidate = write_npy(where / f"{name}.npy", shape, values)
            text_of(verify(path, "--partial", "--candidate", candidate), 0)
        wrong = transposed(lse[2], attention.heads, attention.queries)
        candidate = write_npy(where / "lse.npy", [2, 4, 8], wrong)
        expect("transposed" in text_of(verify(path, "--candidate", candidate), 1), "named")
        (where / "cut.npy").write_bytes((where / "out.npy").read_bytes()[:-4])
        result = verify(path, "--candidate", where / "cut.npy")
        expect_equal(result.returncode, 1, "exit status")
        expect(result.stderr.count(b"\n") == 1 and b"cut.npy" in result.stderr, result.stderr)


@case
def candidates_as_json():
    path, _, tensors = open_attention("attn/attn_06")
    lse = (*tensors["lse"][:2], [INF] + tensors["lse"][2][1:])
    text, status = judge(path, {"out": tensors["out"], "lse": lse, "x": lse}, "--json")
    expect_equal(status, 1, text)
    value = json.loads(text)
    expect_equal(value["not_judged"], ["x"], "not judged")
    out, wrong = value["cases"][0]["findings"]
    expect(out["passed"] and out["rule"] == "candidate" and 0 < out["ratio"] <= 2, out)
    expect_equal(out["precision"], "f32", "precision")
    expect_equal((wrong["max_abs"], wrong["worst"]["value"]), ("inf", "inf"), "infinities")


@case
def a_candidate_needs_a_case():
    _, _, tensors = open_attention("attn/attn_06")
    with folder() as where:
        path = write(where / "x.safetensors", {"x": ("F32", [1], [1.0])}, {"kind": "video"})
        text, status = judge(path, {"out": tensors["out"]})
        expect_equal(status, 1, text)
        expect("SKIP" in text and "PASS" not in text, text)
        result = verify(golden("attn/attn_06"), "--candidate", where / "none.safetensors")
        expect_equal(result.returncode, 1, "exit status")
        expect(b"none.safetensors" in result.stderr, result.stderr)


# --- kept truths ---------------------------------------------------------------------------------

TRUTHS = ".flashblock-truths"


def make_large(where):
    """A case whose truth is large enough to be kept, which is a right candidate of itself."""
    path = where / "large.safetensors"
    run = [PROGRAM, "golden", "-o", path, "--kind", "attention", "--queries", "100", "--keys", "4096"]
    subprocess.run(run, stdout=subprocess.DEVNULL, check=True)
    return path


def judge_large(path, *more):
    return text_of(verify(path, "--candidate", path, *more), 0)


@case
def truths_are_kept_beside_the_case():
    with folder() as where:
        path = make_large(where)
        first = judge_large(path)
        kept = list((where / TRUTHS).iterdir())
        expect(kept and all(len(file.stem) == 32 and file.suffix == ".truth" for file in kept), kept)
        before = [(file.stat().st_ino, file.read_bytes()) for file in kept]
        expect_equal(judge_large(path), first, "the second verdict")
        after = [(file.stat().st_ino, file.read_bytes()) for file in kept]
        expect(before == after, "a truth that is kept was computed again")


@case
def broken_truths_are_computed_again():
    with folder() as where:
        path = make_large(where)
        first = judge_large(path, "--cache", where / "kept")
        (kept,) = (where / "kept").iterdir()
        right = kept.read_bytes()
        middle = len(right) // 2
        flipped = right[:middle] + bytes([right[middle] ^ 1]) + right[middle + 1 :]
        for broken in (b"", right[:-8], flipped):
            kept.write_bytes(broken)
            expect_equal(judge_large(path, "--cache", where / "kept"), first, "the verdict")
            expect(kept.read_bytes() == right, "a broken truth was not replaced")
        kept.unlink()
        os.mkfifo(kept)
        expect_equal(judge_large(path, "--cache", where / "kept"), first, "a named pipe")
        expect(kept.read_bytes() == right, "a named pipe was not replaced")
        kept.unlink()
        kept.mkdir()
        expect_equal(judge_large(path, "--cache", where / "kept"), first, "a directory")
        expect_equal([kept], list((where / "kept").iterdir()), "files")


@case
def truths_need_not_be_kept():
    with folder() as where:
        path = make_large(where)
        first = judge_large(path, "--no-cache")
        expect_equal([path], list(where.iterdir()), "files")
        (where / TRUTHS).write_text("not a directory")
        expect_equal(judge_large(path), first, "where no directory can be made")
        expect_equal(judge_large(path, "--cache", where / "no" / "where"), first, "no parent")
        expect_equal((where / TRUTHS).read_text(), "not a directory", "the file")
    path, _, tensors = open_attention("attn/attn_06")
    with folder() as where:
        small = where / path.name
        small.write_bytes(path.read_bytes())
        text_of(verify(small, "--partial", "--candidate", small), 0)
        expect_equal([small], list(where.iterdir()), "files beside a small case")
        expect_usage_error(verify(small, "--no-cache"), "--no-cache", "--candidate")
        both = verify(small, "--candidate", small, "--cache", where, "--no-cache")
        expect_usage_error(both, "--cache", "--no-cache")


@case
def processes_keep_the_same_truth_at_once():
    with folder() as where:
        path = make_large(where)
        run = [PROGRAM, "verify", path, "--candidate", path]
        started = [subprocess.Popen(run, stdout=subprocess.DEVNULL) for _ in range(4)]
        expect_equal([0] * 4, [process.wait(timeout=600) for process in started], "exit statuses")
        kept = list((where / TRUTHS).iterdir())
        expect_equal([".truth"], [file.suffix for file in kept], "files")


sys.exit(run_cases())
