"""The front doors: what a package exports exists, is documented, and is all that papers and examples use."""

import ast
import builtins
import importlib
import inspect
import re
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOORS = ("wire", "pages", "vmbus", "dm", "qmp", "trace", "conformance", "gmm", "policy")
LEAVES = ("errors", "units", "trace_events", "direction")  # modules that are doors themselves
PAPERS = ("docs/library.md", "docs/conformance.md", "README.md")


def exported(door: str) -> list[str]:
    """Return the `__all__` of a package."""
    names = importlib.import_module(f"dynmem.{door}").__all__
    assert isinstance(names, list)
    return names


def assigned_comment(module: types.ModuleType, name: str) -> str:
    """Return the ``#:`` comment above the assignment of a constant or an alias; "" if there is none."""
    source = inspect.getsource(module)
    found = re.search(rf"((?:^#: .*\n)+){name}\b[^\n]* = ", source, re.MULTILINE)
    return found.group(1) if found else ""


def undocumented(door: str) -> Iterator[str]:
    """Yield the exported names that neither have a docstring of their own nor a comment for the site."""
    package = importlib.import_module(f"dynmem.{door}")
    homes = [
        importlib.import_module(f"{node.module}")
        for node in ast.walk(ast.parse(inspect.getsource(package)))
        if isinstance(node, ast.ImportFrom)
    ]
    for name in exported(door):
        value = getattr(package, name)
        if isinstance(value, types.ModuleType) or inspect.isclass(value) or inspect.isfunction(value):
            text = value.__doc__ or ""
        else:
            text = "".join(assigned_comment(home, name) for home in homes)
        if len(text.split()) < 3:
            yield name


def imports_of(text: str) -> Iterator[tuple[str, str]]:
    """Yield (module, name) of everything that a program imports from dynmem."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "dynmem":
            yield from ((node.module or "", alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names if alias.name.split(".")[0] == "dynmem")


def goes_through_a_door(module: str, name: str) -> bool:
    """Return whether an import takes an exported name, or a door itself."""
    room = module.removeprefix("dynmem").removeprefix(".")
    if room in LEAVES:
        return True
    if room in DOORS:
        return not name or name in exported(room)
    if not room:
        return name in (*DOORS, *LEAVES)
    package, _, inner = room.rpartition(".")
    return package == "wire" and inner in exported("wire")


def python_of(paper: str) -> list[str]:
    """Return the Python blocks of a Markdown file."""
    return re.findall(r"```python\n(.*?)```", (ROOT / paper).read_text(), re.DOTALL)


@pytest.mark.parametrize("door", DOORS)
def test_every_exported_name_is_there_and_named_once(door: str) -> None:
    names = exported(door)
    assert len(set(names)) == len(names)
    package = importlib.import_module(f"dynmem.{door}")
    assert [name for name in names if not hasattr(package, name)] == []


@pytest.mark.parametrize("door", DOORS)
def test_what_a_package_imports_for_its_users_is_exported(door: str) -> None:
    tree = ast.parse((ROOT / "src" / "dynmem" / door / "__init__.py").read_text())
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module != "typing"]
    assert {alias.asname or alias.name for node in nodes for alias in node.names} == set(exported(door))


@pytest.mark.parametrize("door", DOORS)
def test_every_exported_name_is_documented(door: str) -> None:
    assert list(undocumented(door)) == []


@pytest.mark.parametrize("door", DOORS)
def test_every_door_has_a_page_in_the_site(door: str) -> None:
    assert f".. automodule:: dynmem.{door}\n" in (ROOT / "docs" / "api" / f"{door}.rst").read_text()
    assert f"\n   {door}\n" in (ROOT / "docs" / "api" / "index.rst").read_text()
    assert f"`dynmem.{door}`" in (ROOT / "docs" / "library.md").read_text()
    assert f"`dynmem.{door}`" in (importlib.import_module("dynmem").__doc__ or "")


def test_every_module_of_wire_has_a_section_in_its_order() -> None:
    sections = re.findall(r"automodule:: dynmem\.wire\.(\w+)", (ROOT / "docs/api/wire.rst").read_text())
    assert sections == exported("wire")


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.stem)
def test_an_example_uses_only_doors(path: Path) -> None:
    assert [each for each in imports_of(path.read_text()) if not goes_through_a_door(*each)] == []


@pytest.mark.parametrize("paper", PAPERS)
def test_the_python_in_a_paper_uses_only_doors(paper: str) -> None:
    blocks = "\n".join(python_of(paper))
    assert [each for each in imports_of(blocks) if not goes_through_a_door(*each)] == []


def test_every_class_that_the_library_page_names_is_exported() -> None:
    text = (ROOT / "docs" / "library.md").read_text()
    named = set(re.findall(r"`([A-Z][A-Za-z]+[a-z])(?:\.\w+)?`", text))
    known = {name for door in DOORS for name in exported(door)}
    known |= {name for leaf in LEAVES for name in dir(importlib.import_module(f"dynmem.{leaf}"))}
    assert {"DynamicMemoryHost", "PageStore", "RemoteProtocolError"} <= named
    assert named - known - set(dir(builtins)) == set()


def test_the_python_of_the_library_page_runs() -> None:
    blocks = python_of("docs/library.md")
    assert len(blocks) >= 2
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "docs/library.md", "exec"), names)


def test_an_import_beside_a_door_is_seen() -> None:
    text = "from dynmem.dm.host import DynamicMemoryHost\nfrom dynmem.dm import tracing\nimport dynmem.vm\n"
    assert not any(goes_through_a_door(*each) for each in imports_of(text))
    assert all(goes_through_a_door(*each) for each in imports_of("from dynmem.wire.dm import encode"))


def test_dynmem_itself_exports_its_version_alone() -> None:
    import dynmem

    assert dynmem.__all__ == ["__version__"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", dynmem.__version__)
