"""The page set beside the usual way, a balanced tree of ranges (glib's GTree, in C).

Both sides get the same messages in the same run, in turns, and must agree on every page that is new, named
twice or rejected. The tree's time is that of C alone, with the faster of two ways to insert. Ours is the time
that the caller of `PageSet.add` waits, one call per message, including the sorted list of what to discard.
Times are processor time. "Beside the tree" is the tree's time divided by ours: above 1 ours is faster.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import numpy as np

from bench import page_workloads, peer_programs
from bench.figures import Figure
from bench.page_workloads import Workload
from bench.peer_programs import Measured
from dynmem.limits import DM_RANGES_PER_MESSAGE, DM_UNBALLOON_CHUNK_PAGES
from dynmem.memory.pending import PendingDiscards
from dynmem.pages import ranges
from dynmem.pages.page_set import PageSet
from dynmem.units import GIB, MIB, PAGE_SIZE, TIB

ROUNDS: Final = 3
VARIANTS: Final = ("insert-then-merge", "look-then-extend")
BITMAP_SHARE: Final = 32768  # a bit for each page
CONSTANT: Final = 2 * MIB  # of a set: counts of chunks, and what the measurement itself moves

# about two thirds of what was measured when the figures were written down
FASTER: Final = {"random 256 KiB": 1.5, "every 2nd 4 KiB, random": 3, "mix": 2}
IN_A_SECOND: Final = (
    "contiguous",
    "random 256 KiB",
    "mix",
)  # 200 GB given back, whatever guest they came from


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_SIZE


def _ours(workload: Workload, messages: list[bytes]) -> Measured:
    """Insert the messages, then take all of it back as the host does; named as the peer does."""
    before = _resident()
    begin = time.process_time()
    pages = PageSet(workload.guest_pages)
    new = duplicates = rejected = 0
    for message in messages:
        added = pages.add(message)
        new += added.new
        duplicates += added.duplicates
        rejected += added.rejected
    inserted = time.process_time() - begin
    grown = _resident() - before
    count, back = 0, []
    begin = time.process_time()
    while taken := pages.take(DM_UNBALLOON_CHUNK_PAGES, DM_RANGES_PER_MESSAGE):
        count += 1
        back.append(taken)
    took = time.process_time() - begin
    return {
        "insert_s": inserted,
        "grown_bytes": grown,
        "new": new,
        "duplicates": duplicates,
        "rejected": rejected,
        "take_s": took,
        "messages": count,
        "taken": ranges.page_count(b"".join(back)),
    }


def _theirs(program: Path, variant: str, workload: Workload, file: Path) -> Measured:
    limits = (workload.guest_pages, DM_RANGES_PER_MESSAGE, DM_UNBALLOON_CHUNK_PAGES)
    return peer_programs.measured(program, variant, *limits, file)


def _agree(ours: Measured, theirs: Measured) -> None:
    for name in ("new", "duplicates", "rejected", "taken"):
        if ours[name] != theirs[name]:
            raise AssertionError(f"{name}: {ours[name]} pages here, {theirs[name]} in the tree")


def _compare(program: Path, workload: Workload) -> tuple[Measured, Measured]:
    """Both sides by turns; the medians of each, the tree's of its faster way."""
    messages = workload.messages()
    sides: dict[str, list[Measured]] = {"ours": [], **{variant: [] for variant in VARIANTS}}
    with tempfile.NamedTemporaryFile(prefix="dynmem-bench-") as file:
        workload.words.tofile(file.name)
        for _round in range(ROUNDS):
            sides["ours"].append(_ours(workload, messages))
            for variant in VARIANTS:
                sides[variant].append(_theirs(program, variant, workload, Path(file.name)))
                _agree(sides["ours"][-1], sides[variant][-1])
    middle = {side: peer_programs.medians(rounds) for side, rounds in sides.items()}
    return middle["ours"], min((middle[variant] for variant in VARIANTS), key=lambda side: side["insert_s"])


