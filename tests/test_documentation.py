#!/usr/bin/env python3
"""The guides against what they speak of: functions, tests, files, headings, commands, options. Prints TAP;
a failure names what is missing.

usage: test_documentation.py SOURCE_DIR --program PROGRAM [--man FILE] --libraries LIBRARY...
       test_documentation.py SOURCE_DIR --add-missing    adds functions to the table of include/README.md
                                                         and sections to the contents of README.md
"""
import argparse
import glob
import os
import re
import shutil
import subprocess
import sys

TABLE = "include/README.md"
REFERENCE_PATH = [
    "src/attention/reference.c",
    "src/cache/reference_cache.h",
    "src/cache/reference.c",
    "src/decode/reference_decode.h",
    "src/decode/reference.c",
]
MOST_REFERENCE_LINES = 400
TOP_FOLDERS = ("src", "include", "simd", "tests", "golden", "bench", ".ci")

root = ""


def read(path):
    with open(os.path.join(root, path), encoding="utf-8") as file:
        return file.read()


# --- functions ----------------------------------------------------------------------------------


def declarations():
    """{header: [functions in order]} of what FB_API marks."""
    found = {}
    for path in sorted(glob.glob(os.path.join(root, "include/flashblock/*.h"))):
        code = re.sub(r"/\*.*?\*/", "", read(path), flags=re.DOTALL)
        found[os.path.basename(path)] = re.findall(r"FB_API[^;]*?\b(fb_\w+)\(", code)
    return found


def table_rows():
    """{header: [functions]} of include/README.md."""
    found = {}
    rows = []
    for line in read(TABLE).splitlines():
        heading = re.match(r"## .*: `(\w+\.h)`$", line)
        row = re.match(r"\| `(fb_\w+)` \| \S.* \|$", line)
        if heading:
            rows = found.setdefault(heading.group(1), [])
        elif row:
            rows.append(row.group(1))
    return found


def table_is_complete():
    declared, listed = declarations(), table_rows()
    for header, functions in declared.items():
        for function in functions:
            if function not in listed.get(header, []):
                yield f"{TABLE} lacks {function} of {header}"
    for header, functions in listed.items():
        for function in functions:
            if function not in declared.get(header, []):
                yield f"{TABLE} has {function}, which {header} does not declare"
            if functions.count(function) > 1:
                yield f"{TABLE} has {function} twice"


def functions_are_exported(libraries):
    exported = set()
    for library in libraries:
        names = subprocess.run(
            ["nm", "--dynamic", "--defined-only", "--format=posix", library],
            check=True,
            stdout=subprocess.PIPE,
            encoding="utf-8",
        ).stdout
        exported.update(line.split()[0] for line in names.splitlines())
    for header, functions in declarations().items():
        for function in functions:
            if function not in exported:
                yield f"{function} of {header} is exported by no library"


def headers_are_included():
    whole = read("include/flashblock/flashblock.h")
    for header in declarations():
        if header != "flashblock.h" and f"#include <flashblock/{header}>" not in whole:
            yield f"flashblock.h does not include {header}"


def first_words(header, function):
    """The beginning of the comment above a function, for --add-missing."""
    code = read(f"include/flashblock/{header}")
    above = code[: re.search(rf"^FB_API[^;]*?\b{function}\(", code, re.MULTILINE).start()]
    comment = above[above.rindex("/*") + 2 :].split("*/")[0]
    text = re.sub(r"\s*\n \* ?", " ", comment).strip()
    sentence = re.split(r"[.:;] ", text + " ")[0].strip()
    return sentence[:1].lower() + sentence[1:].rstrip(".")


def add_missing():
    """Writes rows for functions that the table lacks; the words are to be looked at."""
    text = read(TABLE)
    listed = table_rows()
    for header, functions in declarations().items():
        missing = [f for f in functions if f not in listed.get(header, [])]
        if not missing:
            continue
        rows = "".join(f"| `{f}` | {first_words(header, f)} |\n" for f in missing)
        section = re.search(rf"## .*: `{header}`\n(?:.|\n)*?(?=\n## |\Z)", text)
        if section:
            text = text[: section.end()].rstrip("\n") + "\n" + rows + text[section.end() :]
        else:
            text += f"\n## {header}: `{header}`\n\n| function | |\n|---|---|\n{rows}"
        print(f"{header}: {', '.join(missing)}")
    with open(os.path.join(root, TABLE), "w", encoding="utf-8") as file:
        file.write(text)


# --- names in the guides ------------------------------------------------------------------------


def guides():
    """(name, text) of what promises to name things that exist."""
    readme = read("README.md")
    section = re.search(r"^## Reading guide\n(.*?)(?=^## )", readme, re.MULTILINE | re.DOTALL)
    yield "README.md, Reading guide", section.group(1) if section else ""
    yield "src/README.md", read("src/README.md")
    yield TABLE, read(TABLE)


def all_sources():
    paths = []
    for folder in ("src", "include", "simd", "bench", "tests"):
        for ending in ("c", "h"):
            paths += glob.glob(os.path.join(root, folder, "**", f"*.{ending}"), recursive=True)
    return "\n".join(read(path) for path in paths)


