#!/usr/bin/python3
"""test_options.py PROGRAM: which options need or exclude others, in every command. Prints TAP."""
import re
import subprocess
import sys
import traceback

PROGRAM = sys.argv[1]

# Every option that means something only with another one, by command. What it needs is in --help.
GENERATE = {
    "tau", "reuse", "refresh-every", "refresh-dirty", "refresh-commit", "correction", "reuse-always",
    "reuse-at-commit", "density", "residual", "centroids", "select-every-step", "key-block",
    "confidence-threshold", "entropy-bound", "seed", "samples",
}
RULES = {
    "bench attention": {"heads", "kv-heads", "head-dim", "tau", "row-refresh", "steps"},
    "bench decode": {"like", "layers"},
    "bench isa": set(),
    "bench limits": set(),
    "bench merge": set(),
    "bench video": {"reused-heads"},
    "calibrate": set(),
    "chat": GENERATE - {"samples"} | {"load"},
    "eval reuse": {"confidence-threshold"},
    "eval sparse": {"selectors", "density", "key-block", "select-every-step", "confidence-threshold"},
    "eval tasks": {"texts"},
    "eval video": set(),
    "generate": GENERATE | {"visual", "compare", "repeats", "record"},
    "golden": {"correction", "reuse", "context", "block-size", "tau", "steps", "queries", "keys", "batch",
               "key-lengths", "mask-block", "first-query", "first-key"},
    "info": set(),
    "quantize": {"asymmetric"},
    "selftest": {"filter", "hashes", "write"},
    "serve": GENERATE - {"samples"},
    "trace": GENERATE | {"no-pictures", "sweep"},
    "verify": {"activations", "cache", "model", "no-cache", "partial", "precision", "states", "trajectory"},
    "video": {"clips"},
}
REQUIRED = {
    "bench decode": ["--model", "x"],
    "calibrate": ["--model", "x", "--output", "/dev/null"],
    "chat": ["--model", "x"],
    "eval reuse": ["--model", "x", "--text", "x"],
    "eval sparse": ["--model", "x", "--text", "x"],
    "eval tasks": ["--model", "x"],
    "eval video": ["--model", "x"],
    "generate": ["--model", "x", "--prompt", "y"],
    "golden": ["--output", "/dev/null"],
    "quantize": ["--model", "x", "--output", "/nonesuch/folder"],
    "serve": ["--model", "x"],
    "trace": ["--model", "x", "--prompt", "y", "--html", "/dev/null"],
    "verify": ["/nonesuch/case"],
    "video": ["--model", "x", "--output", "/dev/null"],
}
# A value that the option takes, by its name or by what --help calls the value.
VALUES = {
    "selectors": "quest", "write": "/dev/null", "json": "-", "candidate": "x", "calibration": "x",
    "remasking": "sequential", "reuse": "rows", "sparse": "quest", "preset": "small", "prompt": "y",
    "isa": "all", "key-lengths": "3,4", "kind": "attention", "compat": "released", "precision": "f32", "activations": "f32",
    "T,T...": "2",
}

# A value of an option that another one needs to have a certain value.
OTHERS = {"bits": "8", "kind": "denoising_sequence", "remasking": "sequential", "reuse": "tau", "samples": "2", "sweep": "2"}


def run(*arguments):
    return subprocess.run([PROGRAM, *arguments], capture_output=True, text=True, timeout=300, check=False)


def expect(condition, *what):
    if not condition:
        raise AssertionError(" ".join(str(item) for item in what))


def options_of(command):
    """{name: (name of the value or None, help)}"""
    found, name = {}, None
    for line in run(*command.split(), "--help").stdout.splitlines():
        match = re.match(r"  (?:-\w, |    )--([a-z-]+)(?: (\[?[A-Za-z,.=-]+\]?))?(?:  +(.*))?$", line)
        if match:
            name = match[1]
            found[name] = [match[2], match[3] or ""]
        elif name and line.startswith(" " * 30):
            found[name][1] += " " + line.strip()
        else:
            name = None
    return found


def spelled(options, name, value=None):
    argument = options[name][0]
    if argument is None:
        return ["--" + name]
    return ["--" + name, value or VALUES.get(name) or VALUES.get(argument) or
            ("0.5" if argument in ("R", "C", "E", "X") else "16")]


def clauses(text):
    """Of the last parentheses: [("needs", [alternatives]) or ("not with", [name and value])]."""
    found = []
    for kind, rest in re.findall(r"(needs|not with) ([^;()]*)", " ".join(re.findall(r"\(([^()]*)\)", text))):
        if rest.startswith("--"):
            found.append((kind, [part.split() for part in rest.split(" or ")]))
    return found


