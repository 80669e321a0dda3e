"""A model of the SDAR architecture in NumPy, with FlashBlock: the attention to earlier blocks is kept, and used again where
the decoder says so. For trajectory.py; it is written to be read, and slow."""
import json
import pathlib
import struct

import numpy as np


def load(path):
    data = pathlib.Path(path).read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    for name, entry in json.loads(data[8 : 8 + size]).items():
        if name != "__metadata__":
            bits, shift = (np.uint16, 16) if entry["dtype"] == "BF16" else (np.uint32, 0)
            words = np.frombuffer(data[8 + size :][slice(*entry["data_offsets"])], bits).astype(np.uint32)
            yield name, (words << shift).view(np.float32).reshape(entry["shape"])


class Model:
    def __init__(self, folder):
        self.c, self.w = json.loads((folder / "config.json").read_text()), dict(load(folder / "model.safetensors"))
        self.group = self.c["num_attention_heads"] // self.c["num_key_value_heads"]
        self.layers, self.dim = self.c["num_hidden_layers"], self.c["head_dim"]
        self.cache, self.kept = [[] for _ in range(self.layers)], [None] * self.layers

    def norm(self, x, name):
        return x / np.sqrt(np.mean(x * x, -1, keepdims=True) + self.c["rms_norm_eps"]) * self.w[name + ".weight"]

    def heads(self, x, name, start):
        """Heads, normalised and rotated to their positions."""
        x, half = self.norm(x, name), self.dim // 2
        angle = np.arange(start, start + len(x))[:, None, None] * self.c["rope_theta"] ** (-np.arange(half) / half)
        a, b = x[..., :half], x[..., half:]
        return np.concatenate([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], -1)

    def attend(self, q, k, v, sees=True):
        s = np.where(sees, np.einsum("thd,shd->hts", q, np.repeat(k, self.group, 1)) / np.sqrt(self.dim), -np.inf)
        lse = np.logaddexp.reduce(s, -1, keepdims=True)
        return np.einsum("hts,shd->thd", np.exp(s - lse), np.repeat(v, self.group, 1)), lse[..., 0].T[..., None]

    def forward(self, ids, action="refresh", sees=True):
        x = self.w["model.embed_tokens.weight"][ids]
        start, self.new, hidden = sum(len(k) for k, _ in self.cache[0]), [], [x]
        for i in range(self.layers):
            at, mlp = f"model.layers.{i}.self_attn.", f"model.layers.{i}.mlp."
            n = self.norm(x, f"model.layers.{i}.input_layernorm")
            q, k, v = ((n @ self.w[f"{at}{p}_proj.weight"].T).reshape(len(ids), -1, self.dim) for p in "qkv")
            q, k = self.heads(q, at + "q_norm", start), self.heads(k, at + "k_norm", start)
            self.new.append((k, v))
            out, lse = self.attend(q, k, v, sees)
            if start and action == "refresh":
                self.kept[i] = self.attend(q, *(np.concatenate(part) for part in zip(*self.cache[i])))
            if start:
                total = np.logaddexp(self.kept[i][1], lse)
                out = np.exp(self.kept[i][1] - total) * self.kept[i][0] + np.exp(lse - total) * out
            x = x + out.reshape(len(ids), -1) @ self.w[at + "o_proj.weight"].T
            n = self.norm(x, f"model.layers.{i}.post_attention_layernorm")
            gate, up = (n @ self.w[f"{mlp}{p}_proj.weight"].T for p in ("gate", "up"))
            x = x + (gate / (1 + np.exp(-gate)) * up) @ self.w[mlp + "down_proj.weight"].T
            hidden.append(x)
        hidden[-1] = self.norm(x, "model.norm")
        head = self.w.get("lm_head.weight", self.w["model.embed_tokens.weight"])
        return hidden[-1] @ head.T, np.stack(hidden).astype(np.float32)

    def commit(self, ids, sees=True):
        self.forward(ids, sees=sees)
        for cache, new in zip(self.cache, self.new):
            cache.append(new)
