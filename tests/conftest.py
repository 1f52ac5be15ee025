"""What every test may ask for, and what holds for the whole run: it leaves nothing behind."""

import signal
from collections.abc import Iterator
from typing import Any

import hypothesis
import hypothesis.configuration
import pytest
from tests.rigs import leftovers, machine_wide


@pytest.fixture
def huge_pages() -> Iterator[None]:
    """Hold the machine's huge pages until the test and all its objects are gone."""
    with machine_wide.huge_pages_held():
        yield


@pytest.fixture
def processors() -> Iterator[None]:
    """Hold the machine's processors against other tests of loads that grow while a manager looks on.

    Tests that do not ask for them go on beside it; two such at once would not leave each other enough.
    """
    with machine_wide.held("processors"):
        yield


class NothingLeft:
    """Fails a run at its end, with a list, when the tests left something."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._is_worker = hasattr(config, "workerinput")
        self._runs_tests = self._is_worker or not config.getoption("numprocesses", None)
        if not self._is_worker:
            leftovers.adopt_orphans()
        self._children = leftovers.children()
        self._open: leftovers.Opened = {}
        self._tests: dict[tuple[str, int], str] = {}  # after which test it was there first
        self._mounts = leftovers.mounts()
        self._cgroups = leftovers.cgroups()
        self._sockets = set() if self._is_worker else leftovers.socket_files(config.rootpath)
        self._reserved = machine_wide.huge_pages_of_the_machine()
        self._lines: list[str] = []

    def pytest_collection_finish(self) -> None:
        """Begin with what modules have made for all their tests."""
        self._open = leftovers.open_here()

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """Remember which test left what, whether or not a later one closes it."""
        if self._runs_tests:
            for thing in leftovers.open_here():
                self._tests.setdefault(thing, nodeid)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take over what a worker found."""
        self._lines += getattr(node, "workeroutput", {}).get("left", [])

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Look when all tests and workers are done; a worker looks at itself."""
        lines = [
            f"{name}, open since {self._tests.get((name, inode), 'no test')}"
            for name, inode in leftovers.left_open(self._open)
        ]
        if self._is_worker:
            self._config.workeroutput["left"] = lines  # type: ignore[attr-defined]
            return
        self._lines += lines + leftovers.left_processes(self._children)
        self._lines += [f"mounted: {place}" for place in sorted(leftovers.mounts() - self._mounts)]
        self._lines += [f"cgroup: {each}" for each in sorted(leftovers.cgroups() - self._cgroups)]
        sockets = leftovers.socket_files(self._config.rootpath) - self._sockets
        self._lines += [f"a socket's file: {each}" for each in sorted(sockets)]
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
    """Write inside the checkout only, count and never time, and look from here on at what is left."""
    # in the background of a shell a run ignores Ctrl-C, and so would every program that the tests interrupt
    signal.signal(signal.SIGINT, signal.default_int_handler)
    hypothesis.configuration.set_hypothesis_home_dir(config.rootpath / ".hypothesis")
    patient = [hypothesis.HealthCheck.too_slow]  # that a machine is slow says nothing of what is tested
    hypothesis.settings.register_profile("suite", deadline=None, suppress_health_check=patient)
    hypothesis.settings.load_profile("suite")
    config.pluginmanager.register(NothingLeft(config), "nothing-left")
