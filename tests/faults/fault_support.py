"""What the tests of faults share: commands of the program, small enough to be run a thousand times, and
what is expected of a run in which something fails."""
import os
import pathlib
import re
import shutil
import subprocess
import tempfile

# One of these is what a failing allocation is called, in a library's words or the system's.
MEMORY = re.compile(rb"memory|allocate|Cannot allocate|too large", re.IGNORECASE)


class Command:
    """A command, and the files that it writes. `arguments` may contain {out}, a folder."""

    def __init__(self, name, arguments, outputs=()):
        self.name = name
        self.arguments = arguments
        self.outputs = outputs


def commands(golden):
    golden = pathlib.Path(golden).resolve()
    model = ["--model", golden / "demo-model", "--threads", 1]
    video = ["--model", golden / "demo-video", "--threads", 1]
    case = golden / "paper/attn/attn_27_normal_q6_k19_h6-2_d64.safetensors"
    text = ["--prompt", "And it", "-n", 6]
    return [
        Command("generate", ["generate", *model, *text]),
        Command("generate --json", ["generate", *model, *text, "--json={out}/o.json"], ["o.json"]),
        Command("generate --sparse", ["generate", *model, "--prompt", "And it came", "-n", 6, "--sparse",
                                      "quest", "--density", 0.5]),
        Command("generate --no-mmap", ["generate", *model, *text, "--no-mmap"]),
        Command("verify", ["verify", case]),
        Command("verify --json", ["verify", case, "--json={out}/o.json"], ["o.json"]),
        Command("golden", ["golden", "--context", 40, "--threads", 1, "-o", "{out}/o.safetensors"],
                ["o.safetensors"]),
        Command("calibrate", ["calibrate", *video, "--samples", 1, "-n", 6, "--lse-threshold", 0.5, "-o",
                              "{out}/o.json"], ["o.json"]),
        Command("video", ["video", *video, "--clips", 1, "-n", 3, "-o", "{out}/o.y4m", "--sheet",
                          "{out}/o.png"], ["o.y4m", "o.png"]),
        Command("trace", ["trace", *model, *text, "--no-pictures", "-o", "{out}"], ["trace.csv", "trace.json"]),
        Command("info --json", ["info", "--json"]),
    ]


class Workplace:
    """A folder with a command's outputs of earlier, which a failing run must leave as they are."""

    OLD = b"what was there before\n"

    def __init__(self, command):
        self.command = command
        self.root = pathlib.Path(tempfile.mkdtemp())
        self.out = self.root / "out"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.root, ignore_errors=True)

    def reset(self):
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir()
        for name in self.command.outputs:
            (self.out / name).write_bytes(self.OLD)

    def files(self):
        return {path.name: path.read_bytes() for path in self.out.iterdir()}

    def run(self, program, env=None, timeout=120, **options):
        arguments = [str(item).replace("{out}", str(self.out)) for item in self.command.arguments]
        options.setdefault("stdout", subprocess.PIPE)
        options.setdefault("stderr", subprocess.PIPE)
        options.setdefault("stdin", subprocess.DEVNULL)
        return subprocess.run([program, *arguments], env={**os.environ, **(env or {})}, timeout=timeout,
                              check=False, cwd=self.root, **options)


def without_numbers(text):
    return re.sub(rb"-?[0-9][-+0-9.e]*", b"#", text or b"")


def canonical(place, result, files):
    """What a run gave, without its numbers: times differ from one run to the next."""
    texts = {"standard output": result.stdout, **files}
    return {name: text if name.endswith((".y4m", ".png", ".safetensors")) else
            without_numbers((text or b"").replace(str(place.root).encode(), b"ROOT"))
            for name, text in texts.items()}


# Where a result was computed, but not written, it is kept beside: the second line says so.
KEPT = re.compile(rb"flashblock: .*(not written|its content is in).*")


def errors(result, usual):
    """The lines of standard error, without those that an undisturbed run writes, and what is kept; a case
    that cannot be checked is a line of standard output."""
    usual = {without_numbers(line) for line in usual.splitlines()}
    lines = [line for line in (result.stderr or b"").splitlines() if without_numbers(line) not in usual]
    lines[1:] = [line for line in lines[1:] if not KEPT.fullmatch(line)]
    if not lines:
        lines = [b"flashblock: " + line for line in (result.stdout or b"").splitlines() if b" FAIL: " in line]
    return lines


def complaint(result, right, before, files, expected, usual=b""):
    """What is wrong with a run in which something failed: text, or None. `right`: whether it gave what an
    undisturbed run gives. `before` and `files` are the files before and after, `expected` is what an error
    has to say, `usual` an undisturbed run's standard error."""
    if result.returncode < 0:
        return f"killed by signal {-result.returncode}"
    if result.returncode == 0:
        return None if right else "exit status 0, but other results"
    if result.returncode != 1:
        return f"exit status {result.returncode}: {result.stderr!r}"
    lines = errors(result, usual)
    if len(lines) != 1 or not lines[0].startswith(b"flashblock: "):
        return f"not one line: {result.stderr!r}"
    if not expected.search(lines[0]):
        return f"another error: {result.stderr!r}"
    files = {name: text for name, text in files.items() if ".kept-" not in name}
    if files != before:
        return f"after an error {difference(before, files)}"
    return None


def difference(wanted, found):
    names = sorted(name for name in {*wanted, *found} if wanted.get(name) != found.get(name))
    return "other files: " + ", ".join(
        f"{name} ({'gone' if name not in found else f'{len(found[name])} bytes'})" for name in names)
