"""oVirt's Memory Overcommitment Manager: the rules are `dynmem.rivals.mom`."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.trial.contenders.contender import Figures, Host, Order, Rounds, Terms
from dynmem.rivals import mom


class Mom(Rounds):
    """Shrinks everybody a little while the host is short, and grows everybody otherwise."""

    name = "mom"
    period_s = mom.PERIOD_S

    def __init__(self, terms: Terms, folder: Path) -> None:
        super().__init__(terms, folder)
        self._averages = mom.Averages()
        self._sampled_s = -mom.SAMPLE_PERIOD_S

    def tick(self, now_s: float, host: Host, guests: Mapping[str, Figures]) -> Sequence[Order]:
        if now_s - self._sampled_s >= mom.SAMPLE_PERIOD_S:
            self._sampled_s = now_s
            self._averages.sample(host, self.sharers(guests))
        return super().tick(now_s, host, guests)

    def rest(self, host: Host, guests: Mapping[str, Figures]) -> Sequence[Order] | None:
        self._averages.sample(host, self.sharers(guests))
        return self.round(host, guests)

    def round(self, host: Host, guests: Mapping[str, Figures]) -> Sequence[Order]:
        del host
        return [Order(name, size) for name, size in self._averages.orders(self.sharers(guests)).items()]
