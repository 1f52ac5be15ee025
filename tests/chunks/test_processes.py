"""Processes that call the books: they map chunks, see each other's bytes, and die in the middle of anything.

The server takes its turns in the test's own thread while a process is waited for.
"""

import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.rigs.scenes import PATIENCE_S

from dynmem.chunks.memfd_store import MemfdStore
from dynmem.chunks.messages import REPLY_BYTES_MAX, Greeting, encode_request
from dynmem.chunks.server import RequestServer
from dynmem.gmm.codes import Account, BalloonAction, GmmError, OcPolicy, OsFamily, Priority, Status
from dynmem.gmm.constants import (
    GMM_CHUNK_NUM_PAGES,
    GMM_CHUNK_SIZE,
    GMM_CHUNKID_LAST,
    GMM_CHUNKID_SHIFT,
    GMM_GCPHYS_UNSHAREABLE,
    NIL_RTHCPHYS,
)
from dynmem.gmm.manager import GlobalMemoryManager
from dynmem.gmm.replies import parse_reply
from dynmem.gmm.requests import SHAPES, Operation, Request, new_request
from dynmem.gmm.serving import perform
from dynmem.gmm.structures import VMMDEVSHAREDREGIONDESC
from dynmem.units import PAGE_SIZE

CALLER = Path(__file__).with_name("caller.py")
LAST_CHUNK = 64
PAGES = GMM_CHUNK_NUM_PAGES


class Host:
    """The books of a host, over a memory file, at a socket.

    Attributes:
        store: The memory.
        gmm: The books.
        path: The socket.
    """

    def __init__(self, folder: Path, **limits: int) -> None:
        self.path = folder / "gmm.sock"
        self.store = MemfdStore(last_chunk=LAST_CHUNK)
        self.gmm = GlobalMemoryManager(LAST_CHUNK * PAGES, self.store, "shared", ledger=None, **limits)
        self.server = RequestServer(self.path, self.gmm, self.store, partial(perform, self.gmm))
        self.callers: list[Caller] = []

    def serve_until(self, check: Callable[[], object]) -> None:
        """Serve callers until something holds."""
        deadline = time.monotonic() + PATIENCE_S
        while not check():
            assert time.monotonic() < deadline
            self.server.turn(0.01)

    def caller(self, vm: str, *, reserve: int = LAST_CHUNK * PAGES) -> "Caller":
        """A process that stands for a VM."""
        made = Caller(self, vm)
        self.callers.append(made)
        assert made.result() > 0
        if reserve:
            made.call("reserve", reserve)
        return made

    def state(self) -> object:
        """What a call that fails must not change."""
        mapped = {caller.pid: caller.mapped_chunks() for caller in self.callers}
        return mapped, self.gmm.verify().query_statistics(), self.store.resident_pages

    def __enter__(self) -> "Host":
        self.server.start()
        return self

    def __exit__(self, *_: object) -> None:
        for caller in self.callers:
            caller.kill()
        self.server.close()
        self.store.close()


