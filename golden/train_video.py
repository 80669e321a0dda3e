#!/usr/bin/python3
"""Make golden/demo-video from nothing: a small causal video diffusion transformer of the Wan architecture.

    train_video.py train --minutes 8    train; stop and start at will, it resumes from its checkpoint
    train_video.py export DIR           write config.json, bf16 weights and prompts.txt
    train_video.py check DIR            generate clips with PyTorch and count those that show what was asked
    train_video.py sample DIR -o PNG    generate clips, a row a clip, for people to look at
    train_video.py draw -o PNG          clips of the training data, the same way

`train` exports and checks at its end. It keeps its files in --work (default: ./video-train) and runs on a GPU
if there is one. Needed: PyTorch (Debian's 1.13 will do), numpy, and Pillow for PNG.

What the clips show, and how they are checked, is in video_scenes.py. A prompt is one text token, the sum of the
unit vectors of its words; where the paper's model has the hidden states of a large text encoder, this one has
these. A second token is empty.

How the model is trained
  Frames are made in blocks of three, each block from noise, given finished blocks: the first one (the sink) and
  the two latest. A training row is a whole clip twice: its blocks clean, at time 0, as the pass over the clean
  frames leaves them in the KV cache, and its blocks noisy, at the noise levels of the denoising steps. A block
  of either half sees the clean blocks that generation would show it, and itself. The loss is that of flow
  matching: the model predicts noise - clip, mean squared error.
  --steady adds a penalty: see Attention.unsteadiness.
"""
import argparse
import json
import math
import os
import pathlib
import struct
import sys
import time

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
BORN = time.time()

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import video_scenes as scenes
from muon import Muon

# ------------------------------------------------------------------------------------------ constants

SIZE = scenes.SIZE
CONFIG = dict(
    _class_name="CausalWanModel",
    model_type="t2v",
    dim=192,
    ffn_dim=384,
    freq_dim=64,
    in_dim=5,  # red, green, blue; and where the pixel is, left to right and top to bottom
    out_dim=3,
    coordinate_channels=2,
    num_heads=6,
    num_layers=7,
    text_len=2,
    text_dim=len(scenes.WORDS),
    patch_size=[1, 4, 4],
    eps=1e-6,
    qk_norm=True,
    cross_attn_norm=True,
    frame_height=SIZE,
    frame_width=SIZE,
    num_frame_per_block=3,
    local_attn_size=12,
    sink_size=3,
    denoising_step_list=[1000, 750, 500, 250],
    warp_denoising_step=True,
    timestep_shift=5.0,
    context_noise=0,
    words=list(scenes.WORDS),
)
TINY = dict(dim=48, ffn_dim=96, num_heads=2, num_layers=2)  # --tiny: to try the script out
FRAMES = CONFIG["num_frame_per_block"]
BLOCKS = 7  # of a training clip: 21 frames
LATEST = CONFIG["local_attn_size"] // FRAMES - 2  # finished blocks that a block sees besides the sink
LONGEST = 24  # blocks of a clip
PROMPTS = 256  # lines of prompts.txt
CHECK_SEED = 1000  # of the clips of the check; training uses other scenes, drawn from --seed

MUON_RATE = 0.015  # matrices of the layers
ADAM_RATE = 2e-3  # the rest
WEIGHT_DECAY = 0.02
DECAY_FROM = 0.4  # of the time: rates fall linearly to 0 from here on
WARM_UP = 100  # steps
EMA = 0.999  # of the weights, a step

EXACT_LEVELS = 0.85  # of the noise levels are those of the denoising steps; the others lie between
LATER = 0.25  # of the rows: all blocks but the first are later ones of a longer clip
CONTEXT_NOISE = 0.04  # of the clean blocks, at most: generated ones are not perfect either
FAINT = 0.25  # of the blocks are shown fainter than they are: so a model's first guesses are
STEADY_QUERIES = 16  # of each block, for the penalty


def sigmas():
    """Noise levels of the denoising steps: shift * s / (1 + (shift - 1) * s)."""
    shift = CONFIG["timestep_shift"]
    levels = torch.tensor(CONFIG["denoising_step_list"]) / 1000
    return shift * levels / (1 + (shift - 1) * levels)


def seen_blocks(i):
    """The finished blocks that block i sees."""
    return sorted({0, *range(max(0, i - LATEST), i)}) if i else []


# Blocks of a training clip that see equally many others: [first, end) of them, and for each of the blocks that
# they see a range: the sink each time, or blocks that follow one another.
GROUPS = [
    (group[0], group[-1] + 1, [(seen[0], seen[-1] + 1) for seen in zip(*(seen_blocks(i) for i in group))])
    for group in [[i] for i in range(LATEST + 1)] + [list(range(LATEST + 1, BLOCKS))]
]


# ----------------------------------------------------------------------------------------------- clips


