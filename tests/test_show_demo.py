"""golden/show_demo.py on terminals: narrow, low, dumb, without colours, resized, interrupted; and where there is none.

usage: test_show_demo.py SOURCE_ROOT
"""
import fcntl
import os
import pathlib
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time

ROOT = pathlib.Path(sys.argv[1])
MOVE_UP = re.compile(rb"\x1b\[(\d+)A")
CHILD = r"""
import sys
sys.path.insert(0, sys.argv[1])
import show_demo

class Reply(show_demo.Reply):
    def __init__(self):
        self.passes = [{"action": "reuse" if i % 2 else "refresh+store"} for i in range(12)]
        self.prompt = range(2507)

    def text_after(self, tokenizer, count):
        words = "The cousin of Olga is Ruth. The friend of Ruth is Cyrus. Cyrus has 53 cups.".split(" ")
        return " ".join(words[:count] + [show_demo.screen.mask] * (len(words) - count)) + "\nAnswer: 53"

show_demo.PAUSE = float(sys.argv[2])
show_demo.say("A question about a long text", style=show_demo.screen.bold)
show_demo.play([Reply(), Reply()], None)
"""
results = []


def check(name, fine, detail=""):
    results.append(fine)
    print(f"{'ok' if fine else 'not ok'} {len(results)} - {name}{' # ' + repr(detail) if detail and not fine else ''}")


def environment(**more):
    clean = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR", "PYTHONIOENCODING")}
    return {**clean, "TERM": "xterm", "PYTHONIOENCODING": "utf-8", **more}


def on_terminal(columns, lines, pause=0.001, then=None, **more):
    """Bytes that were written, and the exit status."""
    master, slave = pty.openpty()
    resize(slave, columns, lines)
    child = subprocess.Popen([sys.executable, "-c", CHILD, ROOT / "golden", str(pause)], stdin=slave, stdout=slave, stderr=slave,
                             env=environment(**more), start_new_session=True)  # fmt: skip
    written, begin = b"", time.time()
    while child.poll() is None or select.select([master], [], [], 0)[0]:
        if select.select([master], [], [], 0.05)[0]:
            written += os.read(master, 65536)
        if then and b"reuses" in written:
            then(child, slave)
            then = None
        if time.time() - begin > 60:
            child.kill()
    os.close(master)
    os.close(slave)
    return written, child.returncode


def resize(terminal, columns, lines):
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))


def lines_of(written):
    return re.sub(rb"\x1b\[[0-9]*[A-Za-z]", b"", written).decode().split("\r\n")


def test_widths():
    for columns in (20, 40, 80, 120):
        written, status = on_terminal(columns, 40)
        widest = max(map(len, lines_of(written)))
        check(f"no line is wider than {columns} columns", status == 0 and widest <= columns, (status, widest))
        frames = written.split(b"A\x1b[2m")  # each begins where the cursor went up to
        moved = [int(n) for n in MOVE_UP.findall(written)]
        check(f"{columns} columns: the cursor goes up as many lines as a frame has",
              len(moved) == 11 and all(f.count(b"\r\n") == n for f, n in zip(frames[1:], moved[1:])), moved)  # fmt: skip


def test_no_room():
    written, _ = on_terminal(80, 4)
    check("a terminal that is too low shows moments", not MOVE_UP.search(written) and b"after pass 12 of 12" in written, written)


def test_kinds():
    dumb, _ = on_terminal(80, 24, TERM="dumb")
    check("a dumb terminal gets no escapes", b"\x1b" not in dumb and b"after pass" in dumb, dumb)
    plain, _ = on_terminal(80, 24, NO_COLOR="1")
    check("NO_COLOR: no colours, but moves", MOVE_UP.search(plain) and not re.search(rb"\x1b\[\d+m", plain), plain)
    latin, status = on_terminal(80, 24, PYTHONIOENCODING="latin-1")
    check("masks where the encoding has no blocks", status == 0 and b"##" not in latin and b"#" in latin, latin)
    piped = subprocess.run([sys.executable, "-c", CHILD, ROOT / "golden", "0"], capture_output=True, env=environment(), check=True)
    check("a pipe gets no escapes", b"\x1b" not in piped.stdout and b"after pass 12 of 12" in piped.stdout, piped.stdout)


def test_resizing():
    def narrow(_, terminal):
        resize(terminal, 50, 40)

    written, status = on_terminal(95, 40, 0.05, narrow)
    lines = lines_of(written)
    heads = [i for i, line in enumerate(lines) if line.startswith("dense attention")]
    check("a terminal that was resized begins anew below", status == 0 and len(heads) == 2, heads)
    check("and fits", max(map(len, lines[heads[-1] :])) <= 50)


def test_interrupt():
    program = ROOT / "golden" / "show_demo.py"
    child = subprocess.Popen([sys.executable, program, "sleep", ROOT / "golden" / "demo-model"], stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, env=environment(), text=True)  # fmt: skip
    child.wait()
    error = child.stderr.read()
    check("a program that fails is one line", child.returncode == 1 and error.count("\n") == 1, error)
    code = f"import sys, runpy, os, signal; sys.path.insert(0, {str(program.parent)!r}); import demo_text; " \
           f"demo_text.Tokenizer = lambda path: os.kill(os.getpid(), signal.SIGINT); " \
           f"sys.argv = ['show_demo.py', 'x', 'y']; runpy.run_path({str(program)!r}, run_name='__main__')"  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment(), text=True)
    check("an interrupt ends it without a traceback", done.returncode == 130 and not done.stderr, done.stderr)


signal.alarm(120)
test_widths()
test_no_room()
test_kinds()
test_resizing()
test_interrupt()
print(f"1..{len(results)}")
sys.exit(not all(results))
