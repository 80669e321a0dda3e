"""Finds and opens the shared libraries, and turns a status into an exception."""
import ctypes
import os
import pathlib
import sys

from . import _declarations as c

_package = pathlib.Path(__file__).resolve().parent
_names = {"core": "libflashblock", "oracle": "libflashblock-oracle"}
_ending = ".dylib" if sys.platform == "darwin" else ".so"
_opened = {}


class FlashBlockError(Exception):
    """A call of the library failed. The message is the library's."""


class ArgumentError(FlashBlockError, ValueError):
    """An argument is outside its documented range."""


class OutOfMemory(FlashBlockError, MemoryError):
    """An allocation failed, or its size does not fit."""


class StaleError(FlashBlockError, ValueError):
    """A kept part belongs to another state of the KV cache."""


class FileError(FlashBlockError, OSError):
    """A file cannot be opened, read or written."""


class FormatError(FlashBlockError, ValueError):
    """A file's content is malformed or contradicts itself."""


class UnsupportedError(FlashBlockError, NotImplementedError):
    """Well-formed, but not something that this build or this CPU can do."""


class LibraryNotFound(FlashBlockError, ImportError):
    """The shared libraries are nowhere to be found."""


_errors = {
    c.FB_ERROR_ARGUMENT: ArgumentError,
    c.FB_ERROR_MEMORY: OutOfMemory,
    c.FB_ERROR_STALE: StaleError,
    c.FB_ERROR_IO: FileError,
    c.FB_ERROR_FORMAT: FormatError,
    c.FB_ERROR_UNSUPPORTED: UnsupportedError,
}


# --- where the libraries are ----------------------------------------------------------------------


def _folders():
    """Folders that may hold the libraries, best first."""
    given = os.environ.get("FLASHBLOCK_LIB")
    if given:
        path = pathlib.Path(given)
        return [path if path.is_dir() else path.parent]
    folders = [_package / "lib", _package]  # a wheel's
    installed = _package / "_libdir.txt"  # written by `meson install`: relative to the package
    if installed.exists():
        folders.append((_package / installed.read_text(encoding="utf-8").strip()).resolve())
    root = _package.parent.parent  # a checkout: the build folder that is the newest
    if (root / "meson.build").exists():
        builds = [path.parent for path in root.glob("build*/" + _names["core"] + _ending)]
        folders += sorted(builds, key=lambda path: -(path / (_names["core"] + _ending)).stat().st_mtime)
    return folders


def _file(folder, name):
    for candidate in (folder / (name + _ending), folder / (name + _ending + ".0")):
        if candidate.exists():
            return candidate
    return None


def _open_bundled(folder):
    """Libraries of others that a wheel brings along; a later library finds them by their names."""
    left = sorted(path for path in folder.glob("*.so*") if not path.name.startswith(_names["core"]))
    for _ in range(len(left)):  # as many rounds as one may need the other
        for path in list(left):
            if _try_open(path.name if "gomp" in path.name else path) or _try_open(path):
                left.remove(path)


def _try_open(path):
    try:
        return ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    except OSError:
        return None


def _open(name):
    tried = []
    for folder in _folders():
        path = _file(folder, _names[name])
        tried.append(str(folder))
        if path:
            if folder == _package / "lib":
                _open_bundled(folder)
            try:
                return ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
            except OSError as error:
                raise LibraryNotFound(f"{path} cannot be opened: {error}") from error
    if not os.environ.get("FLASHBLOCK_LIB"):
        loaded = _try_open(_names[name] + _ending + ".0") or _try_open(_names[name] + _ending)
        if loaded:
            return loaded
        tried.append("the folders of the dynamic loader")
    raise LibraryNotFound(
        f"{_names[name]}{_ending} is not in {', '.join(tried)}. Build it (meson setup build && ninja -C build), "
        "or set FLASHBLOCK_LIB to the folder that holds it"
    )


def library(name="core"):
    """The functions of libflashblock ("core") or libflashblock-oracle ("oracle")."""
    if name not in _opened:
        if name != "core":
            library("core")  # the other one needs it
        opened = _open(name)
        for function, result, arguments in c.FUNCTIONS[name]:
            try:
                entry = getattr(opened, function)
            except AttributeError:
                raise LibraryNotFound(
                    f"{opened._name} has no function {function}: it is of another version than this package"
                ) from None
            entry.restype, entry.argtypes = result, arguments
        _opened[name] = opened
    return _opened[name]


def check_status(status):
    """Raises the exception of a status that is not FB_OK."""
    if status != c.FB_OK:
        message = library().fb_error_message().decode("utf-8", "replace")
        raise _errors.get(status, FlashBlockError)(message)


def version():
    """The version of the library: "0.2.0"."""
    return library().fb_version().decode()
