"""The names of known mistakes as the code has them, and the page that lists them, docs/mistakes.md."""
import re

# A section of the page: its heading, and the arrays that have its names.
SECTIONS = (
    ("Results", ("known_results.c list", "known_sizes.c words", "judging.c coarser_words")),
    ("Inputs and softmax", ("known_attention.c query_words", "known_attention.c exchanged", "known_attention.c list")),
    ("KV heads", ("known_heads.c rules",)),
    ("Masks and batches", ("known_masks.c list", "known_masks.c strict", "known_masks.c batch_list", "known_masks.c length_list")),
    ("Tiles and splits", ("known_pages.c split_words",)),
    ("Merges", ("known_merges.c list",)),
    ("NaN of merges", ("merge_nan.c reason_words",)),
    ("Reuse", ("known_reuse.c list",)),
    ("Trajectories: actions and decisions", ("trajectory_actions.c count_words", "trajectory_rules.c rule_words")),
    ("Trajectories: confidences and proposals", ("trajectory_guesses.c words", "trajectory_proposals.c words")),
    ("Trajectories: the model", ("trajectory_known.c words", "trajectory_known.c alteration_words")),
)
# Arrays of sentences' parts: what is made of them is not on the page.
PARTS = (
    "known_attention.c only", "known_attention.c rounded_inputs", "known_ends.c done", "known_heads.c only", "known_heads.c begins",
    "known_lses.c words", "known_lses.c what", "known_sizes.c only",
)  # fmt: skip
HEAD = """# Names of mistakes

The words in which a verdict names a mistake, as the program has them, so that a message can be found here. *N* stands for a number.
[case-files.md](case-files.md#mistakes-that-are-named) and [trajectory.md](trajectory.md#6-mistakes-that-are-named) say what they mean.
A verdict adds the place: heads, rows, steps, a part. Names that are put together from what was found (which keys are lost, which KV head
a head reads, a factor of the scale) are not listed here. `tests/test_documentation.py . --fix-names` makes this page from the code.
"""
TOKEN = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:[^"\\\n]|\\.)*"|\'(?:[^\'\\\n]|\\.)*\'|\s+|.', re.DOTALL)
TYPE = r"(?:fb_known|struct \{[^{}]*\}|char \*const)"
ARRAY = re.compile(rf"static const {TYPE} ?(\w+)(?:\[[^\]]*\])? = \{{(.*?)\}};")
NUMBER = re.compile(r"%[-+.0-9]*(?:z?u|[dgf])")


def without_comments(text):
    """One space for each gap, and literals that follow each other joined."""
    parts = []
    for token in TOKEN.findall(text):
        if token.isspace() or token.startswith(("/*", "//")):
            parts += [] if parts and parts[-1] == " " else [" "]
        elif token.startswith('"') and len(parts) > 1 and parts[-1] == " " and parts[-2].startswith('"'):
            parts.pop()
            parts[-1] = parts[-1][:-1] + token[1:]
        else:
            parts.append(token)
    return "".join(parts)


def arrays(root):
    """{"file array": names} of src/oracle: constants with sentences, and their literals of two words and more."""
    found = {}
    for path in sorted((root / "src" / "oracle").glob("*.c")):
        for name, body in ARRAY.findall(without_comments(path.read_text(encoding="utf-8"))):
            literals = re.findall(r'"((?:[^"\\]|\\.)*)"', body)
            names = [literal for literal in literals if " " in literal]
            if any(name.count(" ") >= 3 for name in names):
                found[f"{path.name} {name}"] = names
    return found


def page(root):
    found, text = arrays(root), [HEAD]
    for heading, sources in SECTIONS:
        text.append(f"\n## {heading}\n\n")
        names = dict.fromkeys(NUMBER.sub("*N*", name) for source in sources for name in found.get(source, ()))
        text += [f"- {name}\n" for name in names]
    return "".join(text)


def faults(root):
    """What the page and the code do not agree in."""
    listed = [source for _, sources in SECTIONS for source in sources]
    found = arrays(root)
    for source in (*listed, *PARTS):
        if source not in found:
            yield f"src/oracle/{source}: there is no such array of names"
    for source in found:
        if source not in listed and source not in PARTS:
            yield f"src/oracle/{source} has names of mistakes, and tests/mistake_names.py does not know it"
    written, right = (root / "docs" / "mistakes.md").read_text(encoding="utf-8").splitlines(), page(root).splitlines()
    for line in right:
        if line not in written:
            yield f"docs/mistakes.md lacks: {line} (test_documentation.py . --fix-names)"
    for line in written:
        if line not in right:
            yield f"docs/mistakes.md has what the code does not: {line} (test_documentation.py . --fix-names)"
    if len(written) != len(right):
        yield "docs/mistakes.md has another number of lines (test_documentation.py . --fix-names)"
