"""The table of rooms in docs/architecture.md: which room may import which, and which rooms are pure.

The table is the only copy. A row stands for a package, a package inside one (`vm.balloon`), or one file
(`vm.machine`), or several of one kind, and goes by its first name. A file belongs to the longest name that
holds it. Every room may import the leaves.
"""

import ast
import functools
import re
from collections.abc import Iterator, Mapping
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "dynmem"
IMPURE_MODULES = frozenset(
    {"asyncio", "concurrent", "ctypes", "datetime", "fcntl", "mmap", "multiprocessing", "os", "random"}
    | {"resource", "secrets", "select", "selectors", "shutil", "signal", "socket", "sqlite3", "subprocess"}
    | {"tempfile", "threading", "time"}
)
PURE_EXCEPTIONS = {
    ("dates", "datetime"),  # arithmetic with a calendar; it asks no clock
    ("vmbus.memory", "threading"),  # a lock's acquire and release is the memory fence
    ("fair_lock", "threading"),  # locks only: a guest's processors have threads of their own
    ("pages.page_set", "mmap"),  # anonymous memory, whose pages go back when a bitmap is empty
}


class Room(NamedTuple):
    """A row of the table, by its first name."""

    name: str
    imports: frozenset[str]
    is_pure: bool
    is_leaf: bool


def rooms_of(text: str) -> dict[str, Room]:
    """Read the table below the heading "Rooms"."""
    rooms: dict[str, Room] = {}
    rows = [
        line.split("|")[1:-1] for line in text.split("## Rooms", 1)[1].splitlines() if line.startswith("| `")
    ]
    for first, second, _ in rows:
        marks = set(" ".join(re.findall(r"\*([a-z ]+)\*", first)).split())
        imports = frozenset(re.findall(r"[a-z_][a-z_.]*", second))
        names = re.findall(r"`([a-z_.]+)`", first)
        room = Room(names[0], imports, is_pure="pure" in marks, is_leaf="leaf" in marks)
        rooms.update(dict.fromkeys(names, room))
    return rooms


ROOMS: Mapping[str, Room] = rooms_of((ROOT / "docs" / "architecture.md").read_text())
LEAVES = frozenset(room.name for room in ROOMS.values() if room.is_leaf)


def module_of(path: Path) -> str:
    """The name of a file below `dynmem`: ``vm.balloon.device``, and ``vm`` for its ``__init__``."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES: Mapping[str, Path] = {module_of(path): path for path in sorted(SOURCE.rglob("*.py"))}


def room_of(module: str, rooms: Mapping[str, Room] = ROOMS) -> str | None:
    """The room that a module belongs to; None: there is none."""
    while module and module not in rooms:
        module = module.rpartition(".")[0]
    return rooms[module].name if module else None


@functools.cache
def imports_of(module: str) -> tuple[ast.Import | ast.ImportFrom, ...]:
    """Every import in a file, wherever it stands."""
    nodes = ast.walk(ast.parse(MODULES[module].read_text()))
    return tuple(node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom))


@functools.cache
def imported(module: str) -> frozenset[str]:
    """Every module that a file imports, and every name that may be one."""
    names: set[str] = set()
    for node in imports_of(module):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        else:
            assert node.module is not None
            assert node.level == 0, "imports in src are absolute"
            names.update({node.module, *(f"{node.module}.{alias.name}" for alias in node.names)})
    return frozenset(names)


@functools.cache
def dynmem_imports(module: str) -> frozenset[str]:
    """The files of dynmem that a file imports by name: of a package its ``__init__``, or the file meant."""
    names = {name.removeprefix("dynmem.") for name in imported(module) if name != "dynmem"}
    found = names & set(MODULES)
    return frozenset(
        name
        for name in found
        if not any(other.startswith(f"{name}.") for other in found) or _uses_the_door(module, name)
    )


def _uses_the_door(module: str, package: str) -> bool:
    """Whether a file takes a name of a package's ``__init__``, besides files of that package."""
    doors = [node for node in imports_of(module) if isinstance(node, ast.ImportFrom)]
    return any(
        f"{package}.{alias.name}" not in MODULES
        for node in doors
        if node.module == f"dynmem.{package}"
        for alias in node.names
    )


