#!/usr/bin/env python3
"""test_limits.py PROGRAM GOLDEN: runs commands where something runs out: address space, threads, room on the
disk, descriptors, time. Each run is right, or ends with one line that says so and leaves every file as it
was; nothing hangs. Prints TAP."""
import json
import os
import pathlib
import random
import re
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from case_support import Skipped, case, expect, run_cases  # noqa: E402
from fault_support import MEMORY, Workplace, canonical, commands, complaint  # noqa: E402

PROGRAM = os.path.abspath(sys.argv[1])
GOLDEN = pathlib.Path(sys.argv[2]).resolve()
COMMANDS = commands(GOLDEN)
WRITERS = [command for command in COMMANDS if command.outputs]
ANY = re.compile(rb".")
KIB = 1 << 10
MIB = 1 << 20


def limited(kind, value):
    return lambda: resource.setrlimit(kind, (value, value))


def undisturbed(place):
    place.reset()
    result = place.run(PROGRAM)
    expect(result.returncode == 0, place.command.name, result.stderr)
    return canonical(place, result, place.files()), result.stderr


def check(place, right, usual, expected, **options):
    """Runs a command that something is wrong with. Returns its exit status."""
    place.reset()
    before = place.files()
    result = place.run(PROGRAM, **options)
    files = place.files()
    wrong = complaint(result, canonical(place, result, files) == right, before, files, expected, usual)
    expect(not wrong, place.command.name, options, wrong)
    return result.returncode


# --- memory, threads ------------------------------------------------------------------------------


@case
def every_command_runs_in_90_mb():
    for command in COMMANDS:
        with Workplace(command) as place:
            right, usual = undisturbed(place)
            status = check(place, right, usual, MEMORY, preexec_fn=limited(resource.RLIMIT_AS, 90 * MIB),
                           timeout=60)
            expect(status == 0, command.name, "needs more than 90 MB")


@case
def less_and_less_address_space():
    for command in COMMANDS:
        with Workplace(command) as place:
            right, usual = undisturbed(place)
            for size in (40, 25, 18, 14, 12, 10):
                place.reset()
                # What the dynamic loader says when it lacks memory is its own affair.
                loads = place.run(PROGRAM, preexec_fn=limited(resource.RLIMIT_AS, size * MIB))
                if b"error while loading shared libraries" in loads.stderr or loads.returncode == 127:
                    continue
                check(place, right, usual, MEMORY, preexec_fn=limited(resource.RLIMIT_AS, size * MIB))


@case
def more_threads_than_there_can_be():
    for threads in (64, 1024):
        result = subprocess.run([PROGRAM, "selftest", "--threads", str(threads)], capture_output=True, check=False,
                                timeout=300, preexec_fn=limited(resource.RLIMIT_AS, 250 * MIB))
        expect(result.returncode == 0 or result.stderr.startswith(b"flashblock: "), result)
        expect(len(result.stderr.splitlines()) <= 1, result.stderr)


@case
def no_thread_at_all():
    text = ["generate", "--model", GOLDEN / "demo-model", "-p", "And it", "-n", "8"]
    run = [PROGRAM, *map(str, text)]
    one, many = (subprocess.run([*run, "--threads", threads], capture_output=True, check=False, timeout=100,
                                preexec_fn=limited(resource.RLIMIT_AS, size * MIB))
                 for threads, size in (("1", 200), ("1000", 90)))
    expect(one.returncode == 0 and one.stdout == many.stdout, many)


@case
def bad_numbers_of_threads():
    for value in ("x", "-1", "0", "", "2 3", "99999999999999999999", "2,1"):
        result = subprocess.run([PROGRAM, "info", "--json"], capture_output=True, check=False,
                                env={**os.environ, "OMP_NUM_THREADS": value}, timeout=60)
        expect(result.returncode == 0 and not result.stderr, value, result.stderr)
        expect(1 <= json.loads(result.stdout)["threads"] <= 1024, value, result.stdout)


# --- sizes ----------------------------------------------------------------------------------------


def peak_of(arguments, stdin=subprocess.DEVNULL):
    """Exit status, standard error, and peak memory of a command in KiB, which has 10 s."""
    with tempfile.TemporaryFile() as errors:
        child = subprocess.Popen([PROGRAM, *map(str, arguments)], stdin=stdin, stdout=subprocess.DEVNULL,
                                 stderr=errors, preexec_fn=limited(resource.RLIMIT_CPU, 10))
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        errors.seek(0)
        return child.returncode, errors.read(), usage.ru_maxrss


def write_case(path, tensors, **metadata):
    header, data = {"__metadata__": metadata}, b""
    for name, (kind, shape, content) in tensors.items():
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


