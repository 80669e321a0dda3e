"""Whole decodings: a record of what a port proposed and decided, and its verdict. docs/trajectory.md has the format."""
import ctypes
import difflib
import json
import os
import pathlib
import struct
import tempfile

from . import _declarations as c
from ._arrays import as_array
from ._check import Report, arithmetic, judged
from ._library import check_status, library

VERSION = 1
# Tensors of a pass, and how many axes they have.
STATES = {
    "logits": 2, "gumbel": 2, "hidden": 3, "external_out": 4, "external_lse": 3, "internal_out": 4, "internal_lse": 3,
    "out": 4, "lse": 3,
}  # fmt: skip
_NAMES = {"f32": "F32", "bf16": "BF16", "f16": "F16", "f64": "F64"}
ACTIONS = ("refresh", "reuse", "refresh rows", "refresh+store")
PRECISIONS = ("f32", "tf32x3", "tf32", "f16", "bf16", "fp8")


def _is_whole(value, least=0):
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _whole(least):
    return (f"a whole number, at least {least}", lambda value: _is_whole(value, least))


def _number(words, is_right):
    return (words, lambda value: isinstance(value, (int, float)) and not isinstance(value, bool) and is_right(value))


def _word(*words):
    return (" or ".join(repr(word) for word in words), lambda value: value in words)


_FLAG = ("True or False", lambda value: isinstance(value, bool))
# The first line's options: what each expects, in words and as a test. A reader in C checks them again, with the model.
OPTIONS = {
    "block_size": _whole(1), "denoising_steps": _whole(1), "max_tokens": _whole(1),
    "remasking": _word("low_confidence_dynamic", "low_confidence_static", "sequential", "entropy_bounded"),
    "confidence_threshold": _number("a finite number", lambda value: abs(value) < float("inf")),
    "entropy_bound": _number("at least 0", lambda value: value >= 0), "tau": _whole(0), "reuse": _word("tau", "rows"),
    "refresh_every": _whole(0), "refresh_dirty": _whole(0), "refresh_commit": _FLAG, "reuse_always": _FLAG,
    "reuse_at_commit": _FLAG, "correction": _FLAG, "greedy": _FLAG, "ignore_stop": _FLAG,
    "temperature": _number("at least 0", lambda value: 0 <= value < float("inf")), "top_k": _whole(0),
    "top_p": _number("in (0, 1]", lambda value: 0 < value <= 1), "mask_token": ("a token id", _is_whole),
    "stop_tokens": ("a list of token ids", lambda value: isinstance(value, list) and all(map(_is_whole, value))),
    "kv_dtype": _word("f32", "bf16", "f16", "int8"), "compat": _word("paper", "released"),
}  # fmt: skip


def _check_options(precision, options):
    """What no reader would take is refused here, before a port has decoded anything."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}, expected {' or '.join(map(repr, PRECISIONS))}")
    for name, value in options.items():
        if name.startswith("_"):
            continue
        if name not in OPTIONS:
            close = difflib.get_close_matches(name, OPTIONS, 3, 0.6)
            meant = f"did you mean {' or '.join(close)}?" if close else f"options are {', '.join(OPTIONS)}"
            raise TypeError(f"{name}={value!r} is not an option of a record: {meant}")
        words, is_right = OPTIONS[name]
        if not is_right(value):
            raise ValueError(f"{name} is {value!r}, expected {words}")


def _plain(values):
    """A list of Python's numbers: of a tensor, an array, a list."""
    values = values.tolist() if hasattr(values, "tolist") else list(values)
    while len(values) == 1 and isinstance(values[0], list):  # a batch of one
        values = values[0]
    return [value.item() if hasattr(value, "item") else value for value in values]


def _checked_action(action):
    if action not in ACTIONS:
        raise ValueError(f"action is {action!r}, expected {' or '.join(map(repr, ACTIONS))}")
    return action


