"""What may be asked of a monitor that another program may own: commands that change nothing in its VM."""

from typing import Final

from dynmem.limits import QMP_VALUES_MAX

QUERIES: Final = frozenset(
    {
        "query-balloon",
        "query-hv-balloon-status-report",
        "query-memory-devices",
        "query-memory-size-summary",
        "query-migrate",
        "query-status",
        "query-uuid",
        "qom-get",
        "qom-list",
    }
)
# Queries whose replies grow with the machine. All others return a few figures.
_LISTS: Final = frozenset({"query-memory-devices", "qom-list"})
_FIGURES_MAX: Final = 1024


def values_max(command: str) -> int:
    """Return how many values the reply to a query may hold."""
    return QMP_VALUES_MAX if command in _LISTS else _FIGURES_MAX
