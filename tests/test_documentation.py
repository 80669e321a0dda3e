#!/usr/bin/env python3
"""The documents against what they speak of: links, functions, tests, files, commands, options, rules of the
contract. Prints TAP; a failure names the place and what is wrong there.

usage: test_documentation.py SOURCE_DIR --program PROGRAM
       test_documentation.py SOURCE_DIR --fix-lines    moves links to lines of code to where the code is now
       test_documentation.py SOURCE_DIR --fix-names    writes docs/mistakes.md from the code
"""
import argparse
import pathlib
import re
import sys

import mistake_names
from documentation_support import all_helps, files, run_checks

MOST_README_LINES = 200
# Words that the headings of README.md have, in this order.
README_SECTIONS = (
    "you are", "idea", "quick start", "promise", "measured", "library", "commands", "layout", "limit",
    "document", "licence",
)  # fmt: skip
REFERENCE_PATH = (
    "src/attention/reference.c",
    "src/cache/reference_cache.h",
    "src/cache/reference.c",
    "src/decode/reference_decode.h",
    "src/decode/reference.c",
)
MOST_REFERENCE_LINES = 400
OTHER_OPTIONS = ("--prefer-static", "--buildtype", "--suite")  # meson's
CODE_FOLDERS = ("src", "include", "simd", "tests", "golden", "bench", "examples", "docs", ".ci", ".github")

root = pathlib.Path()


def read(path):
    return (root / path).read_text(encoding="utf-8")


def documents():
    """{path: text} of every Markdown file."""
    return {path: read(path) for path in files(root, "**/*.md", ".github/**/*.md")}


def source_files(*endings):
    folders = ("src", "include", "simd", "bench", "tests", "examples")
    return files(root, *(f"{folder}/**/*.{ending}" for folder in folders for ending in endings))


# --- README.md ----------------------------------------------------------------------------------


def without_code(text):
    return re.sub(r"^(```|~~~).*?^\1$", "", text, flags=re.MULTILINE | re.DOTALL)


def headings(text):
    return re.findall(r"^#{1,6} (.*?)\s*$", without_code(text), re.MULTILINE)


def readme_is_a_front_page():
    text = read("README.md")
    lines = len(text.splitlines())
    if lines > MOST_README_LINES:
        yield f"README.md has {lines} lines, expected at most {MOST_README_LINES}"
    titles = [title.lower() for title in headings(text)]
    position = 0
    for word in README_SECTIONS:
        places = [i for i, title in enumerate(titles) if word in title]
        if not places:
            yield f"README.md: no heading says '{word}'"
        elif max(places) < position:
            yield f"README.md: '{titles[max(places)]}' comes too early"
        position = max([position, *places[:1]])


def every_page_is_in_the_index():
    readme = read("README.md")
    pages = files(root, "docs/**/*.md") + [path for path in files(root, "*.md") if path.name != "README.md"]
    for page in pages:
        if f"]({page})" not in readme and f"]({page}#" not in readme:
            yield f"README.md has no link to {page}"


def news_begins_with_the_version():
    version = re.search(r"version: '([\d.]+)'", read("meson.build")).group(1)
    newest = next((title for title in headings(read("NEWS.md")) if re.match(r"\d", title)), "nothing")
    if newest.split()[0] != version:
        yield f"NEWS.md begins with {newest}, meson.build has version {version}"


# --- links --------------------------------------------------------------------------------------


def anchors(text):
    """What GitHub makes of headings."""
    found, counts = set(), {}
    for title in headings(text):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).replace("`", "")
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        counts[slug] = counts.get(slug, -1) + 1
        found.add(f"{slug}-{counts[slug]}" if counts[slug] else slug)
    return found


LINK = re.compile(r"\[([^\]\n]*(?:\n[^\]\n]+)?)\]\(([^)\s]+)\)")


def links(text):
    """(label, path, anchor) of links within the repository."""
    for label, target in LINK.findall(without_code(text)):
        if not re.match(r"[a-z]+:", target):
            path, _, anchor = target.partition("#")
            yield label, path, anchor


def code_of(label):
    """What a link to a line of code shows, as a pattern."""
    return rf"(?<!\w){re.escape(label.strip('`'))}(?!\w)"


