"""What the tests of the Python package share: running functions test_*, as TAP."""
from case_support import run_cases


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
    return run_cases([test for name, test in names.items() if name.startswith("test_")])
