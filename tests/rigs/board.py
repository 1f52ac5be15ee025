"""The hardware of a real guest process: its socket, interrupt line and doorbell, before a `GuestHost`."""

import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, Self

from tests.rigs.guest_host import DOORBELL, GuestHost

from dynmem.vm.embedded.lines import InterruptLine
from dynmem.wire import hardware as wire
from dynmem.wire.synic import VMBUS_SINT


class Board:
    """Starts `python -m dynmem.guest` with `size` bytes of RAM and serves it from the test's own thread."""

    def __init__(self, size: int, workload: str, *, doorbell: bool = True, added_size: int = 0) -> None:
        self.sint = InterruptLine()
        self.doorbell, bell = socket.socketpair()
        self.machine = GuestHost(size, self.sint.interrupt, added_size)
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-m", "dynmem.guest", "--hardware-fd", str(theirs.fileno())]
        self.process = subprocess.Popen(
            [*command, "--workload", workload],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(theirs.fileno(),),
        )
        theirs.close()
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdout.fileno(), False)
        self.acknowledged: list[wire.Message] = []
        self.reports: list[dict[str, Any]] = []
        self._serial = b""
        self.map_slot(0, 0, size, self.machine.backend.fd)
        self.send(wire.BindSint(VMBUS_SINT), self.sint.guest_end.fileno())
        if doorbell:
            self.send(wire.BindDoorbell(DOORBELL), bell.fileno())
        bell.close()
        self.send(wire.Start())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()
        self.socket.close()
        self.machine.close()
        self.sint.close()
        self.doorbell.close()

    def send(self, message: wire.Message, descriptor: int | None = None) -> None:
        descriptors = [] if descriptor is None else [descriptor]
        socket.send_fds(self.socket, [wire.encode(message)], descriptors)

    def map_slot(self, slot: int, gpa: int, size: int, descriptor: int) -> None:
        self.send(wire.MapSlot(slot, gpa, size, 0), descriptor)

    def serve(self, until: Callable[[], bool], timeout_s: float = 100.0) -> None:
        """Be the host until `until` says so; TimeoutError when it never does."""
        assert self.process.stdout is not None
        poll = select.poll()
        for descriptor in (self.socket, self.doorbell, self.process.stdout):
            poll.register(descriptor, select.POLLIN)
        end = time.monotonic() + timeout_s
        while not until():
            if time.monotonic() > end:
                raise TimeoutError(f"last report: {self.reports[-1:]}")
            ready = {descriptor for descriptor, _ in poll.poll(50)}
            self.machine.now = time.monotonic_ns()
            if self.socket.fileno() in ready:
                self._answer()
            if self.doorbell.fileno() in ready:
                self.doorbell.recv(4096)
            self.machine.work()
            self._read_serial()

    def set_target(self, pages: int) -> None:
        """Balloon to `pages`, as far as the guest goes."""
        self.machine.device.set_target(pages, self.machine.now)
        device = self.machine.device
        self.serve(lambda: device.actual_pages == pages or device.guest_at_floor)

    def wait_for_report(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first report from now on for which `condition` holds."""
        seen = len(self.reports)
        self.serve(lambda: any(condition(report) for report in self.reports[seen:]))
        return next(report for report in self.reports[seen:] if condition(report))

    def _answer(self) -> None:
        data = self.socket.recv(4096)
        if not data:
            raise ConnectionResetError("the guest is gone")
        message = wire.decode(data)
        if isinstance(message, wire.Hypercall):
            status = self.machine.hypercall(message.control, message.input_gpa)
            self.send(wire.Reply(message.sequence, status))
        elif isinstance(message, wire.WriteMsr):
            self.send(wire.Reply(message.sequence, self.machine.write_msr(message.msr, message.value)))
        else:
            self.acknowledged.append(message)

    def _read_serial(self) -> None:
        assert self.process.stdout is not None
        try:
            self._serial += os.read(self.process.stdout.fileno(), 65536)
        except BlockingIOError:
            return
        *lines, self._serial = self._serial.split(b"\n")
        self.reports.extend(json.loads(line) for line in lines)
