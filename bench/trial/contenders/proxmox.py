"""Proxmox VE's automatic allocation of memory: the rules are `dynmem.rivals.proxmox`."""

from collections.abc import Mapping, Sequence

from bench.trial.contenders.contender import Figures, Host, Order, Rounds
from dynmem.rivals import proxmox


class Proxmox(Rounds):
    """Aims at the host's target by equal shares above the minimums."""

    name = "proxmox"
    period_s = proxmox.PERIOD_S

    def booting(self, name: str) -> Sequence[Order]:
        return [Order(name, self.terms.minimum_bytes)]

    def round(self, host: Host, guests: Mapping[str, Figures]) -> Sequence[Order]:
        return [Order(name, size) for name, size in proxmox.orders(host, self.sharers(guests)).items()]
