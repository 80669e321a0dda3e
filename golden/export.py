#!/usr/bin/python3
"""FlashBlock's equations in PyTorch: makes golden cases, and checks itself against the paper's.

    export.py --out DIR [--kind K ...] [--cases N] [--seed S] [--heads 32 --context 4096 ...]
    export.py --check [DIR]       recompute each case in DIR (default: golden/paper), compare its results
    export.py --errors [--out DIR]    float32 attention of PyTorch against float64; writes those cases too
    export.py ... --paper-repo DIR    call the functions of a clone of the paper's repository instead

Own code, written from the paper (arXiv 2602.05305) and from what its released code does. Each kind of case
is a class with two functions: inputs() draws a case, outputs() recomputes its results from its inputs. Making
a case is both; checking one is outputs() and a comparison. README.md beside this file describes the format.

Debian packages: python3-torch python3-numpy. Exit status: 0, 1 if a case differs, 2 for errors.
"""
import argparse
import importlib
import json
import math
import pathlib
import random
import struct
import sys
from dataclasses import dataclass, field

import numpy as np
import torch

HERE = pathlib.Path(__file__).resolve().parent
PRODUCED_BY = "golden/export.py (PyTorch transcription of the paper's equations; not the paper's code)"
INF = float("inf")

Tensors = dict[str, torch.Tensor]


class Failure(Exception):
    """Something the user must know; its text is the one line that is printed."""


# ---------------------------------------------------------------------------------------- safetensors

DTYPES = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16,
          "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
          "BOOL": torch.bool}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def tensor_bytes(tensor: torch.Tensor) -> bytes:
    tensor = tensor.contiguous()
    if tensor.dtype == torch.bfloat16:  # numpy has no such type
        tensor = tensor.view(torch.int16)
    return tensor.numpy().tobytes()


