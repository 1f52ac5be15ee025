"""Stock guests: started on a virtual machine monitor, ours or QEMU's, booted, watched and ended.

Each has a serial shell and a monitor; the client is QEMU's own library.
"""

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final, cast

from qemu.qmp import EventListener, QMPClient
from qemu.qmp.error import QMPError
from tests.kvm_rig import place
from tests.kvm_rig.place import GuestKernel
from tests.kvm_rig.shell import READY_S, Shell
from tests.rigs.processes import memory_files

BALLOON: Final = "hv-balloon,id=hvb,status-report=on"
MIB: Final = 1 << 20
_BRIDGE: Final = "vmbus-bridge"  # of QEMU, below its hv-balloon
# quiet: a line on an emulated console takes 60 ms. memhp_default_state: 6.1 needs it to use what is added.
# The last two: that a busy machine holds an emulated processor up is not a fault of the guest.
_APPEND: Final = (
    "console=ttyS0 quiet nokaslr mitigations=off no_timer_check random.trust_cpu=on"
    " memhp_default_state=online nowatchdog rcupdate.rcu_cpu_stall_suppress=1"
)
# noforce: with addresses above 4 GiB Linux would keep 64 MiB for bouncing.
_QEMU_APPEND: Final = "tsc=reliable panic=-1 swiotlb=noforce"
# Linux must not find KVM's own interface beside Hyper-V's: it would take that one.
_QEMU_PROCESSOR: Final = (
    "host,kvm=off,hv-relaxed=on,hv-vpindex=on,hv-runtime=on,hv-time=on,hv-synic=on,hv-stimer=on,hv-vapic=on"
)


class Guest:
    """A running guest. `shell` and `qmp` are connected; `process` is the monitor's."""

    def __init__(self, folder: Path, command: Sequence[str]) -> None:
        self.folder = folder
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._is_fragile = _BRIDGE in command
        self._shell: Shell | None = None
        self._qmp: QMPClient | None = None
        self._events = EventListener()

    @property
    def shell(self) -> Shell:
        """The shell in the guest."""
        assert self._shell is not None
        return self._shell

    @property
    def qmp(self) -> QMPClient:
        """The client of its monitor."""
        assert self._qmp is not None
        return self._qmp

    async def connect(self) -> None:
        """Connect to serial port and monitor, as soon as they are there."""
        self._shell = await Shell.connect(serial_path(self.folder), self.check)
        self._qmp = await self.client()
        self._qmp.register_listener(self._events)

    async def client(self) -> QMPClient:
        """Return a client of its monitor."""
        deadline = time.monotonic() + READY_S
        while True:
            self.check()
            if qmp_path(self.folder).exists():
                client = QMPClient("rig")
                with contextlib.suppress(QMPError):
                    await client.connect(str(qmp_path(self.folder)))
                    return client
            assert time.monotonic() < deadline, f"no monitor at {qmp_path(self.folder)}: {self.said()}"
            await asyncio.sleep(0.05)

    async def execute(self, command: str, **arguments: object) -> Any:
        """Run a command of the monitor; underscores in names of arguments become dashes."""
        named = {name.replace("_", "-"): value for name, value in arguments.items()}
        return await self.qmp.execute(command, named or None)

    async def event(self, name: str) -> dict[str, Any]:
        """Wait for an event of this name among those that came since the last one; return its data."""
        async with asyncio.timeout(READY_S):
            while True:
                message = await self._events.get()
                if message["event"] == name:
                    return cast("dict[str, Any]", message.get("data", {}))

    async def exit_code(self) -> int:
        """Wait until the monitor's process has ended."""
        return await asyncio.to_thread(self.process.wait, READY_S)

    async def actual(self) -> int:
        """Return the guest's size as its monitor reports it."""
        return int((await self.execute("query-balloon"))["actual"])

    async def balloon(self, target: int) -> None:
        """Order a size and wait until the monitor reports it."""
        await self.order(target)
        deadline = time.monotonic() + READY_S
        while (actual := await self.actual()) != target:
            self.check()
            assert time.monotonic() < deadline, f"its size is {actual}, and {target} was ordered"
            await asyncio.sleep(0.02)

    async def order(self, target: int) -> None:
        """Order a size. QEMU's hv-balloon can abort on that while its guest runs (docs/honesty.md)."""
        if self._is_fragile:
            await self.execute("stop")
        await self.execute("balloon", value=target)
        if self._is_fragile:
            await self.execute("cont")

    async def meminfo(self, name: str) -> int:
        """Return a figure of the guest's /proc/meminfo in bytes."""
        line = await self.shell.sh(f"grep ^{name}: /proc/meminfo")
        return int(line.split()[1]) << 10

    async def complaints(self) -> list[str]:
        """Return the warnings and worse in the guest's log that are about Hyper-V, or are faults."""
        pattern = "hv_|hyperv|Hyper-V|vmbus|WARNING|BUG|Oops|Call Trace"
        log = await self.shell.sh(f"dmesg -r | grep -E '^<[0-4]>' | grep -E '{pattern}'", check=False)
        return log.splitlines()

    def resident_bytes(self) -> int:
        """Return what the guest's RAM occupies on the host, as the kernel counts it."""
        return sum(memory_files(self.process.pid).values())

    def check(self) -> None:
        """Raise AssertionError if the monitor's process has ended."""
        assert self.process.poll() is None, f"it ended with {self.process.returncode}: {self.said()}"

    def said(self) -> str:
        """Return what the process has logged and the guest's last lines."""
        tail = self._shell.tail() if self._shell else "  nothing"
        return f"{self.log.read_text(errors='replace')}\nthe guest's last lines:\n{tail}"

    async def end(self) -> None:
        """End it."""
        if self._qmp is not None:
            with contextlib.suppress(Exception):
                await self._qmp.disconnect()
        if self._shell is not None:
            await self._shell.close()
        self.process.kill()
        self.process.wait()


