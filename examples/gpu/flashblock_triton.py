"""FlashBlock in Triton: the external part by splitting the keys over the GPU (split-KV), its refresh by heads, and the
merge.

    external   grid (splits, batch x KV heads, tiles of rows): each program attends the query heads of one KV head to
               one span of keys, tile by tile; then one program for each row joins the spans. Query heads that share a
               KV head are rows of one tile, which tensor cores multiply
    refresh    the same for the query heads that `heads` names; the others keep what they have
    merge      one program for each row

Scores are in base 2 inside the kernels (exp2 is the GPU's own exponential); every LSE that leaves one is natural.
"""
import torch
import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def attend_kernel(
    q, k, v, refreshed, part_out, part_lse, scale, rows, keys, span, tokens, dim,
    k_head, k_token, v_head, v_token,
    ROWS: tl.constexpr, KEYS: tl.constexpr, DIM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """q [groups, rows, dim]; k, v [groups, keys, dim] by strides; refreshed [groups, rows / tokens]: 0 leaves a head
    out; part_out [groups, splits, rows, dim], part_lse [groups, splits, rows] in base 2, float32."""
    split, group = tl.program_id(0), tl.program_id(1)
    splits = tl.num_programs(0)
    row = tl.program_id(2) * ROWS + tl.arange(0, ROWS)
    d, j = tl.arange(0, DIM), tl.arange(0, KEYS)
    is_row = row < rows
    wanted = tl.load(refreshed + group * (rows // tokens) + row // tokens, mask=is_row, other=0)
    if tl.max(wanted, 0) > 0:
        is_query = is_row[:, None] & (d < dim)[None, :]
        query = tl.load(q + (group * rows + row)[:, None] * dim + d[None, :], mask=is_query, other=0.0)
        top = tl.full([ROWS], float("-inf"), tl.float32)
        total = tl.zeros([ROWS], tl.float32)
        out = tl.zeros([ROWS, DIM], tl.float32)
        begin = split * span
        end = tl.minimum(begin + span, keys)
        for first in range(begin, end, KEYS):
            token = first + j
            is_key = token < end  # the tail of the last tile: not in the maximum, not in the sum
            is_element = is_key[:, None] & (d < dim)[None, :]
            key = tl.load(k + group * k_head + token[:, None] * k_token + d[None, :], mask=is_element, other=0.0)
            score = tl.dot(query, tl.trans(key), input_precision=PRECISION) * (scale * LOG2E)
            score = tl.where(is_key[None, :], score, float("-inf"))
            new_top = tl.maximum(top, tl.max(score, 1))
            shrink = tl.exp2(top - new_top)
            weight = tl.exp2(score - new_top[:, None])
            value = tl.load(v + group * v_head + token[:, None] * v_token + d[None, :], mask=is_element, other=0.0)
            out = out * shrink[:, None] + tl.dot(weight.to(value.dtype), value, input_precision=PRECISION)
            total = total * shrink + tl.sum(weight, 1)
            top = new_top
        seen = total > 0  # a split after the last key has no key
        share = tl.where(seen, total, 1.0)
        at = (group * splits + split) * rows + row
        tl.store(part_out + at[:, None] * dim + d[None, :], out / share[:, None], mask=is_query)
        tl.store(part_lse + at, tl.where(seen, top + tl.log2(share), float("-inf")), mask=is_row)


@triton.jit
def join_kernel(
    part_out, part_lse, refreshed, out, lse, rows, splits, tokens, dim, SPLITS: tl.constexpr, DIM: tl.constexpr
):
    """The parts of one row, over all splits, become one: out [groups, rows, dim], lse [groups, rows], natural."""
    row, group = tl.program_id(0), tl.program_id(1)
    if tl.load(refreshed + group * (rows // tokens) + row // tokens) > 0:
        s, d = tl.arange(0, SPLITS), tl.arange(0, DIM)
        is_split = s < splits
        at = (group * splits + s) * rows + row
        part = tl.load(part_lse + at, mask=is_split, other=float("-inf"))
        top = tl.max(part, 0)
        base = tl.where(top == float("-inf"), 0.0, top)
        weight = tl.exp2(part - base)
        total = tl.sum(weight, 0)
        is_element = is_split[:, None] & (d < dim)[None, :]
        values = tl.load(part_out + at[:, None] * dim + d[None, :], mask=is_element, other=0.0)
        share = tl.where(total > 0, total, 1.0)
        joined = tl.sum(values * weight[:, None], 0) / share
        tl.store(out + (group * rows + row) * dim + d, joined.to(out.dtype.element_ty), mask=d < dim)
        natural = tl.where(total > 0, (base + tl.log2(share)) * LN2, float("-inf"))
        tl.store(lse + group * rows + row, natural)


@triton.jit
def merge_kernel(out_a, lse_a, out_b, lse_b, out, lse, dim, DIM: tl.constexpr):
    """merge(a, b) of one row. Both LSEs are read before the new one is written: it may be in place."""
    row = tl.program_id(0)
    d = tl.arange(0, DIM)
    a, b = tl.load(lse_a + row), tl.load(lse_b + row)
    top = tl.maximum(a, b)
    base = tl.where(top == float("-inf"), 0.0, top)
    weight_a, weight_b = tl.exp2((a - base) * LOG2E), tl.exp2((b - base) * LOG2E)
    total = weight_a + weight_b
    share = tl.where(total > 0, total, 1.0)
    values_a = tl.load(out_a + row * dim + d, mask=d < dim, other=0.0).to(tl.float32)
    values_b = tl.load(out_b + row * dim + d, mask=d < dim, other=0.0).to(tl.float32)
    merged = (weight_a * values_a + weight_b * values_b) / share
    tl.store(out + row * dim + d, merged.to(out.dtype.element_ty), mask=d < dim)
    tl.store(lse + row, tl.where(total > 0, base + tl.log2(share) * LN2, float("-inf")))


# --- what a program calls -------------------------------------------------------------------------


def attend(q, k, v, scale, heads=None, kept=None, splits=None):
    """The attention of q [B, H, T, D] to k, v [B, Hk, S, D]: out [B, H, T, D] in q's type, lse [B, H, T], natural.

    heads [H], bool, and kept (out, lse): only these heads are computed, in place of theirs in `kept`, which is
    returned.
    """
    batch, num_heads, tokens, dim = q.shape
    kv_heads, keys = k.shape[1], k.shape[2]
    groups, rows = batch * kv_heads, num_heads // kv_heads * tokens
    q, k, v = q.contiguous(), k.contiguous().view(groups, keys, dim), v.contiguous().view(groups, keys, dim)
    out, lse = kept if kept is not None else (torch.empty_like(q), torch.empty(q.shape[:3], device=q.device))
    if heads is None:
        heads = torch.ones(num_heads, device=q.device)
    refreshed = heads.to(torch.int32).repeat(batch)
    tile = 64 if q.dtype != torch.float32 else 32
    if splits is None:  # about two programs for each of 132 multiprocessors
        splits = max(1, min(triton.cdiv(264, groups), triton.cdiv(keys, 4 * tile)))
    span = max(1, triton.cdiv(triton.cdiv(keys, splits), tile)) * tile
    part_out = torch.empty(groups, splits, rows, dim, device=q.device)
    part_lse = torch.empty(groups, splits, rows, device=q.device)
    wide = max(16, triton.next_power_of_2(dim))
    row_tile = min(64, max(16, triton.next_power_of_2(rows)))
    attend_kernel[(splits, groups, triton.cdiv(rows, row_tile))](
        q, k, v, refreshed, part_out, part_lse, scale, rows, keys, span, tokens, dim,
        k.stride(0), k.stride(1), v.stride(0), v.stride(1),
        ROWS=row_tile, KEYS=tile, DIM=wide, PRECISION="ieee", num_warps=4, num_stages=2,
    )  # fmt: skip
    join_kernel[(rows, groups)](
        part_out, part_lse, refreshed, out, lse, rows, splits, tokens, dim,
        SPLITS=triton.next_power_of_2(splits), DIM=wide,
    )  # fmt: skip
    return out, lse


def merge(out_a, lse_a, out_b, lse_b):
    """The part over both sets of keys: new tensors."""
    out, lse = torch.empty_like(out_a), torch.empty_like(lse_a)
    dim = out_a.shape[-1]
    merge_kernel[(lse_a.numel(),)](out_a, lse_a, out_b, lse_b, out, lse, dim, DIM=triton.next_power_of_2(dim))
    return out, lse


class Port:
    """The three functions of docs/port.md, for layout="BHTD" and lse_layout="BHT"."""

    def __init__(self, splits=None):
        self.splits = splits

    def external(self, q, k, v, scale):
        return attend(q, k, v, scale, splits=self.splits)

    def internal(self, q, k, v, scale):
        return attend(q, k, v, scale, splits=1)

    def merge(self, out_a, lse_a, out_b, lse_b):
        return merge(out_a, lse_a, out_b, lse_b)
