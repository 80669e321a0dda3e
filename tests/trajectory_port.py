"""A port of the decoding loop in plain Python, of its own: a tiny model of the SDAR architecture, FlashBlock, denoising.
It computes in double precision, or rounds every result to bf16, and makes mistakes on request."""
import json
import math
import pathlib
import random
import struct
from itertools import accumulate
from operator import mul


def f32(x):
    return struct.unpack("<f", struct.pack("<f", x))[0]


def bf16(x):
    u = struct.unpack("<I", struct.pack("<f", x))[0]
    return struct.unpack("<f", struct.pack("<I", (u + 0x7FFF + ((u >> 16) & 1)) & 0xFFFF0000))[0]


def save(path, tensors):
    """tensors: {name: (shape, flat list)}, as F32."""
    header, data = {}, b""
    for name, (shape, values) in tensors.items():
        content = struct.pack(f"<{len(values)}f", *values)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    pathlib.Path(path).write_bytes(struct.pack("<Q", len(text)) + text + data)


CONFIG = {
    "architectures": ["SDARForCausalLM"], "model_type": "sdar", "attention_bias": False, "hidden_act": "silu",
    "tie_word_embeddings": False, "torch_dtype": "float32", "hidden_size": 24, "intermediate_size": 32,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "rms_norm_eps": 1e-6,
    "rope_theta": 1000.0, "vocab_size": 40, "block_size": 4, "eos_token_id": 38, "mask_token_id": 39,
    "max_position_embeddings": 256,
}  # fmt: skip


def make_model(folder, seed=3):
    """A model whose weights are bf16 numbers; returns its matrices as lists of rows."""
    c, numbers, tensors = CONFIG, random.Random(seed), {}

    def add(name, rows, columns=None, size=1.0):
        count = rows * (columns or 1)
        shape = [rows, columns] if columns else [rows]
        flat = [bf16(numbers.gauss(0, size) if columns else numbers.uniform(0.8, 1.2)) for _ in range(count)]
        tensors[name] = (shape, flat)

    hidden, middle, dim = c["hidden_size"], c["intermediate_size"], c["head_dim"]
    add("model.embed_tokens.weight", c["vocab_size"], hidden)
    add("lm_head.weight", c["vocab_size"], hidden, 0.5)
    add("model.norm.weight", hidden)
    for i in range(c["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        for name, rows, columns in (
            ("self_attn.q_proj", 4 * dim, hidden), ("self_attn.k_proj", 2 * dim, hidden),
            ("self_attn.v_proj", 2 * dim, hidden), ("self_attn.o_proj", hidden, 4 * dim),
            ("mlp.gate_proj", middle, hidden), ("mlp.up_proj", middle, hidden), ("mlp.down_proj", hidden, middle),
        ):  # fmt: skip
            add(f"{layer}{name}.weight", rows, columns, 0.3)
        for name, size in (("input_layernorm", hidden), ("post_attention_layernorm", hidden),
                           ("self_attn.q_norm", dim), ("self_attn.k_norm", dim)):  # fmt: skip
            add(f"{layer}{name}.weight", size)
    folder = pathlib.Path(folder)
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(c), encoding="utf-8")
    save(folder / "model.safetensors", tensors)
    rows = lambda shape, flat: [flat[i : i + shape[1]] for i in range(0, len(flat), shape[1])]  # noqa: E731
    return {name: rows(shape, flat) if len(shape) == 2 else flat for name, (shape, flat) in tensors.items()}


