"""The edge table of docs/architecture.md: which room may import which."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parent.parent / "src" / "dynmem"
LEAVES = {"units", "errors", "limits", "direction", "trace_events"}
EDGES: dict[str, set[str]] = {
    "units": set(),
    "errors": set(),
    "limits": set(),
    "direction": set(),
    "trace_events": set(),
    "pages": set(),
    "wire": set(),
    "vmbus": {"wire"},
    "dm": {"wire", "pages"},
    "conformance": {"wire", "vmbus", "dm", "pages"},
    "trace": {"wire", "vmbus", "dm"},
    "memory": {"pages"},
    "space": {"memory", "pages"},
    "qmp": set(),
    "gmm": set(),
    "policy": set(),
    "guest": {"vmbus", "dm", "wire", "pages"},
    "vm": {"vmbus", "dm", "memory", "space", "qmp", "wire", "pages", "trace"},
    "manager": {"gmm", "policy", "qmp"},
    "sim": {"gmm", "policy", "manager"},
    "lab": {"qmp"},
    "demo": {"lab", "qmp", "manager"},
    "cli": {"guest", "vm", "manager", "demo", "lab", "qmp", "trace"},
    "__main__": {"cli"},
}
PURE_ROOMS = ("trace_events", "wire", "vmbus", "dm", "conformance", "gmm", "policy")
PURE_FILES = {  # what a step of the manager is made of; the rest of its room gathers facts and acts
    f"manager/step/{name}.py"
    for name in (
        "changes",
        "claims",
        "facts",
        "measured",
        "orders",
        "record",
        "releases",
        "reservations",
        "results",
        "roster",
        "safeguards",
        "stalls",
        "standing",
        "status",
        "manager",
    )
}
IMPURE_MODULES = {
    "time",
    "socket",
    "threading",
    "asyncio",
    "subprocess",
    "os",
    "select",
    "random",
    "datetime",
}
PURE_EXCEPTIONS = {("vmbus/memory.py", "threading")}  # a lock's acquire and release is the memory fence


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Every module `path` imports, dotted, wherever in the file the import stands."""
    names: set[str] = set()
    package = ("dynmem", *path.relative_to(SOURCE).parent.parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) + "." if node.level else ""
            module = (base + (node.module or "")).strip(".")
            names.add(module)
            names.update(f"{module}.{alias.name}" for alias in node.names)
    return names


def sources() -> list[Path]:
    return sorted(path for path in SOURCE.rglob("*.py") if path != SOURCE / "__init__.py")


def test_every_pure_file_is_there() -> None:
    assert {name for name in PURE_FILES if not (SOURCE / name).is_file()} == set()


def test_every_room_is_in_the_edge_table() -> None:
    assert {room_of(path) for path in sources()} == set(EDGES)


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_file_imports_only_along_the_edges(path: Path) -> None:
    room = room_of(path)
    allowed = EDGES[room] | LEAVES | {room}
    rooms = {name.split(".")[1] for name in imported(path) if name.startswith("dynmem.")}
    assert rooms & set(EDGES) <= allowed


def pure_sources() -> list[Path]:
    return [p for p in sources() if room_of(p) in PURE_ROOMS or str(p.relative_to(SOURCE)) in PURE_FILES]


@pytest.mark.parametrize("path", pure_sources(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_pure_rooms_do_no_io_and_read_no_clock(path: Path) -> None:
    relative = str(path.relative_to(SOURCE))
    found = {name.split(".")[0] for name in imported(path)} & IMPURE_MODULES
    assert {name for name in found if (relative, name) not in PURE_EXCEPTIONS} == set()
