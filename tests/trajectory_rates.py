#!/usr/bin/env python3
"""trajectory_rates.py PROGRAM MODEL [RECORDS [SEED]]: how often `verify --trajectory` calls a right port wrong. A port in
NumPy decodes with drawn options, and rounds as honest ports of each precision do, each at its own places. Prints a line for
each record that does not pass, and a table. Needs NumPy; ./check does not run it."""
import collections
import json
import os
import pathlib
import random
import struct
import subprocess
import sys
import tempfile

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
import numpy as np  # noqa: E402

PRECISIONS = ("bf16", "f16", "bf16", "f32", "tf32", "f16", "bf16", "fp8", "tf32x3")
# Where a port rounds. operations: each result once. modules: as PyTorch's modules do, also within norms and rotations.
# eager: scores and weights of attention are stored, too. fused: weights are rounded, sums are not; kept parts are.
STYLES = ("operations", "modules", "eager", "fused")


def to_bits(x, bits):
    """To `bits` significant bits, ties to even."""
    mantissa, exponent = np.frexp(np.asarray(x, np.float32))
    with np.errstate(invalid="ignore"):
        return np.ldexp(np.rint(np.ldexp(mantissa, bits)), exponent - bits).astype(np.float32)


def load(path):
    data = pathlib.Path(path).read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    for name, entry in json.loads(data[8 : 8 + size]).items():
        if name != "__metadata__":
            bits, shift = (np.uint16, 16) if entry["dtype"] == "BF16" else (np.uint32, 0)
            words = np.frombuffer(data[8 + size :][slice(*entry["data_offsets"])], bits).astype(np.uint32)
            yield name, (words << shift).view(np.float32).reshape(entry["shape"])


class Port:
    def __init__(self, config, weights, precision, style, splits, head_in_f32):
        self.c, self.w, self.style, self.splits, self.head_in_f32 = config, weights, style, splits, head_in_f32
        results = {"bf16": 8, "fp8": 8, "f16": 11}.get(precision)
        inputs = {"tf32": 11}.get(precision)
        self.round = (lambda x: to_bits(x, results)) if results else (lambda x: np.asarray(x, np.float32))
        self.input = (lambda x: to_bits(x, inputs)) if inputs else (lambda x: x)
        self.weight = (lambda x: to_bits(x, 4)) if precision == "fp8" else self.round
        self.group = config["num_attention_heads"] // config["num_key_value_heads"]
        self.layers, self.dim = config["num_hidden_layers"], config["head_dim"]
        self.frequencies = (config["rope_theta"] ** (-np.arange(0, self.dim, 2) / self.dim)).astype(np.float32)
        self.cache, self.kept = [None] * self.layers, [None] * self.layers

    def product(self, x, w):
        """x w^T, its sum in pieces."""
        x, w = self.input(x), self.input(w)
        edges = np.linspace(0, x.shape[-1], self.splits + 1).astype(int)
        return sum(x[..., a:b] @ w[:, a:b].T for a, b in zip(edges, edges[1:]))

    def norm(self, x, w):
        y = x / np.sqrt(np.mean(x * x, -1, keepdims=True) + np.float32(self.c["rms_norm_eps"]))
        return self.round((y if self.style == "operations" else self.round(y)) * w)

    def rotate(self, x, positions):
        angle = positions[:, None].astype(np.float32) * self.frequencies
        cos, sin, r = np.cos(angle)[:, None], np.sin(angle)[:, None], lambda x: x
        if self.style in ("modules", "eager"):
            cos, sin, r = self.round(cos), self.round(sin), self.round
        a, b = np.split(x, 2, -1)
        return self.round(np.concatenate([r(a * cos) - r(b * sin), r(b * cos) + r(a * sin)], -1))

    def attend(self, q, k, v, sees=None):
        r = self.round if self.style == "eager" else lambda x: x
        s = np.einsum("thd,shd->ths", self.input(q), self.input(np.repeat(k, self.group, 1)))
        s = r(r(s) * np.float32(self.dim**-0.5))
        if sees is not None:
            s = np.where(sees[:, None], s, -np.inf)
        m = s.max(-1, keepdims=True)
        p = np.exp(s - m)
        total = p.sum(-1, keepdims=True)
        lse, v = (m + np.log(total))[..., 0], self.input(np.repeat(v, self.group, 1))
        if self.style == "fused":
            return self.round(np.einsum("ths,shd->thd", self.weight(p), v) / total), lse
        return r(np.einsum("ths,shd->thd", self.weight(self.input(p / total)), v)), lse

    def forward(self, ids, action="refresh", blocks=None):
        start, w = 0 if self.cache[0] is None else len(self.cache[0][0]), self.w
        positions, self.new = np.arange(start, start + len(ids)), []
        sees = None if blocks is None else blocks[:, None] >= blocks
        x = self.round(w["model.embed_tokens.weight"][np.asarray(ids)])
        hidden = [x]
        for i in range(self.layers):
            at, mlp = f"model.layers.{i}.self_attn.", f"model.layers.{i}.mlp."
            n = self.norm(x, w[f"model.layers.{i}.input_layernorm.weight"])
            q, k, v = (self.round(self.product(n, w[f"{at}{p}_proj.weight"])).reshape(len(ids), -1, self.dim) for p in "qkv")
            q = self.rotate(self.norm(q, w[at + "q_norm.weight"]), positions)
            k = self.rotate(self.norm(k, w[at + "k_norm.weight"]), positions)
            self.new.append((k, v))
            out, lse = self.attend(q, k, v, sees)
            if start and action == "refresh":
                self.kept[i] = self.attend(q, *self.cache[i])
            if start:
                m = np.maximum(self.kept[i][1], lse)
                a, b = np.exp(self.kept[i][1] - m)[..., None], np.exp(lse - m)[..., None]
                out = (a * self.kept[i][0] + b * out) / (a + b)
            out = self.round(out).reshape(len(ids), -1)
            x = self.round(x + self.round(self.product(out, w[at + "o_proj.weight"])))
            n = self.norm(x, w[f"model.layers.{i}.post_attention_layernorm.weight"])
            gate, up = (self.round(self.product(n, w[f"{mlp}{p}_proj.weight"])) for p in ("gate", "up"))
            y = self.round(self.round(gate / (1 + np.exp(-gate))) * up)
            x = self.round(x + self.round(self.product(y, w[mlp + "down_proj.weight"])))
            hidden.append(x)
        hidden[-1] = self.norm(x, w["model.norm.weight"])
        logits = self.product(hidden[-1], w.get("lm_head.weight", w["model.embed_tokens.weight"]))
        return logits if self.head_in_f32 else self.round(logits), np.stack(hidden)

    def commit(self):
        old = [layer or new for layer, new in zip(self.cache, self.new)]
        joined = [tuple(np.concatenate(pair) for pair in zip(a, b)) for a, b in zip(old, self.new)]
        self.cache = self.new if self.cache[0] is None else joined


