"""The caller's end of the socket: what the books map is mapped here, and a failure leaves nothing behind."""

import ctypes
import errno
import os
import socket
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import cast

import pytest
from tests.rigs import own_process
from tests.rigs.scenes import wait_until

from dynmem import mappings
from dynmem.chunks.client import RequestClient
from dynmem.chunks.memfd_store import OWN_PROCESS, MemfdStore
from dynmem.chunks.messages import Welcome
from dynmem.chunks.server import RequestServer
from dynmem.chunks.window import WindowError
from dynmem.errors import DeadlineError, RemoteProtocolError, UnreachableError
from dynmem.gmm.batches import AllocateBatch
from dynmem.gmm.calls import Calls
from dynmem.gmm.codes import Account, GmmError, Status
from dynmem.gmm.constants import GMM_CHUNK_SIZE
from dynmem.gmm.serving import Manager, perform
from dynmem.memory import system_calls


class Books:
    """Books of one VM that only know which chunks it has mapped.

    Attributes:
        mapped: The ids of those.
    """

    def __init__(self, store: MemfdStore) -> None:
        self._store = store
        self._process = 0
        self.mapped: set[int] = set()

    def register_vm(self, vm: str, *, process: int = 0, numa_node: int = 0) -> int:
        del numa_node
        if vm == "refused":
            raise GmmError(Status.WRONG_ORDER, f"{vm} is registered already")
        self._process = process
        return 7

    def cleanup_vm(self, vm: str) -> int:
        del vm
        self.mapped.clear()
        return 0

    def map_unmap_chunk(self, vm: str, map_id: int, unmap_id: int) -> int:
        del vm
        if unmap_id and unmap_id not in self.mapped:
            raise GmmError(Status.CHUNK_NOT_MAPPED, f"chunk {unmap_id} is not mapped")
        self.mapped -= {unmap_id}
        self.mapped |= {map_id} - {0}
        return self._store.map_chunk(self._process, map_id) if map_id else 0


class Served:
    """A server in a thread, over a store with the chunks 1 and 2."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store = MemfdStore(last_chunk=8)
        for chunk in (1, 2):
            self.store.new_chunk(chunk)
        self.books = Books(self.store)
        requests = partial(perform, cast("Manager", self.books))  # none but maps and unmaps arrive
        self._server = RequestServer(path, self.books, self.store, requests)
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._ends.is_set():
            self._server.turn(0.01)

    def __enter__(self) -> "Served":
        self._server.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()
        self._server.close()
        self.store.close()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with Served(tmp_path / "gmm.sock") as made:
        yield made


def closed_at_both_ends(before: set[int]) -> None:
    wait_until(lambda: own_process.open_descriptors() == before, otherwise=own_process.open_descriptors)


def maps_chunks() -> int:
    """Mappings of a memory file of chunks in this process, besides the store's own."""
    return sum("/memfd:gmm-chunks" in line for line in own_process.mappings()) - 1


def test_a_chunk_is_mapped_at_the_address_of_the_reply_and_shows_the_same_bytes(served: Served) -> None:
    with RequestClient(served.path, "web") as client:
        assert client.handle == 7
        address = Calls(client.perform).map_unmap_chunk(2, 0)
        client.view(2)[:5] = b"hello"
        assert ctypes.string_at(address, 5) == bytes(served.store.view(2)[:5]) == b"hello"
        served.store.view(2)[-1] = 9
        assert client.view(2)[GMM_CHUNK_SIZE - 1] == 9
        assert address != served.store.map_chunk(OWN_PROCESS, 2)


def test_a_chunk_takes_the_place_of_another_in_one_request(served: Served) -> None:
    with RequestClient(served.path, "web") as client:
        calls = Calls(client.perform)
        first = calls.map_unmap_chunk(1, 0)
        second = calls.map_unmap_chunk(2, 1)
        assert second - first == GMM_CHUNK_SIZE
        assert (served.books.mapped, maps_chunks()) == ({2}, 1)
        with pytest.raises(KeyError):
            client.view(1)
        calls.map_unmap_chunk(0, 2)
        assert (served.books.mapped, maps_chunks()) == (set(), 0)


def test_chunks_side_by_side_are_one_mapping_of_the_kernel(served: Served) -> None:
    with RequestClient(served.path, "web") as client:
        for chunk in (2, 1):
            Calls(client.perform).map_unmap_chunk(chunk, 0)
        assert maps_chunks() == 1


def test_a_refused_request_maps_nothing(served: Served) -> None:
    with RequestClient(served.path, "web") as client:
        with pytest.raises(GmmError) as refusal:
            Calls(client.perform).map_unmap_chunk(1, 2)
        assert refusal.value.code is Status.CHUNK_NOT_MAPPED
        assert maps_chunks() == 0


