"""How the commands lay out what people read: tables, and prose that ends before the edge of the terminal."""

import sys
import textwrap
from collections.abc import Container, Sequence
from typing import Final

# Prose is not made narrower than this, however narrow the terminal is.
_NARROWEST: Final = 40


def terminal_columns() -> int | None:
    """Return the width of the terminal; None if the output goes elsewhere: to a program, lines stay whole."""
    if not sys.stdout.isatty():
        return None
    import shutil  # which imports compression, too: a program that reads us does not wait for it

    return shutil.get_terminal_size().columns


def table(rows: Sequence[Sequence[str]], words: Container[str]) -> list[str]:
    """Return the lines of a table, headings first: *words* are the headings of what stands to the left."""
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if heading in words else cell.rjust(width)
            for cell, width, heading in zip(row, widths, rows[0], strict=True)
        ).rstrip()
        for row in rows
    ]


def broken(text: str, columns: int | None, *, hang: int = 2) -> list[str]:
    """Return the lines of a text of which none is longer than *columns*; None: it stays whole.

    What continues the text stands *hang* places further to the right.
    """
    if columns is None:
        return [text]
    return textwrap.wrap(
        text,
        max(columns, _NARROWEST),
        subsequent_indent=" " * (len(text) - len(text.lstrip()) + hang),
        break_long_words=False,
        break_on_hyphens=False,
    )
