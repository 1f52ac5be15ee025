"""Run what docs/rows.toml names and print each promise as proven, failing or open.

Exit status 1 when a row fails (with --strict also when one is open), 2 when it names what is not there.
"""

import argparse
import itertools
import subprocess
import sys
import tempfile
import tomllib
import xml.etree.ElementTree as ET
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PREFIX = "bench:"
STOCK = "tests/kvm/"


def read_rows(path: Path) -> list[dict[str, object]]:
    """Every [[row]] of the file; each has id, source, promise and (once proven) tests."""
    rows = tomllib.loads(path.read_text())["row"]
    assert isinstance(rows, list)
    return rows


def proofs(row: dict[str, object]) -> list[str]:
    """The test ids and bench ids that prove a row."""
    named = row.get("tests", [])
    assert isinstance(named, list)
    return [str(name) for name in named]


def run_tests(ids: list[str]) -> dict[str, bool]:
    """Run pytest once over `ids`; which of them passed (an id stands for all its parameters)."""
    if not ids:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-n",
            "2",
            f"--junit-xml={report}",
            "-o",
            "junit_family=xunit1",
            *ids,
        ]
        status = subprocess.run(command, cwd=ROOT, check=False).returncode
        return read_reports(status, [report])


def run_stock(ids: list[str]) -> dict[str, bool]:
    """Run those with stock kernels, in their rig."""
    if not ids:
        return {}
    command = [sys.executable, "-m", "tests.kvm_rig", "run", "--", *ids]
    status = subprocess.run(command, cwd=ROOT, check=False).returncode
    return read_reports(status, list((ROOT / "build/kvm-rig").glob("*/report.xml")))


def read_reports(status: int, reports: list[Path]) -> dict[str, bool]:
    """Which tests passed in a run of pytest with this exit code, by its reports."""
    if status not in (0, 1) or not all(report.exists() for report in reports):
        sys.exit(2)
    results: dict[str, bool] = {}
    for case in itertools.chain(*(ET.parse(report).getroot().iter("testcase") for report in reports)):
        name = f"{case.get('file')}::{(case.get('name') or '').split('[')[0]}"
        passed = not any(child.tag in ("failure", "error", "skipped") for child in case)
        results[name] = results.get(name, True) and passed
    return results


def run_benches(names: list[str]) -> dict[str, bool]:
    """Run the benchmarks in check mode, one process each."""
    command = [sys.executable, "-m", "bench", "--check"]
    return {name: subprocess.run([*command, name], cwd=ROOT, check=False).returncode == 0 for name in names}


def main() -> int:
    """Print the rows and say by the exit status how they stand."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--strict", action="store_true", help="an open row fails too")
    parser.add_argument("rows", nargs="*", help="only the rows whose id starts with one of these")
    options = parser.parse_args()
    rows = read_rows(ROOT / "docs" / "rows.toml")
    if options.rows:
        rows = [row for row in rows if str(row["id"]).startswith(tuple(options.rows))]
    named = sorted({proof for row in rows for proof in proofs(row)})
    tests = [name for name in named if not name.startswith(PREFIX)]
    passed = run_tests([name for name in tests if not name.startswith(STOCK)])
    passed |= run_stock([name for name in tests if name.startswith(STOCK)])
    benches = run_benches([name.removeprefix(PREFIX) for name in named if name.startswith(PREFIX)])
    passed |= {PREFIX + name: good for name, good in benches.items()}
    counts = {"proven": 0, "failing": 0, "open": 0}
    for row in rows:
        mine = proofs(row)
        state = (
            "open" if not mine else "proven" if all(passed.get(name, False) for name in mine) else "failing"
        )
        counts[state] += 1
        print(f"{state:8} {row['id']}: {row['promise']}")
        for name in mine:
            if not passed.get(name, False):
                print(f"         not passed: {name}")
    print(", ".join(f"{count} {state}" for state, count in counts.items()))
    return 1 if counts["failing"] or (options.strict and counts["open"]) else 0


if __name__ == "__main__":
    sys.exit(main())
