"""What the rules look at: the host, and each guest."""

from typing import Final, NamedTuple

#: The share of a host's memory that the rules of Proxmox and of MOM leave to guests.
HOST_SHARE: Final = 0.8


class Host(NamedTuple):
    """The host as the rules see it: one of which the guests' budget is `HOST_SHARE`.

    Attributes:
        total_bytes: Its memory.
        used_bytes: What the guests hold of it: resident memory.
    """

    total_bytes: int
    used_bytes: int

    @property
    def free_bytes(self) -> int:
        """What is left."""
        return self.total_bytes - self.used_bytes


class Sharer(NamedTuple):
    """A guest as the rules see it; sizes in bytes.

    Attributes:
        size: What its balloon leaves it.
        minimum: The least that it may be given.
        maximum: The most.
        free: Its own figure of free memory.
        shares: Its weight beside others.
    """

    size: int
    minimum: int
    maximum: int
    free: int
    shares: int = 1000
