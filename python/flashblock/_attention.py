"""Attention as parts, and their merge."""
import ctypes

from . import _declarations as c
from ._arrays import empty
from ._layout import Tensor, check_base, check_layout, lse_layout_of, placed, result, scaled
from ._library import check_status, library


class Mask:
    """A block-causal mask: a query at position p sees the keys of blocks up to its own. Query i of a call is at
    position first_query + i, key j at first_key + j."""

    def __init__(self, block_size, first_query=0, first_key=0):
        self.block_size, self.first_query, self.first_key = block_size, first_query, first_key

    def _struct(self):
        if self.block_size < 1 or self.first_query < 0 or self.first_key < 0:
            raise ValueError(f"{self!r}: block_size must be at least 1, positions at least 0")
        return c.fb_mask(c.FB_MASK_BLOCK_CAUSAL, self.block_size, self.first_query, self.first_key)

    def __repr__(self):
        return f"Mask({self.block_size}, first_query={self.first_query}, first_key={self.first_key})"


def mask_struct(mask):
    """None, or the struct of a Mask."""
    if mask is None:
        return None
    if not isinstance(mask, Mask):
        raise TypeError(f"mask is a {type(mask).__name__}, expected None or flashblock.Mask(block_size)")
    return mask._struct()


class Problem:
    """q, k, v as [B, T, H, D], checked against each other."""

    def __init__(self, q, k, v, layout, kv_layout):
        layout = check_layout(layout, "THD", "layout")
        kv_layout = layout if kv_layout is None else check_layout(kv_layout, "THD", "kv_layout")
        self.layout = layout
        self.q, self.k, self.v = Tensor(q, layout, "q"), Tensor(k, kv_layout, "k"), Tensor(v, kv_layout, "v")
        self.batch, self.num_queries, self.num_heads, self.head_dim = self.q.shape
        _, self.num_keys, self.num_kv_heads, _ = self.k.shape
        if self.k.shape != self.v.shape:
            raise ValueError(f"k is {self.k.shape}, v is {self.v.shape} as [B, T, H, D]: they differ")
        if self.k.shape[0] != self.batch or self.k.shape[3] != self.head_dim:
            raise ValueError(f"q is {self.q.shape}, k is {self.k.shape} as [B, T, H, D]: B and D differ")
        if self.num_kv_heads == 0 or self.num_heads % self.num_kv_heads:
            raise ValueError(f"{self.num_heads} query heads are no multiple of {self.num_kv_heads} KV heads")
        if self.k.dtype != self.v.dtype:
            raise TypeError(f"k is {self.k.array.dtype}, v is {self.v.array.dtype}: they differ")

    def calls(self):
        """Of each sequence: the structs fb_queries and fb_view over all keys, and what they point to."""
        q, k, v = self.q.floats(), self.k.rows(), self.v.rows()
        for b in range(self.batch):
            at = c.fb_queries(q[b].address, self.num_queries, self.num_heads, self.head_dim, *q[b].strides[:2])
            kv = c.fb_kv(
                self.k.dtype, self.num_keys, self.num_kv_heads, self.head_dim, k[b].address, v[b].address,
                *k[b].strides[:2], *v[b].strides[:2], None, 0,
            )  # fmt: skip
            keys = c.fb_range(0, self.num_keys)
            view = c.fb_view(ctypes.pointer(kv), ctypes.pointer(keys), 1)
            yield at, view, (q, k, v, kv, keys)


def part_struct(out, lse):
    """The fb_part over [T, H, D] and [T, H]."""
    return c.fb_part(out.address, *out.strides[:2], lse.address, *lse.strides[:2], None)


def _memory(view):
    """Where a result [B, T, H, D] is computed: its own memory, if its last axis is contiguous there."""
    return view if view.shape[-1] <= 1 or view.strides[-1] == 1 else empty(view.shape, view.dtype)


