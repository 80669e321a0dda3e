"""check_port: a port of FlashBlock computes a scripted sequence, and every result is judged."""
import ctypes
import inspect
import weakref

from . import _declarations as c
from ._arrays import Array, dtype_name, fb_dtype
from ._check import Report, arithmetic, judged
from ._layout import Tensor, check_base, check_layout, scaled
from ._library import check_status, library

ACTIONS = {
    c.FB_REFRESH_AND_STORE: "refresh+store",
    c.FB_REFRESH_ONLY: "refresh",
    c.FB_REUSE: "reuse",
    c.FB_REFRESH_ROWS: "refresh rows",
}

default_seed = 1  # the pytest plugin sets it


class Sequence:
    """A block that is denoised by a script: fb_scripted of flashblock/experimental/oracle.h. Iterating gives a Pass
    for each denoising step, and for the commit pass, which is the last."""

    def __init__(self, preset="tiny", context=None, dtype=None, **options):
        oracle, struct, made = library("oracle"), c.fb_scripted_options(), ctypes.c_void_p()
        oracle.fb_scripted_options_init_sized(struct, ctypes.sizeof(struct))
        check_status(oracle.fb_scripted_preset(preset.encode(), struct))
        self.preset = preset
        known = {name for name, _ in c.fb_scripted_options._fields_}
        known -= {"struct_size", "unused", "dtype", "context_length"}
        for name, value in options.items():
            if name not in known:
                raise TypeError(f"there is no option {name!r}: {', '.join(sorted(known))}")
            if value is not None:
                setattr(struct, name, value)
        if context is not None:
            struct.context_length = context
        if dtype is not None:
            struct.dtype = fb_dtype(dtype_name(dtype), "dtype")
        check_status(oracle.fb_scripted_create(struct, ctypes.byref(made)))
        weakref.finalize(self, oracle.fb_scripted_destroy, made)
        self._pointer, self.options = made, oracle.fb_scripted_options_of(made).contents
        self.dtype = {c.FB_F32: "f32", c.FB_BF16: "bf16", c.FB_F16: "f16"}[self.options.dtype]
        o = self.options
        self._rows = o.block_size, o.num_heads, o.head_dim
        self._kv = o.block_size, o.num_kv_heads, o.head_dim
        context_shape = o.context_length, o.num_kv_heads, o.head_dim
        self.context_k = self._array(oracle.fb_scripted_context_k(made), context_shape)
        self.context_v = self._array(oracle.fb_scripted_context_v(made), context_shape)

    @property
    def scale(self):
        return self.options.scale

    @property
    def seed(self):
        return self.options.seed

    def _array(self, address, shape):
        """A copy: a port that writes to its inputs does not change the truth."""
        return Array(address or 0, self.dtype, shape, None, self).copy()

    def __len__(self):
        return library("oracle").fb_scripted_num_passes(self._pointer)

    def __iter__(self):
        return (Pass(self, index) for index in range(len(self)))

    def write(self, path):
        """The sequence as a case file for `flashblock verify`."""
        check_status(library("oracle").fb_scripted_write(self._pointer, str(path).encode()))

    def judge(self, results, title, precision=None):
        """A Report on {"step00.out": (Array, ...)}; arrays are dense [T, H, D] and [T, H]."""
        oracle, candidate, report = library("oracle"), ctypes.c_void_p(), ctypes.c_void_p()
        check_status(oracle.fb_candidate_create(ctypes.byref(candidate)))
        try:
            for name, array in results.items():
                shape = (ctypes.c_size_t * array.ndim)(*array.shape)
                dtype = fb_dtype(array.dtype, name)
                check_status(oracle.fb_candidate_add(candidate, name.encode(), dtype, array.ndim, shape, array.address))
            oracle.fb_candidate_set_arithmetic(candidate, arithmetic(precision))
            options = c.fb_verify_options()
            oracle.fb_verify_options_init_sized(options, ctypes.sizeof(options))
            options.candidate = candidate
            options.partial = True  # check_port has seen to it that every pass is there
            check_status(oracle.fb_scripted_judge(self._pointer, options, ctypes.byref(report)))
            return Report(report, title, self.seed)
        finally:
            oracle.fb_candidate_close(candidate)


