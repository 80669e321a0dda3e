"""What the program says about its commands, for the tests of documents."""
import re
import subprocess


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
