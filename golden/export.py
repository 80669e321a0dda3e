#!/usr/bin/python3
"""FlashBlock's equations in PyTorch: makes golden cases, and checks itself against the paper's.

    export.py --out DIR [--kind K ...] [--cases N] [--seed S] [--heads 32 --context 4096 ...]
    export.py --check [DIR]       recompute each case in DIR (default: golden/paper), compare its results
    export.py --errors [--out DIR]    float32 attention of PyTorch against float64; writes those cases too
    export.py ... --paper-repo DIR    call the functions of a clone of the paper's repository instead

Own code, written from the paper (arXiv 2602.05305) and from what its released code does:
    export_equations.py    the mathematics and the scheduler
    export_kinds.py        the kinds of cases: what is drawn, what is computed from it, tolerances
    export_cases.py        the files; docs/case-files.md describes the format

Debian packages: python3-torch python3-numpy. Exit status: 0, 1 if a case differs, 2 for errors.
"""
import argparse
import json
import pathlib
import sys

import numpy as np
import torch

from export_cases import Case, Failure, difference, first_line, load_case, write_safetensors
from export_equations import INF, load_paper, paper_note
from export_kinds import KINDS, Draw, Kind

HERE = pathlib.Path(__file__).resolve().parent


def metadata_of(kind: Kind, case: Case, seed: int) -> dict[str, str]:
    values = {"case": case.name, "kind": case.kind, "set": "export", "seed": seed,
              "produced_by": paper_note(kind.paper), "params": case.params, "layout": kind.layout,
              **({"style": case.style} if case.style else {}), **case.metadata, **kind.notes(case)}
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}


def finish(kind: Kind, case: Case, seed: int, folder: pathlib.Path) -> pathlib.Path:
    """Adds the results and writes the file."""
    case.folder = folder / kind.folder
    case.tensors.update(kind.outputs(case))
    path = case.folder / f"{case.file}.safetensors"
    write_safetensors(path, metadata_of(kind, case, seed), case.tensors)
    print(f"{case.kind:22} {path}")
    return path


def export_sdar(draw: Draw, folder: pathlib.Path) -> None:
    """One file of inputs, and one of results for each tau; no history means that nothing can be reused."""
    inputs = KINDS["sdar_attention_inputs"].inputs(draw)
    finish(KINDS["sdar_attention_inputs"], inputs, draw.seed, folder)
    taus = (0, 1, 2, 3) if draw.options.tau is None else (draw.options.tau,)
    for tau in taus:
        if inputs.params["P"] == 0 and tau > 1:
            continue
        name = inputs.file.replace("_inputs", f"_tau{tau}")
        case = Case("sdar_attn_" + name, "sdar_attention", {**inputs.params, "tau": tau}, {}, name,
                    metadata={"inputs_file": inputs.file + ".safetensors"})
        finish(KINDS["sdar_attention"], case, draw.seed, folder)


def export(options: argparse.Namespace) -> int:
    kinds = options.kind or [name for name in KINDS if name != "sdar_attention_inputs"]
    for name in kinds:
        for index in range(options.cases):
            draw = Draw(options, index)
            if name.startswith("sdar_attention"):
                export_sdar(draw, options.out)
            else:
                finish(KINDS[name], KINDS[name].inputs(draw), draw.seed, options.out)
    return 0


