"""Sizes and times: pages, binary units, and the way people write them."""

import re
from typing import Final

from dynmem.errors import ConfigError, quoted

PAGE_SHIFT: Final = 12
PAGE_SIZE: Final = 1 << PAGE_SHIFT
KIB: Final = 1 << 10
MIB: Final = 1 << 20
GIB: Final = 1 << 30
TIB: Final = 1 << 40
# The unit of st_blocks, whatever the file system's own block is (stat(2)).
STAT_BLOCK_BYTES: Final = 512
NS_PER_MS: Final = 1_000_000
NS_PER_S: Final = 1_000_000_000

_FACTORS: Final = {"B": 1, "K": KIB, "M": MIB, "G": GIB, "T": TIB}
_SIZE: Final = re.compile(
    r"\s*(\d{1,18})(?:\.(\d{1,18}))?\s*(?:(B)|([KMGT])(?:i?B)?)?\s*", re.IGNORECASE | re.ASCII
)
_LONGEST: Final = 64  # characters of a size or duration
_WHOLE_BELOW: Final = 10_000  # a whole number below this is readable as it is
_UNITS: Final = (("TiB", TIB), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB), ("B", 1))
_DURATION: Final = re.compile(r"\s*(\d{1,12})(?:\.(\d{1,9}))?\s*(ms|s|min|h)?\s*", re.ASCII)
_DURATION_NS: Final = {"ms": NS_PER_MS, "s": NS_PER_S, "min": 60 * NS_PER_S, "h": 3600 * NS_PER_S}


def parse_size(text: str, *, default_unit: str = "B") -> int:
    """Return the bytes of a size as people write it: ``512M``, ``2GiB``, ``1.5g``, ``4096``.

    Units are binary however they are spelled. `default_unit` (one of B K M G T) is the unit of a bare number:
    QEMU's ``-m 512`` is in MiB. Raises ValueError with a sentence that quotes the text.
    """
    match = _SIZE.fullmatch(text) if len(text) <= _LONGEST else None
    if match is None:
        raise ValueError(f"{quoted(text)} is not a size: write it like 512MiB, 2G or 4096")
    whole, fraction, as_bytes, letter = match.groups()
    unit = (as_bytes or letter or default_unit).upper()
    factor = _FACTORS[unit]
    size = int(whole) * factor
    if fraction:
        size += int(fraction) * factor // 10 ** len(fraction)
    return size


def named_size(what: str, text: str, least: int = 0, below: int | None = None) -> int:
    """Return the bytes of a size as people write it; ConfigError names *what* it is of."""
    try:
        size = parse_size(text)
    except ValueError as error:
        raise ConfigError(f"{what}: {error}") from error
    if below is not None and not least <= size < below:
        bounds = f"{format_size(least)} to below {format_size(below)}"
        raise ConfigError(f"{what}: {format_size(size)} is not from {bounds}")
    return size


def format_size(size: int) -> str:
    """Return bytes as people read them, exactly where that takes few digits: ``1.5 GiB``, ``1200 MiB``.

    The unit is the largest that is not above the size, or the next one if only that makes a whole number.
    """
    if size < 0:
        return "-" + format_size(-size)
    at = next((index for index, (_, factor) in enumerate(_UNITS) if size >= factor), len(_UNITS) - 1)
    unit, factor = _UNITS[at]
    if size * 100 % factor:
        smaller, below = _UNITS[at + 1]
        if size % below == 0 and size // below < _WHOLE_BELOW:
            return f"{size // below} {smaller}"
    whole, hundredths = divmod((size * 200 + factor) // (2 * factor), 100)
    number = f"{whole}.{hundredths:02}".rstrip("0").rstrip(".")
    return f"{number} {unit}"


def size_cell(size: int | None) -> str:
    """Return a size as a table has room for it: ``512M``, ``1.5G``; ``-`` if it is not known."""
    return "-" if size is None else format_size(size).replace(" ", "").removesuffix("iB")


def parse_duration(text: str) -> int:
    """Return the nanoseconds of a duration: ``1s``, ``250ms``, ``2min``; a bare number is in seconds."""
    match = _DURATION.fullmatch(text) if len(text) <= _LONGEST else None
    if match is None:
        raise ValueError(f"{quoted(text)} is not a duration: write it like 1s, 250ms or 2min")
    whole, fraction, unit = match.groups()
    factor = _DURATION_NS[unit or "s"]
    duration = int(whole) * factor
    if fraction:
        duration += int(fraction) * factor // 10 ** len(fraction)
    return duration


def pages_of(size: int) -> int:
    """Return the whole 4 KiB pages in `size` bytes, rounded down."""
    return size >> PAGE_SHIFT


def pages_covering(size: int) -> int:
    """Return the 4 KiB pages that hold `size` bytes, rounded up."""
    return -(-size // PAGE_SIZE)


def format_pages(pages: int) -> str:
    """Return 4 KiB pages as people read them: ``512 MiB``."""
    return format_size(pages << PAGE_SHIFT)
