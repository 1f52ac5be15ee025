"""Fixed sizes: every guest has an equal share of the budget from its start on."""

from collections.abc import Sequence

from bench.trial.contenders.contender import Order, Silent
from dynmem.units import MIB


class Static(Silent):
    """Orders each guest's share once, when it starts."""

    name = "static"

    def booting(self, name: str) -> Sequence[Order]:
        return [Order(name, self.terms.budget_bytes // len(self.terms.names) // MIB * MIB)]
