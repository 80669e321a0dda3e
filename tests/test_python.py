#!/usr/bin/env python3
"""The Python package: its declarations are those of the headers, arrays come in and go out, attention, merges and
blocks are the library's, right results pass and clear mistakes fail and are named. Prints TAP.

usage: test_python.py SOURCE_DIR BUILD_DIR COMPILER...
"""
import array
import ctypes
import functools
import gc
import importlib
import importlib.util
import math
import os
import pathlib
import random
import re
import subprocess
import sys
import tempfile
import weakref

root, build, compiler = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2]).resolve(), sys.argv[3:]
os.environ["FLASHBLOCK_LIB"] = str(build)
sys.path[:0] = [str(root / "python"), str(root / "tests")]

import flashblock  # noqa: E402
from flashblock import _declarations  # noqa: E402
import trajectory_port  # noqa: E402
from case_support import Skipped  # noqa: E402
from python_support import raises, run_tests  # noqa: E402

numbers = random.Random(1)


def normal(*shape, dtype="f32"):
    return flashblock.array([numbers.gauss(0, 1) for _ in range(math.prod(shape))], dtype, shape)


def bits(x):
    return bytes(x.dense().memoryview())


def module(name):
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise Skipped(f"no {name}: {error}") from None


# --- declarations ---------------------------------------------------------------------------------


def test_declarations_are_those_of_the_headers():
    script = root / "python" / "declarations.py"
    text = subprocess.run([sys.executable, script, "--print"], check=True, stdout=subprocess.PIPE, encoding="utf-8").stdout
    assert (root / "python/flashblock/_declarations.py").read_text(encoding="utf-8") == text, "run python/declarations.py"


def test_structs_have_the_sizes_and_offsets_of_c():
    structs = {name: kind for name, kind in vars(_declarations).items() if name.startswith("fb_")}
    lines = [f'printf("{name} %zu\\n", sizeof({name}));' for name in structs]
    for name, kind in structs.items():
        lines += [f'printf("{name}.{field} %zu\\n", offsetof({name}, {field}));' for field, _ in kind._fields_]
    expected = {name: ctypes.sizeof(kind) for name, kind in structs.items()}
    for name, kind in structs.items():
        expected.update({f"{name}.{field}": getattr(kind, field).offset for field, _ in kind._fields_})
    includes = "#include <flashblock/flashblock.h>\n#include <flashblock/experimental/oracle.h>\n#include <stdio.h>\n"
    with tempfile.TemporaryDirectory() as folder:
        source, program = pathlib.Path(folder) / "sizes.c", pathlib.Path(folder) / "sizes"
        source.write_text(includes + "int main(void) {\n" + "\n".join(lines) + "\nreturn 0;\n}\n", encoding="utf-8")
        subprocess.run([*compiler, "-I", root / "include", source, "-o", program], check=True)
        printed = subprocess.run([program], check=True, stdout=subprocess.PIPE, encoding="utf-8").stdout
    found = {name: int(value) for name, value in (line.split() for line in printed.splitlines())}
    assert found == expected, {name: (found[name], expected[name]) for name in found if found[name] != expected[name]}


def test_functions_have_the_types_of_c():
    """Each function is assigned to a pointer of the type that Python calls it with."""
    names = {kind: name for name, kind in vars(_declarations).items() if name.startswith("fb_")}
    spelled = {
        None: "void", ctypes.c_bool: "bool", ctypes.c_int: "int", ctypes.c_float: "float", ctypes.c_double: "double",
        ctypes.c_size_t: "size_t", ctypes.c_uint64: "uint64_t", ctypes.c_char_p: "const char *", **names,
    }  # fmt: skip

    def is_same(kind, text):
        if kind is ctypes.c_void_p:
            return f"FB_IS_POINTER({text})"
        pointed = getattr(kind, "_type_", None)
        if pointed in names:
            return f"(FB_IS({text}, {names[pointed]} *) || FB_IS({text}, const {names[pointed]} *))"
        if kind is ctypes.c_int:
            return f"(sizeof({text}) == sizeof(int) && !FB_IS_POINTER({text}))"
        return f"FB_IS({text}, {spelled[kind]})"

    lines = [
        "#include <flashblock/flashblock.h>",
        "#include <flashblock/experimental/oracle.h>",
        "#define FB_IS(a, b) __builtin_types_compatible_p(a, b)",
        "#define FB_IS_POINTER(a) (__builtin_classify_type(*(a *)0) == 5)",
    ]
    for functions in _declarations.FUNCTIONS.values():
        for name, result, arguments in functions:
            values = ", ".join(f"*(__typeof__({self_type(kind, names)}) *)0" for kind in arguments)
            call = f"__typeof__({name}({values}))"
            if result is not None:
                lines.append(f'_Static_assert({is_same(result, call)}, "{name}");')
            else:
                lines.append(f'_Static_assert(FB_IS({call}, void), "{name}");')
    with tempfile.TemporaryDirectory() as folder:
        source = pathlib.Path(folder) / "types.c"
        source.write_text("\n".join(lines) + "\n", encoding="utf-8")
        command = [*compiler, "-std=gnu11", "-Werror", "-Wconversion", "-I", root / "include", "-fsyntax-only", source]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8")
        assert done.returncode == 0, done.stdout


