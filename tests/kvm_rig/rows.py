"""The printed row of a scenario with one kernel, which is recognized among pytest's other lines."""

import re
from typing import Final

_SCENARIO_WIDTH: Final = 84
_INDENT: Final = 7  # of the kernel's column, and so of what is below a row
_COLOUR: Final = rb"(\x1b\[\d+m)*"
_ROW: Final = re.compile(_COLOUR + rb"(\d+\.\d+|-) .* \d+\.\d s" + _COLOUR + rb"\s*$")
_BELOW: Final = re.compile(_COLOUR + rb" {%d}\S" % _INDENT)


def row(test: str, outcome: str, seconds: float) -> str:
    """Return the row of a test by its id: its kernel, its name as a sentence, what came of it."""
    name, _, kernel = test.rpartition("::")[2].rstrip("]").partition("[")
    scenario = name.removeprefix("test_").replace("_", " ")
    return f"{kernel or '-':{_INDENT - 1}} {scenario:{_SCENARIO_WIDTH}} {outcome:8} {seconds:6.1f} s"


def below(text: str) -> str:
    """Return a line below a row: why the test failed, or something that it measured."""
    return " " * _INDENT + text.splitlines()[0]


def is_row(line: bytes) -> bool:
    """Whether a line is a row or below one, coloured or not."""
    return bool(_ROW.match(line) or _BELOW.match(line))