def _workload(program: Path, workload: Workload) -> Iterator[Figure]:
    ours, tree = _compare(program, workload)
    name, count = workload.name, workload.words.size
    messages = -(-count // DM_RANGES_PER_MESSAGE)
    limit = (workload.guest_bytes / BITMAP_SHARE + CONSTANT) / MIB
    gib = ours["taken"] * PAGE_SIZE / GIB
    faster = next((bound for start, bound in FASTER.items() if name.startswith(start)), None)
    yield Figure(
        f"{name}: insert, beside the tree", tree["insert_s"] / ours["insert_s"], "x", at_least=faster
    )
    yield Figure(f"{name}: insert, a range", ours["insert_s"] / count * 1e9, "ns")
    yield Figure(f"{name}: insert, a message", ours["insert_s"] / messages * 1e6, "us")
    yield Figure(f"{name}: memory", ours["grown_bytes"] / MIB, "MiB", at_most=limit)
    yield Figure(f"{name}: memory, the tree", tree["grown_bytes"] / MIB, "MiB")
    yield Figure(f"{name}: give back, beside the tree", tree["take_s"] / ours["take_s"], "x")
    is_quick = name.startswith(IN_A_SECOND)
    yield Figure(
        f"{name}: give back, beside inserting it",
        ours["insert_s"] / ours["take_s"],
        "x",
        at_least=1 if is_quick else None,
    )
    seconds = ours["take_s"] / gib * 200e9 / GIB
    yield Figure(f"{name}: give back 200 GB", seconds, "s", promised=1 if is_quick else None)


def _hostile() -> Iterator[Figure]:
    """Single messages of 4 KiB that ask for as much work as they can, each to a set that makes it worst."""
    total = TIB // PAGE_SIZE
    whole = page_workloads.longest(TIB)[:DM_RANGES_PER_MESSAGE].tobytes()
    every_chunk = ranges.pack(
        np.arange(DM_RANGES_PER_MESSAGE, dtype=np.uint64) * 16 * 32768 + 1,
        np.full(DM_RANGES_PER_MESSAGE, 32768 * 16 - 2, np.uint64),
    )
    half_chunks = ranges.pack(
        np.arange(DM_RANGES_PER_MESSAGE, dtype=np.uint64) * 16 * 32768 + 1,
        np.full(DM_RANGES_PER_MESSAGE, 32768 * 2 - 2, np.uint64),
    )
    one_page_each = page_workloads.every_second(TIB, ascending=True)[:: total // 2 // 8192]

    def bitmap_everywhere() -> PageSet:
        pages = PageSet(total)
        pages.add(one_page_each.tobytes())
        return pages

    def broken_everywhere() -> PageSet:
        pages = PageSet(total)
        blocks = np.arange(0, total, 1024, dtype=np.uint64)
        pages.add(ranges.pack(blocks, np.full(blocks.size, 512, np.uint64)))
        return pages

    usual_s = _usual(DM_RANGES_PER_MESSAGE)
    for name, message in (
        ("hostile message, all of 1 TiB over and over", whole),
        ("hostile message, 510 ranges that end inside 128 MiB", every_chunk),
        ("hostile message, 510 ranges of almost 256 MiB", half_chunks),
    ):
        yield from _slowest(f"{name}: empty set", lambda: PageSet(total), message, usual_s)
        yield from _slowest(f"{name}: a page in each 128 MiB", bitmap_everywhere, message, usual_s)
        yield from _slowest(f"{name}: every second 2 MiB", broken_everywhere, message, usual_s)


def _slowest(name: str, make: Callable[[], PageSet], message: bytes, usual_s: float) -> Iterator[Figure]:
    """The median of the first, worst time that a set takes the message, and how many usual ones that is."""
    times = []
    for _round in range(5):
        pages = make()
        begin = time.process_time()
        pages.add(message)
        times.append(time.process_time() - begin)
        del pages
    slowest = statistics.median(times)
    yield Figure(name, slowest * 1e3, "ms", promised=10)
    yield Figure(f"{name}, in usual messages", slowest / usual_s, "x", at_most=250)


def _usual(count: int) -> float:
    """Seconds that a message of so many ranges takes: random ones of 256 KiB, in a guest of 64 GiB."""
    words = page_workloads.scattered(64 * GIB, page_workloads.PIECE)
    messages = [words[at : at + count].tobytes() for at in range(0, min(words.size, count * 2000), count)]
    rounds = []
    for _round in range(ROUNDS):
        pages = PageSet(64 * GIB // PAGE_SIZE)
        begin = time.process_time()
        for message in messages:
            pages.add(message)
        rounds.append((time.process_time() - begin) / len(messages))
    return statistics.median(rounds)


def _small() -> Iterator[Figure]:
    """What a message costs at least."""
    for count in (1, 64, DM_RANGES_PER_MESSAGE):
        yield Figure(f"a message of {count} range{'s' * (count > 1)}", _usual(count) * 1e6, "us")


def _metadata() -> Iterator[Figure]:
    """What a set of a guest of 1 TiB occupies, whatever the guest chooses."""
    total = TIB // PAGE_SIZE
    limit = (TIB / BITMAP_SHARE + CONSTANT) / MIB
    batch = 1 << 17

    def grown(fill: Callable[[PageSet], None]) -> float:
        before = _resident()
        pages = PageSet(total)
        fill(pages)
        after = (_resident() - before) / MIB
        assert len(pages)
        return after

    kept: list[PendingDiscards] = []

    def one_range(pages: PageSet) -> None:
        pages.add(ranges.span(0, total))

    scattered = ranges.from_pages(np.arange(0, total, 32768))

    def one_in_each_bitmap_page(pages: PageSet) -> None:
        pages.add(scattered)

    def held_back(pages: PageSet) -> None:
        pending = PendingDiscards(pages)
        pending.add(pages.add(scattered).coalesced, 0)
        kept.append(pending)
        assert len(pending) == len(pages)

    def checkerboard(pages: PageSet) -> None:
        for start in range(0, total, batch):
            starts = np.arange(start, start + batch, 2, dtype=np.uint64)
            pages.add(ranges.pack(starts, np.ones_like(starts)))

    yield Figure("guest of 1 TiB, one range: memory", grown(one_range), "MiB", at_most=CONSTANT / MIB)
    yield Figure(
        "guest of 1 TiB, a page in each 128 MiB: memory", grown(one_in_each_bitmap_page), "MiB", at_most=limit
    )
    yield Figure(
        "guest of 1 TiB, the same, discards held back: memory", grown(held_back), "MiB", at_most=2 * limit
    )
    kept.clear()
    yield Figure("guest of 1 TiB, every second page: memory", grown(checkerboard), "MiB", at_most=limit)


def _run(*, big: bool) -> Iterator[Figure]:
    with peer_programs.built("page_set") as program:
        for make in page_workloads.workloads(big=big):
            yield from _workload(program, make())
    yield from _small()
    yield from _hostile()
    yield from _metadata()


def run() -> Iterator[Figure]:
    """Every workload at a size that takes seconds."""
    return _run(big=False)


def run_big() -> Iterator[Figure]:
    """The same up to 16 million ranges; some minutes."""
    return _run(big=True)