def self_type(kind, names):
    """The C type of an argument."""
    pointed = getattr(kind, "_type_", None)
    if pointed in names:
        return names[pointed] + " *"
    return {
        ctypes.c_void_p: "void *", ctypes.c_char_p: "const char *", ctypes.c_bool: "bool", ctypes.c_int: "int",
        ctypes.c_float: "float", ctypes.c_double: "double", ctypes.c_size_t: "size_t", ctypes.c_uint64: "uint64_t",
    }[kind]  # fmt: skip


def test_a_library_that_is_not_there_is_an_error():
    code = "import flashblock; flashblock.version()"
    environment = {**os.environ, "PYTHONPATH": str(root / "python"), "FLASHBLOCK_LIB": "/nowhere/at/all"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE, encoding="utf-8")
    assert done.returncode != 0 and "LibraryNotFound" in done.stderr and "/nowhere/at" in done.stderr, done.stderr
    assert "FLASHBLOCK_LIB" in done.stderr, done.stderr


# --- arrays ---------------------------------------------------------------------------------------


def test_arrays_of_lists_and_buffers():
    assert flashblock.array([[1, 2, 3], [4, 5, 6]]).tolist() == [[1, 2, 3], [4, 5, 6]]
    x = flashblock.as_array(array.array("f", [1, 2, 3]))
    assert (x.dtype, x.shape, x.tolist()) == ("f32", (3,), [1, 2, 3])
    shaped = memoryview(array.array("f", range(6))).cast("B").cast("f", (2, 3))
    assert flashblock.as_array(shaped).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert flashblock.as_array(memoryview(bytes(8)).cast("f")).tolist() == [0, 0]
    assert flashblock.array(array.array("H", [0x3F80, 0xC000]), "bf16", (2,)).tolist() == [1, -2]
    with raises(ValueError, "different lengths"):
        flashblock.array([[1, 2], [3]])
    with raises(TypeError, "'B'"):
        flashblock.as_array(bytes(8))
    with raises(TypeError, "type int"):
        flashblock.as_array(8)


def test_types_are_rounded_once():
    assert flashblock.array([1 + 2**-9, 1 + 3 * 2**-8], "bf16").tolist() == [1, 1 + 2**-6]
    assert flashblock.array([1 + 2**-12], "f16").tolist() == [1]
    assert flashblock.array([1.5], "torch.bfloat16").astype("float16").tolist() == [1.5]


def test_views():
    x = flashblock.array([[[24 * b + 4 * t + d for d in range(4)] for t in range(6)] for b in range(2)])
    assert x[1, 2, 3] == 35 and x[1, -1].tolist() == [44, 45, 46, 47]
    assert x[:, ::2, 1].tolist() == [[1, 9, 17], [25, 33, 41]]
    assert x[0, ::-1, 0].tolist() == [20, 16, 12, 8, 4, 0]
    assert x.transpose((2, 0, 1))[3].tolist() == x[:, :, 3].tolist()
    assert flashblock.empty((0, 3), "f32").tolist() == []


def test_dlpack_both_ways():
    """A consumer of our own capsule: the memory lives as long as somebody holds it."""
    x = normal(3, 4)
    values, held = x.tolist(), weakref.ref(x._owner)
    y = flashblock.as_array(OnlyDLPack(x))
    z = flashblock.as_array(OnlyDLPack(x, versioned=False))
    assert y.tolist() == values and z.tolist() == values
    del x
    gc.collect()
    assert held() is not None and y.tolist() == values
    del y, z
    gc.collect()
    assert held() is None, "the memory of a capsule that nobody consumed is not freed"
    with raises(BufferError, "host memory"):
        normal(1).__dlpack__(dl_device=(2, 0))