@pytest.mark.parametrize(("module", "call"), [(mappings, "map_file"), (system_calls, "madvise")])
def test_the_books_undo_what_the_system_does_not_map(
    module: ModuleType, call: str, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RequestClient(served.path, "web") as client:
        calls = Calls(client.perform)
        calls.map_unmap_chunk(1, 0)
        monkeypatch.setattr(module, call, lambda *_: errno.ENOMEM)
        with pytest.raises(GmmError, match="chunk 2 cannot be mapped: Cannot allocate memory") as refusal:
            calls.map_unmap_chunk(2, 1)
        assert refusal.value.code is Status.OUT_OF_MEMORY
        assert (served.books.mapped, maps_chunks()) == ({1}, 1)


def test_a_forked_child_does_not_inherit_chunks(served: Served) -> None:
    with RequestClient(served.path, "web") as client:
        Calls(client.perform).map_unmap_chunk(1, 0)
        flags = smaps_flags(Calls(client.perform).map_unmap_chunk(1, 0))
        assert "dc" in flags  # do not copy on fork: VM_DONTCOPY


def smaps_flags(address: int) -> list[str]:
    """The flags of the mapping at an address (proc_pid_smaps(5))."""
    found = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first = line.split()[0]
        if "-" in first:
            start, end = (int(part, 16) for part in first.split("-"))
            found = start <= address < end
        elif found and first == "VmFlags:":
            return line.split()[1:]
    raise AssertionError(f"nothing is mapped at {address:#x}")


def test_a_client_that_closes_leaves_no_descriptor_and_no_mapping(served: Served) -> None:
    before, mappings = own_process.open_descriptors(), len(own_process.mappings())
    with RequestClient(served.path, "web") as client:
        Calls(client.perform).map_unmap_chunk(1, 0)
        assert os.fstat(client._fd).st_size == os.fstat(served.store.fd).st_size
    client.close()
    assert maps_chunks() == 0
    assert len(own_process.mappings()) <= mappings
    closed_at_both_ends(before)
    with pytest.raises(UnreachableError):
        client.perform(1, b"")


def test_a_vm_that_is_refused_is_an_error_with_the_status(served: Served) -> None:
    before = own_process.open_descriptors()
    with pytest.raises(GmmError, match="the VM 'refused' is refused") as refusal:
        RequestClient(served.path, "refused")
    assert refusal.value.code is Status.WRONG_ORDER
    closed_at_both_ends(before)


def test_a_batch_beyond_a_packet_is_refused_and_the_connection_goes_on(served: Served) -> None:
    with RequestClient(served.path, "web") as client:
        with pytest.raises(GmmError, match="send smaller batches") as refusal:
            AllocateBatch(client.perform, 10_000, Account.BASE).perform()
        assert refusal.value.code is Status.INVALID_PARAMETER
        assert Calls(client.perform).map_unmap_chunk(1, 0)


def test_without_a_server_there_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match="no Global Memory Manager listens: No such file"):
        RequestClient(tmp_path / "absent", "web")


def test_without_addresses_there_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mappings, "reserve", lambda _: -errno.ENOMEM)
    with pytest.raises(WindowError, match="Cannot allocate memory: raise the limit of addresses"):
        RequestClient(tmp_path / "absent", "web")


Misbehaviour = Callable[[socket.socket, int], None]


def silent(connection: socket.socket, memory: int) -> None:
    del connection, memory


def hangs_up(connection: socket.socket, memory: int) -> None:
    del memory
    connection.close()


def speaks_nonsense(connection: socket.socket, memory: int) -> None:
    socket.send_fds(connection, [b"nonsense"], [memory])


def forgets_the_file(connection: socket.socket, memory: int) -> None:
    del memory
    connection.send(Welcome(Status.SUCCESS, 1).encode())


@pytest.mark.parametrize(
    ("misbehaves", "error"),
    [
        (silent, DeadlineError),
        (hangs_up, UnreachableError),
        (speaks_nonsense, RemoteProtocolError),
        (forgets_the_file, RemoteProtocolError),
    ],
)
def test_a_server_that_misbehaves_is_the_error_of_this_layer(
    misbehaves: Misbehaviour, error: type[Exception], tmp_path: Path
) -> None:
    before = own_process.open_descriptors()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening, MemfdStore(last_chunk=1) as store:
        listening.bind(str(tmp_path / "gmm.sock"))
        listening.listen()
        accepted: list[socket.socket] = []

        def serve() -> None:
            accepted.append(listening.accept()[0])
            accepted[0].recv(100)
            misbehaves(accepted[0], store.fd)

        server = threading.Thread(target=serve)
        server.start()
        with pytest.raises(error):
            RequestClient(tmp_path / "gmm.sock", "web", timeout_s=0.2)
        server.join()
        accepted[0].close()
    assert own_process.open_descriptors() == before


def test_a_chunk_at_another_address_than_its_own_is_not_mapped(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RequestClient(served.path, "web") as client:
        monkeypatch.setattr(served.books, "map_unmap_chunk", lambda *_: 1 << 30)
        with pytest.raises(RemoteProtocolError, match="another address than its own"):
            Calls(client.perform).map_unmap_chunk(1, 0)
        with pytest.raises(UnreachableError):
            client.perform(1, b"")
        assert maps_chunks() == 0