def _plain_option(value):
    """An option as JSON has it: of a tensor, a number of NumPy, a path."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    return _plain(value) if isinstance(value, (list, tuple, set)) else value


class _Tensors:
    """A .safetensors file that is written tensor by tensor: the bytes wait in a file beside it."""

    def __init__(self, path):
        self.path, self.header, self.size = pathlib.Path(path), {}, 0
        self.bytes = tempfile.TemporaryFile(dir=self.path.parent)

    def add(self, name, value, ndim):
        if not isinstance(value, (list, tuple)):
            value = as_array(value, name)
            if value.ndim > ndim and value.shape[0] != 1:  # layers, then a batch of one
                value = [value[i] for i in range(value.shape[0])]
        layers = isinstance(value, (list, tuple))
        arrays = [self._squeezed(as_array(piece, name), ndim - layers) for piece in (value if layers else [value])]
        if any(array.ndim != ndim - layers for array in arrays):
            shape = [len(arrays)] * layers + list(arrays[0].shape)
            raise ValueError(f"{name} has the shape {shape}, expected {ndim} axes")
        if any(array.dtype != arrays[0].dtype or array.shape != arrays[0].shape for array in arrays):
            raise ValueError(f"{name}: its layers have different types or shapes")
        if arrays[0].dtype not in _NAMES:
            raise TypeError(f"{name} is {arrays[0].dtype}, expected f32, bf16, f16 or f64: convert it first")
        begin = self.size
        for array in arrays:
            self.size += self.bytes.write(array.dense().memoryview().cast("B"))
        shape = list(arrays[0].shape)
        self.header[name] = {
            "dtype": _NAMES[arrays[0].dtype],
            "shape": [len(arrays), *shape] if layers else shape,
            "data_offsets": [begin, self.size],
        }

    @staticmethod
    def _squeezed(array, ndim):
        while array.ndim > ndim and array.shape[0] == 1:  # a batch of one
            array = array[0]
        return array

    def close(self):
        text = json.dumps(self.header).encode()
        text += b" " * (-len(text) % 8)
        self.bytes.seek(0)
        with open(self.path, "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for piece in iter(lambda: self.bytes.read(1 << 20), b""):
                file.write(piece)
        self.bytes.close()


class TrajectoryWriter:
    """Writes the record of one decoding, line by line, while a port decodes.

        with flashblock.TrajectoryWriter("run.jsonl", precision="bf16", prompt=ids, block_size=4, tau=2) as record:
            ...each denoising step...
            record.step(block, step, before=ids, proposed=tokens, confidence=probabilities, accepted=positions,
                        action="refresh")
            ...each pass over a finished block...
            record.commit(block)
            record.end("stop", tokens)

    path        of the record; tensors go into PATH.safetensors
    precision   what the port computes in: "f32", "tf32x3", "tf32", "f16", "bf16", "fp8"
    prompt      its token ids
    options     block_size, denoising_steps, max_tokens, remasking, confidence_threshold, tau, temperature, top_k, top_p,
                mask_token, stop_tokens, ignore_stop, ...: docs/trajectory.md lists all. What is not given is as in
                `flashblock generate`. None is not given. An unknown option raises TypeError, a value that no record
                can have ValueError

    Values are lists, or what has `tolist`: tensors of PyTorch, arrays of NumPy. Tensors of a pass are f32, bf16, f16 or f64;
    `hidden` may be the tuple of layers that Hugging Face's output_hidden_states gives.
    """

    def __init__(self, path, *, precision, prompt, model="", **options):
        self.path, self._tensors = pathlib.Path(path), None
        options = {name: _plain_option(value) for name, value in options.items() if value is not None}
        _check_options(precision, options)
        self._header = {
            "trajectory": VERSION, "model": str(model), "precision": precision, "prompt": _plain(prompt),
            "options": options,
        }  # fmt: skip
        self._file = open(self.path, "w", encoding="utf-8")
        self._begun = False

    def _put(self, line):
        self._file.write(json.dumps(line, separators=(",", ":")) + "\n")

    def _begin(self, states):
        """The first line says whether there are tensors: it is written with the first pass."""
        if states and self._tensors is None:
            if self._begun:
                raise ValueError("tensors are given, but the first pass had none: give them from the first pass on")
            self._tensors = _Tensors(f"{self.path}.safetensors")
            self._header["tensors"] = self._tensors.path.name
        if not self._begun:
            self._put(self._header)
            self._begun = True

    def _pass(self, line, states):
        states = {name: value for name, value in states.items() if value is not None}
        for name in states:
            if name not in STATES:
                raise TypeError(f"{name} is not a part of a pass; tensors are {', '.join(STATES)}")
        self._begin(states)
        for name, value in states.items():
            key = f"block{line['block']}.{line['step']}.{name}"
            self._tensors.add(key, value, STATES[name])
            line[name] = key
        self._put(line)

    def step(self, block, step, *, before, proposed, confidence, accepted, tokens=None, action=None, entropy=None,
             uniform=None, **states):  # fmt: skip
        """A denoising step.

        block, step   numbers from 0; steps are counted in each block
        before        the block's ids that the pass was given
        proposed, confidence  of every position; what decided ones have does not matter
        accepted      the positions that are unmasked: indices, or a boolean of every position
        tokens        their ids, in the same order; None: those that are proposed there
        action        "refresh" or "reuse" of the external part
        entropy, uniform  of every position: nats; the numbers in [0, 1) that drew the tokens
        logits, gumbel, hidden, external_out, external_lse, internal_out, internal_lse, out, lse  tensors
        """
        accepted = _plain(accepted)
        if accepted and all(isinstance(value, bool) for value in accepted):
            accepted = [position for position, value in enumerate(accepted) if value]
        line = {"block": int(block), "step": int(step)}
        if action is not None:
            line["action"] = _checked_action(action)
        line.update(before=_plain(before), proposed=_plain(proposed), confidence=_plain(confidence))
        for key, values in (("entropy", entropy), ("uniform", uniform)):
            if values is not None:
                line[key] = _plain(values)
        line["accepted"] = accepted
        if tokens is not None:
            line["tokens"] = _plain(tokens)
        self._pass(line, states)

    def commit(self, block, *, before=None, action=None, **states):
        """The pass over a finished block."""
        line = {"block": int(block), "step": "commit"}
        if action is not None:
            line["action"] = _checked_action(action)
        if before is not None:
            line["before"] = _plain(before)
        self._pass(line, states)

    def end(self, reason, tokens=None):
        """The decoding is over: "stop", "length", "context", or "cancelled" before its end. tokens: the completion."""
        self._begin({})
        line = {"end": reason}
        if tokens is not None:
            line["tokens"] = _plain(tokens)
        self._put(line)

    def close(self):
        if self._file.closed:
            return
        self._begin({})
        self._file.close()
        if self._tensors:
            self._tensors.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def check_trajectory(record, *, model, precision=None, tensors=None, partial=False, states=None,
                     activations=None):  # fmt: skip
    """Judges the record of a whole decoding: replays it with its own decisions forced. Returns a Report if every
    difference is a tie within the noise of the port's precision; raises CheckFailed (an AssertionError) if not.

        flashblock.check_trajectory("run.jsonl", model="models/SDAR-1.7B-Chat")

    record      the path of a record, a TrajectoryWriter (which is closed), or its lines as dictionaries
    model       the model's Hugging Face directory
    precision   what the port computes in; None: as the record says
    tensors     the path of the file of tensors; None: the one that the record names, beside it
    partial     what the record lacks is not needed
    states      the path of a .safetensors file to write: hidden states, logits and parts that this library computes on the
                record's tokens, also where the record fails
    activations "f32": what the model's quantised layers multiply stays float32; "int8" or None: it is quantised

    The report's `json["trajectory"]` has the agreement of decisions, and the first difference and the first mistake with
    their line, block, step and layer.
    """
    if isinstance(record, TrajectoryWriter):
        record.close()
        record = record.path
    if isinstance(record, (str, os.PathLike)):
        return _judge(record, model, precision, tensors, partial, states, activations)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "record.jsonl"
        with open(path, "w", encoding="utf-8") as file:
            for line in record:
                file.write(json.dumps(line) + "\n")
        return _judge(path, model, precision, tensors, partial, states, activations)


def _judge(path, model, precision, tensors, partial, states, activations):
    if activations not in (None, "int8", "f32"):
        raise ValueError(f"activations is {activations!r}, expected 'int8' or 'f32'")
    oracle, options, report = library("oracle"), c.fb_trajectory_options(), ctypes.c_void_p()
    oracle.fb_trajectory_options_init_sized(options, ctypes.sizeof(options))
    options.tensors = os.fsencode(tensors) if tensors is not None else None
    options.states = os.fsencode(states) if states is not None else None
    options.precision, options.partial = arithmetic(precision), partial
    options.float_activations = activations == "f32"
    check_status(oracle.fb_verify_trajectory(os.fsencode(path), os.fsencode(model), options, ctypes.byref(report)))
    return judged(Report(report, f"trajectory {path}"))
