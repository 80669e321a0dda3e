"""What test programs have written, from where ./check leaves it."""
import json
import pathlib


def read_tests(path):
    """Of each test in a log its `name`, `stdout` and `result`, as meson names it (OK, SKIP, FAIL ...).

    A log is one of meson's (.json), or the output of one program (.log) with its exit status in a
    file of that name with .status.
    """
    path = pathlib.Path(path)
    if path.suffix == ".json":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    status = int(path.with_suffix(".status").read_text(encoding="utf-8"))
    result = {0: "OK", 77: "SKIP"}.get(status, "FAIL")
    text = path.read_text(encoding="utf-8", errors="replace")
    return [{"name": path.stem, "stdout": text, "result": result}]
