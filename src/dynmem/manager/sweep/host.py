"""What the host itself says of its memory, /proc/meminfo, and how many descriptors it lets us have."""

import resource
from pathlib import Path
from typing import Final

from dynmem.errors import RemoteProtocolError
from dynmem.manager.step.facts import HostFacts
from dynmem.units import KIB

MEMINFO: Final = Path("/proc/meminfo")
_NEEDED: Final = ("MemTotal", "MemAvailable")


def allow_descriptors(count: int) -> bool:
    """Raise this process's limit of open descriptors to `count` if need be; False if the hard limit forbids.

    Shells and systemd give 1024, which a few hundred VMs use up.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted == count


def read_host(path: Path = MEMINFO) -> HostFacts:
    """Read the host's figures in bytes; RemoteProtocolError if the file is not what proc_meminfo(5) says."""
    found: dict[str, int] = {}
    with path.open("rb") as lines:
        for line in lines:
            name, _, rest = line.partition(b":")
            key = name.decode("ascii", "replace")
            if key in _NEEDED:
                words = rest.split()
                if len(words) != 2 or words[1] != b"kB" or not words[0].isdigit():
                    raise RemoteProtocolError(f"{path}: {key} is not a number of kB")
                found[key] = int(words[0]) * KIB
                if len(found) == len(_NEEDED):
                    break
    missing = [key for key in _NEEDED if key not in found]
    if missing:
        raise RemoteProtocolError(f"{path} has no {missing[0]}: Linux 3.14 or later is needed")
    return HostFacts(mem_available_bytes=found["MemAvailable"], mem_total_bytes=found["MemTotal"])