def attention(q, k, v, *, layout, kv_layout=None, scale=None, mask=None, lse_layout=None, lse_base="e"):
    """The attention of every query over all keys: (out, lse), two float32 Arrays.

    q           [B, T, H, D] in the order that `layout` names: "BHTD", "BTHD", "THD", "HTD", ...
    k, v        [B, keys, Hk, D] in the same order, or in `kv_layout`. H is a multiple of Hk; query head h reads
                KV head h // (H // Hk)
    scale       of the scores; None: 1 / sqrt(D)
    mask        None, or Mask(block_size, first_query=..., first_key=...)
    out         as q; lse in `lse_layout`: "BHT", "BTH", "HT", "TH"; None: as out without D
    lse_base    "e": the natural logarithm of the sum of exponentials of scaled scores; "2": the binary one

    f32, bf16 and f16 are widened exactly; sums are float32, and their bits are the same on every machine. A row
    that sees no key has O = 0 and L = -inf.
    """
    problem = Problem(q, k, v, layout, kv_layout)
    mask = mask_struct(mask)
    lse_layout, factor = lse_layout_of(problem.layout, lse_layout), check_base(lse_base)
    shape = problem.batch, problem.num_queries, problem.num_heads, problem.head_dim
    out, out_view = result(shape, problem.layout)
    lse, lse_view = result(shape[:3], lse_layout)
    memory = _memory(out_view)
    for b, (queries, view, _) in enumerate(problem.calls()):
        part = part_struct(memory[b], lse_view[b])
        check_status(library().fb_attend(queries, view, mask, scale or 0.0, part))
    out = out if memory is out_view else placed(memory, problem.layout)
    return out, scaled(lse, 1.0 / factor)


class Parts:
    """Parts (out, lse) as float32 [B, T, H, D] and natural [B, T, H]."""

    def __init__(self, part, layout, lse_layout, factor, what):
        out, lse = part
        self.out = Tensor(out, layout, f"{what}'s out").floats()
        self.lse = scaled(Tensor(lse, lse_layout, f"{what}'s lse", "TH").floats(), factor)
        if self.out.shape[:3] != self.lse.shape:
            raise ValueError(f"{what}: out is {self.out.shape}, lse is {self.lse.shape} as [B, T, H, D]")


def merge(a, b, *, layout, lse_layout, lse_base="e"):
    """The part over the keys of `a` and of `b`, which must be disjoint: (out, lse), two float32 Arrays.

    a, b        parts (out, lse): out [B, T, H, D] in `layout`, lse [B, T, H] in `lse_layout`, f32, bf16 or f16
    lse_base    of all LSEs: "e" or "2"

        m = max(La, Lb)    L = m + ln(e^(La-m) + e^(Lb-m))
        O = (e^(La-m) Oa + e^(Lb-m) Ob) / (e^(La-m) + e^(Lb-m))

    A row with L = -inf contributes nothing.
    """
    layout, lse_layout = check_layout(layout, "THD", "layout"), check_layout(lse_layout, "TH", "lse_layout")
    factor = check_base(lse_base)
    a, b = Parts(a, layout, lse_layout, factor, "a"), Parts(b, layout, lse_layout, factor, "b")
    if a.out.shape != b.out.shape:
        raise ValueError(f"a is {a.out.shape}, b is {b.out.shape} as [B, T, H, D]: they differ")
    out, out_view = result(a.out.shape, layout)
    lse, lse_view = result(a.lse.shape, lse_layout)
    memory = _memory(out_view)
    _, tokens, heads, dim = a.out.shape
    for i in range(a.out.shape[0]):
        check_status(
            library().fb_merge(
                part_struct(a.out[i], a.lse[i]), part_struct(b.out[i], b.lse[i]), tokens, heads, dim,
                part_struct(memory[i], lse_view[i]),
            )
        )  # fmt: skip
    out = out if memory is out_view else placed(memory, layout)
    return out, scaled(lse, 1.0 / factor)
