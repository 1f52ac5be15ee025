"""One virtual processor: a thread that runs the guest, and serves what the guest leaves it for."""

import errno
import logging
import os
import threading
from collections.abc import Callable
from typing import Final, Protocol

from dynmem.vm.kvm import api
from dynmem.vm.kvm.gate import Gate
from dynmem.vm.kvm.pace import Pace
from dynmem.vm.kvm.run_page import RunPage
from dynmem.vm.platform import GuestEnding

_LOG: Final = logging.getLogger("dynmem.vm")
# EINTR: it was kicked. EAGAIN: it waited to be started by another processor, and that has happened.
_GO_ON: Final = frozenset({errno.EINTR, errno.EAGAIN})


class ServeExit(Protocol):
    """Serves an exit on the processor's thread."""

    def __call__(self, vp: int, page: RunPage) -> None:
        """Serve the exit that `page` describes."""


class Vcpu:
    """Processor number `vp` of a machine.

    Attributes:
        vp: Its number, which is its APIC id and its VP index.
        fd: Its descriptor. A request on it waits for the end of the current run, in another thread for ever.
        page: What it shares with the kernel.
        exits: How often it left the guest.

    """

    def __init__(self, machine: int, vp: int, page_size: int) -> None:
        """Make it in a machine (a descriptor); OSError."""
        self.vp: Final = vp
        self.fd: Final = api.call(machine, api.CREATE_VCPU, vp)
        try:
            self.page: Final = RunPage(self.fd, page_size)
        except OSError:
            os.close(self.fd)
            raise
        self.exits: int = 0
        self._thread: threading.Thread | None = None

    @property
    def thread_id(self) -> int:
        """Its thread, as the system numbers it; 0 before it runs."""
        return 0 if self._thread is None else self._thread.native_id or 0

    def start(self, gate: Gate, pace: Pace, serve: ServeExit, failed: Callable[[GuestEnding], None]) -> None:
        """Start its thread, which runs the guest whenever the gate is open, until the gate's end.

        `failed` is called on that thread if it can't go on. OSError if there is no thread.
        """
        thread = threading.Thread(
            target=self._work, args=(gate, pace, serve, failed), name=f"vCPU {self.vp}", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:
            raise OSError(errno.EAGAIN, str(error)) from None
        self._thread = thread

    def _work(self, gate: Gate, pace: Pace, serve: ServeExit, failed: Callable[[GuestEnding], None]) -> None:
        try:
            while gate.enter(self.page):
                try:
                    code = api.run(self.fd)
                finally:
                    gate.leave()
                if code == 0:
                    self.exits += 1
                    serve(self.vp, self.page)
                    pace.after_exit(self.vp)
                elif code not in _GO_ON:
                    how = f"KVM does not run vCPU {self.vp}: {os.strerror(code)}"
                    failed(GuestEnding(how, lacks_memory=code == errno.EFAULT))
                    return
        except Exception as error:
            _LOG.exception("vCPU %d", self.vp)
            failed(GuestEnding(f"internal error of vCPU {self.vp}: {error!r}"))

    def join(self) -> None:
        """Wait for the end of its thread, after the gate's end."""
        if self._thread is not None:
            self._thread.join()

    def close(self) -> None:
        """Release it, after `join`."""
        self.page.close()
        os.close(self.fd)
