"""`dynmem run` beside real Linux guests: its configuration, and its process."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.rigs.scenes import logged

from dynmem.lab.qemu import QemuGuest


def configuration(
    folder: Path, guests: Sequence[QemuGuest], *, budget: str, mode: str = "enforce", maximum_mib: int = 512
) -> Path:
    """Write what a manager of these guests is configured with; the file."""
    text = f"""
        [host]
        budget = "{budget}"
        slush = "32MiB"
        [manager]
        mode = "{mode}"
        period = "500ms"
        socket = "{folder}/api/socket"
        state = "{folder}/state"
    """
    for guest in guests:
        text += f"""
        [[vm]]
        name = "{guest.name}"
        qmp = "{guest.qmp_path}"
        minimum = "160MiB"
        maximum = "{maximum_mib}MiB"
        """
    path = folder / "config.toml"
    path.write_text(text)
    return path


@contextmanager
def process_of_manager(config: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`dynmem run`, for as long as the block lasts."""
    command = ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "dynmem", "run"]
    command += ["--config", str(config)]
    with (
        log.open("w") as output,
        logged(log),
        subprocess.Popen(command, stdout=output, stderr=output) as process,
    ):
        try:
            yield process
        finally:
            process.terminate()


@contextmanager
def manager(config: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`dynmem run`, for as long as the block lasts; it ends as an operator would end it, and ends well."""
    with process_of_manager(config, log) as process:
        yield process
    assert process.returncode == 0, log.read_text()
