"""The network of golden/demo-model: SDAR's architecture (Qwen3 layers), its masks, greedy decoding, and its files."""
import json
import math
import pathlib
import struct

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

try:
    from torch.nn.attention.flex_attention import BlockMask, flex_attention
except ImportError:  # PyTorch before 2.5: on a CPU only
    BlockMask = flex_attention = None

CONFIG = dict(
    hidden_size=384,
    intermediate_size=1024,
    num_hidden_layers=8,
    num_attention_heads=6,
    num_key_value_heads=2,
    head_dim=64,
    rms_norm_eps=1e-6,
    rope_theta=500000.0,
    vocab_size=2048,
    block_size=4,
    eos_token_id=2045,
    mask_token_id=2047,
    max_position_embeddings=16384,
)
TILE = 128  # rows and keys of a tile of flex_attention
CHUNK = 256  # rows that attend together without flex_attention

# ---------------------------------------------------------------------------------------------------- masks
#
# Row q sees row k if start[q] <= k < limit[q], or if own[q] == of[k] (demo_windows.py). Tensors are [windows, rows].


def block_mask(start, limit, own, of):
    """flex_attention's mask. Build it outside a compiled function: inside, training gave NaN within a few steps
    (PyTorch 2.11; cause not found)."""
    windows, rows = start.shape
    tiles = rows // TILE
    empty = limit <= start
    first = torch.where(empty, rows, start).view(windows, tiles, TILE)
    last = torch.where(empty, 0, limit).view(windows, tiles, TILE)
    key = torch.arange(tiles, device=start.device, dtype=start.dtype) * TILE
    some = (key < last.amax(-1)[..., None]) & (key + TILE > first.amin(-1)[..., None])
    full = (key >= first.amax(-1)[..., None]) & (key + TILE <= last.amin(-1)[..., None])
    has_own = (own >= 0).view(windows, tiles, TILE).any(-1)
    some = some | (torch.eye(tiles, dtype=torch.bool, device=start.device) & has_own[..., None])

    def ordered(chosen):
        """(number of tiles chosen, their indices first)"""
        index = chosen.int().argsort(dim=-1, descending=True, stable=True).to(torch.int32)
        return chosen.sum(-1, dtype=torch.int32)[:, None].contiguous(), index[:, None].contiguous()

    def sees(b, h, q, k):
        return ((k >= start[b, q]) & (k < limit[b, q])) | (own[b, q] == of[b, k])

    return BlockMask.from_kv_blocks(*ordered(some & ~full), *ordered(full), BLOCK_SIZE=TILE, mask_mod=sees)


def attend_in_chunks(q, k, v, start, limit, own, of):
    """The same attention in plain operations, as on a CPU: q [windows, heads, rows, d], k and v [windows, kv heads,
    rows, d]. A noisy block lies within a chunk."""
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    out = []
    for w in range(q.shape[0]):
        parts = []
        for a in range(0, q.shape[2], CHUNK):
            b = min(a + CHUNK, q.shape[2])
            some = limit[w, a:b] > start[w, a:b]
            lo = int(start[w, a:b][some].min()) if some.any() else 0
            hi = int(limit[w, a:b][some].max()) if some.any() else 0
            key = torch.arange(lo, hi, device=q.device)
            mask = torch.cat(((key >= start[w, a:b, None]) & (key < limit[w, a:b, None]), own[w, a:b, None] == of[w, a:b]), 1)
            keys, values = (torch.cat((x[w, :, lo:hi], x[w, :, a:b]), 1) for x in (k, v))
            scores = (q[w, :, a:b] @ keys.transpose(-1, -2)) * q.shape[-1] ** -0.5
            parts.append(torch.softmax(scores.masked_fill(~mask, -1e30), -1) @ values)
        out.append(torch.cat(parts, 1))
    return torch.stack(out)


# -------------------------------------------------------------------------------------------------- network


def rms_norm(x, weight, eps):
    x = x.float()
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


def rotate(x, cos, sin):
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


