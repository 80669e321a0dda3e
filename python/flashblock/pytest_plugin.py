"""For pytest: the seed of generated cases is printed, and can be set; a table of all verdicts comes at the end."""
import os

import pytest

from . import _check, _ports

_rows = []  # (test, outcome, title, seed, summary)


def pytest_addoption(parser):
    group = parser.getgroup("flashblock")
    group.addoption(
        "--flashblock-seed", type=int, default=None, metavar="N", help="seed of check_port's cases (default: a new one)"
    )


def pytest_configure(config):
    given = getattr(config, "workerinput", {}).get("flashblock_seed", config.getoption("--flashblock-seed"))
    _ports.default_seed = int.from_bytes(os.urandom(4), "little") if given is None else given


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node):
    """pytest-xdist: all workers take one seed."""
    node.workerinput["flashblock_seed"] = _ports.default_seed


def pytest_report_header(config):
    return f"flashblock: --flashblock-seed {_ports.default_seed}"


@pytest.fixture
def flashblock_seed():
    """The seed of this run."""
    return _ports.default_seed


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item):
    def listen(report):
        verdict = [item.name, report.outcome, report.title, report.seed, "" if report.passed else report.summary]
        item.user_properties.append(("flashblock", verdict))

    _check.listeners.append(listen)
    yield
    _check.listeners.remove(listen)


def pytest_runtest_logreport(report):
    if report.when != "call":
        return
    for test, outcome, *rest in (verdict for name, verdict in report.user_properties if name == "flashblock"):
        is_expected = outcome != "passed" and report.passed  # a planted mistake
        _rows.append([test, "caught" if is_expected else outcome, *rest])


def pytest_terminal_summary(terminalreporter):
    if not _rows:
        return
    terminalreporter.section("flashblock")
    width = max(len(row[0]) for row in _rows)
    for test, outcome, title, seed, summary in _rows:
        terminalreporter.line(f"{test:{width}}  {outcome:8} {title}" + (f" seed {seed}" if seed is not None else ""))
        if summary:
            terminalreporter.line(f"{'':{width}}  {summary}")
