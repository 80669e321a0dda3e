#!/usr/bin/python3
"""Make golden/demo-video from nothing: a small causal video diffusion transformer of the Wan architecture.

    train_video.py train --minutes 60   train; stop and start at will, it resumes from its checkpoint
    train_video.py export DIR           write config.json and bf16 weights
    train_video.py sample DIR -o PNG    generate clips with PyTorch, a row a clip, for people to look at
    train_video.py draw -o PNG          clips of the training data, the same way

Every stage keeps its files in --work (default: ./video-train). Debian packages needed: python3-torch
python3-numpy python3-pil (the last for PNG only). One core is enough.

The data: a coloured shape (or two, see TWO_SHAPES) on a dark ground that moves straight and bounces off
the borders. The prompt says of each shape its colour, form, place at the start and heading. A prompt is one
text token a shape, the sum of the unit vectors of its words; where the paper's model has the hidden states
of a large text encoder, this one has these.

How the model is trained
  Frames are made in blocks of three, each block from noise, given finished blocks: the first one (the
  sink) and those of the window. A training row is such a set of blocks: clean ones, at time 0, as the
  clean-context pass of generation leaves them in the KV cache, and noisy ones at the noise levels of the
  four denoising steps. A noisy block sees the clean blocks before it and itself. The loss is that of flow
  matching: the model predicts noise - clip, mean squared error.
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

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

# ------------------------------------------------------------------------------------------ constants

COLOURS = dict(
    red=(0.95, 0.20, 0.20),
    green=(0.20, 0.85, 0.30),
    blue=(0.25, 0.45, 1.00),
    yellow=(1.00, 0.90, 0.20),
    magenta=(0.95, 0.30, 0.90),
    cyan=(0.20, 0.90, 0.95),
    white=(1.00, 1.00, 1.00),
    orange=(1.00, 0.55, 0.10),
)
FORMS = ("circle", "square", "triangle", "ring", "diamond")
PLACES = [f"{row}-{column}" for row in ("top", "middle", "bottom") for column in ("left", "centre", "right")]
HEADINGS = ("east", "southeast", "south", "southwest", "west", "northwest", "north", "northeast")
WORDS = [*COLOURS, *FORMS, *PLACES, *HEADINGS]

SIZE = 24  # pixels, both ways
SPEED = (0.9, 1.4)  # pixels a frame
RADIUS = (3.6, 4.8)
TWO_SHAPES = 0.0  # share of the clips that show two; more of them take more training

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
    num_layers=6,
    text_len=2,
    text_dim=len(WORDS),
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
    timestep_shift=3.0,
    context_noise=0,
    words=WORDS,
)
FRAMES = CONFIG["num_frame_per_block"]
LONGEST = 24  # blocks of a clip
PROMPTS = 64  # lines of prompts.txt

MUON_RATE = 0.01
ADAM_RATE = 2e-3
WEIGHT_DECAY = 0.02
DECAY_FROM = 0.35  # of the time: rate falls linearly to 0 from here on
EMA = 0.995  # of the weights, a step
FIRST_ONLY = 0.12  # of the time: blocks without context alone, which are cheap
CONTEXT_NOISE = 0.03  # of the clean blocks: generated ones are not perfect either
ROWS = 2  # training rows a step


def sigmas():
    """Noise levels of the denoising steps: shift * s / (1 + (shift - 1) * s)."""
    shift = CONFIG["timestep_shift"]
    levels = torch.tensor(CONFIG["denoising_step_list"]) / 1000
    return shift * levels / (1 + (shift - 1) * levels)


# ----------------------------------------------------------------------------------------------- clips


def bounce(x, low, high):
    """A straight motion folded into [low, high]."""
    span = high - low
    phase = torch.remainder(x - low, 2 * span)
    return low + torch.minimum(phase, 2 * span - phase)


def ground():
    """What is behind the shapes: [3, SIZE, SIZE] in [0, 1]"""
    rows = torch.linspace(0, 1, SIZE)[:, None].expand(SIZE, SIZE)
    return torch.stack((0.06 + 0.02 * rows, 0.07 + 0.03 * rows, 0.12 + 0.10 * rows))


def distance(form, dx, dy, radius):
    """Signed distance to the outline of each form, negative inside: [clips, frames, SIZE, SIZE]."""
    circle = torch.hypot(dx, dy) - radius
    square = torch.maximum(dx.abs(), dy.abs()) - 0.85 * radius
    triangle = torch.maximum(0.88 * dx.abs() - 0.47 * (dy + radius), dy - 0.8 * radius)
    ring = (torch.hypot(dx, dy) - 0.75 * radius).abs() - 1.0
    diamond = (dx.abs() + dy.abs() - 1.2 * radius) * 0.707
    stacked = torch.stack((circle, square, triangle, ring, diamond))
    return stacked.gather(0, form.expand(stacked.shape[1:])[None])[0]


class Scene:
    """`clips` random scenes; frames are drawn when asked for."""

    def __init__(self, clips, generator=None):
        def uniform(low, high):
            return low + (high - low) * torch.rand(clips, 2, generator=generator)

        def choice(n):
            return torch.randint(0, n, (clips, 2), generator=generator)

        self.colour, self.form, self.place, self.heading = (choice(len(x)) for x in (COLOURS, FORMS, PLACES, HEADINGS))
        self.radius = uniform(*RADIUS)
        angle = (self.heading + uniform(-0.3, 0.3)) * (math.pi / 4)
        speed = uniform(*SPEED)
        self.velocity = torch.stack((speed * angle.cos(), speed * angle.sin()), -1)
        cell = torch.stack((self.place % 3, self.place // 3), -1)
        self.start = SIZE / 2 + (cell - 1) * 6.0 + torch.stack((uniform(-1.5, 1.5), uniform(-1.5, 1.5)), -1)
        self.shown = torch.stack((torch.ones(clips), (torch.rand(clips, generator=generator) < TWO_SHAPES).float()), -1)

    def prompt(self):
        """[clips, text_len, text_dim]"""
        starts = np.cumsum([0, len(COLOURS), len(FORMS), len(PLACES)])
        words = torch.stack((self.colour, self.form, self.place, self.heading), -1) + torch.tensor(starts)
        vectors = F.one_hot(words, len(WORDS)).sum(2).float()
        return vectors * self.shown[..., None]

    def words(self):
        """The prompts as text: phrases separated by commas."""
        lists = (list(COLOURS), FORMS, PLACES, HEADINGS)
        numbers = torch.stack((self.colour, self.form, self.place, self.heading), -1).tolist()
        phrases = [[" ".join(l[n] for l, n in zip(lists, of_one)) for of_one in clip] for clip in numbers]
        return [", ".join(two[: 1 + int(shown[1])]) for two, shown in zip(phrases, self.shown)]

    def frames(self, first, count):
        """Frames first .. first + count - 1 of each clip: [clips, count, 3, SIZE, SIZE] in [-1, 1]."""
        clips = len(self.colour)
        t = (torch.as_tensor(first).reshape(-1, 1) + torch.arange(count)).float()  # [clips or 1, count]
        picture = ground().expand(clips, count, 3, SIZE, SIZE)
        palette = torch.tensor(list(COLOURS.values()))
        pixel = torch.arange(SIZE) + 0.5
        for i in range(2):
            radius = self.radius[:, i, None]
            x, y = (
                bounce(self.start[:, i, a, None] + self.velocity[:, i, a, None] * t, radius, SIZE - radius)
                for a in range(2)
            )
            dx, dy = pixel - x[..., None, None], pixel[:, None] - y[..., None, None]
            form = self.form[:, i, None, None, None]
            cover = (0.5 - distance(form, dx + 0 * dy, dy + 0 * dx, radius[..., None, None])).clamp(0, 1)
            cover = (cover * self.shown[:, i, None, None, None])[:, :, None]
            picture = picture * (1 - cover) + palette[self.colour[:, i]][:, None, :, None, None] * cover
        return 2 * picture - 1


# ----------------------------------------------------------------------------------------------- model


class RMSNorm(nn.Module):
    """Over the whole width, all heads together."""

    def __init__(self, dim):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + CONFIG["eps"]) * self.weight


class Attention(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.norm_q, self.norm_k = RMSNorm(dim), RMSNorm(dim)


def heads(x):
    """[n, tokens, dim] -> [n, heads, tokens, head_dim]"""
    return x.unflatten(2, (CONFIG["num_heads"], -1)).transpose(1, 2)


def attend(q, k, v):
    weights = torch.softmax((q / math.sqrt(q.shape[-1])) @ k.transpose(2, 3), -1)
    return (weights @ v).transpose(1, 2).flatten(2)


def rotate(x, cosines, sines):
    """Pairs (2i, 2i+1) of each head, by the angles of the token: [n, heads, tokens, head_dim]"""
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cosines - odd * sines, even * sines + odd * cosines), -1).flatten(-2)


def norm(x, weight=None, bias=None):
    return F.layer_norm(x, x.shape[-1:], weight, bias, CONFIG["eps"])


def with_coordinates(clip):
    """Two more channels, from -1 to 1: rotary positions are relative, and say nobody where he is."""
    line = torch.linspace(-1, 1, SIZE)
    where = torch.stack((line.expand(SIZE, SIZE), line[:, None].expand(SIZE, SIZE)))
    return torch.cat((clip, where.expand(*clip.shape[:-3], 2, SIZE, SIZE)), -3)


def modulate(x, scale, shift=None):
    """x [n, tokens, dim] by what each block's time says: scale, shift [n, blocks, dim]"""
    y = x.unflatten(1, (scale.shape[1], -1)) * scale[:, :, None]
    return (y if shift is None else y + shift[:, :, None]).flatten(1, 2)


