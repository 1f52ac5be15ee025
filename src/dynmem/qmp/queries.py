"""What may be asked of a monitor that another program may own: commands that change nothing in its VM.

And what of QEMU's replies is to be known for it: where devices are listed, and how hv-balloon refuses.
"""

from collections.abc import Mapping
from typing import Final

from dynmem.errors import LocalProtocolError
from dynmem.limits import QMP_VALUES_MAX
from dynmem.qmp.client import QmpClient

QUERIES: Final = frozenset(
    {
        "query-balloon",
        "query-hv-balloon-status-report",
        "query-jobs",
        "query-memory-devices",
        "query-memory-size-summary",
        "query-migrate",
        "query-status",
        "query-uuid",
        "qom-get",
        "qom-list",
    }
)
#: The folders of a machine's devices: those that were given an id, and the others.
DEVICE_FOLDERS: Final = ("/machine/peripheral", "/machine/peripheral-anon")
#: How `query-hv-balloon-status-report` is refused where there is such a device (QEMU hw/hyperv/hv-balloon.c):
#: it passes on no report, or there was none yet. Every other refusal means that there is no device.
HV_BALLOON_WITHOUT_REPORT: Final = ("guest memory status reporting", "no guest memory status")
# Queries whose replies grow with the machine. All others return a few figures.
_LISTS: Final = frozenset({"query-jobs", "query-memory-devices", "qom-list"})
_FIGURES_MAX: Final = 1024


def values_of(command: str) -> int:
    """Return how many values the result of a query may have. LocalProtocolError if it may not be sent."""
    if command not in QUERIES:
        raise LocalProtocolError(f"{command} is not one of the queries that may be sent")
    return QMP_VALUES_MAX if command in _LISTS else _FIGURES_MAX


async def query(
    client: QmpClient, command: str, arguments: Mapping[str, object] | None = None, *, timeout_s: float
) -> object:
    """Send a command that changes nothing and return its reply.

    Raises LocalProtocolError for any other command, before a byte is sent, and what QmpClient.execute raises.
    """
    return await client.execute(command, arguments, timeout_s=timeout_s, values_max=values_of(command))
