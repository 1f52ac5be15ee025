"""The thread that each console needs."""

import threading
from pathlib import Path

import pytest
from tests.rigs.own_process import open_descriptors

from dynmem.vm.console.file import FileConsole
from dynmem.vm.console.server import SocketConsole
from dynmem.vm.console.terminal import TerminalConsole
from dynmem.vm.platform import ShortageError


@pytest.mark.parametrize("kind", ["file", "socket", "terminal"])
def test_a_host_without_a_thread_to_spare_is_short_of_it_and_nothing_stays_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    path = tmp_path / "console"

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    def open_one() -> None:
        if kind == "file":
            FileConsole(path)
        elif kind == "terminal":
            with path.open("wb") as file:
                TerminalConsole(lambda: None, file.fileno(), file.fileno())
        else:
            console = SocketConsole(path)
            try:
                console.connect(lambda: None)
            finally:
                console.close()

    monkeypatch.setattr(threading.Thread, "start", refuse)
    before = open_descriptors()
    with pytest.raises(ShortageError, match=r"^the console cannot be opened: can't start new thread$"):
        open_one()
    assert open_descriptors() == before
