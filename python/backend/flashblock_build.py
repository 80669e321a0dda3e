"""Builds the wheel of the Python package (PEP 517, PEP 660) with Python's standard library only.

The wheel carries libflashblock and libflashblock-oracle, and those libraries of others that they need and that not
every system has. They are taken from FLASHBLOCK_BUILD, the folder of a build; or from the newest build folder of the
checkout; or they are built, with meson, in a temporary folder.
"""
import base64
import hashlib
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import zipfile

package = pathlib.Path(__file__).resolve().parent.parent
checkout = package.parent
LIBRARIES = ("libflashblock", "libflashblock-oracle")
# Every system has them, and a second copy would do harm.
SYSTEM = ("linux-vdso", "ld-linux", "libc.so", "libm.so", "libpthread", "libdl.so", "librt.so", "libgcc_s")
DESCRIPTION = "FlashBlock attention caching, and an oracle that judges attention kernels"
ENTRY_POINTS = "[pytest11]\nflashblock = flashblock.pytest_plugin\n"


def _version():
    header = (checkout / "include" / "flashblock" / "version.h").read_text(encoding="utf-8")
    return ".".join(re.search(rf"FB_VERSION_{part} (\d+)", header).group(1) for part in ("MAJOR", "MINOR", "PATCH"))


def _metadata():
    fields = [
        "Metadata-Version: 2.1",
        "Name: flashblock",
        f"Version: {_version()}",
        f"Summary: {DESCRIPTION}",
        "License: Apache-2.0",
        "Requires-Python: >=3.9",
        "Description-Content-Type: text/markdown",
    ]
    return "\n".join(fields) + "\n\n" + (package / "README.md").read_text(encoding="utf-8")


# --- the libraries --------------------------------------------------------------------------------


def _library(folder, name):
    for ending in (".so", ".dylib"):
        if (folder / (name + ending)).exists():
            return folder / (name + ending)
    return None


def _has_libraries(folder):
    return all(_library(folder, name) for name in LIBRARIES)


def _build(folder):
    """Builds both libraries with meson."""
    if not shutil.which("meson") or not shutil.which("ninja"):
        raise RuntimeError(
            "there is no build of flashblock, and no meson and ninja to make one: build it elsewhere and set "
            "FLASHBLOCK_BUILD to the build folder"
        )
    # pip hides the system's packages from Python, and meson is one of them.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    targets = [name[len("lib") :] + ":shared_library" for name in LIBRARIES]
    for command in (
        ["setup", str(folder), str(checkout), "--buildtype", "release", "-Dtests=disabled", "-Dpython_dir=none"],
        ["compile", "-C", str(folder), *targets],
    ):
        subprocess.run(["meson", *command], check=True, stdout=sys.stderr, env=environment)


def _find_build(temporary):
    given = os.environ.get("FLASHBLOCK_BUILD")
    if given:
        folder = pathlib.Path(given)
        if not _has_libraries(folder):
            raise RuntimeError(f"FLASHBLOCK_BUILD is {given}, which does not hold {' and '.join(LIBRARIES)}")
        return folder
    builds = [folder for folder in checkout.glob("build*") if folder.is_dir() and _has_libraries(folder)]
    if builds:
        return max(builds, key=lambda folder: _library(folder, LIBRARIES[0]).stat().st_mtime)
    folder = pathlib.Path(temporary) / "build"
    _build(folder)
    return folder


def _needed(library):
    """Libraries of others that this one loads: {name: file}."""
    if not shutil.which("ldd"):
        return {}
    listed = subprocess.run(["ldd", str(library)], check=True, stdout=subprocess.PIPE, encoding="utf-8").stdout
    found = dict(re.findall(r"^\s*(\S+) => (/\S+)", listed, re.MULTILINE))
    own = tuple(LIBRARIES)
    return {name: pathlib.Path(path) for name, path in found.items() if not name.startswith(SYSTEM + own)}


def _libraries(build):
    """{name in the wheel: file}."""
    files = {}
    for name in LIBRARIES:
        library = _library(build, name)
        files[library.name] = library.resolve()
        files.update({name: path.resolve() for name, path in _needed(library).items()})
    return files