class Pass:
    """One pass of a sequence: `index`; `action` ("refresh+store", "refresh", "reuse", "refresh rows"); `commit`: it is the
    last; `dirty`; `accepted` and `rows`, positions that it accepts, and whose external part it computes; q, k and v,
    Arrays [T, H, D] and [T, Hk, D]."""

    def __init__(self, sequence, index):
        oracle, pointer = library("oracle"), sequence._pointer
        self.sequence, self.index, self.commit = sequence, index, index == len(sequence) - 1
        self.action = ACTIONS[oracle.fb_scripted_action(pointer, index)]
        self.dirty = oracle.fb_scripted_dirty(pointer, index)
        tokens = range(sequence.options.block_size)
        self.accepted = [token for token in tokens if oracle.fb_scripted_accepts(pointer, index, token)]
        self.rows = [token for token in tokens if oracle.fb_scripted_refreshes(pointer, index, token)]
        self.q = sequence._array(oracle.fb_scripted_q(pointer, index), sequence._rows)
        self.k = sequence._array(oracle.fb_scripted_k(pointer, index), sequence._kv)
        self.v = sequence._array(oracle.fb_scripted_v(pointer, index), sequence._kv)


# --- arrays as the port takes them ----------------------------------------------------------------


class _Plain:
    """flashblock.Array."""

    def array(self, array):
        return array

    def in_layout(self, array, layout):
        array = array.with_batch() if "B" in layout else array
        letters = "BTHD" if "B" in layout else "THD"
        return self.array(array.transpose([letters.index(letter) for letter in layout]).dense())


class _Torch(_Plain):
    def __init__(self, device):
        import torch

        self.torch, self.device = torch, device or "cpu"

    def array(self, array):
        return self.torch.from_dlpack(array).to(self.device)


class _NumPy(_Plain):
    """NumPy has no bfloat16: such inputs come as float32, which holds them exactly."""

    def __init__(self, device):
        import numpy

        self.numpy = numpy

    def array(self, array):
        return self.numpy.array(array.astype("f32") if array.dtype == "bf16" else array)


class _CuPy(_Plain):
    def __init__(self, device):
        import cupy
        import numpy

        self.cupy, self.numpy = cupy, numpy

    def array(self, array):
        return self.cupy.asarray(self.numpy.asarray(array.astype("f32") if array.dtype == "bf16" else array))


class _Jax(_Plain):
    def __init__(self, device):
        import jax

        self.jax, self.device = jax, jax.devices(device)[0] if device else None

    def array(self, array):
        return self.jax.device_put(self.jax.numpy.from_dlpack(array), self.device)


_adapters = {None: lambda device: _Plain(), "torch": _Torch, "numpy": _NumPy, "cupy": _CuPy, "jax": _Jax}


# --- ports ----------------------------------------------------------------------------------------


class _Parts:
    """A port of three functions. The external part stays as the port made it: on its device, in its type."""

    def __init__(self, port):
        self.port, self.kept = port, None

    def step(self, given):
        external = self.kept
        if given.action == "refresh rows":
            rows = getattr(self.port, "external_rows", None)
            if rows is None:
                raise TypeError("the sequence refreshes by rows, and the port has no external_rows")
            external = self.kept = rows(given.q, given.context_k, given.context_v, given.scale, given.rows, self.kept)
        elif given.action != "reuse":
            external = self.port.external(given.q, given.context_k, given.context_v, given.scale)
            if given.action == "refresh+store":
                self.kept = external
        internal = self.port.internal(given.q, given.k, given.v, given.scale)
        out, lse = self.port.merge(*external, *internal)
        results = {"out": out, "lse": lse}
        if given.action in ("refresh+store", "refresh rows"):
            results["external_out"], results["external_lse"] = self.kept
        return results


_RESULTS = ("out", "lse", "external_out", "external_lse")


class _Step:
    """A port of one function, which keeps what it keeps: called with each pass, it returns (out, lse), or a dict with
    out, lse, and where the pass stores external_out, external_lse."""

    def __init__(self, port):
        self.port = port

    def step(self, given):
        results = self.port(given)
        return results if isinstance(results, dict) else dict(zip(_RESULTS, results))


class Given:
    """What a port is given at a pass: everything of a Pass, in the port's arrays and layout, and context_k, context_v,
    scale."""

    def __init__(self, step, adapter, layout, context):
        for name in ("index", "action", "commit", "dirty", "accepted", "rows"):
            setattr(self, name, getattr(step, name))
        self.q, self.k, self.v = (adapter.in_layout(array, layout) for array in (step.q, step.k, step.v))
        self.context_k, self.context_v = context
        self.scale = step.sequence.scale


