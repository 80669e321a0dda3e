#!/usr/bin/python3
"""test_models_page.py PRINT_FIELDS PAGE [--write]: docs/models.md has the tables of the code. Prints TAP.

PRINT_FIELDS prints them. --write puts them into the page.
"""
import pathlib
import subprocess
import sys

MARK = "<!-- The rest of this page is written by tests/test_models_page.py --write. -->\n"

program, page = sys.argv[1], pathlib.Path(sys.argv[2])
wanted = subprocess.run([program], capture_output=True, text=True, check=True).stdout.rstrip() + "\n"
head, mark, tables = page.read_text().partition(MARK)
if "--write" in sys.argv:
    page.write_text(head + MARK + "\n" + wanted)
    sys.exit(0)
print("1..1")
same = mark == MARK and tables.strip() == wanted.strip()
print(f"{'ok' if same else 'not ok'} - docs/models.md has the tables of the code")
if not same:
    lines = zip(tables.strip().splitlines(), wanted.strip().splitlines())
    other = next(((a, b) for a, b in lines if a != b), ("the end", "the end"))
    print(f"# the page: {other[0]}\n# the code: {other[1]}\n# write it anew with --write", file=sys.stderr)
sys.exit(not same)
