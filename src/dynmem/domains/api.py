"""One connection to libvirt, by libvirt's own module of Python, which is imported only here and only then.

Every call can block for as long as libvirt or a QEMU likes: `link` makes them in threads. Nothing here goes
to a monitor: neither `qemu-monitor-command`, which marks a domain as tainted, nor the socket that libvirt
keeps for itself. Three calls change something, and only for as long as the domain runs: the balloon's target
and the interval of its statistics.
"""

import importlib
import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Final, NamedTuple, Protocol, TypeVar, cast

from dynmem.domains.errors import LibvirtError, LibvirtLostError, LibvirtMissingError, LibvirtRefusedError
from dynmem.errors import printable
from dynmem.limits import MANAGER_VMS_MAX

T = TypeVar("T")

MISSING: Final = (
    "libvirt's module for Python is not installed: run `pip install dynmem[libvirt]`, which compiles it and"
    " needs gcc, pkg-config and libvirt-dev; or install Debian's python3-libvirt and make the virtual"
    " environment of dynmem with `python3 -m venv --system-site-packages`"
)

# include/libvirt/libvirt-domain.h and virterror.h: numbers that never change.
_AFFECT_LIVE: Final = 1
_EVENT_REBOOT: Final = 1
# virDomainJobType: one whose end is known, or not. The others are none, and jobs that are over.
_JOB_NONE: Final = 0
_JOBS: Final = (1, 2)
_REFUSALS: Final = frozenset(
    # not supported, invalid argument, denied, no domain, not now (it does not run), configuration, timeout of
    # a lock, argument, aborted, operation unsupported, access denied
    {3, 8, 29, 42, 55, 67, 68, 74, 78, 84, 88}
)
_DENIED: Final = frozenset({29, 45, 79, 88, 94})
_KEEPALIVE_S: Final = 5
_KEEPALIVES: Final = 3
_SHOWN: Final = 300


class Listed(NamedTuple):
    """A domain as libvirt lists it.

    Attributes:
        uuid: Its UUID, in small letters.
        name: Its name.
        number: Libvirt's number of this life of it; -1: it does not run.
    """

    uuid: str
    name: str
    number: int


class Look(NamedTuple):
    """A domain as libvirt has it now.

    Attributes:
        state: virDomainState.
        reason: Why it is in that state; what it means depends on the state.
        job: What libvirt does with it (virDomainJobOperation), whatever that is 0; None: nothing.
        size_kib: What its guest has: its memory less its balloon, as the balloon was last known to be.
        statistics: What the balloon reports (virDomainMemoryStats); None: it was not asked.
    """

    state: int
    reason: int
    job: int | None
    size_kib: int
    statistics: Mapping[str, object] | None


class Libvirt(Protocol):
    """What dynmem asks of one connection. Every call may block, and raises LibvirtError only."""

    def domains(self) -> list[Listed]:
        """Return every domain, whether or not it runs."""

    def definition(self, uuid: str) -> str:
        """Return the XML of a domain as it is now."""

    def look(self, uuid: str) -> Look:
        """Look at a domain. While a job of libvirt's is under way, its balloon is not asked."""

    def set_balloon(self, uuid: str, size_kib: int) -> None:
        """Set the balloon's target. Success means that QEMU has it, and nothing more."""

    def set_statistics_period(self, uuid: str, seconds: int) -> None:
        """Have the guest asked for its statistics every *seconds* seconds; 0: never."""

    def close(self) -> None:
        """End the connection."""


Open = Callable[[str, bool, Callable[[str], None]], Libvirt]


class _Domain(Protocol):
    """The calls of virDomain that are used."""

    # The names are libvirt's.
    def name(self) -> str: ...
    def UUIDString(self) -> str: ...  # noqa: N802
    def ID(self) -> int: ...  # noqa: N802
    def XMLDesc(self, flags: int) -> str: ...  # noqa: N802
    def info(self) -> list[int]: ...
    def state(self) -> list[int]: ...
    def jobStats(self) -> dict[str, object]: ...  # noqa: N802
    def memoryStats(self) -> dict[str, object]: ...  # noqa: N802
    def setMemoryFlags(self, memory: int, flags: int) -> int: ...  # noqa: N802
    def setMemoryStatsPeriod(self, period: int, flags: int) -> int: ...  # noqa: N802


class _Connection(Protocol):
    """The calls of virConnect that are used."""

    def listAllDomains(self, flags: int) -> list[_Domain]: ...  # noqa: N802
    def setKeepAlive(self, interval: int, count: int) -> int: ...  # noqa: N802
    def domainEventRegisterAny(  # noqa: N802
        self, domain: None, event: int, call: Callable[[object, _Domain, object], None], opaque: object
    ) -> int: ...
    def isAlive(self) -> int: ...  # noqa: N802
    def close(self) -> int: ...


class _Module(Protocol):
    """The names of the module that are used."""

    libvirtError: type[Exception]  # noqa: N815

    def open(self, uri: str) -> _Connection: ...
    def openReadOnly(self, uri: str) -> _Connection: ...  # noqa: N802
    def registerErrorHandler(self, call: Callable[[object, object], None], context: object) -> int: ...  # noqa: N802
    def virEventRegisterDefaultImpl(self) -> int: ...  # noqa: N802
    def virEventRunDefaultImpl(self) -> int: ...  # noqa: N802


