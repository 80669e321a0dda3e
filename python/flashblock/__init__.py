"""FlashBlock from Python: attention as parts, the cached external part of a block, and an oracle that judges
kernels. docs/port.md shows how to port FlashBlock to a new device with it.

    out, lse = flashblock.attention(q, k, v, layout="BHTD")
    flashblock.check(out=out, lse=lse, q=q, k=k, v=v, layout="BHTD", lse_layout="BHT")
    flashblock.check_port(port, preset="trado-8b", context=16384, dtype="bf16", layout="THD", lse_layout="TH")

Arrays are whatever has DLPack (PyTorch, JAX, CuPy, NumPy), NumPy's array interface, or the buffer protocol. Results
are flashblock.Array: torch.from_dlpack(x), numpy.asarray(x), x.tolist().
"""
from . import reference
from ._arrays import Array, array, as_array, empty
from ._attention import Mask, attention, merge
from ._block import Block, block
from ._check import CheckFailed, Finding, Report, check
from ._library import (
    ArgumentError,
    FileError,
    FlashBlockError,
    FormatError,
    LibraryNotFound,
    OutOfMemory,
    StaleError,
    UnsupportedError,
    library,
    version,
)
from ._ports import Given, Pass, Sequence, check_port
from ._trajectory import TrajectoryWriter, check_trajectory

__all__ = [
    "ArgumentError", "Array", "Block", "CheckFailed", "FileError", "Finding", "FlashBlockError", "FormatError", "Given",
    "LibraryNotFound", "Mask", "OutOfMemory", "Pass", "Report", "Sequence", "StaleError", "TrajectoryWriter",
    "UnsupportedError", "array", "as_array", "attention", "block", "check", "check_port", "check_trajectory", "empty",
    "library", "merge", "reference", "version",
]  # fmt: skip