def names_exist():
    sources = all_sources()
    identifiers = set(re.findall(r"\b\w+\b", sources))
    tests = {f"{suite}/{name}" for suite, name in re.findall(r"\bTest\((\w+), (\w+)", sources)}
    suites = {test.split("/")[0] for test in tests}
    for guide, text in guides():
        if not text:
            yield f"{guide} is empty"
        # code in backticks, and links
        for name in re.findall(r"`([^`\n]+)`", text) + re.findall(r"\]\(([^)#]+)\)", text):
            place = os.path.join(os.path.dirname(guide), name) if guide == "src/README.md" else name
            if name.startswith("build/"):
                continue
            if re.fullmatch(r"[\w.]+(/[\w.*-]+)+/?", name):
                if name.startswith(tuple(f"{folder}/" for folder in TOP_FOLDERS)):
                    if not glob.glob(os.path.join(root, name)):
                        yield f"{guide}: there is no {name}"
                elif name.split("/")[0] in suites:
                    if name not in tests and not name.endswith("/*"):
                        yield f"{guide}: there is no test {name}"
                elif not glob.glob(os.path.join(root, place)):
                    yield f"{guide}: there is neither a file nor a test {name}"
            elif re.fullmatch(r"fb_\w+(\(\))?", name) and name.removesuffix("()") not in identifiers:
                yield f"{guide}: there is no {name}"


def section_titles(text):
    code_free = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"^## (.*)$", code_free, re.MULTILINE)


def slug_of(title):
    """The anchor that a heading gets."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def rewrite_contents():
    text = read("README.md")
    lines = "".join(f"- [{title}](#{slug_of(title)})\n" for title in section_titles(text))
    text = re.sub(r"(?:^- \[[^\]]+\]\(#[\w-]+\)\n)+", lambda _: lines, text, count=1, flags=re.MULTILINE)
    with open(os.path.join(root, "README.md"), "w", encoding="utf-8") as file:
        file.write(text)


def contents_are_complete():
    """The list of sections at the top of README.md has each of them, in their order."""
    readme = read("README.md")
    headings = section_titles(readme)
    listed = re.findall(r"^- \[([^\]]+)\]\(#([\w-]+)\)", readme, re.MULTILINE)
    for heading in headings:
        if (heading, slug_of(heading)) not in listed:
            yield f"README.md: the contents lack '- [{heading}](#{slug_of(heading)})'"
    for title, _ in listed:
        if title not in headings:
            yield f"README.md: the contents have '{title}', there is no such section"
    order = [title for title, _ in listed if title in headings]
    if order != [heading for heading in headings if heading in order]:
        yield "README.md: the contents are in another order than the sections"


def reference_path_is_short():
    lines = sum(len(read(path).splitlines()) for path in REFERENCE_PATH)
    if lines >= MOST_REFERENCE_LINES:
        yield f"the reference path has {lines} lines, expected fewer than {MOST_REFERENCE_LINES}"


# --- the man page -------------------------------------------------------------------------------


def help_of(program, *words):
    return subprocess.run(
        [program, *words, "--help"], check=True, stdout=subprocess.PIPE, encoding="utf-8"
    ).stdout


def commands_of(text):
    listed = re.search(r"^Commands:\n((?:  .*\n)+)", text, re.MULTILINE)
    return re.findall(r"^  (\w+) ", listed.group(1), re.MULTILINE) if listed else []


def man_sections(man):
    """{heading: text without fonts} of the page."""
    plain = re.sub(r"\\f[BIR]", "", read(man)).replace("\\-", "-").replace("\\&", "")
    parts = re.split(r"^\.SH \"?([^\"\n]*)\"?$", plain, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2]))


def man_page_is_complete(program, man):
    sections = man_sections(man)
    commands = [[name] for name in commands_of(help_of(program))]
    for words in list(commands):
        commands += [[*words, inner] for inner in commands_of(help_of(program, *words))]
    for words in commands:
        name = " ".join(words)
        section = sections.get(f"flashblock {name}")
        if section is None or f".B {name}\n" not in sections["COMMANDS"]:
            yield f"the man page lacks the command {name}"
            continue
        options = re.findall(r"^ {2,6}(?:(-\w), )?(--[\w-]+)", help_of(program, *words), re.MULTILINE)
        for short, long in options:
            if not re.search(rf"^(-\w, )?{long}\b", section, re.MULTILINE):
                yield f"the man page lacks {long} of {name}"
            elif short and not re.search(rf"^{short}, {long}\b", section, re.MULTILINE):
                yield f"the man page lacks {short} of {name}"
    if not commands:
        yield "--help lists no commands"


def man_page_renders(man):
    shown = subprocess.run(
        ["groff", "-man", "-ww", "-z", os.path.join(root, man)],
        stderr=subprocess.PIPE,
        encoding="utf-8",
        check=False,
    )
    if shown.returncode != 0 or shown.stderr:
        yield shown.stderr or f"groff ended with {shown.returncode}"


# --- TAP ----------------------------------------------------------------------------------------


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("source")
    parser.add_argument("--program")
    parser.add_argument("--man")
    parser.add_argument("--libraries", nargs="*", default=[])
    parser.add_argument("--add-missing", action="store_true")
    arguments = parser.parse_args()
    global root
    root = arguments.source
    if arguments.add_missing:
        add_missing()
        rewrite_contents()
        return 0
    checks = [
        ("every public function is in the table", table_is_complete, ()),
        ("every public function is exported", functions_are_exported, (arguments.libraries,)),
        ("flashblock.h includes every header", headers_are_included, ()),
        ("the guides name what exists", names_exist, ()),
        ("the contents of README.md are complete", contents_are_complete, ()),
        (f"the reference path is below {MOST_REFERENCE_LINES} lines", reference_path_is_short, ()),
    ]
    if arguments.man:
        man = os.path.abspath(arguments.man)
        checks.append(
            ("the man page has every command and option", man_page_is_complete, (arguments.program, man))
        )
        if shutil.which("groff"):
            checks.append(("the man page renders without a warning", man_page_renders, (man,)))
    failed = False
    print(f"1..{len(checks)}")
    for name, check, values in checks:
        faults = list(check(*values))
        print(("not ok - " if faults else "ok - ") + name)
        for fault in faults:
            print("# " + fault)
        failed = failed or bool(faults)
    return 1 if failed else 0


sys.exit(main())
