"""A cast of monitors that lie, flood and die: each a process that listens on a unix socket and speaks QMP.

`python -m tests.hostile.monitors FOLDER NAME...` plays them, a process each, at FOLDER/NAME.qmp, until its
standard input ends. All are honest but for one habit: a class, with what the manager is to say of it.
"""

import contextlib
import ctypes
import itertools
import json
import mmap
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any, ClassVar

MIB = 1 << 20
BOOT = 64 * MIB
GREETING = {"QMP": {"version": {"qemu": {"micro": 0, "minor": 2, "major": 9}, "package": ""}}}
STAMP = {"seconds": 1_700_000_000, "microseconds": 0}
LISTS = b"[" + b"[]," * 20_000 + b"[]]"
_PR_SET_PDEATHSIG = 1

#: Every monitor of the cast by its name.
CAST: dict[str, type["Monitor"]] = {}


class Monitor:
    """An honest VM of 64 MiB with an hv-balloon that takes every target at once.

    Attributes:
        said: What the manager says of it in its status or its log, as a pattern; empty: it does no harm.
        demand: What its guest needs.
    """

    said: ClassVar[str] = ""
    demand: ClassVar[int] = 56 * MIB

    def __init_subclass__(cls, *, is_member: bool = True) -> None:
        if is_member:
            CAST[cls.__name__] = cls

    def __init__(self, path: Path) -> None:
        self.path = path
        self.actual = BOOT
        self.reports = 0

    def listen(self) -> socket.socket:
        self.path.unlink(missing_ok=True)
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(self.path))
        listening.listen(4)
        return listening

    def run(self) -> None:
        listening = self.listen()
        while True:
            connection, _ = listening.accept()
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            self.greet(connection)
            for line in connection.makefile("rb"):
                request = json.loads(line)
                self.reply(connection, request["id"], request["execute"], request.get("arguments", {}))

    def greet(self, connection: socket.socket) -> None:
        self.send(connection, GREETING)

    def send(self, connection: socket.socket, message: object) -> None:
        connection.sendall(json.dumps(message).encode() + b"\r\n")

    def reply(self, connection: socket.socket, number: int, command: str, arguments: dict[str, Any]) -> None:
        value = {} if command == "qmp_capabilities" else self.value(command, arguments)
        if value is None:
            error = {"class": "CommandNotFound", "desc": f"The command {command} has not been found"}
            self.send(connection, {"error": error, "id": number})
        else:
            self.send(connection, {"return": value, "id": number})

    def value(self, command: str, arguments: dict[str, Any]) -> object:
        """What a command returns; None: it is not known."""
        if command == "query-status":
            return {"status": self.status(), "running": True}
        if command == "query-balloon":
            return {"actual": self.size()}
        if command == "query-memory-size-summary":
            return {"base-memory": self.base()}
        if command == "query-hv-balloon-status-report":
            self.reports += 1
            return self.report()
        if command == "balloon":
            self.take(arguments["value"])
            return {}
        return None

    def status(self) -> object:
        return "running"

    def size(self) -> object:
        return self.actual

    def base(self) -> object:
        return BOOT

    def report(self) -> object:
        committed = self.demand + BOOT - self.actual + 4096 * (self.reports % 2)
        return {"committed": committed, "available": max(0, self.actual - self.demand)}

    def take(self, target: int) -> None:
        self.actual = target


# -- sizes -----------------------------------------------------------------------------------------------


class SizeOfAPebibyte(Monitor):
    said = r"reports a size of 1024 TiB"

    def size(self) -> object:
        return 1 << 50


class SizeOfHalfAnExbibyte(Monitor):
    said = r"actual is 576460752303423488, which is not the size of a VM"

    def size(self) -> object:
        return 1 << 59


class SizeBeyondAll(Monitor):
    said = r"actual is 2305843009213693952, which is not the size of a VM"

    def size(self) -> object:
        return 1 << 61


class SizeNegative(Monitor):
    said = r"actual is -4096, which is not a number of bytes"

    def size(self) -> object:
        return -4096


class SizeFraction(Monitor):
    said = r"actual is a fraction"

    def size(self) -> object:
        return 67108864.5


class SizeText(Monitor):
    said = r"actual is text"

    def size(self) -> object:
        return "64 MiB"


class SizeOfThousandDigits(Monitor):
    said = r"actual is a|is not JSON"

    def size(self) -> object:
        return 10**4000