def recompute(kind: Kind, case: Case) -> dict:
    try:
        return kind.outputs(case)
    except (Failure, KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
        print(f"{case.kind:22} {case.name:32} cannot be recomputed: {first_line(error)}  DIFFERS")
        return {}


def check_case(kind: Kind, case: Case) -> bool:
    """Compares every result that the file holds; prints the one that uses most of its tolerance."""
    results, rows = recompute(kind, case), []
    if not results:
        return False
    for name in results.keys() & case.tensors.keys():
        tolerance = kind.tolerance(case, name, case.tensors[name])
        distance = difference(results[name], case.tensors[name])
        rows.append((distance / tolerance if tolerance else distance and INF, distance, tolerance, name))
    if not rows:
        print(f"{case.kind:22} {case.name:32} holds no result of this kind  DIFFERS")
        return False
    _, distance, tolerance, name = max(rows)
    good = all(used <= 1 for used, *_ in rows)
    print(f"{case.kind:22} {case.name:32} {len(rows):3} tensors, {name:20} off by {distance:9.3g}, "
          f"tolerance {tolerance:9.3g}  {'ok' if good else 'DIFFERS'}")
    return good


def check(options: argparse.Namespace) -> int:
    folder = pathlib.Path(options.check)
    paths = sorted(folder.rglob("*.safetensors")) if folder.is_dir() else [folder]
    counts = {"ok": 0, "different": 0, "skipped": 0}
    for path in paths:
        case = load_case(path)
        if options.kind and case.kind not in options.kind:
            continue
        if case.kind in KINDS:
            counts["ok" if check_case(KINDS[case.kind], case) else "different"] += 1
        else:
            counts["skipped"] += 1
            print(f"{case.kind or '(no kind)':22} {case.name:32} skipped: not a kind of this program")
    print(", ".join(f"{count} {what}" for what, count in counts.items()))
    if not counts["ok"] + counts["different"]:
        raise Failure(f"{folder}: no case to check")
    return 1 if counts["different"] else 0


PRESETS = (  # name, query heads, key-value heads, head dim, queries, keys
    ("trado-8b", 32, 8, 128, 4, 1024), ("trado-8b", 32, 8, 128, 4, 4096), ("trado-8b", 32, 8, 128, 4, 16384),
    ("trado-8b", 32, 8, 128, 4, 32768), ("trado-8b", 32, 8, 128, 32, 4096), ("longlive-1.3b", 12, 12, 128, 256, 4680),
    ("tiny", 4, 2, 64, 32, 2048))


def ulp_errors(got, truth) -> tuple[float, float, float]:
    """Max and mean error in float32 ulps at the true value, and max absolute error."""
    truth = truth.double().numpy()
    error = np.abs(got.double().numpy() - truth)
    ulps = error / np.spacing(np.abs(truth).astype(np.float32)).astype(np.float64)
    return ulps.max(), ulps.mean(), error.max()


def errors(options: argparse.Namespace) -> int:
    kind = KINDS["attention"]
    print(f"PyTorch {torch.__version__}, float32 attention against float64; ulps at the true value")
    columns = [("out: max ulp", 12), ("mean ulp", 9), ("max abs", 9),
               ("lse: max ulp", 13), ("mean ulp", 9), ("max abs", 9)]
    print(f"{'shape':56}" + "".join(f" {text:>{width}}" for text, width in columns))
    for index, (preset, h, hk, d, queries, keys) in enumerate(PRESETS):
        if options.context is not None and keys > options.context:
            continue
        draw = Draw(options, index)
        tensors = {"q": draw.normal(1, queries, h, d), "k": draw.normal(1, keys, hk, d),
                   "v": draw.normal(1, keys, hk, d)}
        params = {"B": 1, "Sq": queries, "Sk": keys, "H": h, "Hk": hk, "D": d, "softmax_scale": d**-0.5,
                  "causal": False, "head_map": "kv head of q head h is h // (H/Hk)", "preset": preset}
        case = Case(f"errors_{index:02}", "attention", params, tensors,
                    f"errors_{index:02}_{preset}_q{queries}_k{keys}_h{h}-{hk}_d{d}", "normal")
        case.tensors.update(kind.outputs(case))
        shape = f"{preset}: {h}/{hk} heads, D {d}, {queries} queries, {keys} keys"
        out, lse = (ulp_errors(tensors[name], tensors[name + "64"]) for name in ("out", "lse"))
        print(f"{shape:56} {out[0]:12.0f} {out[1]:9.3f} {out[2]:9.2e} {lse[0]:13.2f} {lse[1]:9.3f} {lse[2]:9.2e}",
              flush=True)
        if options.out:
            path = options.out / kind.folder / f"{case.file}.safetensors"
            write_safetensors(path, metadata_of(kind, case, draw.seed), tensors)
    return 0


NUMBERS = {"heads": "query heads", "kv-heads": "key-value heads", "head-dim": "values of a head",
           "context": "keys; with --errors: at most", "queries": "query rows", "block-size": "tokens of a block",
           "batch": "sequences", "steps": "denoising steps of a block", "tau": "dirty tokens that refresh"}


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="export.py", description=__doc__.splitlines()[0],
                                     epilog="Shapes that are not given are drawn at random, from the seed.")
    parser.add_argument("--out", metavar="DIR", type=pathlib.Path, help="write cases below DIR")
    parser.add_argument("--check", metavar="DIR", nargs="?", const=str(HERE / "paper"),
                        help="recompute the cases below DIR (or of one file) and compare; default: golden/paper")
    parser.add_argument("--errors", action="store_true", help="table of PyTorch's float32 attention errors")
    parser.add_argument("--paper-repo", metavar="DIR", type=pathlib.Path,
                        help="call the functions of this clone of the paper's repository where they can be imported")
    parser.add_argument("--kind", metavar="K", action="append", choices=KINDS, help=f"one of: {', '.join(KINDS)}")
    parser.add_argument("--cases", metavar="N", type=int, default=4, help="cases of each kind (default 4)")
    parser.add_argument("--seed", metavar="S", type=int, default=1,
                        help="of the first case; the next has S+1 (default 1)")
    parser.add_argument("--style", help="one style instead of all in turn: the kind's values, scales or strategy")
    for name, text in NUMBERS.items():
        parser.add_argument("--" + name, metavar="N", type=int, help=text)
    options = parser.parse_args(arguments)
    if (options.check is not None) + options.errors + (options.out is not None and not options.errors) != 1:
        parser.error("one of --out DIR, --check [DIR], --errors [--out DIR] is needed")
    for name in [*NUMBERS, "cases"]:
        value, least = getattr(options, name.replace("-", "_")), 0 if name == "tau" else 1
        if value is not None and value < least:
            parser.error(f"--{name} {value}: must be at least {least}")
    if options.head_dim is not None and options.head_dim % 2 == 1:
        parser.error(f"--head-dim {options.head_dim}: must be even")
    return options


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    torch.set_num_threads(1)  # the same sums in the same order, whatever the machine
    try:
        if options.paper_repo:
            load_paper(options.paper_repo)
        if options.check is not None:
            return check(options)
        return errors(options) if options.errors else export(options)
    except (Failure, OSError) as error:
        print(f"export.py: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
