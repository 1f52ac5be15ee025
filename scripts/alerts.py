"""Write the alert rules and the page that says what to do: ``python -m scripts.alerts``.

One table, contrib/prometheus/alerts.toml, makes contrib/prometheus/alerts.yml and docs/runbooks.md, so every
alert has its section.
"""

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "contrib" / "prometheus" / "alerts.toml"
RULES = ROOT / "contrib" / "prometheus" / "alerts.yml"
PAGE = ROOT / "docs" / "runbooks.md"


class Alert(NamedTuple):
    """One rule.

    Attributes:
        name: Its name.
        expression: When it holds.
        holds_for: For how long it must hold.
        severity: "critical": an operator should look now. "warning": today.
        summary: What happened, with the labels of the sample.
        meaning: What it means for the VMs.
        steps: What to do, in order.
    """

    name: str
    expression: str
    holds_for: str
    severity: str
    summary: str
    meaning: str
    steps: tuple[str, ...]

    @property
    def anchor(self) -> str:
        """The anchor of its section."""
        return self.name.lower()


ALERTS = tuple(
    Alert(**{**each, "steps": tuple(each["steps"])}) for each in tomllib.loads(TABLE.read_text())["alert"]
)

INTRO = """# Runbooks

Written by `scripts/alerts.py` from `contrib/prometheus/alerts.toml`, as are the rules in
`contrib/prometheus/alerts.yml`; a test holds them equal. Load the rules with `rule_files` in the file of
Prometheus. The job's name must have "dynmem" in it. [metrics.md](metrics.md) says what each metric means.
`critical` is worth waking an operator; `warning` can wait until the morning.
"""
RULES_INTRO = """\
# Alert rules for Prometheus, written by scripts/alerts.py. What to do about each is in docs/runbooks.md.
groups:
  - name: dynmem
    rules:
"""
#: Where the rules point to.
RUNBOOK = "docs/runbooks.md"


def rules() -> str:
    """Return the file of rules. A quoted string of JSON is one of YAML."""
    lines = [RULES_INTRO.rstrip()]
    for alert in ALERTS:
        lines += [
            f"      - alert: {alert.name}",
            f"        expr: {json.dumps(alert.expression.strip())}",
            f"        for: {alert.holds_for}",
            "        labels:",
            f"          severity: {alert.severity}",
            "        annotations:",
            f"          summary: {json.dumps(alert.summary)}",
            f"          description: {json.dumps(alert.meaning)}",
            f"          runbook_url: {json.dumps(f'{RUNBOOK}#{alert.anchor}')}",
        ]
    return "\n".join(lines) + "\n"


def _section(alert: Alert) -> Iterator[str]:
    yield f"\n## {alert.name}\n"
    yield f"{alert.severity.capitalize()}, when it holds for {_words(alert.holds_for)}:\n"
    yield f"```\n{alert.expression.strip()}\n```\n"
    yield f"{alert.meaning}\n"
    yield from (f"{number}. {step}" for number, step in enumerate(alert.steps, 1))


def _words(duration: str) -> str:
    minutes = int(re.sub(r"m$", "", duration))
    return "a moment" if not minutes else "a minute" if minutes == 1 else f"{minutes} minutes"


def page() -> str:
    """Return the page with a section for each alert."""
    return INTRO + "\n".join(line for alert in ALERTS for line in _section(alert)) + "\n"


if __name__ == "__main__":
    RULES.write_text(rules())
    PAGE.write_text(page())
