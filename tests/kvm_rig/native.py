"""Whether this machine's own /dev/kvm boots a stock kernel: found out by booting one.

That it opens and can do all that our monitor needs proves nothing: on some machines no stock kernel boots.
"""

import os
import selectors
import subprocess
import time
from typing import Final

from tests.kvm_rig.build import Rig

from dynmem.errors import DynmemError
from dynmem.vm.kvm.host import open_kvm

_DEVICE: Final = "/dev/kvm"
_KERNEL: Final = "6.1"
_PROCESSORS: Final = 2  # the most that a test starts
_READY: Final = b"rig: ready"
SECONDS: Final = 20.0


def reason_against(rig: Rig, *, seconds: float = SECONDS) -> str | None:
    """Return None if it does, else why not, as half a sentence."""
    try:
        os.close(open_kvm(_PROCESSORS))
    except DynmemError as error:
        return str(error)
    guest = rig.guests / _KERNEL
    command = [*rig.tree.qemu(), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
    command += ["-machine", "q35", "-accel", "kvm", "-cpu", "host", "-m", "256M", "-serial", "stdio"]
    command += ["-kernel", str(guest / "vmlinuz"), "-initrd", str(guest / "initrd")]
    command += ["-append", "console=ttyS0 quiet panic=-1 rig.drivers=no"]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
    ) as process:
        try:
            return _awaited(process, time.monotonic() + seconds)
        finally:
            process.kill()


def _awaited(process: subprocess.Popen[bytes], deadline: float) -> str | None:
    assert process.stdout is not None
    said = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while _READY not in said:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                return f"{_DEVICE} opens, but a stock kernel did not boot with it"
            if not (data := os.read(process.stdout.fileno(), 1 << 16)):
                return f"QEMU cannot run a stock kernel with {_DEVICE}"
            said += data
    return None
