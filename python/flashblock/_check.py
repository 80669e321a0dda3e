"""The oracle: is a result right, and if not, which mistake is it?"""
import ctypes
import json

from . import _declarations as c
from ._arrays import fb_dtype
from ._attention import Problem, mask_struct
from ._layout import Tensor, check_base, check_layout, scaled
from ._library import check_status, library


class CheckFailed(AssertionError):
    """A result is wrong. The message is the verdict; `report` has it in parts."""

    def __init__(self, message, report):
        super().__init__(message)
        self.report = report


class Finding:
    """The verdict on one tensor: `tensor` is its name, `verdict` is one line of words; `note` is the mistake that was
    recognised. `error`, `bound`, `ratio`, `value`, `truth`: see fb_finding of flashblock/experimental/oracle.h."""

    def __init__(self, pointer):
        oracle = library("oracle")
        for name in ("tensor", "verdict", "note"):
            setattr(self, name, getattr(oracle, "fb_finding_" + name)(pointer).decode("utf-8", "replace"))
        for name in ("passed", "error", "bound", "ratio", "value", "truth"):
            setattr(self, name, getattr(oracle, "fb_finding_" + name)(pointer))

    def __repr__(self):
        return f"<{self.tensor}: {'passed' if self.passed else self.verdict}>"


class Report:
    """The verdict. `passed`, `outcome`, `reason`, `kind`; `findings`, a list of Finding; `text` for people; `json`, a dict;
    `missing`, required results that were not given; `unjudged`, others that nobody asked for; `title`, what was judged;
    `seed` of a generated case."""

    def __init__(self, pointer, title, seed=None):
        oracle = library("oracle")
        try:
            self.title, self.seed = title, seed
            outcome = oracle.fb_report_outcome(pointer)
            self.outcome, self.passed = oracle.fb_outcome_name(outcome).decode(), outcome == c.FB_PASSED
            self.kind = oracle.fb_report_kind(pointer).decode("utf-8", "replace")
            self.reason = oracle.fb_report_reason(pointer).decode("utf-8", "replace")
            count = oracle.fb_report_num_findings(pointer)
            self.findings = [Finding(oracle.fb_report_finding(pointer, i)) for i in range(count)]
            missing = range(oracle.fb_report_num_missing(pointer))
            self.missing = [oracle.fb_report_missing_result(pointer, i).decode("utf-8", "replace") for i in missing]
            unjudged = range(oracle.fb_report_num_unjudged(pointer))
            self.unjudged = [oracle.fb_report_unjudged(pointer, i).decode("utf-8", "replace") for i in unjudged]
            self.text = _text(oracle.fb_report_text, pointer)
            self.json = json.loads(_text(oracle.fb_report_json, pointer))
        finally:
            oracle.fb_report_destroy(pointer)

    def __repr__(self):
        return f"<{self.title}: {self.outcome}>"

    @property
    def mistakes(self):
        """The mistakes that were recognised in tensors that failed, each once."""
        notes = dict.fromkeys(f.note for f in self.findings if not f.passed and f.note)
        return [note for note in notes if not note.startswith("no known mistake")]

    @property
    def summary(self):
        """One line: the outcome, the tensors that are wrong (at most four by name), and why."""
        if self.kind == "trajectory":
            return self.outcome + (f": {self.reason}" if self.reason else "")
        failed = [finding for finding in self.findings if not finding.passed]
        if not failed:
            return self.outcome + (f": {self.reason}" if self.reason else "")
        why = "; ".join(self.mistakes) or failed[0].verdict
        names = ", ".join(finding.tensor for finding in failed[:4]) + (", ..." if len(failed) > 4 else "")
        return f"{len(failed)} of {len(self.findings)} tensors are wrong ({names}): {why}"


def _text(function, pointer):
    text = ctypes.c_char_p()
    check_status(function(pointer, ctypes.byref(text)))
    return text.value.decode("utf-8", "replace")


listeners = []  # called with every report: the pytest plugin's table


def judged(report):
    """Tells the listeners; raises where the report is not a pass."""
    for listener in listeners:
        listener(report)
    if not report.passed:
        seed = f" (seed {report.seed})" if report.seed is not None else ""
        raise CheckFailed(f"{report.title}{seed}: {report.summary}\n{report.text}", report)
    return report


def _tensor(view, what):
    """The struct over an array [B, T, H, D] or [B, T, H]: strides in elements."""
    return c.fb_check_tensor(view.address, fb_dtype(view.dtype, what), *view.strides[:3], True)


def _lse(lse, layout, base):
    """[B, T, H], natural."""
    tensor = Tensor(lse, check_layout(layout, "TH", "lse_layout"), "lse", "TH")
    factor = check_base(base)
    return tensor.array if factor == 1.0 else scaled(tensor.floats(), factor)


def arithmetic(precision):
    """The fb_arithmetic of "f32", "tf32x3", "tf32", "f16", "bf16", "fp8"; None: found from the results."""
    name, number = "auto" if precision is None else str(precision).rpartition(".")[2], ctypes.c_int()
    name = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}.get(name, name)
    check_status(library("oracle").fb_arithmetic_parse(name.encode(), ctypes.byref(number)))
    return number.value