def _platform_tag():
    """This system's C library and later ones; another system's C library may be older."""
    tag = re.sub(r"[-.]", "_", sysconfig.get_platform())
    name, version = platform.libc_ver()
    if tag.startswith("linux_") and name == "glibc":
        major, minor = version.split(".")[:2]
        return tag.replace("linux_", f"manylinux_{major}_{minor}_", 1)
    return tag


# --- archives -------------------------------------------------------------------------------------


class _Wheel:
    """A zip file that lists what is in it. Equal contents give equal bytes."""

    def __init__(self, path, info):
        self.zip, self.info, self.records = zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED), info, []

    def add(self, name, content):
        if isinstance(content, str):
            content = content.encode()
        entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
        entry.compress_type = zipfile.ZIP_DEFLATED
        entry.external_attr = 0o644 << 16
        self.zip.writestr(entry, content)
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        self.records.append(f"{name},sha256={digest},{len(content)}")

    def close(self, tag):
        for name, content in _information(tag).items():
            self.add(f"{self.info}/{name}", content)
        self.records.append(f"{self.info}/RECORD,,")
        self.zip.writestr(zipfile.ZipInfo(f"{self.info}/RECORD", (1980, 1, 1, 0, 0, 0)), "\n".join(self.records) + "\n")
        self.zip.close()


def _information(tag):
    """What a wheel says about itself: {file: text}."""
    pure = str(tag.endswith("any")).lower()
    return {
        "METADATA": _metadata(),
        "WHEEL": f"Wheel-Version: 1.0\nGenerator: flashblock_build\nRoot-Is-Purelib: {pure}\nTag: {tag}\n",
        "entry_points.txt": ENTRY_POINTS,
        "LICENSE": (checkout / "LICENSE").read_text(encoding="utf-8"),
    }


def _wheel(folder, tag, fill):
    stem = f"flashblock-{_version()}"
    name = f"{stem}-{tag}.whl"
    wheel = _Wheel(pathlib.Path(folder) / name, f"{stem}.dist-info")
    fill(wheel)
    wheel.close(tag)
    return name


# --- what pip calls -------------------------------------------------------------------------------


def get_requires_for_build_wheel(config_settings=None):
    return []


def get_requires_for_build_editable(config_settings=None):
    return []


def get_requires_for_build_sdist(config_settings=None):
    return []


def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
    name = f"flashblock-{_version()}.dist-info"
    folder = pathlib.Path(metadata_directory) / name
    folder.mkdir()
    for file, text in _information(f"py3-none-{_platform_tag()}").items():
        (folder / file).write_text(text, encoding="utf-8")
    return name


prepare_metadata_for_build_editable = prepare_metadata_for_build_wheel


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    def fill(wheel):
        for path in sorted((package / "flashblock").glob("*.py")):
            wheel.add(f"flashblock/{path.name}", path.read_bytes())
        for name, path in sorted(libraries.items()):
            wheel.add(f"flashblock/lib/{name}", path.read_bytes())

    with tempfile.TemporaryDirectory() as temporary:
        libraries = _libraries(_find_build(temporary))
        return _wheel(wheel_directory, f"py3-none-{_platform_tag()}", fill)


def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    """The package stays where it is, and takes the libraries of the checkout's build folder."""
    return _wheel(wheel_directory, "py3-none-any", lambda wheel: wheel.add("flashblock.pth", f"{package}\n"))


def build_sdist(sdist_directory, config_settings=None):
    """The sources that git knows. (The package is built from a checkout, as the library is.)"""
    stem = f"flashblock-{_version()}"
    listed = subprocess.run(["git", "-C", str(checkout), "ls-files", "-z"], check=True, stdout=subprocess.PIPE).stdout
    name = f"{stem}.tar.gz"
    with tarfile.open(pathlib.Path(sdist_directory) / name, "w:gz") as archive:
        for file in filter(None, listed.decode().split("\0")):
            if not file.startswith("golden/") or file == "golden/hashes.txt":  # which the oracle is built with
                archive.add(checkout / file, f"{stem}/{file}", recursive=False)
        _add_text(archive, f"{stem}/PKG-INFO", _metadata())
        _add_text(archive, f"{stem}/pyproject.toml", (package / "pyproject.toml").read_text(encoding="utf-8").replace(
            '"backend"', '"python/backend"'))  # fmt: skip
    return name


def _add_text(archive, name, text):
    import io

    content = text.encode()
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))
