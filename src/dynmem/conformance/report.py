"""Reports a run of the suite: as a table for people, as JSON for programs."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from dynmem.conformance.case import Case, Result, Verdict

BAD = frozenset({Verdict.FAILED, Verdict.BROKEN})


def conforms(results: Sequence[Result]) -> bool:
    """Return whether no case failed, and at least one passed."""
    verdicts = {result.verdict for result in results}
    return Verdict.PASSED in verdicts and not verdicts & BAD


def table(title: str, results: Sequence[Result]) -> str:
    """Return one line per case; below a failed one what happened, what must happen and who relies on it."""
    width = max((len(result.name) for result in results), default=0)
    lines = [title]
    for result in results:
        line = f"  {result.verdict.value:8}{result.name:{width}}  {result.group}"
        if result.verdict is Verdict.SKIPPED:
            line += f"  ({result.detail})"
        lines.append(line.rstrip())
        if result.verdict in BAD:
            lines += [
                f"          what happened: {result.detail}",
                f"          what must:     {result.must}",
                f"          source:        {result.source}",
            ]
    counts = Counter(result.verdict for result in results)
    lines.append(
        "  " + ", ".join(f"{counts[verdict]} {verdict.value}" for verdict in Verdict if counts[verdict])
    )
    return "\n".join(lines)


def facts(end: str, subject: str, results: Sequence[Result]) -> dict[str, Any]:
    """Return the results for a program; the names of fields and verdicts are stable."""
    return {
        "end": end,
        "subject": subject,
        "conforms": conforms(results),
        "cases": [
            {
                "name": result.name,
                "group": result.group,
                "verdict": result.verdict.value,
                "detail": result.detail,
                "must": result.must,
                "source": result.source,
            }
            for result in results
        ],
    }


def reference(title: str, cases: Iterable[Case]) -> str:
    """Return the cases of one end as a table in Markdown."""
    lines = [
        f"### {title}",
        "",
        "| case | group | what must happen | who relies on it |",
        "|---|---|---|---|",
    ]
    lines += [f"| `{case.name}` | {case.group} | {case.must} | {case.source} |" for case in cases]
    return "\n".join([*lines, ""])
