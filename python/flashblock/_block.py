"""FlashBlock: the attention of a block that is denoised in several steps, with its external part kept."""
import ctypes
import weakref

from . import _declarations as c
from ._arrays import dtype_name, empty, fb_dtype
from ._layout import Tensor, check_base, check_layout, lse_layout_of, placed, scaled
from ._library import check_status, library


class Block:
    """A KV cache, and the kept external part of a block of `block_size` queries, for each layer.

        block = flashblock.block(num_heads=32, num_kv_heads=8, head_dim=128, block_size=4, layout="THD")
        block.extend(k_context, v_context)        # committed tokens
        out, lse = block.refresh(q, k, v)         # computes the external part, and keeps it
        out, lse = block.reuse(q, k, v)           # takes it: reads no committed key or value
        block.extend(k, v)                        # the finished block is committed

    Every step is given the block's own queries [T, H, D], keys and values [T, Hk, D] in `layout`, and returns
    (out, lse), float32 Arrays in `layout` and `lse_layout` (None: `layout` without D).
    """

    def __init__(self, num_heads, num_kv_heads, head_dim, block_size, layout, num_layers=1, dtype="f32",
                 scale=None, lse_layout=None, lse_base="e"):  # fmt: skip
        self.layout = check_layout(layout, "THD", "layout")
        if "B" in self.layout and "B" != self.layout[0]:
            raise ValueError(f"layout is {layout!r}: a block is one sequence, B comes first")
        self.lse_layout, self._factor = lse_layout_of(self.layout, lse_layout), check_base(lse_base)
        self.num_heads, self.num_kv_heads, self.head_dim = num_heads, num_kv_heads, head_dim
        self.block_size, self.num_layers, self.dtype, self.scale = block_size, num_layers, dtype_name(dtype), scale
        core, kv, parts = library(), ctypes.c_void_p(), ctypes.c_void_p()
        config = c.fb_kv_cache_config(num_layers, num_kv_heads, head_dim, fb_dtype(self.dtype, "dtype"))
        check_status(core.fb_kv_cache_create(config, ctypes.byref(kv)))
        weakref.finalize(self, core.fb_kv_cache_destroy, kv)
        check_status(core.fb_part_cache_create(num_layers, block_size, num_heads, head_dim, ctypes.byref(parts)))
        weakref.finalize(self, core.fb_part_cache_destroy, parts)
        self._kv, self._parts = kv, parts

    @property
    def length(self):
        """Committed tokens."""
        return library().fb_kv_cache_length(self._kv)

    def _rows(self, x, heads, what):
        """Dense float32 [T, heads, D]."""
        tensor = Tensor(x, self.layout, what)
        if tensor.shape[0] != 1 or tensor.shape[2:] != (heads, self.head_dim):
            raise ValueError(f"{what} is {tensor.shape} as [B, T, H, D], expected [1, T, {heads}, {self.head_dim}]")
        return tensor.floats()[0]

    def write(self, k, v, layer=0):
        """Keys and values of one layer after the committed tokens: [T, Hk, D]. commit() makes them committed."""
        k, v = self._rows(k, self.num_kv_heads, "k"), self._rows(v, self.num_kv_heads, "v")
        if k.shape != v.shape:
            raise ValueError(f"k has {k.shape[0]} tokens, v has {v.shape[0]}")
        check_status(library().fb_kv_cache_write(self._kv, layer, self.length, k.shape[0], k.address, v.address))
        return k.shape[0]

    def commit(self, num_tokens):
        """The next tokens, which every layer has written, become context. Kept parts are stale from now on."""
        check_status(library().fb_kv_cache_commit(self._kv, num_tokens))

    def extend(self, k, v):
        """Writes and commits, where there is one layer."""
        if self.num_layers != 1:
            raise ValueError(f"there are {self.num_layers} layers: write() each, then commit()")
        self.commit(self.write(k, v))

    def truncate(self, length):
        """Forgets committed tokens from `length` on. Kept parts are stale from now on."""
        check_status(library().fb_kv_cache_truncate(self._kv, length))

    def _attend(self, q, k, v, layer, action):
        q = self._rows(q, self.num_heads, "q")
        if self.write(k, v, layer) != q.shape[0]:
            raise ValueError(f"q has {q.shape[0]} tokens, k and v have others")
        out, lse = empty(q.shape, "f32"), empty(q.shape[:2], "f32")
        call = c.fb_block_call()
        library().fb_block_call_init_sized(call, ctypes.sizeof(call))
        queries = library().fb_queries_rows(q.address, *q.shape)
        call.queries, call.kv, call.layer = ctypes.pointer(queries), self._kv, layer
        call.action, call.parts, call.scale = action, self._parts, self.scale or 0.0
        part = library().fb_part_rows(out.address, lse.address, self.num_heads, self.head_dim)
        check_status(library().fb_block_attend(call, part))
        return self._result(out, lse)

    def _result(self, out, lse):
        lse = scaled(lse, 1.0 / self._factor)
        return placed(out.with_batch(), self.layout), placed(lse.with_batch(), self.lse_layout)

    def refresh(self, q, k, v, layer=0, store=True):
        """Dense attention over the committed tokens and the block. The external part is kept, unless `store` is
        false."""
        return self._attend(q, k, v, layer, c.FB_REFRESH_AND_STORE if store else c.FB_REFRESH_ONLY)

    def reuse(self, q, k, v, layer=0):
        """The kept external part, merged with a new internal part. StaleError: nothing was kept for the tokens
        that are committed now."""
        return self._attend(q, k, v, layer, c.FB_REUSE)

    def external(self, layer=0):
        """The part that is kept: (out, lse), copies. StaleError as in reuse()."""
        part = c.fb_part()
        check_status(library().fb_part_cache_load(self._parts, layer, self._kv, c.FB_COMPAT_PAPER, part))
        shape = self.block_size, self.num_heads, self.head_dim
        out, lse = empty(shape, "f32"), empty(shape[:2], "f32")
        ctypes.memmove(out.address, part.out, 4 * shape[0] * shape[1] * shape[2])
        ctypes.memmove(lse.address, part.lse, 4 * shape[0] * shape[1])
        return self._result(out, lse)


def block(**options):
    """A Block: see there."""
    return Block(**options)
