"""What Python tests share: cases, what they expect, and a run of them that prints TAP."""
import traceback

CASES = []


class Skipped(Exception):
    """This machine lacks what a case needs; the message says what."""


def case(function):
    """A decorator: `function` is run by run_cases, under its name."""
    CASES.append(function)
    return function


def expect(condition, *what):
    if not condition:
        raise AssertionError(" ".join(str(item) for item in what))


def expect_equal(one, other, what):
    expect(one == other, f"{what}: {one!r} is not {other!r}")


def expect_error(result, status, *words):
    """The program wrote one line on standard error that has every word, and ended with this exit status."""
    message = result.stderr.decode()
    expect_equal(result.returncode, status, f"exit status ({message!r})")
    expect(message.startswith("flashblock: "), f"error begins {message[:20]!r}")
    expect(message.count("\n") == 1 and message.endswith("\n"), f"not one line: {message!r}")
    for word in words:
        expect(str(word) in message, f"{word!r} is not in {message!r}")


def run_cases(cases=None):
    """Runs all, or these functions; returns the exit status. A case that fails keeps no other from running."""
    failed = False
    cases = CASES if cases is None else cases
    print(f"1..{len(cases)}")
    for function in cases:
        name = function.__name__.removeprefix("test_").replace("_", " ").replace("#", "")
        try:
            function()
            print(f"ok - {name}", flush=True)
        except Skipped as reason:
            print(f"ok - {name} # SKIP {reason}", flush=True)
        except Exception:  # pylint: disable=broad-except
            failed = True
            print(f"not ok - {name}", flush=True)
            print("".join(f"# {line}\n" for line in traceback.format_exc().splitlines()), end="", flush=True)
    return int(failed)
