"""The options of ``dynmem vm``, written as QEMU writes them. Those about memory are in `memory`."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from dynmem.errors import ConfigError
from dynmem.limits import UNIX_PATH_BYTES_MAX, VM_NAME_MAX
from dynmem.trace_events import matching
from dynmem.units import NS_PER_MS
from dynmem.vm.options.memory import BackendOptions, DimmOptions, MemoryOptions, dimm_of
from dynmem.vm.options.text import Keys

_DEVICE_KEYS: Final = ("id", "status-report", "x-post-init-wait", "memdev", "addr", "x-startup")
MACHINE: Final = "embedded"
STARTUP_BOOT: Final = "boot"
STARTUP_LAST: Final = "last"
_STARTUPS: Final = (STARTUP_BOOT, STARTUP_LAST)
_POST_INIT_WAIT_MS_MAX: Final = 3_600_000


@dataclass(frozen=True)
class BalloonOptions:
    """``--device hv-balloon,...``.

    Attributes:
        identity: Its id.
        status_report: Whether the guest is to report its memory.
        post_init_wait_ns: From the end of the handshake to the first request.
        memdev: The backend of the memory that it adds.
        address: Where that lies in guest memory; 0: anywhere.
        startup_last: Whether after a reset the guest starts with its last size instead of its boot size.
    """

    identity: str = "hv-balloon"
    status_report: bool = False
    post_init_wait_ns: int = 0
    memdev: str | None = None
    address: int = 0
    startup_last: bool = False


@dataclass(frozen=True)
class GuestOptions:
    """``--guest embedded,...``; `program` runs as the guest instead of ours."""

    workload: str = "idle"
    seed: int = 0
    program: Path | None = None


@dataclass(frozen=True)
class VmOptions:
    """Everything that the options of ``dynmem vm`` say.

    Attributes:
        name: The VM's name.
        memory: Boot memory, and the room for more.
        objects: Memory backends.
        memory_backend: The object to boot from, instead of memory of the machine's own.
        balloon: The balloon, if there is one.
        dimms: DIMMs that are there at the start.
        qmp: The monitor's socket.
        guest: What the guest is.
        serial: The file of the guest's console.
        trace: The trace events that are on.
        log: Their file.
        capture: The file of the captured traffic.
    """

    name: str
    memory: MemoryOptions
    objects: tuple[BackendOptions, ...] = ()
    memory_backend: str | None = None
    balloon: BalloonOptions | None = None
    dimms: tuple[DimmOptions, ...] = ()
    qmp: Path | None = None
    guest: GuestOptions = field(default_factory=GuestOptions)
    serial: Path | None = None
    trace: frozenset[str] = frozenset()
    log: Path | None = None
    capture: Path | None = None

    @property
    def memory_bytes(self) -> int:
        """Memory at boot."""
        return self.memory.size


def parse_name(text: str) -> str:
    """Check a VM's name: printable, not empty, not long."""
    if not text or len(text) > VM_NAME_MAX or not text.isprintable():
        raise ConfigError(f"--name {text!r}: a name has 1 to {VM_NAME_MAX} printable characters")
    return text


def parse_devices(texts: tuple[str, ...]) -> tuple[BalloonOptions | None, tuple[DimmOptions, ...]]:
    """Parse all ``--device`` options: the one balloon, if there is one, and the DIMMs."""
    balloons: list[BalloonOptions] = []
    dimms: list[DimmOptions] = []
    for text in texts:
        keys = Keys("device", text, implied="driver")
        driver = keys.take("driver") or ""
        if driver == "hv-balloon":
            balloons.append(_balloon_of(keys))
        elif driver == "pc-dimm":
            dimms.append(dimm_of(keys))
        else:
            raise keys.wrong(f"unknown device {driver!r}; the devices are hv-balloon and pc-dimm")
    if len(balloons) > 1:
        raise ConfigError("--device: Only one balloon device is supported")
    names = [balloon.identity for balloon in balloons]
    names += [dimm.identity for dimm in dimms if dimm.identity is not None]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"--device: two devices have the id {name!r}: rename one")
    return (balloons[0] if balloons else None), tuple(dimms)


