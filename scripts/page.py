"""A page that a script writes: ``python -m scripts.NAME`` writes it, with ``--print`` it is printed."""

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec

DOCS = Path(__file__).resolve().parent.parent / "docs"


def document(
    intro: str,
    structs: Sequence[type[msgspec.Struct]],
    table: Callable[[type[msgspec.Struct]], Iterable[str]],
) -> str:
    """Return a page about some classes: an introduction, and the lines of a *table* about each."""
    lines = [intro, *(line for struct in structs for line in table(struct))]
    return "\n".join(lines).rstrip() + "\n"


def finish(name: str, render: Callable[[], str]) -> None:
    """Write or print the page docs/*name*, as the command line says."""
    if sys.argv[1:] == ["--print"]:
        print(render(), end="")
    else:
        (DOCS / name).write_text(render())
