#!/usr/bin/env python3
"""The examples in Python, and the code of docs/port.md, run and say what they should. Prints TAP.

usage: test_python_examples.py SOURCE_DIR BUILD_DIR
"""
import importlib.util
import os
import pathlib
import re
import subprocess
import sys
import tempfile

from case_support import Skipped
from python_support import run_tests

root, build = (pathlib.Path(argument).resolve() for argument in sys.argv[1:3])
examples = root / "examples"
environment = dict(os.environ, FLASHBLOCK_LIB=str(build))
environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(root / "python"), os.environ.get("PYTHONPATH", "")]))


def run(*command):
    done = subprocess.run(
        [sys.executable, *map(str, command)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8"
    )
    return done.returncode, done.stdout


def need(*modules):
    for name in modules:
        if importlib.util.find_spec(name) is None:
            raise Skipped(f"no {name}")


def pytest(*arguments):
    return run("-m", "pytest", "-p", "no:cacheprovider", "-p", "flashblock.pytest_plugin", "-rs", *arguments)


def test_check_py():
    status, printed = run(examples / "check.py")
    lines = printed.splitlines()
    assert status == 0 and len(lines) == 4, printed
    assert lines[0].startswith("the kernel as it should be: passed"), printed
    for line, words in zip(lines[1:], ("base 2", "scale", "key")):
        assert "wrong" in line and words in line.split(":", 1)[1], line


def test_block_py():
    status, printed = run(examples / "block.py")
    assert status == 0 and printed.count("step ") == 5 and printed.count("reuse") >= 2, printed
    assert "504 committed tokens" in printed and "a reuse is now an error: layer 0" in printed, printed


def test_test_port_py():
    need("numpy", "pytest")
    status, printed = pytest(examples / "test_port.py", "--flashblock-seed", "3")
    assert status == 0 and " passed" in printed and "seed 3" in printed, printed


def test_trajectory_py():
    need("numpy")
    with tempfile.TemporaryDirectory() as folder:
        status, printed = run(examples / "trajectory.py", root / "golden" / "demo-model", pathlib.Path(folder) / "run.jsonl")
    assert status == 0 and "PASS: within the noise of f32" in printed and "hidden" in printed, printed


def test_examples_for_gpus_run_or_are_skipped():
    need("pytest")
    status, printed = pytest(examples / "gpu")
    assert status in (0, 5), printed  # 5: pytest ran no test, as all modules were skipped
    assert "passed" in printed or "skipped" in printed, printed


def test_examples_are_short():
    for path in sorted(examples.glob("*.py")):
        assert len(path.read_text(encoding="utf-8").splitlines()) < 100, path


def test_the_code_of_port_md_runs():
    """Block after block, as a reader would; those that take PyTorch only where it is."""
    text = (root / "docs/port.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 7
    has_torch = importlib.util.find_spec("torch") is not None
    code = "\n".join(block for block in blocks if has_torch or "import torch" not in block)
    status, printed = run("-c", code)
    assert status == 0 and re.match(r"\d+\.\d+\.\d+\n", printed), printed
    assert "tensors are wrong" in printed, printed


if __name__ == "__main__":
    sys.exit(run_tests(globals()))
