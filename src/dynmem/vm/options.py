"""The options of ``dynmem vm``, written as QEMU writes them: ``key=value,key=value``; ``,,`` is a comma."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from dynmem.errors import ConfigError
from dynmem.limits import UNIX_PATH_BYTES_MAX, VM_MEMORY_BYTES_MAX, VM_MEMORY_BYTES_MIN, VM_NAME_MAX
from dynmem.units import NS_PER_MS, PAGE_SIZE, format_size, parse_size
from dynmem.wire.trace_events import matching

_SWITCH: Final = {"on": True, "yes": True, "true": True, "off": False, "no": False, "false": False}
_DEVICE_KEYS: Final = ("id", "status-report", "x-post-init-wait")
_POST_INIT_WAIT_MS_MAX: Final = 3_600_000


@dataclass(frozen=True)
class BalloonOptions:
    """What ``--device hv-balloon,...`` says."""

    identity: str = "hv-balloon"
    status_report: bool = False
    post_init_wait_ns: int = 0


@dataclass(frozen=True)
class GuestOptions:
    """What ``--guest embedded,...`` says; `program` is what to run as the guest instead of ours."""

    workload: str = "idle"
    seed: int = 0
    program: Path | None = None


@dataclass(frozen=True)
class VmOptions:
    """Everything ``dynmem vm`` can be told."""

    name: str
    memory_bytes: int
    balloon: BalloonOptions | None = None
    qmp: Path | None = None
    guest: GuestOptions = field(default_factory=GuestOptions)
    serial: Path | None = None
    trace: frozenset[str] = frozenset()
    log: Path | None = None
    capture: Path | None = None


def split_options(option: str, text: str, *, implied: str) -> dict[str, str]:
    """Cut ``first,key=value,flag`` into keys and values; a first bare word is the value of `implied`.

    A later bare word means ``on``. Raises ConfigError that names `option`.
    """
    found: dict[str, str] = {}
    words = [word.replace("\0", ",") for word in text.replace(",,", "\0").split(",")]
    for position, word in enumerate(words):
        key, equals, value = word.partition("=")
        if not equals:
            key, value = (implied, word) if position == 0 else (word, "on")
        if not key or (not value and not equals):
            raise ConfigError(f"--{option} {text!r}: there is nothing between two commas")
        if key in found:
            raise ConfigError(f"--{option} {text!r}: {key} is given twice")
        found[key] = value
    return found


def parse_name(text: str) -> str:
    """A VM's name: printable, not empty, not long."""
    if not text or len(text) > VM_NAME_MAX or not text.isprintable():
        raise ConfigError(f"--name {text!r}: a name has 1 to {VM_NAME_MAX} printable characters")
    return text


def parse_memory(text: str) -> int:
    """``512M``, ``512`` (MiB), ``size=512M,maxmem=512M``: the boot size in bytes."""
    keys = split_options("memory", text, implied="size")
    _only("memory", text, keys, ("size", "maxmem"))
    if "size" not in keys:
        raise ConfigError(f"--memory {text!r}: size is missing; write it like 512M")
    size = _size("memory", text, keys["size"])
    if not VM_MEMORY_BYTES_MIN <= size <= VM_MEMORY_BYTES_MAX or size % PAGE_SIZE:
        least, most = format_size(VM_MEMORY_BYTES_MIN), format_size(VM_MEMORY_BYTES_MAX)
        raise ConfigError(f"--memory {text!r}: a size is between {least} and {most}, in whole pages of 4 KiB")
    maximum = _size("memory", text, keys["maxmem"]) if "maxmem" in keys else size
    if maximum < size:
        raise ConfigError(f"--memory {text!r}: maxmem is below the size")
    if maximum > size:
        raise ConfigError(
            f"--memory {text!r}: growing beyond the boot size is not there yet: start with the maximum, "
            f"{format_size(maximum)}, and shrink"
        )
    return size


