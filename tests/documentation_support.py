"""What the tests of documents share: files of the project, the program's help, TAP."""
import re
import subprocess
import sys


def files(root, *patterns):
    """Paths below the root that match, relative to it; build folders are left out."""
    found = {path.relative_to(root) for pattern in patterns for path in root.glob(pattern) if path.is_file()}
    return sorted(path for path in found if not path.parts[0].startswith("build") and path.parts[0] != ".git")


def help_of(program, *words):
    arguments = [program, *words, "--help"]
    return subprocess.run(arguments, check=True, stdout=subprocess.PIPE, encoding="utf-8").stdout


def commands_of(text):
    listed = re.search(r"^Commands:\n((?:  .*\n)+)", text, re.MULTILINE)
    return re.findall(r"^  (\w+) ", listed.group(1), re.MULTILINE) if listed else []


def all_helps(program):
    """{words of a command: its help}; () is the program itself."""
    helps, waiting = {}, [()]
    for words in waiting:
        helps[words] = help_of(program, *words)
        waiting += [(*words, name) for name in commands_of(helps[words])]
    return helps


def run_checks(checks):
    """`checks` are (name, faults), each fault a line. Prints TAP; returns the exit status."""
    failed = False
    print(f"1..{len(checks)}")
    for name, faults in checks:
        faults = list(faults)
        print(("not ok - " if faults else "ok - ") + name)
        for fault in faults:
            print("# " + fault, file=sys.stderr)  # meson shows it
        failed = failed or bool(faults)
    return 1 if failed else 0