class Caller:
    """A process that makes one call at a time."""

    def __init__(self, host: Host, vm: str) -> None:
        self._host = host
        self._process = subprocess.Popen(
            [sys.executable, str(CALLER), str(host.path), vm],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        self._unread = b""
        os.set_blocking(self._process.stdout.fileno(), False)

    @property
    def pid(self) -> int:
        return self._process.pid

    def start(self, name: str, *arguments: Any) -> None:
        """Begin a call."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([name, *arguments]).encode() + b"\n")
        self._process.stdin.flush()

    def result(self) -> Any:
        """What a call returns."""
        self._host.serve_until(self._has_line)
        line, _, self._unread = self._unread.partition(b"\n")
        return json.loads(line)

    def call(self, name: str, *arguments: Any) -> Any:
        """Make a call."""
        self.start(name, *arguments)
        return self.result()

    def mapped_chunks(self) -> set[int]:
        """The chunks that the kernel has mapped there."""
        found: set[int] = set()
        for line in Path(f"/proc/{self.pid}/maps").read_text().splitlines():
            if "/memfd:gmm-chunks" in line:
                addresses, _, offset = line.split()[:3]
                start, end = (int(part, 16) for part in addresses.split("-"))
                first = int(offset, 16) // GMM_CHUNK_SIZE
                found |= set(range(first, first + (end - start) // GMM_CHUNK_SIZE))
        return found

    def kill(self) -> None:
        """End it by SIGKILL, whatever it does."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()

    def _has_line(self) -> bool:
        assert self._process.stdout is not None
        with contextlib.suppress(BlockingIOError):
            self._unread += os.read(self._process.stdout.fileno(), 1 << 16)
        assert b"\n" in self._unread or self._process.poll() is None, "the caller ended"
        return b"\n" in self._unread


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    with Host(tmp_path) as made:
        yield made


def chunk_of(page: int) -> int:
    return page >> GMM_CHUNKID_SHIFT


def test_processes_that_map_a_chunk_see_each_others_bytes(host: Host) -> None:
    web, db = host.caller("web"), host.caller("db")
    page = web.call("allocate", 3)[1]
    web.call("write", page, "from web")
    assert db.call("read", page, 8) == "from web"
    db.call("write", page, "from db!")
    assert web.call("read", page, 8) == "from db!"
    assert bytes(host.store.view(chunk_of(page))[(page % PAGES) * PAGE_SIZE :][:8]) == b"from db!"


def test_chunks_are_mapped_and_unmapped_in_the_process_of_the_vm_alone(host: Host) -> None:
    web, db = host.caller("web"), host.caller("db")
    first, second, third = (chunk_of(page) for page in web.call("allocate", 3 * PAGES)[::PAGES])
    address = web.call("map_unmap", first, 0)
    assert web.call("map_unmap", third, 0) == address + (third - first) * GMM_CHUNK_SIZE
    assert web.call("map_unmap", first, 0) == address
    assert (web.mapped_chunks(), db.mapped_chunks()) == ({first, third}, set())
    assert db.call("map_unmap", third, 0) != address
    assert web.call("map_unmap", second, third) == address + (second - first) * GMM_CHUNK_SIZE
    assert web.call("map_unmap", 0, first) == 0
    assert (web.mapped_chunks(), db.mapped_chunks()) == ({second}, {third})


def test_a_map_that_is_refused_says_why_and_changes_nothing(tmp_path: Path) -> None:
    beyond, absent = GMM_CHUNKID_LAST + 1, LAST_CHUNK
    with Host(tmp_path, chunk_mappings=2, process_mappings=2) as host:
        web, db, mail = (host.caller(vm) for vm in ("web", "db", "mail"))
        first, second, third = (chunk_of(page) for page in web.call("allocate", 3 * PAGES)[::PAGES])
        for caller, chunk in ((web, first), (web, second), (db, first)):
            assert caller.call("map_unmap", chunk, 0)
        before = host.state()
        for caller, map_id, unmap_id, code in (
            (web, 0, 0, "INVALID_PARAMETER"),
            (web, first, first, "INVALID_PARAMETER"),
            (web, beyond, 0, "INVALID_PARAMETER"),
            (web, 0, beyond, "INVALID_PARAMETER"),
            (web, absent, first, "CHUNK_NOT_FOUND"),
            (web, 0, absent, "CHUNK_NOT_FOUND"),
            (web, 0, third, "CHUNK_NOT_MAPPED"),
            (db, third, second, "CHUNK_NOT_MAPPED"),
            (mail, first, 0, "TOO_MANY_CHUNK_MAPPINGS"),
            (web, third, 0, "TOO_MANY_CHUNK_MAPPINGS"),
        ):
            assert caller.call("map_unmap", map_id, unmap_id) == {"code": code}, (map_id, unmap_id)
            assert host.state() == before
        with pytest.raises(GmmError) as refusal:
            host.gmm.map_unmap_chunk("absent", first, 0)
        assert refusal.value.code is Status.WRONG_ORDER
        assert host.state() == before


def test_a_page_that_was_another_vms_reads_zeros(host: Host) -> None:
    web, db = host.caller("web"), host.caller("db")
    pages = web.call("allocate", LAST_CHUNK * PAGES // 8)
    web.call("write", pages[0], "secret")
    web.call("free", pages)
    for chunk in map(chunk_of, (pages[0],)):
        assert web.call("unmap", chunk) is None
    again = db.call("allocate", PAGES)
    assert {db.call("read", page, 6) for page in again[:20]} == {"\0" * 6}


def test_a_refusal_reaches_the_process_with_its_code(host: Host) -> None:
    web = host.caller("web", reserve=10)
    assert web.call("allocate", 11) == {"code": "HIT_VM_ACCOUNT_LIMIT"}
    assert web.call("unmap", 3) == {"code": "CHUNK_NOT_FOUND"}
    assert web.call("free", [LAST_CHUNK * PAGES]) == {"code": "ATTEMPT_TO_FREE_TOO_MUCH"}
    assert web.call("statistics") == {"allocated": 0, "ballooned": 0}


def test_what_a_killed_process_held_is_free_at_once_and_nothing_else(host: Host) -> None:
    web, db = host.caller("web"), host.caller("db")
    kept = db.call("allocate", 100)
    db.call("write", kept[0], "kept")
    for page in web.call("allocate", 3 * PAGES)[::PAGES]:
        web.call("write", page, "lost")
    assert host.gmm.query_statistics().allocated_pages == 3 * PAGES + 100
    web.kill()
    host.serve_until(lambda: "web" not in host.gmm)
    assert host.gmm.verify().query_statistics().allocated_pages == 100
    assert host.gmm.query_statistics().chunks == len({chunk_of(page) for page in kept})
    assert host.store.resident_pages <= host.gmm.query_statistics().chunks * PAGES
    assert db.call("read", kept[0], 4) == "kept"


def killed_at_random(host: Host, names: tuple[str, ...], kills: int, seed: int) -> None:
    chance = random.Random(seed)
    vms = {vm: host.caller(vm) for vm in names}
    for vm, caller in vms.items():
        caller.start("churn", chance.randrange(1000))
        assert vm in host.gmm
    for _ in range(kills):
        vm = chance.choice(sorted(vms))
        steps = chance.randrange(1, 12)
        for _ in range(steps):
            vms[vm].result()
        until = time.monotonic() + chance.random() * 0.02
        host.serve_until(lambda: time.monotonic() >= until)  # noqa: B023 - it is called at once
        vms[vm].kill()
        host.serve_until(lambda: vm not in host.gmm)  # noqa: B023
        host.gmm.verify()
        stats = host.gmm.query_statistics()
        assert stats.allocated_pages <= stats.chunks * PAGES
        assert host.store.resident_pages <= stats.chunks * PAGES
        vms[vm] = host.caller(vm)
        vms[vm].start("churn", chance.randrange(1000))
    for caller in vms.values():
        caller.result()
        caller.kill()
    host.serve_until(lambda: not any(vm in host.gmm for vm in vms))
    assert host.gmm.verify().query_statistics().allocated_pages == 0
    assert host.store.resident_pages <= host.gmm.query_statistics().chunks * PAGES


def test_processes_killed_at_random_points_leave_whole_books(host: Host) -> None:
    killed_at_random(host, ("db", "web"), 2, seed=1)


@pytest.mark.soak
def test_many_processes_killed_at_random_points_leave_whole_books(host: Host) -> None:
    killed_at_random(host, ("db", "mail", "web"), 200, seed=2)


REGION = np.array([(0x10_0000, 0x2000, 0)], VMMDEVSHAREDREGIONDESC)
MODULE: dict[str, int | bytes] = {
    "szName": b"kernel32.dll",
    "szVersion": b"1.0",
    "GCBaseAddr": 0x10_0000,
    "cbModule": 0x2000,
}


def requests(large_page: int) -> Iterator[Request]:
    """A request of every operation, in an order in which each succeeds."""
    yield new_request(
        Operation.INITIAL_RESERVATION,
        cBasePages=4 * PAGES,
        cShadowPages=2,
        cFixedPages=3,
        enmPolicy=OcPolicy.NO_OC,
        enmPriority=Priority.HIGH,
    )
    yield new_request(Operation.UPDATE_RESERVATION, cBasePages=5 * PAGES, cShadowPages=1, cFixedPages=1)
    allocation = new_request(Operation.ALLOCATE_PAGES, 4, enmAccount=Account.BASE)
    allocation.array["HCPhysGCPhys"] = [0x1000, 0x2000, GMM_GCPHYS_UNSHAREABLE, NIL_RTHCPHYS]
    yield allocation
    first = PAGES
    free = new_request(Operation.FREE_PAGES, 2, enmAccount=Account.BASE)
    free.array["idPage"] = [first + 2, first + 3]
    yield free
    yield new_request(Operation.BALLOONED_PAGES, enmAction=BalloonAction.INFLATE, cBalloonedPages=2)
    yield new_request(Operation.MAP_UNMAP_CHUNK, idChunkMap=1)
    yield new_request(Operation.MAP_UNMAP_CHUNK, idChunkUnmap=1)
    yield new_request(Operation.FIND_DUPLICATE_PAGE, idPage=first)
    yield new_request(Operation.QUERY_HYPERVISOR_MEM_STATS)
    yield new_request(Operation.QUERY_MEM_STATS)
    yield new_request(Operation.QUERY_STATISTICS)
    yield new_request(Operation.RESET_STATISTICS)
    module = new_request(Operation.REGISTER_SHARED_MODULE, 1, **MODULE)
    module["enmGuestOS"] = OsFamily.WINDOWS64
    module.array[:] = REGION
    yield module
    yield new_request(Operation.CHECK_SHARED_MODULES)
    yield new_request(Operation.UNREGISTER_SHARED_MODULE, 0, **MODULE)
    yield new_request(Operation.RESET_SHARED_MODULES)
    yield new_request(Operation.FREE_LARGE_PAGE, idPage=large_page)


class NothingThere:
    """A guest that has no pages where its modules are."""

    def page_at(self, address: int) -> None:
        del address

    def shared(self, page_id: int, now: int) -> None:
        raise AssertionError(f"page {page_id} became {now}")


def test_every_request_gets_between_processes_the_reply_that_it_gets_in_one(host: Host) -> None:
    web = host.caller("web", reserve=0)
    with MemfdStore(last_chunk=LAST_CHUNK) as store:
        here = GlobalMemoryManager(LAST_CHUNK * PAGES, store=store)
        here.register_vm("web")
        done: set[Operation] = set()
        for request in requests(large_page=2 * PAGES):
            operation, buffer = request.operation, request.encode()
            if operation is Operation.FREE_LARGE_PAGE:
                assert here.allocate_large_page("web") == host.gmm.allocate_large_page("web") == 2 * PAGES
            if operation is Operation.CHECK_SHARED_MODULES:
                for gmm in (here, host.gmm):
                    gmm.sharing.attach("web", NothingThere())
                    gmm.sharing.stop("web")
            reply = bytes.fromhex(web.call("perform", operation, buffer.hex()))
            expected = parse_reply(operation, perform(here, "web", operation, buffer))
            assert expected.status is Status.SUCCESS, f"{operation.symbol}: {expected.sentence}"
            if request["idChunkMap"] if operation is Operation.MAP_UNMAP_CHUNK else 0:
                # the same chunk, in another process
                address = parse_reply(operation, reply).outputs()["pvR3"]
                assert address != expected.outputs()["pvR3"]
                expected.outputs()["pvR3"] = address
            assert reply == expected.encode(), operation.symbol
            done.add(operation)
        assert done == set(Operation) - {Operation.SEED_CHUNK}


OPERATIONS = sorted(SHAPES)


def test_mutated_requests_of_every_operation_cost_no_other_vm_anything(host: Host) -> None:
    chance = random.Random(3)
    web = host.caller("web")
    page = web.call("allocate", 10)[0]
    web.call("write", page, "whole")
    for round_ in range(40):
        hostile = Hostile(host)
        for operation in OPERATIONS:
            count = chance.randrange(3) if SHAPES[operation].array is not None else 0
            packet = bytearray(encode_request(operation, new_request(operation, count).encode()))
            for _ in range(chance.randrange(6)):
                packet[chance.randrange(12, len(packet))] = chance.choice((0, 1, 2, 0x7F, 0x80, 0xFF))
            hostile.send(bytes(packet) if round_ % 4 else chance.randbytes(chance.randrange(1, 200)))
        hostile.close()
        host.gmm.verify()
    host.serve_until(lambda: "hostile" not in host.gmm)
    assert web.call("read", page, 5) == "whole"
    assert host.gmm.verify().query_statistics().allocated_pages == 10


class Hostile:
    """A caller that sends bytes and does not care what comes back."""

    def __init__(self, host: Host) -> None:
        host.serve_until(lambda: "hostile" not in host.gmm)
        self._host = host
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.connect(str(host.path))
        self.send(Greeting("hostile", 1 << 40).encode())

    def send(self, packet: bytes) -> None:
        """Send a packet and drop the reply to it."""
        with contextlib.suppress(OSError):
            self._socket.send(packet)
            self._host.server.turn(0)
            self._host.server.turn(0)
            self._socket.recv(REPLY_BYTES_MAX, socket.MSG_DONTWAIT)

    def close(self) -> None:
        """Hang up."""
        self._socket.close()
        self._host.server.turn(0.01)
