"""For pytest: the seed of generated cases is printed, and can be set; a table of all verdicts comes at the end."""
import os

import pytest

from . import _check, _ports

_rows = []  # (test, report)


def pytest_addoption(parser):
    group = parser.getgroup("flashblock")
    group.addoption(
        "--flashblock-seed", type=int, default=None, metavar="N", help="seed of check_port's cases (default: a new one)"
    )


def pytest_configure(config):
    seed = config.getoption("--flashblock-seed")
    _ports.default_seed = int.from_bytes(os.urandom(4), "little") if seed is None else seed


def pytest_report_header(config):
    return f"flashblock: --flashblock-seed {_ports.default_seed}"


@pytest.fixture
def flashblock_seed():
    """The seed of this run."""
    return _ports.default_seed


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item):
    def listen(report):
        _rows.append((item.name, report))

    _check.listeners.append(listen)
    yield
    _check.listeners.remove(listen)


def pytest_terminal_summary(terminalreporter):
    if not _rows:
        return
    terminalreporter.section("flashblock")
    width = max(len(test) for test, _ in _rows)
    for test, report in _rows:
        seed = f" seed {report.seed}" if report.seed is not None else ""
        terminalreporter.line(f"{test:{width}}  {report.outcome:8} {report.title}{seed}")
        if not report.passed:
            terminalreporter.line(f"{'':{width}}  {report.summary}")
