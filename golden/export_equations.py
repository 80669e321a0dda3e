"""FlashBlock in PyTorch, written from the paper (arXiv 2602.05305) and from what its released code does:
attention with log-sum-exp, merge, positions and norms, selection rules, the engine's scheduler.

With load_paper() the functions that a clone of the paper's repository has take the place of some of these.
"""
import importlib
import pathlib
import sys

import numpy as np
import torch

from export_cases import Failure, Tensors, first_line

INF = float("inf")
PRODUCED_BY = "golden/export.py (PyTorch transcription of the paper's equations; not the paper's code)"

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
            reasons[f"{module}.{name}"] = first_line(error)
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


def inverse_frequencies(head_dim: int, theta: float, dtype=torch.float32):
    return 1.0 / (theta ** (torch.arange(0, head_dim, 2, dtype=dtype) / head_dim))


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
    if k <= 0 or k >= logits.shape[-1]:
        return logits
    if "top_k_logits" in PAPER:
        return PAPER["top_k_logits"](logits, k)
    return logits.masked_fill(logits < logits.topk(k, dim=-1).values[..., -1:], -INF)


def top_p_filter(logits, p: float):
    """Keeps the most probable tokens up to and including the one that takes the sum past p."""
    if p >= 1.0:
        return logits
    if "top_p_logits" in PAPER:
        return PAPER["top_p_logits"](logits, p)
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

    def denoise(self, row: dict, x0: list[int], conf, probs) -> None:
        p, mask = self.p, self.p["mask_id"]
        masked = torch.tensor([token == mask for token in self.block])
        chosen = engine_transfer(p, conf, probs, masked, self.budget())
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


def confidence(probs, tokens):
    """probs [L,V], tokens [L]: the probability of each token; -1 where none was sampled."""
    chosen = probs.gather(-1, tokens.long().clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return torch.where(tokens >= 0, chosen, torch.full_like(chosen, -1.0))


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
            row["conf"] = confidence(probs[t, b], x0[t, b])
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
