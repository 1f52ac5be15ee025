"""One real Linux guest under QEMU: start it, watch it, set its load, and stop it without leftovers.

The guest's RAM is a memfd of QEMU, so the blocks of that file are what it takes from the host. It has a
virtio-balloon (QOM id ``balloon0``) and two QMP monitors, because QEMU serves one client on each: `qmp_path`
for a memory manager, `lab_qmp_path` for an observer. The serial port is QEMU's standard input and output: it
carries reports out and loads in (see dynmem.lab.workload).

Everything here is synchronous; only `ready` and `stop` wait. QEMU dies with the thread that called
`start` (PR_SET_PDEATHSIG), so start it from one that lives on: the main thread.
"""

import os
import re
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Literal, Self

from dynmem.errors import ConfigError, DeadlineError, DynmemError, ExitCode
from dynmem.lab.image import Image, require
from dynmem.lab.workload import Load, Report, latest_report
from dynmem.limits import (
    LAB_ERROR_LOG_BYTES_SHOWN,
    LAB_GUEST_BYTES_MIN,
    LAB_SERIAL_TAIL_BYTES,
    UNIX_PATH_BYTES_MAX,
)
from dynmem.units import MIB, STAT_BLOCK_BYTES, format_size

Accelerator = Literal["tcg", "kvm"]
BALLOON_PATH: Final = "/machine/peripheral/balloon0"
PLUG_PATH: Final = "/machine/peripheral/plug0"
_PROGRAM: Final = "qemu-system-x86_64"
_NO_WORDS: Final = "nothing (as after a panic of its kernel, or QMP quit)"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,40}")
_MEMFD: Final = "/memfd:memory-backend-memfd"
_LOOK_SECONDS: Final = 0.02
_STOP_SECONDS: Final = 2.0  # it takes 0.03 s (measured); a process that hangs is killed
_ACCELERATOR: Final = {  # tb-size: the default of a gigabyte is too much for a guest this small
    "tcg": ("-accel", "tcg,tb-size=64", "-cpu", "qemu64"),
    "kvm": ("-accel", "kvm", "-cpu", "host"),
}
# panic=-1 with -no-reboot: a panic ends QEMU, so it is noticed. The rest makes booting fast.
KERNEL_ARGUMENTS: Final = (
    "console=ttyS0,115200 quiet loglevel=1 panic=-1 nokaslr mitigations=off tsc=reliable no_timer_check"
    " cryptomgr.notests random.trust_cpu=on"
)


class GuestLostError(DynmemError):
    """A guest's QEMU ended by itself."""

    exit_code = ExitCode.GUEST_LOST