def missing() -> str:
    """Return why libvirt cannot be asked from this Python at all, and what to do; "" if it can."""
    try:
        importlib.import_module("libvirt")
    except ImportError as error:
        return f"{MISSING} ({error})"
    return ""


def module() -> _Module:
    """Return libvirt's module, made ready once. LibvirtMissingError names the two ways to get it."""
    try:
        found = cast(_Module, importlib.import_module("libvirt"))
        _make_ready(found)
    except (ImportError, AttributeError) as error:
        raise LibvirtMissingError(f"{MISSING} ({error})") from error
    return found


_ready: Final = threading.Lock()
_is_ready = False


def _make_ready(found: _Module) -> None:
    """Keep libvirt from printing its errors and from starting daemons, and run its events in a thread."""
    global _is_ready  # noqa: PLW0603 - once in a process, as libvirt's own state
    with _ready:
        if _is_ready:
            return
        os.environ["LIBVIRT_AUTOSTART"] = "0"  # a look must not start a user's libvirtd
        found.registerErrorHandler(lambda _, __: None, None)
        found.virEventRegisterDefaultImpl()
        threading.Thread(target=_run_events, args=(found,), daemon=True, name="libvirt events").start()
        _is_ready = True


def _run_events(found: _Module) -> None:
    while True:
        try:
            found.virEventRunDefaultImpl()
        except found.libvirtError:
            time.sleep(1)


def open_libvirt(uri: str, read_only: bool, rebooted: Callable[[str], None]) -> Libvirt:
    """Connect. *rebooted* is called, in another thread, with the UUID of a domain whose guest was reset.

    Raises LibvirtError and LibvirtMissingError.
    """
    found = module()
    opener = found.openReadOnly if read_only else found.open
    return RealLibvirt(found, _asked(found, partial(opener, uri)), rebooted)


class RealLibvirt:
    """A connection, by libvirt's module."""

    def __init__(self, found: _Module, connection: _Connection, rebooted: Callable[[str], None]) -> None:
        self._module = found
        self._connection = connection
        self._domains: dict[str, _Domain] = {}
        with suppress(found.libvirtError):  # a driver without a daemon has none
            connection.setKeepAlive(_KEEPALIVE_S, _KEEPALIVES)
        with suppress(found.libvirtError):
            connection.domainEventRegisterAny(
                None, _EVENT_REBOOT, lambda _, domain, __: rebooted(domain.UUIDString().lower()), None
            )

    def domains(self) -> list[Listed]:
        found = self._ask(partial(self._connection.listAllDomains, 0))[: 2 * MANAGER_VMS_MAX]
        self._domains = {each.UUIDString().lower(): each for each in found}
        return [Listed(uuid, each.name(), each.ID()) for uuid, each in self._domains.items()]

    def definition(self, uuid: str) -> str:
        return self._ask(partial(self._domain(uuid).XMLDesc, 0))

    def look(self, uuid: str) -> Look:
        domain = self._domain(uuid)
        state, reason = self._ask(domain.state)[:2]
        try:
            job = _job(self._ask(domain.jobStats))
        except LibvirtRefusedError:
            job = None  # a driver without jobs, or a domain that has just ended
        statistics = self._ask(domain.memoryStats) if job is None else None
        size_kib = (statistics or {}).get("actual")
        if not isinstance(size_kib, int):  # no balloon, or it was not asked
            size_kib = self._ask(domain.info)[2]
        return Look(state, reason, job, size_kib, statistics)

    def set_balloon(self, uuid: str, size_kib: int) -> None:
        self._ask(partial(self._domain(uuid).setMemoryFlags, size_kib, _AFFECT_LIVE))

    def set_statistics_period(self, uuid: str, seconds: int) -> None:
        self._ask(partial(self._domain(uuid).setMemoryStatsPeriod, seconds, _AFFECT_LIVE))

    def close(self) -> None:
        self._domains.clear()
        with suppress(self._module.libvirtError):
            self._connection.close()

    def _domain(self, uuid: str) -> _Domain:
        found = self._domains.get(uuid)
        if found is None:
            self.domains()  # a new connection has listed none yet
            found = self._domains.get(uuid)
        if found is None:
            raise LibvirtRefusedError("libvirt has no such domain any more")
        return found

    def _ask(self, call: Callable[[], T]) -> T:
        try:
            return _asked(self._module, call)
        except LibvirtRefusedError:
            raise
        except LibvirtError as error:
            if not self._connection.isAlive():  # known here, without asking
                raise LibvirtLostError(str(error)) from None
            raise


def _asked(found: _Module, call: Callable[[], T]) -> T:
    """Return what a call returns; what libvirt raises becomes our error, in one line of bounded length."""
    try:
        return call()
    except found.libvirtError as error:
        said = printable(" ".join(str(error).split()))[:_SHOWN]
        code = getattr(error, "get_error_code", lambda: None)()
        if code in _DENIED:
            said += ": run dynmem as root, or as a user that may use this libvirt"
        raise (LibvirtRefusedError if code in _REFUSALS else LibvirtError)(said) from None
    except (TypeError, ValueError, OverflowError) as error:  # of the module: a number beyond C, or no text
        raise LibvirtRefusedError(f"libvirt's module cannot pass this on ({error})") from None


def _job(statistics: Mapping[str, object]) -> int | None:
    """Return what libvirt does with a domain; None: nothing, or nothing any more."""
    if statistics.get("type", _JOB_NONE) not in _JOBS:
        return None
    operation = statistics.get("operation", 0)
    return operation if isinstance(operation, int) else 0
