"""FlashBlock in PyTorch: parts are made by its attention operators, which return log-sum-exps, and merged.

    port = Port("flash")
    out, lse = port.external(q, k, v, scale)      # kept, and merged again at every reuse
    flashblock.check_port(port, ..., layout="BHTD", lse_layout="BHT", arrays="torch", device="cuda")
"""
import torch


def part(q, k, v, scale, backend):
    """The attention of q [B, H, T, D] to k, v [B, Hk, S, D]: out [B, H, T, D] in q's type, and the natural log-sum-exp
    [B, H, T] in float32.

    Query heads that share a KV head become rows of one head: nothing is masked, so that rows are independent, and no
    key is copied.
    """
    batch, heads, tokens, dim = q.shape
    kv_heads = k.shape[1]
    rows = q.reshape(batch, kv_heads, heads // kv_heads * tokens, dim)
    out, lse = BACKENDS[backend](rows, k, v, scale)
    lse = lse.reshape(batch, kv_heads, -1)[:, :, : rows.shape[2]]  # some operators pad the rows
    return out.reshape(q.shape), lse.reshape(batch, heads, tokens).float()


def flash(q, k, v, scale):
    """flash-attention 2, in PyTorch: CUDA, bf16 and f16."""
    return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, False, False, scale=scale)[:2]


def efficient(q, k, v, scale):
    """xFormers' memory-efficient attention, in PyTorch: CUDA, bf16, f16 and f32."""
    return torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, None, True, 0.0, False, scale=scale)[:2]


def cudnn(q, k, v, scale):
    """cuDNN's, in PyTorch: CUDA, bf16 and f16."""
    operator = torch.ops.aten._scaled_dot_product_cudnn_attention
    return operator(q, k, v, None, True, 0.0, False, False, scale=scale)[:2]


def cpu(q, k, v, scale):
    """PyTorch's flash attention for CPUs."""
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, False, scale=scale)[:2]


def eager(q, k, v, scale):
    """Two products and a softmax in float32: any device. Not with tf32 (torch.backends.cuda.matmul.allow_tf32)."""
    scores = scale * (q.float() @ k.float().transpose(2, 3))
    return (torch.softmax(scores, dim=3) @ v.float()).to(q.dtype), torch.logsumexp(scores, dim=3)


BACKENDS = {"flash": flash, "efficient": efficient, "cudnn": cudnn, "cpu": cpu, "eager": eager}


def merge(out_a, lse_a, out_b, lse_b):
    """The part over both sets of keys. A row that saw no key (L = -inf) contributes nothing."""
    top = torch.maximum(lse_a, lse_b)
    base = torch.where(torch.isinf(top), torch.zeros_like(top), top)  # -inf - -inf would be NaN
    a, b = torch.exp(lse_a - base), torch.exp(lse_b - base)
    total = a + b
    share = torch.where(total > 0, 1 / total, torch.zeros_like(total))
    out = (a * share)[..., None] * out_a.float() + (b * share)[..., None] * out_b.float()
    return out.to(out_a.dtype), base + torch.log(total)


class Port:
    """The three functions of docs/port.md, for layout="BHTD" and lse_layout="BHT"."""

    def __init__(self, backend, internal="eager"):
        self.backend, self.own = backend, internal

    def external(self, q, k, v, scale):
        return part(q, k, v, scale, self.backend)

    def internal(self, q, k, v, scale):
        return part(q, k, v, scale, self.own)

    def merge(self, out_a, lse_a, out_b, lse_b):
        return merge(out_a, lse_a, out_b, lse_b)
