"""Write docs/history-fields.md, what the commands of the history print: ``python -m scripts.history``."""

from collections.abc import Iterator
from typing import get_type_hints

import msgspec
from scripts.page import document, finish
from scripts.status import head, in_words, meanings, unit

from dynmem.cli.looking_back import SCHEMA_VERSION
from dynmem.fit.answer import Asked, FitReply, Horizon
from dynmem.fit.bottleneck import Bottleneck, LimitingHour, LimitingVm
from dynmem.fit.fleet import FleetReply, HostFit, Problem
from dynmem.fit.held_out import Errors, HeldOut
from dynmem.history.event import Event
from dynmem.history.report import Fit, HostReport, VmReport
from dynmem.history.spans import Level, SpanRow
from dynmem.manager.step.sample import HostSample, VmSample

STRUCTS: tuple[type[msgspec.Struct], ...] = (
    Event,
    SpanRow,
    Level,
    VmSample,
    HostSample,
    HostReport,
    VmReport,
    Fit,
    FitReply,
    Horizon,
    Errors,
    HeldOut,
    Bottleneck,
    LimitingHour,
    LimitingVm,
    Asked,
    FleetReply,
    HostFit,
    Problem,
)

INTRO = f"""# The fields of the history

Written by `scripts/history.py` from the classes themselves; a test holds the two equal.
[The history](history.md) says what they are for.

Everything that `dynmem history`, `events`, `explain --at`, `report` and `fit` print with `--json` has
`schema_version` ({SCHEMA_VERSION}), which rises only when programs have to change. Fields are added and never
renamed, removed or given another meaning: ignore those that you do not know. What is not known is null, or
left out. `*_bytes` are bytes, `*_s` seconds, `*_ds` tenths of a second; dates are ISO 8601 in UTC.

- `dynmem events --json`: an Event a line.
- `dynmem history --json`: `vm` (null: the host), `step_s` (how long a row is; null: as they are kept), `rows`
  (of SpanRow) and `events` (of Event).
- `dynmem explain VM --at TIME --json`: `at`, `step` (what the row stands for), `host` (HostSample), `vm`
  (VmSample; null: it was not running), `last_move` (Event), and `again`: both terms of measured free, and the
  plan's decision in pages of 4 KiB, computed again from the other fields.
- `dynmem report --json`: the fields of HostReport.
- `dynmem fit --json`: the fields of FitReply; with `--hosts`, of FleetReply ([what they mean](fit.md)).
"""


def table(struct: type[msgspec.Struct]) -> Iterator[str]:
    """Yield the lines about one class."""
    yield from head(struct.__name__, struct)
    yield "| field | type | unit | meaning |"
    yield "|---|---|---|---|"
    types, words = get_type_hints(struct), meanings(struct)
    for name in struct.__struct_fields__:
        yield f"| `{name}` | {in_words(types[name])} | {unit(name)} | {words[name]} |"
    yield ""


def render() -> str:
    """Return the whole document."""
    return document(INTRO, STRUCTS, table)


if __name__ == "__main__":
    finish("history-fields.md", render)
