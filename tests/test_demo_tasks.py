"""No test problem occurs in the training data of golden/demo-model, whatever the seed; and replies are right.

usage: test_demo_tasks.py SOURCE_ROOT
"""
import pathlib
import random
import re
import sys

sys.path.insert(0, str(pathlib.Path(sys.argv[1]) / "golden"))
import demo_suites
import demo_tasks

results = []


def check(name, fine, detail=""):
    results.append(fine)
    print(f"{'ok' if fine else 'not ok'} {len(results)} - {name}{' # ' + str(detail) if detail and not fine else ''}")


def drawn(side, seed, count):
    """Names of ledgers and problems, and the texts themselves."""
    rng, names, texts = random.Random(seed), set(), set()
    for _ in range(count):
        for made in (demo_tasks.Ledger(rng, rng.randint(4, 60), side), demo_tasks.Problem(rng, rng.randint(2, 10), side)):
            names.add(made.name)
            texts.add(demo_tasks.plain(made.text) if isinstance(made.text, str) else made.body())
    return names, texts


def test_sides():
    """Small problems, as those could meet."""
    train_names, train_texts = set(), set()
    for seed in range(4):
        names, texts = drawn(demo_tasks.TRAIN, seed, 500)
        train_names |= names
        train_texts |= texts
    test_names, test_texts = drawn(demo_tasks.TEST, 0, 300)  # the same seed
    rng = random.Random(3)  # and the smallest ones, of which there are few
    train_names |= {demo_tasks.Problem(rng, 1, demo_tasks.TRAIN).name for _ in range(3000)}
    test_names |= {demo_tasks.Problem(rng, 1, demo_tasks.TEST).name for _ in range(500)}
    check("every training problem is of the training side", {demo_tasks.side_of(n) for n in train_names} == {demo_tasks.TRAIN})
    check("every test problem is of the tests' side", {demo_tasks.side_of(n) for n in test_names} == {demo_tasks.TEST})
    check("no name is on both sides", not train_names & test_names, train_names & test_names)
    check("no text is on both sides", not train_texts & test_texts, train_texts & test_texts)


def suites():
    yield "ledger", demo_suites.ledger_suite(5, 20, 600, lambda text: len(text) // 3, ())
    yield "hops", demo_suites.ledger_suite(6, 10, 1500, lambda text: len(text) // 3, (), depths=(4, 5))
    yield "arithmetic", demo_suites.arithmetic_suite(7, 300, 1, 12)
    yield "sheet", demo_suites.sheet_suite(8, 20, 800, lambda text: len(text) // 3)


def wrong_equations(reply):
    return [f"{a}{sign}{b}={c}" for a, sign, b, c in re.findall(r"(\d+)([-+*/])(\d+)=(\d+)", reply)
            if {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b), "/": int(a) / int(b)}[sign] != int(c)]  # fmt: skip


def test_suites():
    for name, suite in suites():
        asked = [q for text in suite for q in text["questions"]]
        check(f"{name}: of the tests' side",
              all(demo_tasks.side_of(n) == demo_tasks.TEST for text in suite for n in text.get("names", [text["name"]])))  # fmt: skip
        check(f"{name}: the reply's answer is the answer", all(demo_tasks.right_answer(q["reply"]) == q["answer"] for q in asked))
        check(f"{name}: equations hold", not any(wrong_equations(q["reply"]) for q in asked))
        check(f"{name}: no marks are left", all(demo_tasks.plain(t["text"]) == t["text"] for t in suite))


def test_seed():
    first, second = (demo_tasks.Ledger(random.Random(9), 30, demo_tasks.TEST).text for _ in range(2))
    check("a seed makes the same ledger again", first == second)


test_sides()
test_suites()
test_seed()
print(f"1..{len(results)}")
sys.exit(not all(results))
