"""How the parts of a machine tell the monitor's clients what happened."""

from collections.abc import Mapping
from typing import Protocol


class Emit(Protocol):
    """Takes an event for the monitor's clients."""

    def __call__(self, event: str, data: Mapping[str, object] | None = None) -> None:
        """Send it."""
