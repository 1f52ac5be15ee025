"""The kernel's command line: what a machine of ours needs, and then what the user appends.

The user's words come last: of two that contradict each other, Linux takes the later one.
"""

import os
from typing import Final

from dynmem.errors import ConfigError
from dynmem.vm.kvm.boot.layout import COMMAND_LINE_BYTES_MAX

#: What every kernel is passed: the serial port is the only console; ticks of the PIT come late from a busy
#: host, and a kernel that counts them at boot would stop; there is no PCI bus to look for. A reset needs no
#: word here: ACPI has a register for it.
DEFAULTS: Final = "console=ttyS0 no_timer_check pci=off"


def command_line(append: str, *, longest: int) -> bytes:
    """Return the command line with its closing zero, at most `longest` bytes without that; or ConfigError."""
    line = os.fsencode(f"{DEFAULTS} {append}".rstrip())
    if b"\0" in line:
        raise ConfigError("--append: contains a zero byte, which ends a command line: leave it out")
    longest = min(longest, COMMAND_LINE_BYTES_MAX - 1)
    if len(line) > longest:
        raise ConfigError(
            f"--append: the command line has {len(line)} bytes, {len(DEFAULTS) + 1} of them ours, and this "
            f"kernel takes {longest}: shorten it"
        )
    return line + b"\0"
