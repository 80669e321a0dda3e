#!/usr/bin/python3
"""The paper's claims about answers, measured on golden/demo-model: tables of docs/results/claims.md.

    task_claims.py measure DIR [--only NAME...] [--count N]   run what is not in DIR yet, a JSON file a table
    task_claims.py tables DIR                                 print the tables of all files there, in Markdown

`measure` takes hours on one core; every file that is there already stays. Times count only if the machine was quiet.
"""
import argparse
import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
MODEL = ROOT / "golden" / "demo-model"

SELECTORS = ("sparsed", "mage", "quest", "moba", "bfla", "ba_att", "multipole", "sink_window")
AFTER = ("", "+first", "+residual:2", "+residual:4", "+residual:block", "+residual:once", "+residual:once+sparse-first")
TAUS = "tau:1,tau:2,tau:3,tau:4,tau:5,tau:block,never,rows,rows+correction,tau:4+correction"


def runs():
    """name -> arguments of `flashblock eval tasks`"""
    made = {}
    for suite in ("ledger-1k", "arithmetic", "ledger-4k", "hard-arithmetic", "hard-ledger-4k", "sheet-4k", "ledger-16k"):
        for block in (4, 8, 16, 32):
            made[f"{suite}-b{block}"] = ["--suite", suite, "-b", block, "--steps", "both", "--policies", TAUS]
    for selector in SELECTORS:
        for density in (5, 10, 20, 40):
            policies = ",".join(f"{selector}@{density}{after}" for after in AFTER)
            for suite in ("ledger-1k", "ledger-4k", "sheet-4k"):
                made[f"{selector}-{density}-{suite}"] = ["--suite", suite, "-b", 16, "--policies", policies]
    return made


def measure(args):
    args.directory.mkdir(parents=True, exist_ok=True)
    for name, arguments in runs().items():
        path = args.directory / f"{name}.json"
        if path.exists() or (args.only and name not in args.only):
            continue
        command = [args.program, "eval", "tasks", "-m", MODEL, *arguments, "--threads", args.threads, "--json", path]
        command += ["--problems", args.problems] if args.problems else []
        command += ["--count", args.count] if args.count else []
        print("task_claims:", *command, file=sys.stderr)
        subprocess.run([*map(str, command)], check=True)


def percent(cell):
    return f"{100 * cell['accuracy']:.1f} \u00b1 {100 * cell['accuracy_standard_error']:.1f}"


def tables(args):
    for path in sorted(args.directory.glob("*.json")):
        cells = json.loads(path.read_text())["cells"]
        groups = {}
        for cell in cells:
            groups.setdefault((cell["suite"], cell["block_size"], cell["steps"]), []).append(cell)
        for (suite, block, steps), group in groups.items():
            how = "one token a step" if steps == "one-a-token" else "threshold 0.9"
            print(f"\n**{suite}, blocks of {block}, {how}** ({group[0]['problems']} problems)\n")
            print("| policy | right, % | lost, won | equal | steps that reuse | keys | rows | attention |\n|---|---|---|---|---|---|---|---|")
            for cell in group:
                rows = "" if "@" in cell["policy"] else f"{cell['external_rows_by_dense']:.3f}"
                print(f"| `{cell['policy']}` | {percent(cell)} | {cell['lost']}, {cell['won']} | "
                      f"{cell['equal_texts']} of {cell['problems']} | {100 * cell['reused']:.0f} % | {cell['keys_by_dense']:.3f} | "
                      f"{rows} | {cell['attention_by_dense']:.2f} |")  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("measure", "tables"))
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("--program", default="build/src/cli/flashblock")
    parser.add_argument("--problems", type=pathlib.Path, help="folder of suites (the model's)")
    parser.add_argument("--only", nargs="+", metavar="NAME")
    parser.add_argument("--count", type=int, help="problems of a suite (all)")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    {"measure": measure, "tables": tables}[args.command](args)


if __name__ == "__main__":
    main()
