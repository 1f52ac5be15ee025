"""`make accept-memory`: ten rounds between 128 MiB and 4 GiB, a line a step; exit 1 when one fails."""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from tests.accept.memory import NotAcceptedError, Plan, run


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m tests.accept", description=__doc__)
    parser.add_argument("--rounds", type=int, default=Plan().rounds, metavar="N")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dynmem-accept-") as folder:
        try:
            steps = asyncio.run(run(Path(folder), Plan(rounds=options.rounds), _show))
        except NotAcceptedError as error:
            print(error, file=sys.stderr)
            return 1
    checked = steps[-1].checked / (1 << 30)
    print(f"{options.rounds} rounds, {checked:.1f} GiB checked, no byte wrong")
    return 0


def _show(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
