"""The same two operations in double precision, as plainly as they can be written: the truth that errors are
stated against. One thread; NaN and infinities go where IEEE arithmetic takes them."""
from ._arrays import empty
from ._attention import Problem, mask_struct
from ._layout import Tensor, check_base, check_layout, lse_layout_of, placed, scaled
from ._library import check_status, library

__all__ = ["attention", "merge"]


def attention(q, k, v, *, layout, kv_layout=None, scale=None, mask=None, lse_layout=None, lse_base="e"):
    """As flashblock.attention; (out, lse) are float64 Arrays."""
    problem = Problem(q, k, v, layout, kv_layout)
    mask = mask_struct(mask)
    lse_layout, factor = lse_layout_of(problem.layout, lse_layout), check_base(lse_base)
    shape = problem.batch, problem.num_queries, problem.num_heads, problem.head_dim
    out, lse = empty(shape, "f64"), empty(shape[:3], "f64")
    for b, (queries, view, _) in enumerate(problem.calls()):
        check_status(
            library().fb_attend_reference(queries, view, mask, scale or 0.0, out[b].address, lse[b].address)
        )
    return placed(out, problem.layout), placed(scaled(lse, 1.0 / factor), lse_layout)


def _doubles(x, layout, what, letters="THD"):
    """Dense float64 [B, T, H, D] or [B, T, H]."""
    tensor = Tensor(x, layout, what, letters)
    if tensor.array.dtype == "f64":
        return tensor.array.dense()
    floats = tensor.floats()
    made = empty(floats.shape, "f64")
    if made.size:
        view = made.memoryview().cast("B").cast("d")
        for i, value in enumerate(floats.memoryview().cast("B").cast("f")):
            view[i] = value
    return made


def merge(a, b, *, layout, lse_layout, lse_base="e"):
    """As flashblock.merge; parts may be f64, too, and (out, lse) are float64 Arrays."""
    layout, lse_layout = check_layout(layout, "THD", "layout"), check_layout(lse_layout, "TH", "lse_layout")
    factor, parts = check_base(lse_base), []
    for what, (out, lse) in (("a", a), ("b", b)):
        lse = scaled(_doubles(lse, lse_layout, f"{what}'s lse", "TH"), factor)
        parts.append((_doubles(out, layout, f"{what}'s out"), lse))
    shapes = {part[0].shape for part in parts} | {(*part[1].shape, parts[0][0].shape[3]) for part in parts}
    if len(shapes) != 1:
        raise ValueError(f"the parts have different shapes: {sorted(shapes)} as [B, T, H, D]")
    (out_a, lse_a), (out_b, lse_b) = parts
    out, lse = empty(out_a.shape, "f64"), empty(lse_a.shape, "f64")
    rows = lse.shape[0] * lse.shape[1] * lse.shape[2]
    library().fb_merge_reference(
        out_a.address, lse_a.address, out_b.address, lse_b.address, rows, out.shape[3], out.address, lse.address
    )
    return placed(out, layout), placed(scaled(lse, 1.0 / factor), lse_layout)
