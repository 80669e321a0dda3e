#!/usr/bin/env python3
"""test_parameters.py PROGRAM GOLDEN [--seconds S]: one case of every kind, with one of its parameters
replaced by a hostile value. Whatever the file says, verifying ends with a verdict or an error; under the
sanitizers, with no finding. As many as S seconds allow (default: 30), drawn at random. Prints TAP."""
import json
import os
import pathlib
import random
import struct
import subprocess
import sys
import tempfile
import time

VALUES = [0, -1, 0.5, 1e-320, 1e308, -1e308, 1e30, 2**31, 2**53, 2**63 - 1, -2**63, "x", None, True, [], {}]


def cases(golden):
    """The smallest file of every kind: path, header, parameters, the bytes after the header."""
    found = {}
    for path in sorted(golden.glob("paper/*/*.safetensors"), key=lambda path: path.stat().st_size):
        raw = path.read_bytes()
        size = struct.unpack("<Q", raw[:8])[0]
        header = json.loads(raw[8 : 8 + size])
        metadata = header.get("__metadata__", {})
        if "params" in metadata and metadata.get("kind") not in found:
            found[metadata["kind"]] = path, header, json.loads(metadata["params"]), raw[8 + size :]
    return found


def write(path, header, parameters, data):
    metadata = {**header["__metadata__"], "params": json.dumps(parameters)}
    text = json.dumps({**header, "__metadata__": metadata}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def main():
    program, golden = os.path.abspath(sys.argv[1]), pathlib.Path(sys.argv[2]).resolve()
    end = time.monotonic() + (float(sys.argv[4]) if "--seconds" in sys.argv else 30)
    found = cases(golden)
    work = [(kind, key, value) for kind, (_, _, parameters, _) in found.items() for key in parameters
            for value in VALUES]
    random.Random(os.environ.get("FLASHBLOCK_TEST_SEED", "1")).shuffle(work)
    runs, wrong = dict.fromkeys(found, 0), {kind: [] for kind in found}
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for path in golden.glob("paper/*/*inputs*.safetensors"):
            (folder / path.name).symlink_to(path)
        for kind, key, value in work:
            if time.monotonic() > end:
                break
            _, header, parameters, data = found[kind]
            write(folder / "hostile.safetensors", header, {**parameters, key: value}, data)
            result = subprocess.run([program, "verify", folder / "hostile.safetensors", "--threads", "1"],
                                    capture_output=True, timeout=100, check=False)
            runs[kind] += 1
            if result.returncode not in (0, 1) or b"runtime error" in result.stderr:
                wrong[kind].append(f"{key}={value!r}: {result.returncode}: {result.stderr!r}")
    print(f"1..{len(found)}")
    for kind, count in runs.items():
        print(f"{'not ok' if wrong[kind] else 'ok'} - {kind}: {count} values")
        for line in wrong[kind]:
            print(f"# {line}")
    return any(wrong.values())


if __name__ == "__main__":
    sys.exit(main())
