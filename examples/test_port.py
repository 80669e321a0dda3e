"""test_port.py: a port in NumPy, and its tests. Copy it, and let the three functions call your kernels.

    pip install ./python pytest numpy && pytest examples/test_port.py
"""
import flashblock
import pytest

np = pytest.importorskip("numpy")


class Port:
    """FlashBlock is these three functions. q [H, T, D], k and v [Hk, keys, D]; out [H, T, D], lse [H, T]."""

    def external(self, q, k, v, scale):
        """The attention to the committed tokens: a long context. What it returns is kept, and reused."""
        heads, kv_heads = q.shape[0], k.shape[0]
        k, v = (np.repeat(x, heads // kv_heads, axis=0) for x in (k, v))
        scores = scale * (q @ k.transpose(0, 2, 1))
        top = scores.max(axis=2, keepdims=True)
        weights = np.exp(scores - top)
        total = weights.sum(axis=2, keepdims=True)
        return weights @ v / total, (top + np.log(total))[:, :, 0]

    internal = external  # the attention to the block itself: a few keys. A kernel of its own, for many devices

    def merge(self, out_a, lse_a, out_b, lse_b):
        top = np.maximum(lse_a, lse_b)
        a, b = np.exp(lse_a - top), np.exp(lse_b - top)
        out = (a[:, :, None] * out_a + b[:, :, None] * out_b) / (a + b)[:, :, None]
        return out, top + np.log(a + b)


class Stale(Port):
    """A mistake: the external part of the first pass is kept for good."""

    first = None

    def external(self, *arguments):
        self.first = self.first or super().external(*arguments)
        return self.first


def check(port, **options):
    return flashblock.check_port(port, arrays="numpy", layout="HTD", lse_layout="HT", dtype="f32", **options)


@pytest.mark.parametrize("context", [1, 63, 64, 65, 1000])
def test_every_result_is_right(context):
    check(Port(), preset="tiny", context=context)


def test_at_the_size_of_a_model():
    check(Port(), preset="trado-8b", context=2048)


def test_a_stale_part_is_found():
    with pytest.raises(AssertionError, match="not refreshed"):
        check(Stale(), preset="tiny")
