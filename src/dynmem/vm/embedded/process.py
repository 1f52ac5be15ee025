"""The embedded guest as processes: its keeper, which outlives none of them, and what the guest started.

A guest is started with its hardware socket as the only extra descriptor, by a keeper (`keeper`, which says by
which means). The machine knows the process whose end is the end of all of them.
"""

import asyncio
import contextlib
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import dynmem
from dynmem.errors import ConfigError, DynmemError
from dynmem.sockets import UCRED
from dynmem.vm.embedded import keeper
from dynmem.vm.embedded.output import Ends
from dynmem.vm.embedded.readiness import Readiness
from dynmem.vm.options.machine import GuestOptions
from dynmem.vm.platform import GuestEnding, ShortageError
from dynmem.vm.shortage import cannot_start, is_shortage

_LOG: Final = logging.getLogger("dynmem.vm")
_SOURCES: Final = str(Path(dynmem.__file__).resolve().parent.parent)
# numpy's libraries would start a thread per processor, and the guest needs one
ENVIRONMENT: Final = {
    "PYTHONPATH": _SOURCES,
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
}
_ANCILLARY_BYTES: Final = socket.CMSG_SPACE(UCRED.size)
_MESSAGE_BYTES: Final = 4096
_FREEZING_S: Final = 1.0
_ENDING_S: Final = 1.0  # for a keeper without a namespace, to kill all processes that it finds
_NAMESPACES: Final = ("user", "pid")


class _RefusedError(DynmemError):
    """The system does not have the means that a keeper was to use."""


