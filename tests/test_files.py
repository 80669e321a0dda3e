#!/usr/bin/python3
"""test_files.py PROGRAM MODEL_DIR: what the program's output files may be. Prints TAP."""
import contextlib
import fcntl
import json
import os
import pathlib
import random
import re
import resource
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time

from case_support import Skipped, case, expect, expect_equal, run_cases

PROGRAM = sys.argv[1]
MODEL = pathlib.Path(sys.argv[2])
NOBODY = 65534


def run(*arguments, env=None, **more):
    return subprocess.run([PROGRAM, *map(str, arguments)], stdin=subprocess.DEVNULL, timeout=300,
                          check=False, env={**os.environ, **(env or {})},
                          **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more})


def as_nobody():
    """Permissions do not bind root."""
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)


def succeeded(result):
    expect_equal(result.returncode, 0, f"exit status ({result.stderr!r})")
    return result


def failed(result, *words, status=1):
    message = result.stderr.decode()
    expect_equal(result.returncode, status, f"exit status ({message!r})")
    expect(message.startswith("flashblock: ") and message.count("\n") == 1, f"not one line: {message!r}")
    for word in words:
        expect(str(word) in message, f"{word!r} is not in {message!r}")
    return message


@contextlib.contextmanager
def folder():
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o777)
        yield pathlib.Path(name)


def is_info(content):
    return "instruction_sets" in json.loads(content)


def check_info(path, what):
    expect(is_info(path.read_bytes()), what)
    expect_equal(sorted(p.name for p in path.parent.iterdir() if ".tmp-" in p.name), [], what)


@case
def links_are_followed_and_stay():
    with folder() as where:
        below = where / "below"
        below.mkdir()
        real = below / "real"
        real.write_text("old")
        (where / "link").symlink_to("below/real")
        (where / "chain").symlink_to(where / "link")
        (where / "dangling").symlink_to("below/new")
        for name, target in (("link", real), ("chain", real), ("dangling", below / "new")):
            succeeded(run("info", "--json", where / name))
            expect((where / name).is_symlink(), name, "is no link any more")
            check_info(target, name)
            target.write_text("old")
        (where / "circle").symlink_to("circle")
        (where / "astray").symlink_to("none/such")
        (where / "folder").symlink_to("below")
        for name in ("circle", "astray", "folder", "below", "below/real/x", "none/x", "below/"):
            failed(run("info", "--json", f"{where}/{name}"), name)


@case
def permissions_and_owner_stay():
    with folder() as where:
        path = where / "x"
        for mode in (0o600, 0o640, 0o666, 0o755):
            path.write_text("old")
            path.chmod(mode)
            succeeded(run("info", "--json", path))
            expect_equal(stat.S_IMODE(path.stat().st_mode), mode, "permissions")
            check_info(path, oct(mode))
        path.unlink()
        succeeded(run("info", "--json", path, preexec_fn=lambda: os.umask(0o027)))
        expect_equal(stat.S_IMODE(path.stat().st_mode), 0o640, "of a new file, by the umask")
        if os.getuid() == 0:
            os.chown(path, NOBODY, NOBODY)
            succeeded(run("info", "--json", path))
            expect_equal((path.stat().st_uid, path.stat().st_gid), (NOBODY, NOBODY), "owner")


@case
def hard_links_see_the_new_bytes():
    with folder() as where:
        path, other = where / "x", where / "other"
        path.write_text("old" * 10000)
        os.link(path, other)
        succeeded(run("info", "--json", path))
        check_info(other, "the other name")
        expect(path.samefile(other), "they are two files now")


@case
def a_folder_that_takes_no_second_file():
    with folder() as where:
        path = where / "x"
        for old in ("old", "old" * 10000):
            path.write_text(old)
            path.chmod(0o666)
            where.chmod(0o555)
            succeeded(run("info", "--json", path, preexec_fn=as_nobody))
            check_info(path, "in place")
        failed(run("info", "--json", where / "new", preexec_fn=as_nobody), "new", "Permission denied")
        path.chmod(0o444)
        where.chmod(0o777)
        before = path.read_bytes()
        # Before the work: the model is not even looked for.
        failed(run("generate", "--model", "/nonesuch", "-p", "x", "--json", path, preexec_fn=as_nobody),
               path, "Permission denied")
        expect_equal(path.read_bytes(), before, "a file that may not be written")