class SizeNan(Monitor):
    said = r"not a line of QMP"

    def size(self) -> object:
        return float("nan")


class SizeMissing(Monitor):
    said = r"actual is None"

    def value(self, command: str, arguments: dict[str, Any]) -> object:
        return {} if command == "query-balloon" else super().value(command, arguments)


class SizeOtherEachLook(Monitor):
    said = r"two equal sweeps|grew to|no more at"

    def size(self) -> object:
        return BOOT - (self.reports * 7 % 9) * MIB


class BaseOfAPebibyte(Monitor):
    said = ""  # its configured maximum holds

    def base(self) -> object:
        return 1 << 50


class BaseOfHalfAnExbibyte(Monitor):
    said = r"base-memory is 576460752303423488, which is not the size of a VM"

    def base(self) -> object:
        return 1 << 59


class BaseOfNothing(Monitor):
    said = r"base-memory is 0, which is not the size of a VM"

    def base(self) -> object:
        return 0


class LimitOfHalfAnExbibyte(Monitor):
    said = r"max-size of hv-balloon is 576460752303423488, which is not the size of a VM"

    def value(self, command: str, arguments: dict[str, Any]) -> object:
        if command == "query-memory-devices":
            return [{"type": "hv-balloon", "data": {"max-size": 1 << 59}}]
        return super().value(command, arguments)


class DevicesWithoutEnd(Monitor):
    said = r"holds more than 16384 values|not a list of devices"

    def value(self, command: str, arguments: dict[str, Any]) -> object:
        if command == "query-memory-devices":
            return [{"type": "dimm", "data": {"size": MIB, "id": str(each)}} for each in range(5000)]
        return super().value(command, arguments)


# -- what its guest reports ------------------------------------------------------------------------------


class ReportAbsurd(Monitor):
    said = r"its guest reports impossible sizes: committed is 9223372036854775808"

    def report(self) -> object:
        return {"committed": 1 << 63, "available": 1}


class ReportNegative(Monitor):
    said = r"its guest reports impossible sizes: available is -1"

    def report(self) -> object:
        return {"committed": 32 * MIB, "available": -1}


class DemandWithoutEnd(Monitor):
    said = ""  # it competes for what its maximum allows

    def report(self) -> object:
        return {"committed": (1 << 50) + 4096 * (self.reports % 2), "available": 0}


class Virtio(Monitor, is_member=False):
    """The same with a virtio-balloon."""

    said = ""

    def value(self, command: str, arguments: dict[str, Any]) -> object:
        if command == "query-hv-balloon-status-report":
            return None
        if command == "qom-list":
            return [{"name": "balloon0", "type": "child<virtio-balloon-pci>"}]
        if command == "qom-get":
            if arguments["property"] == "guest-stats-polling-interval":
                return 1
            self.reports += 1
            return self.statistics()
        return super().value(command, arguments)

    def statistics(self) -> object:
        return {"stats": {"stat-available-memory": 8 * MIB}, "last-update": 1_700_000_000 + self.reports}


class StatisticsOfTheFuture(Virtio):
    said = r"no fresh report|first report"

    def statistics(self) -> object:
        return {"stats": {"stat-available-memory": 8 * MIB}, "last-update": 1 << 40}


class StatisticsNegative(Virtio):
    said = r"its guest reports impossible sizes: stat-available-memory is -5"

    def statistics(self) -> object:
        return {"stats": {"stat-available-memory": -5}, "last-update": 1_700_000_000 + self.reports}


class BalloonsByThousands(Virtio):
    said = r"holds more than 16384 values"

    def value(self, command: str, arguments: dict[str, Any]) -> object:
        if command == "qom-list":
            return [{"name": f"b{each}", "type": "child<virtio-balloon>"} for each in range(8000)]
        return super().value(command, arguments)


class BalloonThatIsNeverThere(Virtio):
    said = r"balloon device does not reply"

    def value(self, command: str, arguments: dict[str, Any]) -> object:
        self.reports += 1
        if command == "qom-list":
            return [{"name": f"balloon{self.reports}", "type": "child<virtio-balloon-pci>"}]
        return None if command == "qom-get" else super().value(command, arguments)


# -- what it makes of its target -------------------------------------------------------------------------