class Layer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        hidden, inner, d = config["hidden_size"], config["intermediate_size"], config["head_dim"]
        q_width, kv_width = config["num_attention_heads"] * d, config["num_key_value_heads"] * d
        shapes = dict(q_proj=(q_width, hidden), k_proj=(kv_width, hidden), v_proj=(kv_width, hidden), o_proj=(hidden, q_width),
                      gate_proj=(inner, hidden), up_proj=(inner, hidden), down_proj=(hidden, inner))  # fmt: skip
        for name, shape in shapes.items():
            setattr(self, name, nn.Parameter(torch.empty(shape)))
        for name, n in dict(input_layernorm=hidden, post_attention_layernorm=hidden, q_norm=d, k_norm=d).items():
            setattr(self, name, nn.Parameter(torch.ones(n)))

    def queries_keys_values(self, x, cos, sin, dtype):
        """x [.., rows, hidden] -> [.., heads, rows, head_dim] each"""
        d, eps = self.config["head_dim"], self.config["rms_norm_eps"]
        heads = (self.config["num_attention_heads"],) + (self.config["num_key_value_heads"],) * 2
        h = rms_norm(x, self.input_layernorm, eps).to(dtype)
        w = torch.cat((self.q_proj, self.k_proj, self.v_proj)).to(dtype)
        q, k, v = F.linear(h, w).unflatten(-1, (-1, d)).split(heads, -2)
        q = rotate(rms_norm(q, self.q_norm, eps), cos, sin).to(dtype).transpose(1, 2)
        k = rotate(rms_norm(k, self.k_norm, eps), cos, sin).to(dtype).transpose(1, 2)
        return q, k, v.transpose(1, 2)

    def after_attention(self, x, attended, dtype):
        """attended [.., heads, rows, head_dim]; the residual stream x stays in f32"""
        x = x + F.linear(attended.transpose(1, 2).flatten(-2).to(dtype), self.o_proj.to(dtype)).float()
        h = rms_norm(x, self.post_attention_layernorm, self.config["rms_norm_eps"]).to(dtype)
        gate, up = F.linear(h, torch.cat((self.gate_proj, self.up_proj)).to(dtype)).chunk(2, -1)
        return x + F.linear(F.silu(gate) * up, self.down_proj.to(dtype)).float()


