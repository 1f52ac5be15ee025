"""Formats a run as a document: the machine, then a table for each benchmark."""

import datetime
import itertools
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from bench.figures import Figure
from dynmem.units import GIB

HEAD: Final = """# Performance, measured

Written by `python -m bench --markdown {names}`; nothing was typed by hand. Both sides of a comparison ran
in turns in the same run, and each figure is a median. The machine was not idle, so read ratios rather than
absolute figures: between runs, ratios changed by about a tenth, absolute figures by a third.
"""


@dataclass(frozen=True)
class Section:
    """The section of one benchmark: its question, its method and its figures."""

    name: str
    answers: str
    explanation: str
    figures: list[Figure]


def document(sections: list[Section]) -> Iterator[str]:
    """The whole document, line by line."""
    yield from HEAD.format(names=" ".join(section.name for section in sections)).splitlines()
    yield from ("", "| | |", "|---|---|")
    for what, value in machine():
        yield f"| {what} | {value} |"
    for section in sections:
        yield from ("", f"## {section.answers[0].upper()}{section.answers[1:]}", "")
        yield f"`python -m bench {section.name}`"
        yield ""
        yield section.explanation.partition("\n\n")[2].strip()
        for is_grid, group in itertools.groupby(section.figures, key=lambda figure: ": " in figure.name):
            figures = list(group)
            yield ""
            yield from _grid(figures) if is_grid else _list(figures)


def machine() -> Iterator[tuple[str, str]]:
    """What the figures were measured on, as rows of a table."""
    cpu = Path("/proc/cpuinfo").read_text().partition("model name")[2].partition("\n")[0].strip(" \t:")
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    yield "date", datetime.datetime.now(datetime.UTC).date().isoformat()
    yield "processor", f"{cpu}, {os.cpu_count()} cores seen"
    yield "memory", f"{memory:.0f} GiB"
    yield "kernel", f"{platform.system()} {platform.release()} {platform.machine()}"
    yield "versions", f"Python {platform.python_version()}, numpy {np.__version__}"
    yield "load (1, 5, 15 min) at the end of the run", load


def _value(figure: Figure) -> str:
    value = f"{figure.value:.3g}" if abs(figure.value) < 1000 else f"{figure.value:.0f}"
    bound = ""
    if figure.at_least is not None:
        bound = f" (≥ {figure.at_least:g})"
    if figure.at_most is not None:
        bound += f" (≤ {figure.at_most:g})"
    if figure.promised is not None:
        bound += f" (promised: {figure.promised:g})"
    return f"{value} {figure.unit}{bound}{'' if figure.holds else ' **missed**'}"


def _list(figures: list[Figure]) -> Iterator[str]:
    yield from ("| figure | value |", "|---|---|")
    for figure in figures:
        yield f"| {figure.name} | {_value(figure)} |"


def _grid(figures: list[Figure]) -> Iterator[str]:
    """Figures named ``row: column``: a table for each run of rows that have the same columns."""
    rows: dict[str, dict[str, str]] = {}
    for figure in figures:
        row, _, column = figure.name.partition(": ")
        rows.setdefault(row, {})[column] = _value(figure)
    for number, (columns, group) in enumerate(itertools.groupby(rows, key=lambda row: tuple(rows[row]))):
        if number:
            yield ""
        yield f"| | {' | '.join(columns)} |"
        yield "|---" * (len(columns) + 1) + "|"
        for row in group:
            yield f"| {row} | {' | '.join(rows[row].values())} |"
