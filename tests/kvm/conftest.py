"""Tests with stock kernels. They run in the rig only (`make test-kvm`), a printed row for each kernel."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.kvm.figures import PROPERTY, Figures
from tests.kvm_rig.place import GUESTS, guest_kernels, runs_what_needs_no_kernel
from tests.kvm_rig.rows import below, row

_HERE = Path(__file__).parent


@pytest.fixture
def folder() -> Iterator[Path]:
    """A private folder whose path is short enough for a unix socket."""
    with tempfile.TemporaryDirectory(prefix="dynmem-t") as path:
        yield Path(path)


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Figures:
    """What the test measures goes here."""
    return Figures(request.node)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that asks for a kernel with every kernel."""
    if "kernel" in metafunc.fixturenames:
        metafunc.parametrize("kernel", guest_kernels(), ids=lambda kernel: kernel.name)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests of this folder, and leave those without a kernel to the first of several runs."""
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker(pytest.mark.stock)
    if not runs_what_needs_no_kernel():
        others = [item for item in items if "kernel" not in getattr(item, "fixturenames", ())]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in others]


class Rows:
    """Prints a row for each test of this folder: kernel, scenario, outcome, seconds, and what it measured."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Print the row when the test has run, or when it could not be prepared or cleared away."""
        if not (self._is_ours(report) and (report.when == "call" or not report.passed)):
            return
        outcome = report.outcome if report.when == "call" else f"{report.when} {report.outcome}"
        terminal = self._config.pluginmanager.get_plugin("terminalreporter")
        assert terminal is not None
        terminal.ensure_newline()
        line = row(report.nodeid, outcome, report.duration)
        terminal.write_line(line, red=report.failed, green=report.passed)
        if report.failed and (crash := getattr(report.longrepr, "reprcrash", None)):
            terminal.write_line(below(crash.message), red=True)
        for name, value in report.user_properties:
            if name == PROPERTY:
                terminal.write_line(below(str(value)))

    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str] | None:
        """Print no letter for a test that has a row."""
        if not self._is_ours(report):
            return None
        is_counted = report.when == "call" or not report.passed
        category = "error" if report.failed and report.when != "call" else report.outcome
        return (category, "", category.upper()) if is_counted else ("", "", "")

    def _is_ours(self, report: pytest.TestReport) -> bool:
        return (
            hasattr(report, "nodeid") and report.nodeid.startswith("tests/kvm/") and hasattr(report, "when")
        )


def pytest_configure(config: pytest.Config) -> None:
    """Print rows in the rig."""
    if GUESTS in os.environ:
        config.pluginmanager.register(Rows(config), "rows")