class Block(nn.Module):
    def __init__(self, dim, ffn_dim):
        super().__init__()
        self.modulation = nn.Parameter(torch.randn(1, 6, dim) / dim**0.5)
        self.self_attn, self.cross_attn = Attention(dim), Attention(dim)
        self.norm3 = nn.LayerNorm(dim, eps=CONFIG["eps"])
        self.ffn = nn.Sequential(nn.Linear(dim, ffn_dim), nn.GELU(approximate="tanh"), nn.Linear(ffn_dim, dim))

    def forward(self, x, time, text, angles, sees):
        """x [n, tokens, dim]; time [n, blocks, 6, dim]; `sees`: for each block the blocks that it sees."""
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = (self.modulation[:, None] + time).unbind(2)
        a, tokens = self.self_attn, x.shape[1] // len(sees)
        y = modulate(norm(x), 1 + scale, shift)
        q = rotate(heads(a.norm_q(a.q(y))), *angles).split(tokens, 2)
        k = rotate(heads(a.norm_k(a.k(y))), *angles).split(tokens, 2)
        v = heads(a.v(y)).split(tokens, 2)
        outs = [
            attend(q[i], torch.cat([k[j] for j in seen], 2), torch.cat([v[j] for j in seen], 2))
            for i, seen in enumerate(sees)
        ]
        x = x + modulate(a.o(torch.cat(outs, 1)), gate)
        c = self.cross_attn
        y = self.norm3(x)
        x = x + c.o(attend(heads(c.norm_q(c.q(y))), heads(c.norm_k(c.k(text))), heads(c.v(text))))
        return x + modulate(self.ffn(modulate(norm(x), 1 + ffn_scale, ffn_shift)), ffn_gate)


