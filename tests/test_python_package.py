#!/usr/bin/env python3
"""The Python package as others get it: a wheel that is built without a network, an installation by meson, the pytest
plugin. Prints TAP.

usage: test_python_package.py SOURCE_DIR BUILD_DIR
"""
import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import zipfile

from case_support import Skipped
from python_support import raises, run_tests

root, build = (pathlib.Path(argument).resolve() for argument in sys.argv[1:3])
clean = {name: value for name, value in os.environ.items() if name not in ("FLASHBLOCK_LIB", "PYTHONPATH")}
# The tools, PyTorch say, may lie on PYTHONPATH.
tools = os.environ.get("PYTHONPATH", "")

USE = """
import flashblock
q, k = flashblock.array([[[1, 2]]]), flashblock.array([[[1, 2]], [[3, 4]]])
out, lse = flashblock.attention(q, k, k, layout="THD")
assert flashblock.check(out=out, lse=lse, q=q, k=k, v=k, layout="THD", lse_layout="TH").passed
print(flashblock.version(), flashblock.library("oracle")._name, flashblock.__file__)
"""


def run(*command, fails=False, **options):
    options.setdefault("env", clean)
    done = subprocess.run(
        [str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", **options
    )
    assert (done.returncode != 0) == fails, done.stdout
    return done.stdout


def backend():
    spec = importlib.util.spec_from_file_location("flashblock_build", root / "python/backend/flashblock_build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Folder(tempfile.TemporaryDirectory):
    def __enter__(self):
        return pathlib.Path(super().__enter__())


def unpacked_wheel(folder):
    os.environ["FLASHBLOCK_BUILD"] = str(build)
    wheel = folder / backend().build_wheel(folder)
    with zipfile.ZipFile(wheel) as file:
        file.extractall(folder / "site")
    return wheel, folder / "site"


def test_a_wheel_carries_the_libraries():
    with Folder() as folder:
        wheel, site = unpacked_wheel(folder)
        assert wheel.name.startswith("flashblock-") and not wheel.name.endswith("any.whl"), wheel
        printed = run(sys.executable, "-c", USE, cwd=folder, env={**clean, "PYTHONPATH": str(site)})
        assert str(site / "flashblock" / "lib") in printed, printed
        again = backend().build_wheel(folder)
        assert (folder / again).read_bytes() == wheel.read_bytes(), "two wheels of one build differ"
        names = {path.name for path in (root / "python/flashblock").glob("*.py")}
        assert names == {path.name for path in (site / "flashblock").glob("*.py")}


def test_pip_installs_without_a_network():
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True).returncode != 0:
        raise Skipped("this Python has no pip")
    with Folder() as folder:
        environment = {**clean, "FLASHBLOCK_BUILD": str(build), "PIP_NO_INDEX": "1"}
        run(sys.executable, "-m", "pip", "install", "--target", folder / "site", root / "python", env=environment)
        printed = run(sys.executable, "-c", USE, cwd=folder, env={**clean, "PYTHONPATH": str(folder / "site")})
        assert str(folder / "site") in printed, printed
        assert list((folder / "site").glob("flashblock-*.dist-info/entry_points.txt"))


def test_a_wheel_of_no_build_says_so():
    os.environ["FLASHBLOCK_BUILD"] = "/nowhere"
    with Folder() as folder, raises(RuntimeError, "/nowhere"):
        backend().build_wheel(folder)


def test_meson_installs_the_package():
    if not shutil.which("meson"):
        raise Skipped("no meson")
    with Folder() as folder:
        environment = {**clean, "DESTDIR": str(folder)}
        run("meson", "install", "-C", build, "--no-rebuild", "--quiet", env=environment)
        packages = list(folder.glob("**/flashblock/_library.py"))
        assert len(packages) == 1, packages
        package = packages[0].parent
        assert {path.name for path in package.glob("*.py")} == {path.name for path in (root / "python/flashblock").glob("*.py")}
        printed = run(sys.executable, "-c", USE, cwd=folder, env={**clean, "PYTHONPATH": str(package.parent)})
        assert str(folder) in printed.split()[1] and str(package) in printed, printed


TESTS = """
import flashblock

class Port:
    def external(self, q, k, v, scale):
        return flashblock.attention(q, k, v, layout="THD", scale=scale * self.factor)
    internal = external
    factor = 1.0
    def merge(self, out_a, lse_a, out_b, lse_b):
        return flashblock.merge((out_a, lse_a), (out_b, lse_b), layout="THD", lse_layout="TH")

def test_right(flashblock_seed):
    report = flashblock.check_port(Port(), "tiny", dtype="f32", lse_layout="TH")
    assert report.seed == flashblock_seed

def test_wrong():
    port = Port()
    port.factor = 1.5
    flashblock.check_port(port, "tiny", dtype="f32", lse_layout="TH")

def test_planted():
    import pytest
    with pytest.raises(AssertionError):
        test_wrong()
"""


def test_the_pytest_plugin():
    if importlib.util.find_spec("pytest") is None:
        raise Skipped("no pytest")
    with Folder() as folder:
        _, site = unpacked_wheel(folder)
        (folder / "test_port.py").write_text(TESTS, encoding="utf-8")
        environment = {**clean, "PYTHONPATH": os.pathsep.join(filter(None, [str(site), tools]))}
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:hypothesispytest", "test_port.py"]
        printed = run(*command, "--flashblock-seed", "77", cwd=folder, env=environment, fails=True)
        assert "1 failed, 2 passed" in printed and "flashblock: --flashblock-seed 77" in printed, printed
        table = printed[printed.index(" flashblock =") :]
        rows = [line for line in table.splitlines() if line.startswith("test_")]
        outcomes = [row.split()[1] for row in rows]
        assert outcomes == ["passed", "failed", "caught"] and "seed 77" in rows[1], table
        assert "CheckFailed" in printed, printed


if __name__ == "__main__":
    sys.exit(run_tests(globals()))
