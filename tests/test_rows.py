"""docs/rows.toml: every promise once, and every proof it names is there."""

import ast
import functools
import tomllib
from pathlib import Path

from bench.__main__ import BENCHMARKS

ROOT = Path(__file__).resolve().parent.parent
ROWS = tomllib.loads((ROOT / "docs" / "rows.toml").read_text())["row"]


@functools.cache
def functions(path: Path) -> set[str]:
    return {
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_every_row_has_its_own_id_a_source_and_a_promise() -> None:
    assert len({row["id"] for row in ROWS}) == len(ROWS) >= 169
    assert all(row["source"] and row["promise"] for row in ROWS)


def test_every_test_and_benchmark_that_a_row_names_exists() -> None:
    lost = []
    for row in ROWS:
        for proof in row.get("tests", []):
            if proof.startswith("bench:"):
                exists = proof.removeprefix("bench:") in BENCHMARKS
            else:
                path, _, name = proof.partition("::")
                exists = (ROOT / path).is_file() and name in functions(ROOT / path)
            if not exists:
                lost.append((row["id"], proof))
    assert lost == []
