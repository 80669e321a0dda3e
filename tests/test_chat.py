#!/usr/bin/python3
"""test_chat.py PROGRAM MODEL_DIR: `flashblock chat`, through pipes and on a terminal. Prints TAP.

MODEL_DIR is the demo model; the cases use a copy of it whose tokenizer has the tokens of a chat format.
"""
import contextlib
import fcntl
import json
import os
import pathlib
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time

from case_support import Skipped, case, expect, expect_equal, run_cases

PROGRAM = sys.argv[1]
DEMO = pathlib.Path(sys.argv[2])
TIMEOUT = 120


@contextlib.contextmanager
def model(names=("<|im_start|>", "<|im_end|>"), template=None):
    """The demo model with other texts for its two special tokens."""
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder) / "model"
        shutil.copytree(DEMO, copy)
        tokenizer = json.loads((copy / "tokenizer.json").read_text(encoding="utf-8"))
        free = [t for t in tokenizer["added_tokens"] if t["content"] != "<|MASK|>"]
        for token, name in zip(free, names):
            tokenizer["model"]["vocab"].pop(token["content"], None)
            token["content"] = name
        (copy / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
        if template is not None:
            (copy / "chat_template.jinja").write_text(template, encoding="utf-8")
        yield copy


def chat(directory, lines, *arguments, tokens=16):
    text = lines if isinstance(lines, bytes) else "".join(line + "\n" for line in lines).encode()
    return subprocess.run(
        [PROGRAM, "chat", "--model", str(directory), "-n", str(tokens), *map(str, arguments)],
        input=text,
        capture_output=True,
        timeout=TIMEOUT,
        check=False,
    )


def answers(result, status=0):
    expect_equal(result.returncode, status, f"exit status ({result.stderr!r})")
    return result.stdout.decode()


def saved(directory, lines, *arguments, **more):
    """The messages of a chat after these lines, as /save has them."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "chat.json"
        answers(chat(directory, [*lines, f"/save {path}"], *arguments, **more))
        return json.loads(path.read_text(encoding="utf-8"))


def contents(chat_file, role):
    return [m["content"] for m in chat_file["messages"] if m["role"] == role]


# --- pipes ---------------------------------------------------------------------------------------


@case
def the_first_answer_is_that_of_generate():
    with model() as directory:
        told = subprocess.run(
            [PROGRAM, "generate", "--model", str(directory), "--chat", "-p", "Who art thou?", "-n", "16"],
            capture_output=True,
            timeout=TIMEOUT,
            check=True,
        )
        expect_equal(chat(directory, ["Who art thou?"]).stdout, told.stdout, "answer")


@case
def later_turns_read_only_what_is_new():
    with model() as directory:
        result = chat(directory, ["Who art thou?", "And then?", "/stats"])
        answers(result)
        last, total = re.findall(rb"of the prompt (\d+) read in [\d.]+ s, (\d+) kept", result.stderr)
        expect(0 < int(last[0]) < int(last[1]), "the last answer", last)
        expect(int(total[0]) > int(last[0]) and total[1] == last[1], "all answers", total, last)
        for words in (b"refresh", b"reuse", b"commit", b"attention", b"tokens", b"of 16384 tokens"):
            expect(words in result.stderr, words)


@case
def an_answer_does_not_depend_on_what_is_kept():
    """A chat that is loaded reads everything; one that goes on does not."""
    with model() as directory, tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "chat.json"
        turns = ["Who art thou?", "And then?", "Why?"]
        whole = saved(directory, turns)
        result = chat(directory, [*turns[:2], f"/save {path}", "/reset", f"/load {path}"])
        answers(result)
        for words in (b"4 messages are saved", b"4 messages are loaded"):
            expect(words in result.stderr, words, result.stderr)
        loaded = saved(directory, turns[2:], "--load", path)
        expect_equal(loaded, whole, "chat")
        result = chat(directory, [turns[0], "/reset", f"/load {path}", turns[2]])
        expect_equal(answers(result).strip().split("\n")[-1], whole["messages"][-1]["content"].split("\n")[-1], "answer")


@case
def temperature_draws_each_turn_anew():
    with model() as directory:
        drawn = ["--temperature", "1", "--seed", "7"]
        one, other = (saved(directory, ["Who?", "/reset", "Who?"], *drawn) for _ in range(2))
        expect_equal(one, other, "the same seed")
        two = contents(saved(directory, ["Who?", "Who?"], *drawn), "assistant")
        expect(two[0] != two[1], "two turns")


@case
def a_system_prompt_comes_first():
    with model() as directory:
        said = saved(directory, ["Who?", "/reset", "Why?"], "--system", "Be kind.")
        expect_equal([m["role"] for m in said["messages"]], ["system", "user", "assistant"], "roles")
        expect_equal(contents(said, "system") + contents(said, "user"), ["Be kind.", "Why?"], "texts")
        plain = saved(directory, ["Why?"])
        count = lambda *more: re.search(rb"context: (\d+) of", chat(directory, ["Why?", "/stats"], *more).stderr)[1]
        expect(int(count("--system", "Be kind.")) > int(count()), "tokens")
        expect_equal(contents(plain, "system"), [], "no system prompt")


@case
def lines():
    """A backslash joins lines, two slashes begin a text, an empty line is none, the last one needs no end."""
    with model() as directory:
        said = saved(directory, ["", "one\\", "two\\", "three", "//four"])
        expect_equal(contents(said, "user"), ["one\ntwo\nthree", "/four"], "turns")
        ended = chat(directory, b"one\\")
        expect(len(answers(ended)) > 1, "a backslash at the end of the input")
        expect_equal(answers(chat(directory, b"")), "", "no input")
        odd = saved(directory, [])
        expect_equal(odd["messages"], [], "messages of an empty chat")
        result = chat(directory, b"a\0b\xff\xfe\n/stats\n")
        answers(result)
        expect(b"answers" not in result.stderr and b"the last answer" in result.stderr, "any bytes are a text")
        long = chat(directory, b"word " * 20000 + b"\n/help\n")
        expect_equal(long.returncode, 2, "a text that is longer than the context")
        expect(b"16384" in long.stderr and b"/save" in long.stderr, "what is wrong, and the chat goes on", long.stderr)


@case
def commands_that_are_wrong():
    with model() as directory:
        for line, words in [
            ("/nonsense", b"'/nonsense'; /help"),
            ("/save", b"/save needs a value: FILE"),
            ("/reset now", b"/reset takes no value"),
            ("/load /nowhere/chat.json", b"/nowhere/chat.json"),
            ("/save /nowhere/chat.json", b"/nowhere/chat.json"),
        ]:
            result = chat(directory, [line, "Who?"])
            expect(result.returncode in (1, 2), line, result.returncode)
            expect(words in result.stderr, line, result.stderr)
            expect(len(result.stdout) > 1, "the chat goes on after", line)
        expect_equal(answers(chat(directory, ["/quit", "Who?"])), "", "after /quit")


@case
def files_that_are_no_chat():
    with model() as directory, tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "chat.json"
        user, assistant = ({"role": role, "content": "x"} for role in ("user", "assistant"))
        for content, words in [
            ("{", b"chat.json"),
            ("{}", b"messages"),
            ('{"messages": 7}', b"messages"),
            ('{"messages": [7]}', b"message 0"),
            ('{"messages": [{"role": "user"}]}', b"content"),
            (json.dumps({"messages": [assistant]}), b'"assistant", not "user"'),
            (json.dumps({"messages": [user]}), b"the last message"),
            (json.dumps({"messages": [user, user]}), b'"user", not "assistant"'),
        ]:
            path.write_text(content, encoding="utf-8")
            before = ["Who?", f"/load {path}", f"/save {path}"]
            result = chat(directory, before)
            expect(result.returncode in (1, 2) and words in result.stderr, content, result.stderr)
            expect_equal(contents(json.loads(path.read_text(encoding="utf-8")), "user"), ["Who?"], "the chat stays")
        path.write_text(json.dumps({"messages": [user, assistant]}), encoding="utf-8")
        expect_equal(len(saved(directory, ["y"], "--load", path)["messages"]), 4, "messages")


LLADA2 = """{% set thinking_option = 'off' %}{{- '<role>SYSTEM</role>' }}
{%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n' }}{%- endif %}
{{- 'detailed thinking ' + thinking_option + '<|role_end|>' }}
{%- for message in messages %}{%- if message.role == 'user' %}{{- '<role>HUMAN</role>' + message.content + '<|role_end|>' }}
{%- elif message.role == 'assistant' %}{{- '<role>ASSISTANT</role>' + message.content + '<|role_end|>' }}{%- endif %}{%- endfor %}
{%- if add_generation_prompt %}{{- '<role>ASSISTANT</role>' }}{%- endif %}"""


@case
def the_format_of_the_template():
    with model(("<|endoftext|>", "<|role_end|>"), LLADA2) as directory:
        expect_equal(saved(directory, ["Who?"])["format"], "llada2", "format")
        encode = lambda text, *more: json.loads(
            subprocess.run(
                [PROGRAM, "generate", "--model", str(directory), "-p", text, "-n", "1", "--json", *more],
                capture_output=True,
                timeout=TIMEOUT,
                check=True,
            ).stdout
        )["results"][0]["prompt_token_ids"]
        spelled = "<role>SYSTEM</role>detailed thinking off<|role_end|><role>HUMAN</role>Who?<|role_end|><role>ASSISTANT</role>"
        expect_equal(encode("Who?", "--chat"), encode(spelled, "--parse-special"), "ids")
        wrong = chat(directory, ["Who?"], "--template", "chatml")
        expect_equal(wrong.returncode, 2, "exit status")
        expect(b"chatml" in wrong.stderr and b"<|im_start|>" in wrong.stderr, wrong.stderr)
    with model(template="{{ bos_token }}[INST]") as directory:
        unknown = chat(directory, ["Who?"])
        expect_equal(unknown.returncode, 1, "exit status")
        for words in (b"chat_template.jinja is not ChatML: it prints bos_token", b"--template NAME"):
            expect(words in unknown.stderr, unknown.stderr)
        expect_equal(saved(directory, ["Who?"], "--template", "chatml")["format"], "chatml", "format")
        nonsense = chat(directory, ["Who?"], "--template", "nonsense")
        expect(nonsense.returncode == 2 and b"chatml and llada2" in nonsense.stderr, nonsense.stderr)


@case
def options():
    with model() as directory:
        dense = chat(directory, ["Who?", "/stats"], "--tau", "0")
        answers(dense)
        expect(b" 0 reuse" in dense.stderr, dense.stderr)
        steps = answers(chat(directory, ["Who?"], "--visual", tokens=4))
        expect(steps.startswith("block 0    step 0"), steps)
        answers(chat(directory, ["Who?", "Why?"], "--sparse", "quest", "--residual"))
        answers(chat(directory, ["Who?", "Why?"], "--reuse", "rows", "--kv-dtype", "bf16"))
        for wrong in (["--compat", "released"], ["--prompt", "x"], ["--samples", "2"], ["--system", "x", "--load", "y"]):
            expect_equal(chat(directory, [], *wrong).returncode, 2, wrong)


@case
def nobody_reads():
    with model() as directory:
        command = [PROGRAM, "chat", "--model", str(directory), "-n", "2000"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            process.stdin.write(b"Who?\nWho?\n")
            process.stdin.flush()
            process.stdout.read(1)
            process.stdout.close()
            expect_equal(process.wait(timeout=TIMEOUT), -signal.SIGPIPE, "exit status")


# --- a terminal ----------------------------------------------------------------------------------


class Terminal:
    """A chat on a terminal of 80 columns."""

    def __init__(self, directory, *arguments):
        try:
            self.master, slave = pty.openpty()
        except OSError as error:
            raise Skipped(f"no terminal to be had: {error}") from error
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.process = subprocess.Popen(
            [PROGRAM, "chat", "--model", str(directory), *map(str, arguments)],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**os.environ, "TERM": "xterm"},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)
        self.text = ""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.master)

    def type(self, keys):
        os.write(self.master, keys.encode())

    def wait_for(self, pattern, seconds=TIMEOUT):
        """Reads until the pattern comes; forgets what is before its end, and returns it."""
        end = time.monotonic() + seconds
        while not (found := re.search(pattern, self.text)):
            left = end - time.monotonic()
            ready = left > 0 and select.select([self.master], [], [], left)[0]
            try:
                chunk = os.read(self.master, 65536) if ready else b""
            except OSError:  # EIO: the program has closed its end
                chunk = b""
            expect(chunk, f"{pattern!r} does not come: {self.text[-400:]!r}")
            self.text += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", chunk.decode(errors="replace"))
        before, self.text = self.text[: found.start()], self.text[found.end() :]
        return before

    def mode_without_echo(self):
        """The terminal's mode, once the editor echoes in its place: soon after the prompt is there."""
        for _ in range(1000):
            mode = termios.tcgetattr(self.master)
            if not mode[3] & termios.ECHO:
                return mode
            time.sleep(0.01)
        raise Skipped("built without line editing")

    def ends(self, status=0):
        expect_equal(self.process.wait(timeout=TIMEOUT), status, "exit status")


@case
def a_person_talks():
    with model() as directory, Terminal(directory, "-n", "16") as terminal:
        terminal.wait_for("/help lists commands")
        terminal.wait_for("> ")
        terminal.type("Who art thou?\r")
        terminal.wait_for("as many as --max-tokens allows")
        terminal.wait_for("> ")
        terminal.type("/stats\r")
        terminal.wait_for("the last answer")
        terminal.wait_for("> ")
        terminal.type("\x04")
        terminal.ends()


@case
def what_is_typed_during_an_answer_is_the_next_line():
    """Corrections and Ctrl-D included; no line takes a Ctrl-D for a character."""
    with model() as directory, Terminal(directory, "-n", "60") as terminal:
        terminal.wait_for("> ")
        terminal.type("Who?\r")
        terminal.wait_for(r"Who\?\r+\n[^\r\n]*\w+ \w+")
        terminal.type("/ons\x7fe\r\x04")
        terminal.wait_for("no command '/one'")
        terminal.ends()


@case
def an_interrupt_stops_the_answer():
    with model() as directory, Terminal(directory, "-n", "12000") as terminal:
        terminal.wait_for("> ")
        terminal.type("Who?\r")
        terminal.wait_for(r"Who\?\r+\n[^\r\n]*\w+ \w+")
        terminal.type("\x03")
        terminal.wait_for("\n> ", seconds=20)
        terminal.type("/stats\r")
        written = re.search(r"tokens +(\d+) written", terminal.wait_for("context:"))
        expect(written and 0 < int(written[1]) < 12000, "tokens", written)
        terminal.wait_for("> ")
        terminal.type("Why?\r")
        terminal.wait_for(r"Why\?\r+\n[^\r\n]*\w+ \w+")
        terminal.type("\x03")
        terminal.wait_for("\n> ", seconds=20)
        terminal.type("/quit\r")
        terminal.ends()


@case
def an_interrupt_at_the_prompt_drops_the_line():
    with model() as directory, Terminal(directory, "-n", "8") as terminal:
        terminal.wait_for("> ")
        terminal.type("/nonsense")
        terminal.wait_for("/nonsense")
        terminal.type("\x03")
        terminal.wait_for("\n> ", seconds=20)
        terminal.type("/quit\r")
        terminal.ends()


@case
def the_line_before_comes_back():
    """With line editing only: the arrow up."""
    with model() as directory, Terminal(directory, "-n", "8") as terminal:
        terminal.wait_for("> ")
        terminal.type("/one\r")
        terminal.wait_for("no command '/one'")
        terminal.wait_for("> ")
        terminal.type("\x1b[A")
        try:
            terminal.wait_for("/one", seconds=10)
        except AssertionError as error:
            raise Skipped("built without line editing") from error
        terminal.type("s\r")
        terminal.wait_for("no command '/ones'")
        terminal.wait_for("> ")
        terminal.type("/n\u00e9\r")
        terminal.wait_for("no command '/n\u00e9'")
        terminal.type("/quit\r")
        terminal.ends()


@case
def the_line_is_shown_again_after_a_stop():
    """With line editing only: the shell that goes on after Ctrl-Z has changed the terminal."""
    with model() as directory, Terminal(directory, "-n", "8") as terminal:
        terminal.wait_for("> ")
        mode = terminal.mode_without_echo()
        terminal.type("/hal")
        terminal.wait_for("/hal")
        terminal.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, terminal.process.pid, os.WSTOPPED | os.WNOWAIT)
        mode[3] |= termios.ECHO | termios.ICANON
        termios.tcsetattr(terminal.master, termios.TCSANOW, mode)
        terminal.process.send_signal(signal.SIGCONT)
        terminal.wait_for("> /hal")
        expect(not termios.tcgetattr(terminal.master)[3] & termios.ECHO, "the terminal echoes")
        terminal.type("f\r")
        terminal.wait_for("no command '/half'")
        terminal.type("/quit\r")
        terminal.ends()


@case
def a_block_is_shown_in_place():
    with model() as directory, Terminal(directory, "-n", "16", "--visual") as terminal:
        terminal.wait_for("> ")
        terminal.type("Who art thou?\r")
        shown = terminal.wait_for("as many as --max-tokens allows")
        expect("\u2591" in shown, "masks are shown", shown)
        terminal.wait_for("> ")
        terminal.type("/quit\r")
        terminal.ends()


sys.exit(run_cases())
