#!/usr/bin/env python3
"""What public headers have to hold: a comment for each function, an exported symbol, citations of what is
installed, a stable part that does not lean on the experimental one. Prints TAP.

usage: test_headers.py SOURCE_DIR LIBRARY...
"""
import pathlib
import re
import subprocess
import sys

from documentation_support import files, run_checks

root = pathlib.Path(sys.argv[1]).resolve()


def read(path):
    return (root / path).read_text(encoding="utf-8")


def public_headers():
    return files(root, "include/**/*.h")


def declarations(header):
    """[(function, whether it has a comment)] of what FB_API marks. Lines without an empty line between them
    share a comment."""
    code = re.sub(r"/\*.*?\*/", "/**/", read(header), flags=re.DOTALL)
    for paragraph in re.split(r"\n\s*\n", code):
        for function in re.findall(r"^FB_API[^;]*?\b(fb_\w+)\(", paragraph, re.MULTILINE):
            yield function, "/**/" in paragraph


def functions_have_comments():
    """fb_X_init_sized is the half of fb_X_init that the library holds; the struct's comment is about both."""
    for header in public_headers():
        for function, commented in declarations(header):
            if not commented and not function.endswith("_init_sized"):
                yield f"{header}: {function} has no comment"


def functions_are_exported(libraries):
    exported = set()
    for library in libraries:
        command = ["nm", "--dynamic", "--defined-only", "--format=posix", library]
        names = subprocess.run(command, check=True, stdout=subprocess.PIPE, encoding="utf-8").stdout
        exported.update(line.split()[0] for line in names.splitlines())
    for header in public_headers():
        for function, _ in declarations(header):
            if function not in exported:
                yield f"{function} of {header} is exported by no library"


def headers_cite_what_is_installed():
    outside = re.compile(r"\b(?:src|tests|golden|simd|bench|docs|examples)/\w+|\bREADME\b|\btest_\w+\.")
    for header in public_headers():
        for cited in outside.findall(read(header)):
            yield f"{header} cites {cited}, which is not installed"


def flashblock_h_is_the_stable_part():
    whole = read("include/flashblock/flashblock.h")
    for header in public_headers():
        included = f"#include <{header.relative_to('include')}>" in whole
        is_stable = "experimental" not in header.parts
        if header.name != "flashblock.h" and included != is_stable:
            yield f"flashblock.h {'lacks' if is_stable else 'must not include'} {header}"
        if is_stable and "#include <flashblock/experimental/" in read(header):
            yield f"{header} is stable and includes an experimental header"


def main():
    checks = [
        ("every public function has a comment", functions_have_comments()),
        ("every public function is exported", functions_are_exported(sys.argv[2:])),
        ("installed headers cite what is installed", headers_cite_what_is_installed()),
        ("flashblock.h includes the stable headers", flashblock_h_is_the_stable_part()),
    ]
    return run_checks(checks)


sys.exit(main())
