"""What every chart of the demonstration has: a scale with round figures, a grid, lines, areas, a legend."""

import html
from collections.abc import Iterable, Sequence
from typing import Final

from dynmem.units import MIB, NS_PER_S, format_size

WIDTH: Final = 860
HEIGHT: Final = 190
LEFT: Final = 64
RIGHT: Final = 12
TOP: Final = 18
BOTTOM: Final = 26
COLOURS: Final = ("#3d7ea6", "#c56b3f", "#5f9150", "#8a5fa8", "#b59a2e")
UNMET: Final = "#c0392b"
_LINES_MAX: Final = 5  # of the grid
_ROUND_SECONDS: Final = (1, 2, 5, 10, 15, 20, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400)
_LEGEND_STEP: Final = 7  # the width of a letter

#: The colours of everything, for light and dark paper.
STYLE: Final = """
:root { color-scheme: light dark; --ink: #222; --soft: #777; --grid: #ddd; --paper: #fff; }
@media (prefers-color-scheme: dark) { :root { --ink: #ddd; --soft: #999; --grid: #333; --paper: #16181b; } }
svg { font-family: system-ui, sans-serif; }
svg text { fill: var(--soft); font-size: 11px; } svg .title { fill: var(--ink); font-size: 13px; }
.grid { stroke: var(--grid); } .budget { stroke: var(--ink); stroke-dasharray: 6 3; }
.assigned { fill: none; stroke-width: 1.6; }
.wanted { fill: none; stroke: var(--ink); stroke-dasharray: 3 3; }
"""

Points = Sequence[tuple[float, float]]


class Scale:
    """Maps time and bytes to the pixels of one chart; the top is a round figure."""

    def __init__(self, seconds: float, most_bytes: int, top: float = TOP) -> None:
        self.seconds: float = max(seconds, 1e-9)
        self.step_bytes: int = MIB
        while self.step_bytes * _LINES_MAX < most_bytes:
            self.step_bytes *= 2
        self.top_bytes: int = max(1, -(-most_bytes // self.step_bytes)) * self.step_bytes
        self._top = top

    def x(self, at_ns: float) -> float:
        """Return where a moment is."""
        return LEFT + (WIDTH - LEFT - RIGHT) * min(at_ns / NS_PER_S / self.seconds, 1.0)

    def y(self, size: float) -> float:
        """Return where a size is."""
        return self._top + (HEIGHT - TOP - BOTTOM) * (1 - min(size / self.top_bytes, 1.0))

    def axes(self) -> list[str]:
        """Return the grid and its figures."""
        parts = []
        for size in range(0, self.top_bytes + 1, self.step_bytes):
            y = self.y(size)
            parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(text(LEFT - 6, y + 4, format_size(size) if size else "0", "end"))
        step = next((each for each in _ROUND_SECONDS if self.seconds / each <= 6), _ROUND_SECONDS[-1])
        moments = range(0, int(self.seconds) + 1, step)
        return parts + [text(self.x(at * NS_PER_S), self.y(0) + 16, f"{at} s", "middle") for at in moments]


def text(x: float, y: float, words: str, anchor: str = "start", kind: str = "") -> str:
    """Return words at a place."""
    kind = f' class="{kind}"' if kind else ""
    return f'<text{kind} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(words)}</text>'


def line(points: Points, kind: str, colour: str = "") -> str:
    """Return a line; *kind* is its class in the style."""
    stroke = f' stroke="{colour}"' if colour else ""
    return f'<polyline class="{kind}"{stroke} points="{_listed(points)}"/>'


def area(upper: Points, lower: Points, colour: str, opacity: float) -> str:
    """Return the area between two lines."""
    corners = _listed([*upper, *reversed(lower)])
    return f'<polygon points="{corners}" fill="{colour}" fill-opacity="{opacity}"/>'


def legend(entries: Iterable[tuple[str, str]], y: float) -> list[str]:
    """Return a line of samples with their words: a sample is a colour, or the class of a line."""
    parts, x = [], float(LEFT)
    for sample, words in entries:
        if sample.startswith("#"):
            parts.append(f'<rect x="{x}" y="{y - 9:.1f}" width="14" height="10" fill="{sample}"/>')
        else:
            parts.append(f'<line class="{sample}" x1="{x}" x2="{x + 14}" y1="{y - 4:.1f}" y2="{y - 4:.1f}"/>')
        parts.append(text(x + 19, y, words))
        x += 36 + _LEGEND_STEP * len(words)
    return parts


def svg(parts: Iterable[str], title: str, height: float = HEIGHT, style: str = "") -> str:
    """Return a whole picture; with a *style* it can stand alone."""
    label = html.escape(title, quote=True)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}"'
        if style
        else (f'<svg viewBox="0 0 {WIDTH} {height:g}"')
    )
    return f'{head} role="img" aria-label="{label}">{style}{"".join(parts)}</svg>'


def _listed(points: Points) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
