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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from bench.trial.contenders.contender import Figures, Host, Order, Rounds, Terms

PRESSURE: Final = 0.20
CRITICAL: Final = 0.05
FREE_SHARE: Final = 0.20
CHANGE_MAX: Final = 0.05
CHANGE_MIN: Final = 0.0025
HISTORY: Final = 10
SAMPLE_PERIOD_S: Final = 5.0


def shrunk(size: float, used: float, host_free: float) -> float:
    """Return what a guest of *size* that uses *used* is shrunk to; *host_free* is a share."""
    spared = host_free - CRITICAL if host_free <= CRITICAL else FREE_SHARE * host_free / PRESSURE
    return max(size * (1 - CHANGE_MAX), used + spared * size)


def grown(size: float, used: float, maximum: float) -> float:
    """Return what a guest of *size* that uses *used* grows to."""
    return max(min(size * (1 + CHANGE_MAX), maximum), used + FREE_SHARE * maximum)


class Mom(Rounds):
    """Shrinks everybody a little while the host is short, and grows everybody otherwise."""

    name = "mom"
    period_s = 10.0

    def __init__(self, terms: Terms, folder: Path) -> None:
        super().__init__(terms, folder)
        self._host: deque[float] = deque(maxlen=HISTORY)
        self._used: dict[str, deque[int]] = {}
        self._sampled_s = -SAMPLE_PERIOD_S

    def tick(self, now_s: float, host: Host, guests: Mapping[str, Figures]) -> Sequence[Order]:
        if now_s - self._sampled_s >= SAMPLE_PERIOD_S:
            self._sampled_s = now_s
            self._sample(host, guests)
        return super().tick(now_s, host, guests)

    def rest(self, host: Host, guests: Mapping[str, Figures]) -> Sequence[Order] | None:
        self._sample(host, guests)
        return self.round(host, guests)

    def round(self, host: Host, guests: Mapping[str, Figures]) -> Sequence[Order]:
        if not self._host:
            return ()
        host_free = sum(self._host) / len(self._host)
        orders = []
        for name, each in guests.items():
            if not (history := self._used.get(name)):
                continue
            size, used = each.actual_bytes, sum(history) / len(history)
            if host_free < PRESSURE:
                target = min(float(size), shrunk(size, used, host_free))
            elif size < self.terms.maximum_bytes:
                target = grown(size, used, self.terms.maximum_bytes)
            else:
                continue
            bounded = int(min(self.terms.maximum_bytes, max(self.terms.minimum_bytes, target)))
            if abs(bounded - size) > CHANGE_MIN * size:
                orders.append(Order(name, bounded))
        return orders

    def _sample(self, host: Host, guests: Mapping[str, Figures]) -> None:
        self._host.append(host.free_bytes / host.total_bytes)
        for name, each in guests.items():
            history = self._used.setdefault(name, deque(maxlen=HISTORY))
            history.append(each.actual_bytes - each.free_bytes)
        for name in set(self._used) - set(guests):  # it was restarted: its next life has a history of its own
            del self._used[name]