class OnlyDLPack:
    def __init__(self, x, versioned=True):
        self.x, self.versioned = x, versioned

    def __dlpack_device__(self):
        return self.x.__dlpack_device__()

    def __dlpack__(self, **options):
        if options and not self.versioned:
            raise TypeError("an old producer")
        return self.x.__dlpack__(**options)


def test_memory_of_a_device_is_copied_by_its_owner():
    class OnDevice:
        def __init__(self, x):
            self.x = x

        def __dlpack_device__(self):
            return (2, 0)

        def __dlpack__(self, *, dl_device=None, **options):
            if dl_device != (1, 0):
                raise BufferError("device memory")
            return self.x.__dlpack__()

    class Tensor(OnDevice):
        def __dlpack__(self, **options):
            raise BufferError("device memory")

        def cpu(self):
            return self.x

    x = normal(2, 3)
    assert flashblock.as_array(OnDevice(x)).tolist() == x.tolist()
    assert flashblock.as_array(Tensor(x)).tolist() == x.tolist()


def test_numpy():
    numpy = module("numpy")
    x = normal(2, 3, 4)
    made = numpy.asarray(x)
    assert made.dtype == numpy.float32 and made.tolist() == x.tolist()
    assert numpy.asarray(x.transpose((2, 0, 1))).tolist() == made.transpose(2, 0, 1).tolist()
    assert flashblock.as_array(made[:, ::2].transpose(1, 0, 2)).tolist() == made[:, ::2].transpose(1, 0, 2).tolist()
    assert numpy.asarray(x.astype("f16")).dtype == numpy.float16
    made.flags.writeable = False
    assert flashblock.as_array(made).tolist() == x.tolist()
    with raises(TypeError, "bfloat16"):
        numpy.asarray(x.astype("bf16"))
    with raises(TypeError, "f64"):
        flashblock.attention(*[numpy.zeros((1, 1, 1))] * 3, layout="THD")
    with raises(TypeError, "f32, bf16 or f16"):
        flashblock.as_array(numpy.zeros(2, complex))
    if hasattr(numpy, "from_dlpack"):
        assert numpy.from_dlpack(x).tolist() == x.tolist()


def test_torch():
    torch = module("torch")
    x = normal(2, 3, 4)
    for dtype, kind in (("f32", torch.float32), ("bf16", torch.bfloat16), ("f16", torch.float16)):
        y = x.astype(dtype)
        made = torch.from_dlpack(y)
        assert made.dtype == kind and made.float().tolist() == y.tolist()
        assert bits(flashblock.as_array(made)) == bits(y)
        assert flashblock.as_array(made.transpose(0, 2)).tolist() == y.transpose((2, 1, 0)).tolist()
    q = torch.from_dlpack(x).clone().requires_grad_()
    assert flashblock.as_array(q).tolist() == x.tolist()
    weak = weakref.ref(x._owner)
    kept = torch.from_dlpack(x)
    del x, y, made
    gc.collect()
    assert weak() is not None and kept.sum().isfinite()
    del kept
    gc.collect()
    assert weak() is None


def test_jax():
    jax = module("jax")
    x = normal(2, 3, 4)
    for dtype in ("f32", "bf16", "f16"):
        made = jax.numpy.from_dlpack(x.astype(dtype))
        assert bits(flashblock.as_array(made)) == bits(x.astype(dtype))


# --- attention ------------------------------------------------------------------------------------


def softmax(q, k, v, scale):
    """One row, in Python's doubles."""
    scores = [scale * sum(a * b for a, b in zip(q, key)) for key in k]
    top = max(scores)
    total = sum(math.exp(s - top) for s in scores)
    weights = [math.exp(s - top) / total for s in scores]
    return [sum(w * row[d] for w, row in zip(weights, v)) for d in range(len(q))], top + math.log(total)