class QemuGuest:
    """A guest that boots dynmem's image and runs one load.

    `memory_bytes` is whole MiB. `folder` (created privately if necessary) holds the two monitor sockets.
    `free_page_reporting` and `deflate_on_oom` are the balloon device's properties with those names. With
    `balloon` off there is no balloon device. `disk_bytes` adds a disk of zeros, which takes no memory of the
    host. `plug_bytes` adds a virtio-mem (QOM id ``plug0``) that can plug that much and has plugged nothing;
    with `onlines` the guest puts online what is plugged. Raises ConfigError for what is not possible here.
    """

    def __init__(
        self,
        name: str,
        memory_bytes: int,
        folder: Path,
        *,
        load: Load | None = None,
        accel: Accelerator = "tcg",
        image: Image | None = None,
        balloon: bool = True,
        free_page_reporting: bool = False,
        deflate_on_oom: bool = False,
        disk_bytes: int = 0,
        plug_bytes: int = 0,
        onlines: bool = True,
    ) -> None:
        if _NAME.fullmatch(name) is None:
            raise ConfigError(f"guest name {name!r}: use letters, digits, '_', '.' and '-', at most 41")
        if memory_bytes < LAB_GUEST_BYTES_MIN or memory_bytes % MIB:
            raise ConfigError(
                f"guest {name!r} with {memory_bytes} bytes: give it whole MiB,"
                f" {format_size(LAB_GUEST_BYTES_MIN)} or more (Linux does not boot in much less)"
            )
        self.name = name
        self.memory_bytes = memory_bytes
        self.qmp_path: Path = folder / f"{name}.qmp"
        self.lab_qmp_path: Path = folder / f"{name}.lab.qmp"
        if len(os.fsencode(self.lab_qmp_path)) > UNIX_PATH_BYTES_MAX:
            raise ConfigError(
                f"{self.lab_qmp_path} is too long for a unix socket ({UNIX_PATH_BYTES_MAX} bytes):"
                " use a folder nearer to /"
            )
        self.accel: Accelerator = accel
        self._load = load or Load()
        self._image = image or require()
        self._device = balloon
        self._disk_bytes = disk_bytes
        self._plug_bytes, self._onlines = plug_bytes, onlines
        self._properties = {"free-page-reporting": free_page_reporting, "deflate-on-oom": deflate_on_oom}
        self._process: subprocess.Popen[bytes] | None = None
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the guest
        self._tail = b""
        self._report: Report | None = None
        self._ram: str | None = None
        self._stopped = False

    def __enter__(self) -> Self:
        """Start the guest."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the guest."""
        self.stop()

    def command(self) -> list[str]:
        """Return the command that starts it, with the serial port on standard input and output."""
        command = ["setpriv", "--pdeathsig", "KILL", "--", _PROGRAM, "-name", self.name]
        command += ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
        most = f",maxmem={(self.memory_bytes + self._plug_bytes) // MIB}M" if self._plug_bytes else ""
        command += [*_ACCELERATOR[self.accel], "-smp", "1", "-m", f"{self.memory_bytes // MIB}M{most}"]
        command += ["-machine", "q35,memory-backend=ram0"]
        command += ["-object", f"memory-backend-memfd,id=ram0,size={self.memory_bytes // MIB}M,share=on"]
        command += ["-kernel", str(self._image.kernel), "-initrd", str(self._image.initrd)]
        command += [
            "-append",
            f"{KERNEL_ARGUMENTS}{self._plug_arguments()} dynmem.load={self._load.argument()}",
        ]
        command += ["-chardev", "stdio,id=serial0,signal=off", "-serial", "chardev:serial0"]
        for place, path in enumerate((self.qmp_path, self.lab_qmp_path)):
            escaped = str(path).replace(",", ",,")
            command += ["-chardev", f"socket,id=mon{place},path={escaped},server=on,wait=off"]
            command += ["-mon", f"chardev=mon{place},mode=control"]
        if self._device:
            properties = "".join(f",{key}={'on' if on else 'off'}" for key, on in self._properties.items())
            command += ["-device", f"virtio-balloon-pci,id=balloon0{properties}"]
        if self._plug_bytes:
            backend = f"memory-backend-memfd,id=plug-ram,size={self._plug_bytes // MIB}M,share=on,reserve=off"
            device = "virtio-mem-pci,id=plug0,memdev=plug-ram,requested-size=0"
            command += ["-object", backend, "-device", device]
        if self._disk_bytes:
            disk = f"driver=null-co,node-name=disk0,size={self._disk_bytes},read-zeroes=on"
            command += ["-blockdev", disk, "-device", "nvme,drive=disk0,serial=disk0"]
        return command

    def _plug_arguments(self) -> str:
        """Return what the kernel's command line has for virtio-mem. Without swiotlb: it would take 64 MiB."""
        if not self._plug_bytes:
            return ""
        return f" swiotlb=noforce memhp_default_state={'online_movable' if self._onlines else 'offline'}"

    def start(self) -> None:
        """Start QEMU and return at once. A guest is started only once."""
        assert self._process is None, "started twice"
        self.qmp_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            self._process = subprocess.Popen(
                self.command(),
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                start_new_session=True,  # Ctrl-C at the terminal is meant for our own process
                umask=0o077,
            )
        except OSError as error:
            self.stop()
            raise ConfigError(f"QEMU cannot be started: {error}") from None
        for end in self._serial():
            os.set_blocking(end.fileno(), False)

    def _serial(self) -> tuple[IO[bytes], IO[bytes]]:
        """Return the ends of the serial port: its input and its output."""
        assert self._process is not None, "not started"
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        return self._process.stdin, self._process.stdout

    def ready(self, timeout_s: float = 30.0) -> Report:
        """Wait for the guest's first report: booted, drivers loaded, load running.

        Raises GuestLostError when it ends before, DeadlineError after `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        while (report := self.read_serial()) is None:
            self.check()
            if time.monotonic() > deadline:
                raise DeadlineError(f"guest {self.name} sent no report within {timeout_s:g} s of its start")
            time.sleep(_LOOK_SECONDS)
        return report

    def read_serial(self) -> Report | None:
        """Return the guest's latest report, or None before the first. Never waits.

        It is at most a fifth of a second old if called every few seconds. Unread reports fill a pipe; when
        that is full, the guest stops writing until it is read.
        """
        if self._process is None or self._stopped:
            return self._report
        _, output = self._serial()
        while data := output.read(LAB_SERIAL_TAIL_BYTES):  # None: nothing there now; empty: QEMU has ended
            self._tail = (self._tail + data)[-LAB_SERIAL_TAIL_BYTES:]
        self._report = latest_report(self._tail) or self._report
        return self._report

    def order(self, load: Load) -> None:
        """Send the guest a new load; `orders` in a later report counts it."""
        line = load.argument().encode() + b"\n"
        try:
            taken = self._serial()[0].write(line)
        except OSError as error:
            self.check()
            raise DeadlineError(f"guest {self.name} accepts no orders on its serial port: {error}") from None
        if taken != len(line):
            raise DeadlineError(f"guest {self.name} accepts no orders: earlier ones still wait on its port")

    def resident_bytes(self) -> int:
        """Return the host memory behind the guest's boot RAM: the blocks of its memfd, or 0 without one."""
        if self._process is None or self._process.poll() is not None:
            return 0
        try:
            self._ram = self._ram or self._find_ram()
            return Path(self._ram).stat().st_blocks * STAT_BLOCK_BYTES if self._ram else 0
        except OSError:  # it ended meanwhile
            return 0

    def _find_ram(self) -> str | None:
        for path in Path(f"/proc/{self.pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                if str(path.readlink()).startswith(_MEMFD) and path.stat().st_size == self.memory_bytes:
                    return str(path)
        return None

    @property
    def pid(self) -> int:
        """QEMU's process id."""
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether QEMU runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def oom_kills(self) -> int:
        """Processes that the guest's kernel has OOM-killed, as far as reported."""
        report = self.read_serial()
        return max(report.oom_kills, report.oom_messages) if report else 0

    def check(self) -> None:
        """Raise GuestLostError, quoting QEMU's and the guest's last output, if QEMU has ended by itself."""
        if self._stopped or self._process is None or self._process.poll() is None:
            return
        self.read_serial()
        self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, self._errors.tell() - LAB_ERROR_LOG_BYTES_SHOWN))
        words = [b for b in (self._errors.read().strip(), *self._tail.splitlines()[-2:]) if b]
        said = " / ".join(b.decode(errors="replace").strip() for b in words) or _NO_WORDS
        raise GuestLostError(
            f"guest {self.name} is lost: QEMU ended with exit code {self._process.returncode}, saying: {said}"
        )

    def stop(self) -> None:
        """End QEMU and remove what it leaves behind. Can be called at any time, and more than once."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._process is not None:
            self.read_serial()
            for end in self._serial():
                end.close()
        self._stopped = True
        self._errors.close()
        for path in (self.qmp_path, self.lab_qmp_path):
            path.unlink(missing_ok=True)
