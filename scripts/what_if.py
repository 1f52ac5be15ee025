"""Write docs/simulate-fields.md, what plan and simulate print as JSON: ``python -m scripts.what_if``."""

import msgspec
from scripts.history import table
from scripts.page import document, finish

from dynmem.cli.looking_back import SCHEMA_VERSION
from dynmem.simulation.figures import Outcome, SimulationReport
from dynmem.what_if.outlook import Outlook, PlannedMove, PlanReport, VmOutlook

STRUCTS: tuple[type[msgspec.Struct], ...] = (
    PlanReport,
    Outlook,
    VmOutlook,
    PlannedMove,
    SimulationReport,
    Outcome,
)

INTRO = f"""# The fields of plan and simulate

Written by `scripts/what_if.py` from the classes themselves; a test holds the two equal.
[What if](simulate.md) says what they are for.

What `dynmem plan` and `dynmem simulate` print with `--json` has `schema_version` ({SCHEMA_VERSION}), which
rises only when programs have to change. Fields are added and never renamed, removed or given another meaning:
ignore those that you do not know. `*_bytes` are bytes; dates are ISO 8601 in UTC.

- `dynmem plan --json`: the fields of PlanReport.
- `dynmem simulate --json`: the fields of SimulationReport.
"""


def render() -> str:
    """Return the whole document."""
    return document(INTRO, STRUCTS, table)


if __name__ == "__main__":
    finish("simulate-fields.md", render)
