"""FlashBlock in PyTorch, judged. Without PyTorch or a GPU the tests are skipped; `eager` runs on a CPU, too."""
import flashblock
import pytest

torch = pytest.importorskip("torch")

from flashblock_torch import Port, merge  # noqa: E402

ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"
TYPES = {
    "flash": ["bf16", "f16"],
    "cudnn": ["bf16", "f16"],
    "efficient": ["f32", "bf16", "f16"],
    "cpu": ["f32", "bf16"],
    "eager": ["f32", "bf16", "f16"],
}
ALL = [(backend, dtype) for backend, dtypes in TYPES.items() for dtype in dtypes]


def device_of(backend):
    """Where the backend runs; skips the test where it does not."""
    if backend in ("flash", "efficient", "cudnn") and not ON_GPU:
        pytest.skip("no GPU")
    if backend == "cpu" and not hasattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu"):
        pytest.skip("this PyTorch has no flash attention for CPUs")
    return "cpu" if backend == "cpu" else DEVICE


def check(port, device, **options):
    torch.backends.cuda.matmul.allow_tf32 = False
    return flashblock.check_port(port, arrays="torch", device=device, layout="BHTD", lse_layout="BHT", **options)


@pytest.mark.parametrize("backend, dtype", ALL)
@pytest.mark.parametrize("preset, context", [("tiny", 1), ("tiny", 65), ("sdar-1.7b", 1000), ("trado-8b", 4096)])
def test_port(backend, dtype, preset, context):
    device = device_of(backend)
    if device == "cpu" and context > 1000:
        pytest.skip("a CPU: short contexts only")
    if backend == "cudnn" and preset == "tiny":
        pytest.skip("cuDNN takes heads of 64 and more")
    check(Port(backend), device, preset=preset, context=context, dtype=dtype)


@pytest.mark.parametrize("backend", ["flash", "efficient", "cudnn"])
def test_the_same_operator_for_the_block_itself(backend):
    check(Port(backend, internal=backend), device_of(backend), context=4096, dtype="bf16")


@pytest.mark.parametrize("backend", ["flash", "efficient", "cudnn"])
def test_a_long_context(backend):
    check(Port(backend), device_of(backend), context=16384, dtype="bf16")


def test_a_longer_block():
    check(Port("eager"), DEVICE, preset="sdar-1.7b", context=500, block_size=16, steps=8, tau=3, dtype="bf16")


def test_empty_parts_merge():
    out, lse = torch.ones(1, 2, 3, 8, device=DEVICE), torch.zeros(1, 2, 3, device=DEVICE)
    nothing, never = torch.zeros_like(out), torch.full_like(lse, -torch.inf)
    for a, b in (((out, lse), (nothing, never)), ((nothing, never), (out, lse))):
        merged = merge(*a, *b)
        assert torch.equal(merged[0], out) and torch.equal(merged[1], lse)
    merged = merge(nothing, never, nothing, never)
    assert torch.equal(merged[0], nothing) and torch.equal(merged[1], never)


# --- the tests can fail ---------------------------------------------------------------------------


class Stale(Port):
    """The first external part is kept for good."""

    first = None

    def external(self, *arguments):
        self.first = self.first or super().external(*arguments)
        return self.first


class Base2(Port):
    """The external LSE is in base 2, merged in base e."""

    def external(self, *arguments):
        out, lse = super().external(*arguments)
        return out, lse / 0.6931471805599453


class Twice(Port):
    """The scale is applied twice."""

    def external(self, q, k, v, scale):
        return super().external(q * scale, k, v, scale)

    def internal(self, q, k, v, scale):
        return super().internal(q * scale, k, v, scale)


class Short(Port):
    """The last key is left out."""

    def external(self, q, k, v, scale):
        return super().external(q, k[:, :, :-1], v[:, :, :-1], scale)


@pytest.mark.parametrize(
    "mistake, words", [(Stale, "not refreshed"), (Base2, "base 2"), (Twice, "twice"), (Short, "key")]
)
def test_mistakes_are_found_and_named(mistake, words):
    with pytest.raises(AssertionError, match=words):
        check(mistake("eager"), DEVICE, preset="tiny", context=300, dtype="f32")
