"""Makes wrong input out of right input: a deterministic stream of mutants of a few seeds, hundreds at a time.

Most mutants overwrite a few bytes or words (with random or extreme values), many are cut or grown, some have
pieces deleted, doubled, exchanged between seeds, or words of the format's own language put in. About one in
ten is a seed as it is, so that machines get on.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

BATCH = 512
EXTREMES = np.array([0, 1, 2, 3, 7, 8, 9, 16, 20, 24, 31, 32, 64, 127, 128, 240, 254, 255], dtype=np.uint8)


@dataclass(frozen=True)
class Target:
    """One parser or machine: `make` gives a fresh feeder, out of which only `errors` may come."""

    name: str
    make: Callable[[], Callable[[bytes], object]]
    seeds: tuple[bytes, ...]
    errors: tuple[type[Exception], ...] = ()
    words: tuple[bytes, ...] = field(default=(b"\0\0\0\0", b"\xff\xff\xff\xff"))
    alphabet: bytes = b""  # of a format of text: what most changed bytes are changed to
    cost: int = 1  # an input counts for so many

    def share(self, inputs: int) -> int:
        """How many inputs of this target cost as much as `inputs` of a plain one; at least one."""
        return max(1, inputs // self.cost)


class EscapedError(AssertionError):
    """Something came out of a target that may not."""


def mutants(
    seeds: Sequence[bytes], words: Sequence[bytes], count: int, seed: int, alphabet: bytes = b""
) -> Iterator[bytes]:
    """`count` mutants; the same arguments give the same bytes."""
    chance = np.random.default_rng(seed)
    while count > 0:
        batch = min(BATCH, count)
        count -= batch
        base = seeds[int(chance.integers(len(seeds)))]
        other = seeds[int(chance.integers(len(seeds)))]
        letters = alphabet if chance.random() < 0.9 else b""
        yield from _batch(base, other, words, letters, batch, chance)


def _batch(
    base: bytes,
    other: bytes,
    words: Sequence[bytes],
    alphabet: bytes,
    batch: int,
    chance: np.random.Generator,
) -> Iterator[bytes]:
    length = len(base)
    rows = np.tile(np.frombuffer(base + other, dtype=np.uint8), (batch, 1))
    ways = chance.integers(0, 20, batch)
    if length:
        before = rows[0].copy()
        _overwrite(rows, length, ways, chance)
        if alphabet:
            changed = rows != before
            rows[changed] = np.frombuffer(alphabet, dtype=np.uint8)[rows[changed] % len(alphabet)]
    ends = np.full(batch, length)
    ends[ways == 18] = chance.integers(0, length + 1, int((ways == 18).sum()))  # cut
    ends[ways == 17] = chance.integers(length, rows.shape[1] + 1, int((ways == 17).sum()))  # grown
    places = chance.integers(0, max(1, length), (batch, 3)).tolist()
    whole = rows.tobytes()
    width = rows.shape[1]
    for at, (way, end) in enumerate(zip(ways.tolist(), ends.tolist(), strict=True)):
        data = whole[at * width : at * width + end]
        if 14 <= way <= 16:
            data = _rearranged(data, way, places[at], words)
        yield data


def _overwrite(
    rows: np.ndarray[tuple[int, int], np.dtype[np.uint8]],
    length: int,
    ways: np.ndarray[tuple[int], np.dtype[np.int64]],
    chance: np.random.Generator,
) -> None:
    """Change one to four bytes, or aligned words, of each row that is to be changed (`ways` 2 to 18)."""
    everyone = np.arange(len(rows))
    for turn in range(4):
        chosen = everyone[(ways >= 2) & (ways <= 18) & (ways % 4 >= turn)]
        values = chance.integers(0, 256, len(chosen), dtype=np.uint8)
        extreme = chance.random(len(chosen)) < 0.5
        values[extreme] = EXTREMES[chance.integers(0, len(EXTREMES), int(extreme.sum()))]
        places = chance.integers(0, length, len(chosen))
        rows[chosen, places] = values
        if turn == 0 and length >= 4:  # a word of two or four bytes, as one number
            wide = chosen[chance.random(len(chosen)) < 0.3]
            starts = chance.integers(0, length // 4, len(wide)) * 4
            fill = chance.choice(np.array([0, 0xFF, 0x7F, 0x80], dtype=np.uint8), len(wide))
            for step in range(4):
                rows[wide, starts + step] = fill


def _rearranged(data: bytes, way: int, places: Sequence[int], words: Sequence[bytes]) -> bytes:
    first, second = sorted(places[:2])
    if way == 14:
        return data[:first] + data[second:]
    if way == 15:
        return data[:second] + data[first:second] + data[second:]
    return data[:first] + words[places[2] % len(words)] + data[first:]


def _stream(target: Target, count: int, seed: int) -> Iterator[bytes]:
    return mutants(target.seeds, target.words, count, seed, target.alphabet)


def run(target: Target, count: int, seed: int = 1) -> None:
    """Feed `count` mutants; EscapedError with the bytes and how to come back here, if anything escapes."""
    feed, errors = target.make(), target.errors
    for number, data in enumerate(_stream(target, count, seed), start=1):
        try:
            feed(data)
        except errors:
            pass
        except Exception as error:
            raise EscapedError(
                f"{target.name}: {type(error).__name__}: {error} from input {number}, {data.hex()} "
                f"(python -m tests.fuzz {target.name} --inputs {number * target.cost} --seed {seed})"
            ) from error
