"""The scenes that are short enough for every change, and what becomes of a figure that is wrong."""

import asyncio
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from tests.accept.figures import Figures, in_bytes
from tests.accept.gmm import dead_manager, dead_vm, left_behind
from tests.accept.scenes import main
from tests.rigs.scenes import play

from dynmem.units import MIB

PERIOD_S = 0.1


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose path is short enough for a unix socket."""
    with tempfile.TemporaryDirectory(prefix="dynmem-a") as path:
        yield Path(path)


@pytest.fixture
def figures() -> Iterator[Figures]:
    """The figures of a scene, all of which have to hold."""
    made = Figures(print)
    yield made
    assert made.rules
    assert made.wrong == []


def test_the_memory_of_a_killed_vm_comes_back_in_the_books_and_on_the_host(
    folder: Path, figures: Figures
) -> None:
    play(dead_vm.play(folder, figures, moments={"first": 0.5}, period_s=PERIOD_S))


@pytest.mark.soak
def test_a_killed_manager_comes_back_with_equal_books_and_looks_before_it_writes(
    folder: Path, figures: Figures
) -> None:
    play(dead_manager.play(folder, figures))


def test_shared_pages_that_killed_processes_leave_behind_are_reclaimed_to_the_last_block(
    folder: Path, figures: Figures
) -> None:
    play(left_behind.play(folder, figures))


def test_a_figure_that_breaks_its_rule_is_wrong_and_shown_with_both_numbers() -> None:
    lines: list[str] = []
    figures = Figures(lines.append)
    figures.equal("books", 4096, 4096, "the file", in_bytes)
    figures.equal("books", MIB + 1, MIB, "the file", in_bytes)
    figures.at_least("left", 1, 2, "two")
    figures.at_most("used", 1.5, 1.25, "less")
    figures.true("order", "a, b", "b first", holds=False)
    figures.note("beside", 7)
    assert figures.rules == 5
    assert figures.wrong == [
        "books: 1 MiB (exactly 1048577), and it must be = 1 MiB, the file",
        "left: 1, and it must be >= 2, two",
        "used: 1.50, and it must be <= 1.25, less",
        "order: a, b, and it must be b first",
    ]
    assert [" ok " in line for line in lines] == [True, *[False] * 5]
    assert sum("WRONG" in line for line in lines) == 4


@pytest.mark.parametrize(("seen", "code"), [(1, 0), (2, 1), (None, 1)])
def test_the_program_fails_when_a_figure_is_wrong_or_none_was_held(
    seen: int | None, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def scene(_: Path, figures: Figures) -> None:
        await asyncio.sleep(0)
        if seen is not None:
            figures.equal("one", seen, 1, "as ever")

    module = ModuleType("tests.accept.gmm.made_up")
    module.__dict__["play"] = scene
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(sys, "argv", ["accept-gmm"])
    assert main("tests.accept.gmm", {"made_up": "one is one"}, None) == code
    assert capsys.readouterr().err.startswith("WRONG in made_up: ") is bool(code)
