#!/usr/bin/python3
"""Make golden/demo-model from nothing: a small block-diffusion language model of the SDAR architecture.

    train_demo.py prepare              text of Debian's bible-kjv package, tokenizer, token ids
    train_demo.py train --minutes 80   train; stop and start at will, it resumes from its checkpoint
    train_demo.py export DIR           write a Hugging Face directory: config, bf16 weights, tokenizer
    train_demo.py evaluate DIR         held-out loss of any such directory
    train_demo.py prompt DIR           write held-out.txt, and prompt.txt, which nearly fills the context

Every stage keeps its files in --work (default: ./demo-train). Debian packages needed: python3-torch
python3-numpy python3-regex bible-kjv. One core is enough; with AVX512-BF16 it is 1.5 to 2.5 times as fast.

How the model is trained
  1. Autoregressively, on short windows: every token is a training signal and costs one row.
  2. By block diffusion on short windows. A sequence goes through the network as several copies of itself:
     a clean one, and noisy ones in which each block has lost a random share of its tokens to the mask.
     A noisy row sees the clean copies of earlier blocks and the noisy copy of its own; a clean row sees
     clean blocks up to and including its own. That is what decoding sees: finished blocks in the cache,
     and one unfinished block. The score at a masked position predicts the token at that same position.
  3. The same on windows of the full context.
"""
import argparse
import collections
import json
import math
import os
import pathlib
import struct
import subprocess
import sys
import time

CPU_FLAGS = pathlib.Path("/proc/cpuinfo").read_text() if os.path.exists("/proc/cpuinfo") else ""
# Threads of OpenBLAS and of OpenMP fight each other; and PyTorch 1.13 uses AVX-512 only when told to.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
if "avx512vl" in CPU_FLAGS:
    os.environ.setdefault("ATEN_CPU_CAPABILITY", "avx512")

import numpy as np
import regex
import torch
import torch.nn.functional as F
from torch import nn

# ------------------------------------------------------------------------------------------ constants

MODEL = dict(
    hidden_size=192,
    intermediate_size=384,
    num_hidden_layers=6,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=64,
    rms_norm_eps=1e-6,
    rope_theta=10000.0,
    vocab_size=1024,
    block_size=4,
    eos_token_id=1021,
    mask_token_id=1023,
    max_position_embeddings=1280,
)

# (objective, tokens a window, windows a step, share of the time at which the stage ends)
Stage = collections.namedtuple("Stage", "objective context windows until")
STAGES = (
    Stage("autoregressive", 256, 12, 0.30),
    Stage("diffusion", 256, 8, 0.65),
    Stage("diffusion", 1280, 2, 1.00),
)
NOISY_COPIES = 2  # the second masks exactly what the first shows, so that every token is predicted once
LARGE_BLOCK_SHARE = 0.15  # share of the diffusion steps that use blocks of 8 instead of 4
HELD_OUT_DIVISOR = 50  # the last 1/50 of the tokens is never trained on

MUON_RATE = 0.02
ADAM_RATE = 3e-3
WEIGHT_DECAY = 0.1
WARMUP_SHARE = 0.01  # of the time: rate rises from 0
DECAY_FROM = 0.45  # of the time: rate falls linearly to 0 from here on

QUERY_CHUNK = 64  # queries that attend together; bounds the part of the mask's upper triangle computed

# ------------------------------------------------------------------------------------- text, tokenizer

# Qwen's pre-tokenizer: words with their leading space, single digits, runs of punctuation, white space.
PRETOKEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_end|>", "<|MASK|>")  # the last ids: 1021, 1022, 1023


def read_text():
    """The King James text: a line a verse, without its number; a heading "# Book N" before each chapter."""
    printed = subprocess.run(["bible", "gen1:1-rev22:21"], capture_output=True, check=True).stdout
    lines, verse = [], []

    def end_verse():
        if verse:
            lines.append(" ".join(verse))
            verse.clear()

    for line in printed.decode("latin-1").splitlines():
        start = regex.match(r" {1,3}\d+ (.*)", line)
        if start:  # "  12 And the earth brought forth ..."
            end_verse()
            verse.append(start[1].strip())
        elif not line.strip():
            end_verse()
        elif verse and not regex.fullmatch(r"[A-Z0-9][A-Za-z0-9 ]+ \d+", line):
            verse.append(line.strip())
        else:  # "Genesis 1"
            end_verse()
            lines.append("\n# " + line.strip())
    end_verse()
    return "\n".join(lines).strip() + "\n"