@case
def mount_points():
    if os.getuid() != 0 or subprocess.run(["unshare", "-m", "true"], check=False,
                                          capture_output=True).returncode != 0:
        raise Skipped("no mounts")
    with folder() as where:
        (where / "real").write_text("old")
        (where / "mounted").write_text("")
        script = 'mount --bind "$1/real" "$1/mounted" && exec "$2" info --json "$1/mounted"'
        result = subprocess.run(["unshare", "-m", "sh", "-c", script, "sh", where, PROGRAM],
                                capture_output=True, timeout=300, check=False)
        if b"mount" in result.stderr:
            raise Skipped("no mounts")
        succeeded(result)
        check_info(where / "real", "what is mounted")
        expect_equal((where / "mounted").read_bytes(), b"", "what is below it")


@case
def standard_output_by_every_name():
    """The descriptor itself: what is in a file stays before it, what follows comes after it."""
    with folder() as where:
        (where / "link").symlink_to("/proc/self/fd/1")
        for name in ("-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", where / "link"):
            for mode in ("wb", "ab"):
                with open(where / "out", "wb") as out:
                    out.write(b"before\n")
                with open(where / "out", mode) as out:
                    out.write(b"first\n")
                    out.flush()
                    succeeded(run("info", "--json", name, stdout=out))
                    out.seek(0, os.SEEK_END)
                    out.write(b"after\n")
                lines = (where / "out").read_bytes()
                begin = b"first\n" if mode == "wb" else b"before\nfirst\n"
                expect(lines.startswith(begin + b"{") and lines.endswith(b"}\nafter\n"), name, mode, lines)
                expect(is_info(lines[len(begin):-6]), name)
            expect(is_info(succeeded(run("info", "--json", name)).stdout), name, "a pipe")
            ours, theirs = socket.socketpair()
            succeeded(run("info", "--json", name, stdout=theirs))
            theirs.close()
            expect(is_info(ours.makefile("rb").read()), name, "a socket")
            ours.close()
        expect((where / "link").is_symlink(), "the link")


@case
def other_descriptors_and_pipes():
    with folder() as where:
        reader, writer = os.pipe()
        succeeded(run("info", "--json", f"/dev/fd/{writer}", pass_fds=[writer]))
        os.close(writer)
        with open(reader, "rb") as file:
            expect(is_info(file.read()), "a descriptor")
        with open(MODEL / "config.json", "rb") as file:
            failed(run("info", "--json", f"/dev/fd/{file.fileno()}", pass_fds=[file.fileno()]),
                   "Bad file descriptor")
        failed(run("info", "--json", "/dev/fd/99"), "Bad file descriptor")
        pipe = where / "pipe"
        os.mkfifo(pipe)
        got = []
        thread = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
        thread.start()
        succeeded(run("info", "--json", pipe))
        thread.join()
        expect(is_info(got[0]), "a named pipe")
        expect(stat.S_ISFIFO(pipe.stat().st_mode), "it is a pipe no more")
        succeeded(run("info", "--json", "/dev/null"))
        expect(stat.S_ISCHR(os.stat("/dev/null").st_mode), "/dev/null")
        served = socket.socket(socket.AF_UNIX)
        served.bind(str(where / "socket"))
        failed(run("info", "--json", where / "socket"), "socket")
        served.close()


@case
def words_make_way_for_a_file_on_standard_output():
    with folder() as where:
        succeeded(run("golden", "-o", where / "case.safetensors"))
        for name in ("-", "/dev/stdout"):
            result = succeeded(run("golden", "-o", name))
            expect_equal(result.stdout, (where / "case.safetensors").read_bytes(), name)
            expect(b"tiny" in result.stderr, result.stderr)