def write_safetensors(path: pathlib.Path, metadata: dict[str, str], tensors: Tensors) -> None:
    """Widest types first, so that each tensor is aligned; header padded to 8 bytes."""
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header, offset = {"__metadata__": metadata}, 0
    for name in order:
        size = tensors[name].numel() * tensors[name].element_size()
        header[name] = {"dtype": DTYPE_NAMES[tensors[name].dtype], "shape": list(tensors[name].shape),
                        "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in order:
            file.write(tensor_bytes(tensors[name]))


def read_safetensors(path: pathlib.Path) -> tuple[dict[str, str], Tensors]:
    try:
        data = path.read_bytes()
        (length,) = struct.unpack_from("<Q", data)
        header = json.loads(data[8 : 8 + length])
        metadata = header.pop("__metadata__", {})
        tensors = {}
        for name, entry in header.items():
            dtype, count = DTYPES[entry["dtype"]], math.prod(entry["shape"])
            begin, end = entry["data_offsets"]
            if begin < 0 or end - begin != count * torch.empty((), dtype=dtype).element_size():
                raise ValueError(f"tensor {name}: offsets {begin}..{end} do not fit its shape")
            raw = bytearray(data[8 + length + begin : 8 + length + end])
            empty = torch.empty(entry["shape"], dtype=dtype)
            tensors[name] = torch.frombuffer(raw, dtype=dtype).reshape(entry["shape"]) if count else empty
        return metadata, tensors
    except (OSError, struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Failure(f"{path}: {error}") from error


# ------------------------------------------------------------------------------ the paper's own functions

PAPER_FOLDERS = ("", "dllm", "dllm/sample")
PAPER_MODULES = {
    "exact_flash_attn_func": "models.sdar.modeling_sdar",
    "split_attention_outputs": "models.sdar.modeling_sdar",
    "apply_rotary_pos_emb": "models.sdar.modeling_sdar",
    "get_num_transfer_tokens": "generatev2",
    "sample_and_select_transfer_tokens": "generatev2",
    "top_k_logits": "jetengine_ext.layers.sampler",
    "top_p_logits": "jetengine_ext.layers.sampler",
}
PAPER: dict = {}  # name -> function, of those that could be imported


def load_paper(repository: pathlib.Path) -> None:
    """Fills PAPER; says on stderr what could not be imported and why."""
    if not repository.is_dir():
        raise Failure(f"--paper-repo {repository}: no such directory")
    sys.path[:0] = [str(repository / folder) for folder in PAPER_FOLDERS]
    reasons = {}
    for name, module in PAPER_MODULES.items():
        try:
            PAPER[name] = getattr(importlib.import_module(module), name)
        except Exception as error:  # whatever a module of other people does while it is imported
            reasons[f"{module}.{name}"] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    for name, reason in reasons.items():
        print(f"export.py: transcription in place of {name} ({reason})", file=sys.stderr)
    if not PAPER:
        raise Failure(f"--paper-repo {repository}: none of its functions can be imported; first reason: "
                      f"{next(iter(reasons.values()))}")


def paper_note(names: tuple[str, ...]) -> str:
    used = [f"{PAPER_MODULES[name]}.{name}" for name in names if name in PAPER]
    return PRODUCED_BY + (f"; of --paper-repo: {', '.join(used)}" if used else "")


# ------------------------------------------------------------------------------------------ attention


def attention(q, k, v, scale, mask=None, dtype=torch.float32):
    """q [B,Sq,H,D], k and v [B,Sk,Hk,D] -> out [B,Sq,H,D], lse [B,H,Sq]; the natural log of the sum of
    exp(scale * q.k). Query head h reads key-value head h // (H/Hk). mask [Sq,Sk] is true where a row may look.
    No keys: (0, -inf). One key-value head at a time, since long contexts would not fit memory otherwise."""
    num_heads, num_kv_heads = q.shape[2], k.shape[2]
    group = num_heads // num_kv_heads
    if k.shape[1] == 0:
        shape = (q.shape[0], num_heads, q.shape[1])
        return torch.zeros(q.shape, dtype=dtype), torch.full(shape, -INF, dtype=dtype)
    outs, lses = [], []
    for head in range(num_kv_heads):
        rows = q[:, :, head * group : (head + 1) * group].transpose(1, 2).to(dtype)  # [B,G,Sq,D]
        keys = k[:, :, head : head + 1].transpose(1, 2).to(dtype).expand(-1, group, -1, -1)
        values = v[:, :, head : head + 1].transpose(1, 2).to(dtype).expand(-1, group, -1, -1)
        scores = torch.matmul(rows, keys.transpose(2, 3)) * scale
        if mask is not None:
            scores = scores.masked_fill(~mask, -INF)
        lses.append(scores.logsumexp(dim=-1))
        outs.append(torch.matmul(scores.softmax(dim=-1), values))
    return torch.cat(outs, dim=1).transpose(1, 2).contiguous(), torch.cat(lses, dim=1)


def attention32(q, k, v, scale):
    if "exact_flash_attn_func" in PAPER and k.shape[1] > 0:
        return PAPER["exact_flash_attn_func"](q, k, v, softmax_scale=scale)[:2]
    return attention(q, k, v, scale)


def merge(out_past, lse_past, out_cur, lse_cur):
    """Attention over two disjoint key sets from attention over each: log-space weights. lse* end in [...,1].
    Returns (out, lse). The engine multiplies by the reciprocal of the denominator; so does this."""
    top = torch.maximum(lse_past, lse_cur)
    past, cur = torch.exp(lse_past - top), torch.exp(lse_cur - top)
    total = past + cur
    return (out_past * past + out_cur * cur) * (1.0 / total), top + torch.log(total)


def merge_double(out_past, lse_past, out_cur, lse_cur):
    """The training class's merge: in float64, rounded to the current output's type."""
    parts = (out_past.double(), lse_past.double(), out_cur.double(), lse_cur.double())
    return merge(*parts)[0].to(out_cur.dtype)


def split_attention(q, k, v, scale):
    """q [B,H,L,D], k and v [B,H,P+L,D] -> the two summands of one joint softmax, not normalised each."""
    if "split_attention_outputs" in PAPER:
        return PAPER["split_attention_outputs"](q, k, v, scale=scale)
    past = k.shape[2] - q.shape[2]
    weights = (torch.matmul(q, k.transpose(2, 3)) * scale).softmax(dim=-1)
    return (torch.matmul(weights[..., :past], v[:, :, :past]),
            torch.matmul(weights[..., past:], v[:, :, past:]))


def by_lse(lse):
    """[B,H,L] -> [B,L,H,1]"""
    return lse.transpose(1, 2).unsqueeze(-1)


# ----------------------------------------------------------------------------------- positions and norms


def inverse_frequencies(head_dim: int, theta: float):
    return 1.0 / (theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim))


def rope_tables(position, inv_freq):
    """position [B,S] -> cos, sin [B,S,D]. The angle is a float32 product; far out that matters."""
    angle = position.to(torch.float32).unsqueeze(-1) * inv_freq
    return torch.cat([angle.cos()] * 2, dim=-1), torch.cat([angle.sin()] * 2, dim=-1)


def rotate(x, cos, sin):
    """x [B,H,S,D]; pairs (i, i + D/2)."""
    if "apply_rotary_pos_emb" in PAPER:
        return PAPER["apply_rotary_pos_emb"](x, x, cos, sin)[0]
    low, high = x.chunk(2, dim=-1)
    return x * cos.unsqueeze(1) + torch.cat([-high, low], dim=-1) * sin.unsqueeze(1)


def normalised(x, eps):
    x = x.to(torch.float32)
    return x * torch.rsqrt((x * x).mean(dim=-1, keepdim=True) + eps)


def rms_norm(x, weight, eps):
    """The training class: one rounding, at the end."""
    return (normalised(x, eps) * weight.to(torch.float32)).to(x.dtype)


def rms_norm_engine(x, weight, eps, dtype):
    """The engine: the normalised value is rounded before the weight multiplies it."""
    return normalised(x, eps).to(dtype) * weight


# ------------------------------------------------------------------------------------ sampling, selection


def top_k_filter(logits, k: int):
    if "top_k_logits" in PAPER:
        return PAPER["top_k_logits"](logits, k)
    if k <= 0 or k >= logits.shape[-1]:
        return logits
    return logits.masked_fill(logits < logits.topk(k, dim=-1).values[..., -1:], -INF)


def top_p_filter(logits, p: float):
    """Keeps the most probable tokens up to and including the one that takes the sum past p."""
    if "top_p_logits" in PAPER:
        return PAPER["top_p_logits"](logits, p)
    if p >= 1.0:
        return logits
    ordered, order = logits.sort(dim=-1, descending=True)
    above = ordered.softmax(dim=-1).cumsum(dim=-1) > p
    above = torch.cat([torch.zeros_like(above[..., :1]), above[..., :-1]], dim=-1)
    return logits.masked_fill(torch.zeros_like(above).scatter(-1, order, above), -INF)


def probabilities(logits, temperature: float, top_k: int, top_p: float):
    return top_p_filter(top_k_filter(logits / temperature, top_k), top_p).softmax(dim=-1)


def budgets(block_size: int, steps: int) -> list[int]:
    if "get_num_transfer_tokens" in PAPER:
        return torch.as_tensor(PAPER["get_num_transfer_tokens"](block_size, steps)).flatten().tolist()
    return [block_size // steps + (step < block_size % steps) for step in range(steps)]


def highest(confidence, masked, count: int) -> list[int]:
    """torch.topk over a row in which decided positions hold -inf: it may choose some of those."""
    row = torch.where(masked, confidence, torch.full_like(confidence, -INF))
    return row.topk(count).indices.tolist()


def select_transfer(strategy, confidence, masked, budget: int, threshold: float) -> list[int]:
    """The training code's rule for one row: under low_confidence_dynamic the budget is a cap."""
    if budget == 0:
        return []
    if strategy == "sequential":
        first = masked.nonzero()[0].item()
        return list(range(first, min(first + budget, len(masked))))
    if strategy == "low_confidence_static":
        return highest(confidence, masked, budget)
    above = (masked & (confidence > threshold)).nonzero().flatten().tolist()
    return above if 0 < len(above) <= budget else highest(confidence, masked, budget if above else 1)


def engine_transfer(p: dict, confidence, probs, masked, budget: int) -> list[int]:
    """The engine's rule: the budget is a floor. Its list path looks at masked positions only and compares in
    double; its tensor path (a switch, or sequences that sample differently) uses torch.topk and float32."""
    tensor_path = p["env"].get("TRADO_GPU_POST_SCHED_OPS") == "1" or not p["consistent_sampling_params"]
    positions = masked.nonzero().flatten().tolist()
    if p["remasking"] == "sequential":
        first = positions[0] if positions else len(masked)
        return list(range(first, min(first + budget, len(masked))))
    if p["remasking"] == "entropy_bounded":
        clamped = probs.clamp(min=1e-12)
        entropy = -(clamped * clamped.log()).sum(dim=-1)
        ascending = sorted(positions, key=lambda i: entropy[i].item())
        total = torch.cumsum(entropy[ascending], dim=0)
        return ascending[: max(1, int((total < p["eb_threshold"]).sum()))]
    if p["remasking"] == "low_confidence_dynamic":
        threshold = np.float32(p["dynamic_threshold"]) if tensor_path else p["dynamic_threshold"]
        above = [i for i in positions if confidence[i].item() > float(threshold)]
        if len(above) >= budget:
            return above
    if tensor_path:
        return highest(confidence, masked, min(budget, len(masked)))
    return sorted(positions, key=lambda i: -confidence[i].item())[:budget]


# --------------------------------------------------------------------------------------------- scheduler

DENOISING, SAVING, FINISHED = 2, 3, 4
TRACE_ROWS = ("seq", "status", "step", "ctx_true", "ctx_kernel", "update", "reuse", "store", "dirty", "dmask",
              "dirty_after", "dmask_after", "status_after", "ntr", "ntok_after")
TRACE_BLOCKS = ("before", "x0", "acc", "after")


class Sequence:
    """One prompt on its way through the engine: blocks of L tokens after the whole blocks of the prompt."""

    def __init__(self, p: dict, index: int, prompt: list[int]):
        self.p, self.index, self.prompt, self.size = p, index, prompt, p["block_length"]
        self.tokens = prompt[: len(prompt) // self.size * self.size]
        self.unmask_steps, self.dirty, self.total_steps = [], [], 0
        self.budgets = budgets(self.size, p["denoising_steps"])
        self.start_block()

    def start_block(self):
        tail = self.prompt[len(self.tokens) :]
        self.block = tail + [self.p["mask_id"]] * (self.size - len(tail))
        self.block_steps = [0] * self.size
        self.status, self.step = DENOISING, 0

    def masks(self) -> int:
        return self.block.count(self.p["mask_id"])

    def budget(self) -> int:
        return self.budgets[self.step] if self.step < len(self.budgets) else 1

    def dirty_bits(self) -> int:
        return sum(1 << i for i in set(self.dirty))

    def plan(self) -> dict:
        """Refresh or reuse, and whether a refresh is kept: not when the block should finish in this step."""
        p, denoising = self.p, self.status == DENOISING
        if self.step == 0:
            self.dirty = []
        fresh_enough = len(self.dirty) < p["tau"] or (
            denoising and p["env"].get("TRADO_FORCE_DENOISE_NO_UPDATE") == "1")
        may_reuse = denoising or p["env"].get("TRADO_NO_FORCE_UPDATE_ON_SAVE") == "1"
        reuse = p["tau"] > 0 and fresh_enough and self.step > 0 and may_reuse
        finishing = (not denoising or self.masks() <= max(1, self.budget())
                     or self.step + 1 >= p["denoising_steps"])
        store = p["tau"] > 0 and not reuse and not finishing
        return {"seq": self.index, "status": self.status, "step": self.step, "ctx_true": len(self.tokens),
                "ctx_kernel": 0 if reuse and denoising else len(self.tokens), "update": int(not reuse),
                "reuse": int(reuse), "store": int(store), "dirty": len(self.dirty),
                "dmask": self.dirty_bits(), "before": list(self.block)}

    def denoise(self, row: dict, x0: list[int], confidence, probs) -> None:
        p, mask = self.p, self.p["mask_id"]
        masked = torch.tensor([token == mask for token in self.block])
        chosen = engine_transfer(p, confidence, probs, masked, self.budget())
        dynamic = p["remasking"] == "low_confidence_dynamic"
        counted = (dynamic and chosen) or p["remasking"] == "entropy_bounded"
        row["ntr"] = len(chosen) if counted else self.budget()
        if dynamic and p["tau"] > 0:
            self.dirty = ([] if row["update"] else self.dirty) + chosen
            reported = chosen
        else:
            reported = [i for i in chosen if self.block[i] == mask and x0[i] != mask]
        row["acc"] = [int(i in reported) for i in range(self.size)]
        for i in chosen:
            self.block[i] = x0[i]
            self.block_steps[i] = self.block_steps[i] or self.total_steps + 1
        self.step += 1
        self.total_steps += 1
        row["after"] = list(self.block)
        if self.masks() == 0 or self.step >= p["denoising_steps"]:
            self.status = SAVING

    def commit(self, row: dict) -> None:
        """Appends token by token. A stop token ends the completion even where it belongs to the prompt."""
        stops = [] if self.p["ignore_eos"] else [self.p["eos_id"], *self.p["stop_words"]]
        for token, step in zip(self.block, self.block_steps):
            full = len(self.unmask_steps) >= self.p["max_tokens"]
            if full and token not in stops:
                break
            if len(self.tokens) >= len(self.prompt):
                self.unmask_steps.append(step)
            self.tokens.append(token)
            if token in stops:
                self.status = FINISHED
                break
        if self.status == FINISHED or len(self.unmask_steps) >= self.p["max_tokens"]:
            self.status, after = FINISHED, [-1] * self.size
        else:
            self.start_block()
            after = list(self.block)
        row.update(ntr=0, acc=[0] * self.size, after=after)

    def output(self) -> list[int]:
        return self.tokens[len(self.prompt) :]


def run_engine(p: dict, prompts: list[list[int]], x0, probs) -> tuple[list[list[dict]], Tensors, list[int]]:
    """Continuous batching with given proposals: x0 [T,B,L], probs [T,B,L,V]. Returns the rows of each step,
    outputs, and [reads, mismatches] of the history slots: a read of what another block stored mismatches."""
    slots = [{"sequence": None, "tag": None} for _ in range(p["max_active"])]
    waiting = [Sequence(p, index, prompt) for index, prompt in enumerate(prompts)]
    steps, outputs, history = [], {}, [0, 0]
    while waiting or any(slot["sequence"] for slot in slots):
        for slot in slots:
            if slot["sequence"] is None and waiting:
                slot["sequence"] = waiting.pop(0)
        rows, t = [], len(steps)
        if t >= len(x0):
            raise Failure(f"the trace has {len(x0)} steps, sequences need more")
        for b, slot in enumerate(slot for slot in slots if slot["sequence"]):
            sequence = slot["sequence"]
            row = sequence.plan()
            tag = (sequence.index, len(sequence.tokens))
            history[0] += row["reuse"]
            history[1] += row["reuse"] and slot["tag"] != tag
            slot["tag"] = tag if row["store"] else slot["tag"]
            row["x0"] = x0[t, b].tolist()
            row["conf"] = probs[t, b].gather(-1, x0[t, b].long().clamp(min=0).unsqueeze(-1)).squeeze(-1)
            if sequence.status == SAVING:
                sequence.commit(row)
            else:
                sequence.denoise(row, row["x0"], row["conf"], probs[t, b])
            row.update(status_after=sequence.status, dirty_after=len(sequence.dirty),
                       dmask_after=sequence.dirty_bits(), ntok_after=len(sequence.tokens))
            rows.append(row)
            if sequence.status == FINISHED:
                outputs[f"output.{sequence.index}"] = integers(sequence.output())
                outputs[f"unmask_step.{sequence.index}"] = integers(sequence.unmask_steps)
                slot["sequence"] = None
        slots.sort(key=lambda slot: slot["sequence"] is None)  # stable: free slots move behind the others
        steps.append(rows)
    return steps, outputs, history


def integers(values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


# ------------------------------------------------------------------------------------------------- kinds


@dataclass
class Case:
    name: str  # as in the metadata: "attn_00"
    kind: str
    params: dict
    tensors: Tensors
    file: str = ""  # name of the file, without its suffix
    style: str = ""
    folder: pathlib.Path = field(default_factory=pathlib.Path)
    metadata: dict = field(default_factory=dict)

    def number(self, key: str) -> float:
        return float(self.metadata.get(key, "nan"))


@dataclass
class Draw:
    """Random choices of one case; what the command line gives is not drawn."""
    options: argparse.Namespace
    index: int

    def __post_init__(self):
        self.seed = self.options.seed + self.index
        self.choices = random.Random(self.seed)
        self.generator = torch.Generator().manual_seed(self.seed)

    def pick(self, name: str, values):
        given = getattr(self.options, name)
        return self.choices.choice(values) if given is None else given

    def style(self, styles):
        if self.options.style is None:
            return styles[self.index % len(styles)]
        if self.options.style not in styles:
            raise Failure(f"--style {self.options.style}: this kind has {', '.join(styles)}")
        return self.options.style

    def normal(self, *shape, scale=1.0):
        return torch.randn(shape, generator=self.generator) * scale

    def flags(self, *shape):
        return torch.randint(0, 2, shape, generator=self.generator).to(torch.uint8)

    def heads(self) -> tuple[int, int, int]:
        num_kv_heads = self.pick("kv_heads", (1, 2, 4))
        num_heads = self.pick("heads", tuple(num_kv_heads * group for group in (1, 2, 4)))
        if num_heads % num_kv_heads != 0:
            raise Failure(f"--heads {num_heads} is not a multiple of {num_kv_heads} key-value heads")
        return num_heads, num_kv_heads, self.pick("head_dim", (64, 80, 96, 128))


class Kind:
    """kind and folder: as in the metadata and on disk. layout: of each tensor. paper: functions it may call."""
    kind = folder = ""
    layout: dict = {}
    paper: tuple = ()

    def inputs(self, draw: Draw) -> Case:
        raise NotImplementedError

    def outputs(self, case: Case) -> Tensors:
        raise NotImplementedError

    def notes(self, case: Case) -> dict:
        """Metadata beside kind, case, seed, params, layout."""
        return {}

    def tolerance(self, case: Case, name: str, expected: torch.Tensor) -> float:
        """float32 results of order 1; half an ulp more or less where results are bf16; integers exactly."""
        if expected.dtype == torch.bfloat16:
            return 2.0**-8 * largest(expected)
        return 5e-6 if expected.is_floating_point() else 0.0


def largest(tensor: torch.Tensor) -> float:
    finite = tensor.double()[tensor.double().isfinite()]
    return finite.abs().max().item() if finite.numel() else 0.0


def difference(got: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest absolute difference; equal infinities and two NaN are equal."""
    if got.shape != expected.shape:
        return INF
    if got.numel() == 0:
        return 0.0
    got, expected = got.double(), expected.double()
    same = (got == expected) | (got.isnan() & expected.isnan())
    distance = torch.where(same, torch.zeros_like(got), (got - expected).abs())
    return distance.nan_to_num(nan=INF, posinf=INF).max().item()


class Attention(Kind):
    kind, folder, paper = "attention", "attn", ("exact_flash_attn_func",)
    layout = {"q": "[B,Sq,H,D]", "k": "[B,Sk,Hk,D]", "v": "[B,Sk,Hk,D]", "out": "[B,Sq,H,D]", "lse": "[B,H,Sq]",
              "out64": "[B,Sq,H,D]", "lse64": "[B,H,Sq]"}
    styles = ("normal", "bf16", "scale30", "constkey", "onekey", "zeroq", "hugepos", "batch", "scale100", "hugeneg",
              "outlier", "mixedmag", "tworows", "scale60")

    def inputs(self, draw):
        style, (h, hk, d) = draw.style(self.styles), draw.heads()
        b = draw.pick("batch", (2, 3) if style == "batch" else (1,))
        sq = draw.pick("queries", (1, 4, 6, 8, 32))
        sk = 1 if style == "onekey" else draw.pick("context", (1, 7, 19, 64, 257, 1024))
        tensors = self.styled(style, draw.normal(b, sq, h, d), draw.normal(b, sk, hk, d), draw.normal(b, sk, hk, d))
        params = {"B": b, "Sq": sq, "Sk": sk, "H": h, "Hk": hk, "D": d, "softmax_scale": d**-0.5, "causal": False,
                  "head_map": "kv head of q head h is h // (H/Hk)"}
        name = f"attn_{draw.index:02}"
        return Case(name, self.kind, params, tensors, f"{name}_{style}_q{sq}_k{sk}_h{h}-{hk}_d{d}", style)

    @staticmethod
    def styled(style: str, q, k, v) -> Tensors:
        if style.startswith("scale"):
            q = q * float(style[5:])
        elif style == "constkey":
            k = k[:, :1].expand_as(k).contiguous()
        elif style == "zeroq":
            q = torch.zeros_like(q)
        elif style in ("hugepos", "hugeneg"):  # scores near +3e4 or -3e4
            sign = 1 if style == "hugepos" else -1
            q, k = q * 0.1 + 30, k * 0.1 + sign * 1000 / q.shape[3] ** 0.5
        elif style == "outlier":
            k[:, -1] *= 20
        elif style == "mixedmag":
            v = v * 10.0 ** torch.linspace(-4, 4, v.shape[1]).reshape(1, -1, 1, 1)
        elif style == "tworows":
            q[:, ::2] *= 80
        elif style == "bf16":
            q, k, v = (x.to(torch.bfloat16) for x in (q, k, v))
        return {"q": q, "k": k, "v": v}

    def outputs(self, case):
        q, k, v = (case.tensors[name] for name in "qkv")
        scale = case.params["softmax_scale"]
        out, lse = attention32(q, k, v, scale)
        out64, lse64 = attention(q, k, v, scale, dtype=torch.float64)
        return {"out": out, "lse": lse, "out64": out64, "lse64": lse64}

    def notes(self, case):
        t = case.tensors
        lse_error = difference(t["lse"], t["lse64"])
        return {"max_abs_v": largest(t["v"]), "f32_vs_f64_max_abs_out": difference(t["out"], t["out64"]),
                "f32_vs_f64_max_abs_lse": lse_error,
                "f32_vs_f64_max_rel_lse": lse_error / max(largest(t["lse64"]), 1e-30)}

    def tolerance(self, case, name, expected):
        """Two float32 computations may each be as far from the truth as the file's own is, and an ulp."""
        if expected.dtype == torch.float64:
            return 1e-12 * max(1.0, largest(case.tensors["v"])) * max(1.0, largest(case.tensors["lse64"]))
        truth = case.tensors.get(name + "64")
        error = difference(expected, truth) if truth is not None else 5e-6
        return 2 * error + float(np.spacing(np.float32(largest(expected))))


class SplitMerge(Kind):
    kind, folder, paper = "split_merge", "split", ("exact_flash_attn_func", "split_attention_outputs")
    layout = {"q": "[B,H,L,D]", "k": "[B,Hk,P+L,D]", "v": "[B,Hk,P+L,D]", "past_unnorm": "[B,H,L,D]",
              "cur_unnorm": "[B,H,L,D]", "full": "[B,L,H,D]", "full_lse": "[B,H,L]", "o_past": "[B,L,H,D]",
              "lse_past": "[B,H,L]", "merged_hf": "[B,L,H,D]", "merged_kernel": "[B,L,H,D]",
              "full_lse_kernel_store": "[B,L,H]"}
    styles = ("plain", "hot", "nopast", "past_dominates", "cur_dominates", "underflow", "one_past")

    def inputs(self, draw):
        style, (h, hk, d) = draw.style(self.styles), draw.heads()
        b, length = draw.pick("batch", (1, 2)), draw.pick("block_size", (4, 8))
        past = {"nopast": 0, "one_past": 1}.get(style, draw.pick("context", (20, 33, 60, 124, 249)))
        q = draw.normal(b, h, length, d, scale=40.0 if style == "hot" else 1.0)
        k, v = draw.normal(b, hk, past + length, d), draw.normal(b, hk, past + length, d)
        shift = {"past_dominates": 12.0, "cur_dominates": -11.0, "underflow": -60.0}.get(style)
        if shift is not None:  # one coordinate moves all scores of the past
            q[..., 0] = 8.0
            k[:, :, :past, 0] = shift
        params = {"B": b, "H": h, "Hk": hk, "L": length, "P": past, "D": d, "softmax_scale": d**-0.5}
        name = f"split_{draw.index:02}"
        return Case(name, self.kind, params, {"q": q, "k": k, "v": v},
                    f"{name}_{style}_l{length}_p{past}_h{h}-{hk}_d{d}", style)

    def outputs(self, case):
        q, k, v = (case.tensors[name] for name in "qkv")
        past, scale, group = case.params["P"], case.params["softmax_scale"], q.shape[1] // k.shape[1]
        past_unnorm, cur_unnorm = split_attention(q, k.repeat_interleave(group, 1), v.repeat_interleave(group, 1),
                                                  scale)
        rows, keys, values = (x.transpose(1, 2) for x in (q, k, v))
        full, full_lse = attention32(rows, keys, values, scale)
        full64, full_lse64 = attention(rows, keys, values, scale, dtype=torch.float64)
        o_past, lse_past = attention32(rows, keys[:, :past], values[:, :past], scale)
        o_cur, lse_cur = attention32(rows, keys[:, past:], values[:, past:], scale)
        parts = (o_past, by_lse(lse_past), o_cur, by_lse(lse_cur))
        merged, merged_lse = merge(*parts)
        return {"past_unnorm": past_unnorm, "cur_unnorm": cur_unnorm, "full": full, "full_lse": full_lse,
                "full64": full64, "full_lse64": full_lse64, "o_past": o_past, "lse_past": lse_past, "o_cur": o_cur,
                "lse_cur": lse_cur, "merged_hf": merge_double(*parts), "merged_kernel": merged,
                "merged_kernel_store": merged, "full_lse_kernel_store": merged_lse.squeeze(-1)}

    def notes(self, case):
        t = case.tensors
        merges = [difference(t[name], t["full"]) for name in ("merged_hf", "merged_kernel")]
        split = difference((t["past_unnorm"] + t["cur_unnorm"]).transpose(1, 2), t["full"])
        return {"max_err_merge": max(merges), "max_err_split": split}

    def tolerance(self, case, name, expected):
        scale = max(1.0, largest(case.tensors["lse_cur"]))  # scores of 1e2 round to 1e2 ulps
        return (1e-12 if expected.dtype == torch.float64 else 5e-6) * scale


class FusedMerge(Kind):
    kind, folder = "fused_merge", "kern"
    layout = {"o_full_or_cur": "[B,L,H,D] attention output: full on refresh rows, current-block-only on reuse rows",
              "out_cur": "[B,L,H,D] current-block output used on store rows",
              "out_hist": "[B,L,H,D] freshly computed history output", "hist_out_in": "[B,L,H,D] cached history before",
              "lse_cur": "[B,L,H,1]", "lse_hist": "[B,L,H,1]", "hist_lse_in": "[B,L,H,1]",
              "need_mask": "[B,H,L,1] u8 refresh", "store_mask": "[B,H,L,1] u8 write history",
              "dirty_mask": "[B,H,L,1] u8", "X.out": "[B,L,H,D]", "X.hist_out": "[B,L,H,D] cache after",
              "X.hist_lse": "[B,L,H,1] cache after", "engine.full_lse": "[B,L,H,1]"}
    styles = ("mixed", "all_reuse", "all_refresh", "mixed_nodirty", "extreme", "empty_history")

    def inputs(self, draw):
        style = draw.style(self.styles)
        b, length = draw.pick("batch", (2, 3, 4)), draw.pick("block_size", (4, 8))
        h, d = draw.pick("heads", (2, 4, 5)), draw.pick("head_dim", (32, 64, 128))
        names = ("o_full_or_cur", "out_cur", "out_hist", "hist_out_in")
        t = {name: draw.normal(b, length, h, d) for name in names}
        for name in ("lse_cur", "lse_hist", "hist_lse_in"):
            t[name] = draw.normal(b, length, h, 1, scale=60.0 if style == "extreme" else 2.0)
        if style == "empty_history":
            t["out_hist"], t["hist_out_in"] = torch.zeros_like(t["out_hist"]), torch.zeros_like(t["out_hist"])
            t["lse_hist"], t["hist_lse_in"] = (torch.full_like(t["lse_hist"], -INF) for _ in range(2))
        need = {"all_reuse": torch.zeros(b), "all_refresh": torch.ones(b)}.get(style, draw.flags(b))
        per_sequence = {"need_mask": need, "store_mask": need * draw.flags(b)}
        for name, flags in per_sequence.items():
            t[name] = flags.to(torch.uint8).reshape(b, 1, 1, 1).expand(b, h, length, 1).contiguous()
        dirty = draw.flags(b, 1, length, 1) * (style != "mixed_nodirty")
        t["dirty_mask"] = dirty.expand(b, h, length, 1).contiguous()
        t["engine_bf16.o_full_or_cur"] = t["o_full_or_cur"].to(torch.bfloat16)
        name = f"merge_{draw.index:02}"
        return Case(name, self.kind, {"B": b, "L": length, "H": h, "D": d}, t,
                    f"{name}_{style}_b{b}_l{length}_h{h}_d{d}", style)

    @staticmethod
    def engine(t: Tensors, output, store, need) -> tuple:
        """Store: merge of the fresh parts, kept. Refresh: full attention, cache untouched. Reuse: the cache."""
        stored, stored_lse = merge(t["out_hist"], t["lse_hist"], t["out_cur"], t["lse_cur"])
        reused, _ = merge(t["hist_out_in"], t["hist_lse_in"], output, t["lse_cur"])
        out = torch.where(store, stored, torch.where(need, output, reused))
        return (out, torch.where(store, stored_lse, t["lse_cur"]),
                torch.where(store, t["out_hist"], t["hist_out_in"]),
                torch.where(store, t["lse_hist"], t["hist_lse_in"]))

    def outputs(self, case):
        t = case.tensors
        need, store, dirty = (t[name].bool().transpose(1, 2) for name in ("need_mask", "store_mask", "dirty_mask"))
        result = dict(zip(("engine.out", "engine.full_lse", "engine.hist_out", "engine.hist_lse"),
                          self.engine(t, t["o_full_or_cur"], store, need)))
        full = t["o_full_or_cur"]
        # update_attn_fused_kernel: a refresh row keeps its full output, whether or not the history is stored.
        reused, _ = merge(t["hist_out_in"], t["hist_lse_in"], full, t["lse_cur"])
        result.update({"fused.out": torch.where(need, full, reused), "fused.hist_out": result["engine.hist_out"],
                       "fused.hist_lse": result["engine.hist_lse"]})
        # fake_sparsity: each refresh is stored; on reuse rows the cached output of dirty tokens becomes zero.
        cleared = torch.where(dirty & ~need, torch.zeros_like(full), t["hist_out_in"])
        reused, _ = merge(cleared, t["hist_lse_in"], full, t["lse_cur"])
        result.update({"fake.out": torch.where(need, full, reused),
                       "fake.hist_out": torch.where(need, t["out_hist"], cleared),
                       "fake.hist_lse": torch.where(need, t["lse_hist"], t["hist_lse_in"])})
        if need.all():
            result.update({"all_update." + name: result["engine." + source] for name, source in
                           (("out", "out"), ("lse", "full_lse"), ("hist_out", "hist_out"), ("hist_lse", "hist_lse"))})
        if "engine_bf16.o_full_or_cur" in t:
            rounded = t["engine_bf16.o_full_or_cur"].to(torch.float32)
            result["engine_bf16.out"] = self.engine(t, rounded, store, need)[0].to(torch.bfloat16)
        return result


class HeadMaskedMerge(Kind):
    kind, folder = "head_masked_merge", "kern"
    layout = {"o": "[B*Lq,H,D]: full output for masked heads, current-only for the others", "out_hist": "[B*Lq,H,D]",
              "hist_out_in": "[B,Lq,H,D]", "lse": "[H,B*Lq]", "lse_hist": "[H,B*Lq]", "hist_lse_in": "[H,B*Lq]",
              "out": "[B*Lq,H,D]", "hist_out": "[B,Lq,H,D]", "hist_lse": "[H,B*Lq]",
              "head_mask": "[H] u8, absent = null pointer = no head masked"}
    styles = ("mixed", "none", "all", "nullmask", "extreme")

    def inputs(self, draw):
        style = draw.style(self.styles)
        b, length = draw.pick("batch", (1, 2)), draw.pick("queries", (12, 20, 48))
        h, d = draw.pick("heads", (3, 4)), draw.pick("head_dim", (32, 64, 128))
        rows = b * length
        t = {"o": draw.normal(rows, h, d), "out_hist": draw.normal(rows, h, d),
             "hist_out_in": draw.normal(b, length, h, d)}
        for name in ("lse", "lse_hist", "hist_lse_in"):
            t[name] = draw.normal(h, rows, scale=60.0 if style == "extreme" else 2.0)
        mask = {"none": torch.zeros(h), "all": torch.ones(h)}.get(style, draw.flags(h)).to(torch.uint8)
        if style != "nullmask":
            t["head_mask"] = mask
        params = {"B": b, "Lq": length, "H": h, "D": d, "head_mask": None if style == "nullmask" else mask.tolist()}
        name = f"varlen_{draw.index:02}"
        return Case(name, self.kind, params, t, f"{name}_{style}_b{b}_l{length}_h{h}_d{d}", style)

    @staticmethod
    def apply(t: Tensors, dtype) -> tuple:
        heads, dim = t["o"].shape[1:]
        o, fresh, cached = (t[name].reshape(-1, heads, dim).to(dtype).to(torch.float32)
                            for name in ("o", "out_hist", "hist_out_in"))
        mask = t.get("head_mask", torch.zeros(heads)).bool().unsqueeze(1)  # [H,1], true: recomputed
        merged, _ = merge(cached, t["hist_lse_in"].T.unsqueeze(-1), o, t["lse"].T.unsqueeze(-1))
        return (torch.where(mask, o, merged).to(dtype),
                torch.where(mask, fresh, cached).to(dtype).reshape(t["hist_out_in"].shape),
                torch.where(mask, t["lse_hist"], t["hist_lse_in"]))

    def outputs(self, case):
        result = dict(zip(("out", "hist_out", "hist_lse"), self.apply(case.tensors, torch.float32)))
        result["bf16.out"], result["bf16.hist_out"], _ = self.apply(case.tensors, torch.bfloat16)
        return result


class CurrentBlock(Kind):
    kind, folder, paper = "current_block", "kern", ("exact_flash_attn_func",)
    layout = {"q": "[B,L,H,D]", "k_new": "[B,L,Hk,D]", "v_new": "[B,L,Hk,D]", "out": "[B,L,H,D]", "lse": "[B,H,L]"}

    def inputs(self, draw):
        (h, hk, d), b, length = draw.heads(), draw.pick("batch", (1, 2)), draw.pick("block_size", (4, 8))
        t = {"q": draw.normal(b, length, h, d), "k_new": draw.normal(b, length, hk, d),
             "v_new": draw.normal(b, length, hk, d)}
        name = f"curblock_{draw.index:02}"
        return Case(name, self.kind, {"B": b, "L": length, "H": h, "Hk": hk, "D": d}, t,
                    f"{name}_b{b}_l{length}_h{h}-{hk}_d{d}")

    def outputs(self, case):
        t = case.tensors
        out, lse = attention32(t["q"], t["k_new"], t["v_new"], t["q"].shape[3] ** -0.5)
        return {"out": out, "lse": lse}


class Rope(Kind):
    kind, folder, paper = "rope_1d", "rope", ("apply_rotary_pos_emb",)
    layout = {"pos": "[1,S]", "inv_freq": "[D/2] f32", "cos": "[1,S,D] halves repeated", "q": "[1,H,S,D]",
              "k": "[1,Hk,S,D]", "cos64": "[S,D/2]"}

    def inputs(self, draw):
        h, hk, d = draw.heads()
        theta = float(draw.choices.choice((1e4, 1e6)))
        positions = sorted(draw.choices.sample(range(4, 131071), 7) + [0, 1, 2, 3, 131071])
        t = {"pos": integers([positions]), "q": draw.normal(1, h, 12, d), "k": draw.normal(1, hk, 12, d)}
        name = f"sdar_rope_{draw.index}"
        return Case(name, self.kind, {"D": d, "theta": theta}, t, f"{name}_d{d}_theta{int(theta)}")

    def outputs(self, case):
        t = case.tensors
        inv_freq = inverse_frequencies(case.params["D"], case.params["theta"])
        cos, sin = rope_tables(t["pos"], inv_freq)
        angle = t["pos"][0].double().unsqueeze(-1) * inv_freq.double()
        q_rot, k_rot = rotate(t["q"], cos, sin), rotate(t["k"], cos, sin)
        return {"inv_freq": inv_freq, "cos": cos, "sin": sin, "cos64": angle.cos(), "sin64": angle.sin(),
                "q_rot": q_rot, "k_rot": k_rot, "q_rot_engine": q_rot, "k_rot_engine": k_rot}


class RmsNorm(Kind):
    kind, folder = "rmsnorm", "rope"
    layout = {"x": "[S,D]", "weight": "[D]"}

    def inputs(self, draw):
        rows, dim = draw.pick("queries", (3, 5, 7)), draw.pick("head_dim", (64, 80, 256, 4096))
        t = {"x": draw.normal(rows, dim, scale=3.0), "residual": draw.normal(rows, dim), "weight": draw.normal(dim)}
        t.update({"bf16." + name: tensor.to(torch.bfloat16) for name, tensor in list(t.items())})
        name = f"rmsnorm_{draw.index}"
        return Case(name, self.kind, {"S": rows, "D": dim}, t, f"{name}_d{dim}")

    def outputs(self, case):
        result = {}
        for prefix, dtype in (("", torch.float32), ("bf16.", torch.bfloat16)):
            x, residual, weight = (case.tensors[prefix + name] for name in ("x", "residual", "weight"))
            total = x.to(torch.float32) + residual.to(torch.float32)
            for eps in (1e-6, 1e-5):
                result[f"{prefix}rms_eps{eps}"] = rms_norm_engine(x, weight, eps, dtype)
                result[f"{prefix}add_rms_eps{eps}"] = rms_norm_engine(total, weight, eps, dtype)
                result[f"{prefix}add_rms_residual_eps{eps}"] = total.to(dtype)
                if not prefix:
                    result[f"rms_hf_eps{eps}"] = rms_norm(x, weight, eps)
        return result


class SdarInputs(Kind):
    kind, folder = "sdar_attention_inputs", "sdar_attn"
    layout = {"hidden.*": "[B,S,hidden]: 'prefill', 'b<block>s<step>', 'b<block>commit' in call order",
              "w.self_attn.*_proj.weight": "[out,in]", "rope.inv_freq": "[head_dim/2] f32"}

    def inputs(self, draw):
        (h, hk, d), b, length = draw.heads(), draw.pick("batch", (1, 2)), draw.pick("block_size", (4, 8))
        prefix, hidden = draw.pick("context", (0, 8, 24)) // length * length, draw.choices.choice((128, 192))
        scripts = [self.script(draw, length) for _ in range(2)]
        others = [self.script(draw, length, len(steps)) for steps in scripts] if b > 1 else None
        params = {"B": b, "L": length, "P": prefix, "hidden": hidden, "num_heads": h, "num_kv_heads": hk, "head_dim": d,
                  "rope_theta": float(draw.choices.choice((1e4, 1e6))), "rms_norm_eps": 1e-6,
                  "attention_bias": draw.choices.random() < 0.5, "scale": d**-0.5, "accepted": scripts,
                  "accepted_other_rows": others}
        t = self.weights(draw, params)
        lengths = {"prefill": prefix} if prefix else {}
        for block, steps in enumerate(scripts):
            lengths.update({f"b{block}s{step}": length for step in range(len(steps))}, **{f"b{block}commit": length})
        t.update({"hidden." + name: draw.normal(b, rows, hidden) for name, rows in lengths.items()})
        name = f"export{draw.index:02}_inputs"
        return Case("sdar_attn_" + name, self.kind, params, t, name)

    @staticmethod
    def script(draw: Draw, length: int, num_steps: int = 0) -> list[list[int]]:
        """Which positions each step of a block accepts: all once. num_steps: of the row that it accompanies."""
        order, steps = draw.choices.sample(range(length), length), []
        while order:
            count = len(order) if num_steps and len(steps) == num_steps - 1 else draw.choices.choice((1, 1, 2))
            steps.append(order[:count])
            order = order[count:]
        return steps + [[]] * (num_steps - len(steps))

    @staticmethod
    def weights(draw: Draw, p: dict) -> Tensors:
        shapes = {"q": (p["num_heads"] * p["head_dim"], p["hidden"]), "k": (p["num_kv_heads"] * p["head_dim"], p["hidden"]),
                  "v": (p["num_kv_heads"] * p["head_dim"], p["hidden"]), "o": (p["hidden"], p["num_heads"] * p["head_dim"])}
        t = {"rope.inv_freq": inverse_frequencies(p["head_dim"], p["rope_theta"])}
        for name, shape in shapes.items():
            t[f"w.self_attn.{name}_proj.weight"] = draw.normal(*shape, scale=shape[1] ** -0.5)
            if p["attention_bias"]:
                t[f"w.self_attn.{name}_proj.bias"] = draw.normal(shape[0], scale=0.1)
        for name in ("q_norm", "k_norm"):
            t[f"w.self_attn.{name}.weight"] = 1 + draw.normal(p["head_dim"], scale=0.2)
        return t

    def outputs(self, case):
        return {"rope.inv_freq": inverse_frequencies(case.params["head_dim"], case.params["rope_theta"])}


class SdarAttention(Kind):
    """The attention layer over scripted blocks: prefill, then per block some denoising steps and a commit. A
    refresh (always the first step) keeps the attention over the history; a reuse merges what is kept."""
    kind, folder, paper = "sdar_attention", "sdar_attn", ("exact_flash_attn_func", "apply_rotary_pos_emb")
    layout = {"calls": "[N,5] i32 columns: kind (0 prefill,1 denoise,2 commit), block, step, need_update_cache "
                       "(-1 n/a), dirty count of batch row 0 before the call", "callNN.out": "[B,S,hidden] (after o_proj)",
              "callNN.pos": "[B,S] i32", "callNN.past_out": "[B,L,heads,head_dim] history attention of a refresh step",
              "callNN.past_lse": "[B,L,heads,1], +inf where there is no history",
              "kv.k": "[B,kv,S,head_dim] roped keys of prefill + committed blocks"}

    def outputs(self, case):
        self.p, self.t = case.params, inputs_of(case)
        self.keys, self.values, self.past, self.calls, self.result = None, None, None, [], {}
        if self.p["P"]:
            self.call(0, -1, -1, -1, "prefill", store=True)
        for block, steps in enumerate(self.p["accepted"]):
            dirty = 0
            for step, accepted in enumerate(steps):
                dirty = 0 if step == 0 else dirty
                refresh = step == 0 or dirty >= self.p["tau"]
                self.call(1, block, step, dirty, f"b{block}s{step}", refresh=refresh)
                dirty = (0 if refresh else dirty) + len(accepted)
            self.call(2, block, len(steps), dirty, f"b{block}commit", store=True)
        self.result.update({"calls": integers(self.calls), "kv.k": self.keys.transpose(1, 2),
                            "kv.v": self.values.transpose(1, 2)})
        return self.result

    def project(self, name: str, x):
        prefix = f"w.self_attn.{name}_proj."
        return torch.nn.functional.linear(x, self.t[prefix + "weight"], self.t.get(prefix + "bias"))

    def heads(self, name: str, hidden, rope):
        x = self.project(name, hidden).unflatten(-1, (-1, self.p["head_dim"]))  # [B,S,heads,head_dim]
        if name == "v":
            return x
        x = rms_norm(x, self.t[f"w.self_attn.{name}_norm.weight"], self.p["rms_norm_eps"])
        return rotate(x.transpose(1, 2), *rope).transpose(1, 2)

    def call(self, kind, block, step, dirty, name, refresh=True, store=False):
        hidden = self.t["hidden." + name]
        start = 0 if self.keys is None else self.keys.shape[1]
        position = torch.arange(start, start + hidden.shape[1]).expand(hidden.shape[0], -1)
        rope = rope_tables(position, self.t["rope.inv_freq"])
        q, k, v = (self.heads(which, hidden, rope) for which in "qkv")
        out = self.attend(kind, q, k, v, refresh, store)
        prefix = f"call{len(self.calls):02}."
        self.result[prefix + "out"] = self.project("o", out.flatten(2))
        self.result[prefix + "pos"] = position.to(torch.int32)
        if kind == 1 and refresh and self.p["tau"] > 0:
            self.result[prefix + "past_out"], self.result[prefix + "past_lse"] = self.past
        self.calls.append([kind, block, step, int(refresh) if kind == 1 else -1, dirty])

    def attend(self, kind, q, k, v, refresh, store):
        scale = self.p["scale"]
        keys = k if self.keys is None else torch.cat([self.keys, k], dim=1)
        values = v if self.values is None else torch.cat([self.values, v], dim=1)
        if not refresh:
            out, lse = attention32(q, k, v, scale)
            return merge_double(*self.past, out, by_lse(lse))
        if kind == 1:
            self.past = self.history(q, scale)
        if store:
            self.keys, self.values = keys, values
        if kind == 0:  # each block of the prompt sees itself and the blocks before it
            block = torch.arange(q.shape[1]) // self.p["L"]
            return attention(q, k, v, scale, mask=block.unsqueeze(1) >= block)[0]
        return attention32(q, keys, values, scale)[0]

    def history(self, q, scale):
        """The class's convention for an empty history is that of flash-attn: lse = +inf."""
        if self.keys is None:
            return torch.zeros_like(q), torch.full((*q.shape[:3], 1), INF)
        out, lse = attention32(q, self.keys, self.values, scale)
        return out, by_lse(lse)

    def notes(self, case):
        calls = case.tensors["calls"]
        outs = [tensor for name, tensor in case.tensors.items() if name.endswith(".out")]
        return {"n_reuse_steps": int((calls[:, 3] == 0).sum()), "has_nan": any(bool(x.isnan().any()) for x in outs),
                "max_abs_out": max(map(largest, outs)),
                "notes": "a reuse without any history gives NaN: lse_past = +inf"}


def inputs_of(case: Case) -> Tensors:
    """The tensors of the file that `inputs_file` names, beside the case's own."""
    name = case.metadata.get("inputs_file", "")
    if not name or pathlib.Path(name).name != name:
        raise Failure(f"{case.name}: inputs_file is '{name}', not a file name")
    return read_safetensors(case.folder / name)[1]


class SelectTransfer(Kind):
    kind, folder = "select_transfer", "select"
    paper = ("get_num_transfer_tokens", "sample_and_select_transfer_tokens")
    layout = {"logits": "[N,B,L,V]", "mask": "[N,B,L] u8 1=masked", "x0": "[N,B,L]",
              "p": "[N,B,L] softmax prob of argmax", "budget": "[steps]", "step": "[N] index into budget",
              "transfer": "[N,B,L] u8 raw transfer_index (sequential may mark unmasked positions)"}
    styles = ("low_confidence_dynamic", "low_confidence_static", "sequential")

    def inputs(self, draw):
        strategy, length = draw.style(self.styles), draw.pick("block_size", (4, 8))
        steps, b = draw.pick("steps", (2, 3, 4, 8, 16)), draw.pick("batch", (3,))
        vocabulary, threshold, n = length * 4 + 8, draw.choices.choice((0.3, 0.5, 0.85)), min(steps, 4)
        mask = draw.flags(n, b, length)
        mask[..., 0] |= mask.sum(dim=-1) == 0  # each row has something to choose
        t = {"logits": draw.normal(n, b, length, vocabulary, scale=3.5), "mask": mask, "step": integers(range(n))}
        params = {"L": length, "V": vocabulary, "steps": steps, "remasking": strategy, "threshold": threshold, "B": b}
        name = f"select_{draw.index:02}"
        return Case(name, self.kind, params, t, f"{name}_{strategy}_l{length}_s{steps}_thr{threshold}")

    def outputs(self, case):
        t, p = case.tensors, case.params
        budget = budgets(p["L"], p["steps"])
        rows = [self.select(p, logits, mask.bool(), budget, step)
                for logits, mask, step in zip(t["logits"], t["mask"], t["step"].tolist())]
        x0, confidence, transfer = (torch.stack(column) for column in zip(*rows))
        return {"budget": integers(budget), "x0": x0.to(torch.int32), "p": confidence, "transfer": transfer.to(torch.uint8)}

    @staticmethod
    def select(p: dict, logits, mask, budget: list[int], step: int):
        strategy, threshold = p["remasking"], p["threshold"]
        if "sample_and_select_transfer_tokens" in PAPER:
            return PAPER["sample_and_select_transfer_tokens"](
                logits, 1.0, 0, 1.0, logits.argmax(dim=-1), mask, torch.tensor(budget), step,
                remasking_strategy=strategy, confidence_threshold=threshold)
        confidence, x0 = logits.softmax(dim=-1).max(dim=-1)
        transfer = torch.zeros_like(mask)
        for row in range(len(mask)):
            transfer[row, select_transfer(strategy, confidence[row], mask[row], budget[step], threshold)] = True
        return x0, confidence, transfer


class SamplerFilters(Kind):
    kind, folder, paper = "sampler_filters", "select", ("top_k_logits", "top_p_logits")
    layout = {"logits": "[6,50]", "topkK": "probabilities", "toppP": "probabilities"}

    def inputs(self, draw):
        name = f"sampler_filters_{draw.index:02}"
        return Case(name, self.kind, {}, {"logits": draw.normal(6, 50, scale=3.0)}, name)

    def outputs(self, case):
        logits = case.tensors["logits"]
        result = {f"topk{k}": top_k_filter(logits.clone(), k).softmax(dim=-1) for k in (1, 3, 10)}
        result.update({f"topp{p}": top_p_filter(logits.clone(), p).softmax(dim=-1) for p in (0.1, 0.5, 0.9, 0.99)})
        return result


class SchedulerTrace(Kind):
    kind, folder, paper = "scheduler_trace", "sched", ("get_num_transfer_tokens", "top_k_logits", "top_p_logits")
    layout = {"trace.*": "[T,Bmax] or [T,Bmax,L] i32 (-1 = padding); T = denoise engine steps in order; row = slot in "
                         "the batch of that step", "trace.seq": "0-based prompt index",
              "trace.status": "2 DENOISING, 3 SAVING (commit forward), 4 FINISHED",
              "trace.step": "current_denoising_step before the step",
              "trace.ctx_true": "committed tokens before this block (= position of the block's first token)",
              "trace.ctx_kernel": "context length given to the attention kernel (0 on a reuse step)",
              "trace.update/reuse/store": "history recomputed / cached history reused / recomputed history written",
              "trace.dirty,dmask": "dirty_token_count and bitmask before; *_after: after postprocess",
              "trace.before/after": "block tokens",
              "trace.x0,conf": "sampled token and its probability at each block position (inputs)",
              "trace.acc": "1 where the position was transferred in this step", "trace.ntr": "num_to_transfer",
              "trace.ntok_after": "committed tokens after", "logits": "[T,Bmax*L,V] f32, row = slot*L+pos",
              "probs": "[T,Bmax*L,V] probabilities after temperature/top-k/top-p",
              "budget": "[denoising_steps] tokens per step"}
    styles = ("low_confidence_dynamic", "dynamic_gpu", "low_confidence_static", "sequential", "entropy_bounded",
              "dynamic_mask_sampled")

    def inputs(self, draw):
        style, length = draw.style(self.styles), draw.pick("block_size", (4, 8))
        remasking = "low_confidence_dynamic" if style.startswith("dynamic") else style
        tensor_path = style in ("dynamic_gpu", "entropy_bounded")
        prompts = [draw.choices.choices(range(22), k=draw.choices.randint(1, 24)) for _ in range(draw.choices.randint(1, 5))]
        p = {"tau": draw.pick("tau", (0, 1, 2, 3, 5, 999)), "block_length": length,
             "denoising_steps": draw.pick("steps", (2, 3, 4, 8)), "remasking": remasking,
             "dynamic_threshold": draw.choices.choice((0.5, 0.6, 0.8)), "eb_threshold": 0.6,
             "temperature": draw.choices.choice((1.0, 0.8)), "top_k": draw.choices.choice((0, 5)),
             "top_p": draw.choices.choice((1.0, 0.9)), "max_tokens": draw.choices.randint(5, 40), "ignore_eos": False,
             "mask_id": 23, "eos_id": draw.choices.choice((-7, 22)), "stop_words": [],
             "max_active": draw.pick("batch", (1, 2, 3)), "n_prompts": len(prompts),
             "env": {"TRADO_GPU_POST_SCHED_OPS": "1"} if tensor_path else {}, "consistent_sampling_params": True}
        t = {f"prompt.{index}": integers(prompt) for index, prompt in enumerate(prompts)}
        blocks = len(prompts) * (p["max_tokens"] // length + 3)
        self.propose(draw, p, t, blocks * (p["denoising_steps"] + 1), masks=style == "dynamic_mask_sampled")
        short = "dyn" if remasking == "low_confidence_dynamic" else remasking.split("_")[-1]
        name = f"{short}_l{length}_export{draw.index:02}_tau{p['tau']}"
        return Case("sched_" + name, self.kind, p, t, name, style)

    @staticmethod
    def propose(draw: Draw, p: dict, t: Tensors, steps: int, masks: bool) -> None:
        """Logits and sampled tokens, of as many steps and rows as the engine then uses; the rest is padding."""
        rows, size = p["max_active"], p["block_length"]
        logits = draw.normal(steps, rows, size, 24, scale=2.5)
        logits[..., p["mask_id"]] += 3.0 if masks else -100.0
        probs = probabilities(logits, p["temperature"], p["top_k"], p["top_p"])
        x0 = torch.multinomial(probs.flatten(0, 2), 1, generator=draw.generator).reshape(steps, rows, size)
        prompts = [t[f"prompt.{index}"].tolist() for index in range(p["n_prompts"])]
        batch = [len(row) for row in run_engine(p, prompts, x0, probs)[0]]
        logits, x0 = logits[: len(batch)], x0[: len(batch)].to(torch.int32)
        for step, used in enumerate(batch):
            logits[step, used:], x0[step, used:] = 0.0, -1
        t["logits"], t["trace.x0"] = logits.flatten(1, 2), x0

    def outputs(self, case):
        p, t = case.params, case.tensors
        x0 = t["trace.x0"]
        steps, rows, size = x0.shape
        probs = probabilities(t["logits"].unflatten(1, (rows, size)), p["temperature"], p["top_k"], p["top_p"])
        probs = probs * (x0 >= 0).unsqueeze(-1)
        prompts = [t[f"prompt.{index}"].tolist() for index in range(p["n_prompts"])]
        table, result, history = run_engine(p, prompts, x0, probs)
        case.history = history
        if len(table) != steps:
            raise Failure(f"{case.name}: the trace has {steps} steps, the sequences need {len(table)}")
        for name in TRACE_ROWS:
            result["trace." + name] = integers([[row[name] for row in step] + [-1] * (rows - len(step)) for step in table])
        for name in TRACE_BLOCKS:
            padding = [[-1] * size]
            result["trace." + name] = integers([[row[name] for row in step] + padding * (rows - len(step)) for step in table])
        conf = torch.full((steps, rows, size), -1.0)
        for t_step, step in enumerate(table):
            for b, row in enumerate(step):
                conf[t_step, b] = row["conf"]
        result.update({"trace.conf": conf, "trace.batch": integers([len(step) for step in table]),
                       "probs": probs.flatten(1, 2), "budget": integers(budgets(size, p["denoising_steps"]))})
        return result

    def notes(self, case):
        return {"history_slot_reads": case.history[0], "history_slot_mismatches": case.history[1],
                "history_tag": "each stored history is tagged with its sequence and block start; a mismatch = a reuse "
                               "step read a stale or foreign history slot"}

    def tolerance(self, case, name, expected):
        return 1e-6 if expected.is_floating_point() else 0.0


KINDS: dict[str, Kind] = {kind.kind: kind for kind in (
    Attention(), SplitMerge(), FusedMerge(), HeadMaskedMerge(), CurrentBlock(), Rope(), RmsNorm(), SdarInputs(),
    SdarAttention(), SelectTransfer(), SamplerFilters(), SchedulerTrace())}

# ---------------------------------------------------------------------------------- export, check, errors


def metadata_of(kind: Kind, case: Case, seed: int) -> dict[str, str]:
    values = {"case": case.name, "kind": case.kind, "set": "export", "seed": seed,
              "produced_by": paper_note(kind.paper), "params": case.params, "layout": kind.layout,
              **({"style": case.style} if case.style else {}), **case.metadata, **kind.notes(case)}
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}


def finish(kind: Kind, case: Case, seed: int, folder: pathlib.Path) -> pathlib.Path:
    """Adds the results and writes the file."""
    case.folder = folder / kind.folder
    case.tensors.update(kind.outputs(case))
    path = case.folder / f"{case.file}.safetensors"
    write_safetensors(path, metadata_of(kind, case, seed), case.tensors)
    print(f"{case.kind:22} {path}")
    return path


def export_sdar(draw: Draw, folder: pathlib.Path) -> None:
    """One file of inputs, and one of results for each tau; no history means that nothing can be reused."""
    inputs = KINDS["sdar_attention_inputs"].inputs(draw)
    finish(KINDS["sdar_attention_inputs"], inputs, draw.seed, folder)
    taus = (0, 1, 2, 3) if draw.options.tau is None else (draw.options.tau,)
    for tau in taus:
        if inputs.params["P"] == 0 and tau > 1:
            continue
        name = inputs.file.replace("_inputs", f"_tau{tau}")
        case = Case("sdar_attn_" + name, "sdar_attention", {**inputs.params, "tau": tau}, {}, name,
                    metadata={"inputs_file": inputs.file + ".safetensors"})
        finish(KINDS["sdar_attention"], case, draw.seed, folder)


def export(options: argparse.Namespace) -> int:
    kinds = options.kind or [name for name in KINDS if name != "sdar_attention_inputs"]
    for name in kinds:
        for index in range(options.cases):
            draw = Draw(options, index)
            if name.startswith("sdar_attention"):
                export_sdar(draw, options.out)
            else:
                finish(KINDS[name], KINDS[name].inputs(draw), draw.seed, options.out)
    return 0


def load_case(path: pathlib.Path) -> Case:
    metadata, tensors = read_safetensors(path)
    try:
        params = json.loads(metadata.get("params", "{}"))
    except ValueError as error:
        raise Failure(f"{path}: params: {error}") from error
    return Case(metadata.get("case", path.stem), metadata.get("kind", ""), params, tensors, path.stem,
                metadata.get("style", ""), path.parent, metadata)


def check_case(kind: Kind, case: Case) -> bool:
    """Compares every result that the file holds; prints the one that uses most of its tolerance."""
    try:
        results = kind.outputs(case)
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
        raise Failure(f"{case.folder / case.file}: {type(error).__name__}: {str(error).splitlines()[0]}") from error
    rows = []
    for name in results.keys() & case.tensors.keys():
        tolerance = kind.tolerance(case, name, case.tensors[name])
        distance = difference(results[name], case.tensors[name])
        rows.append((distance / tolerance if tolerance else distance and INF, distance, tolerance, name))
    if not rows:
        raise Failure(f"{case.folder / case.file}: no result of kind {case.kind} in this file")
    _, distance, tolerance, name = max(rows)
    good = all(used <= 1 for used, *_ in rows)
    print(f"{case.kind:22} {case.name:32} {len(rows):3} tensors, {name:20} off by {distance:9.3g}, "
          f"tolerance {tolerance:9.3g}  {'ok' if good else 'DIFFERS'}")
    return good


def check(options: argparse.Namespace) -> int:
    folder = pathlib.Path(options.check)
    paths = sorted(folder.rglob("*.safetensors")) if folder.is_dir() else [folder]
    counts = {"ok": 0, "different": 0, "skipped": 0}
    for path in paths:
        case = load_case(path)
        if options.kind and case.kind not in options.kind:
            continue
        if case.kind in KINDS:
            counts["ok" if check_case(KINDS[case.kind], case) else "different"] += 1
        else:
            counts["skipped"] += 1
            print(f"{case.kind or '(no kind)':22} {case.name:32} skipped: not a kind of this program")
    print(", ".join(f"{count} {what}" for what, count in counts.items()))
    if not counts["ok"] + counts["different"]:
        raise Failure(f"{folder}: no case to check")
    return 1 if counts["different"] else 0


PRESETS = (  # name, query heads, key-value heads, head dim, queries, keys
    ("trado-8b", 32, 8, 128, 4, 1024), ("trado-8b", 32, 8, 128, 4, 4096), ("trado-8b", 32, 8, 128, 4, 16384),
    ("trado-8b", 32, 8, 128, 4, 32768), ("trado-8b", 32, 8, 128, 32, 4096), ("longlive-1.3b", 12, 12, 128, 256, 4680),
    ("tiny", 4, 2, 64, 32, 2048))


def ulp_errors(got, truth) -> tuple[float, float, float]:
    """Max and mean error in float32 ulps at the true value, and max absolute error."""
    truth = truth.double().numpy()
    error = np.abs(got.double().numpy() - truth)
    ulps = error / np.spacing(np.abs(truth).astype(np.float32)).astype(np.float64)
    return ulps.max(), ulps.mean(), error.max()


def errors(options: argparse.Namespace) -> int:
    kind = KINDS["attention"]
    print(f"PyTorch {torch.__version__}, float32 attention against float64; ulps at the true value")
    print(f"{'shape':44} {'out: max ulp':>12} {'mean ulp':>9} {'max abs':>9} {'lse: max ulp':>13} {'mean ulp':>9} {'max abs':>9}")
    for index, (preset, h, hk, d, queries, keys) in enumerate(PRESETS):
        if options.context is not None and keys > options.context:
            continue
        draw = Draw(options, index)
        tensors = {"q": draw.normal(1, queries, h, d), "k": draw.normal(1, keys, hk, d), "v": draw.normal(1, keys, hk, d)}
        params = {"B": 1, "Sq": queries, "Sk": keys, "H": h, "Hk": hk, "D": d, "softmax_scale": d**-0.5, "causal": False,
                  "head_map": "kv head of q head h is h // (H/Hk)", "preset": preset}
        case = Case(f"errors_{index:02}", "attention", params, tensors,
                    f"errors_{index:02}_{preset}_q{queries}_k{keys}_h{h}-{hk}_d{d}", "normal")
        case.tensors.update(kind.outputs(case))
        shape = f"{preset}: {h}/{hk} heads, D {d}, {queries} queries, {keys} keys"
        out, lse = (ulp_errors(tensors[name], tensors[name + "64"]) for name in ("out", "lse"))
        print(f"{shape:56} {out[0]:9.0f} {out[1]:9.3f} {out[2]:9.2e} {lse[0]:9.2f} {lse[1]:9.3f} {lse[2]:9.2e}", flush=True)
        if options.out:
            write_safetensors(options.out / kind.folder / f"{case.file}.safetensors", metadata_of(kind, case, draw.seed),
                              tensors)
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="export.py", description=__doc__.splitlines()[0],
                                     epilog="Shapes that are not given are drawn at random, from the seed.")
    parser.add_argument("--out", metavar="DIR", type=pathlib.Path, help="write cases below DIR")
    parser.add_argument("--check", metavar="DIR", nargs="?", const=str(HERE / "paper"),
                        help="recompute the cases below DIR (or of one file) and compare; default: golden/paper")
    parser.add_argument("--errors", action="store_true", help="table of PyTorch's float32 attention errors")
    parser.add_argument("--paper-repo", metavar="DIR", type=pathlib.Path,
                        help="call the functions of this clone of the paper's repository where they can be imported")
    parser.add_argument("--kind", metavar="K", action="append", choices=KINDS, help=f"one of: {', '.join(KINDS)}")
    parser.add_argument("--cases", metavar="N", type=int, default=4, help="cases of each kind (default 4)")
    parser.add_argument("--seed", metavar="S", type=int, default=1, help="of the first case; the next has S+1 (default 1)")
    parser.add_argument("--style", help="one style instead of all in turn: the kind's values, scales or strategy")
    for name, text in (("heads", "query heads"), ("kv-heads", "key-value heads"), ("head-dim", "values of a head"),
                       ("context", "keys; with --errors: at most"), ("queries", "query rows"), ("block-size", "tokens of a block"),
                       ("batch", "sequences"), ("steps", "denoising steps of a block"), ("tau", "dirty tokens that refresh")):
        parser.add_argument("--" + name, metavar="N", type=int, help=text)
    options = parser.parse_args(arguments)
    if (options.check is not None) + options.errors + (options.out is not None and not options.errors) != 1:
        parser.error("one of --out DIR, --check [DIR], --errors [--out DIR] is needed")
    for name in ("heads", "kv_heads", "head_dim", "queries", "block_size", "batch", "steps", "cases"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} {getattr(options, name)}: must be at least 1")
    return options


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    torch.set_num_threads(1)  # the same sums in the same order, whatever the machine
    try:
        if options.paper_repo:
            load_paper(options.paper_repo)
        if options.check is not None:
            return check(options)
        return errors(options) if options.errors else export(options)
    except (Failure, OSError) as error:
        print(f"export.py: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