class Small(Monitor, is_member=False):
    """Has less than it needs, so that it is soon sent a target."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.actual = BOOT // 2


class ObeysNever(Small):
    said = r"takes no more"

    def take(self, target: int) -> None:
        pass


class GoesTooFar(Small):
    said = ""  # its target is brought to what it has, or offered again

    def take(self, target: int) -> None:
        self.actual = target // 2


class GrowsInstead(Small):
    said = r"reports a size beyond its maximum|impossible sizes: committed is -"

    def take(self, target: int) -> None:
        self.actual = 10 * target


class DiesOfItsTarget(Small):
    said = r"absent: its process has ended"

    def take(self, target: int) -> None:
        os._exit(0)


# -- floods ----------------------------------------------------------------------------------------------


class Flood(Monitor, is_member=False):
    """Sends the same all the time, and replies in between."""

    said = ""
    flood = b""

    def greet(self, connection: socket.socket) -> None:
        super().greet(connection)
        threading.Thread(target=self.pour, args=(connection,), daemon=True).start()

    def pour(self, connection: socket.socket) -> None:
        time.sleep(0.2)  # the negotiation first
        with contextlib.suppress(OSError):
            while True:
                connection.sendall(self.flood)


def event(name: str, data: bytes = b"{}") -> bytes:
    stamp = json.dumps(STAMP).encode()
    return b'{"event": "%s", "data": %s, "timestamp": %s}\r\n' % (name.encode(), data, stamp)


class FloodOfEvents(Flood):
    said = r"its monitor floods"
    flood = event("BLOCK_IO_ERROR") * 500


class FloodOfLargeEvents(Flood):
    said = r"its monitor floods|did not reply|does not reply"
    flood = event("BLOCK_IO_ERROR", LISTS)


class FloodOfLargeResets(Flood):
    said = r"its monitor floods|did not reply|does not reply"
    flood = event("RESET", LISTS)


class FloodOfResets(Flood):
    said = r"its monitor floods"
    flood = event("RESET") * 500


class FloodOfEnds(Flood):
    said = r"its monitor floods"
    flood = (event("SHUTDOWN") + event("STOP") + event("RESUME")) * 100


class FloodOfReplies(Flood):
    said = r"its monitor floods|no command requested"
    flood = b'{"return": {}, "id": 1}\r\n' * 500


class FloodOfEmptyLines(Flood):
    said = r"its monitor floods|did not reply|does not reply"
    flood = b"\r\n" * 30_000


class FloodOfCrumbs(Flood):
    said = ""  # a million of them make no line, and one line is bounded

    def pour(self, connection: socket.socket) -> None:
        time.sleep(0.2)
        with contextlib.suppress(OSError):
            while True:
                connection.sendall(b" ")


# -- lines -----------------------------------------------------------------------------------------------


class LineWithoutEnd(Flood):
    said = r"longer than \d+ bytes"
    flood = b" " * 65_536


class Raw(Monitor, is_member=False):
    """Replies to query-status with these bytes."""

    said = ""
    raw = b""

    def reply(self, connection: socket.socket, number: int, command: str, arguments: dict[str, Any]) -> None:
        if command == "query-status":
            connection.sendall(self.raw.replace(b"NUMBER", b"%d" % number))
        else:
            super().reply(connection, number, command, arguments)


class NestsDeeply(Raw):
    said = r"not a line of QMP"
    raw = b'{"id": NUMBER, "return": ' + b"[" * 60_000 + b"]" * 60_000 + b"}\r\n"


class RepliesTenMebibytes(Raw):
    said = r"longer than \d+ bytes"
    raw = b'{"id": NUMBER, "return": "' + b"x" * (10 * MIB) + b'"}\r\n'


class RepliesLists(Raw):
    said = r"query-status holds more than \d+ values"
    raw = b'{"id": NUMBER, "return": ' + LISTS + b"}\r\n"


class RepliesInUtf16(Raw):
    said = r"not a line of QMP"
    raw = '{"return": {}}\r\n'.encode("utf-16")


class RepliesWithByteOrderMark(Raw):
    said = r"not a line of QMP"
    raw = b'\xef\xbb\xbf{"id": NUMBER, "return": {"status": "running"}}\r\n'


class RepliesBrokenUtf8(Raw):
    said = r"not JSON|not a line of QMP|has no status"
    raw = b'{"id": NUMBER, "return": {"status": "run\xff\xfening"}}\r\n'


class RepliesZeros(Raw):
    said = r"not a line of QMP"
    raw = b"\0" * 4096 + b"\n"


class StatusOfEscapes(Raw):
    said = r"the reply to query-status has no status"
    raw = b'{"id": NUMBER, "return": {"status": "\\u001b[2Jrunning"}}\r\n'


class NotQmp(Monitor):
    said = r"does not speak QMP"

    def greet(self, connection: socket.socket) -> None:
        connection.sendall(b"SSH-2.0-OpenSSH_9.2p1\r\n")


class GreetsNever(Monitor):
    said = r"no greeting|does not reply"

    def greet(self, connection: socket.socket) -> None:
        pass


class GreetsLate(Monitor):
    said = r"no greeting|does not reply"

    def greet(self, connection: socket.socket) -> None:
        time.sleep(2.0)
        super().greet(connection)


class GreetsTwice(Monitor):
    said = r"neither a reply nor an event"

    def greet(self, connection: socket.socket) -> None:
        super().greet(connection)
        super().greet(connection)


# -- replies ---------------------------------------------------------------------------------------------


class RepliesToOthers(Monitor):
    said = r"replies that no command requested"

    def reply(self, connection: socket.socket, number: int, command: str, arguments: dict[str, Any]) -> None:
        shift = 0 if command == "qmp_capabilities" else 1000
        super().reply(connection, number + shift, command, arguments)


class RepliesTwice(Monitor):
    said = r"replies that no command requested"

    def reply(self, connection: socket.socket, number: int, command: str, arguments: dict[str, Any]) -> None:
        super().reply(connection, number, command, arguments)
        super().reply(connection, number, command, arguments)


class RepliesBeforeItIsAsked(Monitor):
    said = r"replies that no command requested"

    def reply(self, connection: socket.socket, number: int, command: str, arguments: dict[str, Any]) -> None:
        super().reply(connection, number, command, arguments)
        if command != "qmp_capabilities":
            for ahead in range(1, 4):
                self.send(connection, {"return": {}, "id": number + ahead})


class RepliesNumbers(Monitor):
    said = r"query-status is not an object"

    def value(self, command: str, arguments: dict[str, Any]) -> object:
        return 5


class RepliesErrors(Monitor):
    said = r"rejects what every VM is asked"

    def value(self, command: str, arguments: dict[str, Any]) -> object:
        return None


class ErrorsWithoutEnd(Raw):
    said = r"no no no"
    raw = b'{"id": NUMBER, "error": {"class": "\\u001b]0;x", "desc": "' + b"no " * 30_000 + b'"}}\r\n'


class RepliesByTheByte(Monitor):
    said = r"did not reply|does not reply"

    def send(self, connection: socket.socket, message: object) -> None:
        if message is GREETING or message == {"return": {}, "id": 1}:
            super().send(connection, message)
            return
        for each in json.dumps(message).encode():
            connection.sendall(bytes((each,)))
            time.sleep(0.1)


class RepliesSlowly(Monitor):
    said = r"did not reply|does not reply"

    def reply(self, connection: socket.socket, number: int, command: str, arguments: dict[str, Any]) -> None:
        time.sleep(0.0 if command == "qmp_capabilities" else 2.5)
        super().reply(connection, number, command, arguments)


class MigratesForEver(Monitor):
    said = r"its state is migrating"

    def value(self, command: str, arguments: dict[str, Any]) -> object:
        return {"status": "active"} if command == "query-migrate" else super().value(command, arguments)


class StatusOtherEachLook(Monitor):
    said = r"frozen: its state is (paused|suspended)"

    def status(self) -> object:
        return ("running", "paused", "suspended")[self.reports % 3]


# -- connections -----------------------------------------------------------------------------------------


class ClosesInTheMiddle(Monitor):
    said = r"its monitor ended the connection"

    def reply(self, connection: socket.socket, number: int, command: str, arguments: dict[str, Any]) -> None:
        if command == "query-balloon":
            connection.sendall(b'{"return": {"actu')
            connection.shutdown(socket.SHUT_RDWR)
        else:
            super().reply(connection, number, command, arguments)


class ClosesAfterGreeting(Monitor):
    said = r"its monitor ended the connection"

    def greet(self, connection: socket.socket) -> None:
        super().greet(connection)
        connection.shutdown(socket.SHUT_RDWR)


class AcceptsNever(Monitor):
    said = r"no greeting|queue of clients is full|does not reply"

    def run(self) -> None:
        listening = self.listen()
        threading.Event().wait()
        listening.close()


class QueueFull(Monitor):
    said = r"queue of clients is full|no greeting|does not reply"

    def run(self) -> None:
        listening = self.listen()
        clients = [socket.socket(socket.AF_UNIX) for _ in range(8)]
        for client in clients:
            client.setblocking(False)
            client.connect_ex(str(self.path))
        threading.Event().wait()
        listening.close()


class ReadsNever(Monitor):
    said = r"did not reply|does not reply|no greeting"

    def serve(self, connection: socket.socket) -> None:
        self.greet(connection)
        threading.Event().wait()


class AnotherEachTime(Monitor):
    """Each connection finds another process behind the socket."""

    said = r"absent: its process has ended|ended the connection"

    def run(self) -> None:
        while True:
            if os.fork() == 0:
                die_with_parent()
                connection, _ = self.listen().accept()
                threading.Timer(0.7, os._exit, (0,)).start()
                self.serve(connection)
                os._exit(0)
            os.wait()


class ReplacesItsSocket(Monitor):
    """Its path is a socket, a folder, a FIFO, a file and a link to a neighbour in turn."""

    said = ""  # a connection that is there outlives its path

    def run(self) -> None:
        for turn in itertools.count():
            with contextlib.suppress(OSError):
                self.path.rmdir()
            self.path.unlink(missing_ok=True)
            match turn % 5:
                case 0:
                    self.path.mkdir()
                case 1:
                    os.mkfifo(self.path)
                case 2:
                    self.path.write_bytes(b"")
                case 3:
                    self.path.symlink_to(self.path.with_name("web.qmp"))
                case 4:
                    listening = self.listen()
                    listening.settimeout(0.4)
                    with contextlib.suppress(OSError):
                        threading.Thread(
                            target=self.serve, args=(listening.accept()[0],), daemon=True
                        ).start()
                    listening.close()
            time.sleep(0.4)


# -- processes -------------------------------------------------------------------------------------------


class HoldsMoreThanItSays(Monitor):
    said = r"more is resident than was assigned"

    def run(self) -> None:
        self.held = bytearray(os.urandom(MIB)) * 100
        super().run()


class MappedInPieces(Monitor):
    """Has as many mappings as the kernel allows: its memory takes long to measure."""

    said = ""

    def run(self) -> None:
        self.pieces = []
        with contextlib.suppress(OSError):
            for each in range(50_000):
                kind = mmap.PROT_READ if each % 2 else mmap.PROT_READ | mmap.PROT_WRITE
                self.pieces.append(mmap.mmap(-1, 4096, prot=kind))
        super().run()


class OpensEverything(Monitor):
    said = ""

    def run(self) -> None:
        self.descriptors: list[int] = []
        with contextlib.suppress(OSError):
            while len(self.descriptors) < 20_000:
                self.descriptors.append(os.open("/dev/null", os.O_RDONLY))
        for each in self.descriptors[-64:]:  # some for itself
            os.close(each)
        super().run()


class StopsNowAndThen(Monitor):
    said = r"is stopped \(by SIGSTOP|does not reply"

    def run(self) -> None:
        pid = os.getpid()
        if os.fork() == 0:
            die_with_parent()
            while True:
                time.sleep(0.5)
                os.kill(pid, signal.SIGSTOP)
                time.sleep(0.5)
                os.kill(pid, signal.SIGCONT)
        super().run()


class ForksWhileItServes(Monitor):
    said = ""

    def reply(self, connection: socket.socket, number: int, command: str, arguments: dict[str, Any]) -> None:
        child = os.fork()
        if child == 0:
            with contextlib.suppress(OSError):
                super().reply(connection, number, command, arguments)
            os._exit(0)
        os.waitpid(child, 0)


def die_with_parent() -> None:
    """End this process with the one that started it."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def play(folder: Path, names: list[str], *, honest: bool) -> None:
    """Play monitors until standard input ends; *honest*: without their habits."""
    for name in names:
        if os.fork() == 0:
            die_with_parent()
            with contextlib.suppress(KeyboardInterrupt):
                (Monitor if honest else CAST[name])(folder / f"{name}.qmp").run()
            os._exit(0)
    sys.stdin.buffer.read()  # they die with this process


if __name__ == "__main__":
    play(
        Path(sys.argv[1]),
        [each for each in sys.argv[2:] if each != "--honest"],
        honest="--honest" in sys.argv,
    )