@case
def small_files_ask_for_little_memory():
    """A file cannot make the program take memory for more than it holds."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        calibration = {"format": "flashblock-calibration", "version": 1, "num_layers": 4096, "num_heads": 4096,
                       "num_steps": 64, "compat": "paper", "similarity_threshold": 0.8,
                       "similarity_threshold_by_step": [None] * 63, "lse_threshold": 0.1, "blocks": 1,
                       "similarity": [[[1]]], "lse_change": [[[1]]], "internal_similarity": [[[1]]],
                       "refresh": [[[0]]]}
        (folder / "c.json").write_text(json.dumps(calibration))
        status, said, peak = peak_of(["video", "--model", GOLDEN / "demo-video", "-n", 3, "--reuse", folder / "c.json",
                                      "-o", folder / "o.y4m"])
        expect(status == 1 and peak < 200 * KIB, "calibration", status, said, peak)
        for source in sorted(GOLDEN.glob("paper/*/*.safetensors")):
            hostile_parameters(source, folder)


def hostile_parameters(source, folder):
    """The case with each whole number among its parameters as large as can be."""
    raw = source.read_bytes()
    if len(raw) > 300 * KIB or source.parent.name in SEEN:
        return
    SEEN.add(source.parent.name)
    size = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8:8 + size])
    parameters = json.loads(header["__metadata__"].get("params", "{}"))
    for key, old in parameters.items():
        if not isinstance(old, int) or isinstance(old, bool):
            continue
        for value in (1 << 16, 1 << 20, (1 << 31) - 1, 1 << 40):
            header["__metadata__"]["params"] = json.dumps({**parameters, key: value})
            text = json.dumps(header).encode()
            path = folder / source.name
            path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + size:])
            status, said, peak = peak_of(["verify", path, "--threads", 1])
            expect(status in (0, 1) and peak < 400 * KIB, source.name, key, value, status, said, peak)


SEEN = set()


# --- disk, descriptors ----------------------------------------------------------------------------


@case
def files_may_not_grow():
    for command in WRITERS:
        with Workplace(command) as place:
            right, usual = undisturbed(place)
            for size in (0, 1, 4096):
                check(place, right, usual, ANY, preexec_fn=limited(resource.RLIMIT_FSIZE, size))


@case
def a_full_disk():
    """As root only: a file system of 16 KiB."""
    if os.geteuid() != 0:
        raise Skipped("not root")
    for command in WRITERS:
        with Workplace(command) as place:
            right, usual = undisturbed(place)
            place.reset()
            mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", place.out], check=False,
                                     capture_output=True)
            if mounted.returncode != 0:
                raise Skipped("no file system can be mounted")
            try:
                for name in command.outputs:
                    (place.out / name).write_bytes(place.OLD)
                before = place.files()
                result = place.run(PROGRAM)
                files = place.files()
                wrong = complaint(result, canonical(place, result, files) == right, before, files, ANY, usual)
                expect(not wrong, command.name, wrong)
            finally:
                subprocess.run(["umount", place.out], check=True)


@case
def a_full_device():
    for command in COMMANDS:
        with Workplace(command) as place, open("/dev/full", "wb") as full:
            place.reset()
            result = place.run(PROGRAM, stdout=full)
            printed = place.run(PROGRAM).stdout != b""
            expect(result.returncode == (1 if printed else 0), command.name, result)


@case
def closed_descriptors():
    for command in COMMANDS:
        with Workplace(command) as place:
            right, _ = undisturbed(place)
            for closed in ([0], [1], [2], [0, 1], [1, 2], [0, 1, 2]):
                place.reset()
                before = place.files()
                result = place.run(PROGRAM, preexec_fn=lambda closed=closed: [os.close(i) for i in closed])
                files = place.files()
                done = {name: text for name, text in canonical(place, result, files).items() if name in files}
                expect(result.returncode in (0, 1), command.name, closed, result.returncode)
                expect(files == before or all(done[name] == right[name] for name in done), command.name, closed,
                       "files are neither old nor new")


@case
def killed_at_any_moment():
    """No half file; and what a killed run leaves behind is gone after the next one."""
    random.seed(1)
    for command in WRITERS:
        with Workplace(command) as place:
            begin = time.monotonic()
            right, _ = undisturbed(place)
            took = time.monotonic() - begin
            for _ in range(12):
                place.reset()
                before = place.files()
                arguments = [str(item).replace("{out}", str(place.out)) for item in command.arguments]
                child = subprocess.Popen([PROGRAM, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                         stderr=subprocess.DEVNULL)
                time.sleep(random.random() * took)
                child.send_signal(random.choice((signal.SIGKILL, signal.SIGTERM, signal.SIGINT)))
                child.wait()
                files = place.files()
                done = canonical(place, subprocess.CompletedProcess([], 0, b""), files)
                for name in command.outputs:
                    expect(files[name] == before[name] or done[name] == right[name], command.name, name,
                           "is half a file")
            place.run(PROGRAM)
            strange = sorted(name for name in place.files() if name not in right)
            expect(not strange, command.name, "leaves", strange)


if __name__ == "__main__":
    sys.exit(run_cases())
