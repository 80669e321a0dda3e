#!/usr/bin/env python3
"""doxygen_filter.py HEADER: a header whose plain comments are Doxygen's, on standard output.

The comments are laid out by hand (shapes, tables, formulas) and stay so: each of more than one line
becomes preformatted text, in which names are still links. The first comment is the file's, one behind
a declaration is that declaration's, a line of dashes is a heading for readers of the source alone.
"""
import re
import sys

COMMENT = re.compile(r"/\*(.*?)\*/", re.DOTALL)


def escaped(text):
    """Text in which no character is markup."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r'([\\@#%"])', r"\\\1", text)
    return re.sub(r"^(\s*)([-+*])(?= )", r"\1\\\2", text)  # no list


def lines_of(text):
    """The comment's lines without the margin that * draws."""
    lines = [re.sub(r"^\s*\* ?", "", line) for line in text.split("\n")]
    lines[0] = text.split("\n")[0]
    return [escaped(line.rstrip()) for line in lines]


def doxygen_comment(match, is_first, is_behind):
    """One comment, as Doxygen reads it."""
    text = match.group(1)
    if text.startswith(" ---") or text.startswith("*"):
        return match.group(0)
    lines = lines_of(text)
    if len(lines) == 1:
        mark = "/**<" if is_behind else "/**"
        return f"{mark}{lines[0]} */"
    if is_behind:
        return "/**<" + "\n".join(lines) + " */"
    head = "/** @file" if is_first else "/**"
    return f"{head}\n<pre>" + "\n".join(lines).strip() + "</pre> */"


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        source = file.read()

    def replaced(match):
        line = source[: match.start()].rpartition("\n")[2]
        return doxygen_comment(match, match.start() == 0, line.strip() != "")

    text = COMMENT.sub(replaced, source)
    if sys.argv[1].endswith("/flashblock.h"):  # what it says is the first page, too
        text += text[: text.index("*/") + 2].replace("@file", "@mainpage FlashBlock")
    sys.stdout.write(text)


main()