@case
def one_file_for_two_outputs():
    with folder() as where:
        (where / "link").symlink_to("x")
        (where / "x").write_text("old")
        os.link(where / "x", where / "hard")
        for one, other in (("x", "x"), ("x", "link"), ("x", "hard"), ("new", "./new")):
            result = run("golden", "-o", f"{where}/{one}", "--json", f"{where}/{other}")
            expect_equal(result.returncode, 2, f"{one}, {other}")
            expect(b"--output and --json" in result.stderr, result.stderr)
        expect_equal(run("golden", "-o", "-", "--json").returncode, 2, "standard output twice")
        expect_equal((where / "x").read_text(), "old", "it was written")


@case
def nothing_is_lost():
    """A result that cannot be written where it should be is somewhere else, and the message says so."""
    with folder() as where:
        message = failed(run("info", "--json", "/dev/full", env={"TMPDIR": where}), "/dev/full", "No space left")
        kept = re.search(r"its content is in (\S+)", message)
        expect(kept and pathlib.Path(kept[1]).parent == where, message)
        expect(is_info(pathlib.Path(kept[1]).read_bytes()), message)
        # Files may have 100 bytes. Of all places only standard output is left, which is a pipe.
        path = where / "x"
        for old in ("old", None):
            if old:
                path.write_text(old)
            else:
                path.unlink()
            result = run("info", "--json", path, preexec_fn=lambda: resource.setrlimit(
                resource.RLIMIT_FSIZE, (100, 100)))
            failed(result, path, "File too large", "on standard output")
            expect(is_info(result.stdout), result.stdout)
            expect_equal(path.read_text() if path.exists() else None, old, "the target")
        expect_equal([p.name for p in where.iterdir() if ".tmp-" in p.name], [], "temporary files")
        # A pipe whose reader has gone.
        reader, writer = os.pipe()
        os.close(reader)
        failed(run("info", "--json", f"/dev/fd/{writer}", pass_fds=[writer], env={"TMPDIR": where}),
               "Broken pipe", f"its content is in {where}")
        os.close(writer)