@functools.cache
def runs(module: str) -> frozenset[str]:
    """All files of dynmem that run when one is imported: what it imports, and the packages around each."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        around = name.rpartition(".")[0]
        waiting += [*dynmem_imports(name), *([around] if around else [])]
    return frozenset(seen)


def impurities(module: str) -> Iterator[tuple[str, str]]:
    """Each impure module that a file imports, itself or by way of another, with the file that does it."""
    for name in sorted(runs(module)):
        for outer in sorted({each.split(".")[0] for each in imported(name)} & IMPURE_MODULES):
            if (name, outer) not in PURE_EXCEPTIONS:
                yield name, outer
        if opens_files(name):
            yield name, "open"


@functools.cache
def opens_files(module: str) -> bool:
    """Whether a file calls the built-in `open`."""
    calls = [
        node.func for node in ast.walk(ast.parse(MODULES[module].read_text())) if isinstance(node, ast.Call)
    ]
    return any(isinstance(called, ast.Name) and called.id == "open" for called in calls)


def test_every_file_lies_in_a_room_and_every_room_is_there() -> None:
    homeless = [module for module in MODULES if module and room_of(module) is None]
    empty = [name for name in ROOMS if not any(f"{module}.".startswith(f"{name}.") for module in MODULES)]
    assert (homeless, empty) == ([], [])


def test_a_row_names_rooms_of_the_table_and_no_leaf() -> None:
    named = {other for room in ROOMS.values() for other in room.imports}
    assert named <= {room.name for room in ROOMS.values()} - LEAVES


@pytest.mark.parametrize("module", [module for module in MODULES if module])
def test_a_file_imports_only_along_the_edges(module: str) -> None:
    home = room_of(module)
    assert home is not None
    allowed = ROOMS[home].imports | LEAVES | {home}
    assert {room_of(name) for name in dynmem_imports(module)} - allowed - {None} == set()


def test_no_room_is_named_that_is_not_needed() -> None:
    used: dict[str, set[str | None]] = {room.name: set() for room in ROOMS.values()}
    for module in MODULES:
        if home := room_of(module):
            used[home] |= {room_of(name) for name in dynmem_imports(module)}
    idle = {room.name: room.imports - used[room.name] for room in ROOMS.values()}
    assert {name: sorted(others) for name, others in idle.items() if others} == {}


def test_no_room_imports_itself_by_way_of_others() -> None:
    order = TopologicalSorter({room.name: room.imports for room in ROOMS.values()})
    order.prepare()  # raises CycleError, which names the circle


def test_no_file_imports_itself_by_way_of_others() -> None:
    circles = [
        (module, name)
        for module in MODULES
        for name in dynmem_imports(module)
        if module in _reached(name) and not module.startswith(f"{name}.")
    ]
    assert circles == []


@functools.cache
def _reached(module: str) -> frozenset[str]:
    """Like `runs`, by imports alone: a package need not be there for its files."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += dynmem_imports(name)
    return frozenset(seen)


@pytest.mark.parametrize(
    "module", [module for module in MODULES if (home := room_of(module)) and ROOMS[home].is_pure]
)
def test_a_pure_file_reaches_no_io_no_clock_and_no_thread_by_any_way(module: str) -> None:
    assert list(impurities(module)) == []


def test_impurity_is_seen_through_the_imports_of_others() -> None:
    assert ("vm.clock", "time") in set(impurities("vm.machine"))
    assert "time" not in imported("vm.machine")


def test_a_file_belongs_to_the_longest_name_that_holds_it() -> None:
    table = "| `a` | b | c |\n| `a.f` `a.g` *pure* | b d.e | c |\n| `u` *leaf pure* | | c |\n"
    rooms = rooms_of(f"## Rooms\n{table}")
    assert rooms["a.g"] == Room("a.f", frozenset({"b", "d.e"}), is_pure=True, is_leaf=False)
    assert rooms["u"] == Room("u", frozenset(), is_pure=True, is_leaf=True)
    found = [room_of(module, rooms) for module in ("a.f", "a.g.h", "a.h", "z")]
    assert found == ["a.f", "a.f", "a", None]
