#!/usr/bin/env python3
"""The man page has every command and option that --help lists, and renders. Prints TAP.

usage: test_man_page.py PROGRAM MAN_PAGE
"""
import re
import shutil
import subprocess
import sys

from documentation_support import all_helps, run_checks


def man_sections(man):
    """{heading: text without fonts} of the page."""
    plain = re.sub(r"\\f[BIR]", "", open(man, encoding="utf-8").read()).replace("\\-", "-").replace("\\&", "")
    parts = re.split(r"^\.SH \"?([^\"\n]*)\"?$", plain, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2]))


def man_page_is_complete(program, man):
    sections = man_sections(man)
    helps = all_helps(program)
    for words, text in helps.items():
        if not words:
            continue
        name = " ".join(words)
        section = sections.get(f"flashblock {name}")
        if section is None or f".B {name}\n" not in sections["COMMANDS"]:
            yield f"the man page lacks the command {name}"
            continue
        for short, long in re.findall(r"^ {2,6}(?:(-\w), )?(--[\w-]+)", text, re.MULTILINE):
            if not re.search(rf"^(-\w, )?{long}\b", section, re.MULTILINE):
                yield f"the man page lacks {long} of {name}"
            elif short and not re.search(rf"^{short}, {long}\b", section, re.MULTILINE):
                yield f"the man page lacks {short} of {name}"
    if len(helps) < 2:
        yield "--help lists no commands"


def man_page_renders(man):
    command = ["groff", "-man", "-ww", "-z", man]
    shown = subprocess.run(command, stderr=subprocess.PIPE, encoding="utf-8", check=False)
    if shown.returncode != 0 or shown.stderr:
        yield shown.stderr or f"groff ended with {shown.returncode}"


def main():
    program, man = sys.argv[1:]
    checks = [("the man page has every command and option", man_page_is_complete(program, man))]
    if shutil.which("groff"):
        checks.append(("the man page renders without a warning", man_page_renders(man)))
    return run_checks(checks)


sys.exit(main())
