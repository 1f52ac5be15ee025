"""``python -m tests.fuzz.coverage [NAME ...] --seconds N [--keep]``: coverage-guided runs, by atheris.

Each target runs in a process of its own, from its seeds and the kept corpus. What escapes is written to
.fuzz/NAME and printed. With --keep the inputs that reached something new join the target's corpus, until it
is full. atheris is no dependency of the project; `make fuzz-coverage` installs it into .venv.
"""

import argparse
import contextlib
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.fuzz import corpus

KEPT_BYTES_MAX = 400  # of one input
KEPT_MAX = 24  # inputs of one target


def child(name: str, arguments: list[str]) -> None:
    """Run libFuzzer over one target in this process; never returns."""
    import atheris

    with atheris.instrument_imports(include=["dynmem"]):
        from tests.fuzz.targets import TARGETS
    target = TARGETS[name]
    feed = target.make()

    def one(data: bytes) -> None:
        with contextlib.suppress(*target.errors):
            feed(data)

    atheris.Setup([sys.argv[0], *arguments], one)
    atheris.Fuzz()


def guided(name: str, seconds: int, *, keep: bool) -> bool:
    """One target for so many seconds; whether nothing escaped."""
    from tests.fuzz.targets import TARGETS

    own = [sys.executable, "-m", "tests.fuzz.coverage", "--child", name]
    found = Path(".fuzz") / name
    found.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as where:
        inputs = Path(where)
        for number, data in enumerate(TARGETS[name].seeds):
            (inputs / f"seed{number}").write_bytes(data)
        limits = [f"-max_len={KEPT_BYTES_MAX if keep else 4096}", f"-artifact_prefix={found}/"]
        run = subprocess.run(
            [*own, f"-max_total_time={seconds}", "-print_final_stats=1", *limits, str(inputs)],
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        print(f"{name:18} {'ESCAPED' if run.returncode else 'held'}  {summary(run.stderr)}", flush=True)
        if run.returncode:
            print(run.stderr[-3000:])
        elif keep:
            known = set(TARGETS[name].seeds)
            reached = {path.read_bytes() for path in inputs.iterdir()} - known
            corpus.save(name, [*corpus.load(name), *sorted(reached, key=len)][:KEPT_MAX])
    return run.returncode == 0


def summary(log: str) -> str:
    """libFuzzer's last line of progress."""
    lines = [line for line in log.splitlines() if " cov: " in line]
    return lines[-1].partition("\t")[2].strip() if lines else ""


def main() -> int:
    """Exit 1 when anything escaped."""
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], sys.argv[3:])
    from tests.fuzz.targets import TARGETS

    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.coverage", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=int, default=30, help="for each target")
    parser.add_argument("--keep", action="store_true", help="make what was reached the corpus")
    options = parser.parse_args()
    if unknown := set(options.names) - set(TARGETS):
        parser.error(f"no target {', '.join(sorted(unknown))}")
    results = [guided(name, options.seconds, keep=options.keep) for name in options.names or TARGETS]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