def refused(command, options, given, named):
    result = run(*command.split(), *given)
    message = result.stderr
    expect(result.returncode == 2, command, given, "exit status", result.returncode, message)
    expect(message.count("\n") == 1 and message.startswith("flashblock: "), "not one line:", message)
    for name in named:
        expect("--" + name in message, "--" + name, "is not in", message, "of", given)


def check(command):
    options, ruled = options_of(command), set()
    expect(len(options) > 1, command, options)
    required = REQUIRED.get(command, [])
    for name, (_, text) in options.items():
        for kind, alternatives in clauses(text):
            ruled.add(name)
            other = alternatives[0][0][2:]
            value = alternatives[0][1] if len(alternatives[0]) > 1 else None
            given = [*required, *spelled(options, name)]
            if kind == "not with":
                for also, (needed, *_) in clauses(text):
                    if also == "needs":
                        given += spelled(options, needed[0][2:], needed[1] if len(needed) > 1 else None)
                given += spelled(options, other, value)
            elif value:
                given += spelled(options, other, OTHERS[other])
            if "--samples" in given and name != "samples":
                given += ["--temperature", "1"]
            for alternative in alternatives[1:]: # "no --sparse"
                if alternative[0] == "no":
                    given += spelled(options, alternative[1][2:])
            refused(command, options, given, [name, other])
    expect(ruled == RULES[command], command, "has rules for", sorted(ruled ^ RULES[command]))


def all_commands():
    names = re.findall(r"^  ([a-z]+)  ", run("--help").stdout.split("Commands:")[1], re.M)
    for name in names:
        inner = run(name, "--help").stdout.split("Commands:")
        if len(inner) > 1:
            yield from (f"{name} {word}" for word in re.findall(r"^  ([a-z]+)  ", inner[1], re.M))
        else:
            yield name


def every_command_is_listed():
    """`serve` is there where libmicrohttpd was."""
    expect(sorted({*all_commands(), "serve"}) == sorted(RULES), sorted(all_commands()))


def values_decide():
    """Given or by default; numbers as numbers."""
    base = REQUIRED["generate"]
    for given, fine in [
        (["--seed", "1"], False),
        (["--seed", "1", "--temperature", "0.0"], False),
        (["--seed", "1", "--temperature", "0.5"], True),
        (["--temperature", "0.5", "--seed", "1"], True),
        (["--entropy-bound", "1"], False),
        (["--entropy-bound", "1", "--remasking", "entropy_bounded"], True),
        (["--confidence-threshold", "1"], True),
        (["--confidence-threshold", "1", "--remasking", "sequential"], False),
        (["--reuse-always", "--tau", "00"], False),
        (["--sparse", "quest", "--tau", "2"], False),
        (["--sparse", "quest", "--residual", "--tau", "2"], True),
        (["--top-k", "5"], True), # confidences are among what is left, drawn or not
        (["--visual", "--json", "x.json"], True),
        (["--visual", "--json"], False),
        (["--repeats", "2"], False),
        (["--density", "0.5"], False),
    ]:
        result = run("generate", *base, *given)
        # What is fine fails later, for want of the model.
        expect(result.returncode == (1 if fine else 2), given, result.stderr)


def units():
    """4k is 4096 in every command."""
    for unit, number in (("1k", "1024"), ("1m", "1048576")):
        one = run("golden", "--context", "0", "--json", "-", "-o", "/dev/null", "--seed", "1")
        expect(one.returncode == 0, one.stderr)
        expect(run("golden", "--steps", unit, "-o", "/dev/null").stderr.replace(unit, "N") ==
               run("golden", "--steps", number, "-o", "/dev/null").stderr.replace(number, "N"), unit)
    two = run("golden", "--context", "1k", "--json", "-", "-o", "/dev/null")
    expect(two.returncode == 0 and '"context_length": 1024' in two.stdout, two)
    for wrong in ("1K", "1kk", "k", "1k ", "99999999999999999k"):
        expect(run("golden", "--context", wrong, "-o", "/dev/null").returncode == 2, wrong)


def main():
    cases = [every_command_is_listed, values_decide, units]
    built = [command for command in RULES if command in set(all_commands())]
    failures = 0
    print(f"1..{len(cases) + len(built)}")
    for name, function in [(f.__name__, f) for f in cases] + [(c, lambda c=c: check(c)) for c in built]:
        try:
            function()
            print("ok -", name.replace("_", " "), flush=True)
        except Exception: # pylint: disable=broad-except
            failures += 1
            print("not ok -", name, flush=True)
            print("".join("# " + line + "\n" for line in traceback.format_exc().splitlines()), end="", flush=True)
    return failures > 0


sys.exit(main())
