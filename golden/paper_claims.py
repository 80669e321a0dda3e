#!/usr/bin/python3
"""paper_claims.py [--program PROGRAM] [--windows N] [--pictures DIR] DIR: what the paper claims,
measured on the demo model.

For blocks of 4 and of 8 tokens, into DIR:
    trace-B/      `flashblock trace`: dense decoding behind held-out text of 0 to 1,024 tokens, sampled at
                  temperature 1 as in the paper's scripts; then decoded again with tau 0 to 5
    eval-B.json   `flashblock eval sparse`: greedy denoising of held-out text with tau 1 to 5 and densely
    quality.png   agreement and accuracy against tau (and .svg)
and the tables of docs/results/claims.md, in Markdown, on standard output. What is in DIR already is not
measured again. --pictures copies those that docs/results/claims.md shows.
Takes gnuplot (Debian: gnuplot-nox).
"""
import argparse
import csv
import json
import math
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
MODEL = ROOT / "golden" / "demo-model"
HELD_OUT = MODEL / "held-out.txt"
BLOCK_SIZES = (4, 8)
TAUS = (1, 2, 3, 4, 5)
PROMPTS = 5  # of 0, 256, ... 1,024 tokens, each continued by 128
TOKENS = 128
CHARACTERS = 3.45  # a token, about
CONTEXT = 512  # of the evaluation's first block; a window is WINDOW tokens
WINDOW = 256
PICTURES = ("stability-4", "stability-8", "heads-4", "mass-4", "error-4", "error-8")
BLUE, RED = "#0072b2", "#d55e00"


def run(*command):
    print("paper_claims:", *map(str, command), file=sys.stderr)
    subprocess.run([*map(str, command)], check=True, stdout=subprocess.DEVNULL)


def trace(arguments, size):
    folder = arguments.directory / f"trace-{size}"
    if not (folder / "trace.json").exists():
        text, prompts, at = HELD_OUT.read_text(), [], 0
        for i in range(PROMPTS):
            length = int(i * 2 * TOKENS * CHARACTERS)
            path = arguments.directory / f"prompt-{i}.txt"
            path.write_text(text[at : at + length].rpartition(" ")[0])
            prompts += ["--prompt-file", path]
            at += length
        run(arguments.program, "trace", "-m", MODEL, *prompts, "-n", TOKENS, "-b", size, "--tau", 0,
            "--temperature", 1, "--seed", 1, "--ignore-eos", "--threads", 1, "-o", folder)
    with (folder / "tau.csv").open(newline="") as file:
        taus = list(csv.DictReader(file))
    return json.loads((folder / "trace.json").read_text()), taus


def evaluate(arguments, size):
    path = arguments.directory / f"eval-{size}.json"
    if not path.exists():
        run(arguments.program, "eval", "sparse", "-m", MODEL, "-f", HELD_OUT, "--no-sparse", "--tau",
            ",".join(map(str, TAUS)), "--block-size", size, "--context", CONTEXT, "--blocks", WINDOW // size,
            "--windows", arguments.windows, "--threads", 1, "--json", path)
    return json.loads(path.read_text())


def table(head, *lines):
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for line in lines:
        print("| " + " | ".join(line) + " |")
    print()


def mean(values):
    values = [value for value in values if value is not None]
    return math.fsum(values) / len(values)


def over_heads(steps, name):
    return mean(v for step in steps for layer in step[name] for v in layer)


def stability(traces):
    """Similarities of consecutive steps, over all steps after a block's first."""
    lines = []
    for size, (data, _) in traces.items():
        steps = [s for s in data["steps"] if s["denoising_step"] > 0 and s["context_length"] > 0]
        external, internal = over_heads(steps, "external_cosine"), over_heads(steps, "internal_cosine")
        lines.append([
            str(size), f"{external:.3f}", f"{internal:.3f}", f"{(1 - internal) / (1 - external):.1f}",
            f"{over_heads(steps, 'external_cosine_kept'):.3f}", f"{over_heads(steps, 'internal_cosine_kept'):.3f}",
            f"{over_heads(steps, 'external_lse_change'):.2f}", f"{over_heads(steps, 'external_mass'):.2f}",
            str(count_heads(steps)) + f" of {data['num_layers'] * data['num_heads']}",
        ])
    table(["block", "external", "internal", "(1 - internal) / (1 - external)", "external, kept rows",
           "internal, kept rows", "change of the external LSE", "external mass",
           "heads whose external part is the more stable"], *lines)


