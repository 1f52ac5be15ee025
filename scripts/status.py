"""Write docs/status.md, the fields of `dynmem status --json`: ``python -m scripts.status [--print]``."""

import inspect
import re
from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Literal, Union, get_args, get_origin, get_type_hints

import msgspec
from scripts.page import document, finish

from dynmem.manager.api.messages import DaemonView, StatusReply
from dynmem.manager.step.capability import Capability, Known
from dynmem.manager.step.facts import HostFacts, NodeFacts
from dynmem.manager.step.results import Reservation
from dynmem.manager.step.view import (
    SCHEMA,
    AccountsView,
    BooksView,
    ChangeView,
    LastChangeView,
    MeasuredView,
    VmBooksView,
    VmView,
)
from dynmem.manager.totals import HistogramView, TotalsView, VmTotalsView

STRUCTS: tuple[type[msgspec.Struct], ...] = (
    StatusReply,
    MeasuredView,
    HostFacts,
    NodeFacts,
    BooksView,
    Reservation,
    VmView,
    VmBooksView,
    AccountsView,
    Capability,
    Known,
    ChangeView,
    LastChangeView,
    DaemonView,
    TotalsView,
    VmTotalsView,
    HistogramView,
)
UNITS = {"_byte_s": "bytes × s", "_bytes": "bytes", "_ns": "ns", "_s": "s", "_percent": "%"}
WORDS = {int: "integer", float: "number", str: "text", bool: "boolean"}

INTRO = f"""# The status of the manager

Written by `scripts/status.py` from the classes that `dynmem status --json` is made of
(`src/dynmem/manager/step/view.py` and `src/dynmem/manager/api/messages.py`); a test holds the two equal.

The reply is one JSON object: `schema_version` (1), `ok` (true) and the fields below. Check `schema_version`:
it is the version of all replies of the manager, and rises only when programs have to change. `schema` is the
version of these tables alone, and rises when a field is added; this page describes `schema` {SCHEMA}. No
field is renamed, removed or given another meaning. Ignore fields that you do not know. What is not known is
null.

Times in nanoseconds (`*_ns`) are durations, or points on the host's monotonic clock; beside each such point
stands its date (ISO 8601, UTC).
"""


def meanings(struct: type[msgspec.Struct]) -> dict[str, str]:
    """Return the `Attributes:` of a class and of those it derives from, by name."""
    found: dict[str, str] = {}
    for base in reversed(struct.__mro__):
        text = inspect.cleandoc(base.__dict__.get("__doc__") or "")
        _, _, attributes = text.partition("Attributes:\n")
        for name, words in re.findall(r"^    (\w+): (.*(?:\n     .*)*)", attributes, re.MULTILINE):
            found[name] = " ".join(words.split())
    return found


def in_words(kind: object) -> str:
    """Return a type in the words of JSON."""
    if kind in WORDS:
        return WORDS[kind]
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return f"[{kind.__name__}](#{kind.__name__.lower()})"
    arguments = get_args(kind)
    if get_origin(kind) is Literal:
        return ", ".join(f'"{word}"' for word in arguments)
    if get_origin(kind) is tuple:
        return f"list of {in_words(arguments[0])}"
    if get_origin(kind) is dict:
        return f"object of {in_words(arguments[1])}"
    assert get_origin(kind) in {Union, UnionType}, kind
    (inner,) = (each for each in arguments if each is not NoneType)
    return f"{in_words(inner)} or null"


def unit(name: str) -> str:
    """Return the unit that a name ends in."""
    return next((text for suffix, text in UNITS.items() if f"_{name}".endswith(suffix)), "")


def head(title: str, struct: type[msgspec.Struct]) -> Iterator[str]:
    """Yield the lines above the table of one class: its title, and what its docstring says of it."""
    summary = inspect.cleandoc(struct.__doc__ or "").partition("\n\nAttributes:")[0]
    yield f"## {title}"
    yield ""
    yield " ".join(summary.split())
    yield ""


def table(struct: type[msgspec.Struct]) -> Iterator[str]:
    """Yield the lines about one class."""
    yield from head(struct.__name__, struct)
    yield "| field | type | unit | meaning | since |"
    yield "|---|---|---|---|---:|"
    types, words = get_type_hints(struct), meanings(struct)
    for name in struct.__struct_fields__:
        meaning, _, since = words[name].partition(" Since schema ")
        yield f"| `{name}` | {in_words(types[name])} | {unit(name)} | {meaning} | {since.rstrip('.') or 1} |"
    yield ""


def render() -> str:
    """Return the whole document."""
    return document(INTRO, STRUCTS, table)


if __name__ == "__main__":
    finish("status.md", render)