class Scene:
    """`clips` random scenes; frames are drawn when asked for."""

    def __init__(self, clips, generator=None, device="cpu"):
        def uniform(low, high, *more):
            return (low + (high - low) * torch.rand(clips, *more, generator=generator)).to(device)

        kinds = (scenes.COLOURS, scenes.FORMS, scenes.PLACES, scenes.HEADINGS)
        self.choice = torch.stack([torch.randint(0, len(k), (clips,), generator=generator) for k in kinds], 1)
        place, heading = self.choice[:, 2].to(device), self.choice[:, 3].to(device)
        self.radius = uniform(*scenes.RADIUS)
        angle = heading * (math.pi / 4) + uniform(-scenes.ANGLE, scenes.ANGLE)
        self.velocity = uniform(*scenes.SPEED)[:, None] * torch.stack((angle.cos(), angle.sin()), -1)
        cell = torch.stack((place % 3, torch.div(place, 3, rounding_mode="floor")), -1)
        self.start = SIZE / 2 + (cell - 1) * scenes.CELL + uniform(-scenes.JITTER, scenes.JITTER, 2)
        self.device = device

    def prompt(self):
        """[clips, text_len, text_dim]"""
        sizes = [len(k) for k in (scenes.COLOURS, scenes.FORMS, scenes.PLACES)]
        words = self.choice + torch.tensor([sum(sizes[:i]) for i in range(4)])
        vectors = F.one_hot(words, len(scenes.WORDS)).sum(1).float()
        return torch.stack((vectors, torch.zeros_like(vectors)), 1).to(self.device)

    def words(self):
        """The prompts as text."""
        lists = [list(k) for k in (scenes.COLOURS, scenes.FORMS, scenes.PLACES, scenes.HEADINGS)]
        return [" ".join(l[n] for l, n in zip(lists, clip)) for clip in self.choice.tolist()]

    def frames(self, number):
        """Frames [clips, count] by their numbers: [clips, count, 3, SIZE, SIZE] in [-1, 1]."""
        reach = (scenes.REACH * self.radius)[:, None, None]
        path = self.start[:, None] + self.velocity[:, None] * number[..., None]
        x, y = scenes.bounce(torch, path, reach, SIZE - reach)[..., None, None].unbind(2)
        pixel = torch.arange(SIZE, device=self.device) + 0.5
        dx, dy = torch.broadcast_tensors(pixel - x, pixel[:, None] - y)
        radius = self.radius[:, None, None, None]
        form = self.choice[:, 1].to(self.device)[:, None, None, None]
        share = sum((form == i) * scenes.cover(torch, name, dx, dy, radius) for i, name in enumerate(scenes.FORMS))
        share = share[:, :, None]
        colour = torch.tensor(list(scenes.COLOURS.values()))[self.choice[:, 0]].to(self.device)
        behind = scenes.ground(torch).float().to(self.device)
        return 2 * (behind * (1 - share) + colour[:, None, :, None, None] * share) - 1


# ----------------------------------------------------------------------------------------------- model


class RMSNorm(nn.Module):
    """Over the whole width, all heads together."""

    def __init__(self, dim):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        x = x.float()
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + CONFIG["eps"]) * self.weight


def attend(q, k, v):
    """[n, tokens, heads, head_dim] each -> [n, tokens, dim]"""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    if hasattr(F, "scaled_dot_product_attention"):
        out = F.scaled_dot_product_attention(q, k, v)
    else:
        out = torch.softmax((q / math.sqrt(q.shape[-1])) @ k.transpose(2, 3), -1) @ v
    return out.transpose(1, 2).flatten(2)


def log_sum_exp(q, k):
    """Of scores: q [n, queries, heads, head_dim], k [n, keys, heads, head_dim] -> [n, heads, queries]"""
    with torch.autocast(q.device.type, enabled=False):
        scores = torch.einsum("nqhd,nkhd->nhqk", q.float() / math.sqrt(q.shape[-1]), k.float())
        return torch.logsumexp(scores, -1)


def rotate(x, cosines, sines):
    """Pairs (2i, 2i+1) of each head, by the angles of the token: [n, tokens, heads, head_dim]"""
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cosines - odd * sines, even * sines + odd * cosines), -1).flatten(-2)


def norm(x):
    return F.layer_norm(x.float(), x.shape[-1:], eps=CONFIG["eps"])


def modulate(x, scale, shift=None):
    """x [n, tokens, dim] by what each block's time says: scale, shift [n, blocks, dim]"""
    y = x.unflatten(1, (scale.shape[1], -1)) * scale[:, :, None]
    return (y if shift is None else y + shift[:, :, None]).flatten(1, 2)


