#!/usr/bin/python3
"""The screen of ./demo: one question about a long ledger, then 20 problems; dense attention beside FlashBlock.

    show_demo.py PROGRAM MODEL [--tau T] [--block-size B] [--threads N]

Only Python's standard library is needed.
"""
import argparse
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import textwrap
import time

import demo_tasks
import demo_text

WIDTH = 46  # of a column
PAUSE = 0.12  # seconds between two steps on a terminal
MASK = "\u2591"
BOLD, DIM, GREEN, RED, PLAIN = ("\033[1m", "\033[2m", "\033[32m", "\033[31m", "\033[0m") if sys.stdout.isatty() else [""] * 5


def say(text=""):
    """A paragraph, wrapped."""
    print(textwrap.fill(" ".join(text.split()), 2 * WIDTH + 3))


# ------------------------------------------------------------------------------------------- one question


class Reply:
    """One decoding: its passes, as `flashblock generate --record` writes them, and what they come to."""

    def __init__(self, args, prompt_file, tau):
        with tempfile.NamedTemporaryFile(suffix=".jsonl") as record:
            done = subprocess.run(
                [args.program, "generate", "-m", args.model, "-f", prompt_file, "-n", "96", "-b", str(args.block_size),
                 "--confidence-threshold", "1", "--tau", str(tau), "--threads", str(args.threads), "--record", record.name,
                 "--json"],
                capture_output=True, text=True, check=True)  # fmt: skip
            with open(record.name, encoding="utf-8") as file:
                first, *rest = map(json.loads, file)
            self.passes = [one for one in rest if "step" in one]
        self.seconds = json.loads(done.stdout)["seconds"]["decode"]["attention"]
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
        return "".join(MASK if t == tokenizer.mask else tokenizer.decode([t]) for t in reply)

    def says(self, count):
        """What the pass did with the ledger."""
        one = self.passes[min(count, len(self.passes)) - 1]
        if count > len(self.passes):
            return "done"
        return "reuses: reads no key of the text" if one["action"] == "reuse" else f"reads the {len(self.prompt):,} keys of the text"


def columns(left, right, height):
    """Two texts side by side."""
    pairs = []
    for text in (left, right):
        lines = [piece for line in text.strip().split("\n") for piece in textwrap.wrap(line, WIDTH) or [""]]
        pairs.append((lines + [""] * height)[: max(height, len(lines))])
    return [f"{a:{WIDTH}} | {b}" for a, b in zip(*pairs)]


