"""``dynmem doctor``: what this host can do, what it cannot, and what would help."""

import json
from collections.abc import Sequence
from typing import Final

import click

from dynmem.cli.layout import broken, terminal_columns
from dynmem.errors import ExitCode
from dynmem.findings import Finding, Verdict

SCHEMA_VERSION: Final = 1  # of the output of --json


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def doctor(*, as_json: bool) -> int:
    """Examine whether this host can run machines and be managed, and say what would help if it cannot.

    "limited" works with less, and "missing" keeps a command from running. Nothing is changed, and no VM is
    asked for anything.

    \b
    Examples:
      dynmem doctor
      dynmem doctor --json | jq '.findings[] | select(.verdict != "ok")'

    --json prints schema_version, the worst verdict, and findings with subject, verdict, detail and step.

    Exit codes: 0 nothing is missing, 1 something is.
    """  # noqa: D301 - click reads the backspace as "do not wrap"
    from dynmem.doctor.examination import examine, worst

    findings = examine()
    verdict = worst(findings)
    if as_json:
        click.echo(json.dumps(as_values(findings, verdict), indent=2))
    else:
        click.echo(rendered(findings, terminal_columns()))
    return ExitCode.FAILURE if verdict is Verdict.MISSING else ExitCode.OK


def as_values(findings: Sequence[Finding], verdict: Verdict) -> dict[str, object]:
    """Return what ``--json`` prints."""
    return {
        "schema_version": SCHEMA_VERSION,
        "verdict": verdict.value,
        "findings": [{**finding._asdict(), "verdict": finding.verdict.value} for finding in findings],
    }


def rendered(findings: Sequence[Finding], columns: int | None = None) -> str:
    """Return a table of the findings; what to do stands below each. Lines end before `columns`."""
    widths = [max(map(len, cells)) for cells in zip(*(_head(each) for each in findings), strict=True)]
    indent = " " * (sum(widths) + 4)
    width = None if columns is None else columns - len(indent)
    lines = []
    for finding in findings:
        head = "  ".join(cell.ljust(size) for cell, size in zip(_head(finding), widths, strict=True))
        texts = [finding.detail, *([f"-> {finding.step}"] if finding.step else [])]
        pieces = [piece for text in texts for piece in broken(text, width, hang=0)]
        lines += [f"{head}  {pieces[0]}", *(indent + piece for piece in pieces[1:])]
    return "\n".join(lines)


def _head(finding: Finding) -> tuple[str, str]:
    return finding.verdict.value, finding.subject