def probabilities(logits, options, exactly_k):
    z = logits.astype(np.float32) / np.float32(options["temperature"] or 1)
    z[:, options["mask_token"]] = -np.inf
    k = options.get("top_k", 0)
    if k and exactly_k:
        for row in z:
            row[np.argsort(-row, kind="stable")[k:]] = -np.inf
    elif k:
        z[z < np.sort(z, -1)[:, -k][:, None]] = -np.inf
    p = np.exp(z - z.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    if options.get("top_p", 1) < 1:
        for row in p:
            order = np.argsort(-row, kind="stable")
            row[order[1:][np.cumsum(row[order])[:-1] > options["top_p"]]] = 0
        p /= p.sum(-1, keepdims=True)
    return p


def choose(numbers, entropy, masked, step, options):
    budget = options["block_size"] // options["denoising_steps"] + (step < options["block_size"] % options["denoising_steps"])
    if options["remasking"] == "sequential":
        return masked[:budget]
    if options["remasking"] == "entropy_bounded":
        order = sorted(masked, key=lambda i: (entropy[i], i))
        within = int((np.cumsum(entropy[order]) < options["entropy_bound"]).sum())
        return sorted(order[: max(within, budget, 1)])
    above = [i for i in masked if numbers[i] > options["confidence_threshold"]]
    if options["remasking"] == "low_confidence_dynamic" and len(above) >= budget:
        return above
    return sorted(sorted(masked, key=lambda i: (-numbers[i], i))[:budget])


def decode(port, prompt, options, header, tensors, draw):
    """The lines of the record. `tensors` is filled, if it is not None."""
    size, mask, numbers = options["block_size"], options["mask_token"], np.random.default_rng(draw.randrange(1 << 30))
    exactly_k, gumbel = draw.random() < 0.5, tensors is not None and draw.random() < 0.5
    lines, whole = [{"trajectory": 1, "prompt": prompt, "options": options, **header}], len(prompt) - len(prompt) % size
    if whole:
        port.forward(prompt[:whole], blocks=np.arange(whole) // size)
        port.commit()
    left, written, block = prompt[whole:], 0, 0
    while written < options["max_tokens"]:
        ids, masked, dirty, step = np.array(left + [mask] * (size - len(left))), list(range(len(left), size)), 0, 0
        written += len(masked)
        while masked:
            action = "reuse" if step and dirty < options["tau"] else "refresh"
            logits, hidden = port.forward(ids, action)
            p = probabilities(logits, options, exactly_k)
            line = {"block": block, "step": step, "action": action, "before": ids.tolist()}
            states = {"hidden": hidden, "logits": logits}
            if not options["temperature"]:
                tokens = p.argmax(-1)
            elif gumbel:
                states["gumbel"] = -np.log(-np.log(numbers.uniform(1e-9, 1, p.shape))).astype(np.float32)
                with np.errstate(divide="ignore"):
                    tokens = (np.log(p) + states["gumbel"]).argmax(-1)
            else:
                u = numbers.uniform(0, 1, size)
                tokens = np.minimum([np.searchsorted(np.cumsum(row), x, "right") for row, x in zip(p, u)], p.shape[1] - 1)
                line["uniform"] = u.tolist()
            confidence = p[np.arange(size), tokens]
            entropy = -(p * np.log(np.maximum(p, 1e-30))).sum(-1)
            accepted = choose(confidence, entropy, masked, step, options)
            line.update(proposed=tokens.tolist(), confidence=confidence.tolist(), accepted=accepted)
            if options["remasking"] == "entropy_bounded":
                line["entropy"] = np.maximum(entropy, 0).tolist()
            for name, values in states.items() if tensors is not None else ():
                line[name] = f"{block}.{step}.{name}"
                tensors[line[name]] = values
            lines.append(line)
            ids[accepted] = tokens[accepted]
            masked = [i for i in masked if i not in accepted]
            dirty, step = len(accepted) + (dirty if action == "reuse" else 0), step + 1
        port.forward(ids)
        port.commit()
        lines.append({"block": block, "step": "commit", "action": "refresh", "before": ids.tolist()})
        left, block = [], block + 1
    return [*lines, {"end": "length"}]


def save(path, tensors):
    header, data = {}, []
    for name, values in tensors.items():
        data.append(np.ascontiguousarray(values, np.float32).tobytes())
        end = sum(map(len, data))
        header[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": [end - len(data[-1]), end]}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(data))


def draw_options(draw, config):
    size = draw.choice((4, 4, 8))
    options = {
        "block_size": size, "denoising_steps": draw.choice((size, size, size // 2)), "max_tokens": 32, "ignore_stop": True,
        "remasking": draw.choice(("low_confidence_dynamic",) * 3 + ("low_confidence_static", "sequential", "entropy_bounded")),
        "confidence_threshold": draw.choice((0.9, 0.9, 0.6)), "entropy_bound": 0.35, "tau": draw.choice((0, 1, 2, 2, 3)),
        "temperature": draw.choice((0.0, 0.0, 0.7, 1.0, 1.3)), "mask_token": config["mask_token_id"],
    }  # fmt: skip
    filters = ({}, {}, {"top_k": 20}, {"top_p": 0.9}, {"top_k": 50, "top_p": 0.95}, {"top_p": 0.5})
    return {**options, **(draw.choice(filters) if options["temperature"] else {})}


def prompt_ids(program, model, folder):
    """Token ids of the model's own prompts."""
    record = folder / "ids.jsonl"
    text = (model / "held-out.txt").read_text(encoding="utf-8")[:6000]
    subprocess.run([program, "generate", "-m", model, "-p", text, "-n", "1", "--record", record], check=True, capture_output=True)
    with open(record, encoding="utf-8") as file:
        return json.loads(file.readline())["prompt"]


def one(program, model, folder, config, weights, ids, draw, precision):
    """Decodes, records, and has it judged; the report of the case, and what it was."""
    style, states = draw.choice(STYLES), draw.random() < 0.6
    length, options = draw.choice((1, 5, 40, 121)), draw_options(draw, config)
    begin = draw.randrange(len(ids) - length)
    port = Port(config, weights, precision, style, draw.choice((1, 4)), draw.random() < 0.5)
    path, tensors = folder / "record.jsonl", {} if states else None
    header = {"precision": precision, **({"tensors": "record.safetensors"} if states else {})}
    lines = decode(port, ids[begin : begin + length], options, header, tensors, draw)
    if states:
        save(folder / "record.safetensors", tensors)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    command = [program, "verify", "--trajectory", path, "-m", model, "--json=-", "--threads", "1"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    return json.loads(done.stdout)["cases"][0], f"{precision} {style} prompt {length} states {states} {options}"


def main(program, model, records=100, seed=1):
    model, records, draw = pathlib.Path(model), int(records), random.Random(int(seed))
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    weights, rows = dict(load(model / "model.safetensors")), collections.defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        ids = prompt_ids(program, model, folder)
        for number in range(records):
            precision = PRECISIONS[number % len(PRECISIONS)]
            report, what = one(program, model, folder, config, weights, ids, draw, precision)
            rows[precision].append(report)
            if report["outcome"] != "passed":
                print(f"record {number}: {what}: {report['reason']}", flush=True)
    print("precision  records  failed  with ties  confidence / allowed  a step / allowed  state / allowed")
    for precision, reports in sorted(rows.items()):
        failed = sum(report["outcome"] != "passed" for report in reports)
        found = [report["trajectory"] for report in reports if "trajectory" in report]
        largest = max((t["confidence_largest"] / t["allowed"] for t in found), default=0)
        states = [f["ratio"] / f["bound"] for r in reports for f in r["findings"] if f["tensor"] in ("hidden", "logits")]
        print(
            f"{precision:9}  {len(reports):7}  {failed:6}  {sum(t['ties'] > 0 for t in found):9}  {largest:20.2f}"
            f"  {max(t['step_share_of_allowed'] for t in found):16.2f}  {max(states, default=0):15.2f}"
        )
    return any(report["outcome"] != "passed" for reports in rows.values() for report in reports)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
