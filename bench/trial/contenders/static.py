"""Fixed sizes: every guest has an equal share of the budget from its start on."""

from collections.abc import Sequence

from bench.trial.contenders.contender import Order, Silent
from dynmem.rivals.fixed import shares


class Static(Silent):
    """Orders each guest's share once, when it starts."""

    name = "static"

    def booting(self, name: str) -> Sequence[Order]:
        terms = self.terms
        sizes = shares(terms.budget_bytes, dict.fromkeys(terms.names, terms.maximum_bytes))
        return [Order(name, sizes[name])]
