"""`make accept-gmm`: scenes of the Global Memory Manager in real processes; exit 1 when a figure is wrong.

Each figure has its rule beside it. Named, only those scenes are played.
"""

import argparse
import asyncio
import importlib
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from tests.accept.gmm.figures import HEADER, Figures

SCENES: Final = {
    "refusal": "an over-full host refuses a VM",
    "dead_vm": "a killed VM's pages come back",
    "dead_manager": "a killed manager comes back with equal books",
    "shortage": "a shortage is answered by priority",
    "left_behind": "shared pages that a dead process leaves behind are reclaimed",
    "duplicates": "duplicates are found across two Linux guests under QEMU",
}
_SCENE_S: Final = 300.0


def main() -> int:
    """Play the scenes."""
    parser = argparse.ArgumentParser(prog="python -m tests.accept.gmm", description=__doc__)
    parser.add_argument(
        "scenes", nargs="*", choices=[[], *SCENES], default=[], metavar="SCENE", help=", ".join(SCENES)
    )
    names = parser.parse_args().scenes or list(SCENES)
    begun = time.monotonic()
    wrong = {name: found for name in names if (found := _play(name))}
    for name, found in wrong.items():
        for sentence in found:
            print(f"WRONG in {name}: {sentence}", file=sys.stderr)
    held = len(names) - len(wrong)
    print(f"\n{held} of {len(names)} scenes hold, {time.monotonic() - begun:.0f} s")
    return 1 if wrong else 0


def _play(name: str) -> list[str]:
    """Play one scene; return what was wrong."""
    print(f"\n{name}: {SCENES[name]}\n{HEADER}", flush=True)
    begun = time.monotonic()
    figures = Figures(_show)
    scene = importlib.import_module(f"tests.accept.gmm.{name}")
    with tempfile.TemporaryDirectory(prefix="dynmem-a") as folder:
        try:
            asyncio.run(asyncio.wait_for(scene.play(Path(folder), figures), _SCENE_S))
        except Exception as error:  # the other scenes are played all the same
            figures.wrong.append(f"{type(error).__name__}: {error}")
    if not figures.rules:
        figures.wrong.append("nothing was compared")
    verdict = f"{len(figures.wrong)} WRONG" if figures.wrong else "all right"
    print(f"  {figures.rules} rules, {verdict}, {time.monotonic() - begun:.1f} s", flush=True)
    return figures.wrong


def _show(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