def line_fault(label, path, anchor):
    """A link to a line of code: what its label shows has to be there."""
    lines = read(path).splitlines()
    number = int(anchor[1:])
    if number > len(lines) or not re.search(code_of(label), lines[number - 1]):
        return f"line {number} of {path} does not say {label} (--fix-lines corrects it)"
    return None


def links_resolve():
    texts = documents()
    for document, text in texts.items():
        for label, path, anchor in links(text):
            target = (root / document.parent / path).resolve() if path else root / document
            if not target.exists():
                yield f"{document}: there is no {path}"
            elif re.fullmatch(r"L\d+", anchor):
                fault = line_fault(label, target.relative_to(root), anchor)
                if fault:
                    yield f"{document}: {fault}"
            elif anchor and anchor not in anchors(read(target.relative_to(root))):
                yield f"{document}: {path or document} has no heading #{anchor}"


def definition_line(path, label):
    """The line that defines a struct or a function, or else the first that says it."""
    lines = read(path).splitlines()
    for pattern in (rf"^(?:[\w ]+[ *])?{code_of(label)}(?: \{{$|\(.*[^;]$)", code_of(label)):
        for number, line in enumerate(lines, 1):
            if re.search(pattern, line):
                return number
    return None


def fix_lines():
    for document, text in documents().items():
        fixed = text
        for label, path, anchor in links(text):
            if re.fullmatch(r"L\d+", anchor):
                target = (root / document.parent / path).resolve().relative_to(root)
                number = definition_line(target, label)
                if number:
                    fixed = fixed.replace(f"[{label}]({path}#{anchor})", f"[{label}]({path}#L{number})")
        if fixed != text:
            (root / document).write_text(fixed, encoding="utf-8")
            print(f"{document} is changed")


# --- names --------------------------------------------------------------------------------------


def spans(text):
    """What stands in backticks on one line, outside of blocks."""
    return re.findall(r"`([^`\n]+)`", without_code(text))


def code_lines(text):
    """Commands: spans, and lines of blocks, continued where they end with a backslash."""
    blocks = re.findall(r"^```.*?^```$", text, re.MULTILINE | re.DOTALL)
    blocks += re.findall(r"(?:^    .*\n)+", without_code(text), re.MULTILINE)
    for block in blocks:
        yield from re.sub(r"\\\n\s*", "", block).splitlines()
    yield from spans(text)


def path_fault(name, document, suites, tests):
    """A name with slashes, if it looks like a file's or a test's."""
    first, _, rest = name.partition("/")
    if first in suites and (root / first).exists() is False:
        return None if name in tests or rest == "*" else f"there is no test {name}"
    is_file = first in CODE_FOLDERS or re.search(r"\.(c|h|py|md|sh|in|build)$", name)
    if not is_file or re.search(r"(?<![A-Z])[A-Z]{3,}\b(?!\.md)|[<{…]|\.\.\.", name) or first.startswith("build"):
        return None
    places = [root, root / document.parent, root / "src", root / "include", root / "share/doc/flashblock"]
    if any(list(place.glob(name)) for place in places) or name.startswith(("share/", "/", "~")):
        return None
    return f"there is no file {name}"


def names_exist():
    sources = "\n".join(read(path) for path in source_files("c", "h"))
    identifiers = set(re.findall(r"\b(?:fb_\w+|FB_\w+)\b", sources))
    names_of_files = {path.name for path in source_files("c", "h")}
    tests = {f"{suite}/{name}" for suite, name in re.findall(r"\bTest\((\w+), (\w+)", sources)}
    suites = {test.split("/")[0] for test in tests}
    for document, text in documents().items():
        if document.name == "NEWS.md":  # has old names, too
            continue
        for name in spans(text):
            fault = None
            identifier = re.fullmatch(r"((?:fb_|FB_)\w*[a-zA-Z0-9])(\(.*\))?", name)
            if identifier and identifier[1] not in identifiers:
                fault = f"there is no {identifier[1]}"
            elif re.fullmatch(r"[\w.]+(/[\w.*-]+)+/?", name):
                fault = path_fault(name, document, suites, tests)
            elif re.fullmatch(r"[a-z]\w*\.[ch]", name) and name not in names_of_files:
                fault = f"there is no file {name}"
            if fault:
                yield f"{document}: {fault}"


