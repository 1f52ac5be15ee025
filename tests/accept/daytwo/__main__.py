"""`make accept-daytwo`: a small host with all that an operator lives with; exit 1 when a figure is wrong.

Four Linux guests run for ten minutes under a manager in enforce mode, with its history, metrics, page,
`dynmem top` and events. Afterwards nothing runs, and the history alone has to answer what happened, when
memory was short and how many more VMs fit; every answer is held against what the scene itself did and saw.
"""

import argparse
import sys
from functools import partial
from typing import Final

from tests.accept.daytwo.day import play
from tests.accept.scenes import played
from tests.rigs.prometheus import ROOT

#: Guests start before the run, and questions are asked after it.
_AROUND_S: Final = 400.0
_MINUTES_MIN: Final = 1.5


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m tests.accept.daytwo", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, metavar="N", help="how long the host runs")
    parser.add_argument("--pictures", action="store_true", help="write the pictures of docs/ again")
    options = parser.parse_args()
    if options.minutes < _MINUTES_MIN:
        parser.error(f"--minutes: {options.minutes:g} is too short for the script: {_MINUTES_MIN:g} or more")
    run_s = 60 * options.minutes
    pictures = ROOT / "docs" if options.pictures else None
    what = f"{options.minutes:g} minutes of a host, and what its history answers afterwards"
    wrong = played("day two", what, partial(play, run_s=run_s, pictures=pictures), run_s + _AROUND_S)
    for sentence in wrong:
        print(f"WRONG: {sentence}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
