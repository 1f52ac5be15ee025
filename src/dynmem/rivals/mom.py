"""The rules of oVirt's Memory Overcommitment Manager (MOM), written from its published description.

From the annotated policy in oVirt's developer pages ("mom-balloon.policy") and the sample configuration:

- figures are read every 5 s and averaged over the last 10; every 10 s the rules are applied;
- the host is under pressure when less than 20 % of its memory is free. Then each guest is shrunk by at most
  5 %, and not below what it uses and a share of free memory: 20 % of its size, scaled down as the host's free
  memory falls, and negative when the host has 5 % or less;
- otherwise each guest with a balloon grows: by 5 %, or at once to what it uses and 20 % of its maximum if
  that is more;
- changes of less than 0.25 % are not made.
"""

from collections import deque
from collections.abc import Mapping
from typing import Final

from dynmem.rivals.host import Host, Sharer

PERIOD_S: Final = 10.0
SAMPLE_PERIOD_S: Final = 5.0
PRESSURE: Final = 0.20
CRITICAL: Final = 0.05
FREE_SHARE: Final = 0.20
CHANGE_MAX: Final = 0.05
CHANGE_MIN: Final = 0.0025
HISTORY: Final = 10


def shrunk(size: float, used: float, host_free: float) -> float:
    """Return what a guest of *size* that uses *used* is shrunk to; *host_free* is a share."""
    spared = host_free - CRITICAL if host_free <= CRITICAL else FREE_SHARE * host_free / PRESSURE
    return max(size * (1 - CHANGE_MAX), used + spared * size)


def grown(size: float, used: float, maximum: float) -> float:
    """Return what a guest of *size* that uses *used* grows to."""
    return max(min(size * (1 + CHANGE_MAX), maximum), used + FREE_SHARE * maximum)


class Averages:
    """What the rules remember: the last figures of the host and of each guest."""

    def __init__(self) -> None:
        self._host: deque[float] = deque(maxlen=HISTORY)
        self._used: dict[str, deque[int]] = {}

    def sample(self, host: Host, guests: Mapping[str, Sharer]) -> None:
        """Read the figures; a guest that is gone begins again when it comes back."""
        self._host.append(host.free_bytes / host.total_bytes)
        for name, each in guests.items():
            self._used.setdefault(name, deque(maxlen=HISTORY)).append(each.size - each.free)
        for name in set(self._used) - set(guests):
            del self._used[name]

    def orders(self, guests: Mapping[str, Sharer]) -> dict[str, int]:
        """Return the sizes that change in the round of this moment."""
        if not self._host:
            return {}
        host_free, found = sum(self._host) / len(self._host), {}
        for name, each in guests.items():
            if not (history := self._used.get(name)):
                continue
            used = sum(history) / len(history)
            if host_free < PRESSURE:
                target = min(float(each.size), shrunk(each.size, used, host_free))
            elif each.size < each.maximum:
                target = grown(each.size, used, each.maximum)
            else:
                continue
            bounded = int(min(each.maximum, max(each.minimum, target)))
            if abs(bounded - each.size) > CHANGE_MIN * each.size:
                found[name] = bounded
        return found
