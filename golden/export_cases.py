"""Case files: safetensors with string metadata. docs/case-files.md describes the format."""
import json
import math
import pathlib
import struct
from dataclasses import dataclass, field

import torch

Tensors = dict[str, torch.Tensor]


class Failure(Exception):
    """Something the user must know; its text is the one line that is printed."""


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
    errors: dict = field(default_factory=dict)  # attention: this program's float32 results against float64
    history: tuple = ()  # scheduler_trace: history slots read, and how many of those held another block's


def first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def load_case(path: pathlib.Path) -> Case:
    metadata, tensors = read_safetensors(path)
    try:
        params = json.loads(metadata.get("params", "{}"))
    except ValueError as error:
        raise Failure(f"{path}: params: {error}") from error
    return Case(metadata.get("case", path.stem), metadata.get("kind", ""), params, tensors, path.stem,
                metadata.get("style", ""), path.parent, metadata)


def inputs_of(case: Case) -> Tensors:
    """The tensors of the file that `inputs_file` names, beside the case's own."""
    name = case.metadata.get("inputs_file", "")
    if not name or pathlib.Path(name).name != name:
        raise Failure(f"{case.name}: inputs_file is '{name}', not a file name")
    return read_safetensors(case.folder / name)[1]


def largest(tensor: torch.Tensor) -> float:
    finite = tensor.double()[tensor.double().isfinite()]
    return finite.abs().max().item() if finite.numel() else 0.0


def difference(got: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest absolute difference; equal infinities and two NaN are equal."""
    if got.shape != expected.shape:
        return math.inf
    if got.numel() == 0:
        return 0.0
    got, expected = got.double(), expected.double()
    same = (got == expected) | (got.isnan() & expected.isnan())
    distance = torch.where(same, torch.zeros_like(got), (got - expected).abs())
    return distance.nan_to_num(nan=math.inf, posinf=math.inf).max().item()
