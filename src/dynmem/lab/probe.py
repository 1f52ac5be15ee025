"""Finds out whether guests run under KVM here, by running one.

Opening /dev/kvm proves nothing: on some machines it opens, but no stock kernel boots. So a small guest is
booted with it, and only its report counts. The result is valid for this process and is not stored.
"""

import os
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from dynmem.errors import DeadlineError
from dynmem.lab.qemu import Accelerator, GuestLostError, QemuGuest
from dynmem.limits import LAB_GUEST_BYTES_MIN

PROBE_SECONDS: Final = 10.0
_DEVICE: Final = "/dev/kvm"


@dataclass(frozen=True)
class Choice:
    """The accelerator that guests get here, and the reason, as half a sentence."""

    accel: Accelerator
    reason: str


@cache
def accelerator() -> Choice:
    """Return KVM if a probe guest booted with it within `PROBE_SECONDS`, else software emulation."""
    if not os.access(_DEVICE, os.R_OK | os.W_OK):
        return Choice("tcg", f"{_DEVICE} is missing, or this user may not open it")
    with tempfile.TemporaryDirectory(prefix="dynmem-probe-") as folder:
        return try_kvm(Path(folder))


def try_kvm(folder: Path, *, seconds: float = PROBE_SECONDS) -> Choice:
    """Boot a guest with KVM, its sockets in `folder`, and return whether it reported within `seconds`."""
    guest = QemuGuest("probe", LAB_GUEST_BYTES_MIN, folder, accel="kvm")
    try:
        guest.start()
        report = guest.ready(seconds)
    except GuestLostError:
        return Choice("tcg", f"QEMU cannot run a guest with {_DEVICE} here")
    except DeadlineError:
        return Choice("tcg", f"{_DEVICE} opens, but a probe guest did not boot within {seconds:g} s")
    finally:
        guest.stop()
    return Choice("kvm", f"a probe guest booted with it in {report.t:.1f} s")