@case
def a_target_that_goes_away_meanwhile():
    with folder() as where:
        gone = where / "gone"
        gone.mkdir()
        pipe = where / "pipe"
        os.mkfifo(pipe)
        process = subprocess.Popen([PROGRAM, "generate", "-m", MODEL, "-f", pipe, "-n", "8",
                                    "--json", gone / "x"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   env={**os.environ, "TMPDIR": str(where)})
        with open(pipe, "wb") as prompt: # it has checked the target and waits
            shutil.rmtree(gone)
            prompt.write(b"And it came to pass")
        _, errors = process.communicate(timeout=300)
        expect_equal(process.returncode, 1, errors)
        kept = re.search(rb"its content is in (\S+)\n", errors)
        expect(kept, errors)
        expect("results" in json.loads(pathlib.Path(kept[1].decode()).read_bytes()), errors)


@case
def two_files_or_none():
    with folder() as where:
        (where / "one").write_text("old")
        two = where / "two"
        two.mkdir()
        reads, writes = os.pipe()
        # golden has no input to wait at: it is stopped, and goes on when the folder has gone.
        process = subprocess.Popen([PROGRAM, "golden", "--context", "4k", "--steps", "4", "-o", where / "one",
                                    "--json", two / "x"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                   env={**os.environ, "TMPDIR": str(where)})
        os.close(reads)
        os.close(writes)
        temporary = lambda: list(where.glob("one.tmp-*")) and list(two.glob("x.tmp-*"))
        while process.poll() is None and not temporary(): # both are checked, and it works
            time.sleep(0.001)
        shutil.rmtree(two)
        _, errors = process.communicate(timeout=300)
        if process.returncode == 0 or b"two/x" not in errors:
            raise Skipped("it was faster")
        expect_equal((where / "one").read_text(), "old", "one of two files was written")
        expect("its content is in" in errors.decode(), errors)


@case
def what_killed_runs_left_is_removed():
    with folder() as where:
        path = where / "x"
        child = subprocess.Popen(["true"])
        child.wait()
        left = [where / f"x.tmp-{child.pid}-{i}" for i in (0, 17)]
        stays = [where / name for name in (
            f"x.tmp-{os.getpid()}-0", f"y.tmp-{child.pid}-0", f"x.tmp-{child.pid}-", f"x.tmp-{child.pid}-0.bak",
            "x.tmp-0-0", "x.tmp--1-0", "x.tmp-abc-0", "x.bak")]
        for file in left + stays:
            file.write_text("left")
        succeeded(run("info", "--json", path))
        expect_equal([f.name for f in left if f.exists()], [], "they stay")
        expect_equal([f.name for f in stays if not f.exists()], [], "they went")


@case
def process_ids_come_again():
    """In containers every run has the same id: one that was killed leaves a file of the next one's name."""
    with folder() as where:
        for lock in (False, True):
            script = "echo left > x.tmp-$$-0; " + ('exec 9< x.tmp-$$-0; flock -s 9; ' if lock else "")
            succeeded(subprocess.run(["sh", "-c", script + 'exec "$0" info --json x',
                                      os.path.abspath(PROGRAM)], cwd=where, capture_output=True, timeout=300,
                                     check=False))
            expect(is_info((where / "x").read_bytes()), "lock", lock)
            left = [path.name for path in where.iterdir() if ".tmp-" in path.name]
            expect_equal(len(left), int(lock), left) # what somebody holds stays


@case
def a_long_name():
    with folder() as where:
        path = where / ("n" * 255)
        for _ in range(2):
            succeeded(run("info", "--json", path))
            check_info(path, "a name as long as can be")
        failed(run("info", "--json", where / ("n" * 256)), "File name too long")


@case
def kills_leave_whole_files():
    with folder() as where:
        path = where / "x"
        succeeded(run("golden", "-o", path, "--seed", 1))
        olds = {path.read_bytes()}
        succeeded(run("golden", "-o", path, "--seed", 2))
        olds.add(path.read_bytes())
        start = time.monotonic()
        succeeded(run("golden", "-o", path, "--seed", 1))
        length = time.monotonic() - start
        dice = random.Random(1)
        for i in range(24):
            number = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)[i % 3]
            process = subprocess.Popen([PROGRAM, "golden", "-o", path, "--seed", str(1 + i % 2)],
                                       stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            time.sleep(length * 1.1 * dice.random())
            process.send_signal(number)
            _, errors = process.communicate(timeout=300)
            expect(process.returncode in (0, -number), process.returncode, errors)
            expect_equal(errors, b"", "what it says")
            expect(path.read_bytes() in olds, "half a file")
            expect_equal([p.name for p in where.iterdir()], ["x"], "files")


@case
def a_reader_that_has_gone():
    """The signal ends the program, as it ends others; where it is ignored there is one line."""
    for command in (["info"], ["info", "--json"], ["generate", "--help"],
                    ["generate", "-m", MODEL, "-p", "x", "-n", "4"]):
        for ignored in (False, True):
            reader, writer = os.pipe()
            os.close(reader)
            result = run(*command, stdout=writer, preexec_fn=lambda ignored=ignored: signal.signal(
                signal.SIGPIPE, signal.SIG_IGN if ignored else signal.SIG_DFL), restore_signals=False)
            os.close(writer)
            if ignored:
                message = result.stderr.decode()
                expect_equal(result.returncode, 1, message)
                expect_equal(message.count("\n"), 1, message)
                expect("content" not in message, "kept for nobody:", message)
            else:
                expect_equal(result.returncode, -signal.SIGPIPE, command)
                expect_equal(result.stderr, b"", command)


@case
def files_of_a_reader_that_has_gone():
    """`flashblock ... --json FILE | head -1`: the file is what it is without head."""
    with folder() as where:
        def texts(path):
            return [result["text"] for result in json.loads(path.read_bytes())["results"]]

        command = ["generate", "-m", MODEL, "-p", "Once", "-n", "60", "--visual", "--json"]
        succeeded(run(*command, where / "right"))
        for both in (False, True):
            path = where / f"file{both}"
            process = subprocess.Popen([PROGRAM, *command, path], stdin=subprocess.DEVNULL,
                                       stdout=subprocess.PIPE,
                                       stderr=subprocess.STDOUT if both else subprocess.PIPE)
            process.stdout.readline()
            process.stdout.close()
            status = process.wait(timeout=300)
            expect_equal(status, -signal.SIGPIPE, "exit status")
            expect_equal(texts(path), texts(where / "right"), "texts")
        expect_equal(sorted(p.name for p in where.iterdir()), ["fileFalse", "fileTrue", "right"], "files")


@case
def streams_that_do_not_block():
    """A slow reader of a pipe with O_NONBLOCK gets everything."""
    command = ["generate", "-m", MODEL, "-p", "Once", "-n", "60", "--visual"]
    for arguments in (["generate", "--help"], command, ["info", "--json"]):
        right = succeeded(run(*arguments)).stdout
        reader, writer = os.pipe()
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
        os.set_blocking(writer, False)
        process = subprocess.Popen([PROGRAM, *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=writer,
                                   stderr=subprocess.PIPE)
        os.close(writer)
        time.sleep(0.3)
        with open(reader, "rb") as stream:
            text = stream.read()
        errors = process.communicate(timeout=300)[1]
        expect_equal(process.returncode, 0, errors)
        expect_equal(len(text), len(right), arguments)
        expect(arguments[0] == "info" or text == right, arguments)


@case
def one_line_for_an_error_and_a_file_that_is_kept():
    """A command fails after one of its files was finished."""
    with folder() as where:
        gone = where / "gone"
        gone.mkdir()
        pipe = where / "pipe"
        os.mkfifo(pipe)
        process = subprocess.Popen([PROGRAM, "generate", "-m", MODEL, "-f", pipe, "-n", "8", "--json", gone / "x"],
                                   stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                   env={**os.environ, "TMPDIR": str(where)})
        with open(pipe, "wb") as prompt:
            shutil.rmtree(gone)
            prompt.write(b"And it came to pass")
        errors = process.communicate(timeout=300)[1].decode()
        lines = [line for line in errors.splitlines() if line.startswith("flashblock: ")]
        expect_equal(len(lines), 1, errors)
        expect("its content is in" in lines[0], errors)


@case
def weights_that_become_shorter():
    """As docs/robustness.md says: a map ends the process by SIGBUS; with --no-mmap nothing happens."""
    # The address sanitizer would catch the signal.
    environment = {**os.environ, "ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", "") + ":handle_sigbus=0"}
    with folder() as where:
        model = where / "model"
        command = ["generate", "-m", model, "-n", "40", "--ignore-eos"]
        shutil.copytree(MODEL, model)
        right = succeeded(run(*command, "-p", "Once")).stdout
        for options, expected in ((["--no-mmap"], 0), ([], -signal.SIGBUS)):
            shutil.rmtree(model)
            shutil.copytree(MODEL, model)
            pipe = where / "pipe"
            pipe.unlink(missing_ok=True)
            os.mkfifo(pipe)
            process = subprocess.Popen([PROGRAM, *map(str, command), *options, "-f", pipe], env=environment,
                                       stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            with open(pipe, "wb") as prompt: # the weights are loaded
                os.truncate(model / "model.safetensors", 50000)
                prompt.write(b"Once")
            output, errors = process.communicate(timeout=300)
            expect_equal(process.returncode, expected, errors)
            expect(expected or output == right, output)
        # Another file under the same name is no change of the mapped one.
        shutil.rmtree(model)
        shutil.copytree(MODEL, model)
        pipe.unlink()
        os.mkfifo(pipe)
        process = subprocess.Popen([PROGRAM, *map(str, command), "-f", pipe], stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        with open(pipe, "wb") as prompt:
            (where / "other").write_bytes(b"other weights")
            os.replace(where / "other", model / "model.safetensors")
            prompt.write(b"Once")
        output, errors = process.communicate(timeout=300)
        expect_equal((process.returncode, output), (0, right), errors)


@case
def closed_streams():
    """Nothing that is printed ends up in a file that got the number of a closed stream."""
    with folder() as where:
        for closing in ("<&-", ">&-", "2>&-", "<&- >&- 2>&-"):
            path = where / "x"
            result = subprocess.run(["sh", "-c", f'"$@" {closing}', "sh", PROGRAM, "generate", "-m", MODEL,
                                     "-p", "x", "-n", "4", "--json", path],
                                    capture_output=True, timeout=300, check=False)
            if ">&-" in closing.replace("2>&-", ""):
                expect_equal(result.returncode, 1, closing)
            else:
                succeeded(result)
                expect("results" in json.loads(path.read_bytes()), closing)
                path.unlink()
            expect_equal([p.name for p in where.iterdir()], [], closing)
        result = subprocess.run(["sh", "-c", '"$@" >&-', "sh", PROGRAM, "info"], capture_output=True,
                                timeout=300, check=False)
        failed(result, "standard output", "Bad file descriptor")


@case
def outputs_that_are_read():
    """A command never overwrites what it reads: by another name, a link, within a folder, as standard input."""
    with folder() as where:
        prompt, link, hard = where / "prompt", where / "link", where / "hard"
        prompt.write_text("And it came")
        link.symlink_to("prompt")
        hard.hardlink_to(prompt)
        copy = where / "model"
        shutil.copytree(MODEL, copy, symlinks=False, ignore=shutil.ignore_patterns("eval", "trace"))
        before = (copy / "config.json").read_bytes()
        generate = lambda name, *more, **keys: run("generate", "-m", copy, "-n", 4, "--json", name, *more, **keys)
        for name in (prompt, link, hard):
            failed(generate(name, "-f", prompt), "is read", status=2)
        with open(prompt, "rb") as stream:
            result = subprocess.run([PROGRAM, "generate", "-m", MODEL, "-f", "-", "--json", link], stdin=stream,
                                    capture_output=True, timeout=300, check=False)
        failed(result, "/dev/stdin", "is read", status=2)
        failed(generate(copy / "config.json", "-p", "x"), "config.json", "is read", status=2)
        case_file = where / "case.safetensors"
        succeeded(run("golden", "--preset", "tiny", "-o", case_file))
        bytes_of_case = case_file.read_bytes()
        result = run("verify", where, f"--json={case_file}", env={"TMPDIR": str(copy)})
        failed(result, "is read by the same command", "its content is in")
        expect_equal(case_file.read_bytes(), bytes_of_case, "the case")
        expect_equal((copy / "config.json").read_bytes(), before, "the model")
        expect_equal(prompt.read_text(), "And it came", "the prompt")
        succeeded(generate(where / "new", "-f", prompt))
        succeeded(generate(where / "new", "-f", prompt))


@case
def files_of_a_trace():
    """Links in the folder are followed; a file that cannot be written fails before the work."""
    with folder() as where:
        (where / "out").mkdir()
        (where / "real").write_text("old")
        (where / "out" / "trace.csv").symlink_to("../real")
        (where / "out" / "tau.csv").write_text("of an earlier trace")
        trace = ["trace", "-m", MODEL, "-p", "In the beginning", "-n", 4, "--no-pictures", "-o", where / "out"]
        succeeded(run(*trace, "--sweep", "none", "--json", where / "out" / "summary.json"))
        expect((where / "out" / "trace.csv").is_symlink(), "the link")
        expect((where / "real").read_text().startswith("sequence,"), "the file")
        expect_equal(sorted(p.name for p in (where / "out").iterdir()),
                     ["summary.json", "trace.csv", "trace.json"], "files")
        (where / "out" / "tau.csv").mkdir()
        before = (where / "real").read_text()
        failed(run(*trace), "tau.csv", "Is a directory")
        expect_equal((where / "real").read_text(), before, "one of several files was written")


def main():
    scratch = tempfile.mkdtemp()
    os.environ["TMPDIR"] = tempfile.tempdir = scratch # where the program keeps what cannot be written
    os.chmod(scratch, 0o777)
    status = run_cases()
    shutil.rmtree(scratch)
    return status


sys.exit(main())