def check(out=None, lse=None, *, q, k, v, layout, kv_layout=None, out_layout=None, lse_layout=None, lse_base="e",
          scale=None, mask=None, key_lengths=None, precision=None):  # fmt: skip
    """Judges one attention result. Returns a Report if it is right, raises CheckFailed (an AssertionError) if not.

        flashblock.check(out=out, lse=lse, q=q, k=k, v=v, layout="BHTD", lse_layout="BHT")

    q, k, v     what the kernel was given, in the type it was given: the truth is computed from these, in double
                precision. f32, bf16 or f16
    out, lse    the kernel's output, and the log-sum-exp of its scores. One of them may be left out. f32, bf16 or f16
    layout      the axes of q in their order, one letter each: B the batch, T the tokens, H the heads, D the values of a
                head. Without B there is one sequence. A tensor [2, 32, 4, 128] of 2 sequences with 32 heads and 4
                tokens is "BHTD" (PyTorch's scaled_dot_product_attention); [2, 4, 32, 128] of the same is "BTHD"
                (FlashAttention); [4, 32, 128] of one sequence is "THD", and [32, 4, 128] is "HTD"
    kv_layout   the same for k and v, whose T are the keys and whose H are the KV heads; None: as `layout`. Queries in
                "BTHD" and a cache [2, 8, 16384, 128] of 8 KV heads: layout="BTHD", kv_layout="BHTD"
    out_layout  the same for out; None: as `layout`. A kernel that takes "BHTD" and returns [2, 4, 32, 128]:
                out_layout="BTHD"
    lse_layout  the axes of lse; it has no D. [2, 32, 4] of 2 sequences with 32 heads and 4 tokens is "BHT", [2, 4, 32] is
                "BTH"; of one sequence, [32, 4] is "HT", and [4, 32] is "TH". It has to be named where lse is given
    lse_base    the base of the logarithm: "e", lse = ln(sum of exp(score)); or "2" for a kernel that computes with exp2,
                lse = log2(sum of exp(score)), which is the natural one divided by ln 2. A row with the scores 0 and 0 has
                0.693 in base "e" and 1 in base "2"
    scale       of the scores; None: 1 / sqrt(D)
    mask        None, or flashblock.Mask(block_size, first_query=..., first_key=...)
    key_lengths B numbers: how many keys each entry of the batch has (None: all of them). Its queries see none of those
                after them
    precision   what the kernel computes in: "f32", "tf32x3", "tf32", "f16", "bf16", "fp8"; None: found from what it is
                given, what it returns, and the errors

    A layout that is not the tensor's is a mistake that the verdict names.
    """
    if out is None and lse is None:
        raise ValueError("neither out nor lse is given: nothing is to be judged")
    if lse is not None and lse_layout is None:
        raise ValueError('lse_layout is not given: "BHT", "BTH", "HT" or "TH"')
    problem, oracle = Problem(q, k, v, layout, kv_layout), library("oracle")
    arrays = {"q": problem.q.rows(), "k": problem.k.rows(), "v": problem.v.rows()}
    if out is not None:
        layout_of_out = check_layout(out_layout, "THD", "out_layout") if out_layout else problem.layout
        arrays["out"] = Tensor(out, layout_of_out, "out").rows()
        _same("out", arrays["out"], problem.q.shape)
    if lse is not None:
        arrays["lse"] = _lse(lse, lse_layout, lse_base)
        _same("lse", arrays["lse"], problem.q.shape[:3])
    options = c.fb_attention_check()
    oracle.fb_attention_check_init_sized(options, ctypes.sizeof(options))
    options.batch, options.num_queries, options.num_keys = problem.batch, problem.num_queries, problem.num_keys
    options.num_heads, options.num_kv_heads = problem.num_heads, problem.num_kv_heads
    options.head_dim, options.scale = problem.head_dim, scale or 0.0
    options.lse_by_token = bool(lse_layout) and lse_layout.index("T") < lse_layout.index("H")
    if mask is not None:
        options.mask = mask_struct(mask)
    if key_lengths is not None:
        lengths = _lengths(key_lengths, problem.batch)
        options.key_lengths = ctypes.cast(lengths, ctypes.c_void_p)
    for name, array in arrays.items():
        setattr(options, name, _tensor(array, name))
    options.arithmetic = arithmetic(precision)
    report = ctypes.c_void_p()
    check_status(oracle.fb_check_attention(options, ctypes.byref(report)))
    b, t, h, d = problem.q.shape
    sizes = f"{b} x {t} queries, {problem.num_keys} keys, {h}/{problem.num_kv_heads} heads of {d}"
    return judged(Report(report, f"attention, {sizes}"))


def _lengths(key_lengths, batch):
    """The numbers as an array of size_t; tensors and arrays are lists of numbers, too."""
    numbers = key_lengths.tolist() if hasattr(key_lengths, "tolist") else list(key_lengths)
    if len(numbers) != batch or any(number != int(number) or number < 0 for number in numbers):
        raise ValueError(f"key_lengths is {numbers!r}, expected {batch} numbers of keys")
    return (ctypes.c_size_t * batch)(*(int(number) for number in numbers))


def _same(what, array, shape):
    if array.shape != tuple(shape):
        axes = "[B, T, H, D]"[: 3 * len(shape)].rstrip(", ") + ("" if len(shape) == 4 else "]")
        raise ValueError(f"{what} is {array.shape} as {axes}, expected {tuple(shape)}")
