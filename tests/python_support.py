"""What the tests of the Python package share: running functions test_*, as TAP."""
import traceback


class Skip(Exception):
    """The test cannot run here; the message says why."""


class raises:
    """with raises(Error, "words"): the block raises it, and its message has the words. `error` is then the exception."""

    def __init__(self, kind, words):
        self.kind, self.words, self.error = kind, words, None

    def __enter__(self):
        return self

    def __exit__(self, kind, error, where):
        assert kind is not None, f"no {self.kind.__name__} was raised"
        if not issubclass(kind, self.kind):
            return False
        assert self.words in str(error), f"'{self.words}' is not in: {error}"
        self.error = error
        return True


def run_tests(names):
    """Runs every function test_* of the dictionary. Prints TAP; returns the exit status."""
    tests = [(name, test) for name, test in names.items() if name.startswith("test_")]
    failed = False
    print(f"1..{len(tests)}")
    for name, test in tests:
        words = name[len("test_") :].replace("_", " ")
        try:
            test()
            print(f"ok - {words}", flush=True)
        except Skip as why:
            print(f"ok - {words} # SKIP {why}", flush=True)
        except Exception:
            failed = True
            print(f"not ok - {words}", flush=True)
            print("".join("# " + line + "\n" for line in traceback.format_exc().splitlines()), end="", flush=True)
    return 1 if failed else 0