def byte_letters():
    """GPT-2's table: a printable letter for each byte, itself where that is printable."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


def merge_pair(symbols, pair):
    """Replace each occurrence of the pair, from the left, by one symbol."""
    merged, i = [], 0
    while i < len(symbols):
        if tuple(symbols[i : i + 2]) == pair:
            merged.append(pair[0] + pair[1])
            i += 2
        else:
            merged.append(symbols[i])
            i += 1
    return merged


def train_bpe(text, vocab_size):
    """Byte-pair encoding: merge the most frequent pair of neighbours until the vocabulary is full."""
    letters = byte_letters()
    counts = collections.Counter(regex.findall(PRETOKEN, text))
    words = [[letters[byte] for byte in word.encode()] for word in counts]
    weights = list(counts.values())
    vocab, merges = [letters[byte] for byte in range(256)], []
    frequency, words_with = collections.Counter(), collections.defaultdict(set)

    def count_pairs(index, sign):
        for pair in zip(words[index], words[index][1:]):
            frequency[pair] += sign * weights[index]
            words_with[pair].add(index)

    for index in range(len(words)):
        count_pairs(index, +1)
    while len(vocab) < vocab_size:
        pair = max(frequency, key=lambda p: (frequency[p], p))
        merges.append(pair)
        vocab.append(pair[0] + pair[1])
        for index in list(words_with[pair]):
            count_pairs(index, -1)
            words[index] = merge_pair(words[index], pair)
            count_pairs(index, +1)
        del frequency[pair]
    return vocab, merges


def encode(text, vocab, merges):
    letters = byte_letters()
    rank = {pair: i for i, pair in enumerate(merges)}
    ids = {symbol: i for i, symbol in enumerate(vocab)}
    known = {}

    def encode_word(word):
        symbols = [letters[byte] for byte in word.encode()]
        while len(symbols) > 1:
            best = min(zip(symbols, symbols[1:]), key=lambda pair: rank.get(pair, math.inf))
            if best not in rank:
                break
            symbols = merge_pair(symbols, best)
        return [ids[symbol] for symbol in symbols]

    tokens = []
    for word in regex.findall(PRETOKEN, text):
        if word not in known:
            known[word] = encode_word(word)
        tokens += known[word]
    return np.array(tokens, dtype=np.int16)


def decode(tokens, vocab):
    byte_of = {letter: byte for byte, letter in byte_letters().items()}
    return bytes(byte_of[letter] for token in tokens for letter in vocab[int(token)]).decode()


def tokenizer_json(vocab, merges):
    flags = dict(single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
    byte_level = dict(type="ByteLevel", add_prefix_space=False, trim_offsets=False, use_regex=False)
    split = dict(type="Split", pattern={"Regex": PRETOKEN}, behavior="Isolated", invert=False)
    return dict(
        version="1.0",
        added_tokens=[dict(id=len(vocab) + i, content=s, **flags) for i, s in enumerate(SPECIAL_TOKENS)],
        normalizer=dict(type="NFC"),
        pre_tokenizer=dict(type="Sequence", pretokenizers=[split, byte_level]),
        post_processor=None,
        decoder=byte_level,
        model=dict(
            type="BPE",
            dropout=None,
            unk_token=None,
            continuing_subword_prefix="",
            end_of_word_suffix="",
            fuse_unk=False,
            byte_fallback=False,
            vocab={symbol: i for i, symbol in enumerate(vocab)},
            merges=[list(pair) for pair in merges],
        ),
    )


def prepare(args):
    text = read_text()
    vocab, merges = train_bpe(text, MODEL["vocab_size"] - len(SPECIAL_TOKENS))
    tokens = encode(text, vocab, merges)
    (args.work / "text.txt").write_text(text)
    with open(args.work / "tokenizer.json", "w", encoding="utf-8") as file:
        json.dump(tokenizer_json(vocab, merges), file, ensure_ascii=False)
    np.save(args.work / "tokens.npy", tokens)
    print(f"{len(text)} characters, {len(tokens)} tokens, {len(text) / len(tokens):.3f} characters a token")


def load_tokens(work):
    """(training tokens, held-out tokens)"""
    tokens = torch.from_numpy(np.load(work / "tokens.npy").astype(np.int64))
    held_out = len(tokens) // HELD_OUT_DIVISOR
    return tokens[:-held_out], tokens[-held_out:]


# ----------------------------------------------------------------------------------------------- model
#
# Rows are arranged as [windows, copies, tokens, ...]; copy 0 is the clean one. Autoregressive training is
# the special case of one clean copy and blocks of one token. Products run in `compute` precision (bf16
# where the CPU has it), everything else in f32. Backward passes of the elementwise parts are written out
# because they, not the products, would take most of the time.


def normalise_backward(grad, normalised, inverse_rms, weight):
    """Gradients of `normalised * weight` with respect to the input before normalisation, and the weight."""
    grad_weight = (grad * normalised).flatten(0, -2).sum(0)
    grad = grad * weight
    projection = (grad * normalised).mean(-1, keepdim=True)
    return (grad - normalised * projection).mul_(inverse_rms), grad_weight


class RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, eps, compute):
        inverse_rms = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)
        normalised = x * inverse_rms
        ctx.save_for_backward(normalised, inverse_rms, weight)
        return (normalised * weight).to(compute)

    @staticmethod
    def backward(ctx, grad):
        return (*normalise_backward(grad.float(), *ctx.saved_tensors), None, None)


class HeadNormAndRotate(torch.autograd.Function):
    """RMSNorm over head_dim, then RoPE over pairs (i, i + head_dim / 2). x: [..., tokens, heads, head_dim]"""

    @staticmethod
    def forward(ctx, x, weight, cos, sin, eps):
        values = x.float()
        inverse_rms = torch.rsqrt(values.pow(2).mean(-1, keepdim=True) + eps)
        normalised = values * inverse_rms
        ctx.save_for_backward(normalised, inverse_rms, weight, cos, sin)
        first, second = (normalised * weight).chunk(2, -1)
        return torch.cat((first * cos - second * sin, second * cos + first * sin), -1).to(x.dtype)

    @staticmethod
    def backward(ctx, grad):
        normalised, inverse_rms, weight, cos, sin = ctx.saved_tensors
        grad_dtype = grad.dtype
        first, second = grad.float().chunk(2, -1)
        grad = torch.cat((first * cos + second * sin, second * cos - first * sin), -1)
        grad_x, grad_weight = normalise_backward(grad, normalised, inverse_rms, weight)
        return grad_x.to(grad_dtype), grad_weight, None, None, None


class BlockAttention(torch.autograd.Function):
    """q: [windows, query_copies, tokens, kv_heads, group, head_dim], scaled; k, v: [windows, copies, tokens,
    kv_heads, head_dim]. The query copies are the last ones of the copies.

    All copies of QUERY_CHUNK tokens attend together. Their keys are the clean ones from the start to the
    chunk's end, followed by the chunk's noisy ones; a bias removes what a row must not see.
    """

    @staticmethod
    def forward(ctx, q, k, v, block_size):
        windows, query_copies, tokens, kv_heads, group, head_dim = q.shape
        k = k.permute(0, 3, 1, 2, 4).reshape(windows * kv_heads, -1, tokens, head_dim)
        v = v.permute(0, 3, 1, 2, 4).reshape(windows * kv_heads, -1, tokens, head_dim)
        out, saved = torch.empty_like(q), []
        for start in range(0, tokens, QUERY_CHUNK):
            end = min(start + QUERY_CHUNK, tokens)
            rows = BlockAttention.rows_of(q, start, end)
            scores = torch.bmm(rows, BlockAttention.visible(k, start, end).transpose(1, 2))
            bias = BlockAttention.bias(end - start, k.shape[1], query_copies, group, block_size, q.dtype)
            scores[:, :, start:] += bias
            p = torch.softmax(scores, -1)
            o = torch.bmm(p, BlockAttention.visible(v, start, end))
            o = o.view(windows, kv_heads, query_copies, group, end - start, head_dim)
            out[:, :, start:end] = o.permute(0, 2, 4, 1, 3, 5)
            saved += (rows, p)
        ctx.save_for_backward(k, v, *saved)
        return out

    @staticmethod
    def backward(ctx, grad):
        k, v, *saved = ctx.saved_tensors
        windows, query_copies, tokens, kv_heads, group, head_dim = grad.shape
        grad_q = torch.empty_like(grad)
        grad_k = torch.zeros(k.shape, dtype=torch.float32)
        grad_v = torch.zeros(v.shape, dtype=torch.float32)
        for start in range(0, tokens, QUERY_CHUNK):
            end = min(start + QUERY_CHUNK, tokens)
            rows, p = saved[2 * (start // QUERY_CHUNK) :][:2]
            grad_o = BlockAttention.rows_of(grad, start, end)
            grad_p = torch.bmm(grad_o, BlockAttention.visible(v, start, end).transpose(1, 2))
            grad_s = torch._softmax_backward_data(grad_p, p, -1, p.dtype)
            rows_q = torch.bmm(grad_s, BlockAttention.visible(k, start, end))
            rows_q = rows_q.view(windows, kv_heads, query_copies, group, end - start, head_dim)
            grad_q[:, :, start:end] = rows_q.permute(0, 2, 4, 1, 3, 5)
            BlockAttention.accumulate(grad_k, torch.bmm(grad_s.transpose(1, 2), rows), start, end)
            BlockAttention.accumulate(grad_v, torch.bmm(p.transpose(1, 2), grad_o), start, end)
        shape = (windows, kv_heads, -1, tokens, head_dim)
        grad_k = grad_k.to(k.dtype).view(shape).permute(0, 2, 3, 1, 4)
        grad_v = grad_v.to(v.dtype).view(shape).permute(0, 2, 3, 1, 4)
        return grad_q, grad_k, grad_v, None

    @staticmethod
    def rows_of(q, start, end):
        """[windows * kv_heads, query_copies * group * chunk, head_dim]"""
        windows, _, _, kv_heads, _, head_dim = q.shape
        return q[:, :, start:end].permute(0, 3, 1, 4, 2, 5).reshape(windows * kv_heads, -1, head_dim)

    @staticmethod
    def visible(k, start, end):
        """Keys of a chunk: clean ones before `end`, then the noisy ones of the chunk, copy by copy."""
        if k.shape[1] == 1:
            return k[:, 0, :end]
        return torch.cat((k[:, 0, :end], k[:, 1:, start:end].flatten(1, 2)), 1)

    @staticmethod
    def accumulate(total, part, start, end):
        """The transpose of `visible`."""
        total[:, 0, :end] += part[:, :end]
        if total.shape[1] > 1:
            total[:, 1:, start:end] += part[:, end:].unflatten(1, (total.shape[1] - 1, end - start))

    tables = {}

    @staticmethod
    def bias(chunk, copies, query_copies, group, block_size, dtype):
        """0 where a query may see a key, -inf elsewhere: [query_copies * group * chunk, copies * chunk]"""
        key = (chunk, copies, query_copies, group, block_size, dtype)
        if key not in BlockAttention.tables:
            block = torch.arange(chunk) // block_size
            allowed = torch.zeros(copies, chunk, copies, chunk, dtype=torch.bool)
            allowed[0, :, 0] = block[:, None] >= block
            for copy in range(1, copies):
                allowed[copy, :, 0] = block[:, None] > block
                allowed[copy, :, copy] = block[:, None] == block
            bias = torch.zeros(allowed.shape).masked_fill_(~allowed, -math.inf)[copies - query_copies :]
            bias = bias[:, None].expand(-1, group, -1, -1, -1)
            BlockAttention.tables[key] = bias.reshape(query_copies * group * chunk, -1).to(dtype)
        return BlockAttention.tables[key]


class Layer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        hidden, inner, head_dim = config["hidden_size"], config["intermediate_size"], config["head_dim"]
        query_width = config["num_attention_heads"] * head_dim
        kv_width = config["num_key_value_heads"] * head_dim
        self.input_layernorm = nn.Parameter(torch.ones(hidden))
        self.q_proj = nn.Parameter(torch.empty(query_width, hidden))
        self.k_proj = nn.Parameter(torch.empty(kv_width, hidden))
        self.v_proj = nn.Parameter(torch.empty(kv_width, hidden))
        self.o_proj = nn.Parameter(torch.empty(hidden, query_width))
        self.q_norm = nn.Parameter(torch.ones(head_dim))
        self.k_norm = nn.Parameter(torch.ones(head_dim))
        self.post_attention_layernorm = nn.Parameter(torch.ones(hidden))
        self.gate_proj = nn.Parameter(torch.empty(inner, hidden))
        self.up_proj = nn.Parameter(torch.empty(inner, hidden))
        self.down_proj = nn.Parameter(torch.empty(hidden, inner))

    def forward(self, x, cos, sin, block_size, compute, wanted=None):
        """x: [windows, copies, tokens, hidden] f32. The last layer is given `wanted`, a mask over the noisy
        rows, and returns [number wanted, hidden]: nothing else of its output is used."""
        config = self.config
        eps, kv_heads, head_dim = config["rms_norm_eps"], config["num_key_value_heads"], config["head_dim"]

        def product(rows, weight):
            return F.linear(rows, weight.to(compute))

        h = RmsNorm.apply(x, self.input_layernorm, eps, compute)
        k = product(h, self.k_proj).unflatten(-1, (kv_heads, head_dim))
        v = product(h, self.v_proj).unflatten(-1, (kv_heads, head_dim))
        if wanted is not None:
            x, h = x[:, -wanted.shape[1] :], h[:, -wanted.shape[1] :]
        q = product(h, self.q_proj).unflatten(-1, (-1, head_dim))
        scale = head_dim**-0.5
        q = HeadNormAndRotate.apply(q, self.q_norm, cos * scale, sin * scale, eps)
        k = HeadNormAndRotate.apply(k, self.k_norm, cos, sin, eps)
        o = BlockAttention.apply(q.unflatten(-2, (kv_heads, -1)), k, v, block_size).flatten(-3)
        if wanted is not None:
            x, o = x[wanted], o[wanted]
        x = x + product(o, self.o_proj).float()
        h = RmsNorm.apply(x, self.post_attention_layernorm, eps, compute)
        h = F.silu(product(h, self.gate_proj)) * product(h, self.up_proj)
        return x + product(h, self.down_proj).float()


class Model(nn.Module):
    def __init__(self, config, compute):
        super().__init__()
        self.config, self.compute = config, compute
        self.embed_tokens = nn.Parameter(torch.empty(config["vocab_size"], config["hidden_size"]))
        self.layers = nn.ModuleList(Layer(config) for _ in range(config["num_hidden_layers"]))
        self.norm = nn.Parameter(torch.ones(config["hidden_size"]))
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                into_residual = name.endswith(("o_proj", "down_proj"))
                shrink = math.sqrt(2 * config["num_hidden_layers"]) if into_residual else 1
                nn.init.normal_(weight, std=0.02 / shrink)

    def forward(self, ids, block_size, wanted):
        """ids: [windows, copies, tokens]; wanted: mask over the last copies. Scores of the wanted rows."""
        frequency = self.config["rope_theta"] ** (-torch.arange(0, 1, 2 / self.config["head_dim"]))
        angle = torch.arange(ids.shape[-1])[:, None, None] * frequency
        x = F.embedding(ids, self.embed_tokens)
        for layer in self.layers:
            last = wanted if layer is self.layers[-1] else None
            x = layer(x, angle.cos(), angle.sin(), block_size, self.compute, last)
        h = RmsNorm.apply(x, self.norm, self.config["rms_norm_eps"], self.compute)
        return F.linear(h, self.embed_tokens.to(self.compute)).float()

    def next_token_loss(self, windows):
        """windows: [n, tokens + 1]"""
        ids, targets = windows[:, None, :-1], windows[:, 1:]
        wanted = torch.ones_like(ids, dtype=torch.bool)
        return F.cross_entropy(self(ids, 1, wanted), targets.flatten())

    def diffusion_loss(self, clean, masked, block_size):
        """clean: [n, tokens]; masked: [n, noisy_copies, tokens]. Mean over the masked tokens."""
        clean = clean[:, None].expand_as(masked)
        noisy = clean.masked_fill(masked, self.config["mask_token_id"])
        scores = self(torch.cat((clean[:, :1], noisy), 1), block_size, masked)
        return F.cross_entropy(scores, clean[masked])


def draw_mask(windows, tokens, block_size, generator=None):
    """Each block draws the share t of tokens that it loses: t ~ U(0, 1), at least 0.05."""
    share = torch.rand(windows, tokens // block_size, generator=generator).clamp_(0.05, 1)
    return torch.rand(windows, tokens, generator=generator) < share.repeat_interleave(block_size, 1)


# -------------------------------------------------------------------------------------------- training


class Muon(torch.optim.Optimizer):
    """Momentum whose update is replaced by the nearest semi-orthogonal matrix (K. Jordan, 2024)."""

    def __init__(self, weights, lr, momentum=0.95, weight_decay=0.0, compute=torch.float32):
        super().__init__(weights, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))
        self.compute = compute

    def orthogonalise(self, matrix):
        """Five steps of a quintic Newton-Schulz iteration push all singular values to about 1."""
        tall = matrix.shape[0] > matrix.shape[1]
        x = (matrix.t() if tall else matrix) / (matrix.norm() + 1e-7)
        x = x.to(self.compute)
        for _ in range(5):
            gram = x @ x.t()
            x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
        return (x.t() if tall else x).float()

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for weight in group["params"]:
                average = self.state[weight].setdefault("momentum", torch.zeros_like(weight))
                average.lerp_(weight.grad, 1 - group["momentum"])
                update = self.orthogonalise(torch.lerp(weight.grad, average, group["momentum"]))
                scale = math.sqrt(max(1, weight.shape[0] / weight.shape[1]))
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(update, alpha=-group["lr"] * scale)


def make_optimizers(model):
    matrices = [w for n, w in model.named_parameters() if w.dim() == 2 and n != "embed_tokens"]
    vectors = [w for w in model.parameters() if w.dim() == 1]
    muon = Muon(matrices, lr=MUON_RATE, weight_decay=WEIGHT_DECAY, compute=model.compute)
    adam = torch.optim.AdamW(
        [dict(params=[model.embed_tokens], weight_decay=WEIGHT_DECAY), dict(params=vectors, weight_decay=0.0)],
        lr=ADAM_RATE,
        betas=(0.9, 0.95),
    )
    return muon, adam


def rate_at(progress):
    return min(1, progress / WARMUP_SHARE, (1 - progress) / (1 - DECAY_FROM))


def draw_windows(tokens, windows, length):
    starts = torch.randint(0, len(tokens) - length + 1, (windows, 1))
    return tokens[starts + torch.arange(length)]


def training_loss(model, tokens, stage):
    if stage.objective == "autoregressive":
        return model.next_token_loss(draw_windows(tokens, stage.windows, stage.context + 1))
    block_size = model.config["block_size"] * (2 if torch.rand(()) < LARGE_BLOCK_SHARE else 1)
    masked = draw_mask(stage.windows, stage.context, block_size)
    masked = torch.stack((masked, ~masked), 1)[:, :NOISY_COPIES]
    return model.diffusion_loss(draw_windows(tokens, stage.windows, stage.context), masked, block_size)


@torch.no_grad()
def held_out_loss(model, tokens, objective, context, draws=1, seed=1234, block_size=None):
    """Mean over all whole windows of the held-out text. Diffusion: over every masked token of `draws` masks."""
    generator = torch.Generator().manual_seed(seed)
    total, count = 0.0, 0
    block_size = block_size or model.config["block_size"]
    for _ in range(draws):
        for start in range(0, len(tokens) - context, context):
            if objective == "autoregressive":
                loss, n = model.next_token_loss(tokens[None, start : start + context + 1]), context
            else:
                masked = draw_mask(1, context, block_size, generator)
                loss = model.diffusion_loss(tokens[None, start : start + context], masked[:, None], block_size)
                n = int(masked.sum())
            total, count = total + loss.item() * n, count + n
    return total / count, count


def train(args):
    torch.manual_seed(args.seed)
    tokens, held_out = load_tokens(args.work)
    model = Model(MODEL, args.compute)
    optimizers = make_optimizers(model)
    rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    checkpoint = args.work / "checkpoint.pt"
    log = open(args.work / "train.log", "a")
    elapsed, step, average = 0.0, 0, None

    def say(line):
        print(line, flush=True)
        print(line, file=log, flush=True)

    def save():
        state = dict(
            config=MODEL,
            model=model.state_dict(),
            optimizers=[optimizer.state_dict() for optimizer in optimizers],
            random=torch.get_rng_state(),
            elapsed=elapsed,
            step=step,
        )
        torch.save(state, checkpoint.with_suffix(".new"))
        checkpoint.with_suffix(".new").rename(checkpoint)  # an interruption leaves one whole file

    if checkpoint.exists():
        state = torch.load(checkpoint)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"]):
            optimizer.load_state_dict(saved)
        torch.set_rng_state(state["random"])
        elapsed, step = state["elapsed"], state["step"]
        say(f"resumed at step {step}, {elapsed:.0f} s")
    else:
        say(f"{sum(w.numel() for w in model.parameters())} parameters, {len(tokens)} training tokens")

    limit, stage = 60 * args.minutes, None
    next_report = next_save = elapsed
    while elapsed < limit:
        begun = time.monotonic()
        progress = elapsed / limit
        if stage is None or progress >= stage.until:
            stage, average = next(s for s in STAGES if progress < s.until), None
            say(f"stage: {stage.objective}, context {stage.context}, {stage.windows} windows a step")
        for optimizer, base in zip(optimizers, rates):
            for group, rate in zip(optimizer.param_groups, base):
                group["lr"] = rate * rate_at(progress)

        loss = training_loss(model, tokens, stage)
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        step += 1
        average = loss.item() if average is None else 0.98 * average + 0.02 * loss.item()

        if elapsed >= next_report:
            measured, _ = held_out_loss(model, held_out, stage.objective, stage.context)
            say(
                f"{elapsed:5.0f} s  step {step:5d}  rate {rate_at(progress):.3f}  "
                f"train {average:.3f}  held-out {measured:.3f}"
            )
            next_report = elapsed + args.report_every
        elapsed += time.monotonic() - begun
        if elapsed >= next_save or elapsed >= limit:
            save()
            next_save = elapsed + args.save_every
    for context in sorted({s.context for s in STAGES if s.objective == "diffusion"}):
        measured, _ = held_out_loss(model, held_out, "diffusion", context)
        say(f"{elapsed:5.0f} s  step {step:5d}  done; held-out loss at context {context}: {measured:.3f}")


# ---------------------------------------------------------------------------- Hugging Face directories


def published_name(name):
    """layers.0.q_proj -> model.layers.0.self_attn.q_proj.weight"""
    *path, leaf = name.split(".")
    if leaf in ("q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm"):
        path.append("self_attn")
    elif leaf in ("gate_proj", "up_proj", "down_proj"):
        path.append("mlp")
    return ".".join(["model", *path, leaf, "weight"])


def export(args):
    state = torch.load(args.checkpoint or args.work / "checkpoint.pt")
    args.directory.mkdir(parents=True, exist_ok=True)
    header, body = {"__metadata__": {"format": "pt"}}, b""
    for name, weight in sorted((published_name(n), w) for n, w in state["model"].items()):
        data = weight.to(torch.bfloat16).contiguous().view(torch.int16).numpy().tobytes()
        offsets = [len(body), len(body) + len(data)]
        header[name] = dict(dtype="BF16", shape=list(weight.shape), data_offsets=offsets)
        body += data
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    (args.directory / "model.safetensors").write_bytes(struct.pack("<Q", len(encoded)) + encoded + body)
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
        **state["config"],
    )
    (args.directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (args.directory / "tokenizer.json").write_bytes((args.work / "tokenizer.json").read_bytes())
    print(f"step {state['step']}, {len(body)} bytes of weights in {args.directory}")


def load_directory(directory, compute):
    raw = (directory / "model.safetensors").read_bytes()
    (length,) = struct.unpack_from("<Q", raw)
    header, body = json.loads(raw[8 : 8 + length]), raw[8 + length :]
    model = Model(json.loads((directory / "config.json").read_text()), compute)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            entry = header[published_name(name)]
            assert entry["dtype"] == "BF16" and entry["shape"] == list(weight.shape)
            begin, end = entry["data_offsets"]
            values = np.frombuffer(body[begin:end], dtype=np.int16).copy()
            weight.copy_(torch.from_numpy(values).view(torch.bfloat16).view(weight.shape))
    return model


def evaluate(args):
    _, held_out = load_tokens(args.work)
    model = load_directory(args.directory, torch.float32)
    for context in args.context:
        loss, count = held_out_loss(
            model, held_out, "diffusion", context, args.draws, args.mask_seed, args.block_size
        )
        print(f"context {context}: {loss:.4f} nats a masked token, mean over {count} masked tokens")


def prompt(args):
    """From the first chapter heading of the held-out text on: all of it, and cut after a whole word."""
    _, held_out = load_tokens(args.work)
    bpe = json.loads((args.work / "tokenizer.json").read_bytes())["model"]
    vocab, merges = list(bpe["vocab"]), [tuple(pair) for pair in bpe["merges"]]
    text = decode(held_out, vocab)
    text = text[text.index("\n# ") + 1 :]
    (args.directory / "held-out.txt").write_text(text)
    fitting = encode(text, vocab, merges)[: MODEL["max_position_embeddings"] - args.room]
    text = decode(fitting, vocab).rpartition(" ")[0]
    (args.directory / "prompt.txt").write_text(text)
    print(f"{len(encode(text, vocab, merges))} tokens, {len(text)} characters")


# ---------------------------------------------------------------------------------------- command line


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--work", type=pathlib.Path, default="demo-train", help="folder of intermediate files")
    common.add_argument("--threads", type=int, default=1, help="threads of PyTorch (1)")
    common.add_argument("--precision", choices=("auto", "bf16", "f32"), default="auto", help="of products")
    commands = parser.add_subparsers(dest="command", required=True)

    def command(function, text):
        sub = commands.add_parser(function.__name__, parents=[common], help=text, description=text)
        sub.set_defaults(function=function)
        return sub

    command(prepare, "write text.txt, tokenizer.json and tokens.npy")
    sub = command(train, "train, or resume training; writes checkpoint.pt and train.log")
    sub.add_argument("--minutes", type=float, default=80, help="time the whole schedule takes (80)")
    sub.add_argument("--seed", type=int, default=0, help="of weights and batches (0)")
    sub.add_argument("--report-every", type=float, default=120, metavar="SECONDS", help="(120)")
    sub.add_argument("--save-every", type=float, default=180, metavar="SECONDS", help="(180)")
    sub = command(export, "write the checkpoint as a Hugging Face directory")
    sub.add_argument("directory", type=pathlib.Path)
    sub.add_argument("--checkpoint", type=pathlib.Path, help="(the one in --work)")
    sub = command(evaluate, "held-out loss of a Hugging Face directory, computed in f32")
    sub.add_argument("directory", type=pathlib.Path)
    sub.add_argument("--context", type=int, nargs="+", default=[512, 1280], help="tokens a window (512 1280)")
    sub.add_argument("--draws", type=int, default=4, help="masks drawn for every window (4)")
    sub.add_argument("--mask-seed", type=int, default=1234, help="(1234)")
    sub.add_argument("--block-size", type=int, help="(the model's)")
    sub = command(prompt, "write held-out.txt, and prompt.txt: as much of it as leaves --room tokens of the context free")
    sub.add_argument("directory", type=pathlib.Path)
    sub.add_argument("--room", type=int, default=128, help="(128)")

    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    fast_bf16 = args.precision == "bf16" or (args.precision == "auto" and "avx512_bf16" in CPU_FLAGS)
    args.compute = torch.bfloat16 if fast_bf16 else torch.float32
    args.work.mkdir(parents=True, exist_ok=True)
    args.function(args)


if __name__ == "__main__":
    sys.exit(main())