class Model(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Parameter(torch.empty(config["vocab_size"], config["hidden_size"]))
        self.layers = nn.ModuleList(Layer(config) for _ in range(config["num_hidden_layers"]))
        self.norm = nn.Parameter(torch.ones(config["hidden_size"]))
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                into_residual = name.endswith(("o_proj", "down_proj"))
                shrink = math.sqrt(2 * config["num_hidden_layers"]) if into_residual else 1
                nn.init.normal_(weight, std=0.02 / shrink)

    def angles(self, positions):
        d = self.config["head_dim"]
        frequency = self.config["rope_theta"] ** (-torch.arange(0, d, 2, device=positions.device, dtype=torch.float32) / d)
        angle = positions.float()[..., None, None] * frequency
        return angle.cos(), angle.sin()

    def logits(self, x, dtype):
        h = rms_norm(x, self.norm, self.config["rms_norm_eps"]).to(dtype)
        return F.linear(h, self.embed_tokens.to(dtype))

    def forward(self, ids, positions, start, limit, own, of, targets, weights, mask=None):
        """Fields of demo_windows as [windows, rows]; mask: of flex_attention, or None for plain operations.
        (weighted mean loss, loss of each row, whether each row is right)"""
        dtype = torch.float32 if mask is None else torch.bfloat16
        cos, sin = self.angles(positions)
        x = F.embedding(ids, self.embed_tokens)
        for layer in self.layers:
            q, k, v = layer.queries_keys_values(x, cos, sin, dtype)
            if mask is None:
                attended = attend_in_chunks(q, k, v, start, limit, own, of)
            else:
                attended = flex_attention(q, k, v, block_mask=mask, enable_gqa=True)
            x = layer.after_attention(x, attended, dtype)
        logits = self.logits(x, dtype)
        loss = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none").view_as(weights)
        right = (logits.argmax(-1) == targets).float()
        return (loss * weights).sum() / weights.sum().clamp(min=1), loss.detach(), right


# ------------------------------------------------------------------------------------------------- decoding


def read_prompts(model, prompts, whole, block, at_once):
    """Keys and values of each prompt's whole blocks, under the block-causal mask: a [n, kv heads, longest, d] a layer.
    What lies beyond whole[i] means nothing."""
    config, device = model.config, model.embed_tokens.device
    longest = int(whole.max())
    ids = torch.full((len(prompts), longest), config["eos_token_id"])
    for i, prompt in enumerate(prompts):
        ids[i, : whole[i]] = torch.tensor(prompt[: whole[i]])
    ids = ids.to(device)
    cos, sin = model.angles(torch.arange(longest, device=device)[None])
    group = config["num_attention_heads"] // config["num_key_value_heads"]
    pieces = []
    for a in range(0, len(prompts), at_once):
        x, kept = F.embedding(ids[a : a + at_once], model.embed_tokens), []
        for layer in model.layers:
            q, k, v = layer.queries_keys_values(x, cos, sin, torch.float32)
            kept.append((k, v))
            wide_k, wide_v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
            parts = []
            for s in range(0, longest, 1024):  # rows; bounds the scores
                e = min(s + 1024, longest)
                see = torch.arange(e, device=device) < (torch.arange(s, e, device=device)[:, None] // block + 1) * block
                scores = q[:, :, s:e] @ wide_k[:, :, :e].transpose(-1, -2) * q.shape[-1] ** -0.5
                parts.append(torch.softmax(scores.masked_fill(~see, -math.inf), -1) @ wide_v[:, :, :e])
            x = layer.after_attention(x, torch.cat(parts, 2), torch.float32)
        pieces.append(kept)
    return [[torch.cat([p[layer][side] for p in pieces]) for side in (0, 1)] for layer in range(len(model.layers))]


@torch.no_grad()
def generate(model, prompts, new, block, threshold=0.9, at_once=4):
    """Greedy block-diffusion decoding in f32. prompts: lists of ids. Lists of new ids, up to the end of text.

    In each step, masked tokens whose probability exceeds the threshold are accepted, and the most probable one."""
    config, device = model.config, model.embed_tokens.device
    mask_id, end, n = config["mask_token_id"], config["eos_token_id"], len(prompts)
    length = torch.tensor([len(p) for p in prompts])
    base = length // block * block  # first row of the block in work
    cache = read_prompts(model, prompts, base, block, at_once)
    room = int(base.max()) + -(-(new + block) // block) * block
    cache = [[F.pad(side, (0, 0, 0, room - side.shape[2])) for side in layer] for layer in cache]
    current = torch.full((n, block), mask_id)
    for i, prompt in enumerate(prompts):
        tail = prompt[base[i] :]
        current[i, : len(tail)] = torch.tensor(tail, dtype=torch.long)
    base, current = base.to(device), current.to(device)
    done = torch.zeros(n, dtype=torch.bool, device=device)
    out, steps = [[] for _ in prompts], 0
    group = config["num_attention_heads"] // config["num_key_value_heads"]
    rows, key = torch.arange(block, device=device), torch.arange(room, device=device)
    while not bool(done.all()):
        commit = ~(current == mask_id).any(1)
        where = base[:, None] + rows
        cos, sin = model.angles(where)
        x, used = F.embedding(current, model.embed_tokens), int(base.max())
        hidden = torch.cat((key[:used] >= base[:, None], torch.zeros(n, block, dtype=torch.bool, device=device)), 1)
        fresh = []
        for layer, (keys, values) in zip(model.layers, cache):
            q, k, v = layer.queries_keys_values(x, cos, sin, torch.float32)
            fresh.append((k, v))
            seen = [torch.cat((old[:, :, :used], now), 2) for old, now in ((keys, k), (values, v))]
            grouped = q.reshape(n, k.shape[1], group * block, -1)
            scores = grouped @ seen[0].transpose(-1, -2) * q.shape[-1] ** -0.5
            attended = torch.softmax(scores.masked_fill(hidden[:, None, None], -math.inf), -1) @ seen[1]
            x = layer.after_attention(x, attended.view_as(q), torch.float32)
        if bool(commit.any()):
            index = where[:, None, :, None].expand(-1, k.shape[1], -1, k.shape[-1])
            write = commit[:, None, None, None]
            for layer, now in zip(cache, fresh):
                for side, value in zip(layer, now):
                    side.scatter_(2, index, torch.where(write, value, side.gather(2, index)))
            for i in torch.nonzero(commit & ~done).flatten().tolist():
                for j, token in enumerate(current[i].tolist()):
                    if int(base[i]) + j >= int(length[i]) and not done[i]:
                        out[i].append(token)
                        done[i] = token == end or len(out[i]) >= new
        best = torch.softmax(model.logits(x, torch.float32), -1).max(-1)
        masked = current == mask_id
        sure = torch.where(masked, best.values, torch.full_like(best.values, -1.0))
        first = torch.zeros_like(masked).scatter_(1, sure.argmax(1, keepdim=True), True)
        current = torch.where(masked & ((sure > threshold) | first), best.indices, current)
        steps += int((~commit & ~done).sum())
        base = torch.where(commit & ~done, base + block, base)
        current = torch.where(commit[:, None], torch.full_like(current, mask_id), current)
        current = torch.where(done[:, None], torch.full_like(current, end), current)
    return out, steps / max(1, sum(map(len, out)))


# ---------------------------------------------------------------------------------------------------- files


def published_name(name):
    """layers.0.q_proj -> model.layers.0.self_attn.q_proj.weight"""
    *path, leaf = name.split(".")
    if leaf in ("q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm"):
        path.append("self_attn")
    elif leaf in ("gate_proj", "up_proj", "down_proj"):
        path.append("mlp")
    return ".".join(["model", *path, leaf, "weight"])


def export(model, directory, tokenizer):
    """Write a Hugging Face directory: config, bf16 weights, and a copy of the tokenizer's file."""
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    header, body = {"__metadata__": {"format": "pt"}}, []
    at = 0
    for name, weight in sorted((published_name(n), w) for n, w in model.named_parameters()):
        data = weight.detach().to(torch.bfloat16).cpu().contiguous().view(torch.int16).numpy().tobytes()
        header[name] = dict(dtype="BF16", shape=list(weight.shape), data_offsets=[at, at + len(data)])
        at += len(data)
        body.append(data)
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    (directory / "model.safetensors").write_bytes(struct.pack("<Q", len(encoded)) + encoded + b"".join(body))
    config = dict(
        architectures=["SDARForCausalLM"],
        model_type="sdar",
        attention_bias=False,
        hidden_act="silu",
        rope_scaling=None,
        tie_word_embeddings=True,
        torch_dtype="bfloat16",
        sliding_window=None,
        use_sliding_window=False,
        **model.config,
    )
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (directory / "tokenizer.json").write_bytes(pathlib.Path(tokenizer).read_bytes())


def load(directory):
    raw = (directory / "model.safetensors").read_bytes()
    (length,) = struct.unpack_from("<Q", raw)
    header, body = json.loads(raw[8 : 8 + length]), raw[8 + length :]
    config = json.loads((directory / "config.json").read_text())
    model = Model({key: config[key] for key in CONFIG})
    with torch.no_grad():
        for name, weight in model.named_parameters():
            entry = header[published_name(name)]
            assert entry["dtype"] == "BF16" and entry["shape"] == list(weight.shape)
            begin, end = entry["data_offsets"]
            values = np.frombuffer(body[begin:end], dtype=np.int16).copy()
            weight.copy_(torch.from_numpy(values).view(torch.bfloat16).view(weight.shape))
    return model
