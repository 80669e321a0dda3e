"""golden/task_claims.py: a run goes on where it was stopped, and no problem counts twice.

usage: test_task_claims.py PROGRAM SOURCE_ROOT
"""
import json
import pathlib
import subprocess
import sys
import tempfile

PROGRAM, ROOT = sys.argv[1], pathlib.Path(sys.argv[2])
sys.path.insert(0, str(ROOT / "golden"))
import claims_plan
import claims_report

CELL = "tau-ledger-1k-threshold-b4"
results = []


def check(name, fine, detail=""):
    results.append(fine)
    print(f"{'ok' if fine else 'not ok'} {len(results)} - {name}{' # ' + str(detail) if detail and not fine else ''}")


def claims(command, folder, *more):
    return subprocess.run([sys.executable, ROOT / "golden" / "task_claims.py", command, folder, "--program", PROGRAM, *more],
                          check=True, capture_output=True, text=True)  # fmt: skip


def test_resuming(folder):
    """Five problems, the questions about one text."""
    (folder / "suites-20").mkdir()
    with open(ROOT / "golden" / "demo-model" / "tasks" / "ledger-1k.jsonl", encoding="utf-8") as file:
        (folder / "suites-20" / "ledger-1k.jsonl").write_text(file.readline())
    path = folder / "results.jsonl"
    first = claims("measure", folder, "--only", CELL)
    line = json.loads(path.read_text())
    counted = {name: values[0] for name, values in line["results"].items()}
    check("a job is a line", counted == dict.fromkeys(["dense", *claims_plan.taus(4)], 5), counted)
    check("it is said", "1 of 1 jobs are done" in first.stderr, first.stderr)
    check("what is done is not done again", "0 of 0 jobs are done" in claims("measure", folder, "--only", CELL).stderr)
    path.write_text(path.read_text()[:-20])
    claims("measure", folder, "--only", CELL)
    again = json.loads(path.read_text().splitlines()[-1])
    same = all(again["results"][p][:-1] == line["results"][p][:-1] for p in line["results"])  # all but the time
    check("a line that was cut off is measured again", same, again)
    table = claims("tables", folder).stdout
    check("tables have the cell", "blocks of 4 (5 problems)" in table, table)
    claims("times", folder, "--only", "tau-ledger-1k-one-a-token-b4")
    check("times are kept apart", len((folder / "times.jsonl").read_text().splitlines()) == 1)


def test_merging():
    values = [5, 4, 1, 0, 4, 50, 60, 30, 70, 100.0, 500, 0.5]
    dense = [5, 5, 0, 0, 5, 50, 60, 0, 70, 200.0, 1000, 1.0]
    one = dict(seed=20, suite="s", block=4, way="threshold", policies="tau:2", first=0, results={"dense": dense, "tau:2": values})
    two = one | dict(policies="tau:2,never", results=one["results"] | {"never": values})
    scores = claims_report.merge([one, two, one | dict(first=5)])[20, "s", 4, "threshold"]
    check("a problem counts once", [scores[p].problems for p in ("dense", "tau:2", "never")] == [10, 10, 5])
    check("ratios are of the same problems", scores["never"].by_dense("keys") == scores["tau:2"].by_dense("keys") == 0.5)


def test_plan():
    made = claims_plan.cells(20)
    keys = [(c.seed, c.suite, c.block, c.way, c.policies) for c in made]
    check("no cell is there twice", len(keys) == len(set(keys)), [k for k in keys if keys.count(k) > 1])
    check("names of cells differ", len({c.name for c in made}) == len(made))


with tempfile.TemporaryDirectory() as where:
    test_resuming(pathlib.Path(where))
test_merging()
test_plan()
print(f"1..{len(results)}")
sys.exit(not all(results))