def _runner(port):
    if all(hasattr(port, name) for name in ("external", "internal", "merge")):
        return _Parts(port)
    if callable(port) and not inspect.isclass(port):
        return _Step(port)
    raise TypeError("a port has the functions external, internal and merge, or is one callable")


def _dense(x, layout, letters, factor, what):
    """Dense [T, H, D] or [T, H], natural."""
    tensor = Tensor(x, layout, what, letters)
    if tensor.shape[0] != 1:
        raise ValueError(f"{what} has a batch of {tensor.shape[0]}, expected 1")
    if letters == "TH" and factor != 1.0:
        return scaled(tensor.floats(), factor)[0]
    return tensor.array.dense()[0]


def _results(found, given, layout, lse_layout, factor):
    stores = given.action in ("refresh+store", "refresh rows")
    if found.get("out") is None:
        raise ValueError(f"step{given.index:02} returns no out")
    for name, x in found.items():
        if name not in _RESULTS:
            raise ValueError(f"step{given.index:02} returns {name!r}: {', '.join(_RESULTS)} are known")
        if x is None or (name.startswith("external") and not stores):
            continue
        tensor = f"step{given.index:02}.{name}"
        is_lse = name.endswith("lse")
        array = _dense(x, lse_layout if is_lse else layout, "TH" if is_lse else "THD", factor, tensor)
        yield tensor, array


def check_port(port, preset="trado-8b", *, context=None, dtype="bf16", layout="THD", lse_layout=None, lse_base="e",
               arrays=None, device=None, seed=None, precision=None, save=None, **options):  # fmt: skip
    """Drives a port through a scripted sequence of refreshes and reuses, and judges every result. Returns a Report if
    all are right, raises CheckFailed (an AssertionError) if not.

    port        an object with three functions, whose external part is kept between passes as it returned it,
                    external(q, k, v, scale) -> out, lse     the attention to the committed tokens
                    internal(q, k, v, scale) -> out, lse     the attention to the block itself
                    merge(out_a, lse_a, out_b, lse_b) -> out, lse
                and with the option rows=True external_rows(q, k, v, scale, rows, kept) -> out, lse: the kept part,
                with these rows computed anew; or one callable, which is called with each pass and keeps the part itself:
                see flashblock.Given. It returns (out, lse), (out, lse, external_out, external_lse) or a dict of these. A merged lse may be None
    preset      "trado-8b", "sdar-8b", "sdar-1.7b", "longlive-1.3b", "tiny": heads, sizes, tau
    context     committed tokens (None: the preset's); `dtype` of queries, keys and values: "f32", "bf16", "f16"
    layout      of what the port is given, and of its outputs: "THD", "HTD", "BTHD", "BHTD". lse_layout: of its LSEs,
                "TH", "HT", "BTH", "BHT"; it must be named. lse_base: "e" or "2"
    arrays      what the port is given: None (flashblock.Array), "torch", "numpy", "cupy", "jax"; on `device` ("cuda")
    seed        of the script and its numbers; None: 1, or what pytest's --flashblock-seed says
    precision   what the port computes in: "f32", "tf32x3", "tf32", "f16", "bf16", "fp8"; None: found from the results
    save        a path: the case is written there, for `flashblock verify`
    options     block_size, tau, steps, num_heads, num_kv_heads, head_dim, scale, rows, correction
    """
    layout = check_layout(layout, "THD", "layout")
    if lse_layout is None:
        raise ValueError('lse_layout is not given: "TH", "HT", "BTH" or "BHT"')
    lse_layout, factor = check_layout(lse_layout, "TH", "lse_layout"), check_base(lse_base)
    if arrays not in _adapters:
        raise ValueError(f"arrays is {arrays!r}, expected one of {', '.join(str(name) for name in _adapters)}")
    runner, adapter = _runner(port), _adapters[arrays](device)
    sequence = Sequence(preset, context, dtype, seed=default_seed if seed is None else seed, **options)
    if save:
        sequence.write(save)
    kept = adapter.in_layout(sequence.context_k, layout), adapter.in_layout(sequence.context_v, layout)
    results = {}
    for step in sequence:
        given = Given(step, adapter, layout, kept)
        results.update(_results(runner.step(given), given, layout, lse_layout, factor))
    o = sequence.options
    heads = f"{o.num_heads}/{o.num_kv_heads} heads of {o.head_dim}"
    title = f"{preset}, {heads}, a block of {o.block_size} after {o.context_length}, {sequence.dtype}"
    return judged(sequence.judge(results, title, precision))