class Head(nn.Module):
    def __init__(self, dim, values):
        super().__init__()
        self.modulation = nn.Parameter(torch.randn(1, 2, dim) / dim**0.5)
        self.head = nn.Linear(dim, values)


class Model(nn.Module):
    """The names of the parameters are those of the paper's CausalWanModel."""

    def __init__(self):
        super().__init__()
        c = self.config = CONFIG
        dim, patch = c["dim"], c["patch_size"]
        self.patch_embedding = nn.Conv3d(c["in_dim"], dim, patch, patch)
        self.text_embedding = nn.Sequential(nn.Linear(c["text_dim"], dim), nn.GELU(approximate="tanh"), nn.Linear(dim, dim))
        self.time_embedding = nn.Sequential(nn.Linear(c["freq_dim"], dim), nn.SiLU(), nn.Linear(dim, dim))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.blocks = nn.ModuleList(Block(dim, c["ffn_dim"]) for _ in range(c["num_layers"]))
        self.head = Head(dim, c["out_dim"] * math.prod(patch))
        for name, weight in self.named_parameters():
            if weight.dim() == 2 and name.endswith("weight"):
                nn.init.normal_(weight, std=0.7 / weight.shape[1] ** 0.5)
        nn.init.zeros_(self.head.head.weight)
        nn.init.zeros_(self.head.head.bias)

    def angles(self, frame):
        """frame [n, frames] -> cosines, sines [n, 1, tokens, head_dim / 2]"""
        c = self.config
        half = c["dim"] // c["num_heads"] // 2
        third = half // 3
        rows, columns = c["frame_height"] // c["patch_size"][1], c["frame_width"] // c["patch_size"][2]
        n, frames = frame.shape
        position = torch.stack(
            (
                frame[:, :, None, None].expand(n, frames, rows, columns),
                torch.arange(rows)[:, None].expand(n, frames, rows, columns),
                torch.arange(columns).expand(n, frames, rows, columns),
            )
        ).flatten(2)[..., None]
        table = [
            position[axis] * 10000 ** (-torch.arange(pairs, dtype=torch.float64) / pairs)
            for axis, pairs in enumerate((half - 2 * third, third, third))
        ]
        angle = torch.cat(table, -1)[:, None]
        return angle.cos().float(), angle.sin().float()

    def embed_time(self, t):
        half = self.config["freq_dim"] // 2
        angle = t.double()[..., None] * 10000 ** (-torch.arange(half, dtype=torch.float64) / half)
        return self.time_embedding(torch.cat((angle.cos(), angle.sin()), -1).float())

    def forward(self, clip, t, frame, text, sees):
        """clip [n, blocks, FRAMES, 3, SIZE, SIZE]; t [n, blocks] of 1000; frame [n, blocks] first frames;
        text [n, text_len, text_dim]. The flow, shaped as clip."""
        n, blocks = t.shape
        rows, columns = (SIZE // p for p in self.config["patch_size"][1:])
        x = self.patch_embedding(with_coordinates(clip).flatten(1, 2).transpose(1, 2)).flatten(2).transpose(1, 2)
        frame = (frame[..., None] + torch.arange(FRAMES)).flatten(1)
        time = self.embed_time(t)  # [n, blocks, dim]
        projected = self.time_projection(time).unflatten(2, (6, -1))
        angles, text = self.angles(frame), self.text_embedding(text)
        for block in self.blocks:
            x = block(x, projected, text, angles, sees)
        shift, scale = (self.head.modulation[:, None] + time[:, :, None]).unbind(2)
        y = self.head.head(modulate(norm(x), 1 + scale, shift))
        y = y.view(n, blocks, FRAMES, rows, columns, SIZE // rows, SIZE // columns, 3)
        return y.permute(0, 1, 2, 7, 3, 5, 4, 6).reshape(clip.shape)


# -------------------------------------------------------------------------------------------- training


def training_row(rows, first_only):
    """Clean blocks, noisy blocks, their first frames and who sees whom."""
    scene = Scene(rows)
    if first_only:
        starts = torch.zeros(rows, 1)
        clean, noisy, sees = 0, (0,), [[0]]
    elif torch.rand(()) < 0.5:  # the start of a clip: each of its blocks
        starts = FRAMES * torch.arange(3.0).expand(rows, 3)
        clean, noisy = 2, (0, 1, 2)
        sees = [[0], [0, 1], [2], [0, 3], [0, 1, 4]]
    else:  # the sink, two blocks somewhere, and three noisy copies of the next one
        somewhere = torch.randint(1, LONGEST - 2, (rows, 1)).float()
        starts = FRAMES * torch.cat((torch.zeros(rows, 1), somewhere, somewhere + 1, somewhere + 2), 1)
        clean, noisy = 3, (3, 3, 3)
        sees = [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 4], [0, 1, 2, 5]]
    blocks = [scene.frames(first, FRAMES) for first in starts.unbind(1)]
    clip = torch.stack([*blocks[:clean], *(blocks[i] for i in noisy)], 1)
    frame = torch.stack([*starts.unbind(1)[:clean], *(starts[:, i] for i in noisy)], 1)
    return scene.prompt(), clip, frame, clean, sees


def training_loss(model, first_only):
    rows = 5 * ROWS if first_only else ROWS
    text, clip, frame, clean, sees = training_row(rows, first_only)
    blocks = clip.shape[1]
    level = sigmas()[torch.randint(0, 4, (rows, blocks))]
    between = torch.rand(rows, blocks)
    level = torch.where(torch.rand(rows, blocks) < 0.1, 0.4 + 0.6 * between, level)
    level[:, :clean] = CONTEXT_NOISE * torch.rand(rows, clean)
    time = 1000 * level
    time[:, :clean] = CONFIG["context_noise"]
    noise = torch.randn_like(clip)
    weight = level[:, :, None, None, None, None]
    # What a model has made so far is fainter than it should be: it learns to make up for that.
    faint = torch.where(torch.rand(rows, blocks) < 0.5, 0.3 + 0.7 * torch.rand(rows, blocks), torch.ones(()))
    faint = faint[:, :, None, None, None, None]
    made = faint * clip + (1 - faint) * (2 * ground() - 1)
    x = (1 - weight) * made + weight * noise
    flow = model(x, time, frame, text, sees)[:, clean:]
    return (flow - (x - clip)[:, clean:] / weight[:, clean:]).pow(2).mean()


def train(args):
    from train_demo import Muon

    torch.manual_seed(args.seed)
    model, average = Model(), Model()
    average.load_state_dict(model.state_dict())
    matrices = [w for n, w in model.blocks.named_parameters() if w.dim() == 2]
    others = [w for n, w in model.named_parameters() if not (n.startswith("blocks.") and w.dim() == 2)]
    optimizers = (
        Muon(matrices, lr=MUON_RATE, weight_decay=WEIGHT_DECAY),
        torch.optim.AdamW(others, lr=ADAM_RATE, betas=(0.9, 0.98), weight_decay=0.0),
    )
    rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    checkpoint = args.work / "checkpoint.pt"
    log = open(args.work / "train.log", "a")
    elapsed, step, mean = 0.0, 0, None

    def say(line):
        print(line, flush=True)
        print(line, file=log, flush=True)

    def save():
        state = dict(
            model=model.state_dict(),
            average=average.state_dict(),
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
        average.load_state_dict(state["average"])
        for optimizer, saved in zip(optimizers, state["optimizers"]):
            optimizer.load_state_dict(saved)
        torch.set_rng_state(state["random"])
        elapsed, step = state["elapsed"], state["step"]
        say(f"resumed at step {step}, {elapsed:.0f} s")
    else:
        say(f"{sum(w.numel() for w in model.parameters())} parameters")

    limit = 60 * args.minutes
    next_report = next_save = elapsed
    while elapsed < limit:
        begun = time.process_time()  # not wall time: the rate then follows the work that was done
        progress = elapsed / limit
        factor = min(1, (step + 1) / 50, (1 - progress) / (1 - DECAY_FROM))
        for optimizer, base in zip(optimizers, rates):
            for group, rate in zip(optimizer.param_groups, base):
                group["lr"] = rate * factor
        loss = training_loss(model, progress < FIRST_ONLY)
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        step += 1
        with torch.no_grad():
            for kept, new in zip(average.parameters(), model.parameters()):
                kept.lerp_(new, 1 - min(EMA, step / (step + 20)))
        mean = loss.item() if mean is None else 0.98 * mean + 0.02 * loss.item()
        if elapsed >= next_report:
            say(f"{elapsed:5.0f} s  step {step:5d}  rate {factor:.3f}  loss {mean:.4f}")
            next_report = elapsed + args.report_every
        elapsed += time.process_time() - begun
        if elapsed >= next_save or elapsed >= limit:
            save()
            next_save = elapsed + args.save_every
    say(f"{elapsed:5.0f} s  step {step:5d}  done  loss {mean:.4f}")


# ---------------------------------------------------------------------------------------------- export


def export(args):
    state = torch.load(args.checkpoint or args.work / "checkpoint.pt")
    args.directory.mkdir(parents=True, exist_ok=True)
    header, body = {"__metadata__": {"format": "pt"}}, b""
    for name, weight in sorted(state["average"].items()):
        data = weight.to(torch.bfloat16).contiguous().view(torch.int16).numpy().tobytes()
        offsets = [len(body), len(body) + len(data)]
        header[name] = dict(dtype="BF16", shape=list(weight.shape), data_offsets=offsets)
        body += data
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    (args.directory / "model.safetensors").write_bytes(struct.pack("<Q", len(encoded)) + encoded + body)
    (args.directory / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    prompts = Scene(PROMPTS, torch.Generator().manual_seed(1)).words()
    (args.directory / "prompts.txt").write_text("".join(line + "\n" for line in prompts))
    print(f"step {state['step']}, {len(body)} bytes of weights in {args.directory}")


def load_directory(directory):
    raw = (directory / "model.safetensors").read_bytes()
    (length,) = struct.unpack_from("<Q", raw)
    header, body = json.loads(raw[8 : 8 + length]), raw[8 + length :]
    model = Model()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            begin, end = header[name]["data_offsets"]
            values = np.frombuffer(body[begin:end], dtype=np.int16).copy()
            weight.copy_(torch.from_numpy(values).view(torch.bfloat16).view(weight.shape))
    return model


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
    write_sheet(args.output, scene.frames(0, args.frames))


@torch.no_grad()
def generate(model, text, frames, generator):
    """Block after block; the whole window goes through the network at each step, so this is slow."""
    levels = sigmas()
    done = []
    for i in range(frames // FRAMES):
        seen = sorted({0, *range(max(0, i - 2), i)} - {i}) if i else []
        clean = [done[j] for j in seen]
        x = torch.randn(len(text), FRAMES, 3, SIZE, SIZE, generator=generator)
        for step, level in enumerate(levels):
            clip = torch.stack([*clean, x], 1)
            t = torch.zeros(len(text), len(seen) + 1)
            t[:, -1] = 1000 * level
            frame = FRAMES * torch.tensor([*seen, i]).float().expand(len(text), -1)
            sees = [list(range(j + 1)) for j in range(len(seen) + 1)]
            x = x - level * model(clip, t, frame, text, sees)[:, -1]
            if step + 1 < len(levels):
                following = levels[step + 1]
                noise = torch.randn(x.shape, generator=generator)
                x = (1 - following) * x + following * noise
        done.append(x)
    return torch.cat(done, 1)


def sample(args):
    generator = torch.Generator().manual_seed(args.seed)
    scene = Scene(args.clips, generator)
    clips = generate(load_directory(args.directory), scene.prompt(), args.frames, generator)
    truth = scene.frames(0, args.frames)
    print(f"mean squared distance to the prompt's scene, a frame: {(clips - truth).pow(2).mean((0, 2, 3, 4)).tolist()}")
    write_sheet(args.output, clips)


# ---------------------------------------------------------------------------------------- command line


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--work", type=pathlib.Path, default="video-train", help="folder of intermediate files")
    common.add_argument("--threads", type=int, default=1, help="threads of PyTorch (1)")
    common.add_argument("--seed", type=int, default=0, help="(0)")
    commands = parser.add_subparsers(dest="command", required=True)

    def command(function, text):
        sub = commands.add_parser(function.__name__, parents=[common], help=text, description=text)
        sub.set_defaults(function=function)
        return sub

    sub = command(train, "train, or resume training; writes checkpoint.pt and train.log")
    sub.add_argument("--minutes", type=float, default=60, help="CPU time the whole schedule takes (60)")
    sub.add_argument("--report-every", type=float, default=60, metavar="SECONDS", help="(60)")
    sub.add_argument("--save-every", type=float, default=120, metavar="SECONDS", help="(120)")
    sub = command(export, "write the checkpoint's averaged weights, as bf16, and config.json")
    sub.add_argument("directory", type=pathlib.Path)
    sub.add_argument("--checkpoint", type=pathlib.Path, help="(the one in --work)")
    for function, text in ((sample, "generate clips"), (draw, "draw clips of the training data")):
        sub = command(function, text)
        if function is sample:
            sub.add_argument("directory", type=pathlib.Path)
        sub.add_argument("-o", "--output", type=pathlib.Path, required=True, help="PNG file")
        sub.add_argument("--clips", type=int, default=6, help="(6)")
        sub.add_argument("--frames", type=int, default=18, help="(18)")

    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    args.work.mkdir(parents=True, exist_ok=True)
    args.function(args)


if __name__ == "__main__":
    sys.exit(main())
