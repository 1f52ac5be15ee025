"""Resident memory of a VM's two processes without guest RAM, beside an interpreter with numpy."""

import subprocess
import sys
from collections.abc import Iterator

from bench import rig
from bench.figures import Figure
from dynmem.units import MIB


def run() -> Iterator[Figure]:
    """Start one VM, and an interpreter that has imported what both processes need."""
    with rig.folder() as where, rig.vm("one", 256 * MIB, "steady,rate=512MiB", where) as (pid, _monitor):
        (guest,) = rig.children(pid)
        host_bytes, guest_bytes = rig.own_bytes(pid), rig.own_bytes(guest)
        bare = subprocess.Popen(
            [sys.executable, "-c", "import numpy, sys; print(flush=True); sys.stdin.read()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert bare.stdout is not None
        bare.stdout.readline()
        bare_bytes = rig.own_bytes(bare.pid)
        bare.communicate()
    yield Figure("the VM's process", host_bytes / MIB, "MiB")
    yield Figure("the embedded guest's process", guest_bytes / MIB, "MiB")
    yield Figure("both", (host_bytes + guest_bytes) / MIB, "MiB", at_most=120)
    yield Figure("an interpreter with numpy", bare_bytes / MIB, "MiB")
    yield Figure("ratio, both to two interpreters", (host_bytes + guest_bytes) / 2 / bare_bytes, "x")
