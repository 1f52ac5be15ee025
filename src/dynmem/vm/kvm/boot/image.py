"""What the file of a kernel says of itself, whatever its format: where its parts go, and where it starts."""

from typing import Final, Literal, NamedTuple

#: Memory that a kernel may ask for, from its first byte to its last. Debian's needs 60 MiB.
KERNEL_BYTES_MAX: Final = 1 << 30

Protocol = Literal["pvh", "linux64"]


class Segment(NamedTuple):
    """A part of the file, and the memory that it is copied to.

    Attributes:
        offset: Where it begins in the file.
        address: Where it begins in guest memory.
        size: Its bytes.
        zeros: The bytes of memory that follow it and must be zero.
    """

    offset: int
    address: int
    size: int
    zeros: int = 0


class Image(NamedTuple):
    """A kernel that can be loaded.

    Attributes:
        protocol: How it is started.
        entry: The address where it starts.
        segments: Its parts.
        start: The first address of the memory that it needs.
        end: The address after that memory.
        initrd_end: No byte of the initrd may be at this address or above.
        command_line_max: Bytes of the longest command line, without its closing zero.
        setup_header: For linux64, what goes to offset 0x1f1 of the boot parameters.
    """

    protocol: Protocol
    entry: int
    segments: tuple[Segment, ...]
    start: int
    end: int
    initrd_end: int
    command_line_max: int
    setup_header: bytes = b""