def moments(texts, reuses):
    """Four passes that show the work where there is no terminal: the first with masks, two more that reuse, and the last."""
    busy = [count for count, (dense, _) in enumerate(texts) if count and MASK in dense] or [1]
    reusing = [count for count in busy if reuses[count - 1]] or busy
    return sorted({busy[0], reusing[len(reusing) // 3], reusing[2 * len(reusing) // 3], len(texts) - 1})


def play(replies, tokenizer):
    """The two decodings, pass by pass: in place on a terminal, else some moments of them."""
    passes = max(len(r.passes) for r in replies)
    texts = [[r.text_after(tokenizer, count) for r in replies] for count in range(passes + 1)]
    height = max(len(columns(*both, 0)) for both in texts)
    print(f"{BOLD}{'dense attention':{WIDTH}} | FlashBlock{PLAIN}")
    reuses = [one["action"] == "reuse" for one in replies[1].passes] + [False] * passes
    shown = range(1, passes + 1) if sys.stdout.isatty() else moments(texts, reuses)
    for count in shown:
        lines = columns(*texts[count], height)
        says = [r.says(count) for r in replies]
        print(f"{DIM}{says[0]:{WIDTH}} | {says[1]}{PLAIN}\033[K" if sys.stdout.isatty() else
              f"after pass {count}:\n{says[0]:{WIDTH}} | {says[1]}")  # fmt: skip
        for line in lines:
            print(line + ("\033[K" if sys.stdout.isatty() else ""))
        if sys.stdout.isatty() and count < passes:
            time.sleep(PAUSE)
            print(f"\033[{len(lines) + 1}A", end="")


def mark(text, answer):
    given = demo_tasks.right_answer(text)
    return f"{GREEN}right{PLAIN}" if given == answer else f"{RED}wrong{PLAIN} (it is {answer})"


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
    print(f"{BOLD}1. A question about a long text{PLAIN}\n")
    for line in (*lines[:2], f"... {len(lines) - 3} more days ...", *lines[-1:]):
        print(DIM + textwrap.shorten(line, 4 * WIDTH) + PLAIN)
    print(f"\n{BOLD}{question['prompt'].splitlines()[0]}{PLAIN}\n")
    facts = evidence(problem["text"], question["reply"])
    if facts:
        print("The answer is spread over the text:")
        for fact in facts:
            print(f"    {fact}")
        print()
    say(f"""The text has {len(tokenizer.encode(prompt)):,} tokens. The model writes blocks of {args.block_size}: each begins
        as masks ({MASK}), and every step fills in the one token that the model is surest of. Dense attention reads the whole
        text at every pass. FlashBlock reads it at a block's first step and whenever {args.tau} more tokens are there, and
        reuses what it found in between.""")
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(prompt)
        file.flush()
        replies = [Reply(args, file.name, tau) for tau in (0, args.tau)]
    print()
    play(replies, tokenizer)
    print()
    marks = [mark(r.text_after(tokenizer, len(r.passes)), question["answer"]) for r in replies]
    print(f"answer: dense attention {marks[0]}, FlashBlock {marks[1]}")
    print(f"passes that read the text: {replies[0].reading} dense, {replies[1].reading} FlashBlock; attention "
          f"{1e3 * replies[0].seconds:.0f} ms and {1e3 * replies[1].seconds:.0f} ms\n")  # fmt: skip


# -------------------------------------------------------------------------------------------- 20 problems


def many_problems(args):
    print(f"{BOLD}2. Twenty problems{PLAIN}, none of which the model has seen: ten about ledgers of 1,000 tokens, ten word problems\n")
    done = subprocess.run(
        [args.program, "eval", "tasks", "-m", args.model, "--suite", "demo-problems", "-b", str(args.block_size), "--policies",
         f"tau:{args.tau}", "--threads", str(args.threads), "--json", "-"], stdout=subprocess.PIPE, text=True, check=True)  # fmt: skip
    dense, ours = json.loads(done.stdout)["cells"]
    n = dense["problems"]

    def row(name, a, b, ratio=""):
        print(f"{name:34}{a:>16}{b:>16}{ratio:>10}")

    row("", "dense", "FlashBlock", "ratio")
    row("answers right", f"{dense['right']} of {n}", f"{ours['right']} of {n}")
    row("denoising steps", f"{dense['denoising_steps']:,}", f"{ours['denoising_steps']:,}")
    row("  of them reuse", "0", f"{ours['reused'] * ours['denoising_steps']:,.0f}")
    row("keys of earlier tokens read", f"{dense['keys']:,.0f}", f"{ours['keys']:,.0f}", f"{dense['keys'] / ours['keys']:.2f}")
    row("attention time", f"{dense['attention_seconds']:.2f} s", f"{ours['attention_seconds']:.2f} s",
        f"{dense['attention_seconds'] / ours['attention_seconds']:.2f}")  # fmt: skip
    print()
    say(f"""{ours['equal_texts']} of {n} replies are equal, word by word. The times are of this machine, the other numbers are the
        same on every one. Larger tau saves more and costs answers: docs/results/claims.md counts them, on hundreds of problems.""")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--tau", type=int, default=2, help="tokens after which FlashBlock reads the text again (2, as in the paper)")
    parser.add_argument("--block-size", type=int, default=16, help="tokens of a block (16)")
    parser.add_argument("--threads", type=int, default=2, help="(2)")
    args = parser.parse_args()
    tokenizer = demo_text.Tokenizer(args.model / "tokenizer.json")
    print(f"{BOLD}FlashBlock: does a small language model still find the answer, if it looks at the text half as often?{PLAIN}\n")
    one_question(args, tokenizer)
    many_problems(args)


if __name__ == "__main__":
    main()
