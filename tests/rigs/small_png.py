"""A picture for the documents: a screen as a PNG of 256 colours, smaller than what a browser makes of it."""

import struct
import zlib
from typing import Final

import numpy as np

_COLOURS: Final = 256
_PALETTE: Final = 3  # as the colour type


def small_png(width: int, height: int, rgba: bytes) -> bytes:
    """Return pixels as a PNG; other colours than those of its palette become the nearest of them."""
    pixels = np.frombuffer(rgba, np.uint8).reshape(height * width, 4)[:, :3].astype(np.uint32)
    packed = pixels[:, 0] << 16 | pixels[:, 1] << 8 | pixels[:, 2]
    colours, places, counts = np.unique(packed, return_inverse=True, return_counts=True)
    kept = _palette(_channels(colours), counts)
    nearest = np.stack([_apart(_channels(colours), each) for each in kept]).argmin(axis=0).astype(np.uint8)
    lines = np.zeros((height, width + 1), np.uint8)  # each begins with its filter: none
    lines[:, 1:] = nearest[places].reshape(height, width)
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, _PALETTE, 0, 0, 0)),
            _chunk(b"PLTE", kept.astype(np.uint8).tobytes()),
            _chunk(b"IDAT", zlib.compress(lines.tobytes(), 9)),
            _chunk(b"IEND", b""),
        )
    )


def _palette(
    colours: "np.typing.NDArray[np.int32]", counts: "np.typing.NDArray[np.intp]"
) -> "np.typing.NDArray[np.int32]":
    """Return those that are most frequent, and then whatever is farthest from all before."""
    chosen = list(np.argsort(-counts, kind="stable")[: _COLOURS // 2])
    far = np.stack([_apart(colours, colours[each]) for each in chosen]).min(axis=0)
    while len(chosen) < _COLOURS and far.any():
        chosen.append(far.argmax())
        far = np.minimum(far, _apart(colours, colours[chosen[-1]]))
    return colours[chosen]


def _apart(
    colours: "np.typing.NDArray[np.int32]", one: "np.typing.NDArray[np.int32]"
) -> "np.typing.NDArray[np.int32]":
    found: np.typing.NDArray[np.int32] = ((colours - one) ** 2).sum(axis=1)
    return found


def _channels(packed: "np.typing.NDArray[np.uint32]") -> "np.typing.NDArray[np.int32]":
    return np.stack([packed >> 16 & 255, packed >> 8 & 255, packed & 255], axis=1).astype(np.int32)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