def parse_device(text: str) -> BalloonOptions:
    """``hv-balloon,id=hvb,status-report=on,x-post-init-wait=MS``."""
    keys = split_options("device", text, implied="driver")
    driver = keys.pop("driver", "")
    if driver != "hv-balloon":
        raise ConfigError(
            f"--device {text!r}: {driver!r} is not a device of this machine; there is hv-balloon"
        )
    _only("device", text, keys, _DEVICE_KEYS)
    wait = _integer(
        "device", text, "x-post-init-wait", keys.get("x-post-init-wait", "0"), _POST_INIT_WAIT_MS_MAX
    )
    return BalloonOptions(
        identity=keys.get("id", "hv-balloon"),
        status_report=_switch("device", text, "status-report", keys.get("status-report", "off")),
        post_init_wait_ns=wait * NS_PER_MS,
    )


def parse_devices(texts: tuple[str, ...]) -> BalloonOptions | None:
    """All ``--device`` options: none, or the one balloon."""
    devices = [parse_device(text) for text in texts]
    if len(devices) > 1:
        raise ConfigError("--device: Only one balloon device is supported")
    return devices[0] if devices else None


def parse_qmp(text: str) -> Path:
    """``unix:PATH,server=on,wait=off``: the monitor's socket."""
    keys = split_options("qmp", text, implied="path")
    _only("qmp", text, keys, ("path", "server", "wait"))
    kind, colon, path = keys.get("path", "").partition(":")
    if kind != "unix" or not colon or not path:
        raise ConfigError(f"--qmp {text!r}: write it like unix:/run/vm/web.qmp,server=on,wait=off")
    if not _switch("qmp", text, "server", keys.get("server", "off")):
        raise ConfigError(f"--qmp {text!r}: the monitor only listens: add server=on")
    if _switch("qmp", text, "wait", keys.get("wait", "on")):
        raise ConfigError(f"--qmp {text!r}: the machine does not wait for a client: add wait=off")
    if len(os.fsencode(path)) > UNIX_PATH_BYTES_MAX:
        raise ConfigError(f"--qmp {text!r}: a socket's path has at most {UNIX_PATH_BYTES_MAX} bytes")
    return Path(path)


def parse_guest(text: str) -> GuestOptions:
    """``embedded,workload=NAME,seed=N,program=PATH,...``: other keys belong to the workload."""
    keys = split_options("guest", text, implied="kind")
    kind = keys.pop("kind", "")
    if kind != "embedded":
        raise ConfigError(f"--guest {text!r}: {kind!r} is no kind of guest; there is embedded")
    seed = _integer("guest", text, "seed", keys.pop("seed", "0"), (1 << 63) - 1)
    program = keys.pop("program", None)
    name = keys.pop("workload", "idle")
    workload = ",".join([name, *(f"{key}={value}" for key, value in keys.items())])
    return GuestOptions(workload, seed, Path(program) if program is not None else None)


def parse_serial(text: str) -> Path | None:
    """``file:PATH`` or ``none``: where the guest's console goes."""
    if text == "none":
        return None
    kind, colon, path = text.partition(":")
    if kind != "file" or not colon or not path:
        raise ConfigError(f"--serial {text!r}: write file:PATH or none")
    return Path(path)


def parse_trace(texts: tuple[str, ...]) -> frozenset[str]:
    """All ``--trace`` options, each ``[enable=]PATTERN``: the events that are on in the end."""
    patterns = [text.removeprefix("enable=") for text in texts]
    for pattern in patterns:
        if not matching([pattern.removeprefix("-")]):
            raise ConfigError(
                f"--trace {pattern!r}: no event has that name; write it like 'hv_balloon*' or 'vmbus*'"
            )
    return matching(patterns)


def _only(option: str, text: str, keys: dict[str, str], known: tuple[str, ...]) -> None:
    for key in keys:
        if key not in known:
            raise ConfigError(f"--{option} {text!r}: {key!r} is not known; there are {', '.join(known)}")


def _size(option: str, text: str, value: str) -> int:
    try:
        return parse_size(value, default_unit="M")
    except ValueError as error:
        raise ConfigError(f"--{option} {text!r}: {error}") from None


def _integer(option: str, text: str, key: str, value: str, most: int) -> int:
    if not value.isascii() or not value.isdigit() or len(value) > 20 or int(value) > most:
        raise ConfigError(f"--{option} {text!r}: {key} is a whole number from 0 to {most}, not {value!r}")
    return int(value)


def _switch(option: str, text: str, key: str, value: str) -> bool:
    if value not in _SWITCH:
        raise ConfigError(f"--{option} {text!r}: {key} is on or off, not {value!r}")
    return _SWITCH[value]
