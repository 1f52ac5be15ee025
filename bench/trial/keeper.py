"""What stays of a run: its series and logs, and the reference that a later trial may use."""

import shutil
from pathlib import Path
from typing import Final

import msgspec

from bench.trial.measures import Series
from bench.trial.script import Script
from dynmem.units import MIB

SERIES: Final = "series.json"
_LOGS: Final = {".log", ".toml", ".sqlite"}


class Kept(msgspec.Struct, frozen=True):
    """What is in the file of a run."""

    script: Script
    series: Series


class Keeper:
    """The folder of one run, in the folder that keeps all of them."""

    def __init__(self, keep: Path, policy: str, script: Script) -> None:
        self._folder = keep / f"{policy}-{script.rate_bytes // MIB}-{script.seed}"
        self._script = script

    def earlier(self) -> Series | None:
        """Return the series of an earlier run with the same script, or None."""
        try:
            kept = msgspec.json.decode((self._folder / SERIES).read_bytes(), type=Kept)
        except (OSError, msgspec.DecodeError):
            return None
        return kept.series if kept.script == self._script else None

    def logs(self, folder: Path) -> None:
        """Keep the logs, the configuration and the journal in the folder of a run."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for path in folder.rglob("*"):
            if path.suffix in _LOGS:
                shutil.copy(path, self._folder)

    def series(self, series: Series) -> None:
        """Keep the series."""
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / SERIES).write_bytes(msgspec.json.encode(Kept(self._script, series)))
