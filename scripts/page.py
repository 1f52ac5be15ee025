"""A page that a script writes: ``python -m scripts.NAME`` writes it, with ``--print`` it is printed."""

import sys
from collections.abc import Callable
from pathlib import Path

DOCS = Path(__file__).resolve().parent.parent / "docs"


def finish(name: str, render: Callable[[], str]) -> None:
    """Write or print the page docs/*name*, as the command line says."""
    if sys.argv[1:] == ["--print"]:
        print(render(), end="")
    else:
        (DOCS / name).write_text(render())