def count_heads(steps):
    """Heads whose mean external similarity is above their internal one."""
    layers, heads = len(steps[0]["external_cosine"]), len(steps[0]["external_cosine"][0])

    def of(name, layer, head):
        return mean(step[name][layer][head] for step in steps)

    return sum(of("external_cosine", layer, head) > of("internal_cosine", layer, head)
               for layer in range(layers) for head in range(heads))


def quality(evaluations, traces):
    lines = []
    for size, data in evaluations.items():
        dense = data["methods"][0]
        for method in data["methods"]:
            if method["method"] not in ("dense", "flashblock"):
                continue
            tau, tokens = method["tau"], method["tokens"]
            reuse = next((t for t in traces[size][1] if int(t["tau"]) == tau), None)
            accuracy, error = method["accuracy"], (method["accuracy"] * (1 - method["accuracy"]) / tokens) ** 0.5
            lines.append([
                str(size), f"{tau}" + (" (dense)" if tau == 0 else ""),
                f"{100 * method['keys']:.0f} %", f"{100 * method['agreement']:.1f} %",
                f"{100 * accuracy:.1f} ± {100 * error:.1f} %",
                f"{100 * (accuracy - dense['accuracy']):+.1f}" if tau else "",
                f"{method['divergence']:.3f}", f"{mean(method['layer_errors']):.3f}",
                f"{float(reuse['error_mean']):.3f}" if reuse and reuse["error_mean"] else "",
            ])
        print(f"blocks of {size}: {dense['tokens']} tokens in {dense['steps']} dense steps", file=sys.stderr)
    table(["block", "tau", "external keys read", "agreement with dense", "accuracy", "points", "KL, nats",
           "error of attention, all steps", "at steps that reuse"], *lines)


def draw(evaluations, directory):
    script = ["set border 3 lw 1.2", "set tics nomirror out", "set grid back lw 0.6 lc rgb '#dddddd'",
              "set key outside below maxrows 2 Left reverse samplen 3", "set xtics 1",
              "set bmargin 7", "set xrange [-0.2:5.2]", "set yrange [0:103]",
              "set xlabel 'tau (0: dense attention)'", "set ylabel 'percent of the tokens'",
              "set title \"Greedy denoising of held-out text, every block behind the true text\""]
    plots = []
    for size, colour, kind in zip(BLOCK_SIZES, (BLUE, RED), (7, 5)):
        rows = [(m["tau"], 100 * m["agreement"], 100 * m["accuracy"],
                 100 * (m["accuracy"] * (1 - m["accuracy"]) / m["tokens"]) ** 0.5)
                for m in evaluations[size]["methods"] if m["method"] in ("dense", "flashblock")]
        script.append(f"$q{size} << END\n" + "\n".join(" ".join(map(str, row)) for row in rows) + "\nEND")
        plots += [f"$q{size} using 1:2 with linespoints pt {kind} lw 2.5 lc rgb '{colour}' "
                  f"title 'agreement with dense, blocks of {size}'",
                  f"$q{size} using 1:3:4 with yerrorlines pt {kind - 1} lw 1.8 dt 2 lc rgb '{colour}' "
                  f"title 'accuracy, blocks of {size}'"]
    for terminal, ending in (("pngcairo", "png"), ("svg background rgb 'white'", "svg")):
        script += [f"set terminal {terminal} size 900,560 font 'DejaVu Sans,12'",
                   f"set output '{directory / ('quality.' + ending)}'", "plot " + ", ".join(plots)]
    subprocess.run(["gnuplot", "-"], input="\n".join(script).encode() + b"\n", check=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=pathlib.Path, metavar="DIR")
    parser.add_argument("--program", type=pathlib.Path, default=ROOT / "build" / "src" / "cli" / "flashblock")
    parser.add_argument("--windows", type=int, default=4, help="of the evaluation, 256 tokens each (4)")
    parser.add_argument("--pictures", type=pathlib.Path, metavar="DIR",
                        help="copies of the pictures that docs/results/claims.md shows")
    arguments = parser.parse_args()
    arguments.directory.mkdir(parents=True, exist_ok=True)
    traces = {size: trace(arguments, size) for size in BLOCK_SIZES}
    stability(traces)
    evaluations = {size: evaluate(arguments, size) for size in BLOCK_SIZES}
    quality(evaluations, traces)
    draw(evaluations, arguments.directory)
    if arguments.pictures:
        arguments.pictures.mkdir(parents=True, exist_ok=True)
        shutil.copy(arguments.directory / "quality.png", arguments.pictures)
        for name in PICTURES:
            stem, size = name.split("-")
            shutil.copy(arguments.directory / f"trace-{size}" / f"{stem}.png", arguments.pictures / f"{name}.png")


main()
