"""The socket of the books: a caller for each VM, watched, and nothing that one of them sends costs another.

The server takes its turns in the test's own thread, so each test says when something is served.
"""

import errno
import logging
import os
import random
import selectors
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.rigs import own_process

from dynmem.chunks import server as server_module
from dynmem.chunks.memfd_store import MemfdStore
from dynmem.chunks.messages import (
    MAGIC,
    PACKET_BYTES_MAX,
    VERSION,
    Greeting,
    Welcome,
    decode_request,
    encode_request,
)
from dynmem.chunks.server import RequestServer
from dynmem.errors import LocalProtocolError, RemoteProtocolError
from dynmem.gmm.codes import GmmError, Status
from dynmem.gmm.store import StoreFullError
from dynmem.limits import CHUNK_CLIENTS_MAX, CHUNK_NAME_BYTES_MAX, CHUNK_REQUEST_BYTES_MAX
from dynmem.memory.backend import BackendError

WINDOW = 1 << 40


class Books:
    """Books that only know who is there; a request comes back with the VM's name before it."""

    def __init__(self) -> None:
        self.vms: dict[str, int] = {}
        self.gone: list[str] = []

    def register_vm(self, vm: str, *, process: int = 0, numa_node: int = 0) -> int:
        del numa_node
        if vm in self.vms:
            raise GmmError(Status.WRONG_ORDER, f"{vm} is registered already")
        self.vms[vm] = process
        return len(self.vms)

    def cleanup_vm(self, vm: str) -> int:
        if self.vms.pop(vm, None) is None:
            raise GmmError(Status.WRONG_ORDER, f"{vm} is not registered")
        self.gone.append(vm)
        return 0


