"""The embedded guest as a process: started by exec with its hardware socket as the only extra descriptor."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import dynmem
from dynmem.errors import ConfigError
from dynmem.vm.embedded.output import Ends
from dynmem.vm.embedded.readiness import Readiness
from dynmem.vm.options.machine import GuestOptions
from dynmem.vm.platform import GuestEnding

# numpy's libraries would start a thread per processor, and the guest needs one
ENVIRONMENT: Final = {
    "PYTHONPATH": str(Path(dynmem.__file__).resolve().parent.parent),
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
}


class GuestProcess:
    """One guest: `exited` is called when it has ended, whatever the reason.

    It does not outlive the machine: `end` ends it, and so do the machine's death and the end of its socket.
    """

    def __init__(
        self,
        options: GuestOptions,
        hardware_fd: int,
        exited: Callable[[], None],
        output: Ends,
    ) -> None:
        """Start it. Raises ConfigError if that fails."""
        program = [sys.executable, "-P", "-m", "dynmem.guest"]
        if options.program is not None:
            program = [str(options.program)]
        program.append(f"--hardware-fd={hardware_fd}")
        program += [f"--workload={options.workload}", f"--seed={options.seed}"]
        try:
            self._process = subprocess.Popen(
                program,
                stdin=subprocess.DEVNULL,
                stdout=output.console,
                stderr=output.log,
                pass_fds=(hardware_fd,),
                env=ENVIRONMENT,
            )
        except OSError as error:
            raise ConfigError(f"the guest cannot be started: {error.filename}: {error.strerror}") from None
        self._pidfd = Readiness(os.pidfd_open(self._process.pid), exited)
        self._pidfd.arm()

    @property
    def pid(self) -> int:
        """The guest's process."""
        return self._process.pid

    def freeze(self) -> None:
        """Stop it where it is."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it run again."""
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it without waiting; `exited` is called when it is gone."""
        self._process.kill()

    async def end(self) -> None:
        """End it and wait until it is gone, with all its mappings of guest memory; `exited` is not called."""
        self._pidfd.disarm()
        self._process.kill()
        await asyncio.to_thread(self._process.wait)  # taking down gigabytes of mappings takes a while
        if self._pidfd.fd >= 0:
            os.close(self._pidfd.fd)
            self._pidfd.fd = -1

    @property
    def ending(self) -> GuestEnding | None:
        """How it ended; None while it runs, and after exit code 0."""
        code = self._process.poll()
        if not code:
            return None
        if code > 0:
            return GuestEnding(f"exit code {code}")
        by = signal.Signals(-code)
        return GuestEnding(f"killed by {by.name}", by)