def test_attention_in_every_layout():
    q, k, v = normal(2, 3, 4, 8), normal(2, 9, 2, 8, dtype="bf16"), normal(2, 9, 2, 8, dtype="bf16")
    out, lse = flashblock.attention(q, k, v, layout="BTHD")
    for b, t, h in ((0, 0, 0), (1, 2, 3)):
        expected, expected_lse = softmax(
            q[b, t, h].tolist(), k[b, :, h // 2].tolist(), v[b, :, h // 2].tolist(), 1 / math.sqrt(8)
        )
        assert abs(lse[b, t, h] - expected_lse) < 1e-5
        assert all(abs(x - y) < 1e-5 for x, y in zip(out[b, t, h].tolist(), expected))
    for layout in ("BHTD", "HTBD", "TBDH", "DHTB"):
        order = ["BTHD".index(letter) for letter in layout]
        turned = [x.transpose(order).copy() for x in (q, k, v)]
        for lse_layout in ("BHT", "TBH"):
            o, s = flashblock.attention(*turned, layout=layout, lse_layout=lse_layout)
            assert bits(o) == bits(out.transpose(order))
            assert bits(s) == bits(lse.transpose(["BTH".index(letter) for letter in lse_layout]))
    o, s = flashblock.attention(q[1], k[1], v[1], layout="THD", lse_layout="HT")
    assert bits(o) == bits(out[1]) and bits(s) == bits(lse[1].transpose((1, 0)))
    o, s = flashblock.attention(q, k.transpose((0, 2, 1, 3)), v.transpose((0, 2, 1, 3)), layout="BTHD", kv_layout="BHTD")
    assert bits(o) == bits(out) and bits(s) == bits(lse)


def test_scale_base_and_mask():
    q, k, v = normal(4, 2, 8), normal(8, 2, 8), normal(8, 2, 8)
    _, lse = flashblock.attention(q, k, v, layout="THD", scale=0.5)
    _, binary = flashblock.attention(q, k, v, layout="THD", scale=0.5, lse_base="2")
    assert abs(binary[1, 1] * math.log(2) - lse[1, 1]) < 1e-6
    mask = flashblock.Mask(2, first_query=4)
    out, _ = flashblock.attention(q, k, v, layout="THD", mask=mask)
    first, _ = flashblock.attention(q[:2], k[:6], v[:6], layout="THD")
    assert bits(out[:2]) == bits(first)
    empty_out, empty_lse = flashblock.attention(q, k[:0], v[:0], layout="THD")
    assert empty_lse[0, 0] == -math.inf and empty_out[3, 1, 7] == 0


def test_parts_merge_to_the_whole():
    q, k, v = normal(5, 4, 16), normal(60, 2, 16), normal(60, 2, 16)
    truth, truth_lse = flashblock.reference.attention(q, k, v, layout="THD", lse_layout="HT")
    assert truth.dtype == "f64"
    halves = [(k[:25], v[:25]), (k[25:], v[25:])]
    for base in ("e", "2"):
        parts = [flashblock.attention(q, *kv, layout="THD", lse_layout="HT", lse_base=base) for kv in halves]
        out, lse = flashblock.merge(*parts, layout="THD", lse_layout="HT", lse_base=base)
        factor = math.log(2) if base == "2" else 1
        assert abs(out[4, 3, 9] - truth[4, 3, 9]) < 1e-6 and abs(lse[3, 4] * factor - truth_lse[3, 4]) < 2e-6
        parts = [flashblock.reference.attention(q, *kv, layout="THD", lse_layout="HT", lse_base=base) for kv in halves]
        out, lse = flashblock.reference.merge(*parts, layout="THD", lse_layout="HT", lse_base=base)
        assert abs(out[4, 3, 9] - truth[4, 3, 9]) < 1e-14 and abs(lse[3, 4] * factor - truth_lse[3, 4]) < 1e-13


def test_a_block_refreshes_and_reuses():
    heads, kv_heads, dim = 4, 2, 16
    block = flashblock.block(
        num_heads=heads, num_kv_heads=kv_heads, head_dim=dim, block_size=3, layout="HTD", lse_layout="TH"
    )
    k, v = normal(kv_heads, 40, dim), normal(kv_heads, 40, dim)
    block.extend(k, v)
    q, own_k, own_v = normal(heads, 3, dim), normal(kv_heads, 3, dim), normal(kv_heads, 3, dim)
    with raises(flashblock.StaleError, "layer 0"):
        block.reuse(q, own_k, own_v)
    refreshed = block.refresh(q, own_k, own_v)
    assert all(bits(a) == bits(b) for a, b in zip(block.reuse(q, own_k, own_v), refreshed))
    external = flashblock.attention(q, k, v, layout="HTD", lse_layout="TH")
    assert all(bits(a) == bits(b) for a, b in zip(block.external(), external))
    q2 = normal(heads, 3, dim)
    internal = flashblock.attention(q2, own_k, own_v, layout="HTD", lse_layout="TH")
    expected = flashblock.merge(external, internal, layout="HTD", lse_layout="TH")
    assert all(bits(a) == bits(b) for a, b in zip(block.reuse(q2, own_k, own_v), expected))
    block.extend(own_k, own_v)
    assert block.length == 43
    with raises(flashblock.StaleError, "43"):
        block.reuse(q, own_k, own_v)


def test_arguments_are_checked():
    q, k, v = normal(4, 2, 8), normal(8, 2, 8), normal(8, 2, 8)
    sizes = {"num_heads": 2, "num_kv_heads": 2, "head_dim": 8, "block_size": 4, "layout": "THD"}
    for error, words, call in (
        (ValueError, "layout is 'TDX'", lambda: flashblock.attention(q, k, v, layout="TDX")),
        (ValueError, "dimensions", lambda: flashblock.attention(q, k, v, layout="BTHD")),
        (ValueError, "lse_base", lambda: flashblock.attention(q, k, v, layout="THD", lse_base="10")),
        (ValueError, "they differ", lambda: flashblock.attention(q, k, v[:7], layout="THD")),
        (ValueError, "B and D differ", lambda: flashblock.attention(q[:, :, :4], k, v, layout="THD")),
        (ValueError, "multiple", lambda: flashblock.attention(q[:, :1], k, v, layout="THD")),
        (TypeError, "Mask", lambda: flashblock.attention(q, k, v, layout="THD", mask=4)),
        (TypeError, "k is f32, v is f16", lambda: flashblock.attention(q, k, v.astype("f16"), layout="THD")),
        (flashblock.ArgumentError, "head", lambda: flashblock.block(**{**sizes, "num_kv_heads": 0})),
        (ValueError, "lse_layout", lambda: flashblock.check(lse=q[:, :, 0], q=q, k=k, v=v, layout="THD")),
        (ValueError, "nothing", lambda: flashblock.check(q=q, k=k, v=v, layout="THD")),
        (ValueError, "out is", lambda: flashblock.check(out=q[:3], q=q, k=k, v=v, layout="THD")),
    ):
        with raises(error, words):
            call()


# --- the oracle -----------------------------------------------------------------------------------


def test_check_in_every_type_and_layout():
    for dtype in ("f32", "bf16", "f16"):
        q, k, v = normal(2, 4, 5, 32, dtype=dtype), normal(2, 2, 90, 32, dtype=dtype), normal(2, 2, 90, 32, dtype=dtype)
        out, lse = flashblock.attention(q, k, v, layout="BHTD")
        report = flashblock.check(out=out.astype(dtype), lse=lse, q=q, k=k, v=v, layout="BHTD", lse_layout="BHT")
        assert report.passed and [f.tensor for f in report.findings] == ["out", "lse"], report
        turned = {"lse": lse.transpose((2, 0, 1)), "lse_layout": "TBH"}
        assert flashblock.check(q=q, k=k, v=v, layout="BHTD", **turned).passed
        binary = flashblock.attention(q, k, v, layout="BHTD", lse_base="2")[1]
        assert flashblock.check(lse=binary, q=q, k=k, v=v, layout="BHTD", lse_layout="BHT", lse_base="2").passed
        with raises(AssertionError, "base 2"):
            flashblock.check(out=out.astype(dtype), lse=binary, q=q, k=k, v=v, layout="BHTD", lse_layout="BHT")


def test_key_lengths():
    q, k, v = normal(2, 4, 5, 32), normal(2, 2, 90, 32), normal(2, 2, 90, 32)
    lengths, outs = (90, 41), []
    for b, length in enumerate(lengths):
        own = [flashblock.array([[head[:length] for head in x.tolist()[b]]]) for x in (k, v)]
        outs += flashblock.attention(flashblock.array([q.tolist()[b]]), *own, layout="BHTD")[0].tolist()
    given, outs = {"q": q, "k": k, "v": v, "layout": "BHTD"}, flashblock.array(outs)
    assert flashblock.check(out=outs, key_lengths=lengths, **given).passed
    with raises(AssertionError, "its number of keys is ignored"):
        flashblock.check(out=flashblock.attention(q, k, v, layout="BHTD")[0], key_lengths=lengths, **given)
    for wrong in ((90,), (90, -1), (90, 2.5)):
        with raises(ValueError, "key_lengths"):
            flashblock.check(out=outs, key_lengths=wrong, **given)
    with raises(flashblock.ArgumentError, "key_lengths"):
        flashblock.check(out=outs, key_lengths=(90, 91), **given)


def test_precisions():
    q, k, v = normal(4, 2, 32), normal(90, 2, 32), normal(90, 2, 32)
    out, lse = flashblock.attention(q, k, v, layout="THD")
    given = {"out": out, "lse": lse, "q": q, "k": k, "v": v, "layout": "THD", "lse_layout": "TH"}
    for precision in (None, "auto", "f32", "float32", "torch.float32"):
        assert flashblock.check(precision=precision, **given).passed
    with raises(flashblock.ArgumentError, "f64"):
        flashblock.check(precision="f64", **given)
    rounded = [x.astype("bf16").astype("f32") for x in (q, k, v)]  # what a bf16 kernel does to float32 inputs
    out, lse = flashblock.attention(*rounded, layout="THD")
    given.update(out=out, lse=lse)
    assert flashblock.check(precision="bf16", **given).passed
    with raises(flashblock.CheckFailed, ""):
        flashblock.check(precision="f32", **given)


def test_clear_mistakes_are_named():
    q, k, v = normal(6, 4, 32), normal(80, 2, 32), normal(80, 2, 32)
    scale = 1 / math.sqrt(32)
    whole = {"q": q, "k": k, "v": v, "layout": "THD", "lse_layout": "TH"}
    for words, result in (
        ("scale", flashblock.attention(q, k, v, layout="THD", scale=scale * scale)),
        ("scale", flashblock.attention(q, k, v, layout="THD", scale=1.0)),
        ("last", flashblock.attention(q, k[:79], v[:79], layout="THD")),
    ):
        with raises(flashblock.CheckFailed, words) as caught:
            flashblock.check(out=result[0], lse=result[1], **whole)
        report = caught.error.report
        assert not report.passed and report.mistakes
        assert all(f.passed or f.tensor in report.summary for f in report.findings), report.summary
    out, lse = flashblock.attention(q, k, v, layout="THD", lse_layout="HT")
    with raises(AssertionError, ""):
        flashblock.check(out=out, lse=lse.dense().memoryview().cast("B").cast("f", (6, 4)), **whole)


class Port:
    """The library as a port: the three functions, in any layout."""

    def __init__(self, layout="THD", lse_layout="TH", store=lambda x: x, base="e"):
        self.options = {"layout": layout, "lse_layout": lse_layout, "lse_base": base}
        self.store = store

    def external(self, q, k, v, scale):
        out, lse = flashblock.attention(q, k, v, scale=scale, **self.options)
        return self.store(out), lse

    internal = external

    def merge(self, out_a, lse_a, out_b, lse_b):
        out, lse = flashblock.merge((out_a, lse_a), (out_b, lse_b), **self.options)
        return self.store(out), lse


class Stale(Port):
    """It refreshes only once."""

    def __init__(self):
        super().__init__()
        self.first = None

    def external(self, *arguments):
        self.first = self.first or super().external(*arguments)
        return self.first


def test_check_port_in_every_type_and_layout():
    for dtype in ("f32", "bf16", "f16"):
        for layout, lse_layout, base in (("THD", "TH", "e"), ("BHTD", "BHT", "2"), ("HTD", "TH", "e")):
            port = Port(layout, lse_layout, lambda x, dtype=dtype: x.astype(dtype), base)
            report = flashblock.check_port(
                port, "tiny", context=150, dtype=dtype, layout=layout, lse_layout=lse_layout, lse_base=base, seed=3
            )
            assert report.passed and len(report.findings) == 14 and not report.unjudged, report.text


def test_check_port_names_a_stale_port():
    with raises(flashblock.CheckFailed, "not refreshed"):
        flashblock.check_port(Stale(), "tiny", dtype="f32", lse_layout="TH")


def test_a_port_of_one_function():
    kept = {}

    def port(step):
        assert step.action in ("refresh+store", "refresh", "reuse") and (step.action == "reuse") == (not step.rows)
        external = kept.get("part")
        if step.action != "reuse":
            external = flashblock.attention(step.q, step.context_k, step.context_v, layout="THD", scale=step.scale)
        if step.action == "refresh+store":
            kept["part"] = external
        internal = flashblock.attention(step.q, step.k, step.v, layout="THD", scale=step.scale)
        return flashblock.merge(external, internal, layout="THD", lse_layout="TH")

    assert flashblock.check_port(port, "tiny", dtype="f32", lse_layout="TH", steps=3, tau=3, block_size=6, seed=9).passed


def test_a_port_that_writes_to_its_inputs_does_not_change_the_truth():
    class Writes(Port):
        def external(self, q, k, v, scale):
            result = super().external(q, k, v, scale)
            ctypes.memset(q.address, 0, q.size * q.itemsize)
            return result

    with raises(AssertionError, ""):  # its internal part is wrong: its queries are zeros
        flashblock.check_port(Writes(), "tiny", dtype="f32", lse_layout="TH")


def test_ports_with_other_arrays():
    for arrays in ("numpy", "torch"):
        if importlib.util.find_spec(arrays) is None:
            continue
        for dtype in ("f32", "bf16"):
            port = Port("BHTD", "BHT", lambda x, dtype=dtype: x.astype(dtype))
            assert flashblock.check_port(
                port, "tiny", dtype=dtype, layout="BHTD", lse_layout="BHT", arrays=arrays
            ).passed


def test_a_port_that_refreshes_by_rows():
    numpy = module("numpy")

    class Rows(Port):
        def external_rows(self, q, k, v, scale, rows, kept):
            assert 0 < len(rows) < q.shape[0]
            parts = zip(self.external(q, k, v, scale), kept)
            results = []
            for new, old in parts:
                made = numpy.array(old)
                made[rows] = numpy.asarray(new)[rows]
                results.append(made)
            return tuple(results)

    options = {"rows": True, "dtype": "f32", "lse_layout": "TH", "block_size": 8, "steps": 6, "tau": 2}
    assert flashblock.check_port(Rows(), "tiny", **options).passed
    with raises(TypeError, "external_rows"):
        flashblock.check_port(Port(), "tiny", **options)


def test_broadcast_results_are_read_as_they_are():
    """Strides of 0: C takes three of them for a dense tensor."""
    q, k, v = normal(4, 2, 8), normal(8, 2, 8), normal(8, 2, 8)
    one = flashblock.array([2.5])
    spread = flashblock.Array(one.address, "f32", (4, 2), (0, 0), one)
    with raises(flashblock.CheckFailed, "2.5"):
        flashblock.check(lse=spread, q=q, k=k, v=v, layout="THD", lse_layout="TH")


def test_sequences():
    sequence = flashblock.Sequence("tiny", context=33, dtype="bf16", seed=5)
    assert sequence.context_k.shape == (33, 2, 32) and sequence.dtype == "bf16" and sequence.seed == 5
    passes = list(sequence)
    assert passes[-1].commit and sorted(sum((p.accepted for p in passes), [])) == [0, 1, 2, 3]
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "case.safetensors"
        sequence.write(path)
        assert path.stat().st_size > 1000
    for error, words, options in (
        (flashblock.ArgumentError, "trado-8b", {"preset": "nothing"}),
        (TypeError, "no option 'taus'", {"taus": 3}),
        (TypeError, "no option 'unused'", {"unused": 0}),
        (flashblock.ArgumentError, "steps", {"steps": 77}),
        (ValueError, "dtype", {"dtype": "f8"}),
    ):
        with raises(error, words):
            flashblock.Sequence(**options)
    with raises(ValueError, "lse_layout"):
        flashblock.check_port(Port(), "tiny")
    with raises(TypeError, "callable"):
        flashblock.check_port(None, "tiny", lse_layout="TH")


# --- trajectories ---------------------------------------------------------------------------------


def test_check_trajectory():
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        weights = trajectory_port.make_model(folder / "model")
        right = trajectory_port.record(folder / "right.jsonl", weights)
        for record in (right, folder / "right.jsonl", str(folder / "right.jsonl")):
            report = flashblock.check_trajectory(record, model=folder / "model")
            assert report.passed and report.kind == "trajectory" and "within the noise of f32" in report.summary
            assert report.json["trajectory"]["agreement"]["decisions"] == {"agree": 18, "of": 18}, report.json
        flashblock.check_trajectory(right, model=folder / "model", states=folder / "ours.safetensors")
        assert b'"block0.commit.external_lse"' in (folder / "ours.safetensors").read_bytes()
        wrong = trajectory_port.record(folder / "wrong.jsonl", weights, mistake="positions", mistake_block=2)
        with raises(flashblock.CheckFailed, "rotary positions of the block are one too high") as failed:
            flashblock.check_trajectory(wrong, model=folder / "model")
        first = failed.error.report.json["trajectory"]["first_mistake"]
        assert (first["block"], first["step"]) == (2, 0) and failed.error.report.mistakes
        with raises(flashblock.CheckFailed, "without its end"):
            flashblock.check_trajectory(right[:-1], model=folder / "model")
        assert flashblock.check_trajectory(right[:-1], model=folder / "model", partial=True).passed
        with raises(flashblock.CheckFailed, "line 2"):
            flashblock.check_trajectory([right[0], {**right[1], "accepted": [0]}], model=folder / "model")
        with raises(flashblock.FileError, "nonesuch"):
            flashblock.check_trajectory(right, model="/nonesuch")
        with raises(flashblock.ArgumentError, "f31"):
            flashblock.check_trajectory(right, model=folder / "model", precision="f31")


def test_options_of_a_record_are_those_that_c_reads():
    from flashblock import _trajectory

    sources = "".join(path.read_text(encoding="utf-8") for path in (root / "src/oracle").glob("trajectory_*.c"))
    known = re.search(r"option_names\[\] = \{(.*?)\};", sources, re.DOTALL).group(1)
    assert set(re.findall(r'"(\w+)"', known)) == set(_trajectory.OPTIONS)
    page = (root / "docs/trajectory.md").read_text(encoding="utf-8")
    assert not [name for name in _trajectory.OPTIONS if f"`{name}`" not in page]


class Numbers(list):
    """A tensor of a framework, as far as the writer looks at it."""

    def tolist(self):
        return list(self)


def test_trajectory_writer():
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        weights = trajectory_port.make_model(folder / "model")
        tensors = {}
        options = {"block_size": 4, "denoising_steps": 4, "max_tokens": 8, "remasking": "low_confidence_static",
                   "confidence_threshold": 0.9, "tau": 2, "ignore_stop": True, "temperature": 0.0}  # fmt: skip
        lines = trajectory_port.decode(trajectory_port.Port(weights), [5, 9, 30], options, {}, tensors)
        record = flashblock.TrajectoryWriter(folder / "run.jsonl", precision="f32", prompt=Numbers([5, 9, 30]), **options)
        for line in lines[1:-1]:
            if line["step"] == "commit":
                record.commit(line["block"], action=line["action"], before=Numbers(line["before"]))
                continue
            shape, flat = tensors[line["hidden"]]
            hidden = flashblock.array(flat, "f32", shape)
            accepted = Numbers(i in line["accepted"] for i in range(4))
            record.step(line["block"], line["step"], before=Numbers(line["before"]), proposed=Numbers(line["proposed"]),
                        confidence=[line["confidence"]], accepted=accepted, action=line["action"],
                        hidden=[hidden[i].with_batch() for i in range(3)], logits=None)  # fmt: skip
        record.end("length", lines[-1]["tokens"])
        report = flashblock.check_trajectory(record, model=folder / "model")
        assert report.passed and any(finding.tensor == "hidden" for finding in report.findings), report.text
        writer = functools.partial(flashblock.TrajectoryWriter, folder / "none.jsonl", prompt=[5])
        with raises(ValueError, "precision is 'fp16', expected 'f32'"):
            writer(precision="fp16")
        with raises(TypeError, "threshold=0.9 is not an option of a record: did you mean confidence_threshold"):
            writer(precision="f32", threshold=0.9)
        with raises(ValueError, "remasking is 'low_confidence', expected 'low_confidence_dynamic' or"):
            writer(precision="f32", remasking="low_confidence")
        for wrong in ({"top_p": 0}, {"tau": 1.5}, {"block_size": "4"}, {"stop_tokens": [-1]}, {"greedy": 2}, {"tau": []}):
            with raises(ValueError, f"{next(iter(wrong))} is {next(iter(wrong.values()))!r}, expected"):
                writer(precision="f32", **wrong)
        assert not (folder / "none.jsonl").exists(), "a writer that refuses its options leaves a file"
        with flashblock.TrajectoryWriter(folder / "batch.jsonl", precision="f32", prompt=[]) as record:
            record.commit(0, hidden=flashblock.array([0.0] * 6, "f64", (3, 1, 1, 2)))
            with raises(ValueError, "has the shape [3, 2], expected 3 axes"):
                record.commit(1, hidden=flashblock.array([0.0] * 6, "f32", (3, 2)))
        assert b'"F64","shape":[3,1,2]' in (folder / "batch.jsonl.safetensors").read_bytes().replace(b" ", b"")
        with raises(ValueError, "action is 'refreshed', expected 'refresh' or 'reuse'"):
            flashblock.TrajectoryWriter(folder / "x.jsonl", precision="f32", prompt=[]).commit(0, action="refreshed")
        with raises(TypeError, "middle"):
            flashblock.TrajectoryWriter(folder / "x.jsonl", precision="f32", prompt=[]).step(
                0, 0, before=[0], proposed=[0], confidence=[1], accepted=[0], middle=hidden
            )
        plain = flashblock.TrajectoryWriter(folder / "x.jsonl", precision="f32", prompt=[])
        plain.commit(0)
        with raises(ValueError, "first pass"):
            plain.commit(1, hidden=hidden)
        plain.close()


if __name__ == "__main__":
    sys.exit(run_tests(globals()))
