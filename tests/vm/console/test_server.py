"""A console behind a socket: one client at a time, and none that holds the guest or the next client."""

import select
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.rigs.scenes import wait_until

from dynmem.errors import ConfigError
from dynmem.vm.console import backlog, server
from dynmem.vm.console import input as input_module
from dynmem.vm.console.server import BUSY, SocketConsole

UNREAD = 64


class Scene:
    """A console, its clients, and a guest that reads what comes unless it is told not to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.console = SocketConsole(path)
        self.received = b""
        self.is_reading = True
        self.has_input = threading.Event()
        self._lock = threading.Lock()
        self.console.connect(self.read)
        self._clients: list[socket.socket] = []

    def read(self) -> None:
        self.has_input.set()
        with self._lock:
            if self.is_reading:
                self.received += self.console.read(1 << 20)

    def client(self) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(60)
        client.connect(str(self.path))
        self._clients.append(client)
        return client

    def close(self) -> None:
        self.console.close()
        for client in self._clients:
            client.close()


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.setattr(input_module, "CONSOLE_UNREAD_BYTES_MAX", UNREAD)
    scene = Scene(tmp_path / "console")
    yield scene
    scene.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "console"]


def receive(client: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = client.recv(count - len(data))
        assert piece, f"the console hung up after {data!r}"
        data += piece
    return data


def rest(client: socket.socket) -> bytes:
    """What comes up to the console's hangup."""
    return b"".join(iter(lambda: client.recv(1 << 16), b""))


def test_a_client_and_the_guest_talk_to_each_other(scene: Scene) -> None:
    client = scene.client()
    scene.console.write(b"login: ")
    assert receive(client, 7) == b"login: "
    client.sendall(b"root\r")
    wait_until(lambda: scene.received == b"root\r", otherwise=lambda: scene.received)
    scene.console.write(b"# ")
    assert receive(client, 2) == b"# "
    assert stat.S_IMODE(scene.path.stat().st_mode) == 0o600


def test_what_was_written_before_a_client_came_is_the_first_that_it_receives(scene: Scene) -> None:
    scene.console.write(b"early")
    first = scene.client()
    assert receive(first, 5) == b"early"
    first.close()
    scene.console.write(b" and late")
    assert receive(scene.client(), 9) == b" and late"


def test_a_second_client_is_sent_away_and_the_first_one_stays(scene: Scene) -> None:
    first = scene.client()
    scene.console.write(b"1")
    receive(first, 1)
    assert rest(scene.client()) == BUSY
    scene.console.write(b"2")
    assert receive(first, 1) == b"2"


def test_a_client_that_does_not_read_misses_output_and_gives_its_place_to_the_next(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog, "CONSOLE_UNWRITTEN_BYTES_MAX", 50_000)
    slow = scene.client()
    scene.console.write(b"!")
    receive(slow, 1)
    line = b"x" * 63 + b"\n"
    for _ in range(100):  # until the sockets are full, and then the backlog
        for _ in range(20):
            scene.console.write(line * 64)
        awake = scene.client()
        if (first := awake.recv(1 << 16)) != BUSY:
            break
    scene.console.write(b"the end")
    seen = first
    while not seen.endswith(b"the end"):
        piece = awake.recv(1 << 16)
        assert piece, seen[-100:]
        seen += piece
    assert b" bytes were dropped]" in seen
    assert b"the end" not in rest(slow)


def test_a_guest_that_does_not_read_makes_its_client_wait_and_loses_nothing(scene: Scene) -> None:
    scene.is_reading = False
    client = scene.client()
    text = bytes(range(256)) * 4
    client.sendall(text)
    assert scene.has_input.wait(60)
    first = scene.console.read(1 << 20)
    assert 0 < len(first) <= UNREAD
    scene.is_reading = True
    scene.read()
    wait_until(lambda: first + scene.received == text, otherwise=lambda: len(scene.received))


def test_a_client_that_left_while_the_guest_read_nothing_does_not_keep_the_next_one_away(
    scene: Scene,
) -> None:
    scene.is_reading = False
    gone = scene.client()
    gone.sendall(bytes(UNREAD))  # now no more is read of it
    assert scene.has_input.wait(60)
    gone.close()
    after = scene.client()
    assert rest(scene.client()) == BUSY  # and so the one before has been looked at
    scene.console.write(b"hello")
    assert receive(after, 5) == b"hello"


def test_a_client_that_waits_for_the_guest_costs_no_time(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.is_reading = False
    client = scene.client()
    client.sendall(bytes(4 * UNREAD))
    assert scene.has_input.wait(60)
    looks = 0
    look = select.poll

    def counted() -> select.poll:
        nonlocal looks
        looks += 1
        return look()

    monkeypatch.setattr(select, "poll", counted)
    for _ in range(3):
        scene.console.write(b"x")
        receive(client, 1)
        threading.Event().wait(0.02)  # in which a loop that waits for nothing makes a thousand rounds
    assert looks <= 6


def test_at_the_end_the_client_receives_what_is_left_and_the_socket_is_removed(scene: Scene) -> None:
    client = scene.client()
    scene.console.write(b"1")
    receive(client, 1)
    words = b"".join(b"%04d panic\n" % number for number in range(21_000))  # more than a socket holds
    for start in range(0, len(words), 4096):
        scene.console.write(words[start : start + 4096])
    end = threading.Thread(target=scene.console.close)
    end.start()
    assert rest(client) == words
    end.join()
    assert not scene.path.exists()
    scene.console = SocketConsole(scene.path)


def test_the_end_does_not_wait_for_a_client_that_does_not_read(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "CLOSING_S", 0.1)
    client = scene.client()
    scene.console.write(b"1")
    receive(client, 1)
    for _ in range(400):
        scene.console.write(bytes(1024))
    scene.console.close()
    scene.console = SocketConsole(scene.path)


def test_a_socket_that_cannot_be_had_is_an_error_of_the_configuration(scene: Scene) -> None:
    with pytest.raises(ConfigError, match="another process is listening"):
        SocketConsole(scene.path)
