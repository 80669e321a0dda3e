"""FlashBlock in Triton, judged. Without Triton or a GPU the tests are skipped."""
import flashblock
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")
if not torch.cuda.is_available():
    pytest.skip("no GPU", allow_module_level=True)

from flashblock_triton import Port, attend, merge  # noqa: E402


def check(port, **options):
    return flashblock.check_port(port, arrays="torch", device="cuda", layout="BHTD", lse_layout="BHT", **options)


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
@pytest.mark.parametrize(
    "preset, context", [("tiny", 1), ("tiny", 63), ("tiny", 64), ("tiny", 65), ("sdar-1.7b", 1000), ("trado-8b", 4096)]
)
def test_port(dtype, preset, context):
    check(Port(), preset=preset, context=context, dtype=dtype)


@pytest.mark.parametrize("splits", [1, 2, 7, 64])
def test_any_number_of_splits(splits):
    check(Port(splits), preset="trado-8b", context=1111, dtype="bf16")


def test_a_long_context():
    check(Port(), context=16384, dtype="bf16")


@pytest.mark.parametrize("dim", [8, 80, 128])
def test_other_widths_of_heads(dim):
    check(Port(), preset="tiny", context=200, head_dim=dim, dtype="f32")


def test_a_longer_block():
    check(Port(), preset="sdar-1.7b", context=2048, block_size=32, steps=8, tau=3, dtype="bf16")


def inputs(heads=8, kv_heads=2, tokens=4, keys=500, dim=64, dtype=torch.bfloat16):
    generator = torch.Generator("cuda").manual_seed(1)
    shapes = [(heads, tokens), (kv_heads, keys), (kv_heads, keys)]
    return [torch.randn(1, *shape, dim, device="cuda", generator=generator).to(dtype) for shape in shapes]


def test_refresh_by_heads():
    """The heads that are named have the part of the new queries, the others keep that of the old ones."""
    old, k, v = inputs()
    new = torch.randn_like(old)
    heads = torch.tensor([1, 0, 0, 1, 0, 0, 0, 0], dtype=torch.bool, device="cuda")
    kept = attend(old, k, v, 0.125)
    before = [x.clone() for x in kept]
    out, lse = attend(new, k, v, 0.125, heads=heads, kept=kept)
    assert torch.equal(out[:, ~heads], before[0][:, ~heads]) and torch.equal(lse[:, ~heads], before[1][:, ~heads])
    composed = torch.where(heads[None, :, None, None], new, old)
    flashblock.check(out=out, lse=lse, q=composed, k=k, v=v, scale=0.125, layout="BHTD", lse_layout="BHT")
    with pytest.raises(AssertionError):  # as if all heads had been refreshed
        flashblock.check(out=out, lse=lse, q=new, k=k, v=v, scale=0.125, layout="BHTD", lse_layout="BHT")


def test_no_keys_and_empty_parts():
    q, k, v = inputs(keys=1)
    nothing = attend(q, k[:, :, :0], v[:, :, :0], 0.125)
    assert torch.all(nothing[0] == 0) and torch.all(nothing[1] == -torch.inf)
    part = attend(q, k, v, 0.125)
    for a, b in ((part, nothing), (nothing, part)):
        out, lse = merge(*a, *b)
        assert torch.equal(out, part[0]) and torch.allclose(lse, part[1])
    out, lse = merge(*nothing, *nothing)
    assert torch.all(out == 0) and torch.all(lse == -torch.inf)


# --- the tests can fail ---------------------------------------------------------------------------


class Stale(Port):
    first = None

    def external(self, *arguments):
        self.first = self.first or super().external(*arguments)
        return self.first


class LastSplit(Port):
    """The LSE is that of the last split."""

    def external(self, q, k, v, scale):
        out, _ = super().external(q, k, v, scale)
        last = k.shape[2] // 2
        return out, attend(q, k[:, :, last:], v[:, :, last:], scale)[1]


@pytest.mark.parametrize("mistake", [Stale, LastSplit])
def test_mistakes_are_found(mistake):
    with pytest.raises(flashblock.CheckFailed) as caught:
        check(mistake(), preset="tiny", context=300, dtype="f32")
    print(caught.value.report.summary)
