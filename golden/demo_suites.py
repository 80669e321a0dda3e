#!/usr/bin/python3
"""The held-out problems that golden/demo-model is asked, as files for `flashblock eval tasks`.

    demo_suites.py DIR [--count N] [--suites NAME...]    write the problems of every suite to DIR

A suite is a list of texts, each with its questions: one long ledger is asked several questions, so that files stay
small and a text is read once. In a file, a line is one text:

    {"name": ..., "text": ..., "questions": [{"prompt": ..., "reply": ..., "answer": ..., "kind": ..., "steps": ...}, ...]}

The model reads text + prompt. Its answer is what stands after "Answer: ". docs/tasks.md says how it is judged.
Problems are of the tests' side (demo_tasks.py): none of them occurs in training.
"""
import argparse
import json
import pathlib
import random

import demo_tasks
import demo_text


def ledger_suite(seed, count, tokens, length, verses, questions=5, kinds=None, depths=None):
    """`length` counts the tokens of a text; a ledger and its longest question have at most `tokens`."""
    rng, suite = random.Random(seed), []
    while sum(len(s["questions"]) for s in suite) < count:
        share = rng.choice((0, 0.1)) if verses else 0
        sentence = 14.5 * (1 - share) + 32 * share
        sentences = int((tokens - 60) / sentence * rng.uniform(0.75, 1.05))
        ledger = demo_tasks.Ledger(rng, sentences, demo_tasks.TEST, verses, share)
        text, asked = demo_tasks.plain(ledger.text), {}
        if not 0.75 * tokens < length(text) <= tokens - 100:
            continue
        for _ in range(20 * questions):
            question = ledger.question(kinds, depths)
            if question and len(asked) < questions:
                asked[question.text] = question
        if len(asked) == questions:
            suite.append(dict(
                name=ledger.name, text=text,
                questions=[dict(prompt=demo_tasks.ask(q), reply=demo_tasks.reply(q), answer=q.answer, kind=q.kind, steps=q.hops,
                                changed=ledger.changed(q)) for q in asked.values()],
            ))  # fmt: skip
    return suite


def arithmetic_suite(seed, count, low, high):
    rng, suite = random.Random(seed), []
    for _ in range(count):
        problem = demo_tasks.Problem(rng, rng.randint(low, high), demo_tasks.TEST)
        suite.append(dict(name=problem.name, text="", questions=[
            dict(prompt=problem.prompt(), reply=problem.reply(), answer=str(problem.answer), kind="arithmetic",
                 steps=len(problem.work))]))  # fmt: skip
    return suite


def sheet_suite(seed, count, tokens, length, questions=5, top=8):
    rng, suite = random.Random(seed), []
    while sum(len(s["questions"]) for s in suite) < count:
        names, text, problems = rng.sample(demo_tasks.NAMES, len(demo_tasks.NAMES)), "", []
        while names:
            problem = demo_tasks.Problem(rng, rng.randint(2, top), demo_tasks.TEST, names.pop())
            if problems and length(text + demo_tasks.sheet_line(problem)) > tokens - 20:
                break
            text += demo_tasks.sheet_line(problem)
            problems.append(problem)
        asked = rng.sample(problems, min(questions, len(problems)))
        suite.append(dict(name=demo_tasks.name_of([p.name for p in problems]), text=text, names=[p.name for p in problems], questions=[
            dict(prompt=demo_tasks.sheet_question(p), reply=p.reply(), answer=str(p.answer), kind="sheet", steps=len(p.work))
            for p in asked]))  # fmt: skip
    return suite


# ---------------------------------------------------------------------------------------------- every suite

LEDGERS = {"1k": 1024, "4k": 4096, "8k": 8192, "16k": 16000}  # tokens
SEED = 20


def suites(tokenizer, verses, seed, counts):
    """(name, suite) one after the other; counts(name) says how many problems, 0: leave it out.

    hard: facts that lead to facts, five to seven times; and word problems of more steps than training has.
    """

    def length(text):
        return len(tokenizer.encode(text))

    for context, tokens in LEDGERS.items():
        for name, options in (("ledger", {}), ("hard-ledger", dict(depths=(5, 6, 7)))):
            count = counts(f"{name}-{context}")
            if count:
                yield f"{name}-{context}", ledger_suite(seed, count, tokens, length, verses, **options)
    for name, low, high in (("arithmetic", 2, 8), ("hard-arithmetic", 11, 15)):
        if counts(name):
            yield name, arithmetic_suite(seed, counts(name), low, high)
    for context in ("1k", "4k"):
        if counts(f"sheet-{context}"):
            yield f"sheet-{context}", sheet_suite(seed, counts(f"sheet-{context}"), LEDGERS[context], length)


def demo_suites(tokenizer, verses, seed):
    """What ./demo shows: a ledger of 3,000 tokens with one question, and 20 problems."""

    def length(text):
        return len(tokenizer.encode(text))

    ledger = ledger_suite(seed, 1, 3200, length, verses, 1, kinds=("has",), depths=(2,))
    short = ledger_suite(seed + 1, 10, LEDGERS["1k"], length, verses)
    return {"demo-ledger": ledger, "demo-problems": short + arithmetic_suite(seed + 2, 10, 3, 6)}


def write(args):
    tokenizer = demo_text.Tokenizer(args.work / "tokenizer.json")
    verses = demo_text.verses_of((args.work / "held-out.txt").read_text())
    args.directory.mkdir(parents=True, exist_ok=True)
    wanted = set(args.suites or [])
    made = dict(suites(tokenizer, verses, args.seed, lambda n: args.count if not wanted or n in wanted else 0))
    made |= {n: suite for n, suite in demo_suites(tokenizer, verses, args.seed).items() if not wanted or n in wanted}
    for name, suite in made.items():
        with open(args.directory / f"{name}.jsonl", "w") as file:
            for text in suite:
                file.write(json.dumps(text) + "\n")
        print(f"{name}: {sum(len(text['questions']) for text in suite)} problems")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("--work", type=pathlib.Path, default="demo-train", help="folder with tokenizer.json and held-out.txt")
    parser.add_argument("--count", type=int, default=40, help="problems of a suite (40)")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--suites", nargs="+", help="names (default: all)")
    args = parser.parse_args()
    write(args)


if __name__ == "__main__":
    main()