def serial_path(folder: Path) -> Path:
    """Return where a guest's serial port is."""
    return folder / "serial"


def qmp_path(folder: Path) -> Path:
    """Return where a guest's monitor is."""
    return folder / "qmp"


def stock_command(
    folder: Path,
    kernel: GuestKernel,
    *,
    memory: str = "256M",
    processors: int = 1,
    device: str | None = BALLOON,
    append: str = "",
    options: Sequence[str] = (),
    initrd: Path | None = None,
) -> list[str]:
    """Return the command that starts a stock guest on our own monitor."""
    command = [
        sys.executable,
        "-m",
        "dynmem",
        "vm",
        "--name=one",
        f"--memory={memory}",
        "--smp",
        str(processors),
    ]
    command += [f"--kernel={kernel.vmlinux}", f"--initrd={initrd or kernel.initrd}"]
    command += [f"--append={_APPEND} {append}".rstrip()]
    command += [f"--serial=unix:{serial_path(folder)},server=on,wait=off"]
    command += [f"--qmp=unix:{qmp_path(folder)},server=on,wait=off"]
    command += [f"--device={device}"] if device else []
    return [*command, *options]


def qemu_command(
    folder: Path,
    kernel: GuestKernel,
    *,
    memory_mib: int = 256,
    added_mib: int = 512,
    append: str = "",
    options: Sequence[str] = (),
) -> list[str]:
    """Return the command that starts a stock guest on QEMU, with QEMU's own hv-balloon.

    Its memory is aligned to 32 GiB, hence maxmem. A guest that could hibernate (S4) replies to no request, so
    disable_s4: QEMU's device would wait permanently.
    """
    command = _qemu_machine(folder, kernel, memory_mib=memory_mib, processor=_QEMU_PROCESSOR, append=append)
    command += ["-global", "PIIX4_PM.disable_s4=1"]
    command += ["-object", f"memory-backend-memfd,id=added,size={added_mib}M,share=on"]
    command += ["-device", _BRIDGE, "-device", f"{BALLOON},memdev=added"]
    return [*command, *options]


def qemu_virtio_command(folder: Path, kernel: GuestKernel, *, memory_mib: int = 256) -> list[str]:
    """Return the command that starts a stock guest on QEMU, with virtio-balloon and nothing of Hyper-V."""
    append = "rig.drivers=virtio"
    command = _qemu_machine(folder, kernel, memory_mib=memory_mib, processor="host", append=append)
    return [*command, "-device", "virtio-balloon-pci,id=balloon"]


def _qemu_machine(
    folder: Path, kernel: GuestKernel, *, memory_mib: int, processor: str, append: str
) -> list[str]:
    """Return the command that starts a stock guest on QEMU, without a balloon."""
    command = [*place.qemu(), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
    command += ["-machine", "pc,accel=kvm,vmport=off,i8042=off,hpet=off,memory-backend=ram"]
    command += ["-cpu", processor, "-smp", "1", "-m", f"{memory_mib}M,maxmem=64G"]
    command += ["-object", f"memory-backend-memfd,id=ram,size={memory_mib}M,share=on"]
    command += ["-kernel", str(kernel.vmlinux), "-initrd", str(kernel.initrd)]
    command += ["-append", f"{_APPEND} {_QEMU_APPEND} {append}".rstrip()]
    command += ["-chardev", f"socket,id=serial,path={serial_path(folder)},server=on,wait=on"]
    return [*command, "-serial", "chardev:serial", "-qmp", f"unix:{qmp_path(folder)},server=on,wait=off"]


@contextlib.asynccontextmanager
async def running(folder: Path, command: Sequence[str], *, wait: bool = True) -> AsyncIterator[Guest]:
    """Yield a guest that has booted (with `wait` off: one whose monitor answers); end it afterwards."""
    guest = Guest(folder, command)
    try:
        await guest.connect()
        if wait:
            await guest.shell.ready()
        yield guest
    except BaseException as error:
        error.add_note(guest.said())
        raise
    finally:
        await guest.end()
