"""The kinds of cases. Each is a class with two functions: inputs() draws a case at random, outputs() recomputes its
results from its inputs. Making a case is both; checking one is outputs() and a comparison.
"""
import argparse
import random
from dataclasses import dataclass

import numpy as np
import torch

from export_cases import Case, Failure, Tensors, difference, inputs_of, largest
from export_equations import (
    INF, PAPER, TRACE_BLOCKS, TRACE_ROWS, attention, attention32, budgets, by_lse, integers, inverse_frequencies,
    merge, merge_double, probabilities, rms_norm, rms_norm_engine, rope_tables, rotate, run_engine,
    select_transfer, split_attention, top_k_filter, top_p_filter)


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
        given = self.options.heads
        num_kv_heads = self.pick("kv_heads", [n for n in (1, 2, 4) if given is None or given % n == 0])
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
        case.errors = {"out": difference(out, out64), "lse": difference(lse, lse64)}
        return {"out": out, "lse": lse, "out64": out64, "lse64": lse64}

    def notes(self, case):
        out_error, lse_error = case.errors["out"], case.errors["lse"]
        return {"max_abs_v": largest(case.tensors["v"]), "f32_vs_f64_max_abs_out": out_error,
                "f32_vs_f64_max_abs_lse": lse_error,
                "f32_vs_f64_max_rel_lse": lse_error / max(largest(case.tensors["lse64"]), 1e-30)}

    def tolerance(self, case, name, expected):
        """As for other float32 results; where scores are large, the two may differ by what each is from the truth,
        as measured here and as the metadata states it, and an ulp."""
        if expected.dtype == torch.float64:
            return 1e-12 * max(1.0, largest(case.tensors["v"])) * max(1.0, largest(case.tensors["lse64"]))
        stated = float(case.metadata.get(f"f32_vs_f64_max_abs_{name}", case.errors[name]))
        return max(5e-6, case.errors[name] + stated + float(np.spacing(np.float32(largest(expected)))))


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
        exact = inverse_frequencies(case.params["D"], case.params["theta"], torch.float64)
        angle = t["pos"][0].double().unsqueeze(-1) * exact
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
        hidden, wide, narrow = (p["hidden"], p["num_heads"] * p["head_dim"], p["num_kv_heads"] * p["head_dim"])
        shapes = {"q": (wide, hidden), "k": (narrow, hidden), "v": (narrow, hidden), "o": (hidden, wide)}
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
                       "(-1 n/a), dirty count of batch row 0 before the call",
              "callNN.out": "[B,S,hidden] (after o_proj)",
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
        return {"budget": integers(budget), "x0": x0.to(torch.int32), "p": confidence,
                "transfer": transfer.to(torch.uint8)}

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
        prompts = [draw.choices.choices(range(22), k=draw.choices.randint(1, 24))
                   for _ in range(draw.choices.randint(1, 5))]
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
        for name in TRACE_ROWS + TRACE_BLOCKS:
            padding = -1 if name in TRACE_ROWS else [-1] * size
            columns = [[row[name] for row in step] + [padding] * (rows - len(step)) for step in table]
            result["trace." + name] = integers(columns)
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