def echo(vm: str, operation: int, buffer: bytes) -> bytes:
    return f"{vm} {operation} ".encode() + buffer[: CHUNK_REQUEST_BYTES_MAX // 2]


class Served:
    """A server, its books and its store.

    Attributes:
        path: Where it listens.
        books: Who is there.
        store: The memory.
        server: What is tested.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "gmm.sock"
        self.books = Books()
        self.store = MemfdStore(last_chunk=8)
        self.server = RequestServer(self.path, self.books, self.store, echo)
        self.sockets: list[socket.socket] = []

    def connected(self) -> socket.socket:
        """A connection that the server has accepted, if it wants it."""
        made = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        made.settimeout(5)
        made.connect(str(self.path))
        self.sockets.append(made)
        self.server.turn(0)
        return made

    def exchanged(self, caller: socket.socket, packet: bytes) -> bytes:
        """What the server replies; b"" if it has ended the connection."""
        caller.send(packet)
        self.server.turn(0)
        try:
            return caller.recv(PACKET_BYTES_MAX)
        except ConnectionResetError:
            return b""

    def greeted(self, vm: str) -> socket.socket:
        """A caller that stands for a VM."""
        caller = self.connected()
        caller.send(Greeting(vm, WINDOW).encode())
        self.server.turn(0)
        packet, fds, _, _ = socket.recv_fds(caller, 64, 1)
        os.close(fds[0])
        assert Welcome.decode(packet).status == 0
        return caller

    def waits(self, monkeypatch: pytest.MonkeyPatch) -> list[float | None]:
        """How long each turn is ready to wait from now on; none does."""
        waits: list[float | None] = []
        select = self.server._selector.select

        def recorded(timeout_s: float | None) -> list[tuple[selectors.SelectorKey, int]]:
            waits.append(timeout_s)
            return select(0)

        monkeypatch.setattr(self.server._selector, "select", recorded)
        return waits


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path)
    with made.server:
        yield made
    for each in made.sockets:
        each.close()
    made.store.close()
    assert made.books.vms == {}
    assert not made.path.exists()


def test_a_caller_is_welcomed_with_its_handle_and_the_memory_file(served: Served) -> None:
    caller = served.connected()
    caller.send(Greeting("web", WINDOW).encode())
    served.server.turn(0)
    packet, fds, _, _ = socket.recv_fds(caller, 64, 2)
    assert Welcome.decode(packet) == Welcome(Status.SUCCESS, 1)
    with os.fdopen(fds[0], "rb", 0) as file:
        assert os.fstat(file.fileno()).st_ino == os.fstat(served.store.fd).st_ino
    assert len(fds) == 1
    assert served.store.map_chunk(served.books.vms["web"], 0) == WINDOW
    assert served.path.stat().st_mode & 0o777 == 0o600


def test_a_request_reaches_the_books_under_the_name_of_its_caller(served: Served) -> None:
    web, db = served.greeted("web"), served.greeted("db")
    assert served.exchanged(web, encode_request(7, b"abc")) == b"web 7 abc"
    assert served.exchanged(db, encode_request(8, b"")) == b"db 8 "


def test_the_longest_request_and_the_longest_reply_fit(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served.server, "_perform", lambda vm, operation, buffer: buffer)
    web = served.greeted("web")
    longest = bytes(CHUNK_REQUEST_BYTES_MAX)
    assert served.exchanged(web, encode_request(1, longest)) == longest
    with pytest.raises(LocalProtocolError, match="send smaller batches"):
        encode_request(1, longest + b"x")


def test_a_vm_that_the_books_refuse_leaves_no_window_in_the_store(served: Served) -> None:
    served.books.register_vm("web")
    refused = served.exchanged(served.connected(), Greeting("web", WINDOW).encode())
    assert Welcome.decode(refused) == Welcome(Status.WRONG_ORDER)
    with pytest.raises(StoreFullError, match="attach it first"):
        served.store.map_chunk(served.store.attach(WINDOW) - 1, 1)
    served.books.cleanup_vm("web")


def test_a_vm_that_has_a_caller_is_refused_to_another_who_may_greet_again(served: Served) -> None:
    served.greeted("web")
    second = served.connected()
    refused = served.exchanged(second, Greeting("web", WINDOW).encode())
    assert Welcome.decode(refused) == Welcome(Status.WRONG_ORDER)
    assert Welcome.decode(served.exchanged(second, Greeting("db", WINDOW).encode())).status == 0
    second.close()
    served.server.turn(0)
    assert served.books.gone == ["db"]


def test_a_caller_that_hangs_up_is_cleaned_up_in_the_same_turn(served: Served) -> None:
    before = own_process.open_descriptors()
    web = served.greeted("web")
    web.close()
    served.server.turn(0)
    assert served.books.gone == ["web"]
    assert own_process.open_descriptors() == before


def test_a_vm_that_is_ended_here_loses_its_caller_and_its_name_is_free(served: Served) -> None:
    web, db = served.greeted("web"), served.greeted("db")
    served.server.end("web")
    assert (served.books.gone, web.recv(1)) == (["web"], b"")
    again = served.greeted("web")
    assert served.exchanged(again, encode_request(7, b"abc")) == b"web 7 abc"
    assert served.exchanged(db, encode_request(7, b"abc")) == b"db 7 abc"


def test_a_vm_that_was_cleaned_up_behind_the_servers_back_costs_its_own_caller_only(served: Served) -> None:
    web, db = served.greeted("web"), served.greeted("db")
    served.books.cleanup_vm("web")
    refused = served.exchanged(served.connected(), Greeting("web", WINDOW).encode())
    assert Welcome.decode(refused).status is Status.WRONG_ORDER
    web.close()
    served.server.turn(0)
    assert served.exchanged(db, encode_request(7, b"abc")) == b"db 7 abc"
    served.greeted("web")


def test_a_cleanup_that_the_kernel_fails_is_tried_again_and_holds_up_no_other(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(vm: str) -> int:
        raise BackendError(f"cannot discard the pages of {vm}", errno.ENOMEM)

    web, db = served.greeted("web"), served.greeted("db")
    with monkeypatch.context() as kernel:
        kernel.setattr(served.books, "cleanup_vm", fails)
        web.close()
        served.server.turn(0)
        assert served.exchanged(db, encode_request(7, b"abc")) == b"db 7 abc"
        assert served.books.gone == []
        waits = served.waits(monkeypatch)
        for asked in (None, 30.0, 0.25):
            served.server.turn(asked)
        assert waits == [1.0, 1.0, 0.25]
    served.server.turn()
    assert served.books.gone == ["web"]
    served.server.turn()
    assert waits[3:] == [1.0, None]


HANGS = """
import os, socket, sys, time
caller = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
caller.connect(sys.argv[1])
caller.send(bytes.fromhex(sys.argv[2]))
if os.fork() == 0:
    caller.detach()
    os.write(1, b".")
    os.read(0, 1)
    os._exit(0)
time.sleep(1000)
"""


def test_a_process_that_is_killed_is_cleaned_up_though_its_child_holds_the_connection(served: Served) -> None:
    command = [sys.executable, "-c", HANGS, str(served.path), Greeting("web", WINDOW).encode().hex()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.read(1) == b"."
        served.server.turn(0)
        served.server.turn(0)
        assert "web" in served.books.vms
        process.kill()
        served.server.turn(5)
        assert served.books.gone == ["web"]
        process.stdin.close()
        assert process.stdout.read() == b""


def greeting(
    *, magic: bytes = MAGIC, version: int = VERSION, window: int = WINDOW, name: bytes = b"web"
) -> bytes:
    return magic + version.to_bytes(2, "little") + bytes(2) + window.to_bytes(8, "little") + name


NO_GREETINGS = {
    "an empty packet": b"",
    "half a greeting": greeting()[:12],
    "another protocol": greeting(magic=b"HTTP"),
    "another version": greeting(version=2),
    "no name": greeting(name=b""),
    "a name too long": greeting(name=b"x" * (CHUNK_NAME_BYTES_MAX + 1)),
    "a name that is not UTF-8": greeting(name=b"w\xffb"),
    "a name with a line end": greeting(name=b"web\n"),
    "a window at 0": greeting(window=0),
    "a window between pages": greeting(window=WINDOW + 1),
    "a window of the kernel": greeting(window=1 << 47),
    "a request": encode_request(1, b"abc"),
    "too long": bytes(PACKET_BYTES_MAX + 1),
}


@pytest.mark.parametrize("case", NO_GREETINGS)
def test_a_caller_that_does_not_greet_is_disconnected_and_no_other(case: str, served: Served) -> None:
    web, hostile = served.greeted("other"), served.connected()
    assert served.exchanged(hostile, NO_GREETINGS[case]) == b""
    assert served.exchanged(web, encode_request(7, b"abc")) == b"other 7 abc"
    assert served.books.gone == []


@pytest.mark.parametrize("packet", [b"", b"\x01\x02\x03", bytes(PACKET_BYTES_MAX + 1)])
def test_a_packet_that_is_no_request_ends_that_vm_and_no_other(packet: bytes, served: Served) -> None:
    web, hostile = served.greeted("web"), served.greeted("hostile")
    assert served.exchanged(hostile, packet) == b""
    assert served.exchanged(web, encode_request(7, b"abc")) == b"web 7 abc"
    assert served.books.gone == ["hostile"]


def test_random_bytes_are_answered_or_end_their_connection_and_leave_nothing(served: Served) -> None:
    chance = random.Random(1)
    web = served.greeted("web")
    before = own_process.open_descriptors()
    for turn in range(150):
        hostile = served.greeted("hostile") if turn % 3 else served.connected()
        valid = Greeting("guest", WINDOW).encode() if turn % 2 else encode_request(5, bytes(40))
        broken = bytearray(valid)
        for _ in range(chance.randrange(1, 4)):
            broken[chance.randrange(len(broken))] = chance.randrange(256)
        served.exchanged(hostile, bytes(broken[: chance.randrange(len(broken) + 1)]))
        hostile.close()
        served.server.turn(0)
    assert served.exchanged(web, encode_request(7, b"abc")) == b"web 7 abc"
    assert list(served.books.vms) == ["web"]
    assert own_process.open_descriptors() <= before


def test_descriptors_that_a_caller_sends_are_not_kept(served: Served) -> None:
    web = served.greeted("web")
    before = own_process.open_descriptors()
    with Path(os.devnull).open("rb") as file:
        socket.send_fds(web, [encode_request(7, b"abc")], [file.fileno()] * 200)
    served.server.turn(0)
    assert web.recv(100) == b"web 7 abc"
    assert own_process.open_descriptors() == before


def test_a_caller_that_reads_no_replies_is_disconnected_and_holds_up_no_other(served: Served) -> None:
    web, hostile = served.greeted("web"), served.greeted("hostile")
    hostile.setblocking(False)
    sent = 0
    while "hostile" in served.books.vms:
        try:
            hostile.send(encode_request(1, bytes(CHUNK_REQUEST_BYTES_MAX // 2)))
            sent += 1
        except (BlockingIOError, BrokenPipeError):
            pass
        served.server.turn(0)
        assert sent < 100
    assert served.exchanged(web, encode_request(7, b"abc")) == b"web 7 abc"


def test_each_caller_has_one_packet_served_in_a_turn(served: Served) -> None:
    busy, web = served.greeted("busy"), served.greeted("web")
    for number in range(5):
        busy.send(encode_request(number, b""))
    web.send(encode_request(7, b""))
    served.server.turn(0)
    assert busy.recv(100) == b"busy 0 "
    assert web.recv(100) == b"web 7 "
    busy.setblocking(False)
    with pytest.raises(BlockingIOError):
        busy.recv(100)


def test_another_user_is_refused_by_the_kernels_word(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with caplog.at_level(logging.WARNING):
        assert served.connected().recv(1) == b""
    assert f"process {os.getpid()} of user {os.getuid()} is refused" in caplog.text


def test_a_caller_whose_process_cannot_be_watched_is_refused(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unwatched(*_: object) -> int:
        raise ProcessLookupError(errno.ESRCH, "No such process")

    monkeypatch.setattr(server_module, "_pidfd", unwatched)
    assert served.connected().recv(1) == b""


def test_a_process_is_watched_by_its_number_where_the_kernel_has_no_better(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "_SO_PEERPIDFD", 9999)
    assert served.exchanged(served.greeted("web"), encode_request(7, b"abc")) == b"web 7 abc"


def test_the_oldest_caller_without_a_vm_makes_room_and_one_with_a_vm_never_does(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "CHUNK_CLIENTS_MAX", 2)
    assert CHUNK_CLIENTS_MAX > 2
    web, silent = served.greeted("web"), served.connected()
    db = served.greeted("db")
    assert silent.recv(1) == b""
    assert served.connected().recv(1) == b""
    assert served.exchanged(web, encode_request(7, b"abc")) == b"web 7 abc"
    assert served.exchanged(db, encode_request(7, b"abc")) == b"db 7 abc"


def test_without_descriptors_no_caller_is_accepted_and_those_there_are_served(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    web = served.greeted("web")
    waiting = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    waiting.settimeout(5)
    served.sockets.append(waiting)
    with own_process.few_more_descriptors(0):
        waiting.connect(str(served.path))
        served.server.turn(0)
        waits = served.waits(monkeypatch)
        served.server.turn()
        assert waits == [1.0]
        assert served.exchanged(web, encode_request(7, b"abc")) == b"web 7 abc"
    for _ in range(3):  # a caller that is busy does not keep it waiting
        assert served.exchanged(web, encode_request(7, b"abc")) == b"web 7 abc"
    assert Welcome.decode(served.exchanged(waiting, Greeting("db", WINDOW).encode())).status == 0


def test_a_greeting_and_a_request_are_read_as_they_were_written() -> None:
    greeting = Greeting("w\N{LATIN SMALL LETTER E WITH ACUTE}b", WINDOW, 3)
    assert Greeting.decode(greeting.encode()) == greeting
    assert decode_request(encode_request(0xFFFF_FFFF, b"abc")) == (0xFFFF_FFFF, b"abc")
    with pytest.raises(RemoteProtocolError):
        Welcome.decode(Welcome(Status.SUCCESS).encode() + b"x")
    with pytest.raises(RemoteProtocolError, match="unknown status 5"):
        Welcome.decode(Welcome(Status.SUCCESS).encode()[:8] + b"\x05\0\0\0")
    with pytest.raises(RemoteProtocolError):
        Welcome.decode(MAGIC + b"\x02" + Welcome(Status.SUCCESS).encode()[5:])


@pytest.mark.parametrize(
    "wrong",
    [Greeting("", WINDOW), Greeting("x" * 65, WINDOW), Greeting("a\nb", WINDOW), Greeting("web", WINDOW, -1)],
)
def test_a_greeting_that_would_be_refused_is_not_sent(wrong: Greeting) -> None:
    with pytest.raises(LocalProtocolError, match="no greeting for"):
        wrong.encode()
