"""Scenes of real processes, played one after the other; exit 1 when a figure in one of them is wrong."""

import argparse
import asyncio
import importlib
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, Final

from tests.accept.figures import HEADER, Figures

#: Plays a scene in a folder of its own.
Play = Callable[[Path, Figures], Coroutine[Any, Any, None]]
_SCENE_S: Final = 300.0


def main(package: str, scenes: Mapping[str, str], description: str | None) -> int:
    """Play the scenes that the command line names, or all; each is a module of the package with a `play`."""
    parser = argparse.ArgumentParser(prog=f"python -m {package}", description=description)
    parser.add_argument(
        "scenes", nargs="*", choices=[[], *scenes], default=[], metavar="SCENE", help=", ".join(scenes)
    )
    names = parser.parse_args().scenes or list(scenes)
    begun = time.monotonic()
    wrong = {name: found for name in names if (found := _play(package, name, scenes[name]))}
    for name, found in wrong.items():
        for sentence in found:
            print(f"WRONG in {name}: {sentence}", file=sys.stderr)
    held = len(names) - len(wrong)
    print(f"\n{held} of {len(names)} scenes hold, {time.monotonic() - begun:.0f} s")
    return 1 if wrong else 0


def _play(package: str, name: str, what: str) -> list[str]:
    """Play one scene of a package; return what was wrong."""
    return played(name, what, importlib.import_module(f"{package}.{name}").play, _SCENE_S)


def played(name: str, what: str, play: Play, within_s: float) -> list[str]:
    """Play one scene, whose figures are shown as they come; return what was wrong."""
    print(f"\n{name}: {what}\n{HEADER}", flush=True)
    begun = time.monotonic()
    figures = Figures(_show)
    with tempfile.TemporaryDirectory(prefix="dynmem-a") as folder:
        try:
            asyncio.run(asyncio.wait_for(play(Path(folder), figures), within_s))
        except Exception as error:  # the other scenes are played all the same
            figures.wrong.append(f"{type(error).__name__}: {error}")
    if not figures.rules:
        figures.wrong.append("nothing was compared")
    verdict = f"{len(figures.wrong)} WRONG" if figures.wrong else "all right"
    print(f"  {figures.rules} rules, {verdict}, {time.monotonic() - begun:.1f} s", flush=True)
    return figures.wrong


def _show(line: str) -> None:
    print(line, flush=True)