class GuestProcess:
    """One guest: `exited` is called when all its processes have ended, whatever the reason.

    Attributes:
        means: How its processes are kept from outliving the machine.
        pid: The first process of the guest's program.

    """

    def __init__(self, means: str, exited: Callable[[], None]) -> None:
        self.means: Final = means
        self.pid: int = -1
        self._control, self._keepers_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._control.setblocking(False)
        self._process: subprocess.Popen[bytes] | None = None
        self._pidfd = -1  # of the process that ends last
        self._exited = exited
        self._watch: Readiness | None = None
        self._status: int | None = None

    @classmethod
    async def start(
        cls,
        options: GuestOptions,
        hardware_fd: int,
        exited: Callable[[], None],
        output: Ends,
        *,
        means: Sequence[str] = keeper.MEANS,
    ) -> "GuestProcess":
        """Start a guest by the first of the `means` that the system has.

        It ends with the thread that calls this, so that must be the one that lives as long as the machine.

        Raises ConfigError if its program cannot be executed, ShortageError if the host is short
        of what a process needs; then nothing is left.
        """
        refusals = []
        for name in means:
            try:
                guest = cls(name, exited)
            except OSError as error:
                raise _cannot(error) from None
            try:
                await guest._start(options, hardware_fd, output)
            except BaseException as error:
                await guest.end()
                if not isinstance(error, _RefusedError):
                    raise
                refusals.append(f"{name}: {error}")
                continue
            if name not in _NAMESPACES:
                _LOG.warning(
                    "the guest has no namespace: a hostile one could outlive its machine (%s)",
                    "; ".join(refusals) or name,
                )
            return guest
        raise ConfigError(f"the guest cannot be started: no means to keep it ({'; '.join(refusals)})")

    async def _start(self, options: GuestOptions, hardware_fd: int, output: Ends) -> None:
        try:
            self._spawn(options, hardware_fd, output)
            self._keepers_end.close()
            pid = await self._expect("kept")
            self._pidfd = os.pidfd_open(pid)
        except OSError as error:
            raise _cannot(error) from None
        self._send("go")
        self.pid = await self._expect("guest")
        await self._expect("started")
        # the keeper has answered since the descriptor was made, so that is of this very process
        self._watch = Readiness(self._pidfd, self._exited)
        self._watch.arm()

    def _spawn(self, options: GuestOptions, hardware_fd: int, output: Ends) -> None:
        """Start the keeper, which has the guest's program as its last arguments."""
        program = [sys.executable, "-P", "-m", "dynmem.guest"]
        needed = [sys.executable, sys.prefix, _SOURCES]
        if options.program is not None:
            program = needed = [str(options.program)]
        if os.geteuid():
            needed = []  # an ordinary user loses no right to a file in a user namespace
        control_fd = self._keepers_end.fileno()
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-I", "-S", keeper.__file__, self.means),
                *(str(control_fd), str(hardware_fd), str(os.getpid()), os.pathsep.join(needed)),
                *(*program, f"--hardware-fd={hardware_fd}"),
                *(f"--workload={options.workload}", f"--seed={options.seed}"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=output.console,
            stderr=output.log,
            pass_fds=(control_fd, hardware_fd),
            env=ENVIRONMENT,
        )

    async def freeze(self) -> None:
        """Stop all its processes where they are."""
        self._send("freeze")
        # it has ended meanwhile, or the guest keeps its keeper from the processor: it is stopped later
        with contextlib.suppress(DynmemError, TimeoutError):
            await asyncio.wait_for(self._expect("frozen"), _FREEZING_S)

    def thaw(self) -> None:
        """Let them run again."""
        self._send("thaw")

    def kill(self) -> None:
        """End it without waiting; `exited` is called when all its processes are gone."""
        self._send("kill")

    async def end(self) -> None:
        """End all of them and wait until they are gone, with their mappings; `exited` is not called."""
        if self._watch is not None:
            self._watch.disarm()
        self._keepers_end.close()
        if self._process is not None:
            self._end_keeper()
            await self._gone(self._process)
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        self._control.close()

    def _end_keeper(self) -> None:
        if self.means in _NAMESPACES and self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        else:
            with contextlib.suppress(OSError):
                self._control.shutdown(socket.SHUT_WR)

    async def _gone(self, process: "subprocess.Popen[bytes]") -> None:
        """Wait for the last process, and for the keeper, whose last child that is."""
        deadline = time.monotonic() + _ENDING_S
        if self._pidfd >= 0 and self.means in _NAMESPACES:
            await readable(self._pidfd)
        while process.poll() is None:
            if self.means not in _NAMESPACES and time.monotonic() > deadline:
                process.kill()  # the guest may have stopped it
            await asyncio.sleep(0.001)

    @property
    def ending(self) -> GuestEnding | None:
        """How it ended; None while it runs, and after exit code 0."""
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        if not poll.poll(0):
            return None
        with contextlib.suppress(DynmemError):
            while self._status is None:
                self._next()
        # a keeper that was killed sent nothing, and everything was killed with it
        code = -signal.SIGKILL if self._status is None else os.waitstatus_to_exitcode(self._status)
        if not code:
            return None
        if code > 0:
            return GuestEnding(f"exit code {code}")
        by = signal.Signals(-code)
        return GuestEnding(f"killed by {by.name}", lacks_memory=by is signal.SIGBUS)

    def _send(self, message: str) -> None:
        with contextlib.suppress(OSError):  # the keeper is gone, and its end is noticed elsewhere
            self._control.send(message.encode())

    async def _expect(self, message: str) -> int:
        """Wait for a message of the keeper; return the process that sent it.

        Raises what a message says that came instead, and ShortageError when the keeper has ended.
        """
        while True:
            await readable(self._control.fileno())
            with contextlib.suppress(BlockingIOError):
                found, pid = self._next()
                if found == message:
                    return pid

    def _next(self) -> tuple[str, int]:
        """Return the keeper's next message with its sender's process id."""
        try:
            data, ancillary, _, _ = self._control.recvmsg(_MESSAGE_BYTES, _ANCILLARY_BYTES)
        except ConnectionResetError:  # it has ended with an order unread; what it said before that is there
            data, ancillary, _, _ = self._control.recvmsg(_MESSAGE_BYTES, _ANCILLARY_BYTES)
        if not data:
            # by the system's hand: this interpreter runs here, too
            raise ShortageError("the guest cannot be started: its keeper has ended")
        kind, _, rest = data.decode(errors="replace").partition(" ")
        number, _, what = rest.partition(" ")
        if kind == "exited":
            self._status = int(number)
        elif kind == "failed" or (kind == "refused" and is_shortage(int(number))):
            raise cannot_start(int(number), what)
        elif kind == "refused":
            raise _RefusedError(f"{what}: {os.strerror(int(number))}")
        pid, _, _ = UCRED.unpack(ancillary[0][2])
        return kind, pid


def _cannot(error: OSError) -> DynmemError:
    return cannot_start(error.errno or 0, error.filename or "its process")


async def readable(fd: int) -> None:
    """Wait until there is something to read, or the end."""
    ready = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(fd, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(fd)
