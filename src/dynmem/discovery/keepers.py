"""Which monitors belong to the program that keeps a VM: whoever else uses one of these borrows it.

    Proxmox    /run/qemu-server/VMID.qmp                    connects for each batch of commands
    libvirt    .../libvirt/qemu/domain-ID-NAME/monitor.sock stays connected

Both give each QEMU a socket in a folder of their own. `/var/run` is `/run`, whichever is written.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

_OWN: Final = re.compile(
    r"(?:/var)?/run/qemu-server/[1-9][0-9]{0,8}\.qmp|/.*/libvirt/qemu/(?:lib/)?domain-[^/]+/monitor\.sock"
)


_SYSTEMS: Final = "/var/lib/libvirt/"
SYSTEM, SESSION = "qemu:///system", "qemu:///session"


def libvirt_of(monitors: Sequence[Path]) -> str:
    """Return the URI of the libvirt that keeps a domain: the system's, or a user's own by its monitor."""
    own = [str(each) for each in monitors if is_keepers_own(each)]
    return SESSION if own and not any(each.startswith(_SYSTEMS) for each in own) else SYSTEM


def is_keepers_own(path: Path) -> bool:
    """Return whether a monitor is the own one of the program that keeps its VM, also behind a link."""
    return any(_OWN.fullmatch(each) is not None for each in (str(path), os.path.realpath(path)))
