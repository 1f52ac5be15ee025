"""Unix sockets: which process listens, and what a path must be to be bound."""

import os
import socket
from pathlib import Path

import pytest

from dynmem.errors import ConfigError
from dynmem.limits import UNIX_PATH_BYTES_MAX
from dynmem.sockets import bind_private, listener, peer_of


def test_the_process_that_listens_is_known_before_it_accepts(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    assert listener(path) == 0
    with bind_private(path) as bound:
        assert listener(path) == 0
        bound.listen()
        assert listener(path) == os.getpid()
    assert listener(path) == 0


def test_both_ends_of_a_connection_know_each_other() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert peer_of(ours) == peer_of(theirs) == (os.getpid(), os.geteuid(), os.getegid())


def test_a_bound_socket_is_for_its_user_only(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with bind_private(tmp_path / "socket"):
            assert (tmp_path / "socket").stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)


def test_a_dead_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    bind_private(path).close()
    assert path.is_socket()
    with bind_private(path) as second:
        second.listen()
        assert listener(path) == os.getpid()


def test_a_living_socket_is_left_alone_even_if_its_queue_is_full(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with bind_private(path) as first, socket.socket(socket.AF_UNIX) as waiting:
        first.listen(0)
        waiting.connect(str(path))
        with pytest.raises(ConfigError, match="another process is listening"):
            bind_private(path)
        assert path.is_socket()


def test_a_file_or_folder_is_left_alone(tmp_path: Path) -> None:
    letter, folder = tmp_path / "letter", tmp_path / "folder"
    letter.write_text("dear")
    folder.mkdir()
    for path in (letter, folder):
        with pytest.raises(ConfigError, match="exists and is not a socket"):
            bind_private(path)
    assert letter.read_text() == "dear"
    assert folder.is_dir()


def test_a_path_that_cannot_be_bound_is_named_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent/socket: cannot listen: No such file"):
        bind_private(tmp_path / "absent" / "socket")
    with pytest.raises(ConfigError, match=f"longer than {UNIX_PATH_BYTES_MAX} bytes"):
        bind_private(tmp_path / ("x" * 200))