class Port:
    """`rounding`: f32 or bf16. `mistake`, from block `mistake_block` on: see the uses of makes()."""

    def __init__(self, weights, rounding=f32, mistake=None, mistake_block=0):
        self.w, self.round_one, self.mistake, self.mistake_block, self.block = weights, rounding, mistake, mistake_block, 0
        self.missing = 0  # tokens that the cache should have
        self.layers, self.heads, self.group, self.dim = 2, 4, 2, CONFIG["head_dim"]
        self.cache = [([], []) for _ in range(self.layers)]
        self.external = [None] * self.layers
        self.parts, self.older = [None] * self.layers, [None] * self.layers

    def makes(self, mistake):
        return self.mistake == mistake and self.block >= self.mistake_block

    def round(self, x):
        return [self.round_one(value) for value in x]

    def linear(self, x, name):
        return self.round([sum(map(mul, row, x)) for row in self.w[name + ".weight"]])

    def norm(self, x, name):
        scale = 1 / math.sqrt(sum(map(mul, x, x)) / len(x) + CONFIG["rms_norm_eps"])
        return self.round([a * scale * b for a, b in zip(x, self.w[name + ".weight"])])

    def add(self, x, y):
        return self.round([a + b for a, b in zip(x, y)])

    def place(self, x, name, position):
        """Heads, normalised and rotated."""
        heads, half = [], self.dim // 2
        for h in range(0, len(x), self.dim):
            head = self.norm(x[h : h + self.dim], name)
            angles = [position / CONFIG["rope_theta"] ** (i / half) for i in range(half)]
            turned = [head[i] * math.cos(a) - head[i + half] * math.sin(a) for i, a in enumerate(angles)]
            turned += [head[i + half] * math.cos(a) + head[i] * math.sin(a) for i, a in enumerate(angles)]
            heads.append(self.round(turned))
        return heads

    def attend(self, q, keys, values):
        """One row: of each head the output, and the log-sum-exp."""
        out = []
        for h, query in enumerate(q):
            if not keys:
                out.append(([0.0] * self.dim, -math.inf))
                continue
            s = [sum(map(mul, query, k[h // self.group])) / math.sqrt(self.dim) for k in keys]
            top = max(s)
            p = [math.exp(x - top) for x in s]
            total = sum(p)
            columns = zip(*(v[h // self.group] for v in values))
            out.append(([sum(map(mul, p, column)) / total for column in columns], top + math.log(total)))
        return out

    def merge(self, a, b):
        row = []
        for (out_a, lse_a), (out_b, lse_b) in zip(a, b):
            top = max(lse_a, lse_b)
            wa, wb = math.exp(lse_a - top), math.exp(lse_b - top)
            if self.makes("base 2"):
                wa, wb = 2 ** (lse_a - top), 2 ** (lse_b - top)
            if self.makes("swapped") and lse_a > -math.inf:
                wa, wb = wb, wa
            row += [(wa * x + wb * y) / (wa + wb) for x, y in zip(out_a, out_b)]
        return self.round(row)

    def shift(self, start, prefill):
        """By how much positions are wrong."""
        if prefill:
            return 0
        return 1 if self.makes("positions") else -start if self.makes("from zero") else self.missing

    def prefill_seen(self, count, block):
        """The number of tokens that each token of the prompt sees."""
        if self.makes("causal prefill"):
            return [t + 1 for t in range(count)]
        if self.makes("full prefill"):
            return [count] * count
        return [t - t % block + block for t in range(count)]

    def context(self, i, k, v):
        """Keys and values that the external part sees."""
        keys, values = self.cache[i]
        if self.makes("own twice") and keys:
            return keys + k, values + v
        return (keys[:-1], values[:-1]) if self.makes("last key") else (keys, values)

    @staticmethod
    def with_zeros(part, count):
        """A part of one head over `count` more keys, which are zeros."""
        out, lse = part
        total = math.log(math.exp(lse) + count)
        return [x * math.exp(lse - total) for x in out], total

    def attention(self, i, rows, action, prefill):
        layer, start = f"model.layers.{i}.self_attn.", len(self.cache[i][0])
        shift = self.shift(start, prefill)
        q, k, v = ([self.linear(x, layer + p + "_proj") for x in rows] for p in "qkv")
        q = [self.place(x, layer + "q_norm", start + t + shift) for t, x in enumerate(q)]
        k = [self.place(x, layer + "k_norm", start + t + shift) for t, x in enumerate(k)]
        v = [[x[h : h + self.dim] for h in range(0, len(x), self.dim)] for x in v]
        self.new[i] = (k, v)
        seen = [t + 1 for t in range(len(rows))] if self.makes("causal") else [len(rows)] * len(rows)
        if prefill:
            seen = self.prefill_seen(len(rows), prefill)
        kept = action == "reuse" or (self.makes("stale part") and not prefill and self.parts[i] is not None)
        external = self.parts[i] if kept else [self.attend(x, *self.context(i, k, v)) for x in q]
        if self.makes("tail") and start and not kept and not prefill:
            external = [[self.with_zeros(part, -start % 16) for part in row] for row in external]
        if self.makes("tail in head 2") and start and not kept and not prefill:
            external = [[self.with_zeros(part, -start % 16) if h == 2 else part for h, part in enumerate(row)] for row in external]
        if not prefill and not kept:
            self.parts[i], self.older[i] = external, self.parts[i]
        if self.makes("stale lse") and not prefill and self.older[i] and start:
            external = [[(a[0], b[1]) for a, b in zip(*rows)] for rows in zip(external, self.older[i])]
        self.external[i] = external
        internal = [self.attend(x, k[:n], v[:n]) for x, n in zip(q, seen)]
        return [self.linear(self.merge(a, b), layer + "o_proj") for a, b in zip(external, internal)]

    def forward(self, tokens, action="refresh", prefill=0):
        """Logits and hidden states of tokens that follow the committed ones."""
        x = [self.w["model.embed_tokens.weight"][token] for token in tokens]
        self.new, hidden = [None] * self.layers, [x]
        for i in range(self.layers):
            layer = f"model.layers.{i}."
            normed = [self.norm(row, layer + "input_layernorm") for row in x]
            x = [self.add(a, b) for a, b in zip(x, self.attention(i, normed, action, prefill))]
            normed = [self.norm(row, layer + "post_attention_layernorm") for row in x]
            gate, up = ([self.linear(row, f"{layer}mlp.{p}_proj") for row in normed] for p in ("gate", "up"))
            acts = [self.round([g / (1 + math.exp(-g)) for g in row]) for row in gate]
            down = [self.linear(self.round(map(mul, a, b)), layer + "mlp.down_proj") for a, b in zip(acts, up)]
            x = [self.add(a, b) for a, b in zip(x, down)]
            hidden.append(x)
        hidden[-1] = [self.norm(row, "model.norm") for row in x]
        return [self.linear(row, "lm_head") for row in hidden[-1]], hidden

    def commit(self):
        if self.makes("missing"):
            self.missing += len(self.new[0][0])
            return
        if self.makes("not written"):
            self.new = [tuple([[[0.0] * self.dim] * 2] * len(side[0]) for _ in side) for side in self.new]
        for old, new in zip(self.cache, self.new):
            old[0].extend(new[0])
            old[1].extend(new[1])


def softmax(port, z, options):
    temperature, mask = options["temperature"] or 1.0, CONFIG["mask_token_id"]
    if port.makes("temperature"):
        temperature *= 0.7
    if port.makes("mask proposed") or port.makes("with mask"):
        mask = -1
    top = max(x for i, x in enumerate(z) if i != mask)
    p = [0.0 if i == mask else math.exp((x - top) / temperature) for i, x in enumerate(z)]
    if port.makes("half softmax"):
        half, best = len(p) // 2, p.index(max(p))
        total = sum(p[:half] if best < half else p[half:])
    else:
        total = sum(p)
    if port.makes("unnormalised"):
        return p
    if port.makes("sigmoid"):
        return [0.0 if i == mask else 1 / (1 + math.exp(-x)) for i, x in enumerate(z)]
    return [x / total for x in p]


def choose(port, confidence, masked, step, options):
    size, steps, threshold = options["block_size"], options["denoising_steps"], options["confidence_threshold"]
    threshold = 0.5 if port.makes("threshold") else threshold
    steps = 2 if port.makes("steps") else steps
    if port.makes("remasking"):
        options = {**options, "remasking": "low_confidence_static"}
    budget = size // steps + (step < size % steps)
    if port.makes("last position"):
        return masked[-budget:]
    if port.makes("remainder"):
        budget = size // steps + (step >= steps - size % steps)
    above = [i for i in masked if confidence[i] > threshold or (port.makes("at least") and confidence[i] == threshold)]
    if options["remasking"] == "low_confidence_dynamic" and len(above) >= budget:
        return above
    order = sorted(masked, key=lambda i: (-confidence[i], i))
    if port.makes("flip") and len(order) > budget and confidence[order[budget]] > 0.98 * confidence[order[budget - 1]]:
        order[budget - 1 : budget + 1] = order[budget], order[budget - 1]
    return sorted(order[:budget])


def propose(port, rows, options, draws, line, noise):
    """Token and confidence of every row."""
    tokens, confidences, us = [], [], []
    gumbels = []
    if port.makes("logits before"):
        rows = rows[:1] + rows[:-1]
    for z in rows:
        p = softmax(port, z, options)
        if port.makes("drawn"):
            token = draws.choices(range(len(p)), p)[0]
        elif port.makes("second"):
            token = p.index(sorted(p)[-2])
        elif port.makes("mask proposed"):
            token = CONFIG["mask_token_id"]
        elif not options["temperature"] or port.makes("best"):
            token = p.index(max(p))
            us.append(draws.random())
        elif noise == "gumbel":
            gumbels.append([f32(-math.log(-math.log(draws.uniform(1e-9, 1)))) for _ in p])
            early = options["temperature"] if port.makes("noise too early") else 1
            scores = [math.log(x) * early + g if x > 0 else -math.inf for x, g in zip(p, gumbels[-1])]
            token = scores.index(max(scores))
        else:
            us.append(draws.random())
            if port.makes("by rank"):
                order = sorted(range(len(p)), key=lambda i: -p[i])
                token = next(i for i, total in zip(order, accumulate(p[i] for i in order)) if total > us[-1])
                tokens.append(token)
                confidences.append(f32(p[token]))
                continue
            token = next(i for i, total in enumerate(accumulate(p)) if total > us[-1])
        tokens.append(token)
        confidences.append(f32(max(p) if port.makes("best confidence") else p[token]))
    if port.makes("logarithms"):
        confidences = [math.log(x) for x in confidences]
    if us and noise == "uniform":
        line["uniform"] = us
    return tokens, confidences, gumbels


def decode(port, prompt, options, header, tensors=None, noise=None, states=True):
    """The lines of the record. `tensors`: a dictionary to fill, or None."""
    size, mask, draws = options["block_size"], CONFIG["mask_token_id"], random.Random(5)
    lines = [{"trajectory": 1, "prompt": prompt, "options": options, **header}]
    whole = len(prompt) - len(prompt) % size
    if whole:
        port.forward(prompt[:whole], prefill=size)
        port.commit()
    left, completion, tau = prompt[whole:], [], options["tau"] + (port.mistake == "tau")
    while len(completion) < options["max_tokens"]:
        given, block, dirty = len(left), left + [mask] * (size - len(left)), 0
        masked, left, step = list(range(given, size)), [], 0
        while masked:
            action = "reuse" if step and dirty < tau else "refresh"
            line = {"block": port.block, "step": step, "action": action, "before": list(block)}
            logits, hidden = port.forward(block, action)
            tokens, confidence, gumbels = propose(port, logits, options, draws, line, noise)
            accepted = choose(port, confidence, masked, step, options)
            written = {i: tokens[i] for i in accepted}
            if port.makes("another token"):
                written = {i: tokens[(i + 1) % size] for i in accepted}
            line.update(proposed=tokens, confidence=confidence, accepted=accepted, tokens=[written[i] for i in accepted])
            if tensors is not None:
                for name, values in (("logits", logits), ("hidden", hidden), ("gumbel", gumbels)):
                    put(tensors, line, name, values)
                for at, name in enumerate(("external_out", "external_lse")) if states == "parts" else ():
                    put(tensors, line, name, [[[part[at] for part in row] for row in rows] for rows in port.external])
            lines.append(line)
            for i in accepted:
                block[i] = written[i]
            masked = [i for i in masked if i not in accepted]
            counted = 1 if port.makes("dirty steps") else len(accepted)
            if port.makes("dirty without the refresh") and action == "refresh":
                counted = 0
            dirty = counted + (dirty if action == "reuse" or port.makes("dirty never reset") else 0)
            step += 1
        if not port.makes("no commit"):
            port.forward(block, "reuse" if port.makes("commit reuses") else "refresh")
        lines.append({"block": port.block, "step": "commit", "action": "refresh", "before": list(block)})
        port.commit()
        port.block += 1
        completion += block[given:]
    return lines + [{"end": "length", "tokens": completion[: options["max_tokens"]]}]


def put(tensors, line, name, values):
    """A nested list as a tensor, named in the line."""
    if not values:
        return
    shape, flat = [], values
    while isinstance(flat, list):
        shape.append(len(flat))
        flat = flat[0]
    flat = values
    for _ in shape[1:]:
        flat = [x for part in flat for x in part]
    line[name] = f"{line['block']}.{line['step']}.{name}"
    tensors[line[name]] = (shape, flat)


def record(path, weights, prompt=(5, 9, 30, 2, 17, 8), precision="f32", mistake=None, mistake_block=0, states=False,
           noise=None, **options):  # fmt: skip
    """Decodes and writes the record; returns its lines. states: True: logits and hidden states; "parts": external parts,
    too."""
    options = {"block_size": 4, "denoising_steps": 4, "max_tokens": 16, "remasking": "low_confidence_dynamic",
               "confidence_threshold": 0.9, "tau": 2, "ignore_stop": True, "temperature": 0.0, **options}  # fmt: skip
    port = Port(weights, bf16 if precision == "bf16" else f32, mistake, mistake_block)
    header, tensors = {"precision": precision}, {} if states or noise == "gumbel" else None
    if tensors is not None:
        header["tensors"] = pathlib.Path(path).name + ".safetensors"
    lines = decode(port, list(prompt), options, header, tensors, noise, states)
    if tensors is not None:
        save(f"{path}.safetensors", tensors)
    write(path, lines)
    return lines


def write(path, lines):
    pathlib.Path(path).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
