"""No limit: every guest keeps its maximum. The host must have twice the budget."""

from bench.trial.contenders.contender import Silent


class Unlimited(Silent):
    """Orders nothing."""

    name = "none"
