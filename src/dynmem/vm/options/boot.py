"""The options of a guest with a kernel of its own: what it boots, its processors, its newest VMBus."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dynmem.errors import ConfigError
from dynmem.limits import VM_PROCESSORS_MAX
from dynmem.vm.options.text import Keys
from dynmem.wire.versions import VERSIONS, format_version

_VMBUS_VERSIONS: Final = {format_version(version): version for version in VERSIONS}


@dataclass(frozen=True)
class BootOptions:
    """``--kernel``, and what goes with it.

    Attributes:
        kernel: A bzImage, or an ELF file with an entry for PVH.
        initrd: The initial file system, if there is one.
        append: What the command line ends with.
    """

    kernel: Path
    initrd: Path | None = None
    append: str = ""


def parse_boot(kernel: Path | None, initrd: Path | None, append: str | None) -> BootOptions | None:
    """Return what ``--kernel``, ``--initrd`` and ``--append`` say together; None without a kernel."""
    if kernel is not None:
        return BootOptions(kernel, initrd, append or "")
    for option, given in (("--initrd", initrd), ("--append", append)):
        if given is not None:
            raise ConfigError(
                f"{option} {str(given)!r}: there is no kernel that it is for: add --kernel FILE"
            )
    return None


def parse_processors(text: str) -> int:
    """Parse ``N`` or ``cpus=N``, the number of virtual processors."""
    keys = Keys("smp", text, implied="cpus")
    keys.only(("cpus",))
    count = keys.integer("cpus", 0, VM_PROCESSORS_MAX)
    if count == 0:
        raise keys.wrong(f"a machine has 1 to {VM_PROCESSORS_MAX} virtual processors")
    return count


def parse_vmbus_version(text: str) -> int:
    """Parse the newest VMBus version that a guest may use, such as ``4.0``."""
    if text not in _VMBUS_VERSIONS:
        raise ConfigError(
            f"--vmbus-version {text!r}: not a version of VMBus; the versions are {', '.join(_VMBUS_VERSIONS)}"
        )
    return _VMBUS_VERSIONS[text]
