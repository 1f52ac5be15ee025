"""What every test may ask for, and what holds for the whole run: it leaves nothing behind."""

from collections.abc import Iterator
from typing import Any

import hypothesis.configuration
import pytest
from tests.rigs import leftovers, machine_wide


@pytest.fixture
def huge_pages() -> Iterator[None]:
    """Hold the machine's huge pages until the test and all its objects are gone."""
    with machine_wide.huge_pages_held():
        yield


class NothingLeft:
    """Fails a run at its end, with a list, when the tests left something."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._is_worker = hasattr(config, "workerinput")
        if not self._is_worker:
            leftovers.adopt_orphans()
        self._children = leftovers.children()
        self._open = leftovers.open_here()
        self._mounts = leftovers.mounts()
        self._reserved = machine_wide.huge_pages_of_the_machine()
        self._lines: list[str] = []

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take over what a worker found."""
        self._lines += getattr(node, "workeroutput", {}).get("left", [])

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Look when all tests and workers are done; a worker looks at itself."""
        lines = leftovers.left_open(self._open)
        if self._is_worker:
            self._config.workeroutput["left"] = lines  # type: ignore[attr-defined]
            return
        self._lines += lines + leftovers.left_processes(self._children)
        self._lines += [f"mounted: {place}" for place in sorted(leftovers.mounts() - self._mounts)]
        if (reserved := machine_wide.huge_pages_of_the_machine()) != self._reserved:
            self._lines.append(f"{reserved} huge pages are reserved, {self._reserved} were at the beginning")
        if self._lines and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """List what was left."""
        if self._lines:
            terminalreporter.section("left behind by the tests", red=True)
            for line in self._lines:
                terminalreporter.line(line)


def pytest_configure(config: pytest.Config) -> None:
    """Keep what is written inside the checkout, and look from here on at what is left."""
    hypothesis.configuration.set_hypothesis_home_dir(config.rootpath / ".hypothesis")
    config.pluginmanager.register(NothingLeft(config), "nothing-left")
