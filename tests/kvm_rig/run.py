"""Runs pytest where stock kernels boot: on this machine's own /dev/kvm, else in the emulated host."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.kvm_rig import emulated, native
from tests.kvm_rig.build import Rig
from tests.kvm_rig.debian import GUEST_KERNELS
from tests.kvm_rig.place import GUESTS, QEMU

from dynmem.errors import ConfigError

_ROOT: Final = Path(__file__).resolve().parents[2]
_OPTIONS: Final = (
    "-q",
    "-p",
    "no:cacheprovider",
    "-p",
    "no:randomly",
    "-o",
    "timeout=900",
    "-o",
    "junit_family=xunit1",
)
_FOLDER: Final = "tests/kvm"
_TESTS: Final = (_FOLDER, "-m", "not soak")


def run(rig: Rig, arguments: Sequence[str], *, emulated_only: bool) -> int:
    """Run these tests, or all that need stock kernels, and return pytest's exit code.

    What they leave (a host's console, a report for programs) is in build/kvm-rig, a folder for each host.
    Raises ConfigError while another run in this checkout writes there.
    """
    results = _ROOT / "build/kvm-rig"
    results.parent.mkdir(exist_ok=True)
    with (results.parent / "kvm-rig.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"another run in this checkout uses {results}: wait for its end") from None
        shutil.rmtree(results, ignore_errors=True)
        results.mkdir()
        return _run(rig, arguments, results, emulated_only=emulated_only)


def _run(rig: Rig, arguments: Sequence[str], results: Path, *, emulated_only: bool) -> int:
    words = [*_OPTIONS, *(arguments or _TESTS)]
    if sys.stdout.isatty():
        words.append("--color=yes")
    against = "it was asked for" if emulated_only else native.reason_against(rig)
    if against is None:
        print("stock guests run on this machine's own /dev/kvm", flush=True)
        (results / "here").mkdir()
        return _run_here(rig, [*words, f"--junit-xml={results / 'here/report.xml'}"])
    kernels = list(GUEST_KERNELS) if any(_FOLDER in word for word in words) else list(GUEST_KERNELS)[:1]
    print(f"stock guests run in an emulated host for each of {', '.join(kernels)}: {against}", flush=True)
    return emulated.run(rig, [*words, "--junit-xml=/results/report.xml"], kernels, results)


def _run_here(rig: Rig, words: Sequence[str]) -> int:
    environment = os.environ | {GUESTS: str(rig.guests), QEMU: json.dumps(rig.tree.qemu())}
    command = [sys.executable, "-m", "pytest", *words]
    return subprocess.run(command, cwd=_ROOT, env=environment, check=False).returncode
