"""One visit to a monitor that another program may own: connect, ask, leave within a tenth of a second.

QEMU serves one client for each monitor, and its owner may want to connect at any time: Proxmox connects for
each batch of commands and waits for 5 s. Only commands that change nothing are sent (`qmp.queries`).
"""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from dynmem.errors import DynmemError, NotPermittedError
from dynmem.limits import QMP_PATH_MAX
from dynmem.qmp.client import QmpClient
from dynmem.qmp.errors import BusyError, QmpCommandError
from dynmem.qmp.queries import DEVICE_FOLDERS, query

VISIT_S: Final = 0.1
VIRTIO_BALLOON, HV_BALLOON = "virtio-balloon", "hv-balloon"
STATISTICS: Final = "guest-stats"
INTERVAL: Final = "guest-stats-polling-interval"
REPORTING: Final = "free-page-reporting"
DEFLATES: Final = "deflate-on-oom"
# What is read of each device. A VM has one of them; of hv-balloon only ours has it.
_PROPERTIES: Final = {VIRTIO_BALLOON: (STATISTICS, INTERVAL, REPORTING, DEFLATES), HV_BALLOON: (REPORTING,)}
_FIRST: Final = (
    *("query-status", "query-balloon", "query-memory-size-summary", "query-memory-devices"),
    *("query-hv-balloon-status-report", "query-migrate", "query-uuid"),
)


class Answers(NamedTuple):
    """What a monitor said in one visit. Whatever a reply holds is not checked yet.

    Attributes:
        replies: What was returned, by the command, the folder of `qom-list`, or the property of the balloon.
        refusals: The texts of errors, likewise.
        pid: The process that listens; 0: not known.
        problem: Why the visit ended early; "" if it did not.
        is_forbidden: Whether this user may not connect.
        is_stopped: Whether it was not asked, since a signal has stopped its process.
    """

    replies: Mapping[str, object] = {}
    refusals: Mapping[str, str] = {}
    pid: int = 0
    problem: str = ""
    is_forbidden: bool = False
    is_stopped: bool = False


class _Visit:
    """A visit that is being made."""

    def __init__(self) -> None:
        self.replies: dict[str, object] = {}
        self.refusals: dict[str, str] = {}
        self.pid = 0
        self.is_greeted = False

    async def make(self, path: Path, pid: int) -> str:
        """Connect, ask and leave; return what is wrong. Raises DynmemError, OSError and TimeoutError."""
        async with asyncio.timeout(VISIT_S):
            async with await QmpClient.connect(
                path, greeting_timeout_s=VISIT_S, events=frozenset()
            ) as client:
                self.is_greeted = True
                self.pid = client.peer.pid
                if pid and self.pid and self.pid != pid:
                    return f"another process (pid {self.pid}) listens at its monitor {path}"
                await self._ask_all(client)
        return ""

    async def _ask_all(self, client: QmpClient) -> None:
        for command in _FIRST:
            await self._ask(client, command, command)
        for folder in DEVICE_FOLDERS:
            await self._ask(client, folder, "qom-list", {"path": folder})
        for kind, names in _PROPERTIES.items():
            path = device_path(self.replies, kind)
            for name in names if path else ():
                await self._ask(client, name, "qom-get", {"path": path, "property": name})

    async def _ask(
        self, client: QmpClient, key: str, command: str, arguments: Mapping[str, object] | None = None
    ) -> None:
        try:
            self.replies[key] = await query(client, command, arguments, timeout_s=VISIT_S)
        except QmpCommandError as error:
            self.refusals[key] = error.desc


async def visit(path: Path, pid: int = 0) -> Answers:
    """Return what the monitor at *path* says; it raises nothing.

    *pid* is the process that is expected to listen there; 0: any.
    """
    made = _Visit()
    try:
        problem = await made.make(path, pid)
    except (TimeoutError, BusyError) as error:
        if made.is_greeted:
            problem = "its monitor took too long: it was left after 100 ms, with a part of what was asked"
        elif isinstance(error, BusyError) and "queue" in str(error):
            problem = f"another client holds its monitor {path}"
        else:
            problem = f"its monitor {path} did not greet within 100 ms: another client holds it, or it hangs"
    except NotPermittedError:
        problem = f"this user may not connect to its monitor {path}"
        return Answers(problem=problem, is_forbidden=True)
    except DynmemError as error:
        problem = str(error)
    except (OSError, ValueError) as error:
        problem = f"{path}: {error}"
    return Answers(made.replies, made.refusals, made.pid, problem)


def device_path(replies: Mapping[str, object], wanted: str) -> str:
    """Return the QOM path of the first device of a kind; "" if there is none."""
    for folder in DEVICE_FOLDERS:
        for name, kind in devices_in(replies.get(folder)):
            if kind.startswith(wanted):
                return f"{folder}/{name}"
    return ""


def devices_in(listed: object) -> list[tuple[str, str]]:
    """Return names and types of the devices in a reply to `qom-list`; what is no device is left out."""
    found: list[tuple[str, str]] = []
    for entry in listed if isinstance(listed, list) else ():
        name, kind = (entry.get("name"), entry.get("type")) if isinstance(entry, dict) else (None, None)
        if not isinstance(name, str) or not isinstance(kind, str) or not kind.startswith("child<"):
            continue
        if name.isprintable() and len(name) <= QMP_PATH_MAX:
            found.append((name, kind.removeprefix("child<").removesuffix(">")))
    return found
