"""Fixed sizes: what an operator does without a balloon manager."""

from collections.abc import Mapping

from dynmem.units import MIB


def shares(budget_bytes: int, maximums: Mapping[str, int]) -> dict[str, int]:
    """Return a share of the budget for each guest, by its maximum and no more than that; whole MiB."""
    everything = sum(maximums.values())
    return {
        name: min(maximum, budget_bytes * maximum // everything // MIB * MIB if everything else maximum)
        for name, maximum in maximums.items()
    }
