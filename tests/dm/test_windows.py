"""The table of documented habits itself: each is sourced, shown by a test, and part of a release."""

import ast
import subprocess
import sys
from pathlib import Path

from dynmem.dm.habits import Habits
from dynmem.dm.windows import HABITS, WINDOWS, Release, Situation, windows

ROOT = Path(__file__).resolve().parents[2]
TESTS = Path(__file__).parent.glob("test_windows_*.py")


def shown() -> set[str]:
    """Return the habits that tests say they show."""
    names: set[str] = set()
    for path in TESTS:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "shows":
                names.update(str(each.value) for each in node.args if isinstance(each, ast.Constant))
    return names


def test_at_least_twenty_habits_each_with_its_source_and_its_own_name() -> None:
    assert len(HABITS) >= 20
    assert len({habit.name for habit in HABITS}) == len(HABITS)
    assert all(habit.source and habit.does for habit in HABITS)


def test_every_habit_is_shown_on_the_wire() -> None:
    assert shown() == {habit.name for habit in HABITS}


def test_every_habit_holds_in_some_release_and_sets_only_what_a_guest_has() -> None:
    for habit in HABITS:
        assert habit.since.is_between(habit.since, habit.until), habit.name
        Habits(**habit.sets)


def test_a_release_has_the_habits_of_its_time_only() -> None:
    assert windows(Release.SERVER_2016).settles_ns == 0
    assert windows(Release.SERVER_2019).settles_ns > 0
    assert len({windows(release) for release in Release}) == len(Release)
    assert windows() == windows(Release.SERVER_2022) == WINDOWS


def test_a_situation_counts_only_where_it_is_named() -> None:
    assert windows().speaks
    assert windows().hot_adds
    assert not windows(Release.SERVER_2022, Situation.HIBERNATES).hot_adds
    assert windows(Release.SERVER_2019, Situation.HIBERNATES) == windows(Release.SERVER_2019)


def test_the_page_is_made_from_the_table() -> None:
    made = subprocess.run(
        [sys.executable, "-m", "scripts.windows", "--print"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert made == (ROOT / "docs" / "windows.md").read_text(), "run python -m scripts.windows"
