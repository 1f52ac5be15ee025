"""Gives the wheel man pages and completions: `scripts/dist.py` put them in the folder ``share`` of the sdist.

A checkout has no such folder, and a wheel built in it none of these files.
"""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class SharedData(BuildHookInterface):  # type: ignore[type-arg]
    """Adds the folder ``share`` where it exists."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the folder to what is installed below the environment's prefix."""
        del version
        if Path(self.root, "share").is_dir():
            build_data["shared_data"]["share"] = "share"
