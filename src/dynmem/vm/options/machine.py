"""The options of ``dynmem vm``, written as QEMU writes them; some subjects have a file of their own."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from dynmem.errors import ConfigError
from dynmem.limits import VM_NAME_MAX
from dynmem.trace_events import matching
from dynmem.units import NS_PER_MS
from dynmem.vm.options.actions import ActionOptions
from dynmem.vm.options.boot import BootOptions
from dynmem.vm.options.console import ConsoleOptions
from dynmem.vm.options.memory import BackendOptions, DimmOptions, MemoryOptions, dimm_of
from dynmem.vm.options.text import Keys
from dynmem.wire.versions import VERSION_5_3

_DEVICE_KEYS: Final = (
    *("id", "status-report", "free-page-reporting"),
    *("x-post-init-wait", "memdev", "addr", "x-startup"),
)
EMBEDDED: Final = "embedded"
KVM: Final = "kvm"
MACHINES: Final = (EMBEDDED, KVM)
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
        startup_last: Whether a reset gives the next guest the size of the last one instead of its boot size:
            added memory stays, in whole slots, and the target is pursued.
        free_page_reporting: Whether the guest may report pages that it has free, to be discarded.
    """

    identity: str = "hv-balloon"
    status_report: bool = False
    post_init_wait_ns: int = 0
    memdev: str | None = None
    address: int = 0
    startup_last: bool = False
    free_page_reporting: bool = True


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
        boot: The kernel that the guest boots; None: it is the embedded one.
        guest: What the embedded guest is.
        vp_count: The number of virtual processors.
        vmbus_version: The newest VMBus version that the guest may use.
        console: The other end of the guest's serial line.
        actions: What a reset and a crash of the guest lead to.
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
    boot: BootOptions | None = None
    guest: GuestOptions = field(default_factory=GuestOptions)
    vp_count: int = 1
    vmbus_version: int = VERSION_5_3
    console: ConsoleOptions = field(default_factory=ConsoleOptions)
    actions: ActionOptions = field(default_factory=ActionOptions)
    trace: frozenset[str] = frozenset()
    log: Path | None = None
    capture: Path | None = None

    @property
    def memory_bytes(self) -> int:
        """Memory at boot."""
        return self.memory.size

    @property
    def machine(self) -> str:
        """The machine's type, one of `MACHINES`."""
        return machine_type(self.boot)


def machine_type(boot: BootOptions | None) -> str:
    """Return the type of a machine that boots `boot`, one of `MACHINES`."""
    return EMBEDDED if boot is None else KVM


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
    startup = keys.one_of("x-startup", _STARTUPS, STARTUP_BOOT)
    return BalloonOptions(
        identity=keys.identity() or "hv-balloon",
        status_report=keys.flag("status-report", default=False),
        post_init_wait_ns=keys.integer("x-post-init-wait", 0, _POST_INIT_WAIT_MS_MAX) * NS_PER_MS,
        memdev=memdev,
        address=keys.integer("addr", 0, (1 << 64) - 1),
        startup_last=startup == STARTUP_LAST,
        free_page_reporting=keys.flag("free-page-reporting", default=True),
    )


def parse_machine(text: str, own: str = EMBEDDED) -> str | None:
    """Parse ``[TYPE,]memory-backend=ID``; return the backend to boot from, if one is named.

    `own` is the type that the machine has by its other options.
    """
    keys = Keys("machine", text, implied="type")
    keys.only(("type", "memory-backend"))
    kind = keys.text("type", own)
    if kind not in MACHINES:
        raise keys.wrong(f"unknown machine type {kind!r}; the types are {' and '.join(MACHINES)}")
    if kind != own:
        step = "remove --kernel" if kind == EMBEDDED else "add --kernel FILE"
        raise keys.wrong(f"{kind} is not the type of this machine: {step}, or leave the type out")
    if "memory-backend" in keys and not keys.text("memory-backend"):
        raise keys.wrong("memory-backend must be the id of an --object memory-backend-*")
    return keys.text("memory-backend") or None


def parse_qmp(text: str) -> Path:
    """Parse ``unix:PATH,server=on,wait=off``; return the monitor's socket."""
    return Keys("qmp", text, implied="path").listening_socket("the monitor")


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


def parse_trace(texts: tuple[str, ...]) -> frozenset[str]:
    """Parse all ``--trace`` options, each ``[enable=]PATTERN``; return the events that are on."""
    patterns = [text.removeprefix("enable=") for text in texts]
    for pattern in patterns:
        if not matching([pattern.removeprefix("-")]):
            raise ConfigError(
                f"--trace {pattern!r}: no event has that name; examples are 'hv_balloon*' and 'vmbus*'"
            )
    return matching(patterns)
