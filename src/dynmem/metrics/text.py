"""The text format of Prometheus, version 0.0.4: a family is two lines of heading, then one line a sample.

    # HELP dynmem_vm_actual_bytes Its size as its VMM reports it.
    # TYPE dynmem_vm_actual_bytes gauge
    dynmem_vm_actual_bytes{vm="web"} 536870912

What is not known has no sample. It is never shown as -1 or 0: sums and averages would take that for a figure.
"""

from collections.abc import Iterable, Iterator
from typing import Final, Literal, NamedTuple

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

Kind = Literal["gauge", "counter", "histogram"]


class Sample(NamedTuple):
    """One value.

    Attributes:
        labels: Its labels as they stand between the braces; empty if it has none.
        value: The value. None or anything that is not a number: it is not known, and not shown.
        suffix: What follows the family's name: only a histogram's samples have one.
    """

    labels: str
    value: object
    suffix: str = ""


def label(name: str, value: object) -> str:
    """Return one label. Whatever the value is, it stays within its quotes and on its line."""
    text = str(value).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'{name}="{text}"'


def number(value: object) -> str:
    """Return a value as the format spells it; empty if it is not a number."""
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, int):
        return str(value)
    if not isinstance(value, float):
        return ""
    if value != value:  # noqa: PLR0124 - not a number
        return "NaN"
    return {float("inf"): "+Inf", float("-inf"): "-Inf"}.get(value) or repr(value)


def family_lines(name: str, kind: Kind, meaning: str, samples: Iterable[Sample]) -> Iterator[str]:
    """Yield the lines of one family; none at all if it has no sample."""
    is_headed = False
    for labels, value, suffix in samples:
        shown = number(value)
        if not shown:
            continue
        if not is_headed:
            is_headed = True
            escaped = meaning.replace("\\", "\\\\").replace("\n", "\\n")
            yield f"# HELP {name} {escaped}"
            yield f"# TYPE {name} {kind}"
        yield f"{name}{suffix}{{{labels}}} {shown}" if labels else f"{name}{suffix} {shown}"
