"""What a test with stock kernels has measured: printed below its row, whether it passes or not."""

from typing import Final

import pytest
from bench.figures import Figure

PROPERTY: Final = "figure"


class Figures:
    """The figures of one test."""

    def __init__(self, node: pytest.Item) -> None:
        self._properties = node.user_properties
        self.missed: list[str] = []

    def add(self, name: str, value: float, unit: str, *, at_least: float | None = None) -> None:
        """Record a figure; `missed` has the line of one that misses its bound."""
        figure = Figure(name, value, unit, at_least=at_least)
        self._properties.append((PROPERTY, figure.line().strip()))
        if not figure.holds:
            self.missed.append(figure.line())
