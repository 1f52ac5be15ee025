"""What docs/style.md asks of docstrings, where ruff's D102 cannot: it would want one on every override."""

import ast
import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

OUTSIDE: dict[str, type] = {
    "BufferedProtocol": asyncio.BufferedProtocol,
    "Command": click.Command,
    "Filter": logging.Filter,
    "Group": click.Group,
    "H11Protocol": H11Protocol,
    "Handler": logging.Handler,
    "ParamType": click.ParamType,
    "Server": uvicorn.Server,
}
SOURCE = Path(__file__).resolve().parent.parent / "src" / "dynmem"


class Method(NamedTuple):
    """A public method of a public class.

    Attributes:
        place: File, line, class and name, for the report.
        name: Its name.
        bases: The names of the classes that its class derives from, directly.
        docstring: Its docstring, if any.
        accessory: Whether a property's setter, an overload or a `@override`: these never need a docstring.
    """

    place: str
    name: str
    bases: tuple[str, ...]
    docstring: str | None
    accessory: bool


def classes_in(tree: ast.AST) -> Iterator[ast.ClassDef]:
    """Yield every class, at any depth."""
    yield from (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef))


def base_names(node: ast.ClassDef) -> tuple[str, ...]:
    """Return the last names of a class's bases: `msgspec.Struct` is Struct, `Store[int]` is Store."""
    plain = [base.value if isinstance(base, ast.Subscript) else base for base in node.bases]
    return tuple(base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "") for base in plain)


def methods_of(node: ast.ClassDef, place: str) -> Iterator[Method]:
    """Yield the public methods of a class."""
    for item in node.body:
        if not isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef) or item.name.startswith("_"):
            continue
        marks = {ast.unparse(mark).rpartition(".")[2] for mark in item.decorator_list}
        yield Method(
            f"{place}:{item.lineno} {node.name}.{item.name}",
            item.name,
            base_names(node),
            ast.get_docstring(item),
            bool(marks & {"setter", "overload", "override"}),
        )


def undocumented(sources: dict[str, str]) -> list[str]:
    """Return the places of methods that lack a docstring and that no base or protocol documents for them."""
    trees = {place: ast.parse(text) for place, text in sources.items()}
    bases: dict[str, set[str]] = {}
    documented: dict[str, set[str]] = {}
    methods: list[Method] = []
    protocols: set[str] = set()
    for place, tree in trees.items():
        for node in classes_in(tree):
            own = list(methods_of(node, place))
            bases.setdefault(node.name, set()).update(base_names(node))
            said = {method.name for method in own if method.docstring}
            documented.setdefault(node.name, set()).update(said)
            if "Protocol" in base_names(node):
                protocols |= said
            if not node.name.startswith("_"):
                methods += own

    def says_it(name: str, base: str, seen: frozenset[str] = frozenset()) -> bool:
        if base in seen:
            return False
        return (
            name in documented.get(base, ())
            or hasattr(OUTSIDE.get(base), name)
            or any(says_it(name, above, seen | {base}) for above in bases.get(base, ()))
        )

    return [
        method.place
        for method in methods
        if not method.docstring
        and not method.accessory
        and method.name not in protocols
        and not any(says_it(method.name, base) for base in method.bases)
    ]


def repeated(sources: dict[str, str]) -> list[str]:
    """Return the places of methods whose docstring says again what that of a base says."""
    methods = [
        method
        for place, text in sources.items()
        for node in classes_in(ast.parse(text))
        for method in methods_of(node, place)
    ]
    documented = {
        (method.place.split(" ")[1].split(".")[0], method.name) for method in methods if method.docstring
    }
    return [
        method.place
        for method in methods
        if method.docstring and any((base, method.name) in documented for base in method.bases)
    ]


def strays(sources: dict[str, str]) -> list[str]:
    """Return the places of fields with a string below them or a comment beside them."""
    found = []
    for place, text in sources.items():
        lines = text.splitlines()
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.ClassDef):
                continue
            for field, after in zip(node.body, [*node.body[1:], None], strict=True):
                if not isinstance(field, ast.AnnAssign):
                    continue
                below = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                beside = lines[(field.end_lineno or field.lineno) - 1][field.end_col_offset :].strip()
                if below or (beside.startswith("#") and not beside.startswith(("# noqa", "# type:"))):
                    found.append(f"{place}:{field.lineno} {node.name}")
    return found


def fillers(sources: dict[str, str]) -> list[str]:
    """Return the places of docstrings of a single word: they feed a linter and nobody else."""
    return [
        f"{place}:{node.lineno} {node.name}"
        for place, text in sources.items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (docstring := ast.get_docstring(node)) is not None
        and len(docstring.split()) < 2
    ]


def our_sources() -> dict[str, str]:
    """Return every module's text by its path below src/dynmem."""
    return {str(path.relative_to(SOURCE)): path.read_text() for path in sorted(SOURCE.rglob("*.py"))}


def test_every_public_method_has_a_docstring_or_a_base_or_protocol_that_says_it() -> None:
    assert undocumented(our_sources()) == []


def test_no_docstring_is_a_single_word() -> None:
    assert fillers(our_sources()) == []


def test_a_method_of_a_library_s_class_is_documented_there() -> None:
    assert undocumented({"a.py": "class Mine(click.Group):\n    def get_command(self): ...\n"}) == []


def test_no_override_says_again_what_its_base_says() -> None:
    assert repeated(our_sources()) == []


def test_every_field_is_documented_in_the_docstring_of_its_class() -> None:
    assert strays(our_sources()) == []


def test_a_docstring_on_an_override_is_found() -> None:
    base = 'class Base:\n    def close(self): "Close the file."\n'
    mine = 'class Mine(Base):\n    def close(self): "Close it."\n    def open(self): "Open it."\n'
    assert repeated({"base.py": base, "mine.py": mine}) == ["mine.py:2 Mine.close"]


def test_a_string_below_a_field_and_a_comment_beside_one_are_found() -> None:
    text = 'class A:\n    a: int\n    "Below."\n    b: int = 1  # beside\n    c: int  # noqa: A003\n'
    assert strays({"a.py": text}) == ["a.py:2 A", "a.py:4 A"]


STORE = """
class Store(Protocol):
    def add(self): "Add the pages."
class Base:
    def close(self): "Close the file."
class Middle(Base): ...
"""


def test_a_method_without_a_docstring_is_found_unless_a_base_or_protocol_documents_it() -> None:
    mine = "class Mine(Middle):\n    def add(self): ...\n    def close(self): ...\n    def lone(self): ...\n"
    assert undocumented({"store.py": STORE, "mine.py": mine}) == ["mine.py:4 Mine.lone"]


def test_the_same_name_in_an_unrelated_class_excuses_no_method() -> None:
    other = "class Other:\n    def close(self): ...\n"
    assert undocumented({"store.py": STORE, "other.py": other}) == ["other.py:2 Other.close"]


def test_a_docstring_of_one_word_is_found() -> None:
    assert fillers({"a.py": 'def f():\n    "Nothing."\ndef g():\n    "Return it."\n'}) == ["a.py:1 f"]
