#!/usr/bin/python3
"""The screen of ./demo: one question about a long ledger, then 20 problems; dense attention beside FlashBlock.

    show_demo.py PROGRAM MODEL [--tau T] [--block-size B] [--threads N]

Only Python's standard library is needed.
"""
import argparse
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time

import demo_tasks
import demo_text

WIDTH = 95  # of the text where the terminal is wider, or where there is none
PAUSE = 0.12  # seconds between two steps on a terminal


class Screen:
    """What the place that the text goes to can do. A terminal may change its size at any time."""

    def __init__(self, out=sys.stdout):
        self.moves = out.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        coloured = self.moves and not os.environ.get("NO_COLOR")
        self.bold, self.dim, self.green, self.red, self.plain = [f"\033[{c}m" if coloured else "" for c in ("1", "2", "32", "31", "0")]
        self.terminal = out.isatty()
        try:
            "\u2591".encode(out.encoding or "ascii")
            self.mask = "\u2591"
        except UnicodeEncodeError:
            self.mask = "#"

    def size(self):
        """(columns, lines)"""
        if not self.terminal:
            return WIDTH, 10**6
        columns, lines = shutil.get_terminal_size((80, 24))
        return max(min(columns, WIDTH), 20), lines

    def wrap(self, text, indent=""):
        return textwrap.fill(" ".join(text.split()), self.size()[0], initial_indent=indent, subsequent_indent=indent)


screen = Screen()


def say(text="", indent="", style=""):
    """A paragraph, wrapped."""
    print(style + screen.wrap(text, indent) + (screen.plain if style else ""), flush=True)