def _balloon_of(keys: Keys) -> BalloonOptions:
    """Parse the rest of ``--device hv-balloon,...``."""
    keys.only(_DEVICE_KEYS)
    memdev = keys.text("memdev") or None
    startup = keys.text("x-startup", STARTUP_BOOT)
    if startup not in _STARTUPS:
        raise keys.wrong(f"x-startup is {' or '.join(_STARTUPS)}, not {startup!r}")
    return BalloonOptions(
        identity=keys.identity() or "hv-balloon",
        status_report=keys.flag("status-report", default=False),
        post_init_wait_ns=keys.integer("x-post-init-wait", 0, _POST_INIT_WAIT_MS_MAX) * NS_PER_MS,
        memdev=memdev,
        address=keys.integer("addr", 0, (1 << 64) - 1),
        startup_last=startup == STARTUP_LAST,
    )


def parse_machine(text: str) -> str | None:
    """Parse ``[embedded,]memory-backend=ID``; return the backend to boot from, if one is named."""
    keys = Keys("machine", text, implied="type")
    keys.only(("type", "memory-backend"))
    kind = keys.text("type", MACHINE)
    if kind != MACHINE:
        raise keys.wrong(f"unknown machine type {kind!r}; the only type is {MACHINE} (the default)")
    if "memory-backend" in keys and not keys.text("memory-backend"):
        raise keys.wrong("memory-backend must be the id of an --object memory-backend-*")
    return keys.text("memory-backend") or None


def parse_qmp(text: str) -> Path:
    """Parse ``unix:PATH,server=on,wait=off``; return the monitor's socket."""
    keys = Keys("qmp", text, implied="path")
    keys.only(("path", "server", "wait"))
    kind, colon, path = keys.text("path").partition(":")
    if kind != "unix" or not colon or not path:
        raise keys.wrong("write it like unix:/run/vm/web.qmp,server=on,wait=off")
    if not keys.flag("server", default=False):
        raise keys.wrong("the monitor only listens: add server=on")
    if keys.flag("wait", default=True):
        raise keys.wrong("the machine does not wait for a client: add wait=off")
    if len(os.fsencode(path)) > UNIX_PATH_BYTES_MAX:
        raise keys.wrong(f"a socket's path has at most {UNIX_PATH_BYTES_MAX} bytes")
    return Path(path)


def parse_guest(text: str) -> GuestOptions:
    """Parse ``embedded,workload=NAME,seed=N,program=PATH,...``; other keys belong to the workload."""
    keys = Keys("guest", text, implied="kind")
    kind = keys.take("kind") or ""
    if kind != "embedded":
        raise keys.wrong(f"unknown kind of guest {kind!r}; the only kind is embedded")
    seed = keys.integer("seed", 0, (1 << 63) - 1)
    keys.take("seed")
    program = keys.take("program")
    name = keys.take("workload") or "idle"
    workload = ",".join([name, *(f"{key}={value}" for key, value in keys.rest().items())])
    return GuestOptions(workload, seed, Path(program) if program is not None else None)


def parse_serial(text: str) -> Path | None:
    """Parse ``file:PATH`` or ``none``; return where the guest's console goes."""
    if text == "none":
        return None
    kind, colon, path = text.partition(":")
    if kind != "file" or not colon or not path:
        raise ConfigError(f"--serial {text!r}: write file:PATH or none")
    return Path(path)


def parse_trace(texts: tuple[str, ...]) -> frozenset[str]:
    """Parse all ``--trace`` options, each ``[enable=]PATTERN``; return the events that are on."""
    patterns = [text.removeprefix("enable=") for text in texts]
    for pattern in patterns:
        if not matching([pattern.removeprefix("-")]):
            raise ConfigError(
                f"--trace {pattern!r}: no event has that name; examples are 'hv_balloon*' and 'vmbus*'"
            )
    return matching(patterns)