def finished(x, count, ranges):
    """Of x [n, 2, BLOCKS, ...], the clean blocks that `count` blocks see: [n, 2, count, seen, ...]"""
    columns = [x[:, :1, first:end].expand(-1, 2, count, *[-1] * (x.dim() - 3)) for first, end in ranges]
    return torch.stack(columns, 3) if columns else x[:, :, :count, None, :0]


class Attention(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.norm_q, self.norm_k = RMSNorm(dim), RMSNorm(dim)

    def heads(self, x, source):
        """Queries of x; keys and values of `source`: [n, tokens, heads, head_dim] each"""
        split = (CONFIG["num_heads"], -1)
        q, k = self.norm_q(self.q(x)), self.norm_k(self.k(source))
        v = self.v(source)
        return q.to(v.dtype).unflatten(-1, split), k.to(v.dtype).unflatten(-1, split), v.unflatten(-1, split)

    def over_clip(self, q, k, v):
        """Of a training row: clean blocks, then noisy ones. [n, tokens, dim]"""
        halves = [x.unflatten(1, (2, BLOCKS, -1)) for x in (q, k, v)]  # [n, 2, BLOCKS, tokens, heads, head_dim]
        outs, of_context = [], []
        for first, end, ranges in GROUPS:
            own = [x[:, :, first:end] for x in halves]
            context = [finished(x, end - first, ranges) for x in halves[1:]]
            keys, values = (
                torch.cat((c.flatten(3, 4), o), 3).flatten(0, 2) for c, o in zip(context, own[1:])
            )
            out = attend(own[0].flatten(0, 2), keys, values)
            outs.append(out.view(q.shape[0], 2, end - first, -1, out.shape[-1]))
            of_context.append((own[0], context[0]))
        return torch.cat(outs, 2).flatten(1, 3), of_context[1:]

    @staticmethod
    def unsteadiness(of_context, queries):
        """How much the log-sum-exp over the finished blocks differs between a noisy block and the same block
        clean: mean square, for the tokens `queries` of each block.

        Where it does not differ, what a block's first step computed of the finished blocks holds for the others."""
        total, count = 0.0, 0
        for q, context in of_context:
            lse = log_sum_exp(q[..., queries, :, :].flatten(0, 2), context.flatten(3, 4).flatten(0, 2))
            clean, noisy = lse.view(q.shape[0], 2, -1).unbind(1)
            total = total + (noisy - clean).pow(2).sum()
            count += clean.numel()
        return total / count

    def over_cache(self, q, k, v, layer, past, changes):
        """Of a block in generation; past: of finished blocks [layers of [(k, v)]], changes: None or a Changes"""
        keys, values = ([pair[i] for pair in past[layer]] for i in (0, 1))
        if changes and keys:
            changes.look(layer, q, torch.cat(keys, 1), torch.cat(values, 1))
        return attend(q, torch.cat([*keys, k], 1), torch.cat([*values, v], 1))


class Block(nn.Module):
    def __init__(self, dim, ffn_dim):
        super().__init__()
        self.modulation = nn.Parameter(torch.randn(1, 6, dim) / dim**0.5)
        self.self_attn, self.cross_attn = Attention(dim), Attention(dim)
        self.norm3 = nn.LayerNorm(dim, eps=CONFIG["eps"])
        self.ffn = nn.Sequential(nn.Linear(dim, ffn_dim), nn.GELU(approximate="tanh"), nn.Linear(ffn_dim, dim))

    def parts(self, x, time, angles):
        """Queries, keys and values of self-attention, and the modulations that follow it"""
        shift, scale, *others = (self.modulation[:, None] + time).unbind(2)
        y = modulate(norm(x), 1 + scale, shift)
        q, k, v = self.self_attn.heads(y, y)
        q, k = (rotate(part.float(), *angles).to(v.dtype) for part in (q, k))
        return q, k, v, others

    def rest(self, x, attended, text, others):
        gate, ffn_shift, ffn_scale, ffn_gate = others
        x = x + modulate(self.self_attn.o(attended), gate)
        c = self.cross_attn
        x = x + c.o(attend(*c.heads(self.norm3(x.float()), text)))
        return x + modulate(self.ffn(modulate(norm(x), 1 + ffn_scale, ffn_shift)), ffn_gate)


class Head(nn.Module):
    def __init__(self, dim, values):
        super().__init__()
        self.modulation = nn.Parameter(torch.randn(1, 2, dim) / dim**0.5)
        self.head = nn.Linear(dim, values)


def with_coordinates(clip):
    """Two more channels, from -1 to 1: rotary positions are relative, and say nobody where he is."""
    line = torch.linspace(-1, 1, SIZE, device=clip.device)
    where = torch.stack((line.expand(SIZE, SIZE), line[:, None].expand(SIZE, SIZE)))
    return torch.cat((clip, where.expand(*clip.shape[:-3], 2, SIZE, SIZE)), -3)


class Model(nn.Module):
    """The names of the parameters are those of the paper's CausalWanModel."""

    def __init__(self):
        super().__init__()
        c = CONFIG
        dim, patch = c["dim"], c["patch_size"]
        self.patch_embedding = nn.Conv3d(c["in_dim"], dim, patch, patch)
        gelu = nn.GELU(approximate="tanh")
        self.text_embedding = nn.Sequential(nn.Linear(c["text_dim"], dim), gelu, nn.Linear(dim, dim))
        self.time_embedding = nn.Sequential(nn.Linear(c["freq_dim"], dim), nn.SiLU(), nn.Linear(dim, dim))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.blocks = nn.ModuleList(Block(dim, c["ffn_dim"]) for _ in range(c["num_layers"]))
        self.head = Head(dim, c["out_dim"] * math.prod(patch))
        for name, weight in self.named_parameters():
            if weight.dim() == 2 and name.endswith("weight"):
                nn.init.normal_(weight, std=0.7 / weight.shape[1] ** 0.5)
            elif name.endswith("bias"):
                nn.init.zeros_(weight)
        nn.init.zeros_(self.head.head.weight)

    def embed_patches(self, clip):
        """[n, frames, 3, SIZE, SIZE] -> [n, tokens, dim]"""
        rows, p = SIZE // CONFIG["patch_size"][1], CONFIG["patch_size"][1]
        x = with_coordinates(clip).unflatten(-1, (rows, p)).unflatten(-3, (rows, p))  # n, f, c, rows, p, columns, p
        x = x.permute(0, 1, 3, 5, 2, 4, 6).flatten(4).flatten(1, 3)
        return F.linear(x, self.patch_embedding.weight.flatten(1), self.patch_embedding.bias).float()

    def embed_time(self, waves):
        """waves [n, blocks, freq_dim] -> [n, blocks, dim], [n, blocks, 6, dim]"""
        time = self.time_embedding(waves).float()
        return time, self.time_projection(time).float().unflatten(2, (6, -1))

    def read_out(self, x, time):
        """[n, tokens, dim] -> [n, frames, 3, SIZE, SIZE]"""
        rows, p = SIZE // CONFIG["patch_size"][1], CONFIG["patch_size"][1]
        shift, scale = (self.head.modulation[:, None] + time[:, :, None]).unbind(2)
        y = self.head.head(modulate(norm(x), 1 + scale, shift)).float()
        y = y.view(x.shape[0], -1, rows, rows, p, p, 3).permute(0, 1, 6, 2, 4, 3, 5)
        return y.flatten(-2).flatten(-3, -2)

    def forward(self, clip, waves, angles, text, queries=None):
        """A training row: clip [n, 2 * BLOCKS * FRAMES, 3, SIZE, SIZE], clean blocks, then noisy ones; waves and
        angles of their times and places (see below); text [n, text_len, text_dim].

        The flow of the noisy half, and the unsteadiness (0 without `queries`)."""
        x, text = self.embed_patches(clip), self.text_embedding(text)
        time, projected = self.embed_time(waves)
        unsteady = torch.zeros((), device=x.device)
        for block in self.blocks:
            q, k, v, others = block.parts(x, projected, angles)
            attended, of_context = block.self_attn.over_clip(q, k, v)
            if queries is not None:
                unsteady = unsteady + block.self_attn.unsteadiness(of_context, queries) / len(self.blocks)
            x = block.rest(x, attended, text, others)
        return self.read_out(x[:, x.shape[1] // 2 :], time[:, BLOCKS:]), unsteady

    def one_block(self, clip, t, first_frame, text, past, changes=None):
        """A pass over one block of each clip, at time t: its flow, and its keys and values, [layers of (k, v)]"""
        n = len(clip)
        number = torch.full((n, 1), float(first_frame), device=clip.device)
        waves, angles = wave_table(torch.full((n, 1), float(t), device=clip.device)), angle_table(number)
        x, text = self.embed_patches(clip), self.text_embedding(text)
        time, projected = self.embed_time(waves)
        made = []
        for layer, block in enumerate(self.blocks):
            q, k, v, others = block.parts(x, projected, angles)
            x = block.rest(x, block.self_attn.over_cache(q, k, v, layer, past, changes), text, others)
            made.append((k, v))
        return self.read_out(x, time), made


def wave_table(t):
    """Sinusoids of times [n, blocks] of 1000: [n, blocks, freq_dim]"""
    half = CONFIG["freq_dim"] // 2
    angle = t.double()[..., None] * 10000 ** (-torch.arange(half, dtype=torch.float64, device=t.device) / half)
    return torch.cat((angle.cos(), angle.sin()), -1).float()


def angle_table(first_frame):
    """Rotary angles of blocks by their first frames [n, blocks]: cosines, sines [n, tokens, 1, head_dim / 2]"""
    half = CONFIG["dim"] // CONFIG["num_heads"] // 2
    third, side, device = half // 3, SIZE // CONFIG["patch_size"][1], first_frame.device
    frame = (first_frame[..., None] + torch.arange(FRAMES, device=device)).flatten(1)
    line = torch.arange(side, device=device)
    shape = (*frame.shape, side, side)
    position = [frame[:, :, None, None].expand(shape), line[:, None].expand(shape), line.expand(shape)]
    table = [
        where.flatten(1)[..., None] * 10000 ** (-torch.arange(pairs, dtype=torch.float64, device=device) / pairs)
        for where, pairs in zip(position, (half - 2 * third, third, third))
    ]
    angle = torch.cat(table, -1)[:, :, None]
    return angle.cos().float(), angle.sin().float()


# ------------------------------------------------------------------------------------------ generation


class Changes:
    """How much the external part of each head changes from a block's first step on: what `flashblock calibrate`
    measures, but for its refreshing."""

    def __init__(self):
        self.step, self.first, self.sums = 0, {}, {}

    def look(self, layer, q, k, v):
        lse, out = log_sum_exp(q, k), attend(q, k, v).unflatten(-1, q.shape[-2:])
        if self.step == 0:
            self.first[layer] = lse, out
            return
        old_lse, old_out = self.first[layer]
        lse_change = (lse - old_lse).abs().mean((0, 2))
        similarity = F.cosine_similarity(out, old_out, dim=-1).mean((0, 1))
        count, *sums = self.sums.get((self.step, layer), (0, 0, 0))
        self.sums[self.step, layer] = count + 1, sums[0] + lse_change, sums[1] + similarity

    def summary(self):
        """Means of each step, and the heads that the paper's thresholds let reuse."""
        lines = []
        for step in sorted({step for step, _ in self.sums}):
            of_step = [self.sums[key] for key in sorted(self.sums) if key[0] == step]
            lse, similarity = (torch.cat([s[i] / s[0] for s in of_step]) for i in (1, 2))
            may = ((lse <= 0.05) & (similarity >= 0.85)).sum().item()
            lines.append(f"step {step}: similarity {similarity.mean():.3f} LSE {lse.mean():.3f} reuse {may}/{len(lse)}")
        return "; ".join(lines)


@torch.no_grad()
def generate(model, text, frames, generator, changes=None):
    """[n, frames, 3, SIZE, SIZE], block after block, as the library does"""
    device, levels = text.device, sigmas().tolist()
    done, kept = [], []

    def noise():
        return torch.randn(len(text), FRAMES, 3, SIZE, SIZE, generator=generator).to(device)

    for i in range(frames // FRAMES):
        past = [[kept[j][layer] for j in seen_blocks(i)] for layer in range(len(model.blocks))]
        x = noise()
        for step, level in enumerate(levels):
            if step > 0:
                x = (1 - level) * x + level * noise()
            if changes:
                changes.step = step
            x = x - level * model.one_block(x, 1000 * level, FRAMES * i, text, past, changes)[0]
        if changes:
            changes.step = len(levels)
        kept.append(model.one_block(x, CONFIG["context_noise"], FRAMES * i, text, past, changes)[1])
        if i > LATEST:  # never seen again
            kept[i - LATEST] = None
        done.append(x)
    return torch.cat(done, 1)


def check_model(model, clips, device, changes=None):
    """Generates clips of scenes that are the same each time. Shares that are right: colour, form, place, motion,
    all four."""
    generator = torch.Generator().manual_seed(CHECK_SEED)
    scene = Scene(clips, generator, device)
    made = generate(model, scene.prompt(), BLOCKS * FRAMES, generator, changes).float().cpu().numpy()
    right = np.array([scenes.judge(clip, words) for clip, words in zip(made, scene.words())])
    return (*right.mean(0), right.all(1).mean())


def describe(shares):
    return "right: " + ", ".join(
        f"{name} {100 * share:.1f} %" for name, share in zip(("colour", "form", "place", "motion", "all"), shares)
    )


# -------------------------------------------------------------------------------------------- training


def training_batch(rows, device):
    """Text, clip [rows, BLOCKS, FRAMES, 3, SIZE, SIZE], first frames and loss weights of blocks [rows, BLOCKS]"""
    scene = Scene(rows, device=device)
    first = FRAMES * torch.arange(BLOCKS, device=device).float().repeat(rows, 1)
    weight = torch.ones(rows, BLOCKS, device=device)
    later = torch.rand(rows, device=device) < LATER
    skipped = torch.randint(1, LONGEST - BLOCKS, (rows,), device=device)
    first[:, 1:] += (FRAMES * later * skipped)[:, None]
    weight[:, 1 : 1 + LATEST] -= later[:, None].float()  # these lack the blocks just before them
    number = first[..., None] + torch.arange(FRAMES, device=device)
    clip = scene.frames(number.flatten(1)).unflatten(1, (BLOCKS, FRAMES))
    return scene.prompt(), clip, first, weight


def noisy(clip, level):
    """Blocks [rows, BLOCKS, ...] with noise of their levels, and the flow that leads from the clip to that. Some
    are shown fainter than they are."""
    device, blocks = clip.device, clip.shape[:2]
    behind = 2 * scenes.ground(torch).float().to(device) - 1
    fade = 0.4 * torch.rand(blocks, device=device) * (torch.rand(blocks, device=device) < FAINT)
    fade, level = fade[..., None, None, None, None], level[..., None, None, None, None]
    x = (1 - level) * (clip + fade * (behind - clip)) + level * torch.randn_like(clip)
    return x, (x - clip) / level.clamp(min=1e-3)


def some_levels(rows, device):
    """Noise levels of blocks: [rows, BLOCKS]"""
    exact = sigmas().to(device)
    level = exact[torch.randint(0, len(exact), (rows, BLOCKS), device=device)]
    between = 0.4 + 0.6 * torch.rand(rows, BLOCKS, device=device)
    return torch.where(torch.rand(rows, BLOCKS, device=device) < EXACT_LEVELS, level, between)


def training_loss(model, args):
    """The loss that is to fall, and what it is made of: the error of the flow, and the unsteadiness."""
    rows, device = args.rows, args.device
    text, clip, first, weight = training_batch(rows, device)
    level = some_levels(rows, device)
    x, flow = noisy(clip, level)
    context, _ = noisy(clip, CONTEXT_NOISE * torch.rand(rows, BLOCKS, device=device))
    t = torch.cat((torch.full_like(level, CONFIG["context_noise"]), 1000 * level), 1)
    both = torch.cat((context, x), 1).flatten(1, 2)
    tokens = FRAMES * (SIZE // CONFIG["patch_size"][1]) ** 2
    queries = torch.randperm(tokens, device=device)[:STEADY_QUERIES] if args.steady else None
    with torch.autocast(both.device.type, torch.bfloat16, enabled=both.is_cuda):
        made, unsteady = model(both, wave_table(t), angle_table(torch.cat((first, first), 1)), text, queries)
    error = ((made.view_as(flow) - flow).pow(2).mean((2, 3, 4, 5)) * weight).sum() / weight.sum()
    return error + args.steady * unsteady, torch.stack((error, unsteady)).detach()


class Training:
    """Model, average, optimizers, and where the schedule is."""

    def __init__(self, args):
        self.args = args
        torch.manual_seed(args.seed)
        self.model, self.average = Model().to(args.device), Model().to(args.device)
        self.average.load_state_dict(self.model.state_dict())
        matrices = [w for w in self.model.blocks.parameters() if w.dim() == 2]
        of_muon = {id(w) for w in matrices}
        others = [w for w in self.model.parameters() if id(w) not in of_muon]
        self.optimizers = (
            Muon(matrices, lr=MUON_RATE, weight_decay=WEIGHT_DECAY),
            torch.optim.AdamW(others, lr=ADAM_RATE, betas=(0.9, 0.98), weight_decay=0.0),
        )
        self.rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in self.optimizers]
        self.elapsed, self.step = 0.0, 0
        self.file = args.work / "checkpoint.pt"
        self.log = open(args.work / "train.log", "a")

    def say(self, line):
        line = f"{self.elapsed:5.0f} s  {line}"
        print(line, flush=True)
        print(line, file=self.log, flush=True)

    def save(self):
        if not all(torch.isfinite(w).all() for w in self.average.parameters()):
            sys.exit(f"step {self.step}: the weights are not finite; stopped, not saved")
        state = dict(
            model=self.model.state_dict(),
            average=self.average.state_dict(),
            optimizers=[optimizer.state_dict() for optimizer in self.optimizers],
            elapsed=self.elapsed,
            step=self.step,
        )
        torch.save(state, self.file.with_suffix(".new"))
        self.file.with_suffix(".new").rename(self.file)  # an interruption leaves one whole file
        write_model(self.average, self.args.work / "model")

    def chosen(self):
        return ", ".join(f"{name} {getattr(self.args, name)}" for name in ("minutes", "rows", "steady", "seed"))

    def resume(self):
        if not self.file.exists():
            if self.args.start:
                for model in (self.model, self.average):
                    model.load_state_dict(load_directory(self.args.start).state_dict())
            parameters = sum(w.numel() for w in self.model.parameters())
            return self.say(f"{parameters} parameters, {self.args.device}, torch {torch.__version__}; {self.chosen()}")
        state = torch.load(self.file, map_location=self.args.device)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"]):
            optimizer.load_state_dict(saved)
        self.elapsed, self.step = state["elapsed"], state["step"]
        torch.manual_seed(self.args.seed + self.step)  # other scenes than before
        self.say(f"resumed at step {self.step}")

    def progress(self):
        """Of the schedule, 0 to 1."""
        if self.args.steps:
            return self.step / self.args.steps
        return self.elapsed / (60 * self.args.minutes)

    def set_rates(self):
        factor = max(0, min(1, (self.step + 1) / WARM_UP, (1 - self.progress()) / (1 - DECAY_FROM)))
        for optimizer, rates in zip(self.optimizers, self.rates):
            for group, rate in zip(optimizer.param_groups, rates):
                group["lr"] = rate * factor

    def update(self, run):
        loss, numbers = training_loss(run, self.args)
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self.step += 1
        with torch.no_grad():
            keep = min(EMA, self.step / (self.step + 20))
            for kept, new in zip(self.average.parameters(), self.model.parameters()):
                kept.lerp_(new, 1 - keep)
        return numbers


class Clock:
    """Says when something is due that is done every so many seconds."""

    def __init__(self, every, now):
        self.every, self.next = every, now + every

    def due(self, now):
        if now < self.next:
            return False
        self.next = now + self.every
        return True


def first_update(training):
    """Compiles. Gives the loss of the step, and the model to run: the plain one if the compiler fails."""
    model = training.model
    if training.args.device == "cpu" or training.args.eager:
        return training.update(model), model
    run = torch.compile(model, dynamic=False)
    try:
        return training.update(run), run
    except Exception as error:
        training.say(f"torch.compile failed, going on without it: {str(error)[:300]!r}")
        return training.update(model), model


def train(args):
    torch.backends.cuda.matmul.allow_tf32 = True
    training = Training(args)
    training.resume()
    begun = time.time() - training.elapsed if training.elapsed else BORN  # starting PyTorch counts as well
    report, check, save = (Clock(x, training.elapsed) for x in (args.report_every, args.check_every, args.save_every))
    run, sums, steps, since = None, 0, 0, time.time()
    while training.progress() < 1:
        training.set_rates()
        if run is None:
            numbers, run = first_update(training)
        else:
            numbers = training.update(run)
        sums, steps = sums + numbers, steps + 1
        training.elapsed = time.time() - begun
        if report.due(training.elapsed) or training.step == 1:
            loss, unsteady = (sums / steps).tolist()
            if not math.isfinite(loss):
                training.say(f"step {training.step}: the loss is {loss}; stopped")
                return 3
            speed = steps * args.rows / (time.time() - since)
            training.say(
                f"step {training.step:5d}  {100 * training.progress():3.0f} %  loss {loss:.5f}  "
                f"unsteady {unsteady:.4f}  {speed:.0f} rows/s"
            )
            sums, steps, since = 0, 0, time.time()
        if check.due(training.elapsed):
            begun_check = time.time()
            training.say(describe(check_model(training.average, args.check_clips, args.device)))
            since += time.time() - begun_check
        if save.due(training.elapsed):
            training.save()
        training.elapsed = time.time() - begun
    training.save()
    training.say(f"step {training.step}: done")
    model, changes = load_directory(args.work / "model").to(args.device), Changes()
    shares = check_model(model, args.clips, args.device, changes)
    training.elapsed = time.time() - begun
    training.say(f"{args.clips} clips of the exported model, {describe(shares)}")
    training.say(changes.summary())
    return 0


# ---------------------------------------------------------------------------------------------- export


def write_model(model, directory):
    """The weights as bf16, under their names; config.json; prompts.txt. Bytes of the weights."""
    directory.mkdir(parents=True, exist_ok=True)
    header, body = {"__metadata__": {"format": "pt"}}, b""
    for name, weight in sorted(model.state_dict().items()):
        data = weight.cpu().to(torch.bfloat16).contiguous().view(torch.int16).numpy().tobytes()
        header[name] = dict(dtype="BF16", shape=list(weight.shape), data_offsets=[len(body), len(body) + len(data)])
        body += data
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    (directory / "model.safetensors").write_bytes(struct.pack("<Q", len(encoded)) + encoded + body)
    (directory / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    prompts = Scene(PROMPTS, torch.Generator().manual_seed(1)).words()
    (directory / "prompts.txt").write_text("".join(line + "\n" for line in prompts))
    return len(body)


def export(args):
    state = torch.load(args.checkpoint or args.work / "checkpoint.pt", map_location="cpu")
    model = Model()
    model.load_state_dict(state["average"])
    print(f"step {state['step']}, {write_model(model, args.directory)} bytes of weights in {args.directory}")


def load_directory(directory):
    raw = (directory / "model.safetensors").read_bytes()
    CONFIG.update(json.loads((directory / "config.json").read_text()))
    (length,) = struct.unpack_from("<Q", raw)
    header, body = json.loads(raw[8 : 8 + length]), raw[8 + length :]
    model = Model()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            begin, end = header[name]["data_offsets"]
            values = np.frombuffer(body[begin:end], dtype=np.int16).copy()
            weight.copy_(torch.from_numpy(values).view(torch.bfloat16).view(weight.shape))
    return model


def check(args):
    changes = Changes()
    shares = check_model(load_directory(args.directory).to(args.device), args.clips, args.device, changes)
    print(f"{args.clips} clips, {describe(shares)}\n{changes.summary()}")


# -------------------------------------------------------------------------------------------- pictures


def write_sheet(path, clips):
    """clips [n, frames, 3, SIZE, SIZE] in [-1, 1]: a row a clip, a column a frame, enlarged three times."""
    from PIL import Image

    picture = ((clips.clamp(-1, 1) + 1) * 127.5).round().byte()
    picture = F.pad(picture.float(), (1, 1, 1, 1), value=255).byte()
    sheet = picture.permute(0, 3, 1, 4, 2).reshape(clips.shape[0] * (SIZE + 2), -1, 3).numpy()
    image = Image.fromarray(sheet)
    image.resize((3 * image.width, 3 * image.height), Image.NEAREST).save(path)


def draw(args):
    scene = Scene(args.clips, torch.Generator().manual_seed(args.seed))
    clips = scene.frames(torch.arange(args.frames).float().repeat(args.clips, 1))
    right = np.array([scenes.judge(clip, words) for clip, words in zip(clips.numpy(), scene.words())])
    print(describe((*right.mean(0), right.all(1).mean())))
    write_sheet(args.output, clips)


def sample(args):
    generator = torch.Generator().manual_seed(args.seed)
    scene = Scene(args.clips, generator, args.device)
    clips = generate(load_directory(args.directory).to(args.device), scene.prompt(), args.frames, generator).cpu()
    for clip, words in zip(clips.numpy(), scene.words()):
        named = zip(("colour", "form", "place", "motion"), scenes.judge(clip, words))
        print(f"{words}: not right: {', '.join(name for name, right in named if not right) or 'nothing'}")
    write_sheet(args.output, clips)


# ---------------------------------------------------------------------------------------- command line


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--work", type=pathlib.Path, default="video-train", help="folder of intermediate files")
    common.add_argument("--threads", type=int, default=1, help="threads of PyTorch on the CPU (1)")
    gpu = "cuda" if torch.cuda.is_available() else "cpu"
    common.add_argument("--device", default=gpu, help="cuda or cpu (a GPU if there is one)")
    common.add_argument("--tiny", action="store_true", help="a much smaller model, to try the script out")
    common.add_argument("--seed", type=int, default=0, help="(0)")
    commands = parser.add_subparsers(dest="command", required=True)

    def command(function, text):
        sub = commands.add_parser(function.__name__, parents=[common], help=text, description=text)
        sub.set_defaults(function=function)
        return sub

    sub = command(train, "train, or resume training; writes checkpoint.pt, train.log and model/")
    sub.add_argument("--minutes", type=float, default=8, help="time that the whole schedule takes (8)")
    sub.add_argument("--steps", type=int, help="end the schedule after so many steps instead")
    sub.add_argument("--rows", type=int, default=64, help="clips a step (64)")
    sub.add_argument("--steady", type=float, default=0.0, help="weight of the penalty for unsteady attention (0)")
    sub.add_argument("--start", type=pathlib.Path, help="begin with the weights of this model")
    sub.add_argument("--eager", action="store_true", help="without torch.compile")
    sub.add_argument("--check-clips", type=int, default=40, help="clips of a check on the way (40)")
    sub.add_argument("--check-every", type=float, default=60, metavar="SECONDS", help="(60)")
    sub.add_argument("--report-every", type=float, default=10, metavar="SECONDS", help="(10)")
    sub.add_argument("--save-every", type=float, default=60, metavar="SECONDS", help="(60)")
    sub.add_argument("--clips", type=int, default=200, help="clips of the check at the end (200)")
    sub = command(export, "write the checkpoint's averaged weights, as bf16, and config.json")
    sub.add_argument("directory", type=pathlib.Path)
    sub.add_argument("--checkpoint", type=pathlib.Path, help="(the one in --work)")
    sub = command(check, "generate clips and count those that are right")
    sub.add_argument("directory", type=pathlib.Path)
    sub.add_argument("--clips", type=int, default=200, help="(200)")
    for function, text in ((sample, "generate clips"), (draw, "draw clips of the training data")):
        sub = command(function, text)
        if function is sample:
            sub.add_argument("directory", type=pathlib.Path)
        sub.add_argument("-o", "--output", type=pathlib.Path, required=True, help="PNG file")
        sub.add_argument("--clips", type=int, default=6, help="(6)")
        sub.add_argument("--frames", type=int, default=21, help="(21)")

    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    if args.tiny:
        CONFIG.update(TINY)
    args.work.mkdir(parents=True, exist_ok=True)
    return args.function(args)


if __name__ == "__main__":
    sys.exit(main())
