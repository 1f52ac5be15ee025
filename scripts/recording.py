"""Write the recording rules and the page that explains them: ``python -m scripts.recording``.

One table, contrib/prometheus/recording.toml, makes contrib/prometheus/recording.yml and docs/recording.md.
"""

import json
import tomllib
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "contrib" / "prometheus" / "recording.toml"
RULES = ROOT / "contrib" / "prometheus" / "recording.yml"
PAGE = ROOT / "docs" / "recording.md"


class Recorded(NamedTuple):
    """One figure that Prometheus computes and keeps.

    Attributes:
        name: Its name: what it is of, the metric, and what was done to it.
        expression: How it is computed.
        meaning: What it means.
    """

    name: str
    expression: str
    meaning: str


RECORDED = tuple(Recorded(**each) for each in tomllib.loads(TABLE.read_text())["rule"])

RULES_INTRO = """\
# Recording rules for Prometheus, written by scripts/recording.py. docs/recording.md says what each means.
groups:
  - name: dynmem-hosts
    interval: 1m
    rules:
"""
INTRO = """# Recorded figures of each host

Written by `scripts/recording.py` from `contrib/prometheus/recording.toml`, as are the rules in
`contrib/prometheus/recording.yml`; a test holds them equal. Load the rules with `rule_files` in the file of
Prometheus, and let it keep at least eight days. Each has one label, `instance`, which names the host.
[fleet.md](fleet.md) says who reads them, and [metrics.md](metrics.md) what they are computed from.
"""


def rules() -> str:
    """Return the file of rules. A quoted string of JSON is one of YAML."""
    lines = [RULES_INTRO.rstrip()]
    for each in RECORDED:
        lines += [f"      - record: {each.name}", f"        expr: {json.dumps(each.expression.strip())}"]
    return "\n".join(lines) + "\n"


def page() -> str:
    """Return the page with a section for each figure."""
    sections = (
        f"\n## {each.name}\n\n{each.meaning}\n\n```\n{each.expression.strip()}\n```\n" for each in RECORDED
    )
    return INTRO + "".join(sections)


if __name__ == "__main__":
    RULES.write_text(rules())
    PAGE.write_text(page())