# --- commands and options -----------------------------------------------------------------------


def faults_of_command(words, helps, known):
    """`words` follow the program's name. (What the benchmark measures has names of this form, too.)"""
    command = ()
    while words and (*command, words[0]) in helps:
        command, words = (*command, words[0]), words[1:]
    if not command and words and re.fullmatch(r"[a-z]+", words[0].strip(",")):
        if f'"flashblock {words[0]}' not in known:
            yield f"there is no command flashblock {words[0]}"
        return
    for word in words:
        if word in ("|", "||", "&&", ";", "#", ">", "2>"):
            return
        option = re.match(r"--[a-z][\w-]*", word)
        if option and not re.search(rf"{option[0]}\b(?!-)", helps[command] + helps[()]):
            yield f"flashblock {' '.join(command)} has no option {option[0]}"


def commands_and_options_exist(program):
    helps = all_helps(program)
    scripts = files(root, "**/*.py", "**/*.sh", "check", "demo", ".ci/*", "bench/run", "bench/table", "bench/plot")
    known = "\n".join([*helps.values(), *(read(path) for path in scripts + source_files("c"))])
    for document, text in documents().items():
        if document.name == "NEWS.md":
            continue
        for line in code_lines(text):
            words = [word.strip("[]()`") for word in line.split()]
            for i, word in enumerate(words):
                if word.rpartition("/")[2] == "flashblock" and (i == 0 or words[i - 1] in ("$", "|", "&&")):
                    for fault in faults_of_command(words[i + 1 :], helps, known):
                        yield f"{document}: {fault}"
        for option in re.findall(r"`(--[a-z][\w-]*)[^`]*`", without_code(text)):
            if option not in OTHER_OPTIONS and not re.search(rf"{option}\b(?!-)", known):
                yield f"{document}: no program has an option {option}"


# --- the contract -------------------------------------------------------------------------------


def rules_exist():
    text = read("docs/contract.md")
    rules = set(re.findall(r"^## (C\d+) |^- \*\*(C\d+\.\d+)", text, re.MULTILINE))
    rules = {name for pair in rules for name in pair if name}
    citation = re.compile(r"contract(?:\.md)? ((?:C\d+(?:\.\d+)?(?:, | and | to )?)+)")
    code = source_files("c", "h", "py")
    for path in [*code, *documents()]:
        for cited in citation.findall(read(path).replace("\n * ", " ")):
            for rule in re.findall(r"C\d+(?:\.\d+)?", cited):
                if rule not in rules:
                    yield f"{path}: the contract has no {rule}"


def reference_path_is_short():
    lines = sum(len(read(path).splitlines()) for path in REFERENCE_PATH)
    if lines >= MOST_REFERENCE_LINES:
        yield f"the reference path has {lines} lines, expected fewer than {MOST_REFERENCE_LINES}"


# --- all of it ----------------------------------------------------------------------------------------


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("source")
    parser.add_argument("--program")
    parser.add_argument("--fix-lines", action="store_true")
    parser.add_argument("--fix-names", action="store_true")
    options = parser.parse_args()
    global root
    root = pathlib.Path(options.source).resolve()
    if options.fix_lines:
        fix_lines()
        return 0
    if options.fix_names:
        (root / "docs" / "mistakes.md").write_text(mistake_names.page(root), encoding="utf-8")
        return 0
    program = options.program
    checks = [
        ("README.md is a front page, in its order", readme_is_a_front_page()),
        ("every page is in the index of README.md", every_page_is_in_the_index()),
        ("NEWS.md begins with this version", news_begins_with_the_version()),
        ("links lead somewhere", links_resolve()),
        ("functions, files and tests that documents name exist", names_exist()),
        ("commands and options that documents name exist", commands_and_options_exist(program)),
        ("rules of the contract that are cited exist", rules_exist()),
        ("docs/mistakes.md has the names of mistakes that the code has", mistake_names.faults(root)),
        (f"the reference path is below {MOST_REFERENCE_LINES} lines", reference_path_is_short()),
    ]
    return run_checks(checks)


sys.exit(main())
