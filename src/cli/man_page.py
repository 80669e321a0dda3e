#!/usr/bin/env python3
"""Writes the man page: what is said once in flashblock.1.in, and every command and option as the
program's own --help has them.

usage: man_page.py PROGRAM TEMPLATE > flashblock.1
"""
import re
import subprocess
import sys

# "  -m, --model DIR     what it is"; long ones have their text on the next line
OPTION = re.compile(r"^  (?:-\w, |    )?(--[\w-]+.*?)(?:  +(\S.*))?$")
COMMAND = re.compile(r"^  ([a-z]\w*)  +(\S.*)$")


def help_of(program, *words):
    """The lines of `program words... --help`."""
    shown = subprocess.run(
        [program, *words, "--help"], check=True, stdout=subprocess.PIPE, encoding="utf-8"
    )
    return shown.stdout.splitlines()


def commands_of(lines):
    """(name, summary) of each line below "Commands:"."""
    found = []
    inside = False
    for line in lines:
        match = COMMAND.match(line)
        if line == "Commands:":
            inside = True
        elif inside and match:
            found.append(match.groups())
        else:
            inside = False
    return found


def roff(text):
    """Plain text, as roff takes it."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return "\\&" + text if text[:1] in (".", "'") else text


def bold_heads(head):
    """-m, --model DIR: flags in bold, their values in italics."""
    words = []
    for word in head.split():
        font = "B" if word.startswith("-") else "I"
        words.append(f"\\f{font}{roff(word)}\\fR")
    return " ".join(words)


def page_of(lines):
    """A command's --help as roff: synopsis, paragraphs, options. Commands are left out: each has a
    section of its own."""
    page = [roff(lines[0].removeprefix("Usage: "))]
    paragraph = True
    in_commands = False
    for line in lines[1:]:
        option = OPTION.match(line)
        if line == "":
            paragraph = True
            in_commands = False
        elif line == "Commands:":
            in_commands = True
        elif in_commands:
            continue
        elif option:
            flags = line[: option.end(1)].strip()
            page += [".TP", bold_heads(flags)]
            if option.group(2):
                page.append(roff(option.group(2)))
        elif re.match(r"^\S.*:$", line):
            page.append(f".SS {roff(line[:-1])}")
        else:
            if paragraph and not line.startswith(" "):
                page.append(".PP")
            page.append(roff(line.strip()))
            paragraph = False
    return page


def all_commands(program):
    """(words, summary) of each command, those with commands of their own followed by these."""
    for name, summary in commands_of(help_of(program)):
        yield (name,), summary
        for inner, inner_summary in commands_of(help_of(program, name)):
            yield (name, inner), inner_summary


def main():
    program, template = sys.argv[1:]
    version = subprocess.run(
        [program, "--version"], check=True, stdout=subprocess.PIPE, encoding="utf-8"
    ).stdout.split()[1]
    listed, options = [], []
    for words, summary in all_commands(program):
        name = " ".join(words)
        listed += [".TP", f".B {roff(name)}", roff(summary)]
        options += [f'.SH "flashblock {roff(name)}"', *page_of(help_of(program, *words))]
    with open(template, encoding="utf-8") as file:
        page = file.read()
    page = page.replace("@VERSION@", version)
    page = page.replace("@COMMANDS@", "\n".join(listed))
    sys.stdout.write(page.replace("@OPTIONS@", "\n".join(options)))


main()
