"""Fail unless pyright knows the type of every public name of dynmem.

mypy holds the code to its annotations; this holds that none is missing where a user's editor or type checker
would guess. Pyright and the Node.js it needs are wheels of the `dev` group: nothing is fetched at run time.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PYRIGHT = (sys.executable, "-m", "pyright", "--verifytypes", "dynmem", "--ignoreexternal", "--outputjson")


def completeness() -> dict[str, Any]:
    """Return pyright's report on the installed package; exit with pyright's own words when there is none."""
    environment = {**os.environ, "VIRTUAL_ENV": sys.prefix}
    environment["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), environment.get("PATH", "")))
    done = subprocess.run(PYRIGHT, env=environment, capture_output=True, text=True, check=False)
    try:
        report = json.loads(done.stdout)["typeCompleteness"]
    except (json.JSONDecodeError, KeyError):
        sys.exit(f"pyright has no report:\n{done.stdout}{done.stderr}")
    assert isinstance(report, dict)
    return report


def gaps(report: dict[str, Any]) -> Iterator[str]:
    """Yield where each type that is not known should have been said, and what pyright says of it."""
    for symbol in report["symbols"]:
        for problem in symbol["diagnostics"]:
            if problem["severity"] == "error":
                line = problem.get("range", {}).get("start", {}).get("line")
                place = f"{problem['file']}:{line + 1}: " if line is not None else ""
                yield f"{place}{symbol['name']}: {problem['message']}"


def main() -> int:
    """Print the gaps and the score; return 1 when a type is not known, or no name was found at all."""
    report = completeness()
    for gap in gaps(report):
        print(gap)
    counts = report["exportedSymbolCounts"]
    public = sum(counts.values())
    print(f"{counts['withKnownType']} of {public} public names have a type that is known")
    return int(not public or counts["withKnownType"] < public)


if __name__ == "__main__":
    sys.exit(main())
