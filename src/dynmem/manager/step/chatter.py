"""How much is printed about one VM: one that resets or falls silent again and again must not fill the log."""

from collections import deque
from typing import Final

from dynmem.units import NS_PER_S

# A VM that an operator works on comes, goes and changes less often than this.
LINES_MAX: Final = 30
WINDOW_NS: Final = 60 * NS_PER_S


class Chatter:
    """The lines about all VMs but for what is done to them, which is always printed."""

    def __init__(self) -> None:
        self._printed: dict[str, deque[int]] = {}
        self._left_out: dict[str, int] = {}

    def line(self, name: str, text: str, now_ns: int) -> list[str]:
        """Return the line to print about a VM; none if there were too many within the last minute."""
        printed = self._printed.setdefault(name, deque(maxlen=LINES_MAX))
        if len(printed) == LINES_MAX and now_ns - printed[0] < WINDOW_NS:
            self._left_out[name] = self._left_out.get(name, 0) + 1
            return []
        printed.append(now_ns)
        left_out = self._left_out.pop(name, 0)
        more = f" ({left_out} more lines about it were left out)" if left_out else ""
        return [f"{name}: {text}{more}"]