def call(*command):
    """A program's output; its words where it fails."""
    done = subprocess.run([*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.stderr.strip().split("\n")[-1] or f"show_demo: {command[0]} failed")
    return done.stdout


# ------------------------------------------------------------------------------------------- one question


class Reply:
    """One decoding: its passes, as `flashblock generate --record` writes them, and what they come to."""

    def __init__(self, args, prompt_file, tau):
        with tempfile.NamedTemporaryFile(suffix=".jsonl") as record:
            done = call(args.program, "generate", "-m", args.model, "-f", prompt_file, "-n", 96, "-b", args.block_size,
                        "--confidence-threshold", 1, "--tau", tau, "--threads", args.threads, "--record", record.name, "--json")  # fmt: skip
            with open(record.name, encoding="utf-8") as file:
                first, *rest = map(json.loads, file)
            self.passes = [one for one in rest if "step" in one]
        self.seconds = json.loads(done)["seconds"]["decode"]
        self.prompt, self.block_size = first["prompt"], args.block_size
        self.reading = sum(p["action"] != "reuse" for p in self.passes)

    def text_after(self, tokenizer, count):
        """What is written after so many passes; masks where nothing is yet."""
        tokens = list(self.prompt[: len(self.prompt) // self.block_size * self.block_size])
        for i, one in enumerate(self.passes[:count]):
            block = list(one["before"])
            for place, token in zip(one.get("accepted", ()), one.get("tokens", ())):
                block[place] = token
            if one["step"] == "commit" or i == count - 1:
                tokens += block
        reply = tokens[len(self.prompt) :]
        if tokenizer.end in reply:
            reply = reply[: reply.index(tokenizer.end)]
        return "".join(screen.mask if t == tokenizer.mask else tokenizer.decode([t]) for t in reply)

    def says(self, count):
        """What the pass did with the text before."""
        one = self.passes[min(count, len(self.passes)) - 1]
        if count > len(self.passes):
            return "done"
        return "reuses: reads nothing of it" if one["action"] == "reuse" else f"reads all {len(self.prompt):,} tokens"


def columns(left, right, width):
    """Lines of two texts side by side, each in a column."""
    pairs = []
    for text in (left, right):
        pairs.append([piece for line in text.strip().split("\n") for piece in textwrap.wrap(line, width) or [""]])
    height = max(map(len, pairs))
    return [f"{a:{width}} | {b}".rstrip() for a, b in zip(*(lines + [""] * (height - len(lines)) for lines in pairs))]


def moments(texts, reuses):
    """Four passes that show the work where nothing moves: the first with masks, two more that reuse, and the last."""
    busy = [count for count, (dense, _) in enumerate(texts) if count and screen.mask in dense] or [1]
    reusing = [count for count in busy if reuses[count - 1]] or busy
    return sorted({busy[0], reusing[len(reusing) // 3], reusing[2 * len(reusing) // 3], len(texts) - 1})


def play(replies, tokenizer):
    """The two decodings, pass by pass: in place on a terminal that has room for them, else some moments of them."""
    passes = max(len(r.passes) for r in replies)
    texts = [[r.text_after(tokenizer, count) for r in replies] for count in range(passes + 1)]
    reuses = [one["action"] == "reuse" for one in replies[1].passes] + [False] * passes

    def frame(count, width):
        says = [r.says(count) for r in replies]
        return columns(*says, width), columns(*texts[count], width)

    def lines_of(width):
        return max(sum(map(len, frame(count, width))) for count in range(1, passes + 1))

    def head(width):
        print("\n".join(f"{screen.bold}{line}{screen.plain}" for line in columns("dense attention", "FlashBlock", width)))

    size = screen.size()
    width = (size[0] - 3) // 2
    head(width)
    if not screen.moves or lines_of(width) >= size[1]:
        for count in moments(texts, reuses):
            print(f"after pass {count} of {passes}:")
            for line in sum(frame(count, width), []):
                print(line)
        return
    for count in range(1, passes + 1):
        if screen.size() != size:  # what is on the screen has moved: begin below it
            size = screen.size()
            width = (size[0] - 3) // 2
            print()
            head(width)
        says, lines = frame(count, width)
        lines += [""] * (lines_of(width) - len(says) - len(lines))
        for line in says:
            print(f"{screen.dim}{line}{screen.plain}\033[K")
        for line in lines:
            print(f"{line}\033[K", flush=True)
        if count < passes:
            time.sleep(PAUSE)
            if screen.size() == size:
                print(f"\033[{len(says) + len(lines)}A", end="")


def mark(text, answer):
    given = demo_tasks.right_answer(text)
    if given == answer:
        return f"{screen.green}right{screen.plain}"
    return f"{screen.red}wrong{screen.plain} (it is {answer})"


def evidence(text, reply):
    """The sentences of the text, with their days, that the reply's steps are taken from; none if one is not found."""
    found = []
    for step in reply.split("\n")[0].split(". "):
        words = [word for word in re.findall(r"\w+", step) if word in demo_tasks.NAMES]
        if len(words) == 1:  # "Cyrus has 53 cups": the thing, in the singular or plural
            words += [thing.rstrip("s") for thing in re.findall(r"\d+ (\w+)", step)]
        lines = [f"{line.split('.')[0]}. {sentence}" for line in text.split("\n")
                 for sentence in re.split(r"(?<=\.) ", line) if all(word in sentence for word in words)]  # fmt: skip
        found += lines[-1:] or [None]
    return [] if None in found else found


def one_question(args, tokenizer):
    with open(args.model / "tasks" / "demo-ledger.jsonl", encoding="utf-8") as file:
        problem = json.loads(file.readline())
    question = problem["questions"][0]
    prompt = problem["text"] + question["prompt"]
    lines = problem["text"].strip().split("\n")
    say("1. A question about a long text", style=screen.bold)
    print()
    for line in (*lines[:2], f"... {len(lines) - 3} more days ...", *lines[-1:]):
        say(textwrap.shorten(line, 2 * WIDTH), style=screen.dim)
    print()
    say(question["prompt"].splitlines()[0], style=screen.bold)
    print()
    facts = evidence(problem["text"], question["reply"])
    if facts:
        say("The answer is spread over the text:")
        for fact in facts:
            say(fact, indent="    ")
        print()
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(prompt)
        file.flush()
        say(f"""The text has {len(tokenizer.encode(prompt)):,} tokens (words and pieces of words). The model writes blocks of
            {args.block_size} tokens. A block begins as masks ({screen.mask}), and each step fills in the one token that the model
            is surest of. Dense attention, the usual way, reads the whole text at every step. FlashBlock reads it at a block's first
            step and whenever {count_of(args.tau, "more token")} {"is" if args.tau == 1 else "are"} there. At the steps between it
            reuses what it found.""")
        replies = [Reply(args, file.name, tau) for tau in (0, args.tau)]
    print()
    play(replies, tokenizer)
    print()
    marks = [mark(r.text_after(tokenizer, len(r.passes)), question["answer"]) for r in replies]
    dense, ours = replies
    say(f"Answers: dense attention {marks[0]}, FlashBlock {marks[1]}.")
    say(f"The text was read {count_of(dense.reading, 'time')} by dense attention, {count_of(ours.reading, 'time')} by FlashBlock.")
    say(f"Attention took {1e3 * dense.seconds['attention']:.0f} and {1e3 * ours.seconds['attention']:.0f} ms, writing as a whole "
        f"{1e3 * dense.seconds['total']:.0f} and {1e3 * ours.seconds['total']:.0f} ms.")  # fmt: skip
    print()


def count_of(number, what):
    return f"{number} {what}{'' if number == 1 else 's'}"


# -------------------------------------------------------------------------------------------- 20 problems


def many_problems(args):
    say("2. Twenty problems, none of which the model has seen", style=screen.bold)
    say("Ten are about ledgers of 1,000 tokens, ten are word problems.")
    print()
    if screen.moves:
        print(f"{screen.dim}solving them in both ways ...{screen.plain}", end="\r", flush=True)
    output = call(args.program, "eval", "tasks", "-m", args.model, "--suite", "demo-problems", "-b", args.block_size, "--policies",
                  f"tau:{args.tau}", "--threads", args.threads, "--json", "-")  # fmt: skip
    dense, ours = json.loads(output)["cells"]
    n = dense["problems"]
    print("\033[K" if screen.moves else "", end="")

    def row(name, a, b, ratio=""):
        print(f"{name:32}{a:>14}{b:>14}{ratio:>9}".rstrip())

    row("", "dense", "FlashBlock", "ratio")
    row("answers right", f"{dense['right']} of {n}", f"{ours['right']} of {n}")
    row("steps", f"{dense['denoising_steps']:,}", f"{ours['denoising_steps']:,}")
    row("  that reuse", "0", f"{ours['reused'] * ours['denoising_steps']:,.0f}")
    row("earlier tokens read", f"{dense['keys']:,.0f}", f"{ours['keys']:,.0f}", f"{dense['keys'] / ours['keys']:.2f}")
    row("time of attention", f"{dense['attention_seconds']:.2f} s", f"{ours['attention_seconds']:.2f} s",
        f"{dense['attention_seconds'] / ours['attention_seconds']:.2f}")  # fmt: skip
    print()
    say(f"""{ours['equal_texts']} of {n} replies are equal, word by word. The times are of this machine, the other numbers are the
        same on every one.""")
    say("""A larger tau reads less and costs answers: try ./demo --tau 4, then --tau 16. docs/results/claims.md counts
        them, on hundreds of problems.""")


def positive(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not 1 or more")
    return value


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--tau", type=positive, default=2, help="tokens after which FlashBlock reads the text again (2, as in the paper)")
    parser.add_argument("--block-size", type=positive, default=16, help="tokens of a block (16)")
    parser.add_argument("--threads", type=positive, default=2, help="(2)")
    args = parser.parse_args()
    tokenizer = demo_text.Tokenizer(args.model / "tokenizer.json")
    say("FlashBlock: does a small language model still find the answer if it reads the text half as often?", style=screen.bold)
    print()
    one_question(args, tokenizer)
    many_problems(args)


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # such as ./demo | head
    try:
        main()
    except KeyboardInterrupt:
        print(screen.plain)
        sys.exit(130)
