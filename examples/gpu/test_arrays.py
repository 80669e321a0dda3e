"""Arrays of a GPU come in, results go out: PyTorch, CuPy, JAX. Each is skipped where it is not installed, or
has no GPU."""
import os

import flashblock
import pytest

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # JAX would take most of the memory


def inputs(dtype="f32"):
    """q [H, T, D], k and v [Hk, keys, D]: flashblock.Array."""
    sizes = {"num_heads": 4, "num_kv_heads": 2, "head_dim": 16, "block_size": 5, "steps": 2}
    sequence = flashblock.Sequence("tiny", context=70, dtype=dtype, **sizes)
    q = next(iter(sequence)).q
    return [x.transpose((1, 0, 2)).copy() for x in (q, sequence.context_k, sequence.context_v)]


def is_same(x, y):
    return bytes(x.dense().memoryview()) == bytes(y.dense().memoryview())


def round_trip(to_device, dtype):
    """Every bit survives the way to the device and back; attention of arrays there is that of arrays here."""
    arrays = inputs(dtype)
    there = [to_device(x) for x in arrays]
    for here, x in zip(arrays, there):
        assert is_same(flashblock.as_array(x), here)
        assert is_same(flashblock.as_array(x.swapaxes(0, 2)), here.transpose((2, 1, 0)))
        assert is_same(flashblock.as_array(x[:, 1::2]), here[:, 1::2])
    expected, computed = (flashblock.attention(*x, layout="HTD") for x in (arrays, there))
    assert all(is_same(a, b) for a, b in zip(expected, computed))
    out, lse = (to_device(x) for x in computed)
    q, k, v = there
    flashblock.check(out=out, lse=lse, q=q, k=k, v=v, layout="HTD", lse_layout="HT")


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
def test_torch(dtype):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    round_trip(lambda x: torch.from_dlpack(x).cuda(), dtype)
    q = torch.from_dlpack(inputs(dtype)[0]).cuda().requires_grad_()
    assert is_same(flashblock.as_array(q), inputs(dtype)[0])


@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_cupy(dtype):
    cupy = pytest.importorskip("cupy")
    numpy = pytest.importorskip("numpy")
    if not cupy.cuda.is_available():
        pytest.skip("no GPU")
    round_trip(lambda x: cupy.asarray(numpy.asarray(x)), dtype)


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_jax(platform, dtype):
    jax = pytest.importorskip("jax")
    try:
        device = jax.devices(platform)[0]
    except RuntimeError:
        pytest.skip(f"JAX has no {platform}")
    round_trip(lambda x: jax.device_put(jax.numpy.from_dlpack(x), device), dtype)
